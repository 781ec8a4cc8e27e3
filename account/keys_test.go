// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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

func TestOneTimeKeysAreChecked(t *testing.T) {
	n := newNode(t)
	p := n.phone(t, n.addUser(t, "alice"), "PHONE")
	other := newSigner(t)
	_, _, err := n.UploadKeys(p.user, p.device, KeyUpload{OneTime: map[string]json.RawMessage{"signed_curve25519:A": p.signedKey()}})
	wantErr(t, "before the identity keys", err, ErrBadKeys)
	p.publish()
	for name, c := range map[string]struct {
		id   string
		raw  json.RawMessage
		want error
	}{
		"no algorithm":      {"A", p.signedKey(), ErrBadKeys},
		"no id":             {"signed_curve25519:", p.signedKey(), ErrBadKeys},
		"another algorithm": {"signed_rsa:A", p.signedKey(), ErrBadKeys},
		"a long id":         {"signed_curve25519:" + strings.Repeat("A", MaxKeyID), p.signedKey(), ErrBadKeys},
		"unsigned":          {"signed_curve25519:A", obj{"key": other.pub}.raw(t), ErrBadSignature},
		"signed by another": {"signed_curve25519:A", other.sign(obj{"key": other.pub}, p.user, "PHONE").raw(t), ErrBadSignature},
		"a short key":       {"signed_curve25519:A", p.signedKey("key", "AAAA"), ErrBadKeys},
		"a string":          {"signed_curve25519:A", json.RawMessage(`"` + other.pub + `"`), ErrBadKeys},
		"a short plain key": {"curve25519:A", json.RawMessage(`"AAAA"`), ErrBadKeys},
	} {
		_, _, err := n.UploadKeys(p.user, p.device, KeyUpload{OneTime: map[string]json.RawMessage{c.id: c.raw, "signed_curve25519:GOOD": p.signedKey()}})
		wantErr(t, name, err, c.want)
		if name == "a long id" || name == "no id" {
			_, _, err = n.UploadKeys(p.user, p.device, KeyUpload{Fallback: map[string]json.RawMessage{c.id: c.raw}})
			wantErr(t, name+", fallback", err, c.want)
		}
	}
	c, err := n.KeyCounts(p.user, p.device)
	if err != nil || c.OneTime["signed_curve25519"] != 0 {
		t.Fatalf("after refusals %v, %v", c, err)
	}
	key := p.signedKey()
	for range 2 { // the same again is no error, and no second key
		c, _, err := n.UploadKeys(p.user, p.device, KeyUpload{OneTime: map[string]json.RawMessage{"signed_curve25519:A": key, "curve25519:A": json.RawMessage(`"` + other.pub + `"`)}})
		if err != nil || c.OneTime["signed_curve25519"] != 1 || c.OneTime["curve25519"] != 1 {
			t.Fatalf("%v, %v", c, err)
		}
	}
	_, _, err = n.UploadKeys(p.user, p.device, KeyUpload{OneTime: map[string]json.RawMessage{"signed_curve25519:A": p.signedKey()}})
	wantErr(t, "another key of that id", err, ErrKeysDiffer)
}

func TestOneTimeKeysAreBounded(t *testing.T) {
	n := newNode(t)
	p := n.phone(t, n.addUser(t, "alice"), "PHONE")
	p.publish()
	up := KeyUpload{OneTime: map[string]json.RawMessage{}}
	plain := json.RawMessage(`"` + newSigner(t).pub + `"`)
	for i := range MaxOneTimeKeys {
		up.OneTime[fmt.Sprint("curve25519:", i)] = plain
	}
	if _, _, err := n.UploadKeys(p.user, p.device, up); err != nil {
		t.Fatal(err)
	}
	_, _, err := n.UploadKeys(p.user, p.device, KeyUpload{OneTime: map[string]json.RawMessage{"curve25519:more": plain}})
	wantErr(t, "one more", err, ErrTooLarge)
}

func (p phone) claim() (string, error) {
	got, err := p.n.ClaimKeys([]Claim{{p.user, p.device, "signed_curve25519"}})
	if err != nil || len(got) == 0 {
		return "", err
	}
	return strings.TrimPrefix(got[0].Name, "signed_curve25519:"), nil
}

func TestOneTimeKeysAreGivenOnceOldestFirstThenTheFallback(t *testing.T) {
	n := newNode(t)
	p := n.phone(t, n.addUser(t, "alice"), "PHONE")
	before := n.stream.Current()
	p.publish("Z")
	p.publish("B", "A") // later, and before Z in any alphabet
	if c, _ := n.KeyCounts(p.user, p.device); c.OneTime["signed_curve25519"] != 3 || len(c.Unused) != 0 || c.Pos <= before {
		t.Fatalf("%+v", c)
	}
	fallback := p.signedKey("fallback", true)
	up := KeyUpload{Fallback: map[string]json.RawMessage{"signed_curve25519:F": fallback}}
	if c, _, err := n.UploadKeys(p.user, p.device, up); err != nil || !slices.Equal(c.Unused, []string{"signed_curve25519"}) {
		t.Fatal(c, err)
	}
	for i, want := range []string{"Z", "A", "B", "F", "F"} {
		if got, err := p.claim(); err != nil || got != want {
			t.Fatalf("claim %d: %q, %v, want %q", i, got, err, want)
		}
		c, _ := n.KeyCounts(p.user, p.device)
		if c.OneTime["signed_curve25519"] != max(2-i, 0) || (len(c.Unused) == 1) != (i < 3) {
			t.Errorf("after claim %d: %+v", i, c)
		}
	}
	if c, _, err := n.UploadKeys(p.user, p.device, up); err != nil || len(c.Unused) != 0 {
		t.Errorf("the same fallback key again is unused: %v %v", c, err)
	}
	up.Fallback = map[string]json.RawMessage{"signed_curve25519:G": p.signedKey("fallback", true)}
	if c, _, err := n.UploadKeys(p.user, p.device, up); err != nil || len(c.Unused) != 1 {
		t.Errorf("a new fallback key: %v %v", c, err)
	}
	got, err := n.ClaimKeys([]Claim{{p.user, "NONE", "signed_curve25519"}, {p.user, p.device, "rsa"}, {"@x:example.org", "A", "signed_curve25519"}})
	if err != nil || len(got) != 0 {
		t.Errorf("claims of nothing: %v, %v", got, err)
	}
}

func TestConcurrentClaimsNeverGetOneKeyTwice(t *testing.T) {
	kv, err := store.OpenBadger(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	n := open(t, kv, Options{NoRateLimit: true})
	p := n.phone(t, n.addUser(t, "alice"), "PHONE")
	const keys = 40
	var ids []string
	for i := range keys {
		ids = append(ids, fmt.Sprint("K", i))
	}
	p.publish(ids...)
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range keys / 4 { // together twice as many as there are
				id, err := p.claim()
				if err != nil {
					t.Error(err)
				}
				if id != "" {
					mu.Lock()
					got = append(got, id)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(got)
	slices.Sort(ids)
	if !slices.Equal(got, ids) {
		t.Errorf("%d claims got %v", len(got), got)
	}
}

func TestNewIdentityKeysDropTheOldOneTimeKeys(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	p := n.phone(t, user, "PHONE")
	p.publish("A", "B")
	since := n.stream.Current()
	again := n.phone(t, user, "PHONE") // logged in again with the same device id, and new keys
	again.publish("C")
	if id, err := again.claim(); err != nil || id != "C" {
		t.Errorf("claimed %q, %v", id, err)
	}
	if id, err := again.claim(); err != nil || id != "" {
		t.Errorf("claimed %q, %v", id, err)
	}
	if l, err := n.KeyChanges("@x:y", since, n.stream.Current()); err != nil || len(l) != 1 || l[0].User != user {
		t.Errorf("changes %v, %v", l, err)
	}
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

func TestCrossSigningKeysAreCheckedAndNeedAProofToChange(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	p := n.phone(t, user, "PHONE")
	p.publish()
	c, d := newCross(t), newCross(t)
	good := c.upload(t, user)
	set := func(up CrossSigning, proven bool) error {
		_, err := n.SetCrossSigning(user, up, proven)
		return err
	}
	master := crossObject(c.master, user, "master")
	for name, x := range map[string]struct {
		up   CrossSigning
		want error
	}{
		"nothing":               {CrossSigning{}, ErrBadKeys},
		"self-signing alone":    {CrossSigning{SelfSigning: good.SelfSigning}, ErrBadKeys},
		"another user":          {CrossSigning{Master: master.with("user_id", "@bob:x").raw(t)}, ErrBadKeys},
		"another usage":         {CrossSigning{Master: crossObject(c.master, user, "self_signing").raw(t)}, ErrBadKeys},
		"two keys":              {CrossSigning{Master: master.with("keys", obj{"ed25519:a": c.self.pub, "ed25519:b": c.self.pub}).raw(t)}, ErrBadKeys},
		"no keys":               {CrossSigning{Master: master.with("keys", nil).raw(t)}, ErrBadKeys},
		"a short key":           {CrossSigning{Master: master.with("keys", obj{"ed25519:AAAA": "AAAA"}).raw(t)}, ErrBadKeys},
		"named otherwise":       {CrossSigning{Master: master.with("keys", obj{"ed25519:x": c.master.pub}).raw(t)}, ErrBadKeys},
		"self-signing unsigned": {CrossSigning{Master: good.Master, SelfSigning: crossObject(c.self, user, "self_signing").raw(t)}, ErrBadSignature},
		"signed by another":     {CrossSigning{Master: good.Master, UserSigning: d.upload(t, user).UserSigning}, ErrBadSignature},
	} {
		wantErr(t, name, set(x.up, true), x.want)
	}
	if has, err := n.HasCrossSigning(user); has || err != nil {
		t.Fatal("something was stored", err)
	}
	wantErr(t, "first, without a proof", set(good, false), nil)
	if changed, err := n.SetCrossSigning(user, good, false); changed || err != nil {
		t.Errorf("the same again: %v, %v", changed, err)
	}
	wantErr(t, "others without a proof", set(d.upload(t, user), false), ErrKeysDiffer)
	only := d.upload(t, user)
	only.SelfSigning, only.UserSigning = nil, nil
	wantErr(t, "another master key alone", set(only, true), nil)
	k, err := n.Keys(user, user, nil)
	if err != nil || k.SelfSigning != nil || k.UserSigning != nil || !strings.Contains(string(k.Master), d.master.pub) {
		t.Errorf("what the old master signed is still there: %+v, %v", k, err)
	}
	wantErr(t, "its others with a proof", set(d.upload(t, user), true), nil)
	k, err = n.Keys(user, "@bob:x", nil)
	if err != nil || k.UserSigning != nil || k.SelfSigning == nil {
		t.Errorf("what others see: %+v, %v", k, err)
	}
}

// sigsOn are the key ids of signer's signatures on a published key.
func sigsOn(t testing.TB, raw json.RawMessage, signer matrix.UserID) []string {
	t.Helper()
	var o signedObject
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(o.Signatures[signer]))
}

func TestSignaturesAreAddedWhereTheyVerify(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.addUser(t, "alice"), n.addUser(t, "bob"), n.addUser(t, "carol")
	p := n.phone(t, alice, "PHONE")
	p.publish()
	ac, bc := newCross(t), newCross(t)
	for u, c := range map[matrix.UserID]cross{alice: ac, bob: bc} {
		if _, err := n.SetCrossSigning(u, c.upload(t, u), false); err != nil {
			t.Fatal(err)
		}
	}
	add := func(target matrix.UserID, key string, o obj) error {
		t.Helper()
		failed, err := n.AddSignatures(alice, map[matrix.UserID]map[string]json.RawMessage{target: {key: o.raw(t)}})
		if err != nil {
			t.Fatal(err)
		}
		return failed[target][key]
	}
	own := p.identity()
	ownMaster := crossObject(ac.master, alice, "master")
	bobs := crossObject(bc.master, bob, "master")
	selfSigned := p.key.sign(own, alice, "PHONE")
	for name, c := range map[string]struct {
		target matrix.UserID
		key    string
		object obj
		want   error
	}{
		"a device that is not there":      {alice, "LAPTOP", ac.self.sign(own, alice, ac.self.pub), ErrNotFound},
		"a device by another key":         {alice, "PHONE", ac.user.sign(own, alice, ac.user.pub), ErrBadSignature},
		"a device as it is not":           {alice, "PHONE", ac.self.sign(own.with("algorithms", []string{}), alice, ac.self.pub), ErrBadSignature},
		"a device with a false signature": {alice, "PHONE", ac.user.sign(own, alice, ac.self.pub), ErrBadSignature},
		"nothing new":                     {alice, "PHONE", selfSigned, ErrBadSignature},
		"no object":                       {alice, "PHONE", nil, ErrBadKeys},
		"another's device":                {bob, "PHONE", ac.user.sign(own, alice, ac.user.pub), ErrNotFound},
		"another's master by a device":    {bob, bc.master.pub, p.key.sign(bobs, alice, "PHONE"), ErrBadSignature},
		"a user without keys":             {carol, "x", ac.user.sign(bobs, alice, ac.user.pub), ErrNotFound},
		"a user of another server":        {"@x:example.org", "x", ac.user.sign(bobs, alice, ac.user.pub), ErrNotFound},
	} {
		wantErr(t, name, add(c.target, c.key, c.object), c.want)
	}
	since := n.stream.Current()
	wantErr(t, "own device", add(alice, "PHONE", ac.self.sign(selfSigned, alice, ac.self.pub)), nil)
	wantErr(t, "own master", add(alice, ac.master.pub, p.key.sign(ownMaster, alice, "PHONE")), nil)
	if l, _ := n.KeyChanges(bob, since, n.stream.Current()); len(l) != 1 || l[0] != (KeyChange{User: alice}) {
		t.Errorf("bob is told %v", l)
	}
	since = n.stream.Current()
	wantErr(t, "bob's master", add(bob, bc.master.pub, ac.user.sign(bobs, alice, ac.user.pub)), nil)
	if l, _ := n.KeyChanges(bob, since, n.stream.Current()); len(l) != 0 {
		t.Errorf("bob is told %v", l)
	}
	if l, _ := n.KeyChanges(alice, since, n.stream.Current()); len(l) != 1 || l[0] != (KeyChange{User: bob, Own: true}) {
		t.Errorf("alice is told %v", l)
	}
	a, err := n.Keys(alice, bob, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := sigsOn(t, a.Devices["PHONE"], alice); !slices.Equal(got, slices.Sorted(slices.Values([]string{"ed25519:PHONE", "ed25519:" + ac.self.pub}))) {
		t.Errorf("bob sees on alice's device %v", got)
	}
	wantErr(t, "verifies", checkSigned(a.Devices["PHONE"], alice, ac.self.pub, ac.self.pub), nil)
	wantErr(t, "verifies", checkSigned(a.Master, alice, "PHONE", p.key.pub), nil)
	for viewer, want := range map[matrix.UserID]int{alice: 1, bob: 0, carol: 0} {
		b, err := n.Keys(bob, viewer, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := sigsOn(t, b.Master, alice); len(got) != want {
			t.Errorf("%s sees %v of alice's on bob's master key", viewer, got)
		}
	}
	// A new master key has nobody's signature.
	if _, err := n.SetCrossSigning(bob, newCross(t).upload(t, bob), true); err != nil {
		t.Fatal(err)
	}
	if _, err := n.SetCrossSigning(bob, bc.upload(t, bob), true); err != nil {
		t.Fatal(err)
	}
	if b, _ := n.Keys(bob, alice, nil); len(sigsOn(t, b.Master, alice)) != 0 {
		t.Error("signatures outlived their key")
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

func BenchmarkClaim(b *testing.B) {
	for name, openKV := range map[string]func() store.KV{
		"memory": store.OpenMemory,
		"badger": func() store.KV {
			kv, err := store.OpenBadger(b.TempDir(), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			return kv
		},
	} {
		b.Run(name, func(b *testing.B) {
			kv := openKV()
			defer kv.Close()
			n := open(b, kv, Options{NoRateLimit: true})
			p := n.phone(b, n.addUser(b, "alice"), "PHONE")
			p.publish()
			up := KeyUpload{OneTime: map[string]json.RawMessage{}}
			b.ReportAllocs()
			next := 0
			for b.Loop() {
				id, err := p.claim()
				if err != nil {
					b.Fatal(err)
				}
				if id != "" {
					continue
				}
				b.StopTimer()
				clear(up.OneTime)
				for range 500 {
					up.OneTime[fmt.Sprint("signed_curve25519:", next)] = p.signedKey()
					next++
				}
				if _, _, err := n.UploadKeys(p.user, p.device, up); err != nil && !errors.Is(err, ErrKeysDiffer) {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
