// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
)

// meet gives two nodes that share a room, and the position in bob's sync after his join.
func meet(t *testing.T) (box *mailboxtest.Mailbox, alice, bob *node, room, since string) {
	box = mailboxtest.New(t)
	alice, bob = newNode(t, "alice", 1, box), newNode(t, "bob", 2, box)
	befriend(t, alice, bob)
	var created struct {
		RoomID string `json:"room_id"`
	}
	alice.call("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat", "invite": []any{bob.user}}, &created)
	room = created.RoomID
	bob.await("", "invite", 2*time.Hour, func(a syncAnswer) bool { return a.Rooms.Invite[room] != nil })
	bob.call("POST", "/_matrix/client/v3/join/"+room, map[string]any{}, nil)
	since = bob.await("", "joined room", time.Minute, func(a syncAnswer) bool { _, ok := a.Rooms.Join[room]; return ok })
	return box, alice, bob, room, since
}

// TestOneMessage is docs/one-message.md: from PUT /send at one node to /sync at the other.
func TestOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, alice, bob, room, since := meet(t)

		before := len(box.Transactions())
		start := time.Now()
		alice.call("PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/t1", map[string]any{"msgtype": "m.text", "body": "hello"}, nil)
		if !time.Now().Equal(start) || len(box.Transactions()) != before {
			t.Fatal("PUT /send waited or touched the network")
		}
		var heard []string
		since = bob.await(since, "message", 2*time.Hour, func(a syncAnswer) bool {
			heard = append(heard, a.texts(room)...)
			return len(heard) > 0
		})
		t.Logf("delivered after %v of made-up time, frames every %v", time.Since(start), profile().Frame)
		if !slices.Equal(heard, []string{"hello"}) {
			t.Fatalf("heard %q", heard)
		}
		for _, x := range box.Transactions() {
			if x.Up != mailbox.UpSize || x.Down != mailbox.DownSize {
				t.Fatalf("a transaction of %d bytes up, %d down", x.Up, x.Down)
			}
		}
		// And nothing comes twice, however often the box is written again.
		for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); {
			var a syncAnswer
			bob.call("GET", "/_matrix/client/v3/sync?timeout=30000&since="+since, nil, &a)
			since = a.NextBatch
			if got := a.texts(room); len(got) > 0 {
				t.Fatalf("heard again: %q", got)
			}
		}
	})
}

// TestMessagesSentWhileThePeerWasOffArriveInOrderOnce also loses the peer's memory, as a restart does.
func TestMessagesSentWhileThePeerWasOffArriveInOrderOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, since := meet(t)
		bob.stop()
		var want []string
		for i := range 30 {
			body := fmt.Sprintf("message %02d", i)
			want = append(want, body)
			alice.call("PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/"+body[8:], map[string]any{"msgtype": "m.text", "body": body}, nil)
			time.Sleep(17 * time.Minute) // made-up time: thirty messages over eight hours
		}
		bob.rebuild()
		bob.start()
		var heard []string
		bob.await(since, "messages", 12*time.Hour, func(a syncAnswer) bool {
			heard = append(heard, a.texts(room)...)
			return len(heard) >= len(want)
		})
		if !slices.Equal(heard, want) {
			t.Fatalf("heard %q\nwanted %q", heard, want)
		}
	})
}

// TestConversationTurnByTurn waits for each message before the next is said.
func TestConversationTurnByTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, since := meet(t)
		tokens := map[*node]string{bob: since}
		for i := range 30 {
			from, to := alice, bob
			if i%2 == 1 {
				from, to = bob, alice
			}
			body := fmt.Sprintf("line %02d", i)
			start := time.Now()
			from.call("PUT", fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/t%d", room, i), map[string]any{"msgtype": "m.text", "body": body}, nil)
			tokens[to] = to.await(tokens[to], body, 3*time.Hour, func(a syncAnswer) bool { return slices.Contains(a.texts(room), body) })
			t.Logf("%s after %v", body, time.Since(start))
		}
	})
}
