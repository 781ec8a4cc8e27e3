// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tarn/matrix"
	"tarn/store"
)

func TestDeviceKeysAreCheckedBeforeTheyArePublished(t *testing.T) {
	n := newNode(t)
	p := n.phone(t, n.addUser(t, "alice"), "PHONE")
	other := newSigner(t)
	good := p.identity()
	sign := func(o obj) json.RawMessage { return p.key.sign(o, p.user, "PHONE").raw(t) }
	keys := func(ed, curve any) obj { return obj{"ed25519:PHONE": ed, "curve25519:PHONE": curve} }
	for name, c := range map[string]struct {
		raw  json.RawMessage
		want error
	}{
		"another user":          {sign(good.with("user_id", "@bob:"+string(testServer(t)))), ErrBadKeys},
		"another device":        {sign(good.with("device_id", "LAPTOP")), ErrBadKeys},
		"no algorithms":         {sign(good.with("algorithms", []string{})), ErrBadKeys},
		"no keys":               {sign(good.with("keys", nil)), ErrBadKeys},
		"no curve key":          {sign(good.with("keys", obj{"ed25519:PHONE": p.key.pub})), ErrBadKeys},
		"a short curve key":     {sign(good.with("keys", keys(p.key.pub, "AAAA"))), ErrBadKeys},
		"a short signing key":   {sign(good.with("keys", keys("AAAA", p.curve))), ErrBadKeys},
		"an empty signing key":  {sign(good.with("keys", keys("", p.curve))), ErrBadKeys},
		"a padded key":          {sign(good.with("keys", keys(p.key.pub, p.curve+"="))), ErrBadKeys},
		"a key of wrong type":   {sign(good.with("keys", keys(p.key.pub, 7))), ErrBadKeys},
		"no signature":          {good.raw(t), ErrBadSignature},
		"another's signature":   {other.sign(good, p.user, "PHONE").raw(t), ErrBadSignature},
		"changed after signing": {p.key.sign(good, p.user, "PHONE").with("algorithms", []string{"x"}).raw(t), ErrBadSignature},
		"a short signature":     {good.with("signatures", obj{string(p.user): obj{"ed25519:PHONE": "AAAA"}}).raw(t), ErrBadSignature},
		"no object":             {json.RawMessage(`[]`), ErrBadKeys},
		"too large":             {sign(good.with("x", strings.Repeat("x", MaxKey))), ErrTooLarge},
	} {
		_, _, err := n.UploadKeys(p.user, p.device, KeyUpload{Device: c.raw})
		wantErr(t, name, err, c.want)
	}
	if k, err := n.Keys(p.user, p.user, nil); err != nil || len(k.Devices) != 0 {
		t.Fatalf("after refusals: %v, %v", k, err)
	}
	// "unsigned" is no part of what is signed, and is not kept; other fields are.
	raw := p.key.sign(good.with("x", 1), p.user, "PHONE").with("unsigned", obj{"device_display_name": "liar"}).raw(t)
	_, changed, err := n.UploadKeys(p.user, p.device, KeyUpload{Device: raw})
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	k, err := n.Keys(p.user, p.user, nil)
	if err != nil || strings.Contains(string(k.Devices["PHONE"]), "unsigned") || !strings.Contains(string(k.Devices["PHONE"]), `"x":1`) {
		t.Errorf("stored: %s, %v", k.Devices["PHONE"], err)
	}
	wantErr(t, "what is given out verifies", checkSigned(k.Devices["PHONE"], p.user, "PHONE", p.key.pub), nil)
	_, changed, err = n.UploadKeys(p.user, p.device, KeyUpload{Device: raw})
	if err != nil || changed {
		t.Errorf("the same again: changed %v, %v", changed, err)
	}
	_, _, err = n.UploadKeys(p.user, "GONE", KeyUpload{Device: raw})
	wantErr(t, "a device that is not there", err, ErrBadKeys)
}

func TestKeysOfALoggedOutDeviceAreRefused(t *testing.T) {
	n := newNode(t)
	p := n.phone(t, n.addUser(t, "alice"), "PHONE")
	if err := n.Logout(p.user, p.device); err != nil {
		t.Fatal(err)
	}
	_, _, err := n.UploadKeys(p.user, p.device, KeyUpload{Device: p.signedIdentity()})
	wantErr(t, "upload", err, ErrNotFound)
}

func TestKeyChangesAreListedOnceEachUntilTheyChangeAgain(t *testing.T) {
	n := newNode(t)
	alice, bob := n.addUser(t, "alice"), n.addUser(t, "bob")
	zero := n.stream.Current()
	a := n.phone(t, alice, "A")
	a.publish()
	afterA := n.stream.Current()
	n.phone(t, bob, "B").publish()
	afterB := n.stream.Current()
	users := func(since, upTo store.Pos) (out []matrix.UserID) {
		t.Helper()
		l, err := n.KeyChanges("@viewer:x", since, upTo)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range l {
			out = append(out, c.User)
		}
		return out
	}
	for _, c := range []struct {
		since, upTo store.Pos
		want        []matrix.UserID
	}{{zero, afterB, []matrix.UserID{alice, bob}}, {zero, afterA, []matrix.UserID{alice}}, {afterA, afterB, []matrix.UserID{bob}}, {afterB, afterB, nil}, {afterB, zero, nil}} {
		if got := users(c.since, c.upTo); !slices.Equal(got, c.want) {
			t.Errorf("(%d,%d]: %v, want %v", c.since, c.upTo, got, c.want)
		}
	}
	if err := n.Logout(alice, "A"); err != nil {
		t.Fatal(err)
	}
	if got := users(zero, n.stream.Current()); !slices.Equal(got, []matrix.UserID{bob, alice}) {
		t.Errorf("after alice's device went: %v", got)
	}
	// A device without keys is nobody else's business.
	at := n.stream.Current()
	n.login(t, bob, Login{Device: "TOOL"})
	if err := n.Logout(bob, "TOOL"); err != nil {
		t.Fatal(err)
	}
	if got := users(at, n.stream.Current()); len(got) != 0 {
		t.Errorf("a device without keys: %v", got)
	}
}

// deviceRows counts the rows of all tables whose key has the word.
func deviceRows(t testing.TB, kv store.KV, word string) (rows []string) {
	t.Helper()
	if err := kv.View(func(r store.Reader) error {
		return r.Scan(nil, nil, func(k, _ []byte) (bool, error) {
			if strings.Contains(string(k), word) {
				rows = append(rows, fmt.Sprintf("%x %q", k[0], k[1:]))
			}
			return true, nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestARemovedDeviceLeavesNothing(t *testing.T) {
	n := newNode(t)
	alice := n.addUser(t, "alice")
	keep := n.phone(t, alice, "KEPT")
	keep.publish("A")
	gone := n.phone(t, alice, "REMOVED")
	gone.publish("A", "B")
	c := newCross(t)
	if _, err := n.SetCrossSigning(alice, c.upload(t, alice), false); err != nil {
		t.Fatal(err)
	}
	if f, err := n.AddSignatures(alice, map[matrix.UserID]map[string]json.RawMessage{alice: {"REMOVED": c.self.sign(gone.identity(), alice, c.self.pub).raw(t)}}); err != nil || len(f) != 0 {
		t.Fatal(f, err)
	}
	if err := n.SendToDevice(ToDevice{Sender: alice, Device: "REMOVED", Txn: "1", Type: "m.x",
		Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{alice: {AllDevices: json.RawMessage(`{}`)}}}); err != nil {
		t.Fatal(err)
	}
	if rows := deviceRows(t, n.kv, "REMOVED"); len(rows) < 8 {
		t.Fatalf("only %v", rows)
	}
	if err := n.RemoveDevices(alice, []matrix.DeviceID{"REMOVED", "NEVER"}); err != nil {
		t.Fatal(err)
	}
	if rows := deviceRows(t, n.kv, "REMOVED"); len(rows) != 0 {
		t.Errorf("left behind: %v", rows)
	}
	if id, err := keep.claim(); err != nil || id != "A" {
		t.Errorf("the other device's keys: %q, %v", id, err)
	}
	if err := n.Deactivate(alice); err != nil {
		t.Fatal(err)
	}
	for _, row := range deviceRows(t, n.kv, "alice") {
		if !strings.HasPrefix(row, fmt.Sprintf("%x ", tableUser)) && !strings.HasPrefix(row, fmt.Sprintf("%x ", tableKeyPos)) &&
			!strings.HasPrefix(row, fmt.Sprintf("%x ", tableKeyPosOf)) {
			t.Errorf("left of a deactivated user: %s", row)
		}
	}
	if k, err := n.Keys(alice, alice, nil); err != nil || k.Master != nil || len(k.Devices) != 0 {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestKeysSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	openDir := func() (node, store.KV) {
		kv, err := store.OpenBadger(dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return open(t, kv, Options{NoRateLimit: true}), kv
	}
	n, kv := openDir()
	alice := n.addUser(t, "alice")
	p := n.phone(t, alice, "PHONE")
	p.publish("A", "B")
	if _, err := p.claim(); err != nil {
		t.Fatal(err)
	}
	if err := n.SendToDevice(ToDevice{Sender: alice, Device: "PHONE", Txn: "1", Type: "m.x",
		Contents: map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{alice: {"PHONE": json.RawMessage(`{"a":1}`)}}}); err != nil {
		t.Fatal(err)
	}
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	n, kv = openDir()
	defer kv.Close()
	p.n = n
	if c, err := n.KeyCounts(alice, "PHONE"); err != nil || c.OneTime["signed_curve25519"] != 1 {
		t.Error(c, err)
	}
	if ev, _, _, err := n.Inbox(alice, "PHONE", 0, n.stream.Current(), 10, 1<<20); err != nil || len(ev) != 1 {
		t.Error(ev, err)
	}
	if id, err := p.claim(); err != nil || id != "B" {
		t.Error(id, err)
	}
	if id, err := p.claim(); err != nil || id != "" {
		t.Error(id, err)
	}
}

func FuzzKeyChecks(f *testing.F) {
	n := newNode(f)
	p := phone{f, n, n.userID("alice"), "PHONE", newSigner(f), newSigner(f).pub}
	c := newCross(f)
	f.Add([]byte(p.signedIdentity()))
	f.Add([]byte(p.signedKey("fallback", true)))
	f.Add([]byte(c.upload(f, p.user).SelfSigning))
	f.Add([]byte(`{"keys":{"ed25519:PHONE":""},"signatures":{"@a:b":null}}`))
	f.Add([]byte(`{"signatures":[],"usage":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		accepted := func(out json.RawMessage, err error) {
			if err == nil && !json.Valid(out) {
				t.Fatalf("accepted what is no JSON: %q", out)
			}
			if err != nil && !isRefusal(err) {
				t.Fatalf("neither accepted nor refused: %v", err)
			}
		}
		accepted(checkDeviceKeys(p.user, p.device, raw))
		k, err := checkOneTime(p.user, p.device, p.key.pub, "signed_curve25519:A", raw)
		accepted(k.key, err)
		out, public, err := checkCross(p.user, usageSelf, raw)
		accepted(out, err)
		if err == nil && !goodPublic(public) {
			t.Fatalf("accepted the key %q", public)
		}
		if out, err := mergeSignatures(raw, map[matrix.UserID]map[string]string{p.user: {"ed25519:x": "y"}}); err == nil && !json.Valid(out) {
			t.Fatalf("merged into %q", out)
		}
	})
}
