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

// size of a thumbnail, and how it comes about.
type size struct {
	w, h int
	crop bool
}

// sizes are the thumbnails that are made (C-S API, "Thumbnails": these are what servers should have at least), and one for
// screens of twice the points.
var sizes = []size{{32, 32, true}, {96, 96, true}, {320, 240, false}, {640, 480, false}, {800, 600, false}, {1600, 1200, false}}

// Thumbnail gives a picture of the file f, which it closes or gives back, for a place of w by h pixels: with crop it fills the place, otherwise it fits into it.
// It is the smallest of sizes that needs no enlarging there. If there is none, or the file's picture is no greater than the place, it is
// the file itself ("servers should return the original content rather than thumbnail it"), but never an animated one unless moving
// says that it may be: then a still picture of the same size. ErrNoThumbnail, ErrHuge.
func (s *Store) Thumbnail(ctx context.Context, f *File, w, h int, crop, moving bool) (*File, error) {
	keep := false
	defer func() {
		if !keep {
			f.Close()
		}
	}()
	about, err := examine(f.File)
	if err != nil {
		return nil, err
	}
	z, found := pick(about.w, about.h, size{w, h, crop})
	if !found && (moving || !about.mayMove) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		keep, f.Meta = true, Meta{Type: "image/" + about.format, Name: "thumbnail." + about.format}
		return f, nil
	}
	way := "scale"
	if z.crop {
		way = "crop"
	}
	name := fmt.Sprintf("%s-%dx%d-%s", f.Hash, z.w, z.h, way)
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
	b, err := makeThumbnail(f.File, about, z)
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

// pick chooses the size to make for a picture of pw by ph pixels; false: the picture itself, in its own size.
func pick(pw, ph int, want size) (size, bool) {
	if pw > want.w || ph > want.h {
		for _, z := range sizes {
			switch {
			case z.crop != want.crop && z.crop:
			case z.crop == want.crop:
				if z.w >= want.w && z.h >= want.h {
					return z, true
				}
			default: // greater than any crop: the client cuts it itself, from what is large enough both ways
				if gw, gh := fit(pw, ph, z.w, z.h); gw >= min(pw, want.w) && gh >= min(ph, want.h) {
					return z, true
				}
			}
		}
	}
	return size{pw, ph, false}, false
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

// examine reads a picture's header. It is the first door for hostile files: whatever they are, it takes little memory, does not panic,
// and says ErrNoThumbnail, or ErrHuge of what would take too much memory.
func examine(r io.ReadSeeker) (p picture, err error) {
	defer func() {
		if x := recover(); x != nil { // decoders have had such faults
			err = fmt.Errorf("%w: the decoder failed", ErrNoThumbnail)
		}
	}()
	if p, err = inspect(bufio.NewReader(io.LimitReader(r, 16<<20))); err != nil {
		return p, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return p, err
	}
	c, format, err := image.DecodeConfig(bufio.NewReader(r))
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrNoThumbnail, err)
	}
	if c.Width <= 0 || c.Height <= 0 {
		return p, fmt.Errorf("%w: %d by %d pixels", ErrNoThumbnail, c.Width, c.Height)
	}
	if c.Width > maxSide || c.Height > maxSide || int64(c.Width)*int64(c.Height)*decodeCost(format, c.ColorModel, p) > decodeMemory {
		return p, fmt.Errorf("%w: %d by %d pixels", ErrHuge, c.Width, c.Height)
	}
	p.format, p.w, p.h, p.mayMove = format, c.Width, c.Height, format == "gif" || format == "webp"
	if p.turned() {
		p.w, p.h = p.h, p.w
	}
	if format == "png" {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return p, err
		}
		p.mayMove, err = animatedPNG(bufio.NewReader(io.LimitReader(r, 16<<20)))
	}
	return p, err
}

// makeThumbnail decodes, shrinks and encodes a file that examine found good. It is the second door: its memory is bounded by what examine
// let in.
func makeThumbnail(r io.ReadSeeker, about picture, z size) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("%w: the decoder failed", ErrNoThumbnail)
		}
	}()
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	img, _, err := image.Decode(bufio.NewReader(r))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoThumbnail, err)
	}
	small := turn(shrink(img, z.w, z.h, z.crop, about.turned()), about.orientation)
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
