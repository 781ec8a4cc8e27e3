// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"testing"
)

// flag is a picture whose left third is red, the rest blue; the top left corner green.
func flag(w, h int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.NRGBA{B: 255, A: 255}
			if x < w/3 {
				c = color.NRGBA{R: 255, A: 255}
			}
			if x < w/4 && y < h/4 {
				c = color.NRGBA{G: 255, A: 255}
			}
			img.SetNRGBA(x, y, c)
		}
	}
	return img
}

func asPNG(t testing.TB, img image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asJPEG(t testing.TB, img image.Image, orientation int) []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	if orientation == 0 {
		return b.Bytes()
	}
	exif := []byte("Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00")
	exif[len(exif)-7] = byte(orientation)
	seg := binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(exif)+2))
	return append(append(append([]byte{}, b.Bytes()[:2]...), append(seg, exif...)...), b.Bytes()[2:]...)
}

func thumb(t testing.TB, s *Store, id string, w, h int, crop bool) image.Image {
	t.Helper()
	f, err := s.Thumbnail(t.Context(), file(t, s, id), w, h, crop, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, format, err := image.Decode(f)
	if err != nil || f.Type != "image/"+format {
		t.Fatal(f.Type, format, err)
	}
	return img
}

func put(t testing.TB, s *Store, b []byte) string {
	t.Helper()
	id, err := s.Upload(alice, bytes.NewReader(b), int64(len(b)), Meta{})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func file(t testing.TB, s *Store, id string) *File {
	t.Helper()
	f, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestThumbnailSizes(t *testing.T) {
	s := fresh(t, Options{})
	wide := put(t, s, asPNG(t, flag(1200, 600)))
	tiny := put(t, s, asPNG(t, flag(20, 10)))
	line := put(t, s, asPNG(t, flag(3000, 1)))
	for _, c := range []struct {
		id     string
		w, h   int
		crop   bool
		ow, oh int
	}{
		{wide, 32, 32, true, 32, 32},
		{wide, 33, 1, true, 96, 96},
		{wide, 97, 97, true, 320, 160},   // greater than any crop: the whole
		{wide, 200, 200, true, 640, 320}, // 320 by 160 would be too low
		{wide, 100, 100, false, 320, 160},
		{wide, 320, 240, false, 320, 160},
		{wide, 321, 1, false, 640, 320},
		{wide, 801, 1, false, 1200, 600},
		{wide, 5000, 5000, false, 1200, 600}, // the file
		{tiny, 320, 240, false, 20, 10},      // "MUST NOT upscale"
		{tiny, 96, 96, true, 20, 10},
		{tiny, 15, 15, true, 10, 10},
		{line, 320, 240, false, 320, 1},
	} {
		if got := thumb(t, s, c.id, c.w, c.h, c.crop).Bounds().Size(); got != image.Pt(c.ow, c.oh) {
			t.Errorf("%dx%d crop %v: %v, want %dx%d", c.w, c.h, c.crop, got, c.ow, c.oh)
		}
	}
	if n := files(t, s, "thumbs"); n != 7 {
		t.Errorf("%d thumbnails are kept", n) // wide: 5, tiny: 1, line: 1
	}
}

func TestThumbnailsShowThePicture(t *testing.T) {
	s := fresh(t, Options{})
	is := func(img image.Image, x, y int, want string) {
		t.Helper()
		r, g, b, _ := img.At(x, y).RGBA()
		got := "r"
		if g > r && g > b {
			got = "g"
		} else if b > r {
			got = "b"
		}
		if got != want {
			t.Errorf("(%d,%d) of %v is %s, want %s", x, y, img.Bounds().Size(), got, want)
		}
	}
	var anim bytes.Buffer
	pal := color.Palette{color.NRGBA{R: 255, A: 255}, color.NRGBA{G: 255, A: 255}, color.NRGBA{B: 255, A: 255}}
	a, b := image.NewPaletted(image.Rect(0, 0, 900, 600), pal), image.NewPaletted(image.Rect(0, 0, 900, 600), pal)
	for i := range b.Pix {
		b.Pix[i] = 1
	}
	if err := gif.EncodeAll(&anim, &gif.GIF{Image: []*image.Paletted{a, b}, Delay: []int{1, 1}}); err != nil {
		t.Fatal(err)
	}
	is(thumb(t, s, put(t, s, anim.Bytes()), 320, 240, false), 100, 100, "r") // the first, still
	for name, raw := range map[string][]byte{"png": asPNG(t, flag(900, 600)), "jpeg": asJPEG(t, flag(900, 600), 0)} {
		t.Log(name)
		img := thumb(t, s, put(t, s, raw), 320, 240, false)
		is(img, 5, 5, "g")
		is(img, 50, 150, "r")
		is(img, 250, 150, "b")
	}
	// Orientation: where does the top left corner go, and its size.
	for o, want := range map[int]struct{ w, h, x, y int }{
		1: {320, 213, 5, 5}, 2: {320, 213, 314, 5}, 3: {320, 213, 314, 207}, 4: {320, 213, 5, 207},
		5: {160, 240, 5, 5}, 6: {160, 240, 154, 5}, 7: {160, 240, 154, 234}, 8: {160, 240, 5, 234},
	} {
		img := thumb(t, s, put(t, s, asJPEG(t, flag(900, 600), o)), 320, 240, false)
		if got := img.Bounds().Size(); got != image.Pt(want.w, want.h) {
			t.Errorf("orientation %d: %v", o, got)
			continue
		}
		is(img, want.x, want.y, "g")
	}
	clear := flag(64, 64)
	clear.Pix[3] = 0
	if f, err := s.Thumbnail(t.Context(), file(t, s, put(t, s, asPNG(t, clear))), 32, 32, true, false); err != nil || f.Type != "image/png" {
		t.Errorf("what is clear must stay so: %v %v", f, err)
	}
}

// TestOnlyStillPicturesUnlessAsked: a small file is given as it is; if it may be animated, only to who wants that.
func TestOnlyStillPicturesUnlessAsked(t *testing.T) {
	s := fresh(t, Options{})
	var anim bytes.Buffer
	frame := func() *image.Paletted {
		return image.NewPaletted(image.Rect(0, 0, 20, 20), color.Palette{color.Black, color.White})
	}
	if err := gif.EncodeAll(&anim, &gif.GIF{Image: []*image.Paletted{frame(), frame()}, Delay: []int{1, 1}}); err != nil {
		t.Fatal(err)
	}
	still := asPNG(t, flag(20, 20))
	apng := append([]byte(nil), still[:33]...) // up to the end of IHDR
	chunk := binary.BigEndian.AppendUint32(nil, 8)
	chunk = append(chunk, "acTL\x00\x00\x00\x01\x00\x00\x00\x00"...)
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	apng = append(append(apng, chunk...), still[33:]...)
	for name, c := range map[string]struct {
		raw         []byte
		quiet, loud bool // whether the file itself is given
	}{"gif": {anim.Bytes(), false, true}, "apng": {apng, false, true}, "png": {still, true, true}, "jpeg": {asJPEG(t, flag(20, 20), 0), true, true}} {
		id := put(t, s, c.raw)
		for moving, want := range map[bool]bool{false: c.quiet, true: c.loud} {
			f, err := s.Thumbnail(t.Context(), file(t, s, id), 32, 32, false, moving)
			if err != nil {
				t.Fatal(name, err)
			}
			got, err := io.ReadAll(f)
			f.Close()
			if err != nil || bytes.Equal(got, c.raw) != want || int64(len(got)) != f.Size {
				t.Errorf("%s, moving %v: %d bytes of %d, %v", name, moving, len(got), len(c.raw), err)
			}
			if c, _, err := image.DecodeConfig(bytes.NewReader(got)); err != nil || c.Width != 20 || c.Height != 20 {
				t.Errorf("%s, moving %v: %v %v", name, moving, c, err)
			}
		}
	}
}

func TestHostilePicturesAreRefusedBeforeMemoryIsTaken(t *testing.T) {
	s := fresh(t, Options{})
	bomb := func(w, h uint32) []byte { // a PNG that says it is great
		b := asPNG(t, flag(1, 1))
		binary.BigEndian.PutUint32(b[16:], w)
		binary.BigEndian.PutUint32(b[20:], h)
		binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(b[12:29]))
		return b
	}
	progressive := asJPEG(t, flag(4000, 3000), 0)
	i := bytes.Index(progressive, []byte{0xff, 0xc0})
	progressive[i+1] = 0xc2
	for name, b := range map[string][]byte{
		"many pixels": bomb(30000, 30000),
		"a long line": bomb(1<<31-1, 1),
		"a high line": bomb(1, 1<<20),
		"progressive": progressive, // 12 megapixels of it would take 240 MB
	} {
		if _, err := s.Thumbnail(t.Context(), file(t, s, put(t, s, b)), 32, 32, true, false); !errors.Is(err, ErrHuge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"no picture":   []byte("hello"),
		"empty":        {},
		"svg":          []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`),
		"cut":          asPNG(t, flag(100, 100))[:60],
		"damaged JPEG": append([]byte{0xff, 0xd8, 0xff, 0xe1, 0xff, 0xff}, make([]byte, 10)...),
	} {
		if _, err := s.Thumbnail(t.Context(), file(t, s, put(t, s, b)), 32, 32, true, false); !errors.Is(err, ErrNoThumbnail) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := files(t, s, "thumbs"); n != 0 {
		t.Errorf("%d thumbnails of nothing", n)
	}
}

func FuzzThumbnail(f *testing.F) {
	f.Add(asPNG(f, flag(9, 9)), true)
	f.Add(asJPEG(f, flag(9, 9), 6), false)
	var b bytes.Buffer
	if err := gif.Encode(&b, flag(9, 9), nil); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), false)
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"), true)
	f.Fuzz(func(t *testing.T, raw []byte, crop bool) {
		about, err := examine(bytes.NewReader(raw))
		var out []byte
		if err == nil {
			out, err = makeThumbnail(bytes.NewReader(raw), about, size{96, 96, crop})
		}
		if err != nil {
			if !errors.Is(err, ErrNoThumbnail) && !errors.Is(err, ErrHuge) {
				t.Fatal(err)
			}
			return
		}
		c, format, err := image.DecodeConfig(bytes.NewReader(out))
		if err != nil || c.Width > 96 || c.Height > 96 || c.Width < 1 || format != "png" && format != "jpeg" {
			t.Fatal(c, format, err)
		}
	})
}

func FuzzNameAndType(f *testing.F) {
	f.Add("a.txt", "text/plain; charset=utf-8")
	f.Add("\r\n", "a/b; \xff=\"")
	f.Fuzz(func(t *testing.T, name, typ string) {
		n, ty := CleanName(name), CleanType(typ)
		for _, s := range []string{n, ty} {
			for _, r := range s {
				if r < ' ' || r == 0x7f {
					t.Fatalf("%q: a control character", s)
				}
			}
		}
		if len(n) > maxName || len(ty) > maxType || CleanName(n) != n || CleanType(ty) != ty {
			t.Fatalf("%q %q", n, ty)
		}
	})
}

func BenchmarkThumbnail12MP(b *testing.B) {
	raw := asJPEG(b, flag(4000, 3000), 0)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		about, err := examine(bytes.NewReader(raw))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := makeThumbnail(bytes.NewReader(raw), about, size{800, 600, false}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(12, "megapixels")
}
