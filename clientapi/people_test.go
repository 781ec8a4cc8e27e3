// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"slices"
	"testing"
)

func TestKeyBackupOverHTTP(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	alice.do("GET", "/room_keys/version", nil).fails(404, "M_NOT_FOUND")
	alice.do("POST", "/room_keys/version", obj{"algorithm": "a"}).fails(400, "M_MISSING_PARAM")
	alice.do("POST", "/room_keys/version", obj{"auth_data": obj{}}).fails(400, "M_MISSING_PARAM")
	version := func() string {
		return alice.do("POST", "/room_keys/version", obj{"algorithm": "a", "auth_data": obj{"public_key": "x"}}).ok()["version"].(string)
	}
	old, v := version(), version()
	s := obj{"first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": obj{"c": "x"}}
	put := func(path string, body obj) obj {
		t.Helper()
		return alice.do("PUT", "/room_keys/keys"+path+"?version="+v, body).ok()
	}
	room, id := "!r:x", "a/b+c"
	put("", obj{"rooms": obj{room: obj{"sessions": obj{"s1": s}}}})
	put("/"+esc(room), obj{"sessions": obj{"s2": s}})
	if o := put("/"+esc(room)+"/"+esc(id), s); o["count"] != 3.0 || o["etag"] == "" {
		t.Errorf("%v", o)
	}
	if o := alice.do("GET", "/room_keys/version/"+v, nil).ok(); o["count"] != 3.0 || o["version"] != v || at(o, "auth_data", "public_key") != "x" || o["algorithm"] != "a" {
		t.Errorf("%v", o)
	}
	get := func(path string) answer { return alice.do("GET", "/room_keys/keys"+path+"?version="+v, nil) }
	if o := get("/" + esc(room) + "/" + esc(id)).ok(); at(o, "session_data", "c") != "x" {
		t.Errorf("%v", o)
	}
	if o := get("/" + esc(room)).ok(); len(o["sessions"].(obj)) != 3 {
		t.Errorf("%v", o)
	}
	if o := get("").ok(); len(at(o, "rooms", room, "sessions").(obj)) != 3 {
		t.Errorf("%v", o)
	}
	get("/"+esc(room)+"/none").fails(404, "M_NOT_FOUND")
	if o := get("/" + esc("!none:x")).ok(); len(o["sessions"].(obj)) != 0 {
		t.Errorf("%v", o)
	}
	wrong := alice.do("PUT", "/room_keys/keys?version="+old, obj{"rooms": obj{}}).fails(403, "M_WRONG_ROOM_KEYS_VERSION")
	if wrong["current_version"] != v {
		t.Errorf("%v", wrong)
	}
	alice.do("PUT", "/room_keys/keys", obj{"rooms": obj{}}).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", "/room_keys/keys?version="+v, obj{}).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", "/room_keys/keys?version="+v, obj{"rooms": obj{room: obj{}}}).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", "/room_keys/keys?version="+v, obj{"rooms": obj{room: obj{"sessions": obj{"x": obj{}}}}}).fails(400, "M_BAD_JSON")
	alice.do("PUT", "/room_keys/version/"+v, obj{"algorithm": "a", "auth_data": obj{}, "version": old}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", "/room_keys/version/"+v, obj{"algorithm": "b", "auth_data": obj{}}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", "/room_keys/version/"+v, obj{"algorithm": "a", "auth_data": obj{"public_key": "y"}}).ok()
	if o := alice.do("DELETE", "/room_keys/keys/"+esc(room)+"/s1?version="+v, nil).ok(); o["count"] != 2.0 {
		t.Errorf("%v", o)
	}
	if o := alice.do("DELETE", "/room_keys/keys/"+esc(room)+"?version="+v, nil).ok(); o["count"] != 0.0 {
		t.Errorf("%v", o)
	}
	put("/"+esc(room), obj{"sessions": obj{"s2": s}})
	if o := alice.do("DELETE", "/room_keys/keys?version="+v, nil).ok(); o["count"] != 0.0 {
		t.Errorf("%v", o)
	}
	alice.do("DELETE", "/room_keys/version/"+v, nil).ok()
	get("").fails(404, "M_NOT_FOUND")
	if o := alice.do("GET", "/room_keys/version", nil).ok(); o["version"] != old {
		t.Errorf("%v", o)
	}
	n.person("bob").do("GET", "/room_keys/version", nil).fails(404, "M_NOT_FOUND")
}

func TestPushRulesAreChangedAndShownInSync(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	const global = "/pushrules/global/"
	ids := func(kind string) (out []string) {
		for _, r := range list(alice.do("GET", global, nil).ok(), kind) {
			out = append(out, at(r, "rule_id").(string))
		}
		return out
	}
	since := alice.next("")
	alice.do("PUT", global+"override/.m.rule.suppress_notices/enabled", obj{"enabled": false}).ok()
	alice.do("PUT", global+"underride/.m.rule.message/actions", obj{"actions": []any{}}).ok()
	for _, id := range []string{"a", "b", "c"} {
		alice.do("PUT", global+"override/"+id, obj{"actions": []any{"notify", obj{"set_tweak": "highlight"}}, "conditions": []any{obj{"kind": "event_match", "key": "type", "pattern": "m.x"}}}).ok()
	}
	if got := ids("override")[:5]; !slices.Equal(got, []string{".m.rule.master", "c", "b", "a", ".m.rule.suppress_notices"}) {
		t.Errorf("%v", got)
	}
	alice.do("PUT", global+"override/d?after=b", obj{"actions": []any{}}).ok()
	alice.do("PUT", global+"override/a?before=c", obj{"actions": []any{}}).ok()
	if got := ids("override")[:6]; !slices.Equal(got, []string{".m.rule.master", "a", "c", "b", "d", ".m.rule.suppress_notices"}) {
		t.Errorf("%v", got)
	}
	alice.do("PUT", global+"content/word", obj{"actions": []any{"notify"}, "pattern": "tea"}).ok()
	alice.do("PUT", global+"room/"+esc("!r:x"), obj{"actions": []any{}}).ok()
	alice.do("PUT", global+"sender/"+esc("@b:x"), obj{"actions": []any{}}).ok()
	alice.do("PUT", global+"room/"+esc("!r:x")+"/enabled", obj{"enabled": false}).ok()
	alice.do("DELETE", global+"override/b", nil).ok()
	if o := alice.do("GET", global+"content/word", nil).ok(); o["pattern"] != "tea" || o["default"] != false || o["enabled"] != true {
		t.Errorf("%v", o)
	}
	if o := alice.do("GET", global+"room/"+esc("!r:x")+"/enabled", nil).ok(); o["enabled"] != false {
		t.Errorf("%v", o)
	}
	if o := alice.do("GET", global+"underride/.m.rule.message/actions", nil).ok(); len(list(o, "actions")) != 0 {
		t.Errorf("%v", o)
	}
	// In /sync, whole, once; and the same as GET.
	o := alice.sync(since)
	events := list(o, "account_data", "events")
	if len(events) != 1 || at(events, 0, "type") != "m.push_rules" || len(list(events, 0, "content", "global", "override")) != len(ids("override")) {
		t.Errorf("%v", events)
	}
	if got := list(alice.sync(""), "account_data", "events"); len(got) != 1 {
		t.Errorf("an initial sync has %d", len(got))
	}
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"PUT", "override/.m.rule.mine", obj{"actions": []any{}}, 400, "M_INVALID_PARAM"},
		{"PUT", "override/x", obj{}, 400, "M_MISSING_PARAM"},
		{"PUT", "override/x", obj{"actions": []any{1}}, 400, "M_INVALID_PARAM"},
		{"PUT", "override/x", obj{"actions": []any{obj{"tweak": 1}}}, 400, "M_INVALID_PARAM"},
		{"PUT", "override/x", obj{"actions": []any{}, "conditions": []any{obj{}}}, 400, "M_INVALID_PARAM"},
		{"PUT", "override/x?after=none", obj{"actions": []any{}}, 400, "M_UNKNOWN"},
		{"PUT", "override/x?after=.m.rule.master", obj{"actions": []any{}}, 400, "M_UNKNOWN"},
		{"PUT", "content/x", obj{"actions": []any{}}, 400, "M_MISSING_PARAM"},
		{"PUT", "nokind/x", obj{"actions": []any{}}, 404, "M_NOT_FOUND"},
		{"PUT", "override/none/enabled", obj{"enabled": true}, 404, "M_NOT_FOUND"},
		{"PUT", "override/a/enabled", obj{}, 400, "M_MISSING_PARAM"},
		{"DELETE", "override/.m.rule.master", nil, 400, "M_INVALID_PARAM"},
		{"DELETE", "override/none", nil, 404, "M_NOT_FOUND"},
		{"DELETE", "nokind/none", nil, 404, "M_NOT_FOUND"},
	} {
		alice.do(c.method, global+c.path, c.body).fails(c.status, c.code)
	}
	if got := ids("override"); slices.Contains(got, "x") {
		t.Errorf("%v", got)
	}
}

func TestPeopleAreFoundWhereTheyMayBe(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	n.person("carol")
	bob.do("PUT", "/profile/"+esc(bob.user)+"/displayname", obj{"displayname": "Robert B"}).ok()
	search := func(body obj) (out []string) {
		for _, r := range list(alice.do("POST", "/user_directory/search", body).ok(), "results") {
			out = append(out, at(r, "user_id").(string))
		}
		return out
	}
	for term, want := range map[string][]string{"BOB": {string(bob.user)}, "robert": {string(bob.user)}, "nobody": nil, "alice": nil} {
		if got := search(obj{"search_term": term}); !slices.Equal(got, want) {
			t.Errorf("%q finds %v, want %v", term, got, want)
		}
	}
	o := alice.do("POST", "/user_directory/search", obj{"search_term": "", "limit": 1}).ok()
	if o["limited"] != true || len(list(o, "results")) != 1 {
		t.Errorf("%v", o)
	}
	alice.do("POST", "/user_directory/search", obj{}).fails(400, "M_MISSING_PARAM")
}

func TestWhatIsAbsentIsSaid(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	alice.do("GET", "/voip/turnServer", nil).fails(404, "M_NOT_FOUND")
	if l, ok := alice.do("GET", "/pushers", nil).ok()["pushers"].([]any); !ok || len(l) != 0 {
		t.Error("pushers")
	}
	if l, ok := alice.do("GET", "/account/3pid", nil).ok()["threepids"].([]any); !ok || len(l) != 0 {
		t.Error("threepids")
	}
	if o := alice.do("GET", "/thirdparty/protocols", nil).ok(); len(o) != 0 {
		t.Error("protocols")
	}
}
