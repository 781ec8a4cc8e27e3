// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// A store that goes bad is noticed by loops, left, and used again when it works; whatever it does, nothing is lost.
func TestBadStoresAreNoticedLeftAndHealed(t *testing.T) {
	measures(t)
	for name, c := range map[string]struct {
		fault  func(*fakeStore)
		notice time.Duration // at most
		back   bool          // wait until it is used again, too
	}{
		"dead":        {func(s *fakeStore) { s.down = errSilent }, 6 * time.Hour, true},
		"drops 1 %":   {func(s *fakeStore) { s.drop = func(id mailbox.BoxID) bool { return id[3]%100 == 7 } }, 4 * 24 * time.Hour, false},
		"hides 2 %":   {func(s *fakeStore) { s.hide = func(h mailbox.Handle) bool { return h[3]%50 == 7 } }, 2 * 24 * time.Hour, true},
		"changes all": {func(s *fakeStore) { s.swap = func(_ mailbox.Handle, b *[mailbox.BoxSize]byte) { b[9] ^= 1 } }, 6 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ns := courierWorld(t, 2, 3, Balanced())
				w.network(700 * time.Millisecond)
				defer w.stopAll()
				a, b := ns[0], ns[1]
				a.start()
				b.start()
				w.friends(a, b)
				time.Sleep(6 * time.Hour)
				bad := w.store(1)
				left := func(n *node) bool {
					for _, s := range n.engine.Stores() {
						if s.Address == bad.address {
							return s.Left && s.Problem != ""
						}
					}
					return false
				}
				for _, n := range ns {
					for _, s := range n.engine.Stores() {
						if s.Left || s.Lost > 0 || s.Loops < 10 {
							t.Fatalf("before: %+v", s)
						}
					}
				}
				bad.set(c.fault)
				var want []string
				began := time.Now()
				for i := 0; !left(a) || !left(b); i++ {
					want = append(want, fmt.Sprint("m", i))
					a.rooms.send(t, lounge, want[i])
					time.Sleep(20 * time.Minute)
					if time.Since(began) > c.notice {
						t.Fatalf("not noticed within %v: %+v", c.notice, a.engine.Stores())
					}
				}
				t.Logf("noticed by both within %v", time.Since(began).Round(time.Minute))
				w.until(3*time.Hour, "word among the contacts", func() bool {
					a.engine.mu.Lock()
					defer a.engine.mu.Unlock()
					return !slices.Contains(a.engine.contacts[b.name()].stores, bad.address)
				})
				for i := range 10 {
					want = append(want, fmt.Sprint("after ", i))
					a.rooms.send(t, lounge, want[len(want)-1])
				}
				w.has(b, lounge, len(want), 4*time.Hour)
				w.until(6*time.Hour, "acknowledgements", func() bool { return a.status(b.name()).Waiting == 0 })
				if got := b.rooms.bodies(lounge); !slices.Equal(got, want) {
					t.Errorf("%d messages of %d, or in another order", len(got), len(want))
				}
				if !c.back {
					return
				}
				bad.set(func(s *fakeStore) { s.down, s.drop, s.hide, s.swap = nil, nil, nil, nil })
				w.until(8*24*time.Hour, "the store's return", func() bool { return !left(a) && !left(b) })
				w.until(6*time.Hour, "word among the contacts", func() bool {
					a.engine.mu.Lock()
					defer a.engine.mu.Unlock()
					return slices.Contains(a.engine.contacts[b.name()].stores, bad.address)
				})
			})
		})
	}
}

// A box goes to its second store when nobody acknowledges it, and a node whose mailbox list changed goes on reading what
// was left at the old ones.
func TestSecondCopyAndDrainedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ns := courierWorld(t, 2, 3, Balanced())
		defer w.stopAll()
		a, b := ns[0], ns[1]
		a.start()
		b.start()
		w.friends(a, b)
		time.Sleep(time.Hour)
		b.stop()
		a.rooms.send(t, lounge, "hello")
		time.Sleep(time.Hour)
		a.engine.mu.Lock()
		c := a.engine.contacts[b.name()]
		var ids []mailbox.BoxID
		for _, bx := range c.boxes {
			if bx.eliciting {
				ids = append(ids, bx.id)
			}
		}
		a.engine.mu.Unlock()
		if len(ids) == 0 {
			t.Fatal("nothing waits")
		}
		for _, id := range ids {
			n := 0
			for _, s := range w.stores {
				s.mu.Lock()
				if _, ok := s.boxes[id]; ok {
					n++
				}
				s.mu.Unlock()
			}
			if n != 2 {
				t.Errorf("a box lies in %d stores", n)
			}
		}
		// b comes back with one mailbox less; the box that may lie there alone is found all the same.
		gone := b.own[0]
		for _, s := range w.stores {
			s.mu.Lock()
			if _, ok := s.boxes[ids[0]]; ok {
				gone = s.address
			}
			s.mu.Unlock()
		}
		for _, s := range w.stores {
			if s.address != gone {
				s.set(func(s *fakeStore) { s.lose() })
			}
		}
		a.stop()
		b.own = slices.DeleteFunc(slices.Clone(b.own), func(a mailbox.Address) bool { return a == gone })
		b.start()
		w.until(2*time.Hour, "what was left behind", func() bool { return b.engine.Counts().Opened > 0 })
		draining := false
		for _, s := range b.engine.Stores() {
			draining = draining || s.Draining && s.Address == gone
		}
		if !draining {
			t.Error("the old mailbox is not shown as read still")
		}
		a.start()
		w.has(b, lounge, 1, 12*time.Hour)
		w.until(6*time.Hour, "word of the change", func() bool {
			a.engine.mu.Lock()
			defer a.engine.mu.Unlock()
			return !slices.Contains(a.engine.contacts[b.name()].stores, gone)
		})
	})
}
