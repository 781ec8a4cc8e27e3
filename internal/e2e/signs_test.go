// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/mailbox"
	"tarn/replicate"
	"tarn/store"
)

// signs are what a client hears of one user of another node: who types, and the states that the user had.
type signs struct {
	*watcher
	of     *watcher
	room   string
	states []string
	status string
	typing bool
}

// look syncs once, without a mark of the user's own presence.
func (s *signs) look(timeout time.Duration) {
	s.t.Helper()
	var a struct {
		NextBatch string `json:"next_batch"`
		Presence  struct {
			Events []struct {
				Type, Sender string
				Content      struct {
					Presence string
					Status   string `json:"status_msg"`
					Ago      int64  `json:"last_active_ago"`
				}
			}
		}
		Rooms struct {
			Join map[string]struct {
				Ephemeral struct {
					Events []struct {
						Type    string
						Content json.RawMessage
					}
				}
			}
		}
	}
	path := fmt.Sprintf("%s/sync?set_presence=offline&timeout=%d", client, timeout.Milliseconds())
	if s.since != "" {
		path += "&since=" + s.since
	}
	s.call("GET", path, nil, &a)
	s.since = a.NextBatch
	for _, e := range a.Presence.Events {
		if e.Type == "m.presence" && e.Sender == string(s.of.user) {
			if e.Content.Ago < 0 {
				s.t.Errorf("active %d ms ago", e.Content.Ago)
			}
			s.states, s.status = append(s.states, e.Content.Presence), e.Content.Status
		}
	}
	for _, e := range a.Rooms.Join[s.room].Ephemeral.Events {
		if e.Type == "m.typing" {
			var c struct {
				Users []string `json:"user_ids"`
			}
			if err := json.Unmarshal(e.Content, &c); err != nil {
				s.t.Fatal(err)
			}
			s.typing = slices.Contains(c.Users, string(s.of.user))
		}
	}
}

func (s *signs) until(what string, limit time.Duration, ok func() bool) (took time.Duration) {
	s.t.Helper()
	began := time.Now()
	for ; !ok(); s.look(time.Second) {
		if time.Since(began) > limit {
			s.t.Fatalf("%s: no %s within %v: %q, typing %v", s.name, what, limit, s.states, s.typing)
		}
	}
	return time.Since(began)
}

func (s *signs) last() string {
	if len(s.states) == 0 {
		return ""
	}
	return s.states[len(s.states)-1]
}

// TestSignsOfLifeBetweenNodes: nobody is told who is there and who types, until the operator says so, and then who was meant alone; what is told ends when it
// ends, and when the node that said it is off.
func TestSignsOfLifeBetweenNodes(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		room := bob.creates(object{"preset": "private_chat", "invite": []any{alice.user, carol.user}})
		for _, w := range []*watcher{alice, carol} {
			w.becomes(room, "invite")
			w.does(room, "join", nil)
			bob.knows(room, w.user, "join")
		}
		presence := client + "/presence/" + url.PathEscape(string(bob.user)) + "/status"
		types := func(yes bool) {
			t.Helper()
			bob.call("PUT", client+"/rooms/"+room+"/typing/"+url.PathEscape(string(bob.user)), object{"typing": yes, "timeout": 20_000}, nil)
		}
		is := func(state, status string) {
			t.Helper()
			bob.call("PUT", presence, object{"presence": state, "status_msg": status}, nil)
		}
		at := map[*watcher]*signs{}
		for _, w := range []*watcher{alice, carol} {
			at[w] = &signs{watcher: w, of: bob, room: room}
			at[w].since = ""
			at[w].look(0)
			at[w].states = nil
		}

		// Off, as it is by default: a while, with boxes of other things.
		for i := range 10 {
			types(i%2 == 0)
			is([]string{"online", "unavailable"}[i/2%2], "busy")
			if i%3 == 0 {
				bob.says(room, fmt.Sprint(i))
			}
			for _, peer := range []*watcher{alice, carol} {
				if n := bob.packed(peer.node, bundle.TypeSigns); n > 0 {
					t.Fatalf("%d records of who is there", n)
				}
			}
			time.Sleep(time.Second)
		}
		for _, s := range at {
			if s.look(0); len(s.states) > 0 || s.typing {
				t.Errorf("%s sees %q, typing %v", s.name, s.states, s.typing)
			}
		}
		alice.cannot(http.StatusNotFound, "GET", presence, nil)

		// On, for alice's node.
		if err := bob.engine.SetSigns(alice.user.Homeserver(), true); err != nil {
			t.Fatal(err)
		}
		a := at[alice]
		types(false)
		is("online", "at my desk")
		t.Logf("online is seen after %v", a.until("bob", soon, func() bool { return a.last() == "online" && a.status == "at my desk" }))
		types(true)
		t.Logf("typing is seen after %v", a.until("typing", soon, func() bool { return a.typing }))
		types(false)
		t.Logf("its end after %v", a.until("the end of typing", 15*time.Second, func() bool { return !a.typing }))
		types(true)
		a.until("typing", soon, func() bool { return a.typing })
		is("unavailable", "")
		a.until("absence", soon, func() bool { return a.last() == "unavailable" && a.status == "" })
		var now struct{ Presence string }
		alice.call("GET", presence, nil, &now)
		if now.Presence != "unavailable" {
			t.Errorf("asked, it is %q", now.Presence)
		}
		fresh := &signs{watcher: watch(alice.node), of: bob, room: room} // another client, which begins
		if fresh.look(0); fresh.last() != "unavailable" || !fresh.typing {
			t.Errorf("at first it sees %q, typing %v", fresh.states, fresh.typing)
		}
		if d := a.until("the end of typing", 2*time.Minute, func() bool { return !a.typing }); d < 10*time.Second {
			t.Errorf("typing ended after %v", d)
		}
		if c := at[carol]; true {
			if c.look(0); len(c.states) > 0 || c.typing {
				t.Errorf("carol sees %q, typing %v", c.states, c.typing)
			}
		}
		b := &signs{watcher: watch(bob.node), of: alice, room: room}
		if b.look(0); len(b.states) > 0 {
			t.Errorf("alice said nothing, and bob sees %q", b.states)
		}

		// It holds over a restart of either, and ends when bob's node is gone.
		is("online", "")
		a.until("bob", soon, func() bool { return a.last() == "online" })
		alice.again()
		a.since, a.states = "", nil
		is("unavailable", "")
		a.until("bob", soon, func() bool { return a.last() == "unavailable" })
		bob.again()
		is("online", "")
		a.until("bob", soon, func() bool { return a.last() == "online" })
		time.Sleep(40 * time.Second) // it is said again before it is too old
		if a.look(0); a.last() != "online" {
			t.Errorf("after a while it sees %q", a.states)
		}
		bob.stop()
		if d := a.until("bob's end", soon, func() bool { return a.last() == "offline" }); d > 31*time.Second {
			t.Errorf("a node that is off is online for %v", d)
		}
		bob.rebuild()
		bob.start()
		is("online", "")
		a.until("bob", soon, func() bool { return a.last() == "online" })

		// Off again: what was told is over after a while.
		if err := bob.engine.SetSigns(alice.user.Homeserver(), false); err != nil {
			t.Fatal(err)
		}
		a.until("the end", soon, func() bool { return a.last() == "offline" })
	})
}

// packed counts the records of a type in the boxes for a peer that it has not acknowledged.
func (n *node) packed(peer *node, kind bundle.Type) (count int) {
	n.t.Helper()
	n.scan(store.TableContact+0x4, peer, func(row []byte) {
		plain := make([]byte, bundle.Size)
		copy(plain, row[mailbox.BoxSize:])
		_, fs, err := bundle.Unpack(plain)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, f := range fs {
			if f.Type == kind {
				count++
			}
		}
	})
	return count
}

// TestSignsOfLifeMakeNoBoxes: a node whose users come and go for hours writes as many boxes, and in the same slots, as one that tells nobody; and few of them wait
// for a contact that is off.
func TestSignsOfLifeMakeNoBoxes(t *testing.T) {
	long(t)
	run := func(tell bool) (puts []time.Duration, told int) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			minutes := replicate.CustomProfile(time.Minute, 0.3)
			box, alice, bob, _, _ := meetAt(t, &minutes)
			if err := bob.engine.SetSigns(alice.user.Homeserver(), tell); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(began.Add(3 * time.Hour))) // what the beginning needed is acknowledged
			seen := box.Observe()
			busy := func(i int) {
				bob.call("PUT", client+"/presence/"+url.PathEscape(string(bob.user))+"/status", object{"presence": "online", "status_msg": fmt.Sprint(i)}, nil)
				time.Sleep(time.Minute)
			}
			for i := range 250 {
				busy(i)
				if bob.packed(alice, bundle.TypeSigns) > 0 {
					told++
				}
			}
			for _, s := range seen() {
				if s.Request != nil && s.Request.Op == mailbox.OpPut {
					puts = append(puts, s.At.Sub(began))
				}
			}
			alice.stop()
			for i := range 250 {
				busy(i)
			}
			if n := bob.packed(alice, bundle.TypeSigns); n > 35 { // 32 alone, and a few that ride in summaries
				t.Errorf("%d boxes of who is there wait for a contact that is off", n)
			}
		})
		slices.Sort(puts)
		return puts, told
	}
	without, none := run(false)
	with, some := run(true)
	if none != 0 || some < 25 || len(without) < 75 {
		t.Errorf("%d boxes; told %d times when it is off, %d when it is on", len(without), none, some)
	}
	// An acknowledgement that is late, by other draws of content, makes a box that a later slot makes up for.
	moved := 0
	for _, at := range with {
		if _, ok := slices.BinarySearch(without, at); !ok {
			moved++
		}
	}
	if n := len(with) - len(without); max(n, -n) > 2 || moved > 8 {
		t.Errorf("%d boxes without, %d with, %d of them at other times", len(without), len(with), moved)
	}
}
