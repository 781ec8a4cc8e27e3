// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/account"
)

func TestLoginTokensAreForOneLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice := n.person("alice")
		get := "/_matrix/client/v1/login/get_token"
		flows := alice.do("POST", get, obj{})
		if flows.status != 401 || at(flows.object(), "flows", 0, "stages", 0) != "m.login.password" {
			t.Fatalf("%d %s", flows.status, flows.raw)
		}
		auth := obj{"auth": obj{"type": "m.login.password", "password": password}}
		o := alice.do("POST", get, auth).ok()
		if o["expires_in_ms"] != 120000.0 {
			t.Errorf("%v", o)
		}
		use := func(token any) answer {
			return n.request("", "POST", "/login", obj{"type": "m.login.token", "token": token})
		}
		s := use(o["login_token"]).ok()
		if s["user_id"] != string(alice.user) || s["device_id"] == string(alice.id) {
			t.Errorf("%v", s)
		}
		use(o["login_token"]).fails(403, "M_FORBIDDEN")
		use("nonsense").fails(403, "M_FORBIDDEN")
		use("").fails(400, "M_MISSING_PARAM")
		o = alice.do("POST", get, auth).ok()
		time.Sleep(2 * time.Minute)
		use(o["login_token"]).fails(403, "M_FORBIDDEN")
		n.request("", "POST", get, auth).fails(401, "M_MISSING_TOKEN")
	})
}

func (n *node) standing(d *device, s account.Standing) {
	n.t.Helper()
	if err := n.accounts.SetStanding(d.user, s); err != nil {
		n.t.Fatal(err)
	}
}

func TestALockedUserCanOnlyLogOut(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	n.standing(alice, account.Standing{Locked: true})
	for _, c := range [][2]string{{"GET", "/sync"}, {"GET", "/account/whoami"}, {"POST", "/createRoom"}, {"GET", "/rooms/" + esc(r) + "/messages?dir=b"},
		{"GET", "/_matrix/client/v1/media/config"}, {"GET", "/profile/" + esc(alice.user)}} {
		if o := alice.do(c[0], c[1], nil).fails(401, "M_USER_LOCKED"); o["soft_logout"] != true {
			t.Errorf("%v: %v", c, o)
		}
	}
	login := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": password}
	n.request("", "POST", "/login", login).fails(401, "M_USER_LOCKED")
	login["password"] = "wrong one"
	n.request("", "POST", "/login", login).fails(403, "M_FORBIDDEN") // no guesser learns of it
	n.standing(alice, account.Standing{})
	alice.do("GET", "/account/whoami", nil).ok() // the session was kept
	n.standing(alice, account.Standing{Locked: true})
	alice.do("POST", "/logout", obj{}).ok()
}

func TestALockEndsAWaitingSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice := n.person("alice")
		since := alice.sync("")["next_batch"].(string)
		got := make(chan answer)
		go func() { got <- alice.do("GET", "/sync?timeout=300000&since="+since, nil) }()
		synctest.Wait()
		n.standing(alice, account.Standing{Locked: true})
		(<-got).fails(401, "M_USER_LOCKED")
	})
}

func TestASuspendedUserReadsAndLeaves(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := bob.meet(alice)
	other := bob.create(obj{"preset": "public_chat"})
	own := alice.say(r, "mine")
	theirs := bob.say(r, "theirs")
	n.standing(alice, account.Standing{Suspended: true})
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"PUT", "/rooms/" + esc(r) + "/send/m.room.message/x", obj{"body": "x"}},
		{"PUT", "/rooms/" + esc(r) + "/state/m.room.topic", obj{"topic": "x"}},
		{"POST", "/join/" + esc(other), obj{}},
		{"POST", "/createRoom", obj{}},
		{"POST", "/rooms/" + esc(r) + "/invite", obj{"user_id": "@carol:" + string(n.server)}},
		{"PUT", "/profile/" + esc(alice.user) + "/displayname", obj{"displayname": "x"}},
		{"PUT", "/profile/" + esc(alice.user) + "/m.tz", obj{"m.tz": "x"}},
		{"POST", "/_matrix/media/v3/upload", "x"},
		{"PUT", "/rooms/" + esc(r) + "/redact/" + esc(theirs) + "/r1", obj{}},
	} {
		alice.do(c.method, c.path, c.body).fails(403, "M_USER_SUSPENDED")
	}
	alice.sync("")
	alice.do("GET", "/rooms/"+esc(r)+"/messages?dir=b", nil).ok()
	alice.do("PUT", "/rooms/"+esc(r)+"/redact/"+esc(own)+"/r2", obj{}).ok()
	alice.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	n.person("alice").do("POST", "/logout", obj{}).ok()
	n.standing(alice, account.Standing{})
	alice.do("POST", "/join/"+esc(other), obj{}).ok()
}

// Each name in the lists is a route.
func TestListsOfStandingNameRoutes(t *testing.T) {
	routes := map[string]bool{}
	for _, r := range table {
		routes[r.method+" "+r.path] = true
	}
	for _, name := range append(append([]string{}, notLocked...), notSuspended...) {
		if !routes[name] {
			t.Errorf("%s is no route", name)
		}
	}
}

func TestProfileFields(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	me := "/profile/" + esc(alice.user)
	alice.do("PUT", me+"/m.tz", obj{"m.tz": "Europe/Berlin"}).ok()
	alice.do("PUT", me+"/org.x", `{"org.x": {"a": [1, null]} }`).ok()
	alice.do("PUT", me+"/displayname", obj{"displayname": "Alice"}).ok()
	o := bob.do("GET", me, nil).ok()
	if o["m.tz"] != "Europe/Berlin" || at(o, "org.x", "a", 0) != 1.0 || o["displayname"] != "Alice" {
		t.Errorf("%v", o)
	}
	if o := n.request("", "GET", me+"/m.tz", nil).ok(); len(o) != 1 || o["m.tz"] != "Europe/Berlin" {
		t.Errorf("%v", o)
	}
	alice.do("DELETE", me+"/m.tz", nil).ok()
	alice.do("DELETE", me+"/m.tz", nil).ok()
	alice.do("GET", me+"/m.tz", nil).fails(404, "M_NOT_FOUND")
	alice.do("DELETE", me+"/displayname", nil).ok()
	if o := bob.do("GET", me, nil).ok(); o["displayname"] != nil || o["org.x"] == nil {
		t.Errorf("%v", o)
	}
	alice.do("PUT", me+"/m.tz", obj{"other": "x"}).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", me+"/m.tz", `[]`).fails(400, "M_BAD_JSON")
	alice.do("PUT", me+"/UPPER", obj{"UPPER": "x"}).fails(400, "M_INVALID_PARAM")
	long := "x" + strings.Repeat("y", 255)
	alice.do("PUT", me+"/"+long, obj{long: "x"}).fails(400, "M_KEY_TOO_LARGE")
	alice.do("PUT", me+"/big", obj{"big": strings.Repeat("x", 64<<10)}).fails(400, "M_PROFILE_TOO_LARGE")
	bob.do("PUT", me+"/m.tz", obj{"m.tz": "x"}).fails(403, "M_FORBIDDEN")
	bob.do("DELETE", me+"/org.x", nil).fails(403, "M_FORBIDDEN")
	bob.do("GET", "/profile/"+esc("@nobody:"+string(n.server))+"/m.tz", nil).fails(404, "M_NOT_FOUND")
	if c := alice.do("GET", "/capabilities", nil).ok(); at(c, "capabilities", "m.profile_fields", "enabled") != true {
		t.Errorf("%v", c)
	}
}

func TestPresenceOfLocalUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
		alice.meet(bob)
		at1 := func(d *device, since string, query ...string) (string, any) {
			t.Helper()
			o := d.sync(since, query...)
			return o["next_batch"].(string), at(o, "presence", "events", 0)
		}
		since, p := at1(alice, "")
		if p != nil {
			t.Errorf("presence of nobody: %v", p)
		}
		// Bob comes: a waiting client of alice's hears of it, carol, who shares no room, does not.
		got := make(chan obj)
		go func() { got <- alice.sync(since, "timeout", "300000") }()
		synctest.Wait()
		bobSince, _ := at1(bob, "", "set_presence", "offline")
		synctest.Wait()
		select {
		case o := <-got:
			t.Errorf("woken by who is offline: %v", o)
		default:
		}
		bob.sync(bobSince)
		o := <-got
		since = o["next_batch"].(string)
		if e := at(o, "presence", "events", 0); at(e, "type") != "m.presence" || at(e, "sender") != string(bob.user) || at(e, "content", "presence") != "online" ||
			at(e, "content", "currently_active") != true || at(e, "content", "last_active_ago") != 0.0 {
			t.Errorf("%v", o)
		}
		if _, p := at1(carol, ""); p != nil {
			t.Errorf("presence of a stranger: %v", p)
		}
		// He polls on and on: nothing new. Then he goes away.
		for range 5 {
			time.Sleep(30 * time.Second)
			bob.sync(bobSince)
		}
		if since, p = at1(alice, since); p != nil {
			t.Errorf("again: %v", p)
		}
		go func() { got <- alice.sync(since, "timeout", "300000") }()
		began := time.Now()
		o = <-got
		if e := at(o, "presence", "events", 0); at(e, "content", "presence") != "offline" || time.Since(began) != absentAfter {
			t.Errorf("after %v: %v", time.Since(began), o)
		}
		since = o["next_batch"].(string)
		status := "/presence/" + esc(bob.user) + "/status"
		bob.do("PUT", status, obj{"presence": "unavailable", "status_msg": "at lunch"}).ok()
		synctest.Wait() // who told of the last change may still be at it, and tells of this one too
		if since, p = at1(alice, since); at(p, "content", "presence") != "unavailable" || at(p, "content", "status_msg") != "at lunch" {
			t.Errorf("%v", p)
		}
		if o := alice.do("GET", status, nil).ok(); o["presence"] != "unavailable" || o["status_msg"] != "at lunch" {
			t.Errorf("%v", o)
		}
		if _, p := at1(alice, "", "filter", `{"presence":{"types":[]}}`); p != nil {
			t.Errorf("filtered: %v", p)
		}
		carol.do("GET", status, nil).fails(403, "M_FORBIDDEN")
		alice.do("PUT", status, obj{"presence": "online"}).fails(403, "M_FORBIDDEN")
		bob.do("PUT", status, obj{"presence": "asleep"}).fails(400, "M_INVALID_PARAM")
		bob.do("PUT", status, obj{}).fails(400, "M_MISSING_PARAM")
		bob.do("GET", "/sync?set_presence=asleep", nil).fails(400, "M_INVALID_PARAM")
		alice.do("GET", "/presence/"+esc("@nobody:"+string(n.server))+"/status", nil).fails(403, "M_FORBIDDEN")
	})
}

func TestIgnoredUsersAreNotHeard(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.meet(bob, carol)
	since := alice.sync("")["next_batch"].(string)
	alice.do("PUT", "/user/"+esc(alice.user)+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{string(bob.user): obj{}, string(alice.user): obj{}}}).ok()
	bob.say(r, "bob speaks")
	carol.say(r, "carol speaks")
	alice.say(r, "alice speaks") // who ignores herself hears herself
	bob.do("PUT", "/profile/"+esc(bob.user)+"/displayname", obj{"displayname": "Bobby"}).ok()
	bob.do("PUT", "/rooms/"+esc(r)+"/typing/"+esc(bob.user), obj{"typing": true}).ok()
	bob.do("POST", "/createRoom", obj{"invite": []string{string(alice.user)}}).ok()
	invited := carol.create(obj{"invite": []string{string(alice.user)}})
	o := alice.sync(since)
	j := at(o, "rooms", "join", r)
	if got := bodies(list(j, "timeline", "events")); len(got) != 2 || got[0] != "carol speaks" {
		t.Errorf("heard: %v", got)
	}
	named := false
	for _, e := range append(list(j, "timeline", "events"), list(j, "state", "events")...) {
		named = named || at(e, "content", "displayname") == "Bobby"
	}
	if !named {
		t.Error("state of an ignored user is not there")
	}
	for _, e := range list(j, "ephemeral", "events") {
		if at(e, "type") == "m.typing" && len(list(e, "content", "user_ids")) > 0 {
			t.Errorf("typing: %v", e)
		}
	}
	if inv, _ := at(o, "rooms", "invite").(obj); len(inv) != 1 || inv[invited] == nil {
		t.Errorf("invites: %v", inv)
	}
	alice.do("PUT", "/user/"+esc(alice.user)+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{}}).ok()
	bob.say(r, "again")
	if got := bodies(list(alice.sync(o["next_batch"].(string)), "rooms", "join", r, "timeline", "events")); len(got) != 1 {
		t.Errorf("no longer ignored: %v", got)
	}
}
