// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/replicate"
)

// TestMessagesByFrames is a conversation of two homeservers through real couriers and stores; no client's request, and
// nothing that is said, makes any connection, and after the first minutes nobody speaks to a mailbox directly.
func TestMessagesByFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mesh := mailboxtest.NewMesh()
		var stores, couriers []*mailboxtest.Mailbox
		for range 2 {
			stores = append(stores, mailboxtest.New(t, mailboxtest.WithMesh(mesh), mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = 10 * time.Second })))
			couriers = append(couriers, mailboxtest.New(t, mailboxtest.WithMesh(mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(mesh, nil)))
		}
		at := func(c *replicate.Config) {
			for i := range stores {
				c.Stores, c.Couriers = append(c.Stores, stores[i].Address()), append(c.Couriers, couriers[i].Address())
			}
			c.Dial = func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, mesh) }
			c.Session = func(a mailbox.Address, p replicate.SessionParams) replicate.Courier {
				return replicate.NewSession(a, mesh, p)
			}
		}
		alice, bob := newNodeAt(t, "alice", 1, at), newNodeAt(t, "bob", 2, at)
		defer func() { // the couriers' timers end before the bubble
			alice.stop()
			bob.stop()
			for _, m := range append(couriers, stores...) {
				m.Kill()
			}
			time.Sleep(time.Hour)
		}()
		befriend(t, alice, bob)
		var created struct {
			RoomID string `json:"room_id"`
		}
		alice.call("POST", "/_matrix/client/v3/createRoom", map[string]any{"preset": "private_chat", "invite": []any{bob.user}}, &created)
		room := created.RoomID
		bob.await("", "invite", 2*time.Hour, func(a syncAnswer) bool { return a.Rooms.Invite[room] != nil })
		bob.call("POST", "/_matrix/client/v3/join/"+room, map[string]any{}, nil)
		since := bob.await("", "joined room", time.Minute, func(a syncAnswer) bool { _, ok := a.Rooms.Join[room]; return ok })
		if m := alice.engine.Traffic().Mode; m != replicate.Couriers {
			t.Fatalf("the mode is %v", m)
		}
		connections := func() (n int) {
			for _, m := range append(couriers, stores...) {
				n += len(m.Transactions())
			}
			return n
		}
		time.Sleep(time.Hour) // session tokens are asked for in the first minutes, and next the day after
		before := connections()
		for _, text := range []string{"one", "two", "three"} {
			alice.call("PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/"+text, map[string]any{"msgtype": "m.text", "body": text}, nil)
			began := time.Now()
			since = bob.await(since, text, time.Hour, func(a syncAnswer) bool { return slices.Contains(a.texts(room), text) })
			t.Logf("%s: after %v", text, time.Since(began))
		}
		if n := connections() - before; n != 0 {
			t.Errorf("%d connections were made while they spoke", n)
		}
	})
}
