// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"slices"
	"testing"
)

func TestTheDirectoryListsWhatWasPublished(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	listed := func(body obj) (out []string) {
		t.Helper()
		for _, l := range list(bob.do("POST", "/publicRooms", body).ok(), "chunk") {
			out = append(out, at(l, "room_id").(string))
		}
		return out
	}
	hidden := alice.create(obj{"preset": "public_chat", "name": "Hidden"})
	tea := alice.create(obj{"visibility": "public", "name": "Tea", "topic": "Leaves", "room_alias_name": "tea"})
	space := alice.create(obj{"visibility": "public", "name": "Space", "creation_content": obj{"type": "m.space"}})
	bob.do("POST", "/join/"+esc(tea), obj{}).ok()
	for _, c := range []struct {
		body obj
		want []string
	}{
		{obj{}, []string{tea, space}},
		{obj{"filter": obj{"generic_search_term": "LEAV"}}, []string{tea}},
		{obj{"filter": obj{"generic_search_term": "hidden"}}, nil},
		{obj{"filter": obj{"room_types": []any{"m.space"}}}, []string{space}},
		{obj{"filter": obj{"room_types": []any{nil}}}, []string{tea}},
		{obj{"limit": 1}, []string{tea}},
		{obj{"limit": 1, "since": "1"}, []string{space}},
		{obj{"limit": 1, "since": "7"}, nil},
	} {
		if got := listed(c.body); !slices.Equal(got, c.want) {
			t.Errorf("%v lists %v, want %v", c.body, got, c.want)
		}
	}
	o := bob.do("GET", "/publicRooms?limit=1", nil).ok()
	if e := at(o, "chunk", 0); at(e, "num_joined_members") != 2.0 || at(e, "canonical_alias") != fmt.Sprintf("#tea:%s", n.server) ||
		at(e, "join_rule") != "public" || at(e, "topic") != "Leaves" || at(e, "world_readable") != false || o["next_batch"] != "1" {
		t.Errorf("%v", o)
	}
	bob.do("GET", "/publicRooms?server=example.org", nil).fails(404, "M_NOT_FOUND")
	bob.do("GET", "/publicRooms?since=x", nil).fails(400, "M_INVALID_PARAM")
	// Only who has the power may list.
	bob.do("PUT", "/directory/list/room/"+esc(tea), obj{"visibility": "private"}).fails(403, "M_FORBIDDEN")
	bob.do("PUT", "/directory/list/room/"+esc(hidden), obj{}).fails(403, "M_FORBIDDEN")
	alice.do("PUT", "/directory/list/room/"+esc(tea), obj{"visibility": "neither"}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", "/directory/list/room/"+esc(tea), obj{"visibility": "private"}).ok()
	alice.do("PUT", "/directory/list/room/"+esc(hidden), obj{}).ok()
	if v := bob.do("GET", "/directory/list/room/"+esc(hidden), nil).ok()["visibility"]; v != "public" {
		t.Error(v)
	}
	bob.do("GET", "/directory/list/room/"+esc("!none"), nil).fails(404, "M_NOT_FOUND")
	if got := listed(obj{}); !slices.Equal(got, []string{hidden, space}) {
		t.Errorf("%v", got)
	}
	alice.do("POST", "/rooms/"+esc(hidden)+"/leave", obj{}).ok()
	if got := listed(obj{}); !slices.Equal(got, []string{space}) {
		t.Errorf("a room that everybody left is listed: %v", got)
	}
}

func TestAliasesAreGivenAndTaken(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	path := func(name string) string { return "/directory/room/" + esc("#"+name+":"+string(n.server)) }
	bob.do("PUT", path("tea"), obj{"room_id": r}).ok()
	alice.do("PUT", path("tea"), obj{"room_id": r}).fails(409, "M_UNKNOWN")
	alice.do("PUT", path("x"), obj{}).fails(400, "M_MISSING_PARAM")
	alice.do("PUT", "/directory/room/"+esc("#x:example.org"), obj{"room_id": r}).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", path(""), obj{"room_id": r}).fails(400, "M_INVALID_PARAM")
	n.person("carol").do("PUT", path("y"), obj{"room_id": r}).fails(403, "M_FORBIDDEN")
	if o := alice.do("GET", path("tea"), nil).ok(); o["room_id"] != r {
		t.Errorf("%v", o)
	}
	if l := list(alice.do("GET", "/rooms/"+esc(r)+"/aliases", nil).ok(), "aliases"); !slices.Equal(l, []any{"#tea:" + string(n.server)}) {
		t.Errorf("%v", l)
	}
	bob.do("DELETE", path("tea"), nil).fails(403, "M_FORBIDDEN")
	alice.do("DELETE", path("tea"), nil).ok()
	alice.do("DELETE", path("tea"), nil).fails(404, "M_NOT_FOUND")
	alice.do("GET", path("tea"), nil).fails(404, "M_NOT_FOUND")
}
