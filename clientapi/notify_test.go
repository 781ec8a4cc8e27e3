// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"tarn/matrix"
	"tarn/room"
)

// counts are a room's in a fresh /sync: notifications, highlights, and those of threads.
func (d *device) counts(room string, perThread bool) (n, h float64, threads obj) {
	d.n.t.Helper()
	filter := `{"room":{"timeline":{"limit":1}}}`
	if perThread {
		filter = `{"room":{"timeline":{"limit":1,"unread_thread_notifications":true}}}`
	}
	j := at(d.sync("", "filter", filter), "rooms", "join", room)
	n, _ = at(j, "unread_notifications", "notification_count").(float64)
	h, _ = at(j, "unread_notifications", "highlight_count").(float64)
	threads, _ = at(j, "unread_thread_notifications").(obj)
	return n, h, threads
}

func (d *device) counted(what, room string, n, h float64) {
	d.n.t.Helper()
	if gn, gh, _ := d.counts(room, false); gn != n || gh != h {
		d.n.t.Errorf("%s: %v notifications, %v highlights; want %v, %v", what, gn, gh, n, h)
	}
}

func (d *device) send(room, typ string, content any) string {
	d.n.t.Helper()
	d.txns++
	return d.do("PUT", fmt.Sprintf("/rooms/%s/send/%s/t%d", esc(room), typ, d.txns), content).ok()["event_id"].(string)
}

func TestUnreadCountsFollowTheSpec(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.meet(bob, carol)
	bob.counted("a new room", r, 0, 0)
	first := alice.say(r, "one")
	bob.counted("a message", r, 1, 0)
	carol.counted("for each member", r, 1, 0)
	alice.counted("not for the sender", r, 0, 0)
	second := alice.say(r, "two")
	alice.send(r, "m.room.message", obj{"msgtype": "m.text", "body": "hey", "m.mentions": obj{"user_ids": []string{string(bob.user)}}})
	bob.counted("a mention", r, 3, 1)
	carol.counted("a mention of another", r, 3, 0)
	alice.send(r, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": first, "key": "+"}})
	alice.send(r, "m.room.message", obj{"msgtype": "m.notice", "body": "bob"})
	bob.counted("a reaction and a notice", r, 3, 1)

	bob.do("POST", "/rooms/"+esc(r)+"/receipt/m.read/"+esc(second), obj{}).ok()
	bob.counted("after a receipt", r, 1, 1)
	bob.do("POST", "/rooms/"+esc(r)+"/receipt/m.read/"+esc(first), obj{}).ok() // does not go back
	bob.counted("after an older receipt", r, 1, 1)
	last := alice.say(r, "three")
	bob.do("POST", "/rooms/"+esc(r)+"/receipt/m.read.private/"+esc(last), obj{}).ok()
	bob.counted("after a private receipt", r, 0, 0)
	carol.counted("whose it is not", r, 4, 0)

	carol.do("PUT", "/pushrules/global/room/"+esc(r), obj{"actions": []any{}}).ok()
	alice.say(r, "four")
	carol.counted("muted by a rule from then on", r, 4, 0)
	bob.counted("which others do not have", r, 1, 0)
	bob.do("PUT", "/user/"+esc(bob.user)+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{string(alice.user): obj{}}}).ok()
	alice.say(r, "bob")
	bob.counted("of an ignored user", r, 1, 0)
	carol.say(r, "bob: cake")
	bob.counted("of another", r, 2, 1)

	bob.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()
	bob.do("POST", "/join/"+esc(r), obj{}).ok()
	bob.counted("after coming back", r, 0, 0)
	carol.say(r, "welcome")
	bob.counted("and on", r, 1, 0)
}

func TestUnreadCountsOfThreads(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.meet(bob, carol)
	root := alice.say(r, "root")
	in := func(rel obj, more ...any) string {
		c := obj{"msgtype": "m.text", "body": "x", "m.relates_to": rel}
		for i := 0; i+1 < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return alice.send(r, "m.room.message", c)
	}
	thread := obj{"rel_type": "m.thread", "event_id": root}
	one := in(thread)
	two := in(thread, "m.mentions", obj{"user_ids": []string{string(bob.user)}})
	in(obj{"rel_type": "m.replace", "event_id": one}, "m.mentions", obj{"user_ids": []string{string(bob.user)}}) // an edit in the thread
	in(obj{"m.in_reply_to": obj{"event_id": one}})                                                               // a reply alone is in no thread
	check := func(what string, n, h float64, tn, th any) {
		t.Helper()
		gn, gh, threads := bob.counts(r, true)
		if gn != n || gh != h || at(threads, root, "notification_count") != tn || at(threads, root, "highlight_count") != th {
			t.Errorf("%s: %v %v %v", what, gn, gh, threads)
		}
	}
	check("all unread", 2, 0, 3.0, 2.0)
	bob.counted("without threads", r, 5, 2)
	read := func(event string, body obj) {
		t.Helper()
		bob.do("POST", "/rooms/"+esc(r)+"/receipt/m.read/"+esc(event), body).ok()
	}
	read(one, obj{"thread_id": root})
	check("a receipt in the thread", 2, 0, 2.0, 2.0)
	read(root, obj{"thread_id": "main"})
	check("a receipt in the main one", 1, 0, 2.0, 2.0)
	read(two, obj{})
	check("a receipt for all", 1, 0, 1.0, 1.0)
	last := alice.say(r, "last")
	check("a message more", 2, 0, 1.0, 1.0)
	read(last, obj{})
	check("all read", 0, 0, nil, nil)
	in(thread)
	check("and on in the thread", 0, 0, 1.0, 0.0)
}

// A receipt from another device, also a private one, and also if the filter hides receipts, brings the new counts to a waiting /sync.
func TestAReceiptBringsNewCounts(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	e := alice.say(r, "hi")
	filter := `{"room":{"ephemeral":{"types":[]}}}`
	o := bob.sync("", "filter", filter)
	if at(o, "rooms", "join", r, "unread_notifications", "notification_count") != 1.0 {
		t.Fatal(o)
	}
	other := n.person("bob")
	other.do("POST", "/rooms/"+esc(r)+"/receipt/m.read.private/"+esc(e), obj{}).ok()
	o = bob.sync(o["next_batch"].(string), "filter", filter)
	if at(o, "rooms", "join", r, "unread_notifications", "notification_count") != 0.0 {
		t.Error(o)
	}
}

// What is remembered and what is counted anew agree, whatever was sent and read in between, also at once.
func TestRememberedCountsAreThoseCountedAnew(t *testing.T) {
	n := newNode(t)
	alice, bob, carol := n.person("alice"), n.person("bob"), n.person("carol")
	r := alice.meet(bob, carol)
	again := openNode(t, n.kv, true) // the same database, nothing remembered
	var wg sync.WaitGroup
	for _, d := range []*device{alice, carol} {
		wg.Go(func() {
			for i := range 60 {
				e := d.say(r, fmt.Sprint("bob ", i))
				if i%20 == 7 {
					bob.do("POST", "/rooms/"+esc(r)+"/receipt/m.read/"+esc(e), obj{}).ok()
				}
			}
		})
	}
	wg.Go(func() {
		for range 30 {
			bob.counts(r, false)
		}
	})
	wg.Wait()
	got, loud, _ := bob.counts(r, false)
	fresh := *bob
	fresh.n = again
	want, wantLoud, _ := fresh.counts(r, false)
	if got != want || loud != wantLoud || got == 0 {
		t.Errorf("%v %v; counted anew %v %v", got, loud, want, wantLoud)
	}
}

func TestNotificationsAreListedOnceNewestFirst(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	rooms := []string{alice.meet(bob), alice.meet(bob), alice.meet(bob)}
	var want []any
	for i := range 25 {
		want = append(want, alice.say(rooms[i%3], fmt.Sprint(i)))
		alice.send(rooms[i%3], "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": want[0], "key": fmt.Sprint(i)}})
	}
	bob.say(rooms[0], "my own")
	loud := alice.send(rooms[1], "m.room.message", obj{"msgtype": "m.text", "body": "x", "m.mentions": obj{"user_ids": []string{string(bob.user)}}})
	want = append(want, loud)
	slices.Reverse(want)
	bob.do("POST", "/rooms/"+esc(rooms[0])+"/receipt/m.read/"+esc(want[1]), obj{}).ok()
	var got []any
	from := ""
	for pages := 0; ; pages++ {
		o := bob.do("GET", "/notifications?limit=4"+from, nil).ok()
		for _, x := range list(o, "notifications") {
			got = append(got, at(x, "event", "event_id"))
			if at(x, "room_id") != at(x, "event", "room_id") || at(x, "actions", 0) != "notify" || at(x, "ts") == nil {
				t.Errorf("%v", x)
			}
			if read := at(x, "room_id") == rooms[0]; at(x, "read") != read {
				t.Errorf("read: %v", x)
			}
		}
		next, more := o["next_token"].(string)
		if !more {
			break
		}
		from = "&from=" + next
		if pages > 20 {
			t.Fatal("no end")
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d notifications, want %d:\n%v\n%v", len(got), len(want), got, want)
	}
	o := bob.do("GET", "/notifications?only=highlight", nil).ok()
	if l := list(o, "notifications"); len(l) != 1 || at(l, 0, "event", "event_id") != loud {
		t.Errorf("highlights: %v", o)
	}
	bob.do("GET", "/notifications?limit=x", nil).fails(400, "M_INVALID_PARAM")
	bob.do("GET", "/notifications?only=me", nil).fails(400, "M_INVALID_PARAM")
	bob.do("GET", "/notifications?from=nonsense", nil).fails(400, "M_INVALID_PARAM")
}

func TestPushersAreKeptAsTheyWereSet(t *testing.T) {
	n := newNode(t)
	alice, phone, bob := n.person("alice"), n.person("alice"), n.person("bob")
	pusher := func(change ...any) obj {
		o := obj{"app_id": "org.app", "app_display_name": "App", "device_display_name": "Phone", "kind": "http", "lang": "en", "pushkey": "k",
			"data": obj{"url": "https://push.example/_matrix/push/v1/notify", "format": "event_id_only"}}
		for i := 0; i+1 < len(change); i += 2 {
			if change[i+1] == nil {
				delete(o, change[i].(string))
			} else {
				o[change[i].(string)] = change[i+1]
			}
		}
		return o
	}
	have := func(d *device) []any { t.Helper(); return list(d.do("GET", "/pushers", nil).ok(), "pushers") }
	if l := have(alice); l == nil || len(l) != 0 {
		t.Errorf("%v", l)
	}
	phone.do("POST", "/pushers/set", pusher("profile_tag", "x")).ok()
	if l := have(alice); len(l) != 1 || at(l, 0, "data", "format") != "event_id_only" || at(l, 0, "kind") != "http" || at(l, 0, "profile_tag") != "x" {
		t.Errorf("%v", l)
	}
	phone.do("POST", "/pushers/set", pusher("lang", "de")).ok() // the same one, changed
	if l := have(alice); len(l) != 1 || at(l, 0, "lang") != "de" {
		t.Errorf("%v", l)
	}
	bob.do("POST", "/pushers/set", pusher("append", true)).ok()
	if len(have(alice)) != 1 || len(have(bob)) != 1 {
		t.Error("append takes a pusher from another")
	}
	bob.do("POST", "/pushers/set", pusher()).ok() // "If false, ... remove any other pusher with the given App ID and pushkey for different users"
	if len(have(alice)) != 0 || len(have(bob)) != 1 {
		t.Error("the key's former user still has it")
	}
	bob.do("POST", "/pushers/set", obj{"app_id": "org.app", "pushkey": "k", "kind": nil}).ok()
	if len(have(bob)) != 0 {
		t.Error("a deleted pusher is there")
	}
	phone.do("POST", "/pushers/set", pusher()).ok()
	alice.do("POST", "/pushers/set", pusher("pushkey", "other")).ok()
	phone.do("POST", "/logout", obj{}).ok()
	if l := have(alice); len(l) != 1 || at(l, 0, "pushkey") != "other" {
		t.Errorf("a pusher outlives its session: %v", l)
	}
	for _, name := range []string{"app_id", "app_display_name", "device_display_name", "kind", "lang", "pushkey", "data"} {
		alice.do("POST", "/pushers/set", pusher(name, nil)).fails(400, "M_MISSING_PARAM")
	}
	for _, o := range []obj{
		pusher("data", obj{"url": "http://push.example/_matrix/push/v1/notify"}), pusher("data", obj{"url": "https://push.example/other"}),
		pusher("data", obj{"url": "https:///_matrix/push/v1/notify"}), pusher("kind", "email"), pusher("app_id", fmt.Sprintf("%065d", 1)),
		pusher("pushkey", fmt.Sprintf("%0513d", 1)),
	} {
		alice.do("POST", "/pushers/set", o).fails(400, "M_INVALID_PARAM")
	}
	alice.do("POST", "/pushers/set", pusher("data", obj{})).fails(400, "M_MISSING_PARAM")
}

// BenchmarkSendWithUnread: a send costs the same, whatever lies unread and whoever is away.
func BenchmarkSendWithUnread(b *testing.B) {
	for _, c := range []struct{ members, unread int }{{2, 0}, {2, 3000}, {50, 0}} {
		b.Run(fmt.Sprintf("members=%d/unread=%d", c.members, c.unread), func(b *testing.B) {
			n := newNode(b)
			alice := n.person("alice")
			var others []*device
			for i := range c.members - 1 {
				others = append(others, n.person(fmt.Sprint("u", i)))
			}
			r := alice.meet(others...)
			for range c.unread {
				alice.say(r, "u0 is away")
			}
			others[0].counts(r, false)
			for b.Loop() {
				alice.say(r, "u0 is away")
			}
		})
	}
}

// BenchmarkUnread: the counts of a room with a thousand unread events, first and remembered.
func BenchmarkUnread(b *testing.B) {
	n := newNode(b)
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	for range 1000 {
		alice.say(r, "an ordinary message")
	}
	j := &judging{a: n.api, user: bob.user}
	run := func(rooms func() *room.Rooms) func(*testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				x := rooms()
				b.StartTimer()
				if c, err := x.Unread(bob.user, matrix.RoomID(r), n.stream.Current(), j.decide); err != nil || c.Main.Notifications != 1000 {
					b.Fatal(c, err)
				}
			}
		}
	}
	b.Run("first", run(func() *room.Rooms { return openNode(b, n.kv, true).rooms }))
	b.Run("remembered", run(func() *room.Rooms { return n.rooms }))
}
