// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"tarn/store"
)

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

func BenchmarkClaim(b *testing.B) {
	eachKV(b, func(b *testing.B, kv store.KV) {
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
