// SPDX-License-Identifier: Apache-2.0

package termqr

import (
	"strings"
	"testing"

	"rsc.io/qr"
)

func TestDrawnModulesAreTheCodesModules(t *testing.T) {
	const text = "tarn-mailbox:1:25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid"
	var sb strings.Builder
	if err := Write(&sb, text); err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(sb.String(), "\n"), "\n")
	for y := range code.Size {
		cells := strings.Split(lines[(y+quiet)/2], "▀")
		for x := range code.Size {
			colours := strings.TrimPrefix(cells[x+quiet], "\x1b[38;5;")
			fg, bg, _ := strings.Cut(strings.TrimSuffix(colours, "m"), ";48;5;")
			got := fg
			if (y+quiet)%2 == 1 {
				got = bg
			}
			if (got == "0") != code.Black(x, y) {
				t.Fatalf("module %d,%d is %q", x, y, got)
			}
		}
	}
}

func TestTooLongATextErrs(t *testing.T) {
	if err := Write(new(strings.Builder), strings.Repeat("x", 5000)); err == nil {
		t.Fatal("no error")
	}
}
