// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/matrix"
	"tarn/replicate"
)

// What two, or three, nodes with only a mailbox between them show their clients of who is in a room; frames every 100 ms.

// soon is how long something may take that is under way: in this profile a message takes less than a second, and what was lost comes within these.
const soon = 2 * time.Minute

// neighbours are nodes with a mailbox in memory between them; links says who is whose contact, by number; without any all are.
func neighbours(t *testing.T, names []string, links ...[2]int) []*watcher {
	t.Helper()
	return neighboursWith(t, names, func(string, *replicate.Config) {}, links...)
}

// neighboursWith are neighbours whose configurations are altered.
func neighboursWith(t *testing.T, names []string, alter func(name string, c *replicate.Config), links ...[2]int) []*watcher {
	t.Helper()
	box := mailboxtest.New(t, mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = 100 * time.Millisecond }))
	var out []*watcher
	for i, name := range names {
		at := func(c *replicate.Config) {
			c.Profile, c.Stores = replicate.CustomProfile(100*time.Millisecond, 0.3), []mailbox.Address{box.Address()}
			c.Dial = func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, box.Dialer()) }
			alter(name, c)
		}
		out = append(out, watch(newNodeAt(t, name, byte(i+1), at)))
	}
	if len(links) == 0 {
		for i := range out {
			for j := range i {
				links = append(links, [2]int{j, i})
			}
		}
	}
	for _, l := range links {
		befriend(t, out[l[0]].node, out[l[1]].node)
	}
	return out
}

// watcher is a client of a node's user, and what it has seen.
type watcher struct {
	*node
	since    string
	standing map[string]string   // of rooms
	texts    map[string][]string // of messages
	stripped map[string]json.RawMessage
	known    map[string]bool // events
}

func watch(n *node) *watcher {
	return &watcher{node: n, standing: map[string]string{}, texts: map[string][]string{}, stripped: map[string]json.RawMessage{}, known: map[string]bool{}}
}

// look syncs once.
func (w *watcher) look(timeout time.Duration) {
	w.t.Helper()
	var a struct {
		NextBatch string `json:"next_batch"`
		Rooms     struct {
			Invite, Knock map[string]json.RawMessage
			Join, Leave   map[string]struct {
				Timeline struct{ Events []seen }
			}
		}
	}
	path := fmt.Sprintf(client+"/sync?timeout=%d&filter=%s", timeout.Milliseconds(), url.QueryEscape(`{"room":{"timeline":{"limit":100}}}`))
	if w.since != "" {
		path += "&since=" + w.since
	}
	w.call("GET", path, nil, &a)
	w.since = a.NextBatch
	for id, raw := range a.Rooms.Invite {
		w.standing[id], w.stripped[id] = "invite", raw
	}
	for id, raw := range a.Rooms.Knock {
		w.standing[id], w.stripped[id] = "knock", raw
	}
	for membership, rooms := range map[string]map[string]struct {
		Timeline struct{ Events []seen }
	}{"join": a.Rooms.Join, "leave": a.Rooms.Leave} {
		for id, r := range rooms {
			w.standing[id] = membership
			for _, e := range r.Timeline.Events {
				switch {
				case w.known[e.EventID]: // who comes back is given the timeline anew
				case e.Type == "m.room.message" && e.Content["body"] != nil:
					w.texts[id] = append(w.texts[id], e.Content["body"].(string))
				case e.Type == "m.room.member" && e.StateKey == string(w.user) && membership == "leave":
					w.standing[id] = e.Content["membership"].(string)
				}
				w.known[e.EventID] = true
			}
		}
	}
}

type seen struct {
	Type     string
	Sender   string
	StateKey string `json:"state_key"`
	EventID  string `json:"event_id"`
	Content  map[string]any
}

// until syncs until ok.
func (w *watcher) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(soon); !ok(); w.look(time.Second) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: no %s within %v: %v %v", w.name, what, soon, w.standing, w.texts)
		}
	}
}

// becomes waits until the user's own client sees that standing.
func (w *watcher) becomes(room, membership string) {
	w.t.Helper()
	w.until(membership+" of "+w.name, func() bool { return w.standing[room] == membership })
}

func (w *watcher) hears(room string, texts ...string) {
	w.t.Helper()
	w.until(fmt.Sprintf("texts %q", texts), func() bool { return len(w.texts[room]) >= len(texts) })
	if !slices.Equal(w.texts[room], texts) {
		w.t.Errorf("%s heard %q, not %q", w.name, w.texts[room], texts)
	}
}

func (w *watcher) says(room, text string) {
	w.t.Helper()
	w.call("PUT", client+"/rooms/"+room+"/send/m.room.message/"+url.PathEscape(text), object{"msgtype": "m.text", "body": text}, nil)
}

// creates makes a room.
func (w *watcher) creates(body object) string {
	w.t.Helper()
	var created struct {
		RoomID string `json:"room_id"`
	}
	w.call("POST", client+"/createRoom", body, &created)
	return created.RoomID
}

// does is a membership request; of one's own the client then sees what came of it.
func (w *watcher) does(room, what string, whom *watcher) {
	w.t.Helper()
	body := object{}
	if whom != nil {
		body["user_id"] = whom.user
	}
	w.call("POST", client+"/rooms/"+room+"/"+what, body, nil)
	if whom == nil && w.standing[room] != "" {
		w.becomes(room, what)
	}
}

// cannot is a request that is refused.
func (w *watcher) cannot(status int, method, path string, body any) string {
	w.t.Helper()
	got, text := w.try(w.t.Context(), method, path, body, nil)
	var e struct{ Errcode, Error string }
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		w.t.Fatal(err)
	}
	text = e.Errcode + " " + e.Error
	if got != status {
		w.t.Errorf("%s: %s %s: %d %s, not %d", w.name, method, path, got, text, status)
	}
	return text
}

// state is the content of a room's piece of state, nil if there is none that the user may see.
func (w *watcher) state(room, typ, key string) (content map[string]any) {
	w.t.Helper()
	status, text := w.try(w.t.Context(), "GET", client+"/rooms/"+room+"/state/"+typ+"/"+url.PathEscape(key), nil, &content)
	if status != http.StatusOK && status != http.StatusNotFound && status != http.StatusForbidden {
		w.t.Fatalf("%s: %d %s", w.name, status, text)
	}
	return content
}

// knows waits until a node's room has a membership.
func (w *watcher) knows(room string, whom matrix.UserID, membership string) {
	w.t.Helper()
	w.until(string(whom)+" is "+membership, func() bool {
		c := w.state(room, "m.room.member", string(whom))
		return c != nil && c["membership"] == membership
	})
}

// TestEveryMembershipBetweenNodes: what one does to the other's user the other sees, and the other way round.
func TestEveryMembershipBetweenNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		room := alice.creates(object{"preset": "private_chat", "name": "Den", "invite": []any{bob.user}})

		bob.becomes(room, "invite")
		alice.does(room, "kick", bob) // rescinded
		bob.becomes(room, "leave")
		bob.cannot(http.StatusNotFound, "POST", client+"/rooms/"+room+"/join", object{}) // nobody is known who could be asked

		alice.says(room, "before")
		alice.does(room, "invite", bob)
		bob.becomes(room, "invite")
		bob.does(room, "leave", nil) // rejected
		alice.knows(room, bob.user, "leave")
		alice.does(room, "invite", bob)
		bob.becomes(room, "invite")
		bob.does(room, "join", nil)
		alice.knows(room, bob.user, "join")
		alice.says(room, "one")
		bob.hears(room, "before", "one")

		alice.does(room, "kick", bob)
		bob.becomes(room, "leave")
		bob.cannot(http.StatusForbidden, "PUT", client+"/rooms/"+room+"/send/m.room.message/x", object{"msgtype": "m.text", "body": "x"})
		alice.says(room, "while he is away")
		alice.does(room, "invite", bob)
		bob.becomes(room, "invite")
		bob.does(room, "join", nil)
		alice.knows(room, bob.user, "join")
		alice.says(room, "two")
		bob.hears(room, "before", "one", "while he is away", "two") // history is shared
		bob.says(room, "three")
		alice.until("bob's word", func() bool { return slices.Contains(alice.texts[room], "three") })

		alice.does(room, "ban", bob)
		bob.becomes(room, "ban")
		bob.cannot(http.StatusForbidden, "POST", client+"/rooms/"+room+"/join", object{})
		alice.cannot(http.StatusForbidden, "POST", client+"/rooms/"+room+"/invite", object{"user_id": bob.user})
		alice.does(room, "unban", bob)
		bob.becomes(room, "leave")
		alice.says(room, "unbanned")
		alice.does(room, "invite", bob)
		bob.becomes(room, "invite")
		bob.does(room, "join", nil)
		alice.knows(room, bob.user, "join")
		bob.says(room, "back")
		alice.until("bob's word", func() bool { return slices.Contains(alice.texts[room], "back") })
		bob.until("bob's own word", func() bool { return slices.Contains(bob.texts[room], "back") })
		if want := []string{"before", "one", "while he is away", "two", "three", "unbanned", "back"}; !slices.Equal(bob.texts[room], want) {
			t.Errorf("bob's client has %q, not %q", bob.texts[room], want)
		}

		bob.does(room, "leave", nil)
		alice.knows(room, bob.user, "leave")
	})
}

// TestAnInviteIsTakenBackByWhoCameToPowerLater: the invited node never saw the power levels by which its user's invite is ended.
func TestAnInviteIsTakenBackByWhoCameToPowerLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob", "carol"})
		alice, bob, carol := nodes[0], nodes[1], nodes[2]
		room := alice.creates(object{"preset": "private_chat", "invite": []any{bob.user}})
		bob.becomes(room, "invite")
		alice.does(room, "invite", carol)
		carol.becomes(room, "invite")
		carol.does(room, "join", nil)
		alice.knows(room, carol.user, "join")
		levels := alice.state(room, "m.room.power_levels", "")
		levels["users"] = object{string(carol.user): 50}
		alice.call("PUT", client+"/rooms/"+room+"/state/m.room.power_levels/", levels, nil)
		carol.until("power", func() bool {
			users, _ := carol.state(room, "m.room.power_levels", "")["users"].(map[string]any)
			return users[string(carol.user)] != nil
		})
		carol.does(room, "ban", bob)
		bob.becomes(room, "ban")
		carol.does(room, "unban", bob)
		bob.becomes(room, "leave")
	})
}

// enters joins, or knocks at, a room of another node.
func (w *watcher) enters(what, room string, via *watcher) {
	w.t.Helper()
	var a struct {
		RoomID string `json:"room_id"`
	}
	path := client + "/" + what + "/" + url.PathEscape(room)
	if via != nil {
		path += "?via=" + via.user.Homeserver()
	}
	w.call("POST", path, object{"reason": "to see"}, &a)
	if room[0] == '!' && a.RoomID != room {
		w.t.Errorf("%s came into %s", w.name, a.RoomID)
	}
}

// TestPublicRoomsOfAnotherNodeAreJoined by their id and by an alias, without an invite; what was said before and after is there, and a room that is not there, or
// not for everybody, is answered alike.
func TestPublicRoomsOfAnotherNodeAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		room := alice.creates(object{"preset": "public_chat", "name": "Square", "room_alias_name": "grüße-世界"})
		secret := alice.creates(object{"preset": "private_chat"})
		alice.says(room, "before")

		absent := bob.cannot(http.StatusForbidden, "POST", client+"/join/!ACMESqjmQ0CRTPIKjYYGaCbyZlg3ENlZ5DHdbkCyFpI?via="+alice.user.Homeserver(), object{})
		if hidden := bob.cannot(http.StatusForbidden, "POST", client+"/join/"+secret+"?via="+alice.user.Homeserver(), object{}); hidden != absent {
			t.Errorf("a room that is not for bob: %s; one that is not there: %s", hidden, absent)
		}
		bob.cannot(http.StatusNotFound, "POST", client+"/join/"+room, object{}) // nobody to ask

		began := time.Now()
		bob.enters("join", room, alice)
		t.Logf("joined after %v", time.Since(began))
		bob.becomes(room, "join")
		alice.knows(room, bob.user, "join")
		alice.says(room, "after")
		bob.hears(room, "before", "after")
		bob.says(room, "hello")
		alice.hears(room, "before", "after", "hello")
		if name := bob.state(room, "m.room.name", ""); name["name"] != "Square" {
			t.Errorf("the room's name is %v", name)
		}

		bob.does(room, "leave", nil)
		alice.knows(room, bob.user, "leave")
		alice.says(room, "while he is away")
		alias := fmt.Sprintf("#grüße-世界:%s", alice.user.Homeserver())
		bob.enters("join", alias, nil)
		bob.becomes(room, "join")
		alice.says(room, "welcome back")
		bob.hears(room, "before", "after", "hello", "while he is away", "welcome back")
		bob.cannot(http.StatusForbidden, "POST", client+"/join/"+url.PathEscape("#none:"+alice.user.Homeserver()), object{})
	})
}

// TestAJoinGoesOnWhenTheClientHasGone: the node that is asked is off; the client is told after 20 s that it is under way, the asking node dies too, and when both are
// back the room shows.
func TestAJoinGoesOnWhenTheClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"alice", "bob"})
		alice, bob := nodes[0], nodes[1]
		room := alice.creates(object{"preset": "public_chat"})
		alice.stop()
		began := time.Now()
		for range 2 { // the second waits for what the first asked
			bob.cannot(http.StatusGatewayTimeout, "POST", client+"/join/"+room+"?via="+alice.user.Homeserver(), object{})
		}
		if took := time.Since(began); took != 40*time.Second {
			t.Errorf("the client waited %v", took)
		}
		bob.stop()
		bob.rebuild()
		bob.start()
		alice.rebuild()
		alice.start()
		bob.becomes(room, "join")
		alice.knows(room, bob.user, "join")

		// What is not wanted any more is given up.
		other := alice.creates(object{"preset": "public_chat"})
		alice.stop()
		bob.cannot(http.StatusGatewayTimeout, "POST", client+"/join/"+other+"?via="+alice.user.Homeserver(), object{})
		bob.does(other, "leave", nil)
		alice.rebuild()
		alice.start()
		time.Sleep(20 * time.Second)
		bob.look(0)
		if bob.standing[other] != "" {
			t.Errorf("bob is in a room that he gave up: %s", bob.standing[other])
		}
	})
}
