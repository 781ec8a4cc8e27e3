// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	"tarn/replicate"
	"tarn/store"
)

// meet gives two nodes that share a room, and the position in bob's sync after his join.
func meet(t *testing.T) (box *mailboxtest.Mailbox, alice, bob *node, room, since string) {
	p := profile()
	return meetAt(t, &p)
}

// meetAt is meet with another profile, which counts anew at each start.
func meetAt(t *testing.T, p *replicate.Profile) (box *mailboxtest.Mailbox, alice, bob *node, room, since string) {
	return meetIn(t, p, mailboxtest.New(t))
}

// meetIn is meetAt with a mailbox of the caller's; alter changes the nodes' configurations.
func meetIn(t *testing.T, p *replicate.Profile, box *mailboxtest.Mailbox, alter ...func(*replicate.Config)) (_ *mailboxtest.Mailbox, alice, bob *node, room, since string) {
	at := func(c *replicate.Config) {
		c.Profile, c.Stores = *p, []mailbox.Address{box.Address()}
		c.Dial = func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, box.Dialer()) }
		for _, f := range alter {
			f(c)
		}
	}
	alice, bob = newNodeAt(t, "alice", 1, at), newNodeAt(t, "bob", 2, at)
	befriend(t, alice, bob)
	var created struct {
		RoomID string `json:"room_id"`
	}
	alice.call("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat", "invite": []any{bob.user}}, &created)
	room = created.RoomID
	bob.await("", "invite", 2*time.Hour, func(a syncAnswer) bool { return a.Rooms.Invite[room] != nil })
	bob.call("POST", "/_matrix/client/v3/join/"+room, map[string]any{}, nil)
	since = bob.await("", "joined room", time.Minute, func(a syncAnswer) bool { _, ok := a.Rooms.Join[room]; return ok })
	return box, alice, bob, room, since
}

// TestOneMessage is docs/one-message.md: from PUT /send at one node to /sync at the other and back to the
// acknowledgement, step by step, with what is durable after each.
func TestOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, alice, bob, room, since := meet(t)
		walk := &walk{t: t, box: box, alice: alice, bob: bob, room: room, observer: box.Client()}
		walk.quiet()

		aliceSince := alice.await("", "its own rooms", time.Minute, func(syncAnswer) bool { return true })
		before := len(box.Transactions())
		start := time.Now()
		walk.say("hello") // step 1
		if !time.Now().Equal(start) || len(box.Transactions()) != before {
			t.Fatal("PUT /send waited or touched the network")
		}
		if items := alice.pending(bob); len(items) != 1 || items[0].Kind != store.ItemEvent || string(items[0].Data) != room+"\x00"+walk.event {
			t.Fatalf("after PUT /send the outbox has %+v", items)
		}
		// Step 2: alice's own clients, at once.
		alice.await(aliceSince, "the own message", time.Second, func(a syncAnswer) bool { return slices.Contains(a.texts(room), "hello") })
		if !time.Now().Equal(start) || len(alice.boxes(bob)) != 0 {
			t.Fatal("the own /sync waited, or a box was sealed before its slot")
		}

		// Step 3: in some slot it is sealed, and what is sealed is on the disk.
		walk.until("a sealed box", func() bool { return len(alice.boxes(bob)) == 1 })
		sealed := alice.boxes(bob)[0]
		// Step 4, 5: the mailbox has the very bytes.
		walk.until("the box in the mailbox", func() bool { return walk.lies(sealed) })
		left := time.Now()
		// Step 6: and lists it for everybody, once the bucket is over.
		walk.until("the box in the digest", func() bool { return walk.listed(sealed.id.Handle(), start) })

		// Step 7 to 9: bob fetches it, his room takes it, his client hears it.
		var heard []string
		since = bob.await(since, "message", 2*time.Hour, func(a syncAnswer) bool {
			heard = append(heard, a.texts(room)...)
			return len(heard) > 0
		})
		t.Logf("delivered after %v of made-up time, frames every %v", time.Since(start), profile().Frame)
		if !slices.Equal(heard, []string{"hello"}) {
			t.Fatalf("heard %q", heard)
		}
		synctest.Wait() // the client hears of the event as soon as the room has it; the row goes after that
		if n := bob.rows(store.TableContact+0x8, alice); n != 0 {
			t.Fatalf("the room has the event, and %d rows are in the inbox", n)
		}
		if len(alice.pending(bob)) != 1 || len(alice.boxes(bob)) != 1 {
			t.Fatal("alice forgot the message before bob acknowledged it")
		}

		// Step 10: the acknowledgement comes back, not at once, and ends it.
		walk.until("the acknowledgement", func() bool { return len(alice.pending(bob)) == 0 && len(alice.boxes(bob)) == 0 })
		t.Logf("acknowledged %v after the box was left", time.Since(left))

		for _, x := range box.Transactions() {
			if x.Up != mailbox.UpSize || x.Down != mailbox.DownSize {
				t.Fatalf("a transaction of %d bytes up, %d down", x.Up, x.Down)
			}
		}
		walk.never(since, time.Hour)
	})
}

// TestOneMessageSurvivesTheEndOfANodeAtEachStep ends the node that is at work after each of docs/one-message.md's steps and
// starts it anew from what was durable then: the message comes, once. (Ends within a step: replicate's and room's crash tests.)
func TestOneMessageSurvivesTheEndOfANodeAtEachStep(t *testing.T) {
	for _, step := range []string{"1 stored", "3 sealed", "5 in the mailbox", "6 listed", "8 heard"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box, alice, bob, room, since := meet(t)
				walk := &walk{t: t, box: box, alice: alice, bob: bob, room: room, observer: box.Client()}
				walk.quiet()
				again := func(n *node) {
					n.stop()
					n.rebuild()
					n.start()
				}
				start := time.Now()
				walk.say("hello")
				if step == "1 stored" {
					again(alice)
				}
				walk.until("a sealed box", func() bool { return len(alice.boxes(bob)) == 1 })
				if step == "3 sealed" {
					again(alice)
				}
				sealed := alice.boxes(bob)[0]
				walk.until("the box in the mailbox", func() bool { return walk.lies(sealed) })
				if step == "5 in the mailbox" {
					again(alice)
				}
				walk.until("the box in the digest", func() bool { return walk.listed(sealed.id.Handle(), start) })
				if step == "6 listed" {
					again(bob)
				}
				var heard []string
				since = bob.await(since, "message", 12*time.Hour, func(a syncAnswer) bool {
					heard = append(heard, a.texts(room)...)
					return len(heard) > 0
				})
				if !slices.Equal(heard, []string{"hello"}) {
					t.Fatalf("heard %q", heard)
				}
				if step == "8 heard" {
					again(bob)
				}
				walk.until("the acknowledgement", func() bool { return len(alice.pending(bob)) == 0 && len(alice.boxes(bob)) == 0 })
				walk.never(since, 10*time.Minute)
			})
		})
	}
}

// walk is one message on its way.
type walk struct {
	t          *testing.T
	box        *mailboxtest.Mailbox
	alice, bob *node
	room       string
	event      string
	observer   *mailbox.Client // somebody who looks at the mailbox's public side
}

// until waits for something that a node does in its own time.
func (w *walk) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(12 * time.Hour); !ok(); time.Sleep(5 * time.Second) {
		if time.Now().After(end) {
			w.t.Fatalf("no %s within twelve hours", what)
		}
	}
}

// quiet waits until all that the two had to say is said and acknowledged.
func (w *walk) quiet() {
	w.t.Helper()
	w.until("quiet", func() bool {
		return len(w.alice.pending(w.bob)) == 0 && len(w.bob.pending(w.alice)) == 0 && len(w.alice.boxes(w.bob)) == 0
	})
}

func (w *walk) say(body string) {
	w.t.Helper()
	var sent struct {
		EventID string `json:"event_id"`
	}
	w.alice.call("PUT", "/_matrix/client/v3/rooms/"+w.room+"/send/m.room.message/t1", map[string]any{"msgtype": "m.text", "body": body}, &sent)
	w.event = sent.EventID
}

// descriptor is the mailbox's of today.
func (w *walk) descriptor() mailbox.Descriptor {
	w.t.Helper()
	d, ok := w.observer.Current()
	if !ok {
		var err error
		if d, err = w.observer.Descriptor(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	return d
}

// lies tells whether the mailbox has a box, with the very bytes that are on its sender's disk.
func (w *walk) lies(b waiting) bool {
	w.t.Helper()
	w.descriptor()
	got, err := w.observer.Get(w.t.Context(), b.id.Handle())
	if err != nil {
		w.t.Fatal(err)
	}
	return *got == b.box
}

// listed looks through the digest since then.
func (w *walk) listed(h mailbox.Handle, since time.Time) bool {
	w.t.Helper()
	d := w.descriptor()
	for p := mailbox.PageAt(0, since, d.Bucket); ; p.Index++ {
		page, err := w.observer.Digest(w.t.Context(), p)
		if errors.Is(err, mailbox.ErrNotYet) {
			return false
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if slices.Contains(page.Handles, h) {
			return true
		}
	}
}

// never listens on: nothing may come twice.
func (w *walk) never(since string, how time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(how); time.Now().Before(end); {
		var a syncAnswer
		w.bob.call("GET", "/_matrix/client/v3/sync?timeout=30000&since="+since, nil, &a)
		since = a.NextBatch
		if got := a.texts(w.room); len(got) > 0 {
			w.t.Fatalf("heard again: %q", got)
		}
	}
}

// TestMessagesSentWhileThePeerWasOffArriveInOrderOnce also loses the peer's memory, as a restart does.
func TestMessagesSentWhileThePeerWasOffArriveInOrderOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, since := meet(t)
		bob.stop()
		var want []string
		for i := range 30 {
			body := fmt.Sprintf("message %02d", i)
			want = append(want, body)
			alice.call("PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/"+body[8:], map[string]any{"msgtype": "m.text", "body": body}, nil)
			time.Sleep(17 * time.Minute) // made-up time: thirty messages over eight hours
		}
		bob.rebuild()
		bob.start()
		var heard []string
		bob.await(since, "messages", 12*time.Hour, func(a syncAnswer) bool {
			heard = append(heard, a.texts(room)...)
			return len(heard) >= len(want)
		})
		if !slices.Equal(heard, want) {
			t.Fatalf("heard %q\nwanted %q", heard, want)
		}
	})
}

// TestConversationTurnByTurn waits for each message before the next is said.
func TestConversationTurnByTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, since := meet(t)
		tokens := map[*node]string{bob: since}
		for i := range 30 {
			from, to := alice, bob
			if i%2 == 1 {
				from, to = bob, alice
			}
			body := fmt.Sprintf("line %02d", i)
			start := time.Now()
			from.call("PUT", fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/t%d", room, i), map[string]any{"msgtype": "m.text", "body": body}, nil)
			tokens[to] = to.await(tokens[to], body, 3*time.Hour, func(a syncAnswer) bool { return slices.Contains(a.texts(room), body) })
			t.Logf("%s after %v", body, time.Since(start))
		}
	})
}
