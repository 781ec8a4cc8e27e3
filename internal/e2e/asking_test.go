// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestKnocksBetweenNodes: a knock is seen and accepted, refused, taken back; who knocks learns of the room what it shows to all.
func TestKnocksBetweenNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		knockable := func(name string) string {
			return alice.creates(object{"preset": "private_chat", "name": name, "topic": "not for all",
				"initial_state": []any{object{"type": "m.room.join_rules", "state_key": "", "content": object{"join_rule": "knock"}}}})
		}
		room := knockable("Den")
		bob.enters("knock", room, alice)
		bob.becomes(room, "knock")
		if s := string(bob.stripped[room]); !strings.Contains(s, "Den") || strings.Contains(s, "m.room.power_levels") || strings.Contains(s, string(alice.user)+`","type":"m.room.member`) {
			t.Errorf("bob sees of the room: %s", s)
		}
		if state := bob.state(room, "m.room.power_levels", ""); state != nil {
			t.Errorf("who knocks reads the room's state: %v", state)
		}
		alice.knows(room, bob.user, "knock")
		if c := alice.state(room, "m.room.member", string(bob.user)); c["reason"] != "to see" {
			t.Errorf("the knock is %v", c)
		}
		alice.does(room, "invite", bob) // accepted
		bob.becomes(room, "invite")
		bob.does(room, "join", nil)
		alice.knows(room, bob.user, "join")
		alice.says(room, "come in")
		bob.hears(room, "come in")

		refused := knockable("Refused")
		bob.enters("knock", refused, alice)
		bob.becomes(refused, "knock")
		alice.does(refused, "kick", bob)
		bob.becomes(refused, "leave")
		bob.enters("knock", refused, alice) // and once more
		bob.becomes(refused, "knock")
		alice.knows(refused, bob.user, "knock")
		alice.does(refused, "ban", bob)
		bob.becomes(refused, "ban")
		bob.cannot(http.StatusForbidden, "POST", client+"/knock/"+refused+"?via="+alice.user.Homeserver(), object{})

		back := knockable("Taken back")
		bob.enters("knock", back, alice)
		bob.becomes(back, "knock")
		bob.does(back, "leave", nil)
		alice.knows(back, bob.user, "leave")

		closed := alice.creates(object{"preset": "private_chat"})
		bob.cannot(http.StatusForbidden, "POST", client+"/knock/"+closed+"?via="+alice.user.Homeserver(), object{})
		bob.cannot(http.StatusForbidden, "POST", client+"/join/"+knockable("x")+"?via="+alice.user.Homeserver(), object{})
	})
}

// TestRestrictedJoinsBetweenNodes: who is in the space comes in, by the word of a resident; when one resident can not vouch, or is off, another does.
func TestRestrictedJoinsBetweenNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		space := alice.creates(object{"preset": "public_chat", "creation_content": object{"type": "m.space"}})
		rules := []any{object{"type": "m.room.join_rules", "state_key": "", "content": object{"join_rule": "restricted",
			"allow": []any{object{"type": "m.room_membership", "room_id": space}}}}}
		room := alice.creates(object{"preset": "private_chat", "name": "Members", "initial_state": rules, "invite": []any{carol.user}})
		carol.becomes(room, "invite")
		carol.does(room, "join", nil)
		carol.enters("join", space, alice)
		alice.knows(space, carol.user, "join")
		alice.knows(room, carol.user, "join")
		alice.says(room, "hello")

		bob.cannot(http.StatusForbidden, "POST", client+"/join/"+room+"?via="+alice.user.Homeserver(), object{}) // not in the space
		bob.enters("join", space, alice)
		alice.knows(space, bob.user, "join")
		carol.knows(space, bob.user, "join")

		// Carol is in both rooms, but may invite nobody: she says no, and alice is asked at once.
		levels := alice.state(room, "m.room.power_levels", "")
		levels["invite"] = 50
		alice.call("PUT", client+"/rooms/"+room+"/state/m.room.power_levels/", levels, nil)
		carol.until("power levels", func() bool { return fmt.Sprint(carol.state(room, "m.room.power_levels", "")["invite"]) == "50" })
		path := client + "/join/" + room + "?via=" + carol.user.Homeserver() + "&via=" + alice.user.Homeserver()
		began := time.Now()
		bob.call("POST", path, object{}, nil)
		t.Logf("the second of two residents let bob in after %v", time.Since(began))
		bob.becomes(room, "join")
		carol.knows(room, bob.user, "join")
		member := carol.state(room, "m.room.member", string(bob.user))
		if member["join_authorised_via_users_server"] != string(alice.user) {
			t.Errorf("bob's join is %v", member)
		}
		bob.hears(room, "hello")
		bob.says(room, "thanks")
		carol.until("bob's word", func() bool { return slices.Contains(carol.texts[room], "thanks") })

		// Now carol may, and alice's node is off: it is asked first, and carol when it says nothing.
		levels["invite"] = 0
		alice.call("PUT", client+"/rooms/"+room+"/state/m.room.power_levels/", levels, nil)
		carol.until("power levels", func() bool { return fmt.Sprint(carol.state(room, "m.room.power_levels", "")["invite"]) == "0" })
		bob.does(room, "leave", nil)
		carol.knows(room, bob.user, "leave")
		alice.stop()
		path = client + "/join/" + room + "?via=" + alice.user.Homeserver() + "&via=" + carol.user.Homeserver()
		began = time.Now()
		bob.call("POST", path, object{}, nil)
		t.Logf("with the first resident off, the second let bob in after %v", time.Since(began))
		bob.becomes(room, "join")
		if member := carol.state(room, "m.room.member", string(bob.user)); member["join_authorised_via_users_server"] != string(carol.user) {
			t.Errorf("bob's join is %v", member)
		}
		alice.rebuild()
		alice.start()
		alice.knows(room, bob.user, "join")
		carol.says(room, "again")
		bob.until("carol's word", func() bool { return slices.Contains(bob.texts[room], "again") })
		alice.until("carol's word", func() bool { return slices.Contains(alice.texts[room], "again") })
	})
}

// TestLookingAtOthersRooms: aliases, summaries, spaces over three nodes, and the directory of a contact.
func TestLookingAtOthersRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Bob is alice's contact, and carol bob's and alice's.
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		public := alice.creates(object{"preset": "public_chat", "visibility": "public", "name": "Überall", "topic": "für alle", "room_alias_name": "плóщадь"})
		hidden := alice.creates(object{"preset": "private_chat", "name": "hidden"})
		elsewhere := carol.creates(object{"preset": "public_chat", "name": "At carol's"})
		inner := carol.creates(object{"preset": "public_chat", "name": "Inner", "creation_content": object{"type": "m.space"}})
		deep := carol.creates(object{"preset": "public_chat", "name": "Deep"})
		space := alice.creates(object{"preset": "public_chat", "name": "Space", "creation_content": object{"type": "m.space"}})
		child := func(w *watcher, of, room string, via *watcher) {
			t.Helper()
			w.call("PUT", client+"/rooms/"+of+"/state/m.space.child/"+room, object{"via": []any{via.user.Homeserver()}}, nil)
		}
		child(alice, space, public, alice)
		child(alice, space, hidden, alice)
		child(alice, space, elsewhere, carol)
		child(alice, space, inner, carol)
		child(carol, inner, deep, carol)

		var resolved struct {
			RoomID  string   `json:"room_id"`
			Servers []string `json:"servers"`
		}
		alias := "#плóщадь:" + alice.user.Homeserver()
		bob.call("GET", client+"/directory/room/"+url.PathEscape(alias), nil, &resolved)
		if resolved.RoomID != public || !slices.Equal(resolved.Servers, []string{alice.user.Homeserver()}) {
			t.Errorf("%+v", resolved)
		}
		bob.cannot(http.StatusNotFound, "GET", client+"/directory/room/"+url.PathEscape("#none:"+alice.user.Homeserver()), nil)
		token := bob.token
		bob.token = ""
		bob.cannot(http.StatusNotFound, "GET", client+"/directory/room/"+url.PathEscape("#other:"+alice.user.Homeserver()), nil) // for nobody is anybody asked
		bob.token = token

		var summary struct {
			Name, Topic, Membership string
			Joined                  int `json:"num_joined_members"`
		}
		bob.call("GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(alias), nil, &summary)
		if summary.Name != "Überall" || summary.Topic != "für alle" || summary.Joined != 1 || summary.Membership != "leave" {
			t.Errorf("%+v", summary)
		}
		bob.cannot(http.StatusNotFound, "GET", "/_matrix/client/v1/room_summary/"+hidden+"?via="+alice.user.Homeserver(), nil)

		names := func() (out []string) {
			t.Helper()
			var h struct{ Rooms []struct{ Name string } }
			bob.call("GET", "/_matrix/client/v1/rooms/"+space+"/hierarchy", nil, &h)
			for _, r := range h.Rooms {
				out = append(out, r.Name)
			}
			return out
		}
		bob.call("GET", "/_matrix/client/v1/room_summary/"+space+"?via="+alice.user.Homeserver(), nil, &summary)
		got := names()
		slices.Sort(got)
		if want := []string{"At carol's", "Deep", "Inner", "Space", "Überall"}; !slices.Equal(got, want) {
			t.Errorf("bob sees %q, not %q", got, want)
		}

		var list struct {
			Chunk []struct {
				RoomID string `json:"room_id"`
				Name   string
			}
			Total int `json:"total_room_count_estimate"`
		}
		alice.call("PUT", client+"/directory/list/room/"+public, object{"visibility": "public"}, nil)
		bob.call("GET", client+"/publicRooms?server="+alice.user.Homeserver(), nil, &list)
		if len(list.Chunk) != 1 || list.Chunk[0].RoomID != public || list.Chunk[0].Name != "Überall" || list.Total != 1 {
			t.Errorf("%+v", list)
		}
		bob.call("POST", client+"/publicRooms?server="+alice.user.Homeserver(), object{"filter": object{"generic_search_term": "nothing of it"}}, &list)
		if len(list.Chunk) != 0 {
			t.Errorf("%+v", list)
		}
		bob.cannot(http.StatusNotFound, "GET", client+"/publicRooms?server=stranger", nil)
		bob.enters("join", public, nil) // from the list it is known whom to ask
		bob.becomes(public, "join")
	})
}

// TestAnUpgradedRoomIsFollowed: the tombstone comes, the successor is joined by who was in the room before, and what was said of the old one is carried over, also
// when the answer comes late.
func TestAnUpgradedRoomIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		for i, late := range []bool{false, true} {
			old := alice.creates(object{"preset": "public_chat", "room_version": "11", "name": "Old"})
			bob.enters("join", old, alice)
			bob.becomes(old, "join")
			alice.knows(old, bob.user, "join")
			bob.call("PUT", client+"/pushrules/global/room/"+url.PathEscape(old), object{"actions": []any{}}, nil)
			var up struct {
				Replacement string `json:"replacement_room"`
			}
			alice.call("POST", client+"/rooms/"+old+"/upgrade", object{"new_version": "12"}, &up)
			bob.until("the tombstone", func() bool { return bob.state(old, "m.room.tombstone", "")["replacement_room"] == up.Replacement })
			if late {
				alice.stop()
				bob.cannot(http.StatusGatewayTimeout, "POST", client+"/join/"+up.Replacement+"?via="+alice.user.Homeserver(), object{})
				alice.rebuild()
				alice.start()
			} else {
				bob.enters("join", up.Replacement, alice)
			}
			bob.becomes(up.Replacement, "join")
			alice.knows(up.Replacement, bob.user, "join")
			synctest.Wait()
			if status, text := bob.try(t.Context(), "GET", client+"/pushrules/global/room/"+url.PathEscape(up.Replacement), nil, nil); status != http.StatusOK {
				t.Errorf("%d: the push rule was not carried over: %d %s", i, status, text)
			}
		}
		// Of a room for the invited, who was in it needs an invite again (C-S API, "Server behaviour" of room upgrades).
		old := alice.creates(object{"preset": "private_chat", "room_version": "11", "invite": []any{bob.user}})
		bob.becomes(old, "invite")
		bob.does(old, "join", nil)
		alice.knows(old, bob.user, "join")
		var up struct {
			Replacement string `json:"replacement_room"`
		}
		alice.call("POST", client+"/rooms/"+old+"/upgrade", object{"new_version": "12"}, &up)
		bob.until("the tombstone", func() bool { return bob.state(old, "m.room.tombstone", "")["replacement_room"] == up.Replacement })
		bob.cannot(http.StatusForbidden, "POST", client+"/join/"+up.Replacement+"?via="+alice.user.Homeserver(), object{})
		alice.does(up.Replacement, "invite", bob)
		bob.becomes(up.Replacement, "invite")
		bob.does(up.Replacement, "join", nil)
		alice.knows(up.Replacement, bob.user, "join")
	})
}

// TestAServerACLBetweenNodes: what the denied server says the others' clients do not see, nor it what they say; it is not let in again, until it is.
func TestAServerACLBetweenNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		room := alice.creates(object{"preset": "public_chat"})
		for _, w := range []*watcher{bob, carol} {
			w.enters("join", room, alice)
			w.becomes(room, "join")
			alice.knows(room, w.user, "join")
		}
		bob.knows(room, carol.user, "join")
		alice.says(room, "all")
		bob.hears(room, "all")
		carol.hears(room, "all")
		acl := func(deny ...any) {
			t.Helper()
			alice.call("PUT", client+"/rooms/"+room+"/state/m.room.server_acl/", object{"allow": []any{"*"}, "deny": deny, "allow_ip_literals": false}, nil)
		}
		acl(carol.user.Homeserver()[:10] + "*")
		bob.until("the ACL", func() bool { return bob.state(room, "m.room.server_acl", "") != nil })
		carol.says(room, "from outside")
		alice.says(room, "without carol")
		bob.says(room, "indeed")
		alice.until("bob's word", func() bool { return slices.Contains(alice.texts[room], "indeed") })
		bob.until("alice's word", func() bool { return slices.Contains(bob.texts[room], "without carol") })
		time.Sleep(15 * time.Second) // summaries of heads, and what was asked for again
		for _, w := range nodes {
			w.look(0)
		}
		for _, w := range []*watcher{alice, bob} {
			if slices.Contains(w.texts[room], "from outside") {
				t.Errorf("%s sees what a denied server says", w.name)
			}
		}
		if slices.Contains(carol.texts[room], "without carol") || slices.Contains(carol.texts[room], "indeed") {
			t.Errorf("the denied server hears %q", carol.texts[room])
		}
		carol.does(room, "leave", nil)
		carol.cannot(http.StatusForbidden, "POST", client+"/join/"+room+"?via="+alice.user.Homeserver()+"&via="+bob.user.Homeserver(), object{})
		acl()
		bob.until("the other ACL", func() bool { return bob.state(room, "m.room.server_acl", "")["deny"] == nil })
		carol.enters("join", room, alice)
		carol.becomes(room, "join")
		carol.says(room, "back")
		alice.until("carol's word", func() bool { return slices.Contains(alice.texts[room], "back") })
		bob.until("carol's word", func() bool { return slices.Contains(bob.texts[room], "back") })
	})
}
