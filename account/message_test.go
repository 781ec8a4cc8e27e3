// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/store"
)

func serverOf(seed string) matrix.ServerName {
	sum := sha256.Sum256([]byte(seed))
	return onionid.FromKey(ed25519.NewKeyFromSeed(sum[:]).Public().(ed25519.PublicKey))
}

// twoNodes are of different servers.
func twoNodes(t testing.TB) (a, b node) {
	return newNode(t), open(t, store.OpenMemory(), Options{NoRateLimit: true, Server: serverOf("another server")})
}

// outbox takes what waits for a server.
func (n node) outbox(t testing.TB, to matrix.ServerName) (items []store.Item) {
	t.Helper()
	if err := n.kv.Update(func(txn store.Txn) (err error) {
		if items, err = store.Pending(txn, string(to), 0, 1000); err != nil {
			return err
		}
		for _, it := range items {
			if err := store.Dequeue(txn, string(to), it.Seq); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return items
}

func (n node) messages(t testing.TB, to matrix.ServerName) (list []Message) {
	t.Helper()
	for _, it := range n.outbox(t, to) {
		var m Message
		if it.Kind != store.ItemMessage || json.Unmarshal(it.Data, &m) != nil {
			t.Fatalf("item %+v", it)
		}
		list = append(list, m)
	}
	return list
}

// TestMessagesComeInOrderAndOnce delivers a sender's messages in any order, some of them twice or never, some without waiting any longer.
func TestMessagesComeInOrderAndOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Message
		n := uint64(0)
		for range rapid.IntRange(1, 25).Draw(t, "messages") {
			m := Message{Previous: n}
			n += rapid.Uint64Range(1, 5).Draw(t, "step")
			m.Number = n
			all = append(all, m)
		}
		way := rapid.Permutation(append(slices.Clone(all), all...)).Draw(t, "way")
		patience := rapid.IntRange(1, 200).Draw(t, "patience")
		var h heardRow
		got := map[uint64]int{}
		late := 0
		var order []uint64
		for turn := 0; len(way) > 0; turn++ {
			var left []Message
			for _, m := range way {
				last := h.Last
				now, err := h.take(m, turn >= patience)
				switch {
				case err == ErrEarlier:
					if turn >= patience {
						t.Fatal("it waits though it shall not")
					}
					left = append(left, m)
				case err != nil:
					t.Fatal(err)
				case now:
					got[m.Number]++
					order = append(order, m.Number)
					if m.Number < last {
						late++
					}
				}
			}
			if len(left) == len(way) && turn < patience {
				turn = patience - 1 // nothing moves: what it waits for is lost
			}
			way = left
		}
		for _, m := range all {
			if got[m.Number] != 1 {
				t.Fatalf("message %d came %d times", m.Number, got[m.Number])
			}
		}
		if late == 0 && !slices.IsSorted(order) {
			t.Fatalf("order %v", order)
		}
		if patience > 60 && !slices.IsSorted(order) {
			t.Fatalf("nothing was lost, and they came as %v", order)
		}
		if len(h.Gaps) > 0 || h.Last != n {
			t.Fatalf("all came, and it has %+v", h)
		}
	})
}

// TestGapsAreBounded splits one gap again and again: a sender that numbers so shall not make a row grow.
func TestGapsAreBounded(t *testing.T) {
	var h heardRow
	if now, err := h.take(Message{Number: 1_000_000, Previous: 999_999}, true); err != nil || !now {
		t.Fatal(now, err)
	}
	for n := uint64(10); n < 10_000; n += 10 {
		m := Message{Number: n, Previous: n - 5}
		if now, err := h.take(m, false); err != nil || !now {
			t.Fatalf("message %d: %v, %v", n, now, err)
		}
		if now, err := h.take(m, false); err != nil || now {
			t.Fatalf("message %d again: %v, %v", n, now, err)
		}
		if len(h.Gaps) > maxGaps {
			t.Fatalf("%d gaps", len(h.Gaps))
		}
	}
	// The newest are those that are left.
	if last := h.Gaps[len(h.Gaps)-1]; last != (gap{9990, 999_999}) || h.Gaps[0].From < 9000 {
		t.Errorf("left are %v", h.Gaps)
	}
}

func TestMessagesGoToAnotherServerOnce(t *testing.T) {
	a, b := twoNodes(t)
	alice, bob := a.addUser(t, "alice"), b.addUser(t, "bob")
	a.login(t, alice, Login{Device: "A"})
	b.login(t, bob, Login{Device: "B1"})
	b.login(t, bob, Login{Device: "B2"})
	for i := range 3 {
		for range 2 { // the client tries again
			if err := a.SendToDevice(ToDevice{Sender: alice, Device: "A", Txn: fmt.Sprint(i), Type: "m.x", Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{
				bob: {"*": json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, i))}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := a.messages(t, b.opt.Server)
	if len(list) != 3 {
		t.Fatalf("%d messages", len(list))
	}
	from := a.opt.Server
	wantErr(t, "the third first", b.Receive(from, list[2], false), ErrEarlier)
	wantErr(t, "the first", b.Receive(from, list[0], false), nil)
	wantErr(t, "the third without the second", b.Receive(from, list[2], true), nil)
	wantErr(t, "the third again", b.Receive(from, list[2], true), nil)
	wantErr(t, "the second, late", b.Receive(from, list[1], false), nil)
	wantErr(t, "the second again", b.Receive(from, list[1], false), nil)
	for _, d := range []matrix.DeviceID{"B1", "B2"} {
		if got := b.waiting(t, bob, d, 0); !slices.Equal(got, []string{"0", "2", "1"}) {
			t.Errorf("%s has %q", d, got)
		}
	}
	forged := list[0]
	forged.Sender = "@eve:" + matrix.UserID(from)
	wantErr(t, "told by another node", b.Receive(serverOf("a third"), forged, false), ErrSpeaker)
	forged.Sender = bob
	wantErr(t, "of one's own user", b.Receive(from, forged, false), ErrSpeaker)
	forged = list[0]
	forged.User = "@nobody:" + matrix.UserID(b.opt.Server)
	forged.Number = list[2].Number + 1
	forged.Previous = list[2].Number
	wantErr(t, "to nobody", b.Receive(from, forged, false), nil)
	forged.User = alice
	wantErr(t, "to another server's user", b.Receive(from, forged, false), ErrNotFound)
	forged.User, forged.Content = bob, json.RawMessage(`7`)
	wantErr(t, "no object", b.Receive(from, forged, false), ErrBadJSON)
}

// TestAServerCanNotPushOutWhatOthersSent floods a device from one server.
func TestAServerCanNotPushOutWhatOthersSent(t *testing.T) {
	a, b := twoNodes(t)
	bob := b.addUser(t, "bob")
	b.login(t, bob, Login{Device: "B"})
	if err := b.SendToDevice(ToDevice{Sender: bob, Device: "B", Txn: "1", Type: "m.x",
		Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{bob: {"B": json.RawMessage(`{"body":"own"}`)}}}); err != nil {
		t.Fatal(err)
	}
	eve := matrix.UserID("@eve:" + string(a.opt.Server))
	for i := range uint64(MaxInboxOf + 50) {
		m := Message{Number: i + 1, Previous: i, Sender: eve, User: bob, Device: "*", Type: "m.x", Content: json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, i))}
		if err := b.Receive(a.opt.Server, m, false); err != nil {
			t.Fatal(err)
		}
	}
	got := b.waiting(t, bob, "B", 0)
	if len(got) != MaxInboxOf+1 || got[0] != "own" || got[1] != "50" {
		t.Fatalf("%d wait, %q first", len(got), got[:2])
	}
	if err := b.AckInbox(bob, "B", b.stream.Current()); err != nil {
		t.Fatal(err)
	}
	b.nothingIn(t, tableInbox, tableInboxOf, tableInboxSize)
}

// TestMessagesForAFullOutboxAreRefused: nothing of the request is done, and the client is told when to try again. And for who is no contact
// nothing waits.
func TestMessagesForAFullOutboxAreRefused(t *testing.T) {
	a, b := twoNodes(t)
	alice := a.addUser(t, "alice")
	a.login(t, alice, Login{Device: "A"})
	server := b.opt.Server
	bob := matrix.UserID("@bob:" + string(server))
	send := func(txn string) error {
		return a.SendToDevice(ToDevice{Sender: alice, Device: "A", Txn: txn, Type: "m.x", Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{
			alice: {"A": json.RawMessage(`{"body":"own"}`)}, bob: {"*": json.RawMessage(`{}`)}}})
	}
	waiting := func() (n int) {
		if err := a.kv.View(func(r store.Reader) (err error) { n, err = store.Waiting(r, string(server)); return err }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	a.SetContacts(map[matrix.ServerName]bool{})
	wantErr(t, "to a stranger", send("1"), nil)
	if n := waiting(); n != 0 {
		t.Errorf("%d wait for a stranger", n)
	}
	a.SetContacts(map[matrix.ServerName]bool{server: true})
	if err := a.kv.Update(func(txn store.Txn) error {
		for range maxOutbox {
			if err := store.Enqueue(txn, string(server), store.ItemEvent, []byte("x")); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var l Limited
	if err := send("2"); !errors.As(err, &l) || l.RetryAfter <= 0 {
		t.Errorf("to a full outbox: %v", err)
	}
	if got := a.waiting(t, alice, "A", 0); len(got) != 1 {
		t.Errorf("of the request that was refused %q came", got)
	}
	if err := a.kv.Update(func(txn store.Txn) error { return store.Dequeue(txn, string(server), 1) }); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "again", send("2"), nil)
	if got := a.waiting(t, alice, "A", 0); len(got) != 2 || waiting() != maxOutbox {
		t.Errorf("then %q came, and %d wait", got, waiting())
	}
}
