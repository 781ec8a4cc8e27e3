// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/room"
	"tarn/store"
)

// pages reads a room backwards to its beginning as a client does, in pages of limit: the events' ids and bodies, the oldest first. It gives up after so many pages
// that brought nothing.
func (w *watcher) pages(room string, limit, patience int) (all []seen, ended bool) {
	w.t.Helper()
	from := ""
	for empty := 0; empty < patience; {
		var page struct {
			Start, End string
			Chunk      []seen
		}
		path := fmt.Sprintf(client+"/rooms/%s/messages?dir=b&limit=%d", room, limit)
		if from != "" {
			path += "&from=" + url.QueryEscape(from)
		}
		w.call("GET", path, nil, &page)
		if len(page.Chunk) == 0 {
			empty++
		} else {
			empty = 0
		}
		all = append(all, page.Chunk...)
		if page.End == "" {
			slices.Reverse(all)
			return all, true
		}
		if page.End == page.Start || page.End == from {
			w.t.Fatalf("%s: a page ends where it begins, %s: clients take that for the beginning of the room", w.name, page.End)
		}
		from = page.End
	}
	slices.Reverse(all)
	return all, false
}

// bodies are the texts among events, each checked to be there once.
func (w *watcher) bodies(events []seen) (out []string) {
	w.t.Helper()
	met := map[string]bool{}
	for _, e := range events {
		if met[e.EventID] {
			w.t.Errorf("%s: an event twice: %s %v", w.name, e.Type, e.Content)
		}
		met[e.EventID] = true
		if e.Type == "m.room.message" && e.Content["body"] != nil {
			out = append(out, e.Content["body"].(string))
		}
	}
	return out
}

func numbers(from, to int) (out []string) {
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

// TestAJoinerPagesBackToTheBeginning: who joins a room of a thousand messages reads all of them.
func TestAJoinerPagesBackToTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		room := alice.creates(object{"preset": "private_chat", "name": "Den"})
		for i := range 1000 {
			alice.says(room, fmt.Sprint(i))
			if i%100 == 50 {
				alice.call("PUT", client+"/rooms/"+room+"/state/m.room.topic/", object{"topic": fmt.Sprint("topic ", i)}, nil)
			}
		}
		alice.does(room, "invite", bob)
		bob.becomes(room, "invite")
		bob.does(room, "join", nil)
		began := time.Now()
		all, ended := bob.pages(room, 50, 5)
		t.Logf("%d events after %v", len(all), time.Since(began))
		if !ended {
			t.Fatal("the beginning of the room was not reached")
		}
		if got := bob.bodies(all); !slices.Equal(got, numbers(0, 1000)) {
			t.Errorf("%d messages: %q", len(got), got)
		}
		if all[0].Type != "m.room.create" {
			t.Errorf("the first event is %s", all[0].Type)
		}
	})
}

// TestHistoryIsShownAsFarAsItsVisibilityAllows: what was said while the room showed newcomers nothing stays hidden, and what was said before and after that is read.
func TestHistoryIsShownAsFarAsItsVisibilityAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		shows := func(room, to string) {
			t.Helper()
			alice.call("PUT", client+"/rooms/"+room+"/state/m.room.history_visibility/", object{"history_visibility": to}, nil)
		}
		says := func(room string, from, to int) {
			for _, text := range numbers(from, to) {
				alice.says(room, text)
			}
		}
		comes := func(w *watcher, room string) {
			w.becomes(room, "invite")
			w.does(room, "join", nil)
			alice.knows(room, w.user, "join")
		}
		room := alice.creates(object{"preset": "private_chat"})
		says(room, 0, 70)
		shows(room, "joined")
		says(room, 70, 140)
		alice.does(room, "invite", carol) // who is in it from here on reads on
		comes(carol, room)
		says(room, 140, 160)
		shows(room, "invited")
		says(room, 160, 180)
		alice.does(room, "invite", bob)
		bob.becomes(room, "invite")
		says(room, 180, 250) // bob is invited
		shows(room, "shared")
		says(room, 250, 320)
		comes(bob, room)
		says(room, 320, 330)

		for _, x := range []struct {
			w    *watcher
			want []string
		}{
			{bob, slices.Concat(numbers(0, 70), numbers(180, 330))},
			{carol, slices.Concat(numbers(0, 70), numbers(140, 330))},
		} {
			x.w.until("the last word", func() bool { return slices.Contains(x.w.texts[room], "329") })
			all, ended := x.w.pages(room, 30, 10)
			if got := x.w.bodies(all); !slices.Equal(got, x.want) {
				t.Errorf("%s reads %q, not %q", x.w.name, got, x.want)
			}
			if !ended || all[0].Type != "m.room.create" {
				t.Errorf("%s does not come to the beginning: %v, %s", x.w.name, ended, all[0].Type)
			}
			// What is hidden is not in the database either.
			given := false
			x.w.view(func(r store.Reader) error {
				return r.Scan([]byte{store.TableRoom + 2}, nil, func(_, v []byte) (bool, error) {
					if bytes.Contains(v, []byte(`"body":"100"`)) {
						t.Errorf("%s was given what it may not have", x.w.name)
					}
					given = given || bytes.Contains(v, []byte(`"body":"200"`))
					return true, nil
				})
			})
			if !given {
				t.Errorf("%s was not given what it may have", x.w.name)
			}
		}
	})
}

// TestWhoComesBackReadsWhatWasSaidMeanwhile: between what was heard before and after is no gap, and nothing twice; and what somebody else of the node, who does not come
// back, saw last stays the last.
func TestWhoComesBackReadsWhatWasSaidMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		room := alice.creates(object{"preset": "private_chat"})
		says := func(w *watcher, from, to int) {
			for _, text := range numbers(from, to) {
				w.says(room, text)
			}
		}
		comes := func() {
			t.Helper()
			alice.does(room, "invite", bob)
			bob.becomes(room, "invite")
			bob.does(room, "join", nil)
			alice.knows(room, bob.user, "join")
		}
		says(alice, 0, 100)
		comes()
		says(bob, 100, 120)
		alice.until("bob's words", func() bool { return slices.Contains(alice.texts[room], "119") })
		bob.does(room, "leave", nil)
		alice.knows(room, bob.user, "leave")
		says(alice, 120, 350)
		comes()
		says(alice, 350, 360)
		bob.until("the last word", func() bool { return slices.Contains(bob.texts[room], "359") })
		for _, limit := range []int{1000, 7} {
			all, ended := bob.pages(room, limit, 10)
			if got := bob.bodies(all); !slices.Equal(got, numbers(0, 360)) {
				t.Errorf("bob reads %q", got)
			}
			if !ended || all[0].Type != "m.room.create" {
				t.Errorf("bob does not come to the beginning: %v, %s", ended, all[0].Type)
			}
		}
		theirs, _ := alice.pages(room, 100, 1)
		ours, _ := bob.pages(room, 100, 1)
		same := func(a, b seen) bool { return a.EventID == b.EventID }
		if !slices.EqualFunc(theirs, ours, same) {
			t.Errorf("alice's client has %d events and bob's %d, or not in one order", len(theirs), len(ours))
		}
	})
}

// afterTalk is a room in which the one wrote n words to the other, and to which it has invited a third.
func afterTalk(one, other, third *watcher, n int) (room string) {
	one.t.Helper()
	room = one.creates(object{"preset": "private_chat", "invite": []any{other.user}})
	other.becomes(room, "invite")
	other.does(room, "join", nil)
	one.knows(room, other.user, "join")
	words := numbers(0, n)
	for _, text := range words {
		one.says(room, text)
	}
	other.until("the last word", func() bool { return slices.Contains(other.texts[room], words[n-1]) })
	one.does(room, "invite", third)
	third.becomes(room, "invite")
	return room
}

// TestTheNextMemberIsAskedForHistory: the first is off, and the room's past comes from another; amid it the node is stopped; then both are off, and the client waits; then the first is
// back and gives the rest.
func TestTheNextMemberIsAskedForHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		bob.bounded(without)
		room := afterTalk(alice, carol, bob, 700)
		bob.does(room, "join", nil)
		alice.knows(room, bob.user, "join")
		carol.knows(room, bob.user, "join")
		read := func(from string) (texts []string, end string) {
			t.Helper()
			var page struct {
				Start, End string
				Chunk      []seen
			}
			bob.call("GET", client+"/rooms/"+room+"/messages?dir=b&limit=100"+from, nil, &page)
			if page.End == page.Start {
				t.Errorf("the page from %s ends there", from)
			}
			return bob.bodies(page.Chunk), page.End
		}

		alice.stop()
		began := time.Now()
		first, edge := read("")
		if len(first) < 40 || edge == "" {
			t.Fatalf("%d messages came with the invite; end %q", len(first), edge)
		}
		more, next := read("&from=" + edge)
		for len(more) == 0 {
			more, next = read("&from=" + next)
		}
		t.Logf("with one of two members off, a page came after %v", time.Since(began))
		bob.bounded(bob.older)
		carol.stop()
		for len(more) > 0 { // what is here of it
			more, next = read("&from=" + next)
		}
		began = time.Now()
		if more, next = read("&from=" + next); len(more) > 0 || next == "" || time.Since(began) != 20*time.Second {
			t.Errorf("with nobody there: %d messages, end %q, after %v", len(more), next, time.Since(began))
		}
		alice.rebuild()
		alice.start()
		all, ended := bob.pages(room, 100, 30)
		if got := bob.bodies(all); !ended || !slices.Equal(got, numbers(0, 700)) {
			t.Errorf("bob reads %v %q", ended, got)
		}
	})
}

// bounded stops the node and starts it with other bounds.
func (w *watcher) bounded(o room.Older) {
	w.t.Helper()
	w.stop()
	w.older = o
	w.rebuild()
	w.start()
}

// TestReadingHistoryIsNotSeenAtItsTime: a client that pages back puts nothing on its way by it; what is asked goes into the outbox at times that were fixed before, whenever the client came.
func TestReadingHistoryIsNotSeenAtItsTime(t *testing.T) {
	for _, late := range []time.Duration{3 * time.Millisecond, 131 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			nodes := neighbours(t, []string{"alice", "bob"})
			alice, bob := nodes[0], nodes[1]
			room := alice.creates(object{"preset": "private_chat"})
			for _, text := range numbers(0, 300) {
				alice.says(room, text)
			}
			alice.does(room, "invite", bob)
			bob.becomes(room, "invite")
			bob.does(room, "join", nil)
			alice.knows(room, bob.user, "join")
			asked := func() bool {
				return slices.ContainsFunc(bob.pending(alice.node), func(i store.Item) bool { return i.Kind == store.ItemQuestion })
			}
			began := time.Now()
			bob.bounded(without)
			time.Sleep(10 * time.Second)
			if asked() {
				t.Fatal("it asked though nobody reads")
			}
			time.Sleep(late)
			var page struct{ Chunk []seen }
			before := time.Now()
			bob.call("GET", client+"/rooms/"+room+"/messages?dir=b&limit=50", nil, &page)
			if len(page.Chunk) != 50 || time.Since(before) != 0 {
				t.Fatalf("%d events after %v", len(page.Chunk), time.Since(before))
			}
			if asked() {
				t.Error("the request put a question on its way")
			}
			for !asked() {
				time.Sleep(time.Millisecond)
				if time.Since(before) > time.Second {
					t.Fatal("nobody is asked")
				}
			}
			if at := time.Since(began); at%(200*time.Millisecond) > time.Millisecond {
				t.Errorf("the question is there %v after the node's start: not at its beat", at)
			}
		})
	}
}

// without fetches what is older only when somebody reads.
var without = room.Older{Most: 10_000}

// TestALiarAboutHistoryIsPassedOver: what the one member gives is not signed by who should have; nothing of it is kept, the operator is told, and the other member gives the past.
func TestALiarAboutHistoryIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		room := afterTalk(alice, carol, bob, 300)
		alice.stop()
		forged := 0
		if err := alice.kv.Update(func(txn store.Txn) error {
			return txn.Scan([]byte{store.TableRoom + 2}, nil, func(k, v []byte) (bool, error) {
				if !bytes.Contains(v, []byte(`"body":"200"`)) {
					return true, nil
				}
				v = bytes.Clone(v)
				at := bytes.Index(v, []byte(`"signatures":`))
				at += bytes.Index(v[at:], []byte(`"ed25519:`))
				at += bytes.Index(v[at:], []byte(`":"`)) + 10
				v[at] ^= 1
				forged++
				return true, txn.Set(bytes.Clone(k), v)
			})
		}); err != nil || forged != 1 {
			t.Fatal(forged, err)
		}
		alice.rebuild()
		alice.start()
		carol.stop()
		bob.does(room, "join", nil)
		alice.knows(room, bob.user, "join")
		broken := func(of *watcher) uint64 {
			t.Helper()
			cs, err := bob.engine.Contacts()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cs {
				if string(c.Name) == of.user.Homeserver() {
					return c.Broken
				}
			}
			return 0
		}
		for end := time.Now().Add(soon); broken(alice) == 0; time.Sleep(time.Second) {
			if time.Now().After(end) {
				t.Fatal("the liar is not told of")
			}
		}
		all, _ := bob.pages(room, 100, 1)
		if got := bob.bodies(all); len(got) > 60 || slices.Contains(got, "200") {
			t.Errorf("of what the liar gave is shown %q", got)
		}
		carol.rebuild()
		carol.start()
		all, ended := bob.pages(room, 100, 60)
		if got := bob.bodies(all); !ended || !slices.Equal(got, numbers(0, 300)) {
			t.Errorf("bob reads %v %q", ended, got)
		}
		if broken(carol) != 0 {
			t.Error("the honest one is said to have lied")
		}
	})
}
