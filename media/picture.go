// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"image"
	"image/draw"
	"io"

	xdraw "golang.org/x/image/draw"
)

// picture is what is known of one before it is decoded.
type picture struct {
	format string // as image.Decode calls it
	w, h   int    // upright
	// mayMove: of a kind that can be animated.
	mayMove bool
	// Of a JPEG, what the decoder does not tell:
	progressive bool
	orientation int // of EXIF, 1 to 8; 0: not told
}

// turned says that width and height change places.
func (p picture) turned() bool { return p.orientation >= 5 && p.orientation <= 8 }

// inspect reads a JPEG's segments up to its first picture; an error is the reader's. What it does not understand as the decoder
// may, it takes for the dearest kind: a hostile file must not seem cheap.
func inspect(r *bufio.Reader) (p picture, err error) {
	p.progressive = true
	var head [4]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil || head[0] != 0xff || head[1] != 0xd8 {
		return p, readerError(err)
	}
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil || head[0] != 0xff {
			return p, readerError(err)
		}
		size := int(binary.BigEndian.Uint16(head[2:])) - 2
		marker := head[1]
		switch {
		case size < 0:
			return p, nil
		case marker == 0xc0 || marker == 0xc1: // SOF0, SOF1
			p.progressive = false
			return p, nil
		case marker == 0xe1: // APP1
			b := make([]byte, size) // 64 KiB at most
			if _, err := io.ReadFull(r, b); err != nil {
				return p, readerError(err)
			}
			if o := orientation(b); o != 0 {
				p.orientation = o
			}
			continue
		case marker == 0xc4 || marker >= 0xdb && marker <= 0xdd || marker >= 0xe0 && marker <= 0xfe: // tables, APPn, comments
		default: // SOF2 and what else there is
			return p, nil
		}
		if _, err := r.Discard(size); err != nil {
			return p, readerError(err)
		}
	}
}

// animatedPNG looks for the chunk that makes a PNG an animated one: before its first data (W3C PNG, third edition, "acTL").
func animatedPNG(r *bufio.Reader) (bool, error) {
	if _, err := r.Discard(8); err != nil { // the signature
		return false, readerError(err)
	}
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return false, readerError(err)
		}
		switch string(head[4:]) {
		case "acTL":
			return true, nil
		case "IDAT":
			return false, nil
		}
		if _, err := r.Discard(int(binary.BigEndian.Uint32(head[:])&0x7fffffff) + 4); err != nil { // and its checksum
			return false, readerError(err)
		}
	}
}

func readerError(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// orientation finds EXIF's in an APP1 segment; 0: there is none.
func orientation(b []byte) int {
	b, ok := bytes.CutPrefix(b, []byte("Exif\x00\x00"))
	if !ok || len(b) < 8 {
		return 0
	}
	var order binary.ByteOrder = binary.LittleEndian
	if string(b[:2]) == "MM" {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(b[4:]))
	if at+2 > int64(len(b)) {
		return 0
	}
	n := int(order.Uint16(b[at:]))
	for i, e := 0, b[at+2:]; i < n && len(e) >= 12; i, e = i+1, e[12:] {
		if order.Uint16(e) != 0x0112 {
			continue
		}
		if v := int(order.Uint16(e[8:])); order.Uint16(e[2:]) == 3 && v >= 1 && v <= 8 {
			return v
		}
	}
	return 0
}

// shrink makes img at most w by h pixels; with crop it fills them and loses what stands over. turned: the result is
// going to be turned by a quarter, so w and h change places. It never enlarges.
func shrink(img image.Image, w, h int, crop, turned bool) *image.NRGBA {
	if turned {
		w, h = h, w
	}
	src := img.Bounds()
	if crop {
		src = middle(src, w, h)
	}
	w, h = fit(src.Dx(), src.Dy(), w, h)
	img, src = halve(img, src, w, h)
	out := image.NewNRGBA(image.Rect(0, 0, w, h))
	xdraw.CatmullRom.Scale(out, out.Bounds(), img, src, xdraw.Src, nil)
	return out
}

// middle is the greatest part of r with the proportions w to h.
func middle(r image.Rectangle, w, h int) image.Rectangle {
	cw, ch := r.Dx(), max(1, r.Dx()*h/w)
	if ch > r.Dy() {
		cw, ch = max(1, r.Dy()*w/h), r.Dy()
	}
	x, y := r.Min.X+(r.Dx()-cw)/2, r.Min.Y+(r.Dy()-ch)/2
	return image.Rect(x, y, x+cw, y+ch)
}

// fit is the size of a picture of sw by sh that goes into w by h.
func fit(sw, sh, w, h int) (int, int) {
	if sw <= w && sh <= h {
		return sw, sh
	}
	if sw*h > sh*w {
		return w, max(1, sh*w/sw)
	}
	return max(1, sw*h/sh), h
}

// halve averages blocks of n by n pixels, as many as leave at least twice w by h. The good filter after it needs memory for
// each row of what it reads; this one reads n rows at a time.
func halve(img image.Image, src image.Rectangle, w, h int) (image.Image, image.Rectangle) {
	n := min(src.Dx()/(2*w), src.Dy()/(2*h))
	if n < 2 {
		return img, src
	}
	ow, oh := src.Dx()/n, src.Dy()/n
	out := image.NewRGBA(image.Rect(0, 0, ow, oh))
	strip := image.NewRGBA(image.Rect(0, 0, ow*n, n))
	sum := make([]uint32, 4*ow)
	for y := range oh {
		draw.Draw(strip, strip.Bounds(), img, src.Min.Add(image.Pt(0, y*n)), draw.Src)
		clear(sum)
		for sy := range n {
			row := strip.Pix[sy*strip.Stride:]
			for x := range ow {
				s, p := sum[4*x:4*x+4], row[4*x*n:4*(x+1)*n]
				for ; len(p) >= 4; p = p[4:] {
					s[0] += uint32(p[0])
					s[1] += uint32(p[1])
					s[2] += uint32(p[2])
					s[3] += uint32(p[3])
				}
			}
		}
		for i, v := range sum {
			out.Pix[y*out.Stride+i] = uint8(v / uint32(n*n))
		}
	}
	return out, out.Bounds()
}

// turn brings a picture upright (EXIF 2.3, "Orientation").
func turn(in *image.NRGBA, orientation int) *image.NRGBA {
	if orientation < 2 || orientation > 8 {
		return in
	}
	w, h := in.Rect.Dx(), in.Rect.Dy()
	ow, oh := w, h
	if orientation >= 5 {
		ow, oh = h, w
	}
	out := image.NewNRGBA(image.Rect(0, 0, ow, oh))
	for y := range oh {
		for x := range ow {
			sx, sy := x, y
			switch orientation {
			case 2:
				sx = w - 1 - x
			case 3:
				sx, sy = w-1-x, h-1-y
			case 4:
				sy = h - 1 - y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, h-1-x
			case 7:
				sx, sy = w-1-y, h-1-x
			case 8:
				sx, sy = w-1-y, x
			}
			copy(out.Pix[out.PixOffset(x, y):][:4], in.Pix[in.PixOffset(sx, sy):][:4])
		}
	}
	return out
}
