// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"tarn/matrix"
)

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
		"self-signing alone":    {CrossSigning{SelfSigning: good.SelfSigning}, ErrNoMaster},
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
	if k, err := n.Keys(user, user, nil); k.Master != nil || err != nil {
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
