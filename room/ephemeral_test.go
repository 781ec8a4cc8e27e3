// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
	"tarn/store"
)

func TestTypingWakesAndEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := play(t, 1)
		bob := a.at("bob")
		room := a.create(Create{Preset: "public_chat"})
		a.member(room, bob, bob, matrix.MemberJoin)
		_, at := a.sync(bob, 0)
		woken := make(chan store.Pos)
		wait := func() {
			after := at
			go func() {
				pos, err := a.stream.Wait(context.Background(), string(bob), after)
				if err != nil {
					t.Error(err)
				}
				woken <- pos
			}()
			synctest.Wait()
		}
		wait()
		if err := a.SetTyping(a.user, room, true, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		<-woken
		cs, next := a.sync(bob, at)
		if c := only(t, cs); !c.TypingNew || !slices.Equal(c.Typing, []matrix.UserID{a.user}) || len(c.Timeline) != 0 {
			t.Fatalf("%+v", c)
		}
		at = next
		if cs, _ := a.sync(bob, at); len(cs) != 0 {
			t.Fatalf("%+v", cs)
		}
		time.Sleep(9 * time.Second)
		if err := a.SetTyping(a.user, room, true, 10*time.Second); err != nil { // goes on
			t.Fatal(err)
		}
		if cs, _ := a.sync(bob, at); len(cs) != 0 {
			t.Fatalf("typing on is something new: %+v", cs)
		}
		wait()
		start := time.Now()
		<-woken
		if took := time.Since(start); took != 10*time.Second {
			t.Fatalf("typing ended after %v", took)
		}
		cs, _ = a.sync(bob, at)
		if c := only(t, cs); !c.TypingNew || len(c.Typing) != 0 {
			t.Fatalf("%+v", c)
		}
		if err := a.SetTyping(a.at("eve"), room, true, 0); !errors.Is(err, ErrNotMember) {
			t.Fatal(err)
		}
		if err := a.SetTyping(a.user, "!no", true, 0); !errors.Is(err, ErrUnknownRoom) {
			t.Fatal(err)
		}
	})
}

func TestReceiptsGoForwardAndPrivateOnesStay(t *testing.T) {
	a, b, room := pair(t)
	var sent []Receipt
	a.o.EncodeReceipts = func(r matrix.RoomID, rs []Receipt) []byte {
		sent = append(sent, rs...)
		return []byte(string(r))
	}
	carol := a.at("carol")
	a.member(room, a.user, carol, matrix.MemberInvite)
	a.member(room, carol, carol, matrix.MemberJoin)
	one, two := a.say(room, "1"), a.say(room, "2")
	a.post(b)
	_, at := a.sync(carol, 0)
	_, own := a.sync(a.user, 0)
	for _, rc := range []Receipt{
		{User: a.user, Event: two, Type: readPublic}, {User: a.user, Event: one, Type: readPublic}, // goes back: nothing
		{User: a.user, Event: one, Type: readPrivate}, {User: a.user, Event: two, Type: readPublic, Thread: "main"},
	} {
		if err := a.SetReceipt(room, rc); err != nil {
			t.Fatal(err)
		}
	}
	cs, _ := a.sync(carol, at)
	c := only(t, cs)
	if len(c.Receipts) != 2 || c.Receipts[0].Event != two || c.Receipts[0].Time.IsZero() || c.Receipts[1].Thread != "main" {
		t.Fatalf("%+v", c.Receipts)
	}
	cs, own = a.sync(a.user, own)
	if c := only(t, cs); len(c.Receipts) != 3 {
		t.Fatalf("%+v", c.Receipts)
	}
	if len(sent) != 2 {
		t.Fatalf("sent %+v", sent)
	}
	for _, i := range a.mail(b) {
		if i.Kind != store.ItemRecord || i.Data[0] != receiptsRecord {
			t.Fatalf("%+v", i)
		}
	}
	// A new process, and a first sync: the newest of each.
	a.open()
	cs, _ = a.sync(carol, 0)
	if c := only(t, cs); len(c.Receipts) != 2 {
		t.Fatalf("%+v", c.Receipts)
	}
	// Another node's: only of its own users that are in the room.
	_, at = a.sync(a.user, own)
	err := a.IngestReceipts(b.s.Server, room, []Receipt{
		{User: b.user, Event: one, Type: readPublic, Time: time.UnixMilli(5)}, {User: carol, Event: two, Type: readPublic},
		{User: b.at("other"), Event: two, Type: readPublic}, {User: b.user, Event: two, Type: readPrivate}, {User: b.user, Event: "x", Type: readPublic},
	})
	if err != nil {
		t.Fatal(err)
	}
	cs, _ = a.sync(a.user, at)
	if c := only(t, cs); len(c.Receipts) != 1 || c.Receipts[0].User != b.user || c.Receipts[0].Event != one || c.Receipts[0].Time.UnixMilli() != 5 {
		t.Fatalf("%+v", c.Receipts)
	}
	for _, rc := range []struct {
		r    Receipt
		want error
	}{
		{Receipt{User: a.user, Event: one, Type: "m.other"}, ErrBadEvent}, {Receipt{User: a.user, Event: "$none", Type: readPublic}, ErrUnknownEvent},
		{Receipt{User: a.at("eve"), Event: one, Type: readPublic}, ErrNotMember}, {Receipt{User: a.user, Event: one, Type: readPublic, Thread: "a\x00b"}, ErrBadEvent},
	} {
		if err := a.SetReceipt(room, rc.r); !errors.Is(err, rc.want) {
			t.Errorf("%+v: %v", rc.r, err)
		}
	}
}

// What has no form for other nodes is no empty record for them.
func TestReceiptWithoutAFormForOthersStays(t *testing.T) {
	a, b, room := pair(t)
	a.o.EncodeReceipts = func(matrix.RoomID, []Receipt) []byte { return nil }
	said := a.say(room, "1")
	a.post(b)
	if err := a.SetReceipt(room, Receipt{User: a.user, Event: said, Type: readPublic}); err != nil {
		t.Fatal(err)
	}
	if items := a.mail(b); len(items) != 0 {
		t.Fatalf("%d items for the other node", len(items))
	}
}
