// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"slices"
	"strings"
	"testing"
)

func types(events []any) (out []string) {
	for _, e := range events {
		out = append(out, at(e, "type").(string))
	}
	return out
}

func TestInitialSyncHasAllThatClientsInsistOn(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	alice.do("PUT", "/user/"+esc(alice.user)+"/account_data/m.direct", obj{"x": []any{}}).ok()
	alice.do("PUT", "/user/"+esc(alice.user)+"/rooms/"+esc(r)+"/tags/m.favourite", obj{"order": 0.5}).ok()
	o := alice.sync("")
	if !strings.HasPrefix(o["next_batch"].(string), "s1_") || len(o["next_batch"].(string)) > 24 {
		t.Errorf("next_batch %v", o["next_batch"])
	}
	got := types(list(o, "account_data", "events"))
	if !slices.Contains(got, "m.push_rules") || !slices.Contains(got, "m.direct") {
		t.Errorf("account data: %v", got)
	}
	j := at(o, "rooms", "join", r)
	for _, path := range [][]any{{"state", "events"}, {"timeline", "events"}, {"ephemeral", "events"}, {"account_data", "events"}} {
		if _, ok := at(j, path...).([]any); !ok {
			t.Errorf("no list at %v: %v", path, j)
		}
	}
	for _, path := range [][]any{{"presence", "events"}, {"to_device", "events"}} {
		if _, ok := at(o, path...).([]any); !ok {
			t.Errorf("no list at %v", path)
		}
	}
	if at(j, "summary", "m.joined_member_count") != 2.0 || !slices.Equal(list(j, "summary", "m.heroes"), []any{string(bob.user)}) {
		t.Errorf("summary: %v", at(j, "summary"))
	}
	if at(j, "account_data", "events", 0, "content", "tags", "m.favourite", "order") != 0.5 {
		t.Errorf("tags: %v", at(j, "account_data"))
	}
	if at(j, "unread_notifications", "notification_count") != 0.0 || at(j, "unread_notifications", "highlight_count") != 0.0 {
		t.Errorf("unread counts: %v", at(j, "unread_notifications"))
	}
	all := append(list(j, "state", "events"), list(j, "timeline", "events")...)
	if got := types(all); !slices.Contains(got, "m.room.create") || !slices.Contains(got, "m.room.power_levels") {
		t.Errorf("state and timeline: %v", got)
	}
	for _, e := range all {
		if at(e, "room_id") != nil {
			t.Error("a /sync event with a room_id")
		}
	}
	for _, section := range []string{"invite", "leave"} {
		if l, ok := at(o, "rooms", section).(obj); !ok || len(l) != 0 {
			t.Errorf("%s: %v", section, l)
		}
	}
}

func TestIncrementalSyncShowsEachThingOnce(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	since := bob.sync("")["next_batch"].(string)
	if o := bob.sync(since); len(at(o, "rooms", "join").(obj)) != 0 || len(list(o, "account_data", "events")) != 0 {
		t.Errorf("nothing happened: %v", o)
	}
	id := alice.say(r, "hello")
	o := bob.sync(since)
	tl := list(o, "rooms", "join", r, "timeline", "events")
	if len(tl) != 1 || at(tl[0], "event_id") != id || at(tl[0], "content", "body") != "hello" || at(tl[0], "origin_server_ts") == nil {
		t.Fatalf("%v", tl)
	}
	if at(o, "rooms", "join", r, "timeline", "limited") != false || len(list(o, "rooms", "join", r, "state", "events")) != 0 {
		t.Errorf("%v", at(o, "rooms", "join", r))
	}
	if o := bob.sync(o["next_batch"].(string)); len(at(o, "rooms", "join").(obj)) != 0 {
		t.Errorf("shown again: %v", o)
	}
	// The same token again gives the same again: a client may have lost the answer.
	if again := list(bob.sync(since), "rooms", "join", r, "timeline", "events"); len(again) != 1 {
		t.Errorf("an answer that was lost does not come again: %v", again)
	}
}

func TestTransactionIDIsForTheSendersDevice(t *testing.T) {
	n := newNode(t)
	phone, bob := n.person("alice"), n.person("bob")
	tablet := n.person("alice")
	r := phone.meet(bob)
	id := phone.say(r, "x") // transaction t1
	phone.do("PUT", "/rooms/"+esc(r)+"/redact/"+esc(id)+"/t9", nil).ok()
	find := func(d *device) (out []any) {
		for _, e := range list(d.sync(""), "rooms", "join", r, "timeline", "events") {
			if typ := at(e, "type"); typ == "m.room.message" || typ == "m.room.redaction" {
				out = append(out, at(e, "unsigned", "transaction_id"))
			}
		}
		return out
	}
	if got := find(phone); !slices.Equal(got, []any{"t1", "t9"}) {
		t.Errorf("the sender's device sees %v", got)
	}
	for _, d := range []*device{tablet, bob} {
		if got := find(d); !slices.Equal(got, []any{nil, nil}) {
			t.Errorf("another device sees %v", got)
		}
	}
}

func TestSyncSectionsFollowTheMembership(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.create(obj{"preset": "private_chat", "name": "Tea"})
	p := "/rooms/" + esc(r)
	since := bob.sync("")["next_batch"].(string)
	step := func(want string) obj {
		t.Helper()
		o := bob.sync(since)
		since = o["next_batch"].(string)
		for _, section := range []string{"join", "invite", "leave", "knock"} {
			if in := at(o, "rooms", section, r) != nil; in != (section == want) {
				t.Fatalf("want %s only, but %s: %v", want, section, in)
			}
		}
		return at(o, "rooms", want, r).(obj)
	}
	who := obj{"user_id": string(bob.user)}
	alice.do("POST", p+"/invite", who).ok()
	inv := list(step("invite"), "invite_state", "events")
	if got := types(inv); !slices.Contains(got, "m.room.create") || !slices.Contains(got, "m.room.name") || !slices.Contains(got, "m.room.member") {
		t.Errorf("stripped state: %v", got)
	}
	bob.do("POST", p+"/join", nil).ok()
	j := step("join")
	all := append(list(j, "state", "events"), list(j, "timeline", "events")...)
	if got := types(all); !slices.Contains(got, "m.room.create") || !slices.Contains(got, "m.room.join_rules") {
		t.Errorf("a room newly joined lacks state: %v", got)
	}
	alice.say(r, "before")
	alice.do("POST", p+"/kick", who).ok()
	alice.say(r, "not for bob")
	l := list(step("leave"), "timeline", "events")
	if last := l[len(l)-1]; at(last, "content", "membership") != "leave" || !slices.Equal(bodies(l), []string{"before"}) {
		t.Errorf("the leave section: %v", l)
	}
	// All at once between two syncs: the room stands in one section.
	alice.do("POST", p+"/ban", who).ok()
	alice.do("POST", p+"/unban", who).ok()
	alice.do("POST", p+"/invite", who).ok()
	step("invite")
	bob.do("POST", p+"/leave", nil).ok()
	step("leave")
	o := bob.sync("")
	if at(o, "rooms", "leave", r) != nil {
		t.Error("a left room is in an initial sync without include_leave")
	}
	o = bob.sync("", "filter", `{"room":{"include_leave":true}}`)
	if at(o, "rooms", "leave", r) == nil {
		t.Error("include_leave shows no left room")
	}
}

func TestTypingAndReceiptsAreShown(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	id := alice.say(r, "x")
	since := alice.sync("")["next_batch"].(string)
	p := "/rooms/" + esc(r)
	ephemeral := func() map[string]any {
		t.Helper()
		o := alice.sync(since)
		since = o["next_batch"].(string)
		out := map[string]any{}
		for _, e := range list(o, "rooms", "join", r, "ephemeral", "events") {
			out[at(e, "type").(string)] = at(e, "content")
		}
		return out
	}
	bob.do("PUT", p+"/typing/"+esc(bob.user), obj{"typing": true, "timeout": 10000}).ok()
	if got := list(ephemeral()["m.typing"], "user_ids"); !slices.Equal(got, []any{string(bob.user)}) {
		t.Errorf("typing: %v", got)
	}
	bob.do("PUT", p+"/typing/"+esc(bob.user), obj{"typing": false}).ok()
	if got, ok := at(ephemeral()["m.typing"], "user_ids").([]any); !ok || len(got) != 0 {
		t.Errorf("typing ended: %v", got)
	}
	bob.do("POST", p+"/receipt/m.read/"+esc(id), obj{}).ok()
	if got := at(ephemeral()["m.receipt"], id, "m.read", string(bob.user), "ts"); got == nil {
		t.Error("no receipt")
	}
	bob.do("POST", p+"/receipt/m.read.private/"+esc(id), nil).ok()
	if got := ephemeral()["m.receipt"]; got != nil {
		t.Errorf("a private receipt is shown to others: %v", got)
	}
	bob.do("POST", p+"/receipt/m.read/"+esc(id), obj{"thread_id": "main"}).ok()
	if got := at(ephemeral()["m.receipt"], id, "m.read", string(bob.user), "thread_id"); got != "main" {
		t.Errorf("threaded receipt: %v", got)
	}

	bob.do("PUT", p+"/typing/"+esc(alice.user), obj{"typing": true}).fails(403, "M_FORBIDDEN")
	bob.do("PUT", p+"/typing/"+esc(bob.user), obj{}).fails(400, "M_MISSING_PARAM")
	bob.do("POST", p+"/receipt/m.seen/"+esc(id), obj{}).fails(400, "M_INVALID_PARAM")
	bob.do("POST", p+"/receipt/m.read/"+esc(id), obj{"thread_id": ""}).fails(400, "M_INVALID_PARAM")
	n.person("eve").do("POST", p+"/receipt/m.read/"+esc(id), obj{}).fails(403, "M_FORBIDDEN")
	n.person("eve").do("PUT", p+"/typing/"+esc("@eve:"+string(n.server)), obj{"typing": true}).fails(403, "M_FORBIDDEN")
}

func TestReadMarkersSetThreeMarks(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	id := alice.say(r, "x")
	since := bob.sync("")["next_batch"].(string)
	bob.do("POST", "/rooms/"+esc(r)+"/read_markers", obj{"m.fully_read": id, "m.read": id, "m.read.private": id, "org.x": 1}).ok()
	j := at(bob.sync(since), "rooms", "join", r)
	if at(j, "account_data", "events", 0, "type") != "m.fully_read" || at(j, "account_data", "events", 0, "content", "event_id") != id {
		t.Errorf("fully read: %v", at(j, "account_data"))
	}
	marks := at(j, "ephemeral", "events", 0, "content", id)
	if at(marks, "m.read", string(bob.user)) == nil || at(marks, "m.read.private", string(bob.user)) == nil {
		t.Errorf("own receipts: %v", marks)
	}
	bob.do("POST", "/rooms/"+esc(r)+"/read_markers", obj{"m.read": 5}).fails(400, "M_BAD_JSON")
	bob.do("POST", "/rooms/"+esc(r)+"/read_markers", obj{"m.read": "x"}).fails(400, "M_INVALID_PARAM")
	bob.do("POST", "/rooms/"+esc(r)+"/read_markers", obj{}).ok()
	bob.do("POST", "/rooms/"+esc(r)+"/receipt/m.fully_read/"+esc(id), obj{}).ok()
}

func TestSyncFilters(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r, other := alice.meet(bob), alice.meet(bob)
	alice.say(r, "a")
	bob.say(r, "b")
	alice.say(other, "c")
	get := func(filter string) obj { t.Helper(); return alice.sync("", "filter", filter) }

	o := get(`{"room":{"timeline":{"limit":1}}}`)
	if tl := at(o, "rooms", "join", r, "timeline"); at(tl, "limited") != true || !slices.Equal(bodies(list(tl, "events")), []string{"b"}) {
		t.Errorf("limit: %v", tl)
	}
	o = get(`{"room":{"timeline":{"types":["m.room.message"],"not_senders":["` + string(bob.user) + `"]}}}`)
	if got := list(o, "rooms", "join", r, "timeline", "events"); !slices.Equal(bodies(got), []string{"a"}) || len(got) != 1 {
		t.Errorf("types and senders: %v", got)
	}
	o = get(`{"room":{"rooms":["` + r + `"]}}`)
	if at(o, "rooms", "join", r) == nil || at(o, "rooms", "join", other) != nil {
		t.Error("rooms")
	}
	o = get(`{"room":{"not_rooms":["` + r + `"]}}`)
	if at(o, "rooms", "join", r) != nil || at(o, "rooms", "join", other) == nil {
		t.Error("not_rooms")
	}
	o = get(`{"room":{"state":{"types":["m.room.create"]},"timeline":{"limit":1}}}`)
	if got := types(list(o, "rooms", "join", r, "state", "events")); !slices.Equal(got, []string{"m.room.create"}) {
		t.Errorf("state types: %v", got)
	}
	o = get(`{"account_data":{"not_types":["m.push_rules"]}}`)
	if got := list(o, "account_data", "events"); len(got) != 0 {
		t.Errorf("account data: %v", got)
	}
	o = get(`{"room":{"state":{"lazy_load_members":true}}}`)
	all := append(list(o, "rooms", "join", r, "state", "events"), list(o, "rooms", "join", r, "timeline", "events")...)
	for _, d := range []*device{alice, bob} { // whoever speaks must be known
		if !slices.ContainsFunc(all, func(e any) bool { return at(e, "state_key") == string(d.user) }) {
			t.Errorf("lazy loading leaves out a speaker")
		}
	}
	id := alice.do("POST", "/user/"+esc(alice.user)+"/filter", `{"room":{"rooms":["`+r+`"]}}`).ok()["filter_id"].(string)
	if o = get(id); at(o, "rooms", "join", other) != nil {
		t.Error("a stored filter is not used")
	}
	// A filtered-out event does not end a long poll, nor come later.
	since := o["next_batch"].(string)
	alice.say(other, "d")
	if o = alice.sync(since, "filter", id, "timeout", "10"); len(at(o, "rooms", "join").(obj)) != 0 {
		t.Errorf("%v", o)
	}
}

func TestSyncRefusesWhatItCannotRead(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	for query, code := range map[string]string{
		"since=yesterday": "M_INVALID_PARAM", "since=s1_-1": "M_INVALID_PARAM", "timeout=soon": "M_INVALID_PARAM",
		"filter=nosuch": "M_INVALID_PARAM", "filter={": "M_NOT_JSON", "filter={%22room%22:1}": "M_BAD_JSON", "full_state=maybe": "M_INVALID_PARAM",
	} {
		alice.do("GET", "/sync?"+query, nil).fails(400, code)
	}
}

func TestFullStateGivesAllAtOnce(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	since := alice.sync("")["next_batch"].(string)
	o := alice.sync(since, "full_state", "true", "timeout", "30000", "set_presence", "offline")
	if got := types(list(o, "rooms", "join", r, "state", "events")); !slices.Contains(got, "m.room.create") {
		t.Errorf("full state: %v", got)
	}
}

func TestARoomEnteredAgainBringsItsOldAccountData(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	bob.do("PUT", "/user/"+esc(bob.user)+"/rooms/"+esc(r)+"/tags/u.old", obj{}).ok()
	bob.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	since := bob.sync("")["next_batch"].(string) // knows nothing of the room
	bob.do("POST", "/join/"+esc(r), obj{}).ok()
	o := bob.sync(since)
	if got := at(o, "rooms", "join", r, "account_data", "events", 0, "content", "tags", "u.old"); got == nil {
		t.Errorf("account data of a room entered again: %v", at(o, "rooms", "join", r, "account_data"))
	}
	if got := list(o, "account_data", "events"); len(got) != 0 {
		t.Errorf("global account data that did not change: %v", got)
	}
}

func TestATokenOutlivesARestart(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	since := alice.sync("")["next_batch"].(string)
	id := alice.say(r, "while away")
	again := openNode(t, n.kv, true) // the same database in a new process
	a := &device{n: again, user: alice.user, id: alice.id, token: alice.token}
	o := a.sync(since)
	tl := list(o, "rooms", "join", r, "timeline", "events")
	if len(tl) != 1 || at(tl[0], "event_id") != id {
		t.Errorf("after the restart: %v", tl)
	}
	if o := a.sync(o["next_batch"].(string)); len(at(o, "rooms", "join").(obj)) != 0 {
		t.Errorf("shown again: %v", o)
	}
	if one := a.do("PUT", "/rooms/"+esc(r)+"/send/m.room.message/t1", obj{"body": "x"}).ok()["event_id"]; one != id {
		t.Error("a transaction id is forgotten by a restart")
	}
}

func TestATokenFromTheFutureStartsAnew(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	o := alice.sync("s1_99999999", "timeout", "30000") // as after restoring a backup
	if at(o, "rooms", "join", r) == nil || o["next_batch"] == "s1_99999999" {
		t.Errorf("%v", o)
	}
}
