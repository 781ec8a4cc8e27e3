// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// cpu is the process's CPU time so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// heap is what is in use after a collection, in MiB.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// settle lets users of other servers, one each, into a public room of the node's: events that they signed, as relays bring them.
func (n *node) settle(room string, servers int) {
	n.t.Helper()
	id := matrix.RoomID(room)
	events, err := n.rooms.State(n.user, id)
	if err != nil {
		n.t.Fatal(err)
	}
	state := dag.State{}
	for _, ev := range events {
		k, _ := ev.Slot()
		state[k] = ev.ID()
	}
	heads, err := n.rooms.Heads(id)
	if err != nil {
		n.t.Fatal(err)
	}
	depth := int64(len(events))
	for i := range servers {
		s := dagtest.NewServer(1000 + i)
		u := s.User(fmt.Sprintf("member%d", i))
		if err := n.rooms.AddCertificate(onionid.Certify(s.Onion, s.Key.Public().(ed25519.PublicKey))); err != nil {
			n.t.Fatal(err)
		}
		depth++
		p := matrix.Proto{Room: id, Sender: u.ID, Type: matrix.TypeMember, StateKey: dagtest.Key(string(u.ID)), PrevEvents: heads, Depth: depth, Time: time.Now(),
			Content: json.RawMessage(fmt.Sprintf(`{"displayname":"Member %d","membership":"join"}`, i))}
		p.AuthEvents = dag.AuthEvents("12", state, p)
		ev, err := matrix.Build("12", p, s.Signer)
		if err != nil {
			n.t.Fatal(err)
		}
		if got, err := n.rooms.Ingest(context.Background(), s.Server, id, [][]byte{ev.Raw()}); err != nil || len(got.Stored) != 1 {
			n.t.Fatalf("member %d: %+v %v", i, got, err)
		}
		heads = []matrix.EventID{ev.ID()}
	}
}

// joined is how many are in a room.
func (w *watcher) joined(room string) int {
	w.t.Helper()
	var a struct{ Joined map[string]json.RawMessage }
	w.call("GET", client+"/rooms/"+room+"/joined_members", nil, &a)
	return len(a.Joined)
}

// TestARoomOfAThousandIsJoined by an invite and by asking: members of as many servers come with it, and all goes on.
func TestARoomOfAThousandIsJoined(t *testing.T) {
	long(t)
	const members = 1000
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		for _, how := range []string{"invited", "asking"} {
			room := alice.creates(object{"preset": "public_chat", "name": "Square"})
			alice.settle(room, members)
			alice.says(room, "before")
			opened, began, work, had := bob.engine.Counts().Opened, time.Now(), cpu(), heap()
			if how == "invited" {
				alice.does(room, "invite", bob)
				bob.becomes(room, "invite")
				bob.does(room, "join", nil)
			} else {
				bob.try(t.Context(), "POST", client+"/join/"+room+"?via="+alice.user.Homeserver(), object{}, nil)
				bob.becomes(room, "join")
			}
			alice.knows(room, bob.user, "join")
			t.Logf("%s: %v, %v of CPU for both nodes and the mailbox, %d boxes, the heap grew from %.0f to %.0f MiB", how, time.Since(began), cpu()-work, bob.engine.Counts().Opened-opened, had, heap())
			alice.says(room, "after")
			bob.hears(room, "before", "after")
			bob.says(room, "hello")
			alice.hears(room, "before", "after", "hello")
			if a, b := alice.joined(room), bob.joined(room); a != members+2 || b != a {
				t.Errorf("%s: %d members at alice's, %d at bob's", how, a, b)
			}
		}
	})
}
