// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestSendGivesTheSameEventForTheSameTransaction(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	p := "/rooms/" + esc(r) + "/send/m.room.message/"
	one := alice.do("PUT", p+"a", obj{"body": "x"}).ok()["event_id"]
	if again := alice.do("PUT", p+"a", obj{"body": "x"}).ok()["event_id"]; again != one {
		t.Errorf("the same transaction made %v and %v", one, again)
	}
	if other := alice.do("PUT", p+"b", obj{"body": "x"}).ok()["event_id"]; other == one {
		t.Error("another transaction gave the same event")
	}
	tablet := n.person("alice")
	if other := tablet.do("PUT", p+"a", obj{"body": "x"}).ok()["event_id"]; other == one {
		t.Error("another device's transaction gave the same event")
	}
	// /redact is another endpoint: its transaction ids are its own.
	if o := alice.do("PUT", "/rooms/"+esc(r)+"/redact/"+esc(one)+"/a", nil).ok(); o["event_id"] == one {
		t.Error("a redaction took a message's transaction")
	}
	bob := n.person("bob")
	bob.do("PUT", p+"a", obj{"body": "x"}).fails(403, "M_FORBIDDEN")
	alice.do("PUT", "/rooms/!unknown/send/m.room.message/a", obj{}).fails(403, "M_FORBIDDEN")
	alice.do("PUT", p+"c", `["x"]`).fails(400, "M_BAD_JSON")
	alice.do("PUT", p+"c", `{"x":1.5}`).fails(400, "M_BAD_JSON")
	alice.do("PUT", p+"c", ``).fails(400, "M_NOT_JSON")
	alice.do("PUT", p+"c", obj{"body": strings.Repeat("x", 66000)}).fails(413, "M_TOO_LARGE")
	alice.do("PUT", p+"c", obj{"body": strings.Repeat("x", eventBody)}).fails(413, "M_TOO_LARGE")
	alice.do("PUT", p+strings.Repeat("t", 300), obj{"body": "x"}).fails(400, "M_INVALID_PARAM")
}

func TestOneTransactionSentAtOnceIsOneEvent(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	ids := make([]any, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			ids[i] = alice.do("PUT", "/rooms/"+esc(r)+"/send/m.room.message/same", obj{"body": "x"}).object()["event_id"]
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == nil || id != ids[0] {
			t.Fatalf("%v", ids)
		}
	}
}

// walk pages through a room and returns all event ids.
func (d *device) walk(room, dir, from string, limit int) (ids []string) {
	d.n.t.Helper()
	for range 10_000 {
		q := url.Values{"dir": {dir}, "limit": {fmt.Sprint(limit)}}
		if from != "" {
			q.Set("from", from)
		}
		o := d.do("GET", "/rooms/"+esc(room)+"/messages?"+q.Encode(), nil).ok()
		for _, e := range list(o, "chunk") {
			ids = append(ids, at(e, "event_id").(string))
		}
		end, more := o["end"].(string)
		if !more {
			return ids
		}
		from = end
	}
	d.n.t.Fatal("/messages does not end")
	return nil
}

func TestMessagesGiveEveryEventOnceBothWays(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	var sent []string
	for i := range 25 {
		sent = append(sent, []*device{alice, bob}[i%2].say(r, fmt.Sprint(i)))
	}
	for _, limit := range []int{1, 3, 10, 100} {
		back, forth := alice.walk(r, "b", "", limit), alice.walk(r, "f", "", limit)
		slices.Reverse(back)
		if !slices.Equal(back, forth) {
			t.Errorf("limit %d: backwards %d events, forwards %d", limit, len(back), len(forth))
		}
		if got := forth[len(forth)-len(sent):]; !slices.Equal(got, sent) {
			t.Errorf("limit %d: another order than it was sent in", limit)
		}
		seen := map[string]bool{}
		for _, id := range forth {
			if seen[id] {
				t.Errorf("limit %d: %s twice", limit, id)
			}
			seen[id] = true
		}
	}
}

func TestMessagesGoOnFromSyncTokens(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	for i := range 30 {
		alice.say(r, fmt.Sprint(i))
	}
	o := alice.sync("", "filter", `{"room":{"timeline":{"limit":5}}}`)
	tl := at(o, "rooms", "join", r, "timeline")
	if got := bodies(list(tl, "events")); !slices.Equal(got, []string{"25", "26", "27", "28", "29"}) || at(tl, "limited") != true {
		t.Fatalf("%v", got)
	}
	alice.say(r, "later") // must not be seen by going back
	all := alice.walk(r, "b", at(tl, "prev_batch").(string), 7)
	shown := list(tl, "events")
	for _, e := range shown {
		if slices.Contains(all, at(e, "event_id").(string)) {
			t.Error("prev_batch shows again what the timeline showed")
		}
	}
	whole := alice.walk(r, "b", "", 100)
	if len(all)+len(shown)+1 != len(whole) {
		t.Errorf("%d by prev_batch + %d shown + 1 later are not all %d", len(all), len(shown), len(whole))
	}
	// From next_batch backwards begins with the newest that /sync showed.
	q := url.Values{"dir": {"b"}, "limit": {"1"}, "from": {o["next_batch"].(string)}}
	m := alice.do("GET", "/rooms/"+esc(r)+"/messages?"+q.Encode(), nil).ok()
	if at(m, "chunk", 0, "content", "body") != "29" {
		t.Errorf("%v", m)
	}
	// Forwards from there: what came later.
	q.Set("dir", "f")
	m = alice.do("GET", "/rooms/"+esc(r)+"/messages?"+q.Encode(), nil).ok()
	if at(m, "chunk", 0, "content", "body") != "later" || m["end"] != nil && len(alice.walk(r, "f", m["end"].(string), 5)) != 0 {
		t.Errorf("%v", m)
	}
	// to: stop there.
	q = url.Values{"dir": {"b"}, "limit": {"100"}, "to": {at(tl, "prev_batch").(string)}}
	m = alice.do("GET", "/rooms/"+esc(r)+"/messages?"+q.Encode(), nil).ok()
	if got := bodies(list(m, "chunk")); !slices.Equal(got, []string{"later", "29", "28", "27", "26", "25"}) || m["end"] != nil {
		t.Errorf("to: %v, end %v", got, m["end"])
	}
}

func TestMessagesFilterAndParameters(t *testing.T) {
	n := newNode(t)
	alice, bob, eve := n.person("alice"), n.person("bob"), n.person("eve")
	r := alice.meet(bob)
	alice.say(r, "a")
	bob.say(r, "b")
	p := "/rooms/" + esc(r) + "/messages?dir=b&limit=100&filter="
	get := func(filter string) obj { t.Helper(); return alice.do("GET", p+url.QueryEscape(filter), nil).ok() }
	if got := bodies(list(get(`{"types":["m.room.message"],"senders":["`+string(bob.user)+`"]}`), "chunk")); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%v", got)
	}
	if got := list(get(`{"types":["m.room.message"],"limit":1}`), "chunk"); len(got) != 1 {
		t.Errorf("limit: %v", got)
	}
	if got := list(get(`{"types":["m.room.message"],"lazy_load_members":true}`), "state"); len(got) != 2 {
		t.Errorf("lazy loading: %d members for two senders", len(got))
	}
	base := "/rooms/" + esc(r) + "/messages"
	alice.do("GET", base, nil).fails(400, "M_MISSING_PARAM")
	alice.do("GET", base+"?dir=x", nil).fails(400, "M_INVALID_PARAM")
	alice.do("GET", base+"?dir=b&limit=x", nil).fails(400, "M_INVALID_PARAM")
	alice.do("GET", base+"?dir=b&limit=-1", nil).fails(400, "M_INVALID_PARAM")
	alice.do("GET", base+"?dir=b&from=t1", nil).fails(400, "M_INVALID_PARAM")
	alice.do("GET", base+"?dir=b&to=t1", nil).fails(400, "M_INVALID_PARAM")
	alice.do("GET", base+"?dir=b&filter={", nil).fails(400, "M_NOT_JSON")
	eve.do("GET", base+"?dir=b", nil).fails(403, "M_FORBIDDEN")
}

func TestContextAndEvent(t *testing.T) {
	n := newNode(t)
	alice, bob, eve := n.person("alice"), n.person("bob"), n.person("eve")
	r := alice.meet(bob)
	var ids []string
	for i := range 9 {
		ids = append(ids, alice.say(r, fmt.Sprint(i)))
	}
	p := "/rooms/" + esc(r)
	o := bob.do("GET", p+"/context/"+esc(ids[4])+"?limit=4", nil).ok()
	if at(o, "event", "event_id") != ids[4] || !slices.Equal(bodies(list(o, "events_before")), []string{"3", "2"}) ||
		!slices.Equal(bodies(list(o, "events_after")), []string{"5", "6"}) || len(list(o, "state")) < 5 {
		t.Errorf("%v", o)
	}
	lazy := bob.do("GET", p+"/context/"+esc(ids[4])+"?limit=4&filter="+url.QueryEscape(`{"lazy_load_members":true,"not_types":["m.x"]}`), nil).ok()
	for _, e := range list(lazy, "state") {
		if at(e, "type") == "m.room.member" && at(e, "state_key") != string(alice.user) {
			t.Errorf("lazy loading shows %v, of whom nothing is shown", at(e, "state_key"))
		}
	}
	if got := bob.walk(r, "f", o["end"].(string), 10); !slices.Equal(got, ids[7:]) {
		t.Errorf("going on after the context: %d events", len(got))
	}
	if got := bob.walk(r, "b", o["start"].(string), 100); got[0] != ids[1] {
		t.Errorf("going on before the context: %v", got[0])
	}
	e := bob.do("GET", p+"/event/"+esc(ids[4]), nil).ok()
	if e["room_id"] != r || e["sender"] != string(alice.user) || at(e, "content", "body") != "4" || at(e, "unsigned", "age") == nil {
		t.Errorf("%v", e)
	}
	if at(e, "unsigned", "transaction_id") != nil {
		t.Error("another user sees the transaction id")
	}
	eve.do("GET", p+"/event/"+esc(ids[4]), nil).fails(404, "M_NOT_FOUND") // "or you do not have permission"
	bob.do("GET", p+"/event/$none", nil).fails(404, "M_NOT_FOUND")
	bob.do("GET", p+"/event/none", nil).fails(400, "M_INVALID_PARAM")
	bob.do("GET", p+"/context/$none", nil).fails(404, "M_NOT_FOUND")
}

func TestRedactionTakesTheContentAway(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		n := newNode(t)
		alice, bob := n.person("alice"), n.person("bob")
		r := alice.create(obj{"preset": "public_chat", "room_version": version})
		bob.do("POST", "/join/"+esc(r), obj{}).ok()
		id := alice.say(r, "a slip of the tongue")
		p := "/rooms/" + esc(r)
		bob.do("PUT", p+"/redact/"+esc(id)+"/1", obj{}).fails(403, "M_FORBIDDEN")
		red := alice.do("PUT", p+"/redact/"+esc(id)+"/1", obj{"reason": "oops"}).ok()["event_id"]
		e := bob.do("GET", p+"/event/"+esc(id), nil).ok()
		if len(e["content"].(obj)) != 0 || at(e, "unsigned", "redacted_because", "event_id") != red ||
			at(e, "unsigned", "redacted_because", "content", "reason") != "oops" {
			t.Errorf("version %s: %v", version, e)
		}
		if a := bob.do("GET", p+"/messages?dir=b&limit=50", nil); strings.Contains(a.raw, "slip of the tongue") {
			t.Errorf("version %s: /messages still has it", version)
		}
		if at(bob.do("GET", p+"/event/"+esc(red), nil).ok(), "redacts") != id {
			t.Errorf("version %s: the redaction does not name its event", version)
		}
	}
}

// TestEightSendersLoseNothing: each acknowledged event exactly once in /messages (any page size) and in /sync, though
// pages and syncs run all the while.
func TestEightSendersLoseNothing(t *testing.T) {
	const senders, each = 8, 25
	n := newNode(t)
	var people []*device
	for i := range senders {
		people = append(people, n.person(fmt.Sprintf("u%d", i)))
	}
	reader := n.person("reader")
	r := people[0].meet(append(people[1:], reader)...)
	since := reader.sync("")["next_batch"].(string)

	var mu sync.Mutex
	acknowledged := map[string]int{}
	var wg sync.WaitGroup
	for _, p := range people {
		wg.Go(func() {
			for i := range each {
				a := p.do("PUT", fmt.Sprintf("/rooms/%s/send/m.room.message/%d", esc(r), i), obj{"body": fmt.Sprint(i)})
				if a.status != 200 {
					t.Errorf("%d %s", a.status, a.raw)
					return
				}
				mu.Lock()
				acknowledged[a.object()["event_id"].(string)] = 0
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	synced := map[string]int{}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		o := reader.sync(since, "timeout", "20", "filter", `{"room":{"timeline":{"limit":7}}}`)
		tl := at(o, "rooms", "join", r, "timeline")
		shown := list(tl, "events")
		for _, e := range shown {
			synced[at(e, "event_id").(string)]++
		}
		if at(tl, "limited") == true { // the gap, as a client fills it: back to the last sync's token
			q := url.Values{"dir": {"b"}, "limit": {"1000"}, "from": {at(tl, "prev_batch").(string)}, "to": {since}}
			for _, e := range list(reader.do("GET", "/rooms/"+esc(r)+"/messages?"+q.Encode(), nil).ok(), "chunk") {
				synced[at(e, "event_id").(string)]++
			}
		}
		since = o["next_batch"].(string)
	}
	if len(acknowledged) != senders*each {
		t.Fatalf("%d acknowledged", len(acknowledged))
	}
	for id := range acknowledged {
		if synced[id] != 1 {
			t.Errorf("/sync showed an event %d times", synced[id])
		}
	}
	for _, limit := range []int{3, 10, 100} {
		for _, dir := range []string{"b", "f"} {
			seen := map[string]int{}
			for _, id := range reader.walk(r, dir, "", limit) {
				seen[id]++
			}
			for id := range acknowledged {
				if seen[id] != 1 {
					t.Errorf("/messages dir=%s limit=%d showed an event %d times", dir, limit, seen[id])
				}
			}
		}
	}
}
