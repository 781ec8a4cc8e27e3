// SPDX-License-Identifier: Apache-2.0

package mailbox

import "testing"

// The sizes are those of docs/SPEC.md §4.12.
func TestSizesOfHalvesWithLayers(t *testing.T) {
	want := [][4]int{{9457, 1200, 49, 8250}, {10637, 2380, 90, 8291}, {11817, 3560, 131, 8332}}
	for layers, w := range want {
		got := [4]int{HalfSize(true, layers), HalfSize(false, layers), HalfAnswerSize(true, layers), HalfAnswerSize(false, layers)}
		if got != w {
			t.Errorf("%d layers: %v, want %v", layers, got, w)
		}
		for i, put := range []bool{true, false} {
			if p, l, ok := HalfShape(got[i]); !ok || p != put || l != layers {
				t.Errorf("%d bytes are taken for another half", got[i])
			}
			k := LinkKindOf(got[i])
			if k != LinkKind(1+i+4*layers) || k.Answer() != LinkKind(3+i+4*layers) || k.Answer().data() != got[2+i] {
				t.Errorf("a half of %d bytes travels as kind %d", got[i], k)
			}
		}
	}
	for _, n := range []int{0, 9456, 11817 + 1180, 3560 + 1180} {
		if _, _, ok := HalfShape(n); ok || LinkKindOf(n) != 0 {
			t.Errorf("%d bytes are taken for a half", n)
		}
	}
	l, ok := LayoutOf(GeometryLayers)
	if !ok || l.Up != 15936 || l.Down != 8964 || l.atGet() != 11958 || l.atUpPad() != 15558 || l.atReceipts() != 8337 {
		t.Errorf("%+v: GET at %d, zeros at %d, receipts at %d", l, l.atGet(), l.atUpPad(), l.atReceipts())
	}
}
