// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif" // decoders that image.Decode knows
	"image/jpeg"
	"image/png"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	_ "golang.org/x/image/webp"

	"tarn/internal/durable"
)

// Bounds of the decoder. A picture's header tells its size; what is too great is refused before memory is taken.
const (
	decodeMemory = 192 << 20 // bytes that a decoder may need
	maxSide      = 1 << 15   // pixels
)

// sizes are the thumbnails that are made (C-S API, "Thumbnails": these are what servers should have at least). A client
// gets the smallest that is not smaller than what it asked for.
var sizes = []struct {
	w, h int
	crop bool
}{{32, 32, true}, {96, 96, true}, {320, 240, false}, {640, 480, false}, {800, 600, false}}

// Thumbnail gives a picture of the file id, about w by h pixels: crop fills them, otherwise the picture fits into them. It
// is never greater than the file's picture, never animated, and has none of its metadata. Get's errors, and
// ErrNoThumbnail.
func (s *Store) Thumbnail(ctx context.Context, id string, w, h int, crop bool) (*File, error) {
	f, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w, h, crop = pick(w, h, crop)
	way := "scale"
	if crop {
		way = "crop"
	}
	name := fmt.Sprintf("%s-%dx%d-%s", f.Hash, w, h, way)
	if t, err := s.cached(name); !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	select {
	case s.decoding <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.decoding }()
	if t, err := s.cached(name); !errors.Is(err, fs.ErrNotExist) {
		return t, err // made meanwhile
	}
	b, err := makeThumbnail(f.File, w, h, crop)
	if err != nil {
		return nil, err
	}
	if err := s.free(int64(len(b))); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(s.dir, "thumbs", name), b, 0o600); err != nil {
		return nil, err
	}
	return s.cached(name)
}

// pick chooses the size that is made.
func pick(w, h int, crop bool) (int, int, bool) {
	for _, z := range sizes {
		if z.crop == crop && z.w >= w && z.h >= h {
			return z.w, z.h, crop
		}
	}
	if crop { // greater than any crop: the client cuts it itself
		return pick(w, h, false)
	}
	z := sizes[len(sizes)-1]
	return z.w, z.h, z.crop
}

// cached opens a thumbnail that was made before.
func (s *Store) cached(name string) (*File, error) {
	f, err := os.Open(filepath.Join(s.dir, "thumbs", name))
	if err != nil {
		return nil, err
	}
	var head [8]byte
	_, err = io.ReadFull(f, head[:])
	fi, serr := f.Stat()
	if _, seek := f.Seek(0, io.SeekStart); err != nil || serr != nil || seek != nil {
		return nil, errors.Join(err, serr, seek, f.Close())
	}
	m := Meta{Type: "image/jpeg", Name: "thumbnail.jpg"}
	if bytes.HasPrefix(head[:], []byte("\x89PNG")) {
		m = Meta{Type: "image/png", Name: "thumbnail.png"}
	}
	return &File{File: f, Meta: m, Size: fi.Size(), Hash: name}, nil
}

// makeThumbnail decodes, shrinks and encodes. It is the door for hostile files: whatever they are, it takes bounded memory,
// does not panic, and says ErrNoThumbnail.
func makeThumbnail(r io.ReadSeeker, w, h int, crop bool) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // decoders have had such faults
			out, err = nil, fmt.Errorf("%w: the decoder failed", ErrNoThumbnail)
		}
	}()
	about, err := inspect(bufio.NewReader(io.LimitReader(r, 16<<20)))
	if err != nil {
		return nil, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	c, format, err := image.DecodeConfig(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoThumbnail, err)
	}
	if c.Width <= 0 || c.Height <= 0 || c.Width > maxSide || c.Height > maxSide ||
		int64(c.Width)*int64(c.Height)*decodeCost(format, c.ColorModel, about) > decodeMemory {
		return nil, fmt.Errorf("%w: %d by %d pixels", ErrNoThumbnail, c.Width, c.Height)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	img, _, err := image.Decode(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoThumbnail, err)
	}
	small := turn(shrink(img, w, h, crop, about.turned()), about.orientation)
	var b bytes.Buffer
	if small.Opaque() {
		err = jpeg.Encode(&b, small, &jpeg.Options{Quality: 85})
	} else {
		err = png.Encode(&b, small)
	}
	return b.Bytes(), err
}

// decodeCost is at most how many bytes a pixel a decoder needs at its peak, from reading the decoders.
func decodeCost(format string, m color.Model, about picture) int64 {
	switch format {
	case "jpeg":
		if about.progressive {
			return 20 // four components: a byte, and a 32-bit coefficient for each
		}
		return 4
	case "gif":
		return 2 // paletted; the first picture only is decoded
	case "webp":
		return 12 // lossless: the pixels, and what transforms them
	}
	switch m { // png: an interlaced one has its passes beside the whole
	case color.NRGBA64Model, color.RGBA64Model:
		return 16
	case color.GrayModel:
		return 2
	}
	return 8
}
