// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// told is what a node tells of a user.
func (n node) told(t testing.TB, user matrix.UserID, serial uint64) Published {
	t.Helper()
	p, err := n.Published(user)
	if err != nil {
		t.Fatal(err)
	}
	p.Serial = serial
	return p
}

func TestKeysOfAnotherServersUser(t *testing.T) {
	a, b := twoNodes(t)
	from := a.opt.Server
	p := a.phone(t, a.addUser(t, "alice"), "PHONE")
	p.publish("1")
	x := newCross(t)
	if _, err := a.SetCrossSigning(p.user, x.upload(t, p.user), false); err != nil {
		t.Fatal(err)
	}
	if _, err := a.AddSignatures(p.user, map[matrix.UserID]map[string]json.RawMessage{p.user: {"PHONE": x.self.sign(p.identity(), p.user, x.self.pub).raw(t)}}); err != nil {
		t.Fatal(err)
	}
	bob := b.addUser(t, "bob")
	good := a.told(t, p.user, 5)
	for name, c := range map[string]struct {
		from matrix.ServerName
		edit func(*Published)
		want error
	}{
		"by another node":          {serverOf("a third"), func(*Published) {}, ErrSpeaker},
		"of our own user":          {from, func(p *Published) { p.User = bob }, ErrSpeaker},
		"without a serial":         {from, func(p *Published) { p.Serial = 0 }, ErrBadKeys},
		"a device of another name": {from, func(p *Published) { p.Devices[0].ID = "OTHER" }, ErrBadKeys},
		"a device twice":           {from, func(p *Published) { p.Devices = append(p.Devices, p.Devices[0]) }, ErrBadKeys},
		"a forged device": {from, func(q *Published) {
			q.Devices[0].Keys = newSigner(t).sign(p.identity(), p.user, "PHONE").raw(t)
		}, ErrBadSignature},
		"a forged fallback key": {from, func(q *Published) {
			q.Devices[0].Fallback = []NamedKey{{"signed_curve25519:F", newSigner(t).sign(obj{"key": newSigner(t).pub}, p.user, "PHONE").raw(t)}}
		}, ErrBadSignature},
		"another master key":       {from, func(q *Published) { q.Master = crossObject(newSigner(t), p.user, "master").raw(t) }, ErrBadSignature},
		"self-signing key alone":   {from, func(q *Published) { q.Master = nil }, ErrBadKeys},
		"no object for the master": {from, func(q *Published) { q.Master = json.RawMessage(`[]`) }, ErrBadKeys},
	} {
		q := good
		q.Devices = slices.Clone(good.Devices)
		c.edit(&q)
		wantErr(t, name, b.SetPublished(c.from, q, nil), c.want)
	}
	if known, err := b.KnowsServer(from); err != nil || known {
		t.Fatalf("after refusals: %v, %v", known, err)
	}
	wantErr(t, "good", b.SetPublished(from, good, nil), nil)
	k, err := b.Keys(p.user, bob, nil)
	if err != nil || k.Master == nil || k.SelfSigning == nil || k.UserSigning != nil || len(k.Devices) != 1 {
		t.Fatalf("%+v, %v", k, err)
	}
	wantErr(t, "the cross-signature came along", checkSigned(k.Devices["PHONE"], p.user, x.self.pub, x.self.pub), nil)

	// Bob verifies alice: his signature is for him alone, and goes with the key.
	mine := newCross(t)
	if _, err := b.SetCrossSigning(bob, mine.upload(t, bob), false); err != nil {
		t.Fatal(err)
	}
	failed, err := b.AddSignatures(bob, map[matrix.UserID]map[string]json.RawMessage{p.user: {x.master.pub: mine.user.sign(crossObject(x.master, p.user, "master"), bob, mine.user.pub).raw(t)}})
	if err != nil || len(failed) > 0 {
		t.Fatal(failed, err)
	}
	signed := func(viewer matrix.UserID) bool {
		k, err := b.Keys(p.user, viewer, nil)
		if err != nil {
			t.Fatal(err)
		}
		return checkSigned(k.Master, bob, mine.user.pub, mine.user.pub) == nil
	}
	if !signed(bob) || signed(b.addUser(t, "carol")) {
		t.Error("bob's signature on alice's key is not his alone to see")
	}

	// Older words change nothing; one with nothing new for clients wakes nobody.
	old := good
	old.Serial, old.Devices = 4, nil
	wantErr(t, "older", b.SetPublished(from, old, nil), nil)
	here := b.stream.Current()
	good.Serial = 6
	wantErr(t, "the same under a new serial", b.SetPublished(from, good, nil), nil)
	if list, err := b.KeyChanges(bob, here, b.stream.Current()); err != nil || len(list) != 0 {
		t.Errorf("changes %v, %v", list, err)
	}
	gone := Published{User: p.user, Serial: 7}
	wantErr(t, "all is gone", b.SetPublished(from, gone, nil), nil)
	if list, err := b.KeyChanges(bob, here, b.stream.Current()); err != nil || len(list) != 1 || list[0].User != p.user {
		t.Errorf("changes %v, %v", list, err)
	}
	if k, err := b.Keys(p.user, bob, nil); err != nil || len(k.Devices) != 0 || k.Master != nil {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestHandedKeysAreGivenOnce(t *testing.T) {
	a, b := twoNodes(t)
	from := a.opt.Server
	p := a.phone(t, a.addUser(t, "alice"), "PHONE")
	p.publish("1", "2", "3", "4", "5", "6", "7", "8", "9")
	if _, _, err := a.UploadKeys(p.user, p.device, KeyUpload{Fallback: map[string]json.RawMessage{"signed_curve25519:F": p.signedKey()}}); err != nil {
		t.Fatal(err)
	}
	hand := func(n int) (keys []NamedKey) {
		t.Helper()
		if err := a.HandOut(p.user, "PHONE", n, func(_ store.Txn, k []NamedKey) error { keys = k; return nil }); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	claim := func(n node) (name string) {
		t.Helper()
		got, err := n.ClaimKeys([]Claim{{p.user, "PHONE", "signed_curve25519"}})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 1 {
			name = got[0].Name
		}
		return name
	}
	first := hand(8)
	if len(first) != 3 { // a quarter of nine
		t.Fatalf("handed %d", len(first))
	}
	wantErr(t, "before the device is known", b.AddHanded(from, p.user, "PHONE", 10, first), ErrNotFound)
	wantErr(t, "devices", b.SetPublished(from, a.told(t, p.user, 1), nil), nil)
	wantErr(t, "told by another node", b.AddHanded(serverOf("a third"), p.user, "PHONE", 10, first), ErrSpeaker)
	wantErr(t, "forged", b.AddHanded(from, p.user, "PHONE", 10, []NamedKey{{"signed_curve25519:X", newSigner(t).sign(obj{"key": p.curve}, p.user, "PHONE").raw(t)}}), ErrBadSignature)
	wantErr(t, "first batch", b.AddHanded(from, p.user, "PHONE", 10, first), nil)
	seen := map[string]bool{}
	for range first {
		name := claim(b)
		if name == "" || seen[name] || name == "signed_curve25519:F" {
			t.Fatalf("claimed %q", name)
		}
		seen[name] = true
		wantErr(t, "first batch again", b.AddHanded(from, p.user, "PHONE", 10, first), nil)
	}
	if name := claim(b); name != "signed_curve25519:F" {
		t.Fatalf("then %q", name)
	}
	if name := claim(b); name != "signed_curve25519:F" {
		t.Fatalf("then %q", name)
	}
	// It asked once when few were left, and once for the fallback key.
	var asks []KeyAsk
	for _, it := range b.outbox(t, from) {
		var k KeyAsk
		if it.Kind != store.ItemAsk || json.Unmarshal(it.Data, &k) != nil {
			t.Fatalf("item %+v", it)
		}
		asks = append(asks, k)
	}
	if want := []KeyAsk{{p.user, "PHONE", 10, ""}, {p.user, "PHONE", 10, "signed_curve25519:F"}}; !slices.Equal(asks, want) {
		t.Errorf("asked %+v", asks)
	}
	wantErr(t, "used", a.UsedFallback(p.user, "PHONE", "signed_curve25519:F"), nil)
	if c, err := a.KeyCounts(p.user, "PHONE"); err != nil || len(c.Unused) != 0 || c.OneTime["signed_curve25519"] != 6 {
		t.Errorf("%+v, %v", c, err)
	}
	for range 6 { // what was handed on is nobody else's
		if name := claim(a); seen[name] || name == "signed_curve25519:F" {
			t.Fatalf("%q was given twice", name)
		}
	}
	if got := hand(8); got != nil {
		t.Errorf("handed %v of nothing", got)
	}

	// With another identity the keys of the old one are gone.
	q := phone{t, a, p.user, "PHONE", newSigner(t), newSigner(t).pub}
	q.publish("10", "11", "12", "13")
	wantErr(t, "second batch", b.AddHanded(from, p.user, "PHONE", 11, first), nil) // late, but they were never given under this serial
	wantErr(t, "another identity", b.SetPublished(from, a.told(t, p.user, 2), nil), nil)
	wantErr(t, "its first batch", b.AddHanded(from, p.user, "PHONE", 12, hand(8)), nil)
	if name := claim(b); name != "signed_curve25519:10" {
		t.Errorf("of the new identity %q", name)
	}
	// After a restore nobody knows which were given.
	wantErr(t, "forget", a.ForgetOneTimeKeys(time.Now()), nil)
	wantErr(t, "forget", b.ForgetOneTimeKeys(time.Now()), nil)
	if x, y := claim(a), claim(b); x != "" || y != "" {
		t.Errorf("after a restore %q and %q", x, y)
	}
	if c, err := a.KeyCounts(p.user, "PHONE"); err != nil || c.OneTime["signed_curve25519"] != 0 || c.Pos == 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestNoBatchOfBeforeARestore: after a restore batches come again that may have been given, by boxes that were not acknowledged in the
// backup; and a batch of after it is asked for so that its serial is higher.
func TestNoBatchOfBeforeARestore(t *testing.T) {
	a, b := twoNodes(t)
	from := a.opt.Server
	p := a.phone(t, a.addUser(t, "alice"), "PHONE")
	p.publish("1", "2", "3", "4", "5", "6", "7", "8")
	hand := func() (keys []NamedKey) {
		t.Helper()
		if err := a.HandOut(p.user, "PHONE", 1, func(_ store.Txn, k []NamedKey) error { keys = k; return nil }); err != nil || len(keys) != 1 {
			t.Fatal(keys, err)
		}
		return keys
	}
	claims := func() (n int) {
		t.Helper()
		for {
			got, err := b.ClaimKeys([]Claim{{p.user, "PHONE", "signed_curve25519"}})
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				return n
			}
			n++
		}
	}
	restored := time.Now()
	at := func(after time.Duration) uint64 { return uint64(restored.Add(after).UnixMilli()) }
	wantErr(t, "devices", b.SetPublished(from, a.told(t, p.user, 1), nil), nil)
	first := hand()
	wantErr(t, "a batch", b.AddHanded(from, p.user, "PHONE", at(-time.Minute), first), nil)
	if n := claims(); n != 1 {
		t.Fatalf("%d keys", n)
	}
	b.outbox(t, from)
	wantErr(t, "forget", b.ForgetOneTimeKeys(restored), nil)
	wantErr(t, "the batch again", b.AddHanded(from, p.user, "PHONE", at(-time.Minute), first), nil)
	wantErr(t, "one by a clock that goes before", b.AddHanded(from, p.user, "PHONE", at(RestoreSlack), hand()), nil)
	if n := claims(); n != 0 {
		t.Fatalf("%d keys of before", n)
	}
	var ask KeyAsk
	if items := b.outbox(t, from); len(items) != 1 || json.Unmarshal(items[0].Data, &ask) != nil || ask.Batch != at(RestoreSlack) {
		t.Fatalf("it asks with %+v", items)
	}
	wantErr(t, "a batch of after it", b.AddHanded(from, p.user, "PHONE", ask.Batch+1, hand()), nil)
	if n := claims(); n != 1 {
		t.Errorf("%d keys of after", n)
	}
	// A restore of an older backup does not lower what counts.
	wantErr(t, "forget again", b.ForgetOneTimeKeys(restored.Add(-24*time.Hour)), nil)
	wantErr(t, "the batch again", b.AddHanded(from, p.user, "PHONE", at(0), first), nil)
	if n := claims(); n != 0 {
		t.Errorf("%d keys of before, after another restore", n)
	}
}

// TestKeysAreAskedForAgain: what was asked for and did not come in a day is asked for once more.
func TestKeysAreAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoNodes(t)
		from := a.opt.Server
		p := a.phone(t, a.addUser(t, "alice"), "PHONE")
		p.publish()
		wantErr(t, "devices", b.SetPublished(from, a.told(t, p.user, 1), nil), nil)
		asked := 0
		for range 60 {
			if _, err := b.ClaimKeys([]Claim{{p.user, "PHONE", "signed_curve25519"}}); err != nil {
				t.Fatal(err)
			}
			asked += len(b.outbox(t, from))
			time.Sleep(time.Hour)
		}
		if asked != 3 {
			t.Errorf("it asked %d times in two and a half days", asked)
		}
	})
}

// TestAServerIsForgotten: of a server that is no contact any more nothing is left but one row, by which what comes again is known.
func TestAServerIsForgotten(t *testing.T) {
	a, b := twoNodes(t)
	from := a.opt.Server
	p := a.phone(t, a.addUser(t, "alice"), "PHONE")
	p.publish("1", "2", "3", "4", "5", "6", "7", "8")
	bob := b.addUser(t, "bob")
	var keys []NamedKey
	wantErr(t, "hand out", a.HandOut(p.user, "PHONE", 2, func(_ store.Txn, k []NamedKey) error { keys = k; return nil }), nil)
	wantErr(t, "devices", b.SetPublished(from, a.told(t, p.user, 1), nil), nil)
	wantErr(t, "a batch", b.AddHanded(from, p.user, "PHONE", 10, keys), nil)
	here := b.stream.Current()
	wantErr(t, "forget", b.ForgetServer(from, []string{string(bob)}), nil)
	if list, err := b.KeyChanges(bob, here, b.stream.Current()); err != nil || len(list) != 1 || list[0].User != p.user {
		t.Errorf("changes %v, %v", list, err)
	}
	if known, err := b.KnowsServer(from); err != nil || known {
		t.Errorf("still known: %v, %v", known, err)
	}
	b.nothingIn(t, tableRemote, tableHanded, tableHandedState)
	wantErr(t, "devices of a contact anew", b.SetPublished(from, a.told(t, p.user, 1), nil), nil)
	wantErr(t, "the batch again", b.AddHanded(from, p.user, "PHONE", 10, keys), nil)
	if got, err := b.ClaimKeys([]Claim{{p.user, "PHONE", "signed_curve25519"}}); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	wantErr(t, "a new batch", b.AddHanded(from, p.user, "PHONE", 11, keys[1:]), nil)
	if got, err := b.ClaimKeys([]Claim{{p.user, "PHONE", "signed_curve25519"}}); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestKeysOfOneServerAreBounded: a node tells of users without end, and of one user's changes again and again.
func TestKeysOfOneServerAreBounded(t *testing.T) {
	a, b := twoNodes(t)
	from := a.opt.Server
	p := a.phone(t, a.addUser(t, "alice"), "PHONE")
	p.publish("1")
	rows := func() (n int) {
		t.Helper()
		err := b.kv.View(func(r store.Reader) error {
			return r.Scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	with := a.told(t, p.user, 1)
	wantErr(t, "the first", b.SetPublished(from, with, nil), nil)
	before := rows()
	for i := range uint64(200) {
		told := with
		if told.Serial = 2 + i; i%2 == 0 {
			told.Devices = nil
		}
		wantErr(t, "a change", b.SetPublished(from, told, nil), nil)
	}
	if n := rows(); n > before+3 { // that clients are to ask for the user again is one row, whenever that was last
		t.Errorf("%d rows more after 200 changes", n-before)
	}
	taken := 1
	for i := range MaxRemoteUsers + 50 {
		err := b.SetPublished(from, Published{User: matrix.UserID(fmt.Sprintf("@made%d:%s", i, from)), Serial: 1}, nil)
		if err == nil {
			taken++
		} else if !errors.Is(err, ErrTooLarge) {
			t.Fatal(err)
		}
	}
	if taken != MaxRemoteUsers {
		t.Errorf("%d users of one server were taken", taken)
	}
	third := serverOf("a third")
	wantErr(t, "another server's", b.SetPublished(third, Published{User: matrix.UserID("@c:" + third), Serial: 1}, nil), nil)
}
