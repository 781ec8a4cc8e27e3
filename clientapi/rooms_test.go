// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"slices"
	"strings"
	"testing"
)

func (d *device) content(room, typ string) obj {
	d.n.t.Helper()
	return d.do("GET", "/rooms/"+esc(room)+"/state/"+typ, nil).ok()
}

func TestCreateRoomPresets(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	for _, c := range []struct {
		body                        obj
		joinRule, history, guest    string
		invitedHasPowerLikeCreators bool
	}{
		{obj{}, "invite", "shared", "can_join", false},
		{obj{"preset": "private_chat"}, "invite", "shared", "can_join", false},
		{obj{"preset": "trusted_private_chat"}, "invite", "shared", "can_join", true},
		{obj{"preset": "public_chat"}, "public", "shared", "forbidden", false},
		{obj{"visibility": "public"}, "public", "shared", "forbidden", false}, // "visibility of public ... public_chat"
		{obj{"visibility": "private"}, "invite", "shared", "can_join", false},
		{obj{"room_version": "11", "preset": "trusted_private_chat"}, "invite", "shared", "can_join", true},
	} {
		c.body["invite"] = []any{bob.user}
		r := alice.create(c.body)
		if got := alice.content(r, "m.room.join_rules")["join_rule"]; got != c.joinRule {
			t.Errorf("%v: join rule %v", c.body, got)
		}
		if got := alice.content(r, "m.room.history_visibility")["history_visibility"]; got != c.history {
			t.Errorf("%v: history visibility %v", c.body, got)
		}
		if c.guest == "can_join" {
			if got := alice.content(r, "m.room.guest_access")["guest_access"]; got != c.guest {
				t.Errorf("%v: guest access %v", c.body, got)
			}
		}
		create, power := alice.content(r, "m.room.create"), alice.content(r, "m.room.power_levels")
		version := "12"
		if v, ok := c.body["room_version"]; ok {
			version = v.(string)
		}
		if create["room_version"] != version {
			t.Errorf("%v: version %v", c.body, create["room_version"])
		}
		has := slices.Contains(list(create, "additional_creators"), any(string(bob.user))) || at(power, "users", string(bob.user)) == 100.0
		if has != c.invitedHasPowerLikeCreators {
			t.Errorf("%v: the invited one's power: create %v, power levels %v", c.body, create, power)
		}
		if m := alice.content(r, "m.room.member/"+esc(bob.user))["membership"]; m != "invite" {
			t.Errorf("%v: bob is %v", c.body, m)
		}
	}
}

func TestCreateRoomSetsWhatItIsTold(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.create(obj{
		"name": "Tea", "topic": "Leaves", "room_alias_name": "tea", "is_direct": true,
		"creation_content":             obj{"type": "m.space", "m.federate": true},
		"initial_state":                []any{obj{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}, obj{"type": "org.x", "content": obj{"a": 1}}},
		"power_level_content_override": obj{"events_default": 7},
	})
	for typ, want := range map[string][2]any{
		"m.room.name":            {"name", "Tea"},
		"m.room.topic":           {"topic", "Leaves"},
		"m.room.create":          {"type", "m.space"},
		"m.room.encryption":      {"algorithm", "m.megolm.v1.aes-sha2"},
		"org.x":                  {"a", 1.0},
		"m.room.power_levels":    {"events_default", 7.0},
		"m.room.canonical_alias": {"alias", "#tea:" + string(n.server)},
	} {
		if got := alice.content(r, typ)[want[0].(string)]; got != want[1] {
			t.Errorf("%s: %v is %v, want %v", typ, want[0], got, want[1])
		}
	}
	o := n.request("", "GET", "/directory/room/"+esc("#tea:"+string(n.server)), nil).ok()
	if o["room_id"] != r || !slices.Equal(list(o, "servers"), []any{string(n.server)}) {
		t.Errorf("alias: %v", o)
	}
	n.request("", "GET", "/directory/room/"+esc("#coffee:"+string(n.server)), nil).fails(404, "M_NOT_FOUND")
	n.request("", "GET", "/directory/room/"+esc("#tea:example.org"), nil).fails(404, "M_NOT_FOUND")
	n.request("", "GET", "/directory/room/tea", nil).fails(400, "M_INVALID_PARAM")
	alice.do("POST", "/createRoom", obj{"room_alias_name": "tea"}).fails(400, "M_ROOM_IN_USE")
	if l := list(alice.do("GET", "/joined_rooms", nil).ok(), "joined_rooms"); !slices.Contains(l, any(r)) {
		t.Errorf("joined: %v", l)
	}
}

func TestCreateRoomRefuses(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	for _, c := range []struct {
		body obj
		code string
	}{
		{obj{"room_version": "5"}, "M_UNSUPPORTED_ROOM_VERSION"},
		{obj{"room_version": "org.x"}, "M_UNSUPPORTED_ROOM_VERSION"},
		{obj{"preset": "party"}, "M_INVALID_PARAM"},
		{obj{"visibility": "secret"}, "M_INVALID_PARAM"},
		{obj{"invite": []any{"bob"}}, "M_INVALID_PARAM"},
		{obj{"invite": []any{"@bob:example.org"}}, "M_INVALID_PARAM"}, // no onion: cannot be reached
		{obj{"invite_3pid": []any{obj{"medium": "email"}}}, "M_INVALID_PARAM"},
		{obj{"creation_content": []any{}}, "M_BAD_JSON"},
		{obj{"initial_state": []any{obj{"content": obj{}}}}, "M_BAD_JSON"},
		{obj{"initial_state": []any{obj{"type": "a"}}}, "M_BAD_JSON"},
	} {
		alice.do("POST", "/createRoom", c.body).fails(400, c.code)
	}
}

func TestMembershipsGoTheirWay(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.create(obj{"preset": "private_chat"})
	p := "/rooms/" + esc(r)
	is := func(d *device, want string) {
		t.Helper()
		if m := alice.content(r, "m.room.member/"+esc(d.user))["membership"]; m != want {
			t.Errorf("%s is %v, want %s", d.user, m, want)
		}
	}
	who := func(d *device) obj { return obj{"user_id": string(d.user), "reason": "because"} }

	bob.do("POST", p+"/join", obj{}).fails(403, "M_FORBIDDEN") // not invited
	bob.do("POST", p+"/invite", who(carol)).fails(403, "M_FORBIDDEN")
	alice.do("POST", p+"/invite", who(bob)).ok()
	is(bob, "invite")
	o := bob.do("POST", "/join/"+esc(r), nil).ok() // without a body
	if o["room_id"] != r {
		t.Errorf("join: %v", o)
	}
	is(bob, "join")
	bob.do("POST", p+"/join", obj{}).ok() // again: nothing changes
	bob.do("POST", p+"/kick", who(alice)).fails(403, "M_FORBIDDEN")
	alice.do("POST", p+"/kick", who(carol)).fails(403, "M_FORBIDDEN") // not there
	alice.do("POST", p+"/unban", who(bob)).fails(403, "M_FORBIDDEN")  // not banned
	alice.do("POST", p+"/kick", who(bob)).ok()
	is(bob, "leave")
	if reason := alice.content(r, "m.room.member/"+esc(bob.user))["reason"]; reason != "because" {
		t.Errorf("reason %v", reason)
	}
	alice.do("POST", p+"/ban", who(bob)).ok()
	is(bob, "ban")
	alice.do("POST", p+"/invite", who(bob)).fails(403, "M_FORBIDDEN")
	alice.do("POST", p+"/kick", who(bob)).fails(403, "M_FORBIDDEN") // that would lift the ban
	alice.do("POST", p+"/unban", who(bob)).ok()
	is(bob, "leave")
	alice.do("POST", p+"/invite", who(bob)).ok()
	bob.do("POST", p+"/leave", obj{"reason": "no"}).ok() // reject
	is(bob, "leave")
	bob.do("POST", p+"/leave", obj{}).ok() // again
	bob.do("POST", p+"/forget", obj{}).ok()
	alice.do("POST", p+"/forget", obj{}).fails(400, "M_UNKNOWN") // still in it
	alice.do("POST", p+"/invite", obj{}).fails(400, "M_MISSING_PARAM")
	alice.do("POST", p+"/invite", obj{"user_id": "bob"}).fails(400, "M_INVALID_PARAM")
	alice.do("POST", "/rooms/nonsense/leave", obj{}).fails(400, "M_INVALID_PARAM")
	carol.do("POST", "/join/"+esc("!unknown:x"), obj{}).fails(404, "M_NOT_FOUND")
	carol.do("POST", "/join/nonsense", obj{}).fails(400, "M_INVALID_PARAM")
	carol.do("POST", "/join/"+esc("#none:"+string(n.server)), obj{}).fails(404, "M_NOT_FOUND")
}

func TestJoinByAlias(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.create(obj{"preset": "public_chat", "room_alias_name": "pub"})
	if o := bob.do("POST", "/join/"+esc("#pub:"+string(n.server))+"?server_name=x&via=y", obj{}).ok(); o["room_id"] != r {
		t.Errorf("%v", o)
	}
}

func TestStateIsReadAndWritten(t *testing.T) {
	n := newNode(t)
	alice, bob, eve := n.person("alice"), n.person("bob"), n.person("eve")
	r := alice.meet(bob)
	p := "/rooms/" + esc(r) + "/state"
	o := alice.do("PUT", p+"/m.room.name", obj{"name": "one"}).ok()
	if !strings.HasPrefix(o["event_id"].(string), "$") {
		t.Errorf("%v", o)
	}
	alice.do("PUT", p+"/m.room.name/", obj{"name": "two"}).ok() // trailing slash: the empty key too
	for _, path := range []string{p + "/m.room.name", p + "/m.room.name/"} {
		if got := bob.do("GET", path, nil).ok()["name"]; got != "two" {
			t.Errorf("%s: %v", path, got)
		}
	}
	key := esc("a/b %#?ü")
	alice.do("PUT", p+"/org.x/"+key, obj{"v": 1}).ok()
	if got := bob.do("GET", p+"/org.x/"+key, nil).ok()["v"]; got != 1.0 {
		t.Errorf("a state key with a slash: %v", got)
	}
	ev := bob.do("GET", p+"/m.room.name?format=event", nil).ok()
	if ev["sender"] != string(alice.user) || ev["state_key"] != "" || ev["room_id"] != r {
		t.Errorf("%v", ev)
	}
	bob.do("GET", p+"/org.none", nil).fails(404, "M_NOT_FOUND")
	bob.do("PUT", p+"/m.room.name", obj{"name": "three"}).fails(403, "M_FORBIDDEN")
	eve.do("GET", p, nil).fails(403, "M_FORBIDDEN")
	eve.do("GET", p+"/m.room.name", nil).fails(403, "M_FORBIDDEN")
	eve.do("GET", "/rooms/!unknown/state", nil).fails(403, "M_FORBIDDEN") // no different: rooms are not told
	a := bob.do("GET", p, nil)
	if a.status != 200 || !strings.HasPrefix(a.raw, "[") || !strings.Contains(a.raw, `"m.room.create"`) {
		t.Errorf("%d %s", a.status, a.raw)
	}
	alice.do("PUT", p+"/m.room.canonical_alias", obj{"alias": "#none:" + string(n.server)}).fails(400, "M_BAD_ALIAS")
	alice.do("PUT", p+"/m.room.name", obj{"name": strings.Repeat("x", 66000)}).fails(413, "M_TOO_LARGE")
	alice.do("PUT", p+"/org.x", obj{"v": 1.5}).fails(400, "M_BAD_JSON") // floats are not in events
}

func TestMembersAreListedAndFiltered(t *testing.T) {
	n := newNode(t)
	alice, bob, carol, eve := n.person("alice"), n.person("bob"), n.person("carol"), n.person("eve")
	r := alice.meet(bob)
	p := "/rooms/" + esc(r)
	alice.do("POST", p+"/invite", obj{"user_id": string(carol.user)}).ok()
	count := func(query string) int {
		t.Helper()
		return len(list(alice.do("GET", p+"/members"+query, nil).ok(), "chunk"))
	}
	for query, want := range map[string]int{"": 3, "?membership=join": 2, "?membership=invite": 1, "?not_membership=join": 1, "?membership=ban": 0} {
		if got := count(query); got != want {
			t.Errorf("members%s: %d, want %d", query, got, want)
		}
	}
	before := alice.sync("")["next_batch"].(string)
	bob.do("POST", p+"/leave", obj{}).ok()
	if got := count("?membership=join&at=" + before); got != 2 {
		t.Errorf("members then: %d joined, want 2", got)
	}
	if got := count("?membership=join"); got != 1 {
		t.Errorf("members now: %d joined, want 1", got)
	}
	o := alice.do("GET", p+"/joined_members", nil).ok()["joined"].(obj)
	if len(o) != 1 || at(o, string(alice.user), "display_name") != "alice" {
		t.Errorf("%v", o)
	}
	bob.do("GET", p+"/joined_members", nil).fails(403, "M_FORBIDDEN") // left
	eve.do("GET", p+"/members", nil).fails(403, "M_FORBIDDEN")
	alice.do("GET", p+"/members?at=bad", nil).fails(400, "M_INVALID_PARAM")
}

func TestProfilesAreShownInRooms(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	me := "/profile/" + esc(alice.user)
	alice.do("PUT", me+"/displayname", obj{"displayname": "Alice ✿"}).ok()
	alice.do("PUT", me+"/avatar_url", obj{"avatar_url": "mxc://x/y"}).ok()
	bob.do("PUT", me+"/displayname", obj{"displayname": "Mallory"}).fails(403, "M_FORBIDDEN")
	if o := n.request("", "GET", me, nil).ok(); o["displayname"] != "Alice ✿" || o["avatar_url"] != "mxc://x/y" {
		t.Errorf("%v", o)
	}
	if o := bob.do("GET", me+"/displayname", nil).ok(); o["displayname"] != "Alice ✿" || len(o) != 1 {
		t.Errorf("%v", o)
	}
	if o := bob.do("GET", me+"/avatar_url", nil).ok(); o["avatar_url"] != "mxc://x/y" || len(o) != 1 {
		t.Errorf("%v", o)
	}
	m := bob.content(r, "m.room.member/"+esc(alice.user))
	if m["displayname"] != "Alice ✿" || m["avatar_url"] != "mxc://x/y" || m["membership"] != "join" {
		t.Errorf("the room shows %v", m)
	}
	alice.do("PUT", me+"/displayname", obj{"displayname": nil}).ok()
	if m := bob.content(r, "m.room.member/"+esc(alice.user)); m["displayname"] != nil {
		t.Errorf("the room still shows %v", m)
	}
	bob.do("GET", "/profile/"+esc("@nobody:"+string(n.server)), nil).fails(404, "M_NOT_FOUND")
	other := "@bob:" + strings.Repeat("a", 56) + ".onion"
	bob.do("GET", "/profile/"+esc(other), nil).fails(404, "M_NOT_FOUND") // not an onion's checksum: nobody has that name
	bob.do("GET", "/profile/bob", nil).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", me+"/displayname", obj{"displayname": strings.Repeat("x", 300)}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", me+"/avatar_url", obj{"avatar_url": "https://x/y.png"}).fails(400, "M_INVALID_PARAM")
}
