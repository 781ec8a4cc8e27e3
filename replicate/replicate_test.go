// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
)

// fast is a profile whose plays are short.
func fast() Profile { return CustomProfile(500*time.Millisecond, 0.3) }

const lounge matrix.RoomID = "!lounge:x"

// pair is two nodes on one store, contacts already, in one room.
func pair(t *testing.T) (*world, *node, *node) { return pairAt(t, fast()) }

func pairAt(t *testing.T, p Profile) (*world, *node, *node) {
	w := newWorld(t, 1)
	a, b := w.node(1, p), w.node(2, p)
	a.start()
	b.start()
	w.friends(a, b)
	return w, a, b
}

func TestMessagesCrossBothWaysOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		if x, y := a.status(b.name()).Number, b.status(a.name()).Number; x == "" || x != y {
			t.Errorf("the numbers are %q and %q", x, y)
		}
		var want []string
		for i := range 20 {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			body := fmt.Sprint("message ", i)
			from.rooms.send(t, lounge, body)
			want = append(want, body)
			w.has(to, lounge, i+1, time.Minute)
		}
		for _, n := range []*node{a, b} {
			if got := n.rooms.bodies(lounge); !slices.Equal(got, want) {
				t.Errorf("%.4s has %v", n.name(), got)
			}
			for ev, c := range n.rooms.ingested {
				if c != 1 {
					t.Errorf("event %s was delivered %d times", ev, c)
				}
			}
		}
		w.until(10*time.Minute, "all acknowledged", func() bool {
			return a.status(b.name()).Waiting == 0 && b.status(a.name()).Waiting == 0
		})
		if n := w.store(0).reused(); n != 0 {
			t.Errorf("%d box ids carried two contents", n)
		}
	})
}
