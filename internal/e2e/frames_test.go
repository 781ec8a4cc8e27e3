// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/replicate"
)

// byFrames gives two stores and two couriers, each of somebody else, and what a node's configuration has of them.
func byFrames(t *testing.T, bucket time.Duration) (mailboxes []*mailboxtest.Mailbox, at func(*replicate.Config)) {
	t.Helper()
	mesh := mailboxtest.NewMesh()
	var stores, couriers []*mailboxtest.Mailbox
	for range 2 {
		stores = append(stores, mailboxtest.New(t, mailboxtest.WithMesh(mesh), mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = bucket })))
		couriers = append(couriers, mailboxtest.New(t, mailboxtest.WithMesh(mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(mesh, func(c *courier.Config) { c.Rate = 20 })))
	}
	return append(couriers, stores...), func(c *replicate.Config) {
		for i := range stores {
			c.Stores, c.Couriers = append(c.Stores, stores[i].Address()), append(c.Couriers, couriers[i].Address())
		}
		c.Dial = func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, mesh) }
		c.Session = func(a mailbox.Address, p replicate.SessionParams) replicate.Courier {
			return replicate.NewSession(a, mesh, p)
		}
	}
}

// end stops what has timers before the bubble ends.
func end(nodes []*node, mailboxes []*mailboxtest.Mailbox) {
	for _, n := range nodes {
		n.stop()
	}
	for _, m := range mailboxes {
		m.Kill()
	}
	time.Sleep(time.Hour)
}

// TestMessagesByFrames is a conversation of two homeservers through real couriers and stores; no client's request, and
// nothing that is said, makes any connection, and after the first minutes nobody speaks to a mailbox directly.
func TestMessagesByFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mailboxes, at := byFrames(t, 10*time.Second)
		alice, bob := newNodeAt(t, "alice", 1, at), newNodeAt(t, "bob", 2, at)
		defer end([]*node{alice, bob}, mailboxes)
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
			for _, m := range mailboxes {
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

// TestDeliveryIsQuickWithQuickFrames: with a frame every 100 ms and couriers that hold a request for 50 ms, a message is at the other's client within two seconds,
// also when the third node has it from the second.
func TestDeliveryIsQuickWithQuickFrames(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		mailboxes, at := byFrames(t, 100*time.Millisecond)
		quick := func(c *replicate.Config) {
			at(c)
			c.Profile = replicate.CustomProfile(100*time.Millisecond, 0.3)
			c.Profile.Mix, c.Profile.Lag, c.Profile.Push = 50*time.Millisecond, 250*time.Millisecond, 250*time.Millisecond
		}
		alice, bob, carol := watch(newNodeAt(t, "alice", 1, quick)), watch(newNodeAt(t, "bob", 2, quick)), watch(newNodeAt(t, "carol", 3, quick))
		defer end([]*node{alice.node, bob.node, carol.node}, mailboxes)
		befriend(t, alice.node, bob.node)
		befriend(t, bob.node, carol.node)
		room := gather(t, []*watcher{alice, bob, carol}, 0, 1)
		for _, w := range []*watcher{alice, bob, carol} {
			w.until("sessions with couriers", func() bool { return w.engine.Traffic().Mode == replicate.Couriers })
			w.look(0)
		}
		measure := func(from, to *watcher) (took []time.Duration) {
			t.Helper()
			for i := range 30 {
				text := fmt.Sprintf("%s to %s %d", from.name, to.name, i)
				began := time.Now()
				from.says(room, text)
				to.until(text, func() bool { return slices.Contains(to.texts[room], text) })
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			t.Logf("%s to %s: median %v, 95 %% %v, longest %v", from.name, to.name, took[len(took)/2], took[len(took)*95/100], took[len(took)-1])
			return took
		}
		for _, way := range [][2]*watcher{{alice, bob}, {bob, alice}} {
			if took := measure(way[0], way[1]); took[len(took)*95/100] > 2*time.Second {
				t.Errorf("95 %% within %v", took[len(took)*95/100])
			}
		}
		if took := measure(alice, carol); took[len(took)/2] > 2*time.Second { // twice the way
			t.Errorf("the median over another node is %v", took[len(took)/2])
		}
	})
}
