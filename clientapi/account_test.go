// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"strings"
	"testing"

	"tarn/matrix"
	"tarn/push"
)

func TestPasswordChangeAsksForTheOldOne(t *testing.T) {
	n := newNode(t)
	here, there := n.person("alice"), n.person("alice")
	a := here.do("POST", "/account/password", obj{"new_password": "battery staple"})
	o := a.object()
	if got := stagesOf(o); a.status != 401 || len(got) != 1 || got[0] != "m.login.password" || o["session"] == nil {
		t.Fatalf("%d %v", a.status, o)
	}
	auth := obj{"type": "m.login.password", "session": o["session"], "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": "wrong horse"}
	if e := here.do("POST", "/account/password", obj{"new_password": "battery staple", "auth": auth}).fails(401, "M_FORBIDDEN"); len(stagesOf(e)) != 1 {
		t.Errorf("%v", e)
	}
	n.person("mallory")
	auth["identifier"], auth["password"] = obj{"type": "m.id.user", "user": "mallory"}, password
	here.do("POST", "/account/password", obj{"new_password": "battery staple", "auth": auth}).fails(401, "M_FORBIDDEN")
	auth["identifier"] = obj{"type": "m.id.user", "user": string(here.user)}
	here.do("POST", "/account/password", obj{"new_password": "short", "auth": auth}).fails(400, "M_WEAK_PASSWORD")
	here.do("POST", "/account/password", obj{"auth": auth}).fails(400, "M_MISSING_PARAM")

	here.do("POST", "/account/password", obj{"new_password": "battery staple", "auth": auth, "logout_devices": false}).ok()
	there.do("GET", "/account/whoami", nil).ok()
	auth["password"] = "battery staple"
	here.do("POST", "/account/password", obj{"new_password": password, "auth": auth}).ok()
	here.do("GET", "/account/whoami", nil).ok() // the own session stays
	there.do("GET", "/account/whoami", nil).fails(401, "M_UNKNOWN_TOKEN")
}

func TestDevicesAreListedAndNamed(t *testing.T) {
	n := newNode(t)
	one, two := n.person("alice"), n.person("alice")
	bob := n.person("bob")
	one.do("PUT", "/devices/"+esc(two.id), obj{"display_name": "tablet"}).ok()
	one.do("PUT", "/devices/"+esc(two.id), obj{}).ok() // "if not given, unchanged"
	if l := list(one.do("GET", "/devices", nil).ok(), "devices"); len(l) != 2 {
		t.Errorf("%v", l)
	}
	o := one.do("GET", "/devices/"+esc(two.id), nil).ok()
	if o["display_name"] != "tablet" || o["device_id"] != string(two.id) {
		t.Errorf("%v", o)
	}
	bob.do("GET", "/devices/"+esc(two.id), nil).fails(404, "M_NOT_FOUND")
	bob.do("PUT", "/devices/"+esc(two.id), obj{"display_name": "mine"}).fails(404, "M_NOT_FOUND")
}

func TestAccountDataIsKeptAndOthersIsForbidden(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	path := "/user/" + esc(alice.user) + "/account_data/org.x"
	alice.do("GET", path, nil).fails(404, "M_NOT_FOUND")
	alice.do("PUT", path, `{"a":{"b":[1,2.5]}}`).ok()
	if a := alice.do("GET", path, nil); a.status != 200 || a.raw != `{"a":{"b":[1,2.5]}}` {
		t.Errorf("%d %s", a.status, a.raw)
	}
	bob.do("GET", path, nil).fails(403, "M_FORBIDDEN")
	bob.do("PUT", path, obj{}).fails(403, "M_FORBIDDEN")
	alice.do("PUT", path, `[]`).fails(400, "M_BAD_JSON")
	alice.do("PUT", path, `{"x":"`+strings.Repeat("x", 600<<10)+`"}`).fails(413, "M_TOO_LARGE")
	room := "/user/" + esc(alice.user) + "/rooms/" + esc("!r:x") + "/account_data/"
	alice.do("PUT", room+"org.x", obj{"c": 1}).ok()
	if o := alice.do("GET", room+"org.x", nil).ok(); o["c"] != 1.0 {
		t.Errorf("%v", o)
	}
	// "controlled by the server; it cannot be modified by clients"
	alice.do("PUT", room+"m.fully_read", obj{"event_id": "$x"}).fails(405, "M_BAD_JSON")
	alice.do("PUT", "/user/"+esc(alice.user)+"/account_data/m.push_rules", obj{}).fails(405, "M_BAD_JSON")
}

func TestTagsAreOneRoomDatum(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	base := "/user/" + esc(alice.user) + "/rooms/" + esc("!r:x") + "/tags"
	if o := alice.do("GET", base, nil).ok(); o["tags"] == nil {
		t.Errorf("no tags: %v", o)
	}
	alice.do("PUT", base+"/m.favourite", obj{"order": 0.25}).ok()
	alice.do("PUT", base+"/u.work", obj{}).ok()
	alice.do("PUT", base+"/u.bad", obj{"order": 2}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", base+"/u.bad", obj{"order": "first"}).fails(400, "M_BAD_JSON")
	bob.do("PUT", base+"/u.work", obj{}).fails(403, "M_FORBIDDEN")
	alice.do("DELETE", base+"/u.work", nil).ok()
	o := alice.do("GET", base, nil).ok()
	if at(o, "tags", "m.favourite", "order") != 0.25 || len(o["tags"].(obj)) != 1 {
		t.Errorf("%v", o)
	}
	d := alice.do("GET", "/user/"+esc(alice.user)+"/rooms/"+esc("!r:x")+"/account_data/m.tag", nil).ok()
	if at(d, "tags", "m.favourite", "order") != 0.25 {
		t.Errorf("%v", d)
	}
}

func TestConcurrentTagsAllStay(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	base := "/user/" + esc(alice.user) + "/rooms/" + esc("!r:x") + "/tags/u.t"
	done := make(chan struct{})
	for i := range 8 {
		go func() {
			alice.do("PUT", base+string(rune('a'+i)), obj{})
			done <- struct{}{}
		}()
	}
	for range 8 {
		<-done
	}
	o := alice.do("GET", strings.TrimSuffix(base, "/u.t"), nil).ok()
	if l := len(o["tags"].(obj)); l != 8 {
		t.Errorf("%d of 8 tags stay", l)
	}
}

func TestDefaultPushRulesAreThere(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	for _, path := range []string{"/pushrules/", "/pushrules"} {
		o := alice.do("GET", path, nil).ok()
		if at(o, "global", "override", 0, "rule_id") != ".m.rule.master" || at(o, "global", "override", 0, "enabled") != false {
			t.Errorf("%v", o)
		}
		for _, kind := range []string{"override", "content", "room", "sender", "underride"} {
			if _, ok := at(o, "global", kind).([]any); !ok {
				t.Errorf("no list %s", kind)
			}
		}
	}
	for _, path := range []string{"/pushrules/global/", "/pushrules/global"} {
		if o := alice.do("GET", path, nil).ok(); at(o, "content", 0, "pattern") != "alice" {
			t.Errorf("%v", o)
		}
	}
	if o := alice.do("GET", "/pushrules/global/underride/.m.rule.call/actions", nil).ok(); at(o, "actions", 1, "value") != "ring" {
		t.Errorf("%v", o)
	}
	if o := alice.do("GET", "/pushrules/global/override/.m.rule.master/enabled", nil).ok(); o["enabled"] != false {
		t.Errorf("%v", o)
	}
	alice.do("GET", "/pushrules/global/nokind/x", nil).fails(404, "M_NOT_FOUND")
	alice.do("GET", "/pushrules/global/override/x", nil).fails(404, "M_NOT_FOUND")
	alice.do("GET", "/user/"+esc(alice.user)+"/account_data/m.push_rules", nil).ok()
	// Each rule has what the spec requires of it.
	rules := push.Default(matrix.UserID("@alice:x"))
	seen := map[string]bool{}
	for _, kind := range []string{"override", "content", "underride"} {
		l := *rules.Kind(kind)
		for _, r := range l {
			if seen[r.ID] || !r.Default || !strings.HasPrefix(r.ID, ".") || (kind == "content") != (r.Pattern != "") {
				t.Errorf("%s: %+v", kind, r)
			}
			seen[r.ID] = true
		}
	}
	if len(seen) != 18+5 {
		t.Errorf("%d predefined rules, the spec (v1.16) has 18, and MSC3930 5", len(seen))
	}
}
