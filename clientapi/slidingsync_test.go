// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const slidingPath = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

func (d *device) slide(pos string, timeout int, body obj) obj {
	d.n.t.Helper()
	return d.slideRaw(pos, timeout, body).ok()
}

func (d *device) slideRaw(pos string, timeout int, body obj) answer {
	d.n.t.Helper()
	path := slidingPath + fmt.Sprintf("?timeout=%d", timeout)
	if pos != "" {
		path += "&pos=" + pos
	}
	return d.do("POST", path, body)
}

func pairs(p ...string) (out []any) {
	for i := 0; i+1 < len(p); i += 2 {
		out = append(out, []any{p[i], p[i+1]})
	}
	return out
}

// roomList is what the Rust SDK's RoomListService asks for (recorded: facts/client-endpoints.txt, elementx-shape).
func roomList(last int) obj {
	return obj{"conn_id": "room-list", "lists": obj{"all_rooms": obj{
		"ranges": []any{[]any{0, last}}, "timeline_limit": 1,
		"required_state": pairs("m.room.name", "", "m.room.encryption", "", "m.room.member", "$LAZY", "m.room.member", "$ME", "m.room.topic", "",
			"m.room.avatar", "", "m.room.canonical_alias", "", "m.room.power_levels", "", "org.matrix.msc3401.call.member", "*", "m.room.join_rules", "",
			"m.room.tombstone", "", "m.room.create", "", "m.room.history_visibility", "", "io.element.functional_members", "", "m.space.parent", "*", "m.space.child", "*"),
		"filters": obj{"not_room_types": []any{"m.space"}},
	}}, "extensions": obj{"account_data": obj{"enabled": true}, "receipts": obj{"enabled": true, "rooms": []any{"*"}}, "typing": obj{"enabled": true}}}
}

func oneRoom(r string, limit int, required ...string) obj {
	return obj{"room_subscriptions": obj{r: obj{"timeline_limit": limit, "required_state": pairs(required...)}}}
}

func TestSlidingSyncAsTheRustSDKAsks(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	var rooms []string
	for i := range 30 {
		r := alice.create(obj{"name": fmt.Sprint("room ", i), "preset": "public_chat"})
		bob.do("POST", "/join/"+esc(r), obj{}).ok()
		bob.say(r, "hello")
		rooms = append(rooms, r)
	}
	space := alice.create(obj{"name": "space", "creation_content": obj{"type": "m.space"}})
	alice.do("PUT", "/user/"+esc(alice.user)+"/account_data/m.direct", obj{string(bob.user): []any{rooms[29]}}).ok()
	alice.do("PUT", "/user/"+esc(alice.user)+"/rooms/"+esc(rooms[29])+"/tags/m.favourite", obj{}).ok()

	// Selective: the first twenty. Then growing: all.
	o := alice.slide("", 0, roomList(19))
	if at(o, "lists", "all_rooms", "count") != 30.0 || len(o["rooms"].(obj)) != 20 || at(o, "rooms", space) != nil || at(o, "rooms", rooms[9]) != nil {
		t.Fatalf("%v rooms, lists %v", len(o["rooms"].(obj)), o["lists"])
	}
	top := at(o, "rooms", rooms[29])
	if at(top, "initial") != true || at(top, "name") != "room 29" || at(top, "is_dm") != true || at(top, "joined_count") != 2.0 || at(top, "num_live") != 0.0 ||
		at(top, "limited") != true || !slices.Equal(bodies(list(top, "timeline")), []string{"hello"}) || at(top, "prev_batch") == nil {
		t.Errorf("%v", top)
	}
	if at(top, "bump_stamp").(float64) <= at(o, "rooms", rooms[28], "bump_stamp").(float64) {
		t.Error("bump stamps do not sort")
	}
	got := map[string]bool{}
	for _, e := range list(top, "required_state") {
		got[at(e, "type").(string)+" "+at(e, "state_key").(string)] = true
	}
	for _, want := range []string{"m.room.name ", "m.room.create ", "m.room.power_levels ", "m.room.join_rules ", "m.room.history_visibility ",
		"m.room.member " + string(alice.user), "m.room.member " + string(bob.user)} { // bob: he sent what the timeline shows
		if !got[want] {
			t.Errorf("not in required_state: %s", want)
		}
	}
	if got["m.room.guest_access "] {
		t.Error("what was not asked for")
	}
	if types := types(list(o, "extensions", "account_data", "global")); !slices.Contains(types, "m.direct") || !slices.Contains(types, "m.push_rules") {
		t.Errorf("global account data: %v", types)
	}
	if at(o, "extensions", "account_data", "rooms", rooms[29], 0, "type") != "m.tag" {
		t.Errorf("room account data: %v", at(o, "extensions", "account_data", "rooms"))
	}
	pos := o["pos"].(string)
	o = alice.slide(pos, 0, roomList(119))
	if len(o["rooms"].(obj)) != 10 || at(o, "rooms", rooms[0], "initial") != true {
		t.Fatalf("growing gave %d rooms", len(o["rooms"].(obj)))
	}
	pos = o["pos"].(string)
	if o = alice.slide(pos, 0, roomList(119)); len(o["rooms"].(obj)) != 0 || len(list(o, "extensions", "account_data", "global")) != 0 {
		t.Fatalf("nothing happened: %v", o["rooms"])
	}
	pos = o["pos"].(string)

	// A message, a receipt, a typing, a tag: each comes once, in its place.
	said := bob.say(rooms[3], "again")
	bob.do("POST", "/rooms/"+esc(rooms[3])+"/receipt/m.read/"+esc(said), obj{}).ok()
	bob.do("PUT", "/rooms/"+esc(rooms[3])+"/typing/"+esc(bob.user), obj{"typing": true}).ok()
	alice.do("PUT", "/user/"+esc(alice.user)+"/rooms/"+esc(rooms[4])+"/tags/m.lowpriority", obj{}).ok()
	o = alice.slide(pos, 0, roomList(119))
	r := at(o, "rooms", rooms[3])
	if len(o["rooms"].(obj)) != 1 || at(r, "initial") != nil || at(r, "num_live") != 1.0 || !slices.Equal(bodies(list(r, "timeline")), []string{"again"}) || len(list(r, "required_state")) != 0 {
		t.Errorf("%v", o["rooms"])
	}
	if at(o, "extensions", "receipts", "rooms", rooms[3], "content", said, "m.read", string(bob.user), "ts") == nil {
		t.Errorf("receipts: %v", at(o, "extensions", "receipts"))
	}
	if at(o, "extensions", "typing", "rooms", rooms[3], "content", "user_ids", 0) != string(bob.user) || at(o, "extensions", "typing", "rooms", rooms[3], "type") != "m.typing" {
		t.Errorf("typing: %v", at(o, "extensions", "typing"))
	}
	if at(o, "extensions", "account_data", "rooms", rooms[4], 0, "type") != "m.tag" {
		t.Errorf("tags: %v", at(o, "extensions", "account_data"))
	}
	// The answer was lost: the same question has the same answer.
	again := alice.slide(pos, 0, roomList(119))
	if !slices.Equal(bodies(list(again, "rooms", rooms[3], "timeline")), []string{"again"}) || again["pos"] == o["pos"] {
		t.Errorf("asked again: %v", again)
	}

	// The user opens a room: its timeline grows.
	q := roomList(119)
	q["room_subscriptions"] = obj{rooms[3]: obj{"timeline_limit": 20, "required_state": pairs("m.room.guest_access", "")}}
	o = alice.slide(again["pos"].(string), 0, q)
	r = at(o, "rooms", rooms[3])
	if at(r, "unstable_expanded_timeline") != true || at(r, "initial") != nil || !slices.Equal(bodies(list(r, "timeline")), []string{"hello", "again"}) ||
		!slices.Equal(types(list(r, "required_state")), []string{"m.room.guest_access"}) || at(r, "num_live") != 0.0 {
		t.Errorf("opened: %v", r)
	}

	// The other connection, side by side with it.
	enc := obj{"conn_id": "encryption", "extensions": obj{"e2ee": obj{"enabled": true}, "to_device": obj{"enabled": true}}}
	e := alice.slide("", 0, enc)
	if at(e, "extensions", "e2ee", "device_one_time_keys_count") == nil || at(e, "extensions", "e2ee", "device_unused_fallback_key_types") == nil ||
		at(e, "extensions", "e2ee", "device_lists") != nil {
		t.Errorf("e2ee: %v", e)
	}
	next := at(e, "extensions", "to_device", "next_batch").(string)
	bob.do("PUT", "/sendToDevice/m.x/1", obj{"messages": obj{string(alice.user): obj{string(alice.id): obj{"n": 1}}}}).ok()
	enc["extensions"].(obj)["to_device"] = obj{"enabled": true, "since": next, "limit": 100}
	e = alice.slide(e["pos"].(string), 0, enc)
	if at(e, "extensions", "to_device", "events", 0, "content", "n") != 1.0 {
		t.Errorf("to-device: %v", e)
	}
	// Not acknowledged, it comes again; acknowledged, no more.
	e = alice.slide(e["pos"].(string), 0, enc)
	if len(list(e, "extensions", "to_device", "events")) != 1 {
		t.Errorf("to-device again: %v", e)
	}
	enc["extensions"].(obj)["to_device"] = obj{"enabled": true, "since": at(e, "extensions", "to_device", "next_batch")}
	if e = alice.slide(e["pos"].(string), 0, enc); len(list(e, "extensions", "to_device", "events")) != 0 {
		t.Errorf("to-device after its ack: %v", e)
	}
	// Bob's keys change: alice shares rooms with him.
	bob.publish()
	if e = alice.slide(e["pos"].(string), 0, enc); !slices.Contains(list(e, "extensions", "e2ee", "device_lists", "changed"), any(string(bob.user))) {
		t.Errorf("device lists: %v", e)
	}
}

func TestSlidingSyncWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice, bob := n.person("alice"), n.person("bob")
		r := alice.meet(bob)
		pos := alice.slide("", 30000, roomList(19))["pos"].(string)
		begun := time.Now()
		go func() {
			time.Sleep(3 * time.Second)
			bob.say(r, "hi")
		}()
		o := alice.slide(pos, 30000, roomList(19))
		if d := time.Since(begun); d != 3*time.Second || !slices.Equal(bodies(list(o, "rooms", r, "timeline")), []string{"hi"}) {
			t.Errorf("after %s: %v", d, o)
		}
		begun = time.Now()
		o = alice.slide(o["pos"].(string), 30000, roomList(19))
		if d := time.Since(begun); d != 30*time.Second || len(o["rooms"].(obj)) != 0 {
			t.Errorf("after %s: %v", d, o)
		}
		// A newer question ends one that waits.
		pos = o["pos"].(string)
		done := make(chan time.Duration)
		go func() {
			begun := time.Now()
			alice.slide(pos, 30000, roomList(19))
			done <- time.Since(begun)
		}()
		time.Sleep(time.Second)
		alice.slide(pos, 0, roomList(19))
		if d := <-done; d != time.Second {
			t.Errorf("the older question ended after %s", d)
		}
	})
}

func TestSlidingSyncUnknownPos(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	alice.create(obj{})
	pos := alice.slide("", 0, roomList(19))["pos"].(string)
	other := openNode(t, n.kv, true) // after a restart
	reborn := *alice
	reborn.n = other
	reborn.slideRaw(pos, 0, roomList(19)).fails(400, "M_UNKNOWN_POS")
	if o := reborn.slide("", 0, roomList(19)); len(o["rooms"].(obj)) != 1 {
		t.Errorf("anew: %v", o)
	}
	alice.slideRaw("nonsense", 0, roomList(19)).fails(400, "M_UNKNOWN_POS")
	alice.slideRaw(pos, 0, obj{"conn_id": "other"}).fails(400, "M_UNKNOWN_POS")
	for name, body := range map[string]any{
		"range": obj{"lists": obj{"a": obj{"ranges": []any{[]any{3, 1}}}}},
		"room":  obj{"room_subscriptions": obj{"x": obj{}}},
		"since": obj{"extensions": obj{"to_device": obj{"enabled": true, "since": "x"}}},
	} {
		if a := alice.do("POST", slidingPath, body); a.status != 400 {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	alice.do("POST", slidingPath, obj{"lists": 5}).fails(400, "M_BAD_JSON")
	if o := alice.slide("", 0, obj{"txn_id": "t1"}); o["txn_id"] != "t1" {
		t.Errorf("txn_id: %v", o)
	}
}

func TestSlidingSyncMembershipChanges(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.create(obj{"name": "tea", "invite": []any{string(bob.user)}})
	alice.say(r, "before")
	q := obj{"lists": obj{"all": obj{"ranges": []any{[]any{0, 9}}, "timeline_limit": 10, "required_state": pairs("m.room.member", "$ME", "m.room.name", "")}}}
	o := bob.slide("", 0, q)
	x := at(o, "rooms", r)
	if at(x, "initial") != true || len(list(x, "invite_state")) == 0 || list(x, "timeline") != nil || at(x, "name") != "tea" {
		t.Fatalf("invite: %v", x)
	}
	for _, e := range list(x, "invite_state") {
		if at(e, "event_id") != nil {
			t.Errorf("not stripped: %v", e)
		}
	}
	invites := obj{"lists": obj{"in": obj{"ranges": []any{[]any{0, 9}}, "filters": obj{"is_invite": true}}}}
	if c := at(bob.slide("", 0, obj{"conn_id": "i", "lists": invites["lists"]}), "lists", "in", "count"); c != 1.0 {
		t.Errorf("invites: %v", c)
	}
	if o = bob.slide(o["pos"].(string), 0, q); len(o["rooms"].(obj)) != 0 {
		t.Errorf("the invite came twice: %v", o)
	}
	bob.do("POST", "/join/"+esc(r), obj{}).ok()
	o = bob.slide(o["pos"].(string), 0, q)
	x = at(o, "rooms", r)
	if at(x, "initial") != true || at(x, "joined_count") != 2.0 || !slices.Contains(bodies(list(x, "timeline")), "before") {
		t.Errorf("joined: %v", x)
	}
	if at(x, "num_live").(float64) < 1 {
		t.Errorf("num_live: %v", x)
	}
	// State that changes comes with it.
	alice.do("PUT", "/rooms/"+esc(r)+"/state/m.room.name", obj{"name": "coffee"}).ok()
	o = bob.slide(o["pos"].(string), 0, q)
	x = at(o, "rooms", r)
	if at(x, "name") != "coffee" || !slices.Equal(types(list(x, "required_state")), []string{"m.room.name"}) || len(list(x, "timeline")) != 1 {
		t.Errorf("renamed: %v", x)
	}
	// Kicked: told once, and still in the list; after leaving by oneself it is not.
	alice.do("POST", "/rooms/"+esc(r)+"/kick", obj{"user_id": bob.user}).ok()
	alice.say(r, "after")
	o = bob.slide(o["pos"].(string), 0, q)
	x = at(o, "rooms", r)
	if at(o, "lists", "all", "count") != 1.0 || len(list(x, "timeline")) != 1 || at(x, "timeline", 0, "content", "membership") != "leave" ||
		at(x, "required_state", 0, "content", "membership") != "leave" {
		t.Errorf("kicked: %v", o)
	}
	if o = bob.slide(o["pos"].(string), 0, q); len(o["rooms"].(obj)) != 0 {
		t.Errorf("the kick came twice: %v", o)
	}
	own := bob.create(obj{})
	o = bob.slide(o["pos"].(string), 0, q)
	bob.do("POST", "/rooms/"+esc(own)+"/leave", obj{}).ok()
	o = bob.slide(o["pos"].(string), 0, q)
	if at(o, "lists", "all", "count") != 1.0 || at(o, "rooms", own, "timeline", 0, "content", "membership") != "leave" {
		t.Errorf("left: %v", o)
	}
	if o = bob.slide(o["pos"].(string), 0, q); len(o["rooms"].(obj)) != 0 {
		t.Errorf("the leave came twice: %v", o)
	}
}

// TestSlidingWindowMoves: a room that falls out of the window and comes back goes on where it was.
func TestSlidingWindowMoves(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	a, b := alice.create(obj{"name": "a"}), alice.create(obj{"name": "b"})
	q := func(limit int) obj {
		return obj{"lists": obj{"top": obj{"ranges": []any{[]any{0, 0}}, "timeline_limit": limit}}}
	}
	alice.say(a, "a1")
	o := alice.slide("", 0, q(3))
	if at(o, "rooms", a, "initial") != true || at(o, "rooms", b) != nil {
		t.Fatalf("%v", o)
	}
	alice.say(b, "b1")
	o = alice.slide(o["pos"].(string), 0, q(3))
	if at(o, "rooms", b, "initial") != true || at(o, "rooms", a) != nil {
		t.Fatalf("%v", o)
	}
	for i := range 5 {
		alice.say(a, fmt.Sprint("a", i+2))
		alice.say(b, "x")
	}
	alice.say(a, "a7")
	o = alice.slide(o["pos"].(string), 0, q(3))
	x := at(o, "rooms", a)
	if at(x, "initial") != nil || at(x, "limited") != true || !slices.Equal(bodies(list(x, "timeline")), []string{"a5", "a6", "a7"}) {
		t.Errorf("%v", x)
	}
	page := alice.do("GET", "/rooms/"+esc(a)+"/messages?dir=b&limit=2&from="+at(x, "prev_batch").(string), nil).ok()
	if !slices.Equal(bodies(list(page, "chunk")), []string{"a4", "a3"}) {
		t.Errorf("before the gap: %v", bodies(list(page, "chunk")))
	}
	// A state event does not bump: the list stays as it is.
	alice.do("PUT", "/rooms/"+esc(b)+"/state/m.room.topic", obj{"topic": "x"}).ok()
	if o = alice.slide(o["pos"].(string), 0, q(3)); len(o["rooms"].(obj)) != 0 {
		t.Errorf("a topic bumped: %v", o)
	}
}

// TestSlidingLazyMembersComeOnce: "$LAZY" gives who the timeline shows, each once a connection.
func TestSlidingLazyMembersComeOnce(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.meet(bob, carol)
	for range 5 {
		bob.say(r, "x")
	}
	members := func(o obj) (out []string) {
		for _, e := range list(o, "rooms", r, "required_state") {
			out = append(out, at(e, "state_key").(string))
		}
		return out
	}
	q := oneRoom(r, 2, "m.room.member", "$LAZY")
	o := alice.slide("", 0, q)
	if got := members(o); !slices.Equal(got, []string{string(bob.user)}) {
		t.Errorf("at first: %v", got)
	}
	bob.say(r, "y")
	if o = alice.slide(o["pos"].(string), 0, q); len(members(o)) != 0 {
		t.Errorf("bob again: %v", members(o))
	}
	carol.say(r, "z")
	if o = alice.slide(o["pos"].(string), 0, q); !slices.Equal(members(o), []string{string(carol.user)}) {
		t.Errorf("carol: %v", members(o))
	}
	bob.do("PUT", "/profile/"+esc(bob.user)+"/displayname", obj{"displayname": "Bob"}).ok()
	if o = alice.slide(o["pos"].(string), 0, q); !slices.Equal(members(o), []string{string(bob.user)}) {
		t.Errorf("bob's new name: %v", members(o))
	}
	// After a gap all who came or went in it are told.
	dave := n.person("dave")
	dave.do("POST", "/join/"+esc(r), obj{}).ok()
	for range 4 {
		bob.say(r, "x")
	}
	if o = alice.slide(o["pos"].(string), 0, q); at(o, "rooms", r, "limited") != true || !slices.Equal(members(o), []string{string(dave.user)}) {
		t.Errorf("after a gap: %v", members(o))
	}
}

func TestSlidingFiltersOfSpacesAndTags(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	space := alice.create(obj{"creation_content": obj{"type": "m.space"}})
	in, gone, out := alice.create(obj{}), alice.create(obj{}), alice.create(obj{"initial_state": []any{obj{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	alice.do("PUT", "/rooms/"+esc(space)+"/state/m.space.child/"+esc(in), obj{"via": []any{"x"}}).ok()
	alice.do("PUT", "/rooms/"+esc(space)+"/state/m.space.child/"+esc(gone), obj{}).ok()
	alice.do("PUT", "/user/"+esc(alice.user)+"/rooms/"+esc(out)+"/tags/u.x", obj{}).ok()
	for _, c := range []struct {
		filter obj
		want   []string
	}{
		{obj{"spaces": []any{space}}, []string{in}},
		{obj{"tags": []any{"u.x"}}, []string{out}},
		{obj{"not_tags": []any{"u.x"}, "not_room_types": []any{"m.space"}}, []string{in, gone}},
		{obj{"is_encrypted": true}, []string{out}},
		{obj{"room_types": []any{"m.space"}}, []string{space}},
	} {
		o := alice.slide("", 0, obj{"lists": obj{"l": obj{"ranges": []any{[]any{0, 9}}, "filters": c.filter}}})
		var got []string
		for id := range o["rooms"].(obj) {
			got = append(got, id)
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.filter, got, c.want)
		}
	}
}
