// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"fmt"
	"testing"

	"tarn/matrix"
	"tarn/store"
	"tarn/store/storetest"
)

// TestASendCostsTheSameInAnyRoom counts rows and bytes. A well-known homeserver counts all unread events of each member
// anew with every event, and burns a core for minutes after a busy hour.
func TestASendCostsTheSameInAnyRoom(t *testing.T) {
	const many = 1500
	bob := func(p *player) matrix.UserID { return p.at("bob") }
	small := func(p *player) matrix.RoomID {
		room := p.create(Create{Preset: "public_chat"})
		p.member(room, bob(p), bob(p), matrix.MemberJoin)
		return room
	}
	for _, w := range []struct {
		name string
		cold bool // the first send of a process may cost more: it counts the members
		make func(p *player) matrix.RoomID
	}{
		{"a room's age", true, func(p *player) matrix.RoomID {
			room := small(p)
			p.fill(room, many)
			if err := p.SetReceipt(room, Receipt{User: bob(p), Event: p.say(room, "x"), Type: "m.read"}); err != nil {
				t.Fatal(err)
			}
			return room
		}},
		{"the unread events", true, func(p *player) matrix.RoomID {
			room := small(p)
			p.fill(room, many)
			for range 3 { // looked at, as /sync does, and still unread
				if c, err := p.Unread(bob(p), room, p.stream.Current(), loud); err != nil || c.Main.Notifications == 0 {
					t.Fatal(c, err)
				}
			}
			return room
		}},
		{"the idle members", false, func(p *player) matrix.RoomID {
			room := small(p)
			for i := range many / 5 {
				u := p.at(fmt.Sprint("m", i))
				p.member(room, u, u, matrix.MemberJoin)
			}
			return room
		}},
		{"the members who left", false, func(p *player) matrix.RoomID {
			room := small(p)
			for i := range many / 5 {
				u := p.at(fmt.Sprint("m", i))
				p.member(room, u, u, matrix.MemberJoin)
				p.member(room, u, u, matrix.MemberLeave)
			}
			return room
		}},
		{"other rooms", true, func(p *player) matrix.RoomID {
			room := small(p)
			for range many / 10 {
				small(p)
			}
			return room
		}},
	} {
		t.Run(w.name, func(t *testing.T) {
			base, grown := sendWork(t, small), sendWork(t, w.make)
			t.Logf("a send: %+v; there: %+v", base.warm, grown.warm)
			fits := func(what string, had, has storetest.Work) {
				// Rows are equal; numbers get longer by some bytes.
				if has.Reads() > had.Reads()+2 || has.Writes() > had.Writes() || has.Updates > had.Updates {
					t.Errorf("%s: %d rows read and %d written, in a small room %d and %d", what, has.Reads(), has.Writes(), had.Reads(), had.Writes())
				}
				if has.Read > had.Read+2000 || has.Written > had.Written+200 {
					t.Errorf("%s: %d bytes read and %d written, in a small room %d and %d", what, has.Read, has.Written, had.Read, had.Written)
				}
			}
			fits("a send", base.warm, grown.warm)
			if w.cold {
				fits("the first send after a start", base.cold, grown.cold)
			}
		})
	}
}

type sends struct{ cold, warm storetest.Work }

// sendWork counts the first and a later send in the room that make makes.
func sendWork(t *testing.T, make func(*player) matrix.RoomID) (s sends) {
	kv := storetest.Count(store.OpenMemory())
	p := playOn(t, 1, kv)
	room := make(p)
	p.open()
	send := func(txn string) storetest.Work {
		kv.Take()
		if _, err := p.Send(context.Background(), NewEvent{Room: room, Sender: p.user, Type: matrix.TypeMessage, Content: body("x"), Device: "DEVICE", Txn: txn}); err != nil {
			t.Fatal(err)
		}
		return kv.Take()
	}
	s.cold = send("one")
	send("two")
	s.warm = send("three")
	if s.warm.Updates != 1 || s.warm.Writes() < 4 || s.cold.Reads() < 4 {
		t.Fatalf("the counter does not count: %+v", s)
	}
	return s
}

// loud judges every event a notification.
func loud(*matrix.Event, func() (PushFacts, error)) (notify, highlight bool, err error) {
	return true, false, nil
}

// TestAPageCostsTheSameAtAnyDepth: /messages in the middle of a long room reads what it shows and no more, and what is
// unread counts once, not with each /sync.
func TestAPageCostsTheSameAtAnyDepth(t *testing.T) {
	kv := storetest.Count(store.OpenMemory())
	p := playOn(t, 1, kv)
	room := p.create(Create{})
	p.fill(room, 2000)
	var from store.Pos
	first := 0
	for pages := 0; ; pages++ {
		kv.Take()
		page, err := p.Messages(p.user, room, from, true, 50, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := kv.Take().Reads()
		if pages == 0 {
			first = n
		}
		if n > first+2*len(page.Events)+20 { // what was written last is in memory: an early page may read less
			t.Errorf("page %d read %d rows, the first %d", pages, n, first)
		}
		if !page.More {
			break
		}
		from = page.End
	}
	at := p.stream.Current()
	count := func() int {
		kv.Take()
		if _, err := p.Unread(p.user, room, at, loud); err != nil {
			t.Fatal(err)
		}
		return kv.Take().Reads()
	}
	if all, again := count(), count(); again > 20 || all <= again {
		t.Errorf("counting what is unread read %d rows, then %d", all, again)
	}
}

// TestACrowdsUnreadEventsAreJudgedOnce: one more message to a room where hundreds have hundreds of unread ones is judged once
// for each, and the old ones not again: the counts of all of them stay in memory.
func TestACrowdsUnreadEventsAreJudgedOnce(t *testing.T) {
	const members, messages = 250, 300
	p := play(t, 1)
	room := p.crowd(members)
	p.fill(room, messages)
	judged := 0
	look := func() {
		judged = 0
		for i := range members {
			c, err := p.Unread(p.at(fmt.Sprint("m", i)), room, p.stream.Current(), func(*matrix.Event, func() (PushFacts, error)) (bool, bool, error) {
				judged++
				return true, false, nil
			})
			if err != nil || c.Main.Notifications < messages {
				t.Fatal(c, err)
			}
		}
	}
	look()
	p.say(room, "one more")
	if look(); judged != members {
		t.Errorf("%d events were judged for %d members", judged, members)
	}
}
