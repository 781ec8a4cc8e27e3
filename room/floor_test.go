// SPDX-License-Identifier: Apache-2.0

package room

import (
	"testing"

	"tarn/matrix"
)

// allContacts is a world of n nodes that are all each other's contacts.
func allContacts(t *testing.T, n int) *world {
	w := &world{t: t}
	for i := range n {
		w.links = append(w.links, make([]bool, n))
		for j := range n {
			w.links[i][j] = i != j
		}
	}
	w.gather(n)
	w.peers()
	return w
}

// Who came to the room by a snapshot knows one state for all that lies before it. By that state what others said and did beside it can be forbidden that was allowed
// where it was written: here somebody is let in by one who is removed at the same time, and leaves as he learns of it, and a server that
// had let him in goes on from there. Whoever came later follows all the same.
func TestWhatWasAllowedBesideASnapshotIsFollowed(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		w := allContacts(t, 5)
		a, b, c, d, e := w.players[0], w.players[1], w.players[2], w.players[3], w.players[4]
		letIn := func(by, who *player, others ...*player) {
			by.member(w.room, by.user, who.user, matrix.MemberInvite)
			by.post(who)
			join := who.member(w.room, who.user, who.user, matrix.MemberJoin)
			for _, o := range others {
				who.give(o, w.room, join)
			}
		}
		w.room = a.create(Create{Creator: a.user, Version: v, InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", []byte(`{"history_visibility":"joined"}`)}}})
		letIn(a, b, a)
		letIn(a, e, a, b)
		for range historyEvents { // that the snapshot does not have
			a.say(w.room, "before")
		}
		a.post(b)
		a.post(e)
		for range 3 {
			b.give(e, w.room, b.say(w.room, "beside")) // a is away
		}
		letIn(b, c, b, e)
		word := c.say(w.room, "here")
		c.give(e, w.room, word)

		kick := a.member(w.room, a.user, b.user, matrix.MemberLeave)
		letIn(a, d, a)
		a.give(e, w.room, kick)
		e.give(c, w.room, kick) // c leaves
		if m, err := c.Membership(c.user, w.room); err != nil || m != matrix.MemberLeave {
			t.Fatal("c goes on", m, err)
		}
		c.post(e)
		d.give(e, w.room, d.say(w.room, "hello"))
		last := e.say(w.room, "after it")
		e.give(a, w.room, last)
		e.give(d, w.room, last)
		if !d.shows(w.room, "after it") || len(d.lacking(w.room)) > 0 {
			t.Errorf("version %s: what follows is not taken: %s; wanted: %v", v, d.describe(w.room, last), d.lacking(w.room))
		}
		want, _ := e.current(w.room)
		for _, p := range []*player{a, d} {
			got, _ := p.current(w.room)
			for k, id := range want {
				if got[k] != id {
					t.Errorf("version %s: at %s %v is %s, not %s (%s)", v, p.user, k, got[k], id, p.describe(w.room, id))
				}
			}
		}
	}
}

// A newcomer is given an event whose parents its contact never had: that one came by a snapshot too. After some asking it goes on without them.
func TestWhatNobodyGivesIsGoneOnWithout(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		w := allContacts(t, 3)
		a, b, c := w.players[0], w.players[1], w.players[2]
		w.room = a.create(Create{Creator: a.user, Version: v})
		for _, p := range []*player{b, c} {
			a.member(w.room, a.user, p.user, matrix.MemberInvite)
			a.post(p)
			p.member(w.room, p.user, p.user, matrix.MemberJoin)
			p.post(a)
		}
		a.post(b)
		first := a.say(w.room, "the first")
		second := a.set(w.room, matrix.TypeTopic, "", map[string]string{"topic": "the second"})
		third := a.say(w.room, "the third")
		a.post(b)
		a.meet(c)
		for _, id := range []matrix.EventID{third, second} {
			raw, err := a.RawFor(c.s.Server, w.room, id)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Ingest(t.Context(), a.s.Server, w.room, [][]byte{raw}); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.lacking(w.room); len(got) != 1 || got[0] != first || c.shows(w.room, "the third") {
			t.Fatalf("wanted %v", got)
		}
		if _, err := c.Without(t.Context(), w.room, []matrix.EventID{third}); err != nil || c.shows(w.room, "the third") {
			t.Fatal("goes on without what it has", err)
		}
		got, err := c.Without(t.Context(), w.room, c.lacking(w.room))
		if err != nil || len(got.Stored) != 2 || len(c.lacking(w.room)) > 0 {
			t.Fatal(got, err)
		}
		if !c.shows(w.room, "the third") {
			t.Errorf("version %s: what came is not shown", v)
		}
		b.give(c, w.room, first) // it is found after all
		last := c.say(w.room, "the last")
		c.give(a, w.room, last)
		c.give(b, w.room, last)
		if !a.shows(w.room, "the last") {
			t.Errorf("version %s: the others do not take it", v)
		}
		same(t, w.room, a, b, c)
	}
}

// Who left and came again is shown what was meant for him by somebody who had heard of neither, though by the state that is known here he was not in the room.
func TestWhoCameAgainIsShownWhatWasMeantForHim(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		w := allContacts(t, 3)
		a, b, c := w.players[0], w.players[1], w.players[2]
		w.room = a.create(Create{Creator: a.user, Version: v, InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", []byte(`{"history_visibility":"joined"}`)}}})
		enter := func(p *player) {
			a.member(w.room, a.user, p.user, matrix.MemberInvite)
			a.post(p)
			p.member(w.room, p.user, p.user, matrix.MemberJoin)
			p.post(a)
		}
		enter(b)
		before := b.say(w.room, "before c came") // a does not hear of it yet
		for range 5 {
			a.say(w.room, "before")
		}
		enter(c)
		a.post(b) // b knows c in the room
		c.member(w.room, c.user, c.user, matrix.MemberLeave)
		c.post(a)
		enter(c)
		words := b.say(w.room, "welcome, c")
		b.give(c, w.room, words)
		if !c.shows(w.room, "welcome, c") {
			t.Errorf("version %s: c is not shown what b wrote: %s", v, c.describe(w.room, words))
		}
		if c.shows(w.room, "before c came") || c.shows(w.room, "before") {
			t.Errorf("version %s: c is shown what was written before: %s", v, c.describe(w.room, before))
		}
	}
}

// Two invite the same user, one of them of a room in which somebody has just come back. The other invite is taken, and what both snapshots brought is not all of the past.
func TestWhatAnotherSnapshotBroughtIsNotThePast(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		w := allContacts(t, 4)
		a, b, c, d := w.players[0], w.players[1], w.players[2], w.players[3]
		w.room = a.create(Create{Creator: a.user, Version: v, InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", []byte(`{"history_visibility":"joined"}`)}}})
		a.member(w.room, a.user, b.user, matrix.MemberInvite)
		a.post(b)
		b.member(w.room, b.user, b.user, matrix.MemberJoin)
		b.post(a)
		a.member(w.room, a.user, c.user, matrix.MemberInvite)
		a.post(b)
		a.post(c)
		c.member(w.room, c.user, c.user, matrix.MemberJoin)
		c.post(a) // b does not hear of it yet
		a.member(w.room, a.user, d.user, matrix.MemberInvite)
		a.post(d)
		b.say(w.room, "b is not quick")
		b.member(w.room, b.user, d.user, matrix.MemberInvite)
		b.post(d)
		join := d.member(w.room, d.user, d.user, matrix.MemberJoin)
		d.post(a)
		d.post(b)
		b.post(a)
		a.give(c, w.room, join)
		words := c.say(w.room, "c is here")
		for _, p := range []*player{a, b, d} {
			c.give(p, w.room, words)
		}
		a.give(d, w.room, a.say(w.room, "all are here"))
		if !d.shows(w.room, "c is here") || !d.shows(w.room, "all are here") {
			t.Errorf("version %s: d does not know c: %s", v, d.describe(w.room, words))
		}
		want, _ := a.current(w.room)
		got, _ := d.current(w.room)
		for k, id := range want {
			if got[k] != id {
				t.Errorf("version %s: at d %v is %s (%s), at a %s", v, k, got[k], d.describe(w.room, id), id)
			}
		}
	}
}
