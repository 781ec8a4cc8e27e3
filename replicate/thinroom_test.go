// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/onionid"
	"tarn/room"
)

// In a room without encryption those get to know each other who would lose the room with one contact, and not everybody.
func TestARoomDoesNotHangOnOneContact(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.stopAll()
		ns := acquaintances(w, 7)
		hub, others := ns[0], ns[1:]
		var names, rest []onionid.Name
		for _, n := range ns {
			n.start()
			names = append(names, n.name())
		}
		for _, n := range others {
			w.contact(hub, n)
			rest = append(rest, n.name())
		}
		for _, n := range ns {
			n.rooms.join(lounge, names...)
		}
		count := func(n *node) int {
			all, _ := n.contacts()
			return all
		}
		w.until(12*time.Hour, "contacts enough", func() bool {
			return !slices.ContainsFunc(others, func(n *node) bool { return count(n) < room.EnoughContacts })
		})
		time.Sleep(time.Hour)
		pairs := 0
		for _, n := range others {
			pairs += count(n) - 1
		}
		if pairs /= 2; pairs > len(others)*(room.EnoughContacts-1) {
			t.Errorf("%d of %d pairs are contacts", pairs, len(others)*(len(others)-1)/2)
		}
		t.Logf("%d pairs are contacts", pairs)
		// The hub leaves. What one says still comes to all.
		hub.rooms.join(lounge)
		for _, n := range others {
			n.rooms.join(lounge, rest...)
		}
		reached, work := map[onionid.Name]bool{rest[0]: true}, []onionid.Name{rest[0]}
		for len(work) > 0 {
			n := others[slices.Index(rest, work[0])]
			work = work[1:]
			for _, o := range others {
				if n.state(o.name()) == Active && !reached[o.name()] {
					reached[o.name()], work = true, append(work, o.name())
				}
			}
		}
		if len(reached) != len(others) {
			t.Errorf("only %d of %d hear of each other", len(reached), len(others))
		}
	})
}

// For rooms that people read without it a node gives half of its places; the rest is kept for encrypted rooms.
func TestThinRoomsTakeHalfOfTheIntroductions(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.stopAll()
		ns := acquaintances(w, 7)
		hub, others := ns[0], ns[1:]
		var names []onionid.Name
		few := others[2]
		few.maxIntroduced = 2
		for _, n := range ns {
			n.start()
			names = append(names, n.name())
		}
		for _, n := range others {
			w.contact(hub, n)
		}
		introduced := func(n *node) int {
			_, k := n.contacts()
			return k
		}
		for _, n := range ns {
			n.rooms.join(lounge, names...)
		}
		w.until(12*time.Hour, "an introduction of all", func() bool {
			return !slices.ContainsFunc(others, func(n *node) bool { return introduced(n) == 0 })
		})
		time.Sleep(30 * time.Minute)
		if k := introduced(few); k != 1 {
			t.Errorf("introduced without need, of two: %d", k)
		}
		gather(cellar, ns...)
		w.until(12*time.Hour, "more, where people do not read each other", func() bool { return introduced(few) == 2 })
	})
}
