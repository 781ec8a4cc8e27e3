// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
	"tarn/replicate"
	"tarn/store"
)

// forger is the rooms of a node whose operator changed its program: what it made up goes out like anything else.
type forger struct {
	replicate.Rooms
	mu    sync.Mutex
	made  map[matrix.EventID][]byte
	count int
}

// RawFor is replicate.Rooms'.
func (f *forger) RawFor(server matrix.ServerName, room matrix.RoomID, id matrix.EventID) ([]byte, error) {
	f.mu.Lock()
	raw, ok := f.made[id]
	f.mu.Unlock()
	if ok {
		return raw, nil
	}
	return f.Rooms.RawFor(server, room, id)
}

// tell queues bytes for a contact as an event of a room.
func (f *forger) tell(n, to *node, room string, raw []byte) {
	n.t.Helper()
	f.mu.Lock()
	f.count++
	id := matrix.EventID(fmt.Sprintf("$%043d", f.count))
	f.made[id] = raw
	f.mu.Unlock()
	n.queue(to, store.ItemEvent, []byte(room+"\x00"+string(id)))
}

func (n *node) queue(to *node, kind byte, data []byte) {
	n.t.Helper()
	if err := n.kv.Update(func(txn store.Txn) error { return store.Enqueue(txn, to.user.Homeserver(), kind, data) }); err != nil {
		n.t.Fatal(err)
	}
}

// signer signs as the node of a number does (newNodeAt).
func signer(n *node, seed byte) matrix.Signer {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed + 100}, 32))
	return matrix.Signer{Server: matrix.ServerName(n.user.Homeserver()), KeyID: onionid.KeyID(key.Public().(ed25519.PublicKey)), Key: key}
}

// rowsOf counts a node's rows and their bytes.
func rowsOf(n *node) (rows, size int) {
	n.view(func(r store.Reader) error {
		return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
			rows, size = rows+1, size+len(k)+len(v)
			return true, nil
		})
	})
	return rows, size
}

// TestAHostileNodeIsSeenAndChangesNothing: mallory is in a room and a contact of bob, through whom alice and carol speak. It sends forged and broken things
// of every kind, by the hundred. The others go on as before, nothing of it is shown or passed on, what bob keeps of it is bounded, and bob's
// owner sees whose it was.
func TestAHostileNodeIsSeenAndChangesNothing(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		f := &forger{made: map[matrix.EventID][]byte{}}
		nodes := neighboursWith(t, []string{"alice", "bob", "carol", "mallory"}, func(name string, c *replicate.Config) {
			if name == "mallory" {
				f.Rooms = c.Rooms
				c.Rooms = f
			}
		}, [2]int{0, 1}, [2]int{1, 2}, [2]int{1, 3})
		alice, bob, carol, mallory := nodes[0], nodes[1], nodes[2], nodes[3]
		at := gather(t, []*watcher{bob, alice, carol, mallory}, 0, 0, 0)
		private := gather(t, []*watcher{bob, alice}, 0) // mallory is not in it
		alice.says(at, "before")
		carol.hears(at, "before")
		mallory.hears(at, "before")
		time.Sleep(10 * time.Second)

		id := matrix.RoomID(at)
		heads, err := mallory.rooms.Heads(id)
		if err != nil {
			t.Fatal(err)
		}
		true1, err := mallory.rooms.Raw(id, heads[0])
		if err != nil {
			t.Fatal(err)
		}
		events, err := mallory.rooms.State(mallory.user, id)
		if err != nil {
			t.Fatal(err)
		}
		state := dag.State{}
		for _, ev := range events {
			k, _ := ev.Slot()
			state[k] = ev.ID()
		}
		build := func(room matrix.RoomID, typ string, key *string, content string) []byte {
			p := matrix.Proto{Room: room, Sender: mallory.user, Type: typ, StateKey: key, Content: json.RawMessage(content), PrevEvents: heads, Depth: 1000, Time: time.Now()}
			p.AuthEvents = dag.AuthEvents("12", state, p)
			ev, err := matrix.Build("12", p, signer(mallory.node, 4))
			if err != nil {
				t.Fatal(err)
			}
			return ev.Raw()
		}
		rows, size := rowsOf(bob.node)
		const each = 10
		forged := 0
		for i := range each {
			for what, raw := range map[string][]byte{
				"no JSON":                   []byte(strings.Repeat("x", i*50+1)),
				"not canonical":             append([]byte(" "), true1...),
				"in alice's name":           bytes.Replace(build(id, "m.room.message", nil, fmt.Sprintf(`{"body":"forged %d","msgtype":"m.text"}`, i)), []byte(mallory.user), []byte(alice.user), 1),
				"elsewhere in the room":     bytes.Replace(true1, []byte(`"depth":`), []byte(`"depth":1`), 1),
				"of another room":           build(matrix.RoomID(private), "m.room.message", nil, `{"body":"forged","msgtype":"m.text"}`),
				"at another time":           bytes.Replace(true1, []byte(`"origin_server_ts":`), []byte(`"origin_server_ts":1`), 1),
				"power that it has not got": build(id, "m.room.power_levels", new(string), fmt.Sprintf(`{"users":{%q:100,"x":%d}}`, mallory.user, i)),
				"large":                     build(id, "org.example.large", nil, fmt.Sprintf(`{"n":%d,"x":%q}`, i, strings.Repeat("large", 2000))),
			} {
				in := at
				switch what {
				case "of another room":
					if i%2 == 0 {
						in = private // named so in the record too
					} else {
						forged++
					}
				case "power that it has not got", "large":
				default:
					forged++
				}
				f.tell(mallory.node, bob.node, in, raw)
			}
			mallory.queue(bob.node, store.ItemRecord, append([]byte{byte(bundle.TypeEvents)}, bytes.Repeat([]byte{0xff}, i+1)...)) // no record
			mallory.queue(bob.node, store.ItemRecord, record(t, bundle.Message{Number: uint64(i + 1), Sender: alice.user, User: bob.user, Device: "X", Type: "m.room_key", Content: []byte("{}")}.Record))
			mallory.queue(bob.node, store.ItemRecord, record(t, bundle.Devices{User: alice.user, Serial: uint64(time.Now().UnixMilli())}.Record)) // keys in another's name
			mallory.queue(bob.node, store.ItemQuestion, []byte(fmt.Sprintf(`{"ID":[%d],"Kind":1,"Room":%q,"User":%q}`, i, private, mallory.user)))
			forged += 3
		}

		// The honest ones go on meanwhile.
		for i := range 5 {
			alice.says(at, fmt.Sprint("from alice ", i))
			carol.says(at, fmt.Sprint("from carol ", i))
			carol.until("alice's words", func() bool { return slices.Contains(carol.texts[at], fmt.Sprint("from alice ", i)) })
			alice.until("carol's words", func() bool { return slices.Contains(alice.texts[at], fmt.Sprint("from carol ", i)) })
		}
		contact := func(n *watcher, whose *watcher) replicate.ContactStatus {
			t.Helper()
			cs, err := n.engine.Contacts()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cs {
				if string(c.Name) == whose.user.Homeserver() {
					return c
				}
			}
			t.Fatal("no such contact")
			return replicate.ContactStatus{}
		}
		for end := time.Now().Add(soon); contact(bob, mallory).Broken < uint64(forged) && time.Now().Before(end); {
			time.Sleep(time.Second)
		}
		if c := contact(bob, mallory); c.Broken != uint64(forged) || !strings.Contains(c.Reason, fmt.Sprintf("%d things that no honest node sends", forged)) {
			t.Errorf("bob sees %d broken things of mallory's, not %d: %q", c.Broken, forged, c.Reason)
		}
		time.Sleep(20 * time.Second)
		for _, w := range []*watcher{alice, bob, carol} {
			for _, o := range []*watcher{alice, bob, carol} {
				if w == bob || o == bob {
					if w != o && contact(w, o).Broken > 0 {
						t.Errorf("%s says of %s: %s", w.name, o.name, contact(w, o).Reason)
					}
				}
			}
			w.look(0)
			for _, text := range append(w.texts[at], w.texts[private]...) {
				if strings.Contains(text, "forged") {
					t.Errorf("%s is shown %q", w.name, text)
				}
			}
			if got := w.state(at, "m.room.power_levels", "")["users"]; strings.Contains(fmt.Sprint(got), string(mallory.user)) {
				t.Errorf("%s: mallory has power", w.name)
			}
		}
		newRows, newSize := rowsOf(bob.node)
		t.Logf("%d forged things: bob has %d rows and %d bytes more", forged, newRows-rows, newSize-size)
		// What stays are the large messages, which mallory may write, the rejected power levels, and what the others said.
		if limit := each * 2 * 14_000; newSize-size > limit {
			t.Errorf("bob has %d bytes more", newSize-size)
		}
	})
}

// record is a record's type and bytes, as ItemRecord holds them.
func record(t *testing.T, make func() (bundle.Record, error)) []byte {
	t.Helper()
	r, err := make()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{byte(r.Type)}, r.Data...)
}
