// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"errors"
	"sync"
	"testing"

	"tarn/account"
	"tarn/matrix"
)

func TestNoticesOfTheOperator(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	var wg sync.WaitGroup
	for _, text := range []string{"the node moves", "tonight"} { // at once: they land in one room
		wg.Go(func() {
			if _, err := n.api.Notice(t.Context(), alice.user, text); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	o := alice.sync("")
	rooms := at(o, "rooms", "join").(obj)
	if len(rooms) != 1 {
		t.Fatalf("alice is in %d rooms", len(rooms))
	}
	var id string
	for id = range rooms {
	}
	joined := rooms[id]
	if !hasEvent(list(joined, "account_data", "events"), "m.tag", func(c any) bool { return at(c, "tags", "m.server_notice") != nil }) {
		t.Errorf("no tag: %v", joined)
	}
	said := 0
	for _, e := range list(joined, "timeline", "events") {
		if at(e, "content", "msgtype") == "m.server_notice" && at(e, "sender") == string(n.accounts.Notices()) {
			said++
		}
	}
	if said != 2 {
		t.Errorf("%d notices: %v", said, joined)
	}
	if name := alice.do("GET", "/profile/"+esc(n.accounts.Notices()), nil).ok()["displayname"]; name != "Server notices" {
		t.Errorf("the notices are by %v", name)
	}

	// "servers ... respond with M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
	alice.do("POST", "/rooms/"+esc(id)+"/leave", obj{}).fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
	alice.do("PUT", "/rooms/"+esc(id)+"/state/m.room.member/"+esc(alice.user), obj{"membership": "leave"}).fails(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
	alice.do("PUT", "/rooms/"+esc(id)+"/send/m.room.message/1", obj{"body": "no", "msgtype": "m.text"}).fails(403, "M_FORBIDDEN")
	alice.do("POST", "/rooms/"+esc(id)+"/invite", obj{"user_id": bob.user}).fails(403, "M_FORBIDDEN")
	// Other rooms can be left.
	r := alice.meet()
	alice.do("POST", "/rooms/"+esc(r)+"/leave", obj{}).ok()

	if _, err := n.api.Notice(t.Context(), bob.user, "hello"); err != nil {
		t.Fatal(err)
	}
	if rooms := at(bob.sync(""), "rooms", "join").(obj); len(rooms) != 1 || rooms[id] != nil {
		t.Errorf("bob is in %v", rooms)
	}
	if _, err := n.api.Notice(t.Context(), matrix.UserID("@nobody:"+string(n.server)), "hello"); !errors.Is(err, ErrNoUser) {
		t.Error(err)
	}
	n.request("", "GET", "/register/available?username="+account.NoticesName, nil).fails(400, "M_USER_IN_USE")
	n.request("", "POST", "/login", obj{"type": "m.login.password", "user": account.NoticesName, "password": ""}).fails(403, "M_FORBIDDEN")

	// Who goes, goes from this room, too.
	alice.do("POST", "/account/deactivate", obj{"auth": obj{"type": "m.login.password", "user": alice.user, "password": password}}).ok()
	if left, err := n.rooms.Joined(alice.user); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	if _, err := n.api.Notice(t.Context(), alice.user, "hello"); !errors.Is(err, ErrNoUser) {
		t.Error(err)
	}
}

// TestNoticeGoesOnWhereACrashEndedTheLast: each of its steps is found done or to do.
func TestNoticeGoesOnWhereACrashEndedTheLast(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	id, err := n.api.noticesRoom(t.Context(), alice.user)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.accounts.SetData(alice.user, id, dataTags, []byte(`{"tags":{"m.favourite":{}}}`)); err != nil {
		t.Fatal(err) // as if there had been no tag yet
	}
	again, err := n.api.noticesRoom(t.Context(), alice.user)
	if err != nil || again != id {
		t.Fatalf("%v %v, want %v", again, err, id)
	}
	tags := alice.do("GET", "/user/"+esc(alice.user)+"/rooms/"+esc(id)+"/tags", nil).ok()
	if at(tags, "tags", "m.favourite") == nil || at(tags, "tags", "m.server_notice") == nil {
		t.Error(tags)
	}
}

func hasEvent(events []any, typ string, good func(content any) bool) bool {
	for _, e := range events {
		if at(e, "type") == typ && good(at(e, "content")) {
			return true
		}
	}
	return false
}
