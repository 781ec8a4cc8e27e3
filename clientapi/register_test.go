// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"sync"
	"testing"

	"tarn/store"
)

func stagesOf(o obj) (out []string) {
	for _, f := range list(o, "flows") {
		for _, s := range list(f, "stages") {
			out = append(out, s.(string))
		}
	}
	return out
}

func TestRegistrationNeedsAToken(t *testing.T) {
	n := newNode(t)
	token, err := n.accounts.NewRegistrationToken(0)
	if err != nil {
		t.Fatal(err)
	}
	a := n.request("", "POST", "/register", obj{"username": "alice", "password": password})
	o := a.object()
	if got := stagesOf(o); a.status != 401 || len(got) != 1 || got[0] != "m.login.registration_token" || o["session"] == "" {
		t.Fatalf("%d %v", a.status, o)
	}
	if o["params"] == nil || o["errcode"] != nil {
		t.Errorf("the first answer is no error: %v", o)
	}
	try := func(auth obj) answer {
		auth["session"] = o["session"]
		return n.request("", "POST", "/register", obj{"username": "alice", "password": password, "auth": auth, "initial_device_display_name": "phone"})
	}
	e := try(obj{"type": "m.login.registration_token", "token": "wrong"}).fails(401, "M_FORBIDDEN")
	if len(stagesOf(e)) != 1 || e["session"] != o["session"] {
		t.Errorf("a failed stage: %v", e)
	}
	try(obj{"type": "m.login.dummy"}).fails(401, "M_UNRECOGNIZED") // not open
	try(obj{"type": "m.login.registration_token"}).fails(401, "M_MISSING_PARAM")

	validity := "/_matrix/client/v1/register/m.login.registration_token/validity?token="
	if v := n.request("", "GET", validity+token, nil).ok(); v["valid"] != true {
		t.Errorf("a good token: %v", v)
	}
	good := try(obj{"type": "m.login.registration_token", "token": token}).ok()
	if good["user_id"] != "@alice:"+string(n.server) {
		t.Errorf("%v", good)
	}
	n.request(good["access_token"].(string), "GET", "/account/whoami", nil).ok()
	if v := n.request("", "GET", validity+token, nil).ok(); v["valid"] != false {
		t.Errorf("a used token: %v", v)
	}
	// The name is checked before the stages.
	try(obj{"type": "m.login.registration_token", "token": token}).fails(400, "M_USER_IN_USE")
	n.request("", "POST", "/register", obj{"username": "bob", "password": password, "auth": obj{"type": "m.login.registration_token", "token": token}}).fails(401, "M_FORBIDDEN")
}

func TestATokenIsNotSpentOnARegistrationThatFails(t *testing.T) {
	n := newNode(t)
	token, _ := n.accounts.NewRegistrationToken(0)
	auth := obj{"type": "m.login.registration_token", "token": token}
	n.request("", "POST", "/register", obj{"username": "Bad Name", "password": password, "auth": auth}).fails(400, "M_INVALID_USERNAME")
	n.request("", "POST", "/register", obj{"username": "alice", "password": "short", "auth": auth}).fails(400, "M_WEAK_PASSWORD")
	n.request("", "POST", "/register", obj{"username": "alice", "auth": auth}).fails(400, "M_MISSING_PARAM")
	n.request("", "POST", "/register", obj{"username": "alice", "password": password, "auth": auth}).ok()
}

func TestOneTokenRegistersOneOfManyAtOnce(t *testing.T) {
	n := newNode(t)
	token, _ := n.accounts.NewRegistrationToken(0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for _, name := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			a := n.request("", "POST", "/register", obj{"username": name, "password": password, "auth": obj{"type": "m.login.registration_token", "token": token}})
			mu.Lock()
			defer mu.Unlock()
			if a.status == 200 {
				made++
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("one token made %d users", made)
	}
}

func TestOpenRegistrationTakesDummy(t *testing.T) {
	n := newNode(t, func(c *Config) { c.OpenRegistration = true })
	a := n.request("", "POST", "/register", obj{})
	if got := stagesOf(a.object()); a.status != 401 || len(got) != 2 {
		t.Errorf("flows: %v", a.raw)
	}
	o := n.request("", "POST", "/register", obj{"username": "alice", "password": password, "auth": obj{"type": "m.login.dummy"}}).ok()
	if o["access_token"] == nil || o["device_id"] == nil {
		t.Errorf("%v", o)
	}
	o = n.request("", "POST", "/register", obj{"username": "bob", "password": password, "inhibit_login": true, "auth": obj{"type": "m.login.dummy"}}).ok()
	if o["access_token"] != nil || o["user_id"] != "@bob:"+string(n.server) {
		t.Errorf("inhibit_login: %v", o)
	}
	o = n.request("", "POST", "/register", obj{"password": password, "auth": obj{"type": "m.login.dummy"}}).ok()
	if o["user_id"] == "" {
		t.Errorf("without a name: %v", o)
	}
}

func TestRegisterRefusesGuestsAndTakenNames(t *testing.T) {
	n := newNode(t)
	n.person("alice")
	n.request("", "POST", "/register?kind=guest", obj{}).fails(403, "M_GUEST_ACCESS_FORBIDDEN")
	n.request("", "POST", "/register?kind=robot", obj{}).fails(400, "M_INVALID_PARAM")
	n.request("", "POST", "/register", obj{"username": "alice"}).fails(400, "M_USER_IN_USE")
	n.request("", "GET", "/register/available?username=alice", nil).fails(400, "M_USER_IN_USE")
	n.request("", "GET", "/register/available?username=A%20B", nil).fails(400, "M_INVALID_USERNAME")
	n.request("", "GET", "/register/available", nil).fails(400, "M_MISSING_PARAM")
	if o := n.request("", "GET", "/register/available?username=bob", nil).ok(); o["available"] != true {
		t.Errorf("%v", o)
	}
}

func TestRegistrationIsLimited(t *testing.T) {
	n := openNode(t, store.OpenMemory(), false)
	for i := range limitBurst + 1 {
		a := n.request("", "GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=guess", nil)
		if i < limitBurst {
			a.ok()
		} else if o := a.fails(429, "M_LIMIT_EXCEEDED"); o["retry_after_ms"] == nil {
			t.Errorf("%v", o)
		}
	}
}

func TestLimiterKeepsBoundedMemory(t *testing.T) {
	var l limiter
	for i := range 10 * limitKeys {
		l.take(string(rune(i)))
	}
	if len(l.full) > limitKeys {
		t.Errorf("%d addresses remembered", len(l.full))
	}
}
