// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
	"tarn/store"
)

const den, attic matrix.RoomID = "!den:x", "!attic:x"

// A room with thousands of events that wait does not keep back another room's message; nor do events that were asked for keep back new ones, nor
// are they kept back for ever.
func TestRoomsHaveTurnsAndWhatWasAskedForWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		for _, n := range []*node{a, b} {
			n.rooms.join(den, a.name(), b.name())
		}
		b.offline.set(true)
		for i := range 3000 {
			a.rooms.send(t, lounge, fmt.Sprint("flood ", i))
		}
		a.rooms.send(t, den, "old")
		// What the other asked for of a third room.
		for _, n := range []*node{a, b} {
			n.rooms.join(attic, a.name(), b.name())
		}
		if err := a.kv.Update(func(txn store.Txn) error {
			for i := range 60 {
				ev := fakeEvent{Room: attic, Sender: "@u:" + string(a.name()), Body: noise(3000), ID: matrix.EventID(fmt.Sprintf("$attic%d", i))}
				a.rooms.mu.Lock()
				a.rooms.insert(ev, marshal(t, ev))
				a.rooms.mu.Unlock()
				if err := store.Enqueue(txn, string(b.name()), store.ItemHistory, []byte(string(attic)+"\x00"+string(ev.ID))); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b.offline.set(false)
		took := w.until(time.Hour, "the other room's message", func() bool { return len(b.rooms.bodies(den)) == 1 })
		if n := len(b.rooms.bodies(lounge)); n > 400 {
			t.Errorf("a message came after %v and %d events of another room", took, n)
		}
		a.rooms.send(t, den, "new")
		took = w.until(time.Hour, "a message", func() bool { return len(b.rooms.bodies(den)) == 2 })
		if n := len(b.rooms.bodies(attic)); n == 60 {
			t.Errorf("a message waited for %v, behind what was asked for", took)
		}
		w.until(3*time.Hour, "all that was asked for", func() bool { return len(b.rooms.bodies(attic)) == 60 })
		if n := len(b.rooms.bodies(lounge)); n == 3000 {
			t.Error("what was asked for came last of all")
		}
		w.until(6*time.Hour, "everything", func() bool { return len(b.rooms.bodies(lounge)) == 3000 && a.status(b.name()).Waiting == 0 })
		var body []string
		for i := range 3000 {
			body = append(body, fmt.Sprint("flood ", i))
		}
		if got := b.rooms.bodies(lounge); !slices.Equal(got, body) {
			t.Error("a room's events did not come in their order")
		}
	})
}

// While a record of many boxes is under way and another one waits, short ones of other rooms go on.
func TestLongRecordsDoNotKeepBackOtherRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		for _, n := range []*node{a, b} {
			n.rooms.join(den, a.name(), b.name())
		}
		for range 4 {
			a.rooms.send(t, lounge, noise(60_000))
		}
		a.rooms.send(t, den, "short")
		w.until(time.Hour, "the short one", func() bool { return len(b.rooms.bodies(den)) == 1 })
		if n := len(b.rooms.bodies(lounge)); n > 2 {
			t.Errorf("a message came after %d events of nine boxes each", n)
		}
		w.has(b, lounge, 4, time.Hour)
		w.until(time.Hour, "all acknowledged", func() bool { return a.status(b.name()).Waiting == 0 })
	})
}

// noise is text of which no two pieces are alike.
func noise(n int) string {
	b := make([]byte, n/2)
	rand.Read(b)
	return fmt.Sprintf("%x", b)
}

func marshal(t *testing.T, ev fakeEvent) []byte {
	t.Helper()
	raw, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Who has something new for one contact in each slot acknowledges what another one writes, before that one writes it again.
func TestWhoWritesMuchAcknowledgesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.store(0)
		a, b, c := w.node(1, slow()), w.node(2, slow()), w.node(3, slow())
		defer w.stopAll()
		for _, n := range w.nodes {
			n.start()
		}
		w.contact(a, b)
		w.contact(a, c)
		for _, n := range []*node{a, c} {
			n.rooms.join(lounge, a.name(), c.name())
		}
		for _, n := range []*node{a, b} {
			n.rooms.join(den, a.name(), b.name())
		}
		w.until(6*time.Hour, "rest", func() bool { return b.status(a.name()).Unacked == 0 })
		before := b.engine.Counts().Rewrites
		for range 20 {
			for range 40 { // a box each
				a.rooms.send(t, lounge, noise(7000))
			}
			b.rooms.send(t, den, "hello")
			time.Sleep(40 * time.Minute)
		}
		if a.status(c.name()).Waiting == 0 {
			t.Error("there was not something new all the time")
		}
		if n := b.engine.Counts().Rewrites - before; n > 4 {
			t.Errorf("20 boxes were written again %d times", n)
		}
	})
}
