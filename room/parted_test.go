// SPDX-License-Identifier: Apache-2.0

package room

import (
	"errors"
	"strings"
	"testing"

	"tarn/matrix"
)

// Somebody is removed while he lets in others, of whom who removes him does not know and is no contact; they let in more. All of them learn that the
// room goes on without them, and of what was said there no word.
func TestWhoWasLetInByOneThatIsRemovedLearnsOfIt(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		for _, back := range []bool{false, true} { // c was in the room before, and left
			w := &world{t: t, links: [][]bool{{false, true, false, false}, {true, false, true, false}, {false, true, false, true}, {false, false, true, false}}}
			w.gather(4)
			w.peers()
			a, b, c, d := w.players[0], w.players[1], w.players[2], w.players[3]
			together := func() {
				for moved := true; moved; {
					moved = false
					for _, p := range w.players {
						for _, o := range w.players {
							if w.can(p, o) {
								moved = len(p.post(o)) > 0 || moved
							}
						}
					}
				}
			}
			room := a.create(Create{Creator: a.user, Version: v, InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", []byte(`{"history_visibility":"joined"}`)}}})
			a.member(room, a.user, b.user, matrix.MemberInvite)
			a.post(b)
			b.member(room, b.user, b.user, matrix.MemberJoin)
			together()
			if back {
				b.member(room, b.user, c.user, matrix.MemberInvite)
				together()
				c.member(room, c.user, c.user, matrix.MemberJoin)
				together()
				c.member(room, c.user, c.user, matrix.MemberLeave)
				together()
			}

			secret := a.say(room, "secret")
			kick := a.member(room, a.user, b.user, matrix.MemberLeave)
			after := a.say(room, "secret")
			for _, x := range [][2]*player{{b, c}, {c, d}} { // who do not hear of it yet
				x[0].member(room, x[0].user, x[1].user, matrix.MemberInvite)
				x[0].post(x[1])
				x[1].member(room, x[1].user, x[1].user, matrix.MemberJoin)
				x[1].post(x[0])
			}
			c.post(b)
			for _, p := range []*player{b, c, d} {
				p.say(room, "here")
			}
			if m, err := d.Membership(c.user, room); err != nil || m != matrix.MemberJoin {
				t.Fatal("d does not see c in the room", m, err)
			}

			together()
			for _, p := range []*player{b, c, d} {
				if m, err := p.Membership(p.user, room); err != nil || m == matrix.MemberJoin {
					t.Errorf("version %s, back %v: a server of %s goes on: %v", v, back, p.s.Server, err)
				}
			}
			for _, id := range []matrix.EventID{secret, kick} {
				if raw, err := c.Raw(room, id); err != nil || strings.Contains(string(raw), "secret") {
					t.Errorf("version %s, back %v: what the removal stands on: %s %v", v, back, raw, err)
				}
			}
			if _, err := c.Raw(room, after); err == nil {
				t.Errorf("version %s, back %v: c was given what came after", v, back)
			}
		}
	}
}

// The invite is on its way when who sent it learns that he was removed: whoever takes it up then learns of it too.
func TestWhoJoinsOnTheWordOfOneThatWasRemovedLearnsOfIt(t *testing.T) {
	for i, v := range []matrix.RoomVersion{"11", "12", "11", "12"} {
		w := &world{t: t, links: [][]bool{{false, true, false}, {true, false, true}, {false, true, false}}}
		w.gather(3)
		w.peers()
		a, b, c := w.players[0], w.players[1], w.players[2]
		room := a.create(Create{Creator: a.user, Version: v})
		a.member(room, a.user, b.user, matrix.MemberInvite)
		a.post(b)
		b.member(room, b.user, b.user, matrix.MemberJoin)
		b.post(a)
		b.member(room, b.user, c.user, matrix.MemberInvite)
		if i < 2 {
			a.member(room, a.user, b.user, matrix.MemberLeave)
			a.post(b)
		} else {
			a.member(room, a.user, b.user, matrix.MemberBan)
			a.post(b)
			a.member(room, a.user, b.user, matrix.MemberLeave)
			a.post(b)
		}
		b.post(c)
		c.member(room, c.user, c.user, matrix.MemberJoin)
		c.say(room, "is anybody here?")
		c.post(b)
		if len(b.post(c)) == 0 {
			t.Errorf("version %s: c is told nothing", v)
		}
		if m, err := c.Membership(c.user, room); err != nil || m != matrix.MemberLeave {
			t.Errorf("version %s: c goes on in a room of its own: %s %v", v, m, err)
		}
		c.post(b)
		if b.post(c) != nil {
			t.Errorf("version %s: c is told again and again", v)
		}
	}
}

// Who removed is a contact of the one who was let in; between the two that were removed and let in nothing comes through. He who removed says so himself.
func TestWhoIsRefusedByAContactIsToldWhy(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		w := &world{t: t, links: [][]bool{{false, true, true}, {true, false, true}, {true, true, false}}}
		w.gather(3)
		w.peers()
		a, b, c := w.players[0], w.players[1], w.players[2]
		room := a.create(Create{Creator: a.user, Version: v})
		a.member(room, a.user, b.user, matrix.MemberInvite)
		a.post(b)
		b.member(room, b.user, b.user, matrix.MemberJoin)
		b.post(a)
		kick := a.member(room, a.user, b.user, matrix.MemberLeave) // b does not hear of it any more
		after := a.say(room, "who comes now is not to see it")
		b.member(room, b.user, c.user, matrix.MemberInvite)
		b.post(c)
		c.member(room, c.user, c.user, matrix.MemberJoin)
		c.say(room, "is anybody here?")
		c.post(a)
		if _, err := a.RawFor(c.s.Server, room, kick); err != nil {
			t.Errorf("version %s: the removal: %v", v, err)
		}
		if _, err := a.RawFor(c.s.Server, room, after); !errors.Is(err, ErrUnknownEvent) {
			t.Errorf("version %s: what came after the removal: %v", v, err)
		}
		if len(a.post(c)) == 0 {
			t.Errorf("version %s: c is told nothing", v)
		}
		if m, err := c.Membership(c.user, room); err != nil || m != matrix.MemberLeave {
			t.Errorf("version %s: c goes on in a room of its own: %s %v", v, m, err)
		}
		c.post(a)
		if a.post(c) != nil {
			t.Errorf("version %s: c is told again and again", v)
		}
	}
}
