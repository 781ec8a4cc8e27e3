// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"strings"
)

// specFileOf is a body of the spec tables that is made: "png 64 32", "jpeg 64 32" and "gif 64 32 2" (of two pictures) are pictures,
// "huge 40000 40000" is a PNG that only says that it is so large, and "bytes 1048577" is as many zeros. Anything else is itself.
func specFileOf(text string) string {
	var kind string
	var w, h, n int
	if c, _ := fmt.Sscan(text, &kind, &w, &h, &n); c < 2 {
		return text
	}
	var b bytes.Buffer
	var err error
	var img *image.Paletted
	switch kind {
	case "png", "jpeg", "gif":
		img = image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.Black, color.White})
	}
	switch kind {
	case "bytes":
		return strings.Repeat("\x00", w)
	case "png":
		err = png.Encode(&b, img)
	case "jpeg":
		err = jpeg.Encode(&b, img, nil)
	case "gif":
		all := &gif.GIF{}
		for range n {
			all.Image, all.Delay = append(all.Image, img), append(all.Delay, 1)
		}
		err = gif.EncodeAll(&b, all)
	case "huge":
		raw := []byte(specFileOf("png 1 1"))
		binary.BigEndian.PutUint32(raw[16:], uint32(w))
		binary.BigEndian.PutUint32(raw[20:], uint32(h))
		binary.BigEndian.PutUint32(raw[29:], crc32.ChecksumIEEE(raw[12:29]))
		return string(raw)
	default:
		return text
	}
	if err != nil {
		panic(err) // of a picture of our own
	}
	return b.String()
}

// specPicture says what a picture is: its kind, width, height and number of pictures; "": none.
func specPicture(raw string) string {
	img, kind, err := image.Decode(strings.NewReader(raw))
	if err != nil {
		return ""
	}
	n := 1
	if all, err := gif.DecodeAll(strings.NewReader(raw)); err == nil {
		n = len(all.Image)
	}
	return fmt.Sprint(kind, " ", img.Bounds().Dx(), " ", img.Bounds().Dy(), " ", n)
}
