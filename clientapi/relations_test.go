// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// sends sends an event with that content.
func (d *device) sends(room, typ string, content obj) string {
	d.n.t.Helper()
	return d.trySend(room, typ, content).ok()["event_id"].(string)
}

func (d *device) trySend(room, typ string, content obj) answer {
	d.n.t.Helper()
	d.txns++
	return d.do("PUT", fmt.Sprintf("/rooms/%s/send/%s/t%d", esc(room), typ, d.txns), content)
}

func relates(rel, id, body string) obj {
	return obj{"msgtype": "m.text", "body": body, "m.relates_to": obj{"rel_type": rel, "event_id": id}}
}

func (d *device) edit(room, id, body string) string {
	d.n.t.Helper()
	c := relates("m.replace", id, "* "+body)
	c["m.new_content"] = obj{"msgtype": "m.text", "body": body}
	return d.sends(room, "m.room.message", c)
}

func (d *device) reactTo(room, id, key string) answer {
	d.n.t.Helper()
	return d.trySend(room, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": id, "key": key}})
}

func (d *device) redacts(room, id string) {
	d.n.t.Helper()
	d.txns++
	d.do("PUT", fmt.Sprintf("/rooms/%s/redact/%s/r%d", esc(room), esc(id), d.txns), obj{}).ok()
}

func (d *device) v1(path string, args ...any) answer {
	d.n.t.Helper()
	return d.do("GET", "/_matrix/client/v1"+fmt.Sprintf(path, args...), nil)
}

func ids(events []any) (out []string) {
	for _, e := range events {
		out = append(out, at(e, "event_id").(string))
	}
	return out
}

// served gives an event as each endpoint serves it.
func (d *device) served(r, id string) map[string]any {
	d.n.t.Helper()
	find := func(events []any) any {
		for _, e := range events {
			if at(e, "event_id") == id {
				return e
			}
		}
		return nil
	}
	ctx := d.do("GET", "/rooms/"+esc(r)+"/context/"+esc(id), nil).ok()
	filter := url.QueryEscape(`{"room":{"timeline":{"limit":100}}}`)
	slid := d.slide("", 0, oneRoom(r, 100))
	return map[string]any{
		"event":    d.do("GET", "/rooms/"+esc(r)+"/event/"+esc(id), nil).object(),
		"context":  ctx["event"],
		"messages": find(list(d.do("GET", "/rooms/"+esc(r)+"/messages?dir=b&limit=100", nil).ok(), "chunk")),
		"sync":     find(list(d.do("GET", "/sync?filter="+filter, nil).ok(), "rooms", "join", r, "timeline", "events")),
		"sliding":  find(list(slid, "rooms", r, "timeline")),
	}
}

// each checks the same of an event wherever it is served.
func (d *device) each(r, id, what string, check func(e any) bool) {
	d.n.t.Helper()
	for where, e := range d.served(r, id) {
		if e == nil || !check(e) {
			d.n.t.Errorf("%s, by %s: %v", what, where, at(e, "unsigned"))
		}
	}
}

func TestEditsAreBundledEverywhere(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	said := alice.say(r, "one")
	edit := func(e any) any {
		return at(e, "unsigned", "m.relations", "m.replace", "content", "m.new_content", "body")
	}
	bob.each(r, said, "no edit", func(e any) bool { return at(e, "unsigned", "m.relations") == nil })
	first := alice.edit(r, said, "two")
	bob.each(r, said, "one edit", func(e any) bool { return edit(e) == "two" && at(e, "content", "body") == "one" })
	second := alice.edit(r, said, "three")
	bob.each(r, said, "the newest edit", func(e any) bool {
		return edit(e) == "three" && at(e, "unsigned", "m.relations", "m.replace", "event_id") == second
	})
	for name, bad := range map[string]func(){
		"another's":           func() { bob.edit(r, said, "forged") },
		"without new content": func() { alice.sends(r, "m.room.message", relates("m.replace", said, "x")) },
		"of another type": func() {
			c := relates("m.replace", said, "x")
			c["m.new_content"] = obj{}
			alice.sends(r, "m.other", c)
		},
		"of an edit": func() { alice.edit(r, second, "nested") },
	} {
		bad()
		bob.each(r, said, "an edit "+name, func(e any) bool { return edit(e) == "three" })
		bob.each(r, second, "an edit "+name, func(e any) bool { return edit(e) == nil })
	}
	alice.redacts(r, second)
	bob.each(r, said, "the newest edit redacted", func(e any) bool { return edit(e) == "two" })
	alice.redacts(r, first)
	bob.each(r, said, "all edits redacted", func(e any) bool { return edit(e) == nil })
	alice.edit(r, said, "four")
	alice.redacts(r, said)
	bob.each(r, said, "the event itself redacted", func(e any) bool { return edit(e) == nil && at(e, "unsigned", "redacted_because") != nil })
	// Encrypted: what it replaces by is not to be seen.
	secret := alice.sends(r, "m.room.encrypted", obj{"ciphertext": "a"})
	alice.sends(r, "m.room.encrypted", obj{"ciphertext": "b", "m.relates_to": obj{"rel_type": "m.replace", "event_id": secret}})
	bob.each(r, secret, "an encrypted edit", func(e any) bool {
		return at(e, "unsigned", "m.relations", "m.replace", "content", "ciphertext") == "b"
	})
}

func TestThreadsAreSummedUp(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.meet(bob, carol)
	root, other := alice.say(r, "root"), alice.say(r, "other")
	var replies []string
	for i := range 3 {
		replies = append(replies, bob.sends(r, "m.room.message", relates("m.thread", root, fmt.Sprint("r", i))))
	}
	thread := func(e any, path ...any) any {
		return at(at(e, "unsigned", "m.relations", "m.thread"), path...)
	}
	carol.each(r, root, "three replies", func(e any) bool {
		return thread(e, "count") == 3.0 && thread(e, "latest_event", "event_id") == replies[2] && thread(e, "current_user_participated") == false
	})
	for _, d := range []*device{alice, bob} { // who wrote the root, and who wrote in it
		d.each(r, root, "participated", func(e any) bool { return thread(e, "current_user_participated") == true })
	}
	bob.edit(r, replies[2], "edited")
	carol.each(r, root, "the latest was edited", func(e any) bool {
		return thread(e, "latest_event", "unsigned", "m.relations", "m.replace", "content", "m.new_content", "body") == "edited"
	})
	bob.redacts(r, replies[2])
	carol.each(r, root, "the latest redacted", func(e any) bool {
		return thread(e, "count") == 2.0 && thread(e, "latest_event", "event_id") == replies[1]
	})
	carol.sends(r, "m.room.message", relates("m.thread", other, "there"))

	get := func(d *device, query string) obj { return d.v1("/rooms/%s/threads?%s", esc(r), query).ok() }
	o := get(carol, "")
	if got := ids(list(o, "chunk")); !slices.Equal(got, []string{other, root}) || o["next_batch"] != nil {
		t.Errorf("threads: %v", o)
	}
	if at(o, "chunk", 1, "unsigned", "m.relations", "m.thread", "count") != 2.0 {
		t.Errorf("the root is not summed up: %v", at(o, "chunk", 1))
	}
	bob.sends(r, "m.room.message", relates("m.thread", root, "r4"))
	o = get(carol, "limit=1")
	if got := ids(list(o, "chunk")); !slices.Equal(got, []string{root}) { // "ordered by their latest event"
		t.Errorf("the first page: %v", got)
	}
	o = get(carol, "limit=1&from="+o["next_batch"].(string))
	if got := ids(list(o, "chunk")); !slices.Equal(got, []string{other}) || o["next_batch"] != nil {
		t.Errorf("the second page: %v", o)
	}
	if got := ids(list(get(carol, "include=participated"), "chunk")); !slices.Equal(got, []string{other}) {
		t.Errorf("carol's: %v", got)
	}
	carol.v1("/rooms/%s/threads?include=some", esc(r)).fails(400, "M_INVALID_PARAM")
	n.person("eve").v1("/rooms/%s/threads", esc(r)).fails(403, "M_FORBIDDEN")
	// "Servers should reject ... a thread on an event that is itself a relation."
	carol.trySend(r, "m.room.message", relates("m.thread", replies[0], "x")).fails(400, "M_UNKNOWN")
	// All replies gone: no thread.
	for _, e := range list(carol.v1("/rooms/%s/relations/%s/m.thread", esc(r), esc(other)).ok(), "chunk") {
		carol.redacts(r, at(e, "event_id").(string))
	}
	carol.each(r, other, "no replies", func(e any) bool { return thread(e) == nil })
	if got := ids(list(get(carol, ""), "chunk")); !slices.Equal(got, []string{root}) {
		t.Errorf("at the end: %v", got)
	}
}

func TestRelationsArePagedAndFiltered(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	root := alice.say(r, "root")
	a := ids([]any{bob.reactTo(r, root, "👍").ok()})[0]
	b := alice.edit(r, root, "new")
	c := bob.sends(r, "m.room.message", relates("m.reference", root, "see"))
	d := bob.sends(r, "org.x", obj{"m.relates_to": obj{"rel_type": "org.rel", "event_id": root}})
	e := alice.reactTo(r, c, "😀").ok()["event_id"].(string) // of a child
	f := bob.sends(r, "m.room.message", relates("m.thread", root, "in it"))
	for _, x := range []struct {
		path string
		want []string
	}{
		{"", []string{f, d, c, b, a}},
		{"?dir=f", []string{a, b, c, d, f}},
		{"?dir=b&limit=2", []string{f, d}},
		{"/m.annotation", []string{a}},
		{"/m.annotation/m.reaction", []string{a}},
		{"/m.annotation/m.room.message", nil},
		{"/m.replace", []string{b}},
		{"/m.thread/m.room.message", []string{f}},
		{"/org.rel", []string{d}},
		{"/org.rel/org.x", []string{d}},
		{"/org.none", nil},
		{"?recurse=true", []string{f, e, d, c, b, a}},
		{"/m.annotation?recurse=true", []string{e, a}},
		{"?recurse=true&limit=2&dir=f", []string{a, b}},
		{"?recurse=false&limit=1", []string{f}},
	} {
		o := alice.v1("/rooms/%s/relations/%s%s", esc(r), esc(root), x.path).ok()
		if got := ids(list(o, "chunk")); !slices.Equal(got, x.want) {
			t.Errorf("%q: %v, want %v", x.path, got, x.want)
		}
	}
	for _, dir := range []string{"b", "f"} {
		for _, recurse := range []string{"false", "true"} {
			var got []string
			from := ""
			for {
				o := alice.v1("/rooms/%s/relations/%s?limit=2&dir=%s&recurse=%s%s", esc(r), esc(root), dir, recurse, from).ok()
				got = append(got, ids(list(o, "chunk"))...)
				next, ok := o["next_batch"].(string)
				if !ok {
					break
				}
				if len(got) > 10 {
					t.Fatal("pages without end")
				}
				from = "&from=" + next
			}
			want := []string{a, b, c, d, f}
			if recurse == "true" {
				want = []string{a, b, c, d, e, f}
			}
			if dir == "b" {
				slices.Reverse(want)
			}
			if !slices.Equal(got, want) {
				t.Errorf("dir %s, recurse %s: %v, want %v", dir, recurse, got, want)
			}
		}
	}
	if o := alice.v1("/rooms/%s/relations/%s?recurse=true", esc(r), esc(root)).ok(); o["recursion_depth"] != 3.0 {
		t.Errorf("recursion_depth: %v", o["recursion_depth"])
	}
	alice.v1("/rooms/%s/relations/%s", esc(r), "$nothing").fails(404, "M_NOT_FOUND")
	n.person("eve").v1("/rooms/%s/relations/%s", esc(r), esc(root)).fails(404, "M_NOT_FOUND")
	alice.v1("/rooms/%s/relations/%s?dir=x", esc(r), esc(root)).fails(400, "M_INVALID_PARAM")
	alice.v1("/rooms/%s/relations/%s?from=x", esc(r), esc(root)).fails(400, "M_INVALID_PARAM")
	alice.v1("/rooms/%s/relations/%s?recurse=x", esc(r), esc(root)).fails(400, "M_INVALID_PARAM")
	bob.each(r, root, "references", func(e any) bool {
		return slices.Equal(ids(list(e, "unsigned", "m.relations", "m.reference", "chunk")), []string{c})
	})
	bob.redacts(r, c)
	bob.each(r, root, "the reference redacted", func(e any) bool { return at(e, "unsigned", "m.relations", "m.reference") == nil })
}

func TestSameAnnotationTwiceIsRefused(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	said := alice.say(r, "x")
	first := bob.reactTo(r, said, "👍").ok()["event_id"].(string)
	bob.reactTo(r, said, "👍").fails(400, "M_DUPLICATE_ANNOTATION")
	bob.reactTo(r, said, "👎").ok()
	alice.reactTo(r, said, "👍").ok()
	bob.redacts(r, first)
	bob.reactTo(r, said, "👍").ok()
}

func TestTimestampToEvent(t *testing.T) { synctest.Test(t, timestampToEvent) }

func timestampToEvent(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	var said []string
	var times []int64
	for i := range 3 {
		time.Sleep(time.Second)
		said = append(said, alice.say(r, fmt.Sprint(i)))
		times = append(times, int64(alice.do("GET", "/rooms/"+esc(r)+"/event/"+esc(said[i]), nil).ok()["origin_server_ts"].(float64)))
	}
	for _, c := range []struct {
		ts   int64
		dir  string
		want string
	}{
		{times[1], "f", said[1]}, {times[1], "b", said[1]}, {times[1] + 1, "b", said[1]}, {times[1] + 1, "f", said[2]},
		{times[1] - 1, "f", said[1]}, {times[2] + 1000, "b", said[2]}, {times[0] - 1, "f", said[0]},
	} {
		o := bob.v1("/rooms/%s/timestamp_to_event?ts=%d&dir=%s", esc(r), c.ts, c.dir).ok()
		if o["event_id"] != c.want || o["origin_server_ts"] == nil {
			t.Errorf("%d %s: %v, want %s", c.ts-times[0], c.dir, o, c.want)
		}
	}
	bob.v1("/rooms/%s/timestamp_to_event?ts=%d&dir=f", esc(r), times[2]+1).fails(404, "M_NOT_FOUND")
	bob.v1("/rooms/%s/timestamp_to_event?ts=0&dir=b", esc(r)).fails(404, "M_NOT_FOUND")
	bob.v1("/rooms/%s/timestamp_to_event?dir=b", esc(r)).fails(400, "M_MISSING_PARAM")
	bob.v1("/rooms/%s/timestamp_to_event?ts=1", esc(r)).fails(400, "M_MISSING_PARAM")
	bob.v1("/rooms/%s/timestamp_to_event?ts=-1&dir=b", esc(r)).fails(400, "M_INVALID_PARAM")
	n.person("eve").v1("/rooms/%s/timestamp_to_event?ts=1&dir=f", esc(r)).fails(403, "M_FORBIDDEN")
}

func TestMessagesAndContextFilters(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	one := alice.say(r, "one")
	two := bob.say(r, "two")
	pic := alice.sends(r, "m.room.message", obj{"msgtype": "m.image", "body": "pic", "url": "mxc://x/y"})
	bob.reactTo(r, one, "👍").ok()
	bob.sends(r, "m.room.message", relates("m.thread", two, "three"))
	for _, c := range []struct {
		filter string
		want   []string
	}{
		{`{"types":["m.room.message"]}`, []string{"three", "pic", "two", "one"}},
		{`{"types":["m.room.*"],"not_types":["m.room.m*"],"senders":["` + string(bob.user) + `"]}`, nil},
		{`{"types":["m.room.message"],"senders":["` + string(bob.user) + `"]}`, []string{"three", "two"}},
		{`{"types":["m.room.message"],"not_senders":["` + string(bob.user) + `"]}`, []string{"pic", "one"}},
		{`{"contains_url":true}`, []string{"pic"}},
		{`{"contains_url":false,"types":["m.room.message"]}`, []string{"three", "two", "one"}},
		{`{"related_by_rel_types":["m.annotation"]}`, []string{"one"}},
		{`{"related_by_rel_types":["m.thread"]}`, []string{"two"}},
		{`{"related_by_rel_types":["m.thread","m.annotation"]}`, []string{"two", "one"}},
		{`{"related_by_senders":["` + string(bob.user) + `"]}`, []string{"two", "one"}},
		{`{"related_by_senders":["` + string(alice.user) + `"]}`, nil},
		{`{"related_by_rel_types":["m.thread"],"related_by_senders":["` + string(alice.user) + `"]}`, nil},
		{`{"not_rooms":["` + r + `"]}`, nil},
		{`{"rooms":["` + r + `"],"types":["m.room.message"],"limit":1}`, []string{"three"}},
	} {
		o := alice.do("GET", "/rooms/"+esc(r)+"/messages?dir=b&limit=50&filter="+url.QueryEscape(c.filter), nil).ok()
		if got := bodies(list(o, "chunk")); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.filter, got, c.want)
		}
	}
	o := alice.do("GET", "/rooms/"+esc(r)+"/context/"+esc(pic)+"?limit=4&filter="+url.QueryEscape(`{"senders":["`+string(bob.user)+`"],"types":["m.room.message"],"lazy_load_members":true}`), nil).ok()
	if got := bodies(list(o, "events_before")); !slices.Equal(got, []string{"two"}) {
		t.Errorf("before: %v", got)
	}
	if got := bodies(list(o, "events_after")); !slices.Equal(got, []string{"three"}) {
		t.Errorf("after: %v", got)
	}
	if o = alice.do("GET", "/rooms/"+esc(r)+"/context/"+esc(pic)+"?limit=0", nil).ok(); len(list(o, "events_before"))+len(list(o, "events_after")) != 0 || at(o, "event", "event_id") != pic {
		t.Errorf("limit 0: %v", o)
	}
}

func TestSyncLazyLoadsMembers(t *testing.T) {
	n := newNode(t)
	alice, bob, carol, dave := n.person("alice"), n.person("bob"), n.person("carol"), n.person("dave")
	r := alice.create(obj{"preset": "public_chat", "name": "tea"})
	for _, d := range []*device{bob, carol, dave} {
		d.do("POST", "/join/"+esc(r), obj{}).ok()
	}
	members := func(o obj, name string) (out []string) {
		for _, e := range list(o, "rooms", "join", r, name, "events") {
			if at(e, "type") == "m.room.member" {
				out = append(out, at(e, "state_key").(string))
			}
		}
		slices.Sort(out)
		return out
	}
	for _, mode := range []struct{ query, name string }{{"", "state"}, {"true", "state_after"}} {
		bob.say(r, "x")
		bob.say(r, "x")
		ask := func(since string) obj {
			q := []string{"filter", `{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}`}
			if mode.query != "" {
				q = append(q, "use_state_after", mode.query)
			}
			return alice.sync(since, q...)
		}
		o := ask("")
		if got := members(o, mode.name); !slices.Equal(got, []string{string(alice.user), string(bob.user)}) { // who sent, and oneself
			t.Errorf("%s: at first %v", mode.name, got)
		}
		since := o["next_batch"].(string)
		carol.say(r, "y")
		o = ask(since)
		if got := members(o, mode.name); !slices.Equal(got, []string{string(carol.user)}) {
			t.Errorf("%s: then %v", mode.name, got)
		}
	}
	// Without lazy loading: all.
	if got := members(alice.sync("", "filter", `{"room":{"timeline":{"limit":2}}}`), "state"); len(got) != 4 {
		t.Errorf("all: %v", got)
	}
	// "The membership events of the heroes must be included": a room without a name.
	r = alice.meet(bob, carol)
	alice.say(r, "x")
	o := alice.sync("", "filter", `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`)
	if got := members(o, "state"); len(got) != 3 {
		t.Errorf("heroes: %v", got)
	}
}

func TestStateAfter(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.create(obj{"name": "a"})
	since := alice.sync("")["next_batch"].(string)
	alice.do("PUT", "/rooms/"+esc(r)+"/state/m.room.name", obj{"name": "b"}).ok()
	for _, c := range []struct{ query, name string }{
		{"use_state_after", "state_after"}, {"org.matrix.msc4222.use_state_after", "org.matrix.msc4222.state_after"},
	} {
		o := at(alice.sync(since, c.query, "true"), "rooms", "join", r)
		// "state_after: the state at the end of the timeline": also what the timeline shows.
		if at(o, c.name, "events", 0, "content", "name") != "b" || len(list(o, "timeline", "events")) != 1 || at(o, "state") != nil {
			t.Errorf("%s: %v", c.query, o)
		}
		o = at(alice.sync("", c.query, "true"), "rooms", "join", r)
		if got := types(list(o, c.name, "events")); !slices.Contains(got, "m.room.create") || !slices.Contains(got, "m.room.name") {
			t.Errorf("%s, at first: %v", c.query, got)
		}
	}
	if o := at(alice.sync(since), "rooms", "join", r); len(list(o, "state", "events")) != 0 || at(o, "state_after") != nil {
		t.Errorf("without: %v", o)
	}
	alice.do("GET", "/sync?use_state_after=x", nil).fails(400, "M_INVALID_PARAM")
}
