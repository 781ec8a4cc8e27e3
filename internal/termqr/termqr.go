// SPDX-License-Identifier: Apache-2.0

// Package termqr draws a QR code in a terminal, two modules a character cell, with the quiet zone that scanners need.
package termqr

import (
	"bufio"
	"fmt"
	"io"

	"rsc.io/qr"
)

// quiet is the empty border, in modules (ISO/IEC 18004 §9.1 asks for 4; terminals have margins of their own, 2 scans well).
const quiet = 2

// Write draws text dark on light, whatever the terminal's colours. It errs if text is too long for a QR code (about 2,900 bytes).
func Write(w io.Writer, text string) error {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return fmt.Errorf("QR code: %w", err)
	}
	// Upper half block: foreground is the upper module, background the lower one.
	const white, black = 15, 0
	colour := func(x, y int) int {
		if code.Black(x, y) {
			return black
		}
		return white
	}
	b := bufio.NewWriter(w)
	for y := -quiet; y < code.Size+quiet; y += 2 {
		for x := -quiet; x < code.Size+quiet; x++ {
			fmt.Fprintf(b, "\x1b[38;5;%d;48;5;%dm▀", colour(x, y), colour(x, y+1))
		}
		fmt.Fprint(b, "\x1b[0m\n")
	}
	return b.Flush()
}
