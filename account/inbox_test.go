// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store"
)

// toDevice sends one event to some devices of a user.
func (n node) toDevice(t testing.TB, from matrix.UserID, device matrix.DeviceID, txn, body string, to matrix.UserID, devices ...matrix.DeviceID) {
	t.Helper()
	contents := map[matrix.DeviceID]json.RawMessage{}
	for _, d := range devices {
		contents[d] = json.RawMessage(`{"body":"` + body + `"}`)
	}
	if err := n.SendToDevice(ToDevice{Sender: from, Device: device, Txn: txn, Type: "m.test", Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{to: contents}}); err != nil {
		t.Fatal(err)
	}
}

// waiting are the bodies in a device's inbox after since.
func (n node) waiting(t testing.TB, user matrix.UserID, device matrix.DeviceID, since store.Pos) (bodies []string) {
	t.Helper()
	events, _, more, err := n.Inbox(user, device, since, n.stream.Current(), 1<<20, 1<<30)
	if err != nil || more {
		t.Fatal(more, err)
	}
	for _, raw := range events {
		var e struct {
			Type    string        `json:"type"`
			Sender  matrix.UserID `json:"sender"`
			Content struct {
				Body string `json:"body"`
			} `json:"content"`
		}
		if err := json.Unmarshal(raw, &e); err != nil || e.Type == "" || e.Sender == "" {
			t.Fatalf("%s: %v", raw, err)
		}
		bodies = append(bodies, e.Content.Body)
	}
	return bodies
}

func TestToDeviceEventsReachTheirDevicesOnceAndUntilAcknowledged(t *testing.T) {
	n := newNode(t)
	alice, bob, robert := n.addUser(t, "alice"), n.addUser(t, "bob"), n.addUser(t, "bo")
	for _, d := range []matrix.DeviceID{"B1", "B2", "B11"} {
		n.login(t, bob, Login{Device: d})
	}
	n.login(t, robert, Login{Device: "B1"})
	n.login(t, alice, Login{Device: "A"})
	n.toDevice(t, alice, "A", "1", "one", bob, "B1")
	n.toDevice(t, alice, "A", "2", "all", bob, AllDevices)
	n.toDevice(t, alice, "A", "3", "three", bob, "B2", "NONE")
	want := map[matrix.DeviceID][]string{"B1": {"one", "all"}, "B2": {"all", "three"}, "B11": {"all"}}
	for d, w := range want {
		for range 2 { // again: not acknowledged
			if got := n.waiting(t, bob, d, 0); !slices.Equal(got, w) {
				t.Errorf("%s has %v, want %v", d, got, w)
			}
		}
	}
	if got := n.waiting(t, robert, "B1", 0); len(got) != 0 {
		t.Errorf("another user's device of that name has %v", got)
	}
	// A device named beside "*" gets its own content, not both.
	if err := n.SendToDevice(ToDevice{Sender: alice, Device: "A", Txn: "4", Type: "m.test", Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{
		bob: {"B1": json.RawMessage(`{"body":"own"}`), AllDevices: json.RawMessage(`{"body":"others"}`)}}}); err != nil {
		t.Fatal(err)
	}
	first := n.waiting(t, bob, "B1", 0)
	if !slices.Equal(first, []string{"one", "all", "own"}) {
		t.Errorf("B1 has %v", first)
	}
	events, last, more, err := n.Inbox(bob, "B1", 0, n.stream.Current(), 2, 1<<20)
	if err != nil || len(events) != 2 || !more {
		t.Fatal(events, more, err)
	}
	if events, _, more, err := n.Inbox(bob, "B1", 0, n.stream.Current(), 10, 1); err != nil || len(events) != 1 || !more {
		t.Errorf("bounded by size: %d events, more %v, %v", len(events), more, err)
	}
	if err := n.AckInbox(bob, "B1", last); err != nil {
		t.Fatal(err)
	}
	if got := n.waiting(t, bob, "B1", 0); !slices.Equal(got, []string{"own"}) {
		t.Errorf("after the acknowledgement of two: %v", got)
	}
	if got := n.waiting(t, bob, "B2", 0); len(got) != 3 {
		t.Errorf("B2 has %v", got)
	}
	at := n.stream.Current()
	if err := n.AckInbox(bob, "B1", at); err != nil {
		t.Fatal(err)
	}
	if err := n.AckInbox(bob, "B1", at); err != nil {
		t.Fatal(err)
	}
	if rows := tableRows(t, n, tableInboxSize, "bob", "B1"); rows != 0 {
		t.Errorf("an empty inbox keeps a counter")
	}
}

func tableRows(t testing.TB, n node, table byte, parts ...any) (rows int) {
	t.Helper()
	if err := n.kv.View(func(r store.Reader) (err error) {
		rows, err = count(r, store.Key(table, parts...), 1<<30)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestATransactionIDServesOnceForADayAndIsThenForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice := n.addUser(t, "alice")
		n.login(t, alice, Login{Device: "A"})
		n.login(t, alice, Login{Device: "B"})
		for i := range 20 {
			n.toDevice(t, alice, "A", fmt.Sprint("early", i), "x", alice, "A")
		}
		n.toDevice(t, alice, "A", "1", "first", alice, "B")
		n.toDevice(t, alice, "A", "1", "again", alice, "B")
		n.toDevice(t, alice, "B", "1", "another device", alice, "B")
		time.Sleep(23 * time.Hour)
		n.toDevice(t, alice, "A", "1", "a day later", alice, "B")
		if got := n.waiting(t, alice, "B", 0); !slices.Equal(got, []string{"first", "another device"}) {
			t.Errorf("%v", got)
		}
		time.Sleep(3 * time.Hour)
		for i := range 5 {
			n.toDevice(t, alice, "A", fmt.Sprint("late", i), "x", alice, "A")
		}
		if rows := tableRows(t, n, tableToDeviceTxn, "alice", "A"); rows != 2*5 {
			t.Errorf("%d rows of transaction ids, want 10", rows)
		}
	})
}

func TestToDeviceIsRefusedWholeOrPassedOver(t *testing.T) {
	n := newNode(t)
	alice := n.addUser(t, "alice")
	n.login(t, alice, Login{Device: "A"})
	send := func(m ToDevice) error { m.Sender, m.Device = alice, "A"; return n.SendToDevice(m) }
	to := func(content string) map[matrix.UserID]map[matrix.DeviceID]json.RawMessage {
		return map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{alice: {"A": json.RawMessage(content)}}
	}
	wantErr(t, "no object", send(ToDevice{Type: "m.x", Contents: to(`[]`)}), ErrBadJSON)
	wantErr(t, "large", send(ToDevice{Type: "m.x", Contents: to(`{"a":"` + strings.Repeat("x", MaxToDevice) + `"}`)}), ErrTooLarge)
	wantErr(t, "a long type", send(ToDevice{Type: strings.Repeat("x", 256), Contents: to(`{}`)}), ErrTooLarge)
	wantErr(t, "no type", send(ToDevice{Contents: to(`{}`)}), ErrTooLarge)
	wantErr(t, "other servers' users", send(ToDevice{Type: "m.x", Txn: "1", Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{"@x:example.org": {"*": json.RawMessage(`{}`)}}}), nil)
	if got := n.waiting(t, alice, "A", 0); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestAFullInboxLosesTheOldest(t *testing.T) {
	n := newNode(t)
	alice := n.addUser(t, "alice")
	n.login(t, alice, Login{Device: "A"})
	if err := n.kv.Update(func(txn store.Txn) error {
		for i := range MaxInbox + 2 {
			event := fmt.Appendf(nil, `{"type":"m.x","sender":"@a:b","content":{"body":"%d"}}`, i)
			if err := put(txn, store.Pos(i+1), "alice", "A", "", event); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for n.stream.Current() < MaxInbox+2 { // the positions that were used above
		n.stream.Notify()
	}
	n.toDevice(t, alice, "A", "last", fmt.Sprint(MaxInbox+2), alice, "A")
	got := n.waiting(t, alice, "A", 0)
	if len(got) != MaxInbox || got[0] != "3" || got[len(got)-1] != fmt.Sprint(MaxInbox+2) {
		t.Errorf("%d events, from %s to %s", len(got), got[0], got[len(got)-1])
	}
}

// TestInboxAgreesWithAModel: whatever is sent, repeated, listed in pieces, acknowledged or reopened, a device that goes on from
// where it was gets each event exactly once and in order.
func TestInboxAgreesWithAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		kv := store.OpenMemory()
		n := open(t, kv, Options{NoRateLimit: true})
		alice := n.addUser(t, "alice")
		n.login(t, alice, Login{Device: "A"})
		var sent, got []string
		var since store.Pos
		txn := 0
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"send", "repeat", "sync", "lost", "reopen"}).Draw(rt, "op") {
			case "send":
				txn++
				sent = append(sent, fmt.Sprint(txn))
				fallthrough
			case "repeat":
				if txn > 0 {
					n.toDevice(t, alice, "A", fmt.Sprint(txn), fmt.Sprint(txn), alice, "A")
				}
			case "sync", "lost":
				if err := n.AckInbox(alice, "A", since); err != nil {
					rt.Fatal(err)
				}
				upTo := n.stream.Current()
				events, last, more, err := n.Inbox(alice, "A", since, upTo, rapid.IntRange(1, 3).Draw(rt, "limit"), 1<<20)
				if err != nil {
					rt.Fatal(err)
				}
				if rapid.Bool().Draw(rt, "answer is lost") {
					continue
				}
				for _, raw := range events {
					var e struct{ Content struct{ Body string } }
					if err := json.Unmarshal(raw, &e); err != nil {
						rt.Fatal(err)
					}
					got = append(got, e.Content.Body)
				}
				if since = upTo; more {
					since = last
				}
			case "reopen":
				n = open(t, kv, Options{NoRateLimit: true})
			}
		}
		got = append(got, n.waiting(t, alice, "A", since)...)
		if !slices.Equal(got, sent) {
			rt.Fatalf("got %v, sent %v", got, sent)
		}
	})
}

func BenchmarkSendToDevice(b *testing.B) {
	kv, err := store.OpenBadger(b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer kv.Close()
	n := open(b, kv, Options{NoRateLimit: true})
	alice := n.addUser(b, "alice")
	n.login(b, alice, Login{Device: "A"})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		n.toDevice(b, alice, "A", fmt.Sprint(i), "x", alice, "A")
		if i%50 == 0 {
			if err := n.AckInbox(alice, "A", n.stream.Current()); err != nil {
				b.Fatal(err)
			}
		}
	}
}
