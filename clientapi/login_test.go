// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/store"
)

func TestLoginFlowsOfferPasswordAndToken(t *testing.T) {
	o := newNode(t).request("", "GET", "/login", nil).ok()
	if at(o, "flows", 0, "type") != "m.login.password" || at(o, "flows", 1, "type") != "m.login.token" ||
		at(o, "flows", 1, "get_login_token") != true || len(list(o, "flows")) != 2 {
		t.Errorf("%v", o)
	}
}

func TestLoginTakesEachFormOfIdentifier(t *testing.T) {
	n := newNode(t)
	alice := string(n.person("alice").user)
	for _, body := range []obj{
		{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": password},
		{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": alice}, "password": password},
		{"type": "m.login.password", "user": "alice", "password": password},
		{"type": "m.login.password", "user": alice, "password": password},
		{"type": "m.login.password", "user": "Alice", "password": password, "device_id": nil},
	} {
		o := n.request("", "POST", "/login", body).ok()
		if o["user_id"] != alice || o["access_token"] == "" || o["device_id"] == "" {
			t.Errorf("%v gave %v", body, o)
		}
		if o["refresh_token"] != nil || o["expires_in_ms"] != nil {
			t.Errorf("a client that cannot refresh got %v", o)
		}
		if at(o, "well_known", "m.homeserver", "base_url") == nil {
			t.Errorf("no well_known: %v", o)
		}
		w := n.request(o["access_token"].(string), "GET", "/account/whoami", nil).ok()
		if w["device_id"] != o["device_id"] {
			t.Errorf("whoami %v, login %v", w, o)
		}
	}
}

func TestLoginRefuses(t *testing.T) {
	n := newNode(t)
	n.person("alice")
	id := func(user string) obj { return obj{"type": "m.id.user", "user": user} }
	for _, c := range []struct {
		name   string
		body   obj
		status int
		code   string
	}{
		{"wrong password", obj{"type": "m.login.password", "identifier": id("alice"), "password": "wrong horse"}, 403, "M_FORBIDDEN"},
		{"unknown user", obj{"type": "m.login.password", "identifier": id("nobody"), "password": password}, 403, "M_FORBIDDEN"},
		{"user of another server", obj{"type": "m.login.password", "identifier": id("@alice:example.org"), "password": password}, 403, "M_FORBIDDEN"},
		{"e-mail", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.thirdparty", "medium": "email", "address": "a@b"}, "password": password}, 403, "M_FORBIDDEN"},
		{"unknown identifier", obj{"type": "m.login.password", "identifier": obj{"type": "org.x"}, "password": password}, 400, "M_UNKNOWN"},
		{"unknown type", obj{"type": "m.login.sso"}, 400, "M_UNKNOWN"},
		{"a wrong login token", obj{"type": "m.login.token", "token": "x"}, 403, "M_FORBIDDEN"},
		{"another type", obj{"type": "m.login.sso", "token": "x"}, 400, "M_UNKNOWN"},
		{"no type", obj{"identifier": id("alice"), "password": password}, 400, "M_MISSING_PARAM"},
		{"no password", obj{"type": "m.login.password", "identifier": id("alice")}, 400, "M_MISSING_PARAM"},
		{"no user", obj{"type": "m.login.password", "password": password}, 400, "M_MISSING_PARAM"},
		{"long device id", obj{"type": "m.login.password", "identifier": id("alice"), "password": password, "device_id": strings.Repeat("D", 300)}, 400, "M_INVALID_PARAM"},
	} {
		t.Run(c.name, func(t *testing.T) { n.request("", "POST", "/login", c.body).fails(c.status, c.code) })
	}
}

func TestLoginWithADeviceIDEndsThatDevicesOldToken(t *testing.T) {
	n := newNode(t)
	n.person("alice")
	login := func() string {
		o := n.request("", "POST", "/login", obj{"type": "m.login.password", "user": "alice", "password": password, "device_id": "PHONE"}).ok()
		if o["device_id"] != "PHONE" {
			t.Fatalf("%v", o)
		}
		return o["access_token"].(string)
	}
	first, second := login(), login()
	n.request(first, "GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	n.request(second, "GET", "/account/whoami", nil).ok()
}

func TestTooManyWrongPasswordsAnswer429WithTheWait(t *testing.T) {
	n := openNode(t, store.OpenMemory(), false)
	n.person("alice")
	for range 100 {
		a := n.request("", "POST", "/login", obj{"type": "m.login.password", "user": "alice", "password": "wrong horse"})
		if a.status == 403 {
			continue
		}
		o := a.fails(429, "M_LIMIT_EXCEEDED")
		if ms, ok := o["retry_after_ms"].(float64); !ok || ms <= 0 {
			t.Errorf("retry_after_ms: %v", o)
		}
		if s := a.header.Get("Retry-After"); s == "" || s == "0" {
			t.Errorf("Retry-After: %q", s)
		}
		return
	}
	t.Fatal("a hundred wrong passwords and no limit")
}

func TestRefreshedTokensReplaceTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.person("alice")
		o := n.request("", "POST", "/login", obj{"type": "m.login.password", "user": "alice", "password": password, "refresh_token": true}).ok()
		access, refresh := o["access_token"].(string), o["refresh_token"].(string)
		life := time.Duration(o["expires_in_ms"].(float64)) * time.Millisecond
		n.request(access, "GET", "/account/whoami", nil).ok()
		time.Sleep(life + time.Second) // fake time
		if e := n.request(access, "GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN"); e["soft_logout"] != true {
			t.Errorf("an expired token answers %v", e)
		}
		for _, v := range []string{"/_matrix/client/v3", "/_matrix/client/v1"} {
			o = n.request("", "POST", v+"/refresh", obj{"refresh_token": refresh}).ok()
			access, refresh = o["access_token"].(string), o["refresh_token"].(string)
			n.request(access, "GET", "/account/whoami", nil).ok()
		}
		n.request("", "POST", "/refresh", obj{"refresh_token": "tarn_rt_wrong"}).fails(401, "M_UNKNOWN_TOKEN")
		n.request("", "POST", "/refresh", obj{}).fails(400, "M_MISSING_PARAM")
	})
}

func TestLogoutEndsOneOrAllSessions(t *testing.T) {
	n := newNode(t)
	one, two, three := n.person("alice"), n.person("alice"), n.person("alice")
	one.do("POST", "/logout", nil).ok()
	one.do("GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	two.do("GET", "/account/whoami", nil).ok()
	two.do("POST", "/logout/all", obj{}).ok()
	two.do("GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
	three.do("GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}
