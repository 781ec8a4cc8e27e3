// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"strings"
	"testing"
)

// TestRefusals: for what the room's rules, the limits of events or the shape of a request forbid, the status and errcode of the spec.
func TestRefusals(t *testing.T) {
	n := newNode(t)
	alice, bob, carol, eve := n.person("alice"), n.person("bob"), n.person("carol"), n.person("eve")
	r := alice.create(obj{"preset": "public_chat", "power_level_content_override": obj{"events": obj{"m.loud": 50}, "users": obj{string(carol.user): 50}}})
	for _, d := range []*device{bob, carol} {
		d.do("POST", "/join/"+esc(r), obj{}).ok()
	}
	private := alice.create(obj{})
	closed := alice.create(obj{"preset": "public_chat"})
	alice.do("POST", "/rooms/"+esc(closed)+"/ban", obj{"user_id": bob.user}).ok()
	said := alice.say(r, "x")
	rooms := "/rooms/" + esc(r)
	restricted := alice.create(obj{"initial_state": []any{obj{"type": "m.room.join_rules", "state_key": "",
		"content": obj{"join_rule": "restricted", "allow": []any{obj{"type": "m.room_membership", "room_id": private}}}}}})
	big := strings.Repeat("x", 65_536)
	levels := alice.do("GET", rooms+"/state/m.room.power_levels", nil).ok()
	more := obj{}
	for k, v := range levels {
		more[k] = v
	}
	more["users"] = obj{string(bob.user): 100}

	for _, c := range []struct {
		name         string
		who          *device
		method, path string
		body         any
		status       int
		code         string
	}{
		{"not in the room", eve, "PUT", rooms + "/send/m.room.message/a1", obj{}, 403, "M_FORBIDDEN"},
		{"no such room", bob, "PUT", "/rooms/!nowhere/send/m.room.message/a2", obj{}, 403, "M_FORBIDDEN"},
		{"too little power for the type", bob, "PUT", rooms + "/send/m.loud/a3", obj{}, 403, "M_FORBIDDEN"},
		{"too little power for state", bob, "PUT", rooms + "/state/m.room.name", obj{"name": "x"}, 403, "M_FORBIDDEN"},
		{"raising oneself", bob, "PUT", rooms + "/state/m.room.power_levels", more, 403, "M_FORBIDDEN"},
		{"raising beyond oneself", carol, "PUT", rooms + "/state/m.room.power_levels", more, 403, "M_FORBIDDEN"},
		{"another's state key", carol, "PUT", rooms + "/state/m.x/" + esc(alice.user), obj{}, 403, "M_FORBIDDEN"},
		{"another's membership", bob, "PUT", rooms + "/state/m.room.member/" + esc(eve.user), obj{"membership": "join"}, 403, "M_FORBIDDEN"},
		{"a second create event", alice, "PUT", rooms + "/state/m.room.create", obj{}, 403, "M_FORBIDDEN"},
		{"a creator in the power levels", alice, "PUT", rooms + "/state/m.room.power_levels", obj{"users": obj{string(alice.user): 100}}, 403, "M_FORBIDDEN"},
		{"power that is no number", alice, "PUT", rooms + "/state/m.room.power_levels", obj{"ban": "fifty"}, 403, "M_FORBIDDEN"},
		{"redacting another's", bob, "PUT", rooms + "/redact/" + esc(said) + "/a4", obj{}, 403, "M_FORBIDDEN"},
		{"joining a private room", bob, "POST", "/join/" + esc(private), obj{}, 403, "M_FORBIDDEN"},
		{"joining though banned", bob, "POST", "/join/" + esc(closed), obj{}, 403, "M_FORBIDDEN"},
		{"joining a restricted room", bob, "POST", "/join/" + esc(restricted), obj{}, 403, "M_FORBIDDEN"},
		{"joining an unknown room", bob, "POST", "/join/!nowhere", obj{}, 404, "M_NOT_FOUND"},
		{"inviting who is in", alice, "POST", rooms + "/invite", obj{"user_id": bob.user}, 403, "M_FORBIDDEN"},
		{"inviting who is banned", alice, "POST", "/rooms/" + esc(closed) + "/invite", obj{"user_id": bob.user}, 403, "M_FORBIDDEN"},
		{"inviting without power", bob, "POST", rooms + "/invite", obj{"user_id": eve.user}, 403, "M_FORBIDDEN"},
		{"inviting into a room that one is not in", eve, "POST", rooms + "/invite", obj{"user_id": eve.user}, 403, "M_FORBIDDEN"},
		{"kicking the stronger", carol, "POST", rooms + "/kick", obj{"user_id": alice.user}, 403, "M_FORBIDDEN"},
		{"kicking without power", bob, "POST", rooms + "/kick", obj{"user_id": carol.user}, 403, "M_FORBIDDEN"},
		{"kicking who is not in", alice, "POST", rooms + "/kick", obj{"user_id": eve.user}, 403, "M_FORBIDDEN"},
		{"banning the stronger", carol, "POST", rooms + "/ban", obj{"user_id": alice.user}, 403, "M_FORBIDDEN"},
		{"lifting no ban", alice, "POST", rooms + "/unban", obj{"user_id": bob.user}, 403, "M_FORBIDDEN"},
		{"forgetting a room that one is in", bob, "POST", rooms + "/forget", obj{}, 400, "M_UNKNOWN"},
		{"reading a private room", bob, "GET", "/rooms/" + esc(private) + "/state", nil, 403, "M_FORBIDDEN"},
		{"an event of a private room", bob, "GET", "/rooms/" + esc(private) + "/event/" + esc(said), nil, 404, "M_NOT_FOUND"},
		{"an event over 64 KiB", alice, "PUT", rooms + "/send/m.room.message/b1", obj{"body": big}, 413, "M_TOO_LARGE"},
		{"state over 64 KiB", alice, "PUT", rooms + "/state/m.room.topic", obj{"topic": big}, 413, "M_TOO_LARGE"},
		{"a body over its limit", alice, "PUT", rooms + "/send/m.room.message/b2", obj{"body": big + big + big}, 413, "M_TOO_LARGE"},
		{"a long type", alice, "PUT", rooms + "/send/" + strings.Repeat("x", 256) + "/b3", obj{}, 413, "M_TOO_LARGE"},
		{"a long state key", alice, "PUT", rooms + "/state/m.x/" + strings.Repeat("x", 256), obj{}, 413, "M_TOO_LARGE"},
		{"a long transaction id", alice, "PUT", rooms + "/send/m.x/" + strings.Repeat("x", 256), obj{}, 400, "M_INVALID_PARAM"},
		{"a float", alice, "PUT", rooms + "/send/m.x/b4", `{"a":1.5}`, 400, "M_BAD_JSON"},
		{"a number beyond 2^53", alice, "PUT", rooms + "/send/m.x/b5", `{"a":9007199254740993}`, 400, "M_BAD_JSON"},
		{"no JSON", alice, "PUT", rooms + "/send/m.x/b6", `{"a":`, 400, "M_NOT_JSON"},
		{"a list", alice, "PUT", rooms + "/send/m.x/b7", `[]`, 400, "M_BAD_JSON"},
		{"a member event without a membership", alice, "PUT", rooms + "/state/m.room.member/" + esc(alice.user), obj{}, 403, "M_FORBIDDEN"},
		{"an alias that is taken by no room", alice, "PUT", rooms + "/state/m.room.canonical_alias", obj{"alias": "#x:" + string(n.server)}, 400, "M_BAD_ALIAS"},
		{"an unknown version", alice, "POST", "/createRoom", obj{"room_version": "99"}, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"an unknown preset", alice, "POST", "/createRoom", obj{"preset": "x"}, 400, "M_INVALID_PARAM"},
		{"a room that breaks its own rules", alice, "POST", "/createRoom", obj{"power_level_content_override": obj{"ban": "x"}}, 403, "M_FORBIDDEN"},
		{"a bad user id", alice, "POST", rooms + "/invite", obj{"user_id": "bob"}, 400, "M_INVALID_PARAM"},
		{"no user id", alice, "POST", rooms + "/invite", obj{}, 400, "M_MISSING_PARAM"},
	} {
		a := c.who.do(c.method, c.path, c.body)
		if o := a.object(); a.status != c.status || o["errcode"] != c.code || o["error"] == "" {
			t.Errorf("%s: %d %s, want %d %s", c.name, a.status, a.raw, c.status, c.code)
		}
	}
	// And the room goes on.
	alice.say(r, "y")
}
