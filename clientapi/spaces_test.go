// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func (d *device) state(r, typ, key string, content obj) {
	d.n.t.Helper()
	d.do("PUT", "/rooms/"+esc(r)+"/state/"+typ+"/"+esc(key), content).ok()
}

func (d *device) space(body obj) string {
	d.n.t.Helper()
	body["creation_content"] = obj{"type": "m.space"}
	return d.create(body)
}

func TestHierarchy(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	name := map[string]string{}
	room := func(s string, make func(obj) string, body obj) string {
		body["name"] = s
		id := make(body)
		name[id] = s
		return id
	}
	public := obj{"preset": "public_chat"}
	root := room("root", alice.space, obj{"preset": "public_chat", "topic": "all"})
	sub := room("sub", alice.space, obj{"preset": "public_chat"})
	a, b, c := room("a", alice.create, obj{"preset": "public_chat"}), room("b", alice.create, obj{"preset": "public_chat"}), room("c", alice.create, obj{"preset": "public_chat"})
	secret := room("secret", alice.create, obj{})
	member := room("member", alice.create, obj{"initial_state": []any{obj{"type": "m.room.join_rules", "state_key": "",
		"content": obj{"join_rule": "restricted", "allow": []any{obj{"type": "m.room_membership", "room_id": root}}}}}})
	_ = public
	via := []any{"x.onion"}
	alice.state(root, "m.space.child", a, obj{"via": via})
	alice.state(root, "m.space.child", sub, obj{"via": via, "order": "b", "suggested": true})
	alice.state(root, "m.space.child", b, obj{"via": via, "order": "a"})
	alice.state(root, "m.space.child", secret, obj{"via": via})
	alice.state(root, "m.space.child", member, obj{"via": via, "order": "no\u00e9"}) // no valid order: as if none
	alice.state(root, "m.space.child", "!elsewhere", obj{"via": via})
	alice.state(sub, "m.space.child", c, obj{"via": via, "suggested": true})
	alice.state(sub, "m.space.child", root, obj{"via": via}) // a circle
	gone := room("gone", alice.create, obj{"preset": "public_chat"})
	alice.state(root, "m.space.child", gone, obj{}) // taken out

	get := func(d *device, query string) (out []string, o obj) {
		o = d.v1("/rooms/%s/hierarchy?%s", esc(root), query).ok()
		for _, r := range list(o, "rooms") {
			out = append(out, name[at(r, "room_id").(string)])
		}
		return out, o
	}
	for _, x := range []struct {
		who   *device
		query string
		want  string
	}{
		{alice, "", "root b sub c a secret member"}, // by order, then by age; depth first
		{bob, "", "root b sub c a"},                 // what he may not see is left out
		{alice, "max_depth=1", "root b sub a secret member"},
		{alice, "max_depth=0", "root"},
		{alice, "suggested_only=true", "root sub c"},
	} {
		if got, _ := get(x.who, x.query); strings.Join(got, " ") != x.want {
			t.Errorf("%s: %v, want %s", x.query, got, x.want)
		}
	}
	bob.do("POST", "/join/"+esc(root), obj{}).ok()
	if got, _ := get(bob, ""); !slices.Contains(got, "member") {
		t.Errorf("a member of the space does not see what is open to members: %v", got)
	}
	_, o := get(alice, "")
	r := at(o, "rooms", 0)
	if at(r, "room_type") != "m.space" || at(r, "join_rule") != "public" || at(r, "num_joined_members") != 2.0 || at(r, "topic") != "all" ||
		at(r, "world_readable") != false || at(r, "guest_can_join") != false {
		t.Errorf("%v", r)
	}
	children := list(r, "children_state")
	if len(children) != 6 || at(children, 0, "state_key") != b || at(children, 0, "origin_server_ts") == nil || at(children, 0, "sender") != string(alice.user) ||
		at(children, 0, "type") != "m.space.child" || at(children, 0, "content", "via", 0) != "x.onion" || at(children, 0, "event_id") != nil {
		t.Errorf("%v", children)
	}
	// Pages.
	var all []string
	from := ""
	for range 10 {
		got, o := get(alice, "limit=2"+from)
		all = append(all, got...)
		next, ok := o["next_batch"].(string)
		if !ok {
			break
		}
		from = "&from=" + next
		if a := alice.v1("/rooms/%s/hierarchy?limit=2&max_depth=1%s", esc(root), from); a.status != 400 {
			t.Errorf("max_depth changed: %d", a.status)
		}
	}
	if strings.Join(all, " ") != "root b sub c a secret member" {
		t.Errorf("pages: %v", all)
	}
	n.person("eve").v1("/rooms/%s/hierarchy", esc(secret)).fails(403, "M_FORBIDDEN")
	for _, q := range []string{"limit=0", "max_depth=-1", "suggested_only=x", "from=x", "limit=x"} {
		alice.v1("/rooms/%s/hierarchy?%s", esc(root), q).fails(400, "M_INVALID_PARAM")
	}
}

func TestRoomSummary(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.create(obj{"preset": "public_chat", "name": "tea", "room_alias_name": "tea", "initial_state": []any{
		obj{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	private := alice.create(obj{"name": "secret"})
	for _, path := range []string{
		"/_matrix/client/v1/room_summary/" + esc(r), "/_matrix/client/v1/room_summary/" + esc("#tea:"+string(n.server)),
		"/_matrix/client/unstable/im.nheko.summary/summary/" + esc(r), "/_matrix/client/unstable/im.nheko.summary/rooms/" + esc(r) + "/summary",
	} {
		o := bob.do("GET", path, nil).ok()
		if o["room_id"] != r || o["name"] != "tea" || o["membership"] != "leave" || o["encryption"] != "m.megolm.v1.aes-sha2" ||
			o["room_version"] != "12" || o["num_joined_members"] != 1.0 || o["join_rule"] != "public" {
			t.Errorf("%s: %v", path, o)
		}
		if o = n.request("", "GET", path, nil).ok(); o["membership"] != nil || o["name"] != "tea" { // "authentication is optional"
			t.Errorf("%s, by nobody: %v", path, o)
		}
		if o = alice.do("GET", path, nil).ok(); o["membership"] != "join" {
			t.Errorf("%s: %v", path, o)
		}
	}
	bob.v1("/room_summary/%s", esc(private)).fails(404, "M_NOT_FOUND")
	n.request("", "GET", "/_matrix/client/v1/room_summary/"+esc(private), nil).fails(404, "M_NOT_FOUND")
	bob.v1("/room_summary/%s", esc("!nowhere")).fails(404, "M_NOT_FOUND")
	bob.v1("/room_summary/%s", "x").fails(400, "M_INVALID_PARAM")
	alice.do("POST", "/rooms/"+esc(private)+"/invite", obj{"user_id": bob.user}).ok()
	if o := bob.v1("/room_summary/%s", esc(private)).ok(); o["membership"] != "invite" || o["name"] != "secret" {
		t.Errorf("invited: %v", o)
	}
}

func TestKnock(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.create(obj{"name": "club", "room_alias_name": "club", "initial_state": []any{obj{"type": "m.room.join_rules", "state_key": "", "content": obj{"join_rule": "knock"}}}})
	private := alice.create(obj{})
	bob.do("POST", "/join/"+esc(r), obj{}).fails(403, "M_FORBIDDEN")
	since := bob.sync("")["next_batch"].(string)
	if o := bob.do("POST", "/knock/"+esc("#club:"+string(n.server)), obj{"reason": "me too"}).ok(); o["room_id"] != r {
		t.Errorf("%v", o)
	}
	o := bob.sync(since)
	var own any
	for _, e := range list(o, "rooms", "knock", r, "knock_state", "events") {
		if at(e, "state_key") == string(bob.user) {
			own = e
		}
	}
	if at(own, "content", "membership") != "knock" || at(own, "content", "reason") != "me too" {
		t.Errorf("%v", at(o, "rooms", "knock"))
	}
	o = bob.slide("", 0, obj{"lists": obj{"a": obj{"ranges": []any{[]any{0, 5}}}}})
	if len(list(o, "rooms", r, "invite_state")) == 0 {
		t.Errorf("sliding: %v", o)
	}
	bob.do("GET", "/rooms/"+esc(r)+"/messages?dir=b", nil).fails(403, "M_FORBIDDEN")
	alice.do("POST", "/rooms/"+esc(r)+"/invite", obj{"user_id": bob.user}).ok()
	bob.do("POST", "/join/"+esc(r), obj{}).ok()
	bob.do("POST", "/knock/"+esc(r), obj{}).fails(403, "M_FORBIDDEN") // "already in the room"
	bob.do("POST", "/knock/"+esc(private), obj{}).fails(403, "M_FORBIDDEN")
	bob.do("POST", "/knock/"+esc("!nowhere"), obj{}).fails(404, "M_NOT_FOUND")
	bob.do("POST", "/knock/x", obj{}).fails(400, "M_INVALID_PARAM")
	// A knock can be taken back.
	bob.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	bob.do("POST", "/knock/"+esc(r), obj{}).ok()
	bob.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	if o := bob.sync("", "filter", `{"room":{"include_leave":true}}`); at(o, "rooms", "knock", r) != nil || at(o, "rooms", "leave", r) == nil {
		t.Errorf("taken back: %v", o["rooms"])
	}
	// "ban: may not knock".
	alice.do("POST", "/rooms/"+esc(r)+"/ban", obj{"user_id": bob.user}).ok()
	bob.do("POST", "/knock/"+esc(r), obj{}).fails(403, "M_FORBIDDEN")
}

func TestUpgrade(t *testing.T) {
	for _, v := range []struct{ from, to string }{{"11", "12"}, {"12", "12"}, {"11", "11"}, {"12", "11"}} {
		t.Run(v.from+" to "+v.to, func(t *testing.T) {
			n := newNode(t)
			alice, bob, carol, eve := n.person("alice"), n.person("bob"), n.person("carol"), n.person("eve")
			old := alice.create(obj{"room_version": v.from, "preset": "public_chat", "visibility": "public", "name": "tea", "topic": "green", "room_alias_name": "tea",
				"creation_content": obj{"type": "m.space"}, "initial_state": []any{
					obj{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}},
					obj{"type": "m.room.server_acl", "state_key": "", "content": obj{"allow": []any{"*"}}}}})
			alice.do("PUT", "/user/"+esc(alice.user)+"/rooms/"+esc(old)+"/tags/m.favourite", obj{}).ok()
			bob.do("POST", "/join/"+esc(old), obj{}).ok()
			bob.do("PUT", "/user/"+esc(bob.user)+"/rooms/"+esc(old)+"/tags/u.x", obj{}).ok()
			bob.do("PUT", "/user/"+esc(bob.user)+"/account_data/m.direct", obj{string(alice.user): []any{old}}).ok()
			bob.do("PUT", "/pushrules/global/room/"+esc(old), obj{"actions": []any{"notify"}}).ok()
			bob.do("PUT", "/pushrules/global/override/"+esc(old), obj{"actions": []any{}, "conditions": []any{
				obj{"kind": "event_match", "key": "room_id", "pattern": old}}}).ok()
			alice.do("POST", "/rooms/"+esc(old)+"/ban", obj{"user_id": eve.user}).ok()
			child := alice.create(obj{})
			alice.state(old, "m.space.child", child, obj{"via": []any{"x"}})
			levels := alice.do("GET", "/rooms/"+esc(old)+"/state/m.room.power_levels", nil).ok()
			levels["users"].(obj)[string(carol.user)] = 50.0
			alice.state(old, "m.room.power_levels", "", levels)

			bob.do("POST", "/rooms/"+esc(old)+"/upgrade", obj{"new_version": v.to}).fails(403, "M_FORBIDDEN")
			alice.do("POST", "/rooms/"+esc(old)+"/upgrade", obj{"new_version": "1000"}).fails(400, "M_UNSUPPORTED_ROOM_VERSION")
			alice.do("POST", "/rooms/"+esc(old)+"/upgrade", obj{}).fails(400, "M_MISSING_PARAM")
			id := alice.do("POST", "/rooms/"+esc(old)+"/upgrade", obj{"new_version": v.to}).ok()["replacement_room"].(string)

			get := func(d *device, r, typ, key string) obj {
				t.Helper()
				return d.do("GET", "/rooms/"+esc(r)+"/state/"+typ+"/"+esc(key), nil).ok()
			}
			tomb := get(alice, old, "m.room.tombstone", "")
			if tomb["replacement_room"] != id || tomb["body"] == nil {
				t.Errorf("tombstone: %v", tomb)
			}
			create := get(alice, id, "m.room.create", "")
			if create["room_version"] != v.to || create["type"] != "m.space" || at(create, "predecessor", "room_id") != old ||
				(at(create, "predecessor", "event_id") != nil) != (v.to == "11") {
				t.Errorf("create: %v", create)
			}
			for _, x := range []struct{ typ, key, field, want string }{
				{"m.room.name", "", "name", "tea"}, {"m.room.topic", "", "topic", "green"}, {"m.room.encryption", "", "algorithm", "m.megolm.v1.aes-sha2"},
				{"m.room.join_rules", "", "join_rule", "public"}, {"m.room.canonical_alias", "", "alias", "#tea:" + string(n.server)},
				{"m.room.member", string(eve.user), "membership", "ban"},
			} {
				if o := get(alice, id, x.typ, x.key); o[x.field] != x.want {
					t.Errorf("%s: %v", x.typ, o)
				}
			}
			get(alice, id, "m.room.server_acl", "")
			get(alice, id, "m.space.child", child)
			now := get(alice, id, "m.room.power_levels", "")
			if at(now, "users", string(carol.user)) != 50.0 {
				t.Errorf("levels: %v", now)
			}
			if mine := at(now, "users", string(alice.user)); v.to == "12" && mine != nil || v.to == "11" && mine != 100.0 {
				t.Errorf("alice's level: %v", mine)
			}
			// The alias, and the directory, name the new room.
			if o := alice.do("GET", "/directory/room/"+esc("#tea:"+string(n.server)), nil).ok(); o["room_id"] != id {
				t.Errorf("the alias: %v", o)
			}
			if o := alice.do("GET", "/publicRooms", nil).ok(); len(list(o, "chunk")) != 1 || at(o, "chunk", 0, "room_id") != id {
				t.Errorf("the directory: %v", o)
			}
			if o := get(alice, old, "m.room.power_levels", ""); o["events_default"] != 50.0 || o["invite"].(float64) < 50 {
				t.Errorf("the old room's levels: %v", o)
			}
			bob.trySend(old, "m.room.message", obj{"body": "x"}).fails(403, "M_FORBIDDEN")
			if o := alice.do("GET", "/user/"+esc(alice.user)+"/rooms/"+esc(id)+"/tags", nil).ok(); at(o, "tags", "m.favourite") == nil {
				t.Errorf("alice's tags: %v", o)
			}
			bob.do("POST", "/join/"+esc(id), obj{}).ok()
			if o := bob.do("GET", "/user/"+esc(bob.user)+"/rooms/"+esc(id)+"/tags", nil).ok(); at(o, "tags", "u.x") == nil {
				t.Errorf("bob's tags: %v", o)
			}
			bob.do("GET", "/pushrules/global/room/"+esc(id), nil).ok()
			if o := bob.do("GET", "/pushrules/global/override/"+esc(id), nil).ok(); at(o, "conditions", 0, "pattern") != id || o["enabled"] != true {
				t.Errorf("bob's rule that mutes the room: %v", o)
			}
			if o := bob.do("GET", "/user/"+esc(bob.user)+"/account_data/m.direct", nil).ok(); fmt.Sprint(list(o, string(alice.user))) != fmt.Sprint([]any{old, id}) {
				t.Errorf("bob's m.direct: %v", o)
			}
			eve.do("POST", "/join/"+esc(id), obj{}).fails(403, "M_FORBIDDEN")
		})
	}
}

// TestUpgradeByAModerator: who may send the tombstone but not all of the rest has no more power in the new room.
func TestUpgradeByAModerator(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	old := alice.create(obj{"room_version": "11", "preset": "public_chat", "name": "tea", "power_level_content_override": obj{
		"users":  obj{string(alice.user): 100, string(bob.user): 60},
		"events": obj{"m.room.tombstone": 60, "m.room.encryption": 100, "m.room.power_levels": 100}}, "initial_state": []any{
		obj{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	bob.do("POST", "/join/"+esc(old), obj{}).ok()
	id := bob.do("POST", "/rooms/"+esc(old)+"/upgrade", obj{"new_version": "11"}).ok()["replacement_room"].(string)
	o := bob.do("GET", "/rooms/"+esc(id)+"/state/m.room.power_levels", nil).ok()
	if at(o, "users", string(bob.user)) != 60.0 || at(o, "users", string(alice.user)) != 100.0 {
		t.Errorf("%v", o["users"])
	}
	bob.do("GET", "/rooms/"+esc(id)+"/state/m.room.encryption", nil).ok()
}

func TestReports(t *testing.T) {
	n := newNode(t)
	alice, bob, eve := n.person("alice"), n.person("bob"), n.person("eve")
	r := alice.meet(bob)
	said := alice.say(r, "x")
	bob.do("POST", "/rooms/"+esc(r)+"/report/"+esc(said), obj{"reason": "rude", "score": -50}).ok()
	bob.do("POST", "/rooms/"+esc(r)+"/report", obj{"reason": "a bad room"}).ok()
	bob.do("POST", "/users/"+esc(alice.user)+"/report", obj{"reason": strings.Repeat("é", 5000)}).ok()
	bob.do("POST", "/users/"+esc("@nobody:"+string(n.server))+"/report", obj{"reason": ""}).ok() // who is here is not told
	eve.do("POST", "/rooms/"+esc(r)+"/report/"+esc(said), obj{}).fails(404, "M_NOT_FOUND")
	bob.do("POST", "/rooms/"+esc(r)+"/report/$nothing", obj{}).fails(404, "M_NOT_FOUND")
	bob.do("POST", "/rooms/!nowhere/report", obj{}).fails(404, "M_NOT_FOUND")
	bob.do("POST", "/rooms/"+esc(r)+"/report/"+esc(said), obj{"score": 5}).fails(400, "M_INVALID_PARAM")
	bob.do("POST", "/rooms/"+esc(r)+"/report/"+esc(said), obj{"reason": 5}).fails(400, "M_BAD_JSON")
	got, err := n.accounts.Reports()
	if err != nil || len(got) != 4 {
		t.Fatal(got, err)
	}
	if x := got[3]; string(x.Event) != said || string(x.Room) != r || x.By != bob.user || x.Reason != "rude" || x.Score != -50 || x.Time == 0 {
		t.Errorf("%+v", x)
	}
	if len(got[1].Reason) > 4096 || got[1].User != alice.user {
		t.Errorf("%d bytes of a reason", len(got[1].Reason))
	}
}

func TestTopicOfANewRoomIsRichToo(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.create(obj{"topic": "tea"})
	o := alice.do("GET", "/rooms/"+esc(r)+"/state/m.room.topic", nil).ok()
	if o["topic"] != "tea" || at(o, "m.topic", "m.text", 0, "body") != "tea" || at(o, "m.topic", "m.text", 0, "mimetype") != "text/plain" {
		t.Errorf("%v", o)
	}
}
