// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
)

// atAnEasyPace makes weeks cost less.
func atAnEasyPace(ns ...*node) {
	for _, n := range ns {
		n.t.Helper()
		n.profile = CustomProfile(5*time.Minute, 0.3)
		if err := n.engine.SetProfile(n.profile); err != nil {
			n.t.Fatal(err)
		}
	}
}

// Whom no room needs any more is no contact any more, if it was introduced: at both ends, over a restart, and until they meet again.
func TestAnIntroducedContactEndsWithItsRooms(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w, a, b, c := line(t)
		defer w.stopAll()
		w.met(a, b, 6*time.Hour)
		atAnEasyPace(a, b, c)
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
		w.until(36*time.Hour, "a's end of b, with whom it has no room", func() bool { return a.state(b.name()) != Active })
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
		w.until(2*unneededFor+24*time.Hour, "the end of both", func() bool { // who ends later may wait for what the other acknowledges no more
			return !slices.ContainsFunc([]*node{a, b}, func(n *node) bool { _, introduced := n.contacts(); return introduced > 0 })
		})
		for _, n := range []*node{a, b} {
			if all, _ := n.contacts(); all != 1 || n.state(c.name()) != Active {
				t.Errorf("%d contacts", all)
			}
		}
	})
}

// What is on its way between two is not lost because no room needs the one who brings it: neither what waits for who was off for long, nor what is still to be given.
func TestAnIntroducedContactDoesNotEndBeforeWhatIsOnItsWay(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w, a, b, c := line(t)
		defer w.stopAll()
		w.met(a, b, 6*time.Hour)
		atAnEasyPace(a, b, c)
		for _, n := range []*node{a, b, c} {
			n.rooms.join(cellar)
			n.rooms.join(lounge)
		}
		time.Sleep(unneededFor - 24*time.Hour)
		b.stop()
		a.rooms.join(lounge, a.name(), b.name())
		a.rooms.send(t, lounge, "to who is off")
		time.Sleep(7 * 24 * time.Hour)
		b.offline.set(true)
		b.start()
		time.Sleep(24 * time.Hour)
		b.offline.set(false)
		w.has(b, lounge, 1, 12*time.Hour)
		// What a has to give to b, whom it needs no more, it keeps for as long as b may be away.
		b.rooms.join(lounge, a.name(), b.name())
		time.Sleep(2 * unneededMost)
		a.rooms.join(lounge)
		b.rooms.join(lounge)
		time.Sleep(unneededFor - 24*time.Hour)
		b.stop()
		a.queue(b, bundle.Introduced{From: a.name(), Link: wireLink(t, mustInvite(t, a))})
		time.Sleep(7 * 24 * time.Hour)
		if x := a.state(b.name()); x != Active {
			t.Errorf("a ended b, which was away for a week and has not got all: %v", x)
		}
		time.Sleep(8 * 24 * time.Hour)
		if x := a.state(b.name()); x == Active {
			t.Error("a keeps b, which was away for more than two weeks")
		}
	})
}
