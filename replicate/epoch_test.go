// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
)

// streams is a contact's ratchet as it is now.
func (n *node) streams(peer onionid.Name) ratchet.Pair {
	n.engine.mu.Lock()
	defer n.engine.mu.Unlock()
	return n.engine.contacts[peer].pair
}

func TestEpochsTurnWhileTwoNodesTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		for i := range 120 { // each in a box of its own
			from, to := a, b
			if i%3 == 0 {
				from, to = b, a
			}
			from.rooms.send(t, lounge, fmt.Sprint("m", i))
			w.has(to, lounge, i+1, time.Minute)
		}
		quiet(w, a, b, time.Hour)
		x, y := a.streams(b.name()), b.streams(a.name())
		if x.Epoch() < 1 || y.Epoch() < 1 {
			t.Errorf("epochs %d and %d after 120 boxes", x.Epoch(), y.Epoch())
		}
		if n := w.store(0).reused(); n != 0 {
			t.Errorf("%d indices were used twice", n)
		}
	})
}

func TestEpochsTurnByTimeWhenLittleIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.store(0).bucket = 10 * time.Second
		p := CustomProfile(time.Minute, 0.3)
		a, b := w.node(1, p), w.node(2, p)
		a.start()
		b.start()
		defer w.stopAll()
		w.friends(a, b)
		for day := range 5 {
			a.rooms.send(t, lounge, fmt.Sprint("a ", day))
			b.rooms.send(t, lounge, fmt.Sprint("b ", day))
			w.has(a, lounge, 2*(day+1), 6*time.Hour)
			w.has(b, lounge, 2*(day+1), 6*time.Hour)
			time.Sleep(24 * time.Hour)
		}
		quiet(w, a, b, 12*time.Hour)
		x, y := a.streams(b.name()), b.streams(a.name())
		if x.Epoch() < 3 || y.Epoch() < 3 {
			t.Errorf("they came to epochs %d and %d in five days", x.Epoch(), y.Epoch())
		}
		if n := w.store(0).reused(); n != 0 {
			t.Errorf("%d indices were used twice", n)
		}
		// Nothing of the epochs before is kept.
		for _, n := range []*node{a, b} {
			n.engine.mu.Lock()
			if got := len(n.engine.expected); got > 2*lookahead {
				t.Errorf("%d handles are expected", got)
			}
			for _, c := range n.engine.contacts {
				for e := range c.mapped {
					if c.pair.Receiver(e) == nil {
						t.Errorf("epoch %d is not forgotten", e)
					}
				}
			}
			n.engine.mu.Unlock()
		}
	})
}

// A conversation of several epochs, with processes that die at drawn writes.
func TestCrashesWhileEpochsTurnLoseNothingAndReuseNoIndex(t *testing.T) {
	for seed := range plays(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(seed), 3))
				epochs := crashPlay(t, true, func(label string, n int) int {
					switch label {
					case "a new link":
						return 1 // none
					case "in fragments":
						return 0 // every message takes some boxes
					case "writes until the crash":
						return rng.IntN(4 * n)
					case "messages":
						return 1 + rng.IntN(4)
					case "rounds":
						return 6
					}
					return rng.IntN(n)
				})
				if epochs == 0 {
					t.Error("no epoch turned")
				}
			})
		})
	}
}
