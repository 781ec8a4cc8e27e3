// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"pgregory.net/rapid"
)

// keypair is an Ed25519 key of a client.
type keypair struct {
	priv ed25519.PrivateKey
	pub  string
}

func newKey(t testing.TB) keypair {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keypair{priv, base64.RawStdEncoding.EncodeToString(pub)}
}

// sign gives o with one signature, as user's key of that name.
func (k keypair) sign(t testing.TB, o obj, user any, name string) obj {
	t.Helper()
	msg, err := canonicaljson.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	out := obj{"signatures": obj{fmt.Sprint(user): obj{"ed25519:" + name: base64.RawStdEncoding.EncodeToString(ed25519.Sign(k.priv, msg))}}}
	for f, v := range o {
		out[f] = v
	}
	return out
}

func (d *device) identity(k keypair) obj {
	return obj{"user_id": d.user, "device_id": d.id, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": obj{"ed25519:" + string(d.id): k.pub, "curve25519:" + string(d.id): newKey(d.n.t).pub}}
}

// publish uploads identity keys and one-time keys of those ids.
func (d *device) publish(ids ...string) keypair {
	d.n.t.Helper()
	k := newKey(d.n.t)
	body := obj{"device_keys": k.sign(d.n.t, d.identity(k), d.user, string(d.id))}
	otks := obj{}
	for _, id := range ids {
		otks["signed_curve25519:"+id] = k.sign(d.n.t, obj{"key": newKey(d.n.t).pub}, d.user, string(d.id))
	}
	body["one_time_keys"] = otks
	if got := at(d.do("POST", "/keys/upload", body).ok(), "one_time_key_counts", "signed_curve25519"); got != float64(len(ids)) {
		d.n.t.Fatalf("%v one-time keys of %d", got, len(ids))
	}
	return k
}

func crossKeys(t testing.TB, user any) obj {
	m := newKey(t)
	key := func(usage string, k keypair) obj {
		return obj{"user_id": user, "usage": []string{usage}, "keys": obj{"ed25519:" + k.pub: k.pub}}
	}
	return obj{"master_key": key("master", m),
		"self_signing_key": m.sign(t, key("self_signing", newKey(t)), user, m.pub),
		"user_signing_key": m.sign(t, key("user_signing", newKey(t)), user, m.pub)}
}

func proof(password string) obj { return obj{"type": "m.login.password", "password": password} }

func names(l []any) (out []string) {
	for _, x := range l {
		out = append(out, fmt.Sprint(x))
	}
	slices.Sort(out)
	return out
}

func (d *device) next(since string) string {
	d.n.t.Helper()
	return d.sync(since)["next_batch"].(string)
}

func TestKeysAreQueriedAndClaimed(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	alice.publish("A")
	alice.do("PUT", "/devices/"+esc(alice.id), obj{"display_name": "Telephone"}).ok()
	o := bob.do("POST", "/keys/query", obj{"device_keys": obj{string(alice.user): []string{}, "@x:example.org": []string{}}}).ok()
	if at(o, "device_keys", string(alice.user), string(alice.id), "unsigned", "device_display_name") != "Telephone" {
		t.Errorf("%v", o)
	}
	if at(o, "device_keys", "@x:example.org") != nil || at(o, "failures", "example.org") == nil {
		t.Errorf("of another server: %v", o)
	}
	o = bob.do("POST", "/keys/query", obj{"device_keys": obj{string(alice.user): []string{"NONE"}}}).ok()
	if got := at(o, "device_keys", string(alice.user)).(obj); len(got) != 0 {
		t.Errorf("a device that is not there: %v", got)
	}
	claim := obj{"one_time_keys": obj{string(alice.user): obj{string(alice.id): "signed_curve25519"}}}
	o = bob.do("POST", "/keys/claim", claim).ok()
	if at(o, "one_time_keys", string(alice.user), string(alice.id), "signed_curve25519:A", "key") == nil {
		t.Errorf("%v", o)
	}
	if o = bob.do("POST", "/keys/claim", claim).ok(); len(at(o, "one_time_keys").(obj)) != 0 {
		t.Errorf("claimed twice: %v", o)
	}
	for path, body := range map[string]any{"/keys/query": obj{}, "/keys/claim": obj{}} {
		bob.do("POST", path, body).fails(400, "M_MISSING_PARAM")
		bob.do("POST", path, obj{"device_keys": 1, "one_time_keys": 1}).fails(400, "M_BAD_JSON")
	}
	bob.do("POST", "/keys/upload", obj{"device_keys": alice.identity(newKey(t))}).fails(400, "M_INVALID_PARAM")
	bob.do("POST", "/keys/upload", obj{"device_keys": bob.identity(newKey(t))}).fails(400, "M_INVALID_SIGNATURE")
}

func TestCrossSigningAsksForThePasswordOnlyToReplaceKeys(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	const path = "/keys/device_signing/upload"
	for _, prefix := range []string{"/_matrix/client/v3", "/_matrix/client/unstable", "/_matrix/client/r0"} {
		a := alice.do("POST", prefix+path, obj{})
		if o := a.object(); a.status != 401 || len(list(o, "flows")) == 0 || o["session"] == "" {
			t.Errorf("%s with an empty body: %d %v", prefix, a.status, o)
		}
	}
	first, second := crossKeys(t, alice.user), crossKeys(t, alice.user)
	alice.do("POST", path, first).ok()
	alice.do("POST", path, first).ok()
	if a := alice.do("POST", path, second); a.status != 401 || len(list(a.object(), "flows")) == 0 {
		t.Errorf("another master key without a proof: %d", a.status)
	}
	second["auth"] = proof("wrong")
	alice.do("POST", path, second).fails(401, "M_FORBIDDEN")
	query := func() any {
		return at(alice.do("POST", "/keys/query", obj{"device_keys": obj{string(alice.user): []string{}}}).ok(), "master_keys", string(alice.user), "keys")
	}
	if got := fmt.Sprint(query()); got != fmt.Sprint(first["master_key"].(obj)["keys"]) {
		t.Errorf("the refused key is there: %v", got)
	}
	second["auth"] = proof(password)
	alice.do("POST", path, second).ok()
	if got := fmt.Sprint(query()); got != fmt.Sprint(second["master_key"].(obj)["keys"]) {
		t.Errorf("after the proof: %v", got)
	}
	o := alice.do("POST", "/keys/signatures/upload", obj{string(alice.user): obj{"NONE": obj{}}}).ok()
	if at(o, "failures", string(alice.user), "NONE", "errcode") != "M_NOT_FOUND" {
		t.Errorf("%v", o)
	}
}

func TestSyncTellsWhoseDevicesChanged(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.meet(bob)
	since := alice.next("")
	changed := func(d *device, since string) ([]string, []string, string) {
		t.Helper()
		o := d.sync(since)
		to := o["next_batch"].(string)
		c, l := names(list(o, "device_lists", "changed")), names(list(o, "device_lists", "left"))
		k := d.do("GET", "/keys/changes?from="+since+"&to="+to, nil).ok()
		if !slices.Equal(names(list(k, "changed")), c) || !slices.Equal(names(list(k, "left")), l) {
			t.Errorf("/keys/changes says %v, /sync %v and %v", k, c, l)
		}
		return c, l, to
	}
	want := func(what string, d *device, since string, wantChanged, wantLeft []string) string {
		t.Helper()
		c, l, to := changed(d, since)
		if !slices.Equal(c, wantChanged) || !slices.Equal(l, wantLeft) {
			t.Errorf("%s: changed %v, left %v; want %v, %v", what, c, l, wantChanged, wantLeft)
		}
		return to
	}
	a, b, c := string(alice.user), string(bob.user), string(carol.user)
	since = want("nothing", alice, since, nil, nil)
	carol.publish()
	since = want("a stranger's device", alice, since, nil, nil)
	bob.publish()
	since = want("a member's device", alice, since, []string{b}, nil)
	alice.publish()
	since = want("one's own device", alice, since, []string{a}, nil)
	carol.do("POST", "/join/"+esc(r), obj{}).ok()
	since = want("a newcomer", alice, since, []string{c}, nil)
	bob.do("POST", "/keys/device_signing/upload", crossKeys(t, bob.user)).ok()
	since = want("cross-signing keys", alice, since, []string{b}, nil)
	second := alice.meet(bob, carol)
	since = alice.next(since)
	carol.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	since = want("one of two rooms left", alice, since, nil, nil)
	carol.do("POST", "/rooms/"+esc(second)+"/leave", obj{}).ok()
	since = want("the last common room left", alice, since, nil, []string{c})
	carol.publish()
	since = want("somebody who left", alice, since, nil, nil)
	bob.do("POST", "/logout", nil).ok()
	since = want("a logout", alice, since, []string{b}, nil)
	from := alice.next(since)
	alice.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	alice.do("POST", "/rooms/"+esc(second)+"/leave", obj{}).ok()
	alice.do("POST", "/rooms/"+esc(second)+"/forget", obj{}).ok()
	want("left oneself, and forgot", alice, from, nil, []string{b})
	for path, code := range map[string]string{"/keys/changes": "M_MISSING_PARAM", "/keys/changes?from=s1_1": "M_MISSING_PARAM", "/keys/changes?from=x&to=s1_1": "M_INVALID_PARAM"} {
		alice.do("GET", path, nil).fails(400, code)
	}
}

// TestSharingAgreesWithAModel: whoever joins, leaves, is kicked or comes back in some rooms between two syncs, the lists say who came and
// who is gone; a user who was there before and after may be among changed only, never among left.
func TestSharingAgreesWithAModel(t *testing.T) {
	n := newNode(t)
	people := []*device{n.person("alice"), n.person("bob"), n.person("carol"), n.person("dave")}
	rapid.Check(t, func(rt *rapid.T) {
		owner := n.person("owner")
		rooms := []string{owner.meet(), owner.meet()}
		in := map[string]map[int]bool{rooms[0]: {}, rooms[1]: {}}
		shares := func() (out []string) {
			for i, p := range people[1:] {
				for _, r := range rooms {
					if in[r][0] && in[r][i+1] && !slices.Contains(out, string(p.user)) {
						out = append(out, string(p.user))
					}
				}
			}
			return out
		}
		me := people[0]
		since := me.next("")
		for range rapid.IntRange(1, 4).Draw(rt, "syncs") {
			before := shares()
			wasIn := in[rooms[0]][0] || in[rooms[1]][0]
			for range rapid.IntRange(0, 6).Draw(rt, "moves") {
				i, r := rapid.IntRange(0, 3).Draw(rt, "who"), rapid.SampledFrom(rooms).Draw(rt, "room")
				if in[r][i] {
					people[i].do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
				} else {
					people[i].do("POST", "/join/"+esc(r), obj{}).ok()
				}
				in[r][i] = !in[r][i]
			}
			after := shares()
			o := me.sync(since)
			since = o["next_batch"].(string)
			changed, left := names(list(o, "device_lists", "changed")), names(list(o, "device_lists", "left"))
			ownerCame := (in[rooms[0]][0] || in[rooms[1]][0]) && !wasIn
			if ownerCame != slices.Contains(changed, string(owner.user)) && !wasIn {
				rt.Fatalf("the owner: %v, changed %v", ownerCame, changed)
			}
			for _, p := range people[1:] {
				u := string(p.user)
				was, is := slices.Contains(before, u), slices.Contains(after, u)
				if !was && is && !slices.Contains(changed, u) {
					rt.Fatalf("%s came, changed %v", u, changed)
				}
				if slices.Contains(left, u) != (was && !is) {
					rt.Fatalf("%s was %v, is %v, left %v", u, was, is, left)
				}
				if !is && slices.Contains(changed, u) {
					rt.Fatalf("%s is not there, changed %v", u, changed)
				}
			}
		}
		for i, p := range people { // for the next run
			for _, r := range rooms {
				if in[r][i] {
					p.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
				}
			}
		}
	})
}

// TestAWaitingSyncIsWokenForKeys: by a member's new device, by a claim of a one-time key, by a to-device event, at once.
func TestAWaitingSyncIsWokenForKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice, bob := n.person("alice"), n.person("bob")
		alice.meet(bob)
		alice.publish("A")
		since := alice.next(alice.next(""))
		poll := func(cause func(), found func(o obj) bool) {
			t.Helper()
			got := make(chan answer, 1)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			go func() { got <- n.requestCtx(ctx, alice.token, "GET", "/sync?timeout=60000&since="+since, nil) }()
			synctest.Wait()
			start := time.Now()
			cause()
			o := (<-got).ok()
			if !found(o) || time.Since(start) > time.Second {
				t.Errorf("after %v: %v", time.Since(start), o)
			}
			since = o["next_batch"].(string)
		}
		poll(func() { bob.publish() }, func(o obj) bool { return len(list(o, "device_lists", "changed")) == 1 })
		poll(func() {
			bob.do("POST", "/keys/claim", obj{"one_time_keys": obj{string(alice.user): obj{string(alice.id): "signed_curve25519"}}}).ok()
		}, func(o obj) bool { return at(o, "device_one_time_keys_count", "signed_curve25519") == 0.0 })
		poll(func() {
			bob.do("PUT", "/sendToDevice/m.x/1", obj{"messages": obj{string(alice.user): obj{"*": obj{"a": 1}}}}).ok()
		}, func(o obj) bool { return len(list(o, "to_device", "events")) == 1 })
		poll(func() { bob.do("POST", "/logout", nil).ok() }, func(o obj) bool { return len(list(o, "device_lists", "changed")) == 1 })
	})
}

func TestSyncCountsKeysAlways(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	for _, since := range []string{"", alice.next("")} {
		o := alice.sync(since)
		if at(o, "device_one_time_keys_count", "signed_curve25519") != 0.0 {
			t.Errorf("since %q: counts %v", since, o["device_one_time_keys_count"])
		}
		if l, ok := o["device_unused_fallback_key_types"].([]any); !ok || len(l) != 0 {
			t.Errorf("since %q: fallback keys %v", since, o["device_unused_fallback_key_types"])
		}
	}
	k := alice.publish("A", "B")
	fallback := k.sign(t, obj{"key": newKey(t).pub, "fallback": true}, alice.user, string(alice.id))
	alice.do("POST", "/keys/upload", obj{"org.matrix.msc2732.fallback_keys": obj{"signed_curve25519:F": fallback}}).ok()
	o := alice.sync("")
	if at(o, "device_one_time_keys_count", "signed_curve25519") != 2.0 || at(o, "device_unused_fallback_key_types", 0) != "signed_curve25519" {
		t.Errorf("%v", o)
	}
}

func TestToDeviceEventsComeOnceHoweverManyWait(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	since := alice.next("")
	const events = 2*maxToDevice + 7
	for i := range events {
		for range 1 + i%2 { // some are sent twice
			bob.do("PUT", fmt.Sprint("/sendToDevice/m.x/t", i), obj{"messages": obj{string(alice.user): obj{string(alice.id): obj{"body": fmt.Sprint(i)}}}}).ok()
		}
	}
	var got []string
	syncs := 0
	for {
		o := alice.sync(since)
		if again := alice.sync(since); !slices.Equal(bodies(list(again, "to_device", "events")), bodies(list(o, "to_device", "events"))) {
			t.Fatal("a repeated request got another answer")
		}
		page := list(o, "to_device", "events")
		if len(page) == 0 {
			break
		}
		syncs++
		for _, e := range page {
			if at(e, "sender") != string(bob.user) || at(e, "type") != "m.x" {
				t.Fatalf("%v", e)
			}
		}
		got = append(got, bodies(page)...)
		since = o["next_batch"].(string)
		alice.do("GET", "/keys/changes?from="+since+"&to="+since, nil).ok() // any token serves everywhere
	}
	for i, b := range got {
		if b != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, b)
		}
	}
	if len(got) != events || syncs != 3 {
		t.Errorf("%d of %d events in %d answers", len(got), events, syncs)
	}
	alice.do("PUT", "/sendToDevice/m.x/1", obj{}).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", "/sendToDevice/m.x/1", obj{"messages": obj{string(bob.user): obj{"*": 1}}}).fails(400, "M_BAD_JSON")
}

func TestDevicesAreRemovedWithAProof(t *testing.T) {
	n := newNode(t)
	alice, second, third, bob := n.person("alice"), n.person("alice"), n.person("alice"), n.person("bob")
	a := alice.do("DELETE", "/devices/"+esc(second.id), nil)
	if a.status != 401 || len(list(a.object(), "flows")) == 0 {
		t.Errorf("without a proof: %d %s", a.status, a.raw)
	}
	alice.do("DELETE", "/devices/"+esc(second.id), obj{"auth": proof("wrong")}).fails(401, "M_FORBIDDEN")
	second.do("GET", "/account/whoami", nil).ok()
	alice.do("DELETE", "/devices/"+esc(second.id), obj{"auth": proof(password)}).ok()
	second.do("GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	alice.do("POST", "/delete_devices", obj{"auth": proof(password), "devices": []any{third.id, bob.id}}).ok()
	third.do("GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	bob.do("GET", "/account/whoami", nil).ok()
	alice.do("POST", "/delete_devices", obj{"auth": proof(password)}).fails(400, "M_MISSING_PARAM")
	if l := list(alice.do("GET", "/devices", nil).ok(), "devices"); len(l) != 1 {
		t.Errorf("%v", l)
	}
}

func TestADeactivatedUserIsOutOfEveryRoom(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := bob.meet(alice)
	since := bob.next("")
	if a := alice.do("POST", "/account/deactivate", obj{}); a.status != 401 {
		t.Errorf("without a proof: %d", a.status)
	}
	alice.do("POST", "/account/deactivate", obj{"auth": proof(password), "erase": true}).ok()
	alice.do("GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	n.request("", "POST", "/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": password}).fails(403, "M_FORBIDDEN")
	if m := at(bob.do("GET", "/rooms/"+esc(r)+"/joined_members", nil).ok(), "joined").(obj); len(m) != 1 {
		t.Errorf("%v", m)
	}
	if got := names(list(bob.sync(since), "device_lists", "left")); !slices.Equal(got, []string{string(alice.user)}) {
		t.Errorf("left: %v", got)
	}
}
