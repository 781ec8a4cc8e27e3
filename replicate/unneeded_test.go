// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"testing"
	"testing/synctest"
	"time"
)

// Whom no room needs any more is no contact any more, if it was introduced: at both ends, over a restart, and until they meet again.
func TestAnIntroducedContactEndsWithItsRooms(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w, a, b, c := line(t)
		defer w.stopAll()
		w.met(a, b, 6*time.Hour)
		for _, n := range []*node{a, b, c} { // weeks cost less so
			if err := n.engine.SetProfile(CustomProfile(5*time.Minute, 0.3)); err != nil {
				t.Fatal(err)
			}
			n.profile = CustomProfile(5*time.Minute, 0.3)
		}
		for _, n := range []*node{a, b, c} {
			n.rooms.join(cellar)
		}
		time.Sleep(unneededFor / 2)
		a.stop()
		a.start()
		b.rooms.join("!other:x", a.name(), b.name()) // for a moment
		time.Sleep(2 * unneededLook)
		b.rooms.join("!other:x")
		time.Sleep(unneededFor/2 - 6*time.Hour)
		if x, y := a.state(b.name()), b.state(a.name()); x != Active || y != Active {
			t.Fatalf("too soon: %v, %v", x, y)
		}
		time.Sleep(12 * time.Hour)
		if x := a.state(b.name()); x == Active {
			t.Error("a keeps b, with whom it has no room")
		}
		if y := b.state(a.name()); y != Active {
			t.Error("b ended a, with whom it was in a room a week ago")
		}
		// One end has gone. They meet, and come together again.
		gather(cellar, a, b, c)
		w.met(a, b, 7*24*time.Hour)
		a.rooms.send(t, cellar, "again")
		w.has(b, cellar, 1, 24*time.Hour)
		for _, n := range []*node{a, b, c} {
			n.rooms.join(cellar)
		}
		time.Sleep(unneededFor + 6*time.Hour)
		for _, n := range []*node{a, b} {
			if all, introduced := n.contacts(); all != 1 || introduced != 0 || n.state(c.name()) != Active {
				t.Errorf("%d contacts, %d of them introduced", all, introduced)
			}
		}
	})
}
