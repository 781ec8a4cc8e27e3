// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func (d *device) find(next string, events obj) obj {
	d.n.t.Helper()
	return at(d.do("POST", "/search?next_batch="+next, obj{"search_categories": obj{"room_events": events}}).ok(), "search_categories", "room_events").(obj)
}

func found(o obj) (out []string) {
	for _, r := range list(o, "results") {
		for _, k := range []string{"body", "name", "topic"} {
			if s, ok := at(r, "result", "content", k).(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

func TestSearchFindsWords(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.create(obj{"preset": "public_chat", "name": "Garden club", "topic": "roses and tea"})
	bob.do("POST", "/join/"+esc(r), obj{}).ok()
	secret := alice.create(obj{})
	alice.say(secret, "roses in secret")
	alice.say(r, "I like red roses")
	bob.say(r, "Roses, roses!")
	pic := bob.sends(r, "m.room.message", obj{"msgtype": "m.image", "body": "Rösen.jpg", "url": "mxc://x/y"})
	alice.say(r, "茶が好きです")
	oops := alice.say(r, "wrong roses")
	alice.redacts(r, oops)
	said := alice.say(r, "tulips")
	alice.edit(r, said, "daffodils")
	alice.sends(r, "m.room.encrypted", obj{"ciphertext": "roses"})

	for _, c := range []struct {
		who   *device
		ask   obj
		order string
		want  []string
	}{
		{bob, obj{"search_term": "roses", "order_by": "recent"}, "", []string{"Roses, roses!", "I like red roses", "roses and tea"}},
		{alice, obj{"search_term": "ROSES", "order_by": "recent"}, "", []string{"Roses, roses!", "I like red roses", "roses in secret", "roses and tea"}},
		{bob, obj{"search_term": "roses"}, "", []string{"Roses, roses!", "roses and tea", "I like red roses"}}, // by rank
		{bob, obj{"search_term": "red roses"}, "", []string{"I like red roses"}},                               // all words
		{bob, obj{"search_term": "red tulips"}, "", nil},
		{bob, obj{"search_term": "rose"}, "", nil}, // whole words
		{bob, obj{"search_term": "rösen"}, "", []string{"Rösen.jpg"}},
		{bob, obj{"search_term": "好き"}, "", []string{"茶が好きです"}},
		{bob, obj{"search_term": "daffodils"}, "", []string{"* daffodils"}},
		{bob, obj{"search_term": "garden"}, "", []string{"Garden club"}},
		{bob, obj{"search_term": "garden", "keys": []any{"content.body"}}, "", nil},
		{bob, obj{"search_term": "roses", "keys": []any{"content.topic"}}, "", []string{"roses and tea"}},
		{bob, obj{"search_term": "roses", "keys": []any{"content.topic", "content.body"}, "order_by": "recent", "filter": obj{"senders": []any{alice.user}}}, "", []string{"I like red roses", "roses and tea"}},
		{alice, obj{"search_term": "roses", "filter": obj{"rooms": []any{secret}}}, "", []string{"roses in secret"}},
		{bob, obj{"search_term": "roses", "filter": obj{"rooms": []any{secret}}}, "", nil},
		{alice, obj{"search_term": "roses", "filter": obj{"not_rooms": []any{r}}}, "", []string{"roses in secret"}},
		{bob, obj{"search_term": "jpg", "filter": obj{"contains_url": true}}, "", []string{"Rösen.jpg"}},
		{bob, obj{"search_term": "!!!"}, "", nil},
	} {
		o := c.who.find("", c.ask)
		if got := found(o); !slices.Equal(got, c.want) || o["count"] != float64(len(c.want)) {
			t.Errorf("%v: %v (%v), want %v", c.ask, got, o["count"], c.want)
		}
	}
	// "event_context": what stands around.
	o := bob.find("", obj{"search_term": "jpg", "event_context": obj{"before_limit": 1, "after_limit": 1, "include_profile": true}, "include_state": true,
		"groupings": obj{"group_by": []any{obj{"key": "room_id"}, obj{"key": "sender"}}}})
	x := at(o, "results", 0, "context")
	if !slices.Equal(bodies(list(x, "events_before")), []string{"Roses, roses!"}) || !slices.Equal(bodies(list(x, "events_after")), []string{"茶が好きです"}) ||
		at(x, "profile_info", string(alice.user), "displayname") != "alice" || at(x, "start") == nil || at(x, "end") == nil {
		t.Errorf("context: %v", x)
	}
	if at(o, "groups", "room_id", r, "results", 0) != pic || at(o, "groups", "sender", string(bob.user), "order") != 1.0 || len(list(o, "state", r)) < 5 ||
		!slices.Equal(list(o, "highlights"), []any{"jpg"}) {
		t.Errorf("%v", o)
	}
	// What was said after one left is not found, nor what is from a room that one forgot.
	bob.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	alice.say(r, "late roses")
	if got := found(bob.find("", obj{"search_term": "roses"})); len(got) != 3 {
		t.Errorf("after leaving: %v", got)
	}
	bob.do("POST", "/rooms/"+esc(r)+"/forget", obj{}).ok()
	if got := found(bob.find("", obj{"search_term": "roses"})); len(got) != 0 {
		t.Errorf("after forgetting: %v", got)
	}
	for _, bad := range []obj{{"search_term": "x", "order_by": "x"}, {"search_term": "x", "keys": []any{"content.x"}}, {"search_term": strings.Repeat("x", 600)},
		{"search_term": "x", "groupings": obj{"group_by": []any{obj{"key": "x"}}}}, {"search_term": "x", "filter": obj{"limit": -1}}} {
		alice.do("POST", "/search", obj{"search_categories": obj{"room_events": bad}}).fails(400, "M_INVALID_PARAM")
	}
	alice.do("POST", "/search", obj{"search_categories": obj{"room_events": obj{}}}).fails(400, "M_MISSING_PARAM")
	alice.do("POST", "/search?next_batch=x", obj{"search_categories": obj{"room_events": obj{"search_term": "x"}}}).fails(400, "M_INVALID_PARAM")
	if o := alice.do("POST", "/search", obj{"search_categories": obj{}}).ok(); at(o, "search_categories", "room_events") != nil {
		t.Errorf("no category: %v", o)
	}
}

func TestSearchPagesGiveEachHitOnce(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	rooms := []string{alice.create(obj{}), alice.create(obj{})}
	for i := range 25 {
		alice.say(rooms[i%2], fmt.Sprint("word ", strings.Repeat("x ", i%3), i))
	}
	for _, order := range []string{"recent", "rank"} {
		seen := map[string]int{}
		next := ""
		for {
			o := alice.find(next, obj{"search_term": "word", "order_by": order, "filter": obj{"limit": 4}})
			for _, s := range found(o) {
				seen[s]++
			}
			alice.say(rooms[0], "word that comes between the pages")
			var more bool
			if next, more = o["next_batch"].(string); !more {
				break
			}
		}
		delete(seen, "word that comes between the pages")
		if len(seen) != 25 {
			t.Errorf("%s: %d hits", order, len(seen))
		}
		for s, n := range seen {
			if n != 1 {
				t.Errorf("%s: %q came %d times", order, s, n)
			}
		}
	}
}
