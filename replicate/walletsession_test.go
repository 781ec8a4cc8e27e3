// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
)

// A courier whose open places somebody holds takes a node with a session token: the node draws some by itself, after a start and
// each day.
func TestASessionTokenOpensAFullCourier(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w := newRealWorld(t, 1, 0, 100*time.Millisecond)
		defer w.end()
		c := mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithTokens(), mailboxtest.WithSessionTokens(100),
			mailboxtest.WithCourier(newFar(w.mesh, 100*time.Millisecond), func(c *courier.Config) { c.MaxSessions, c.Reserved = 2, 1 }))
		w.couriers = append(w.couriers, c)
		hold := mailbox.NewSession(c.Address(), w.mesh, mailbox.SessionParams{})
		defer hold.Close()
		if err := hold.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() {
			for t.Context().Err() == nil {
				put, err := hold.Idle(0)
				if err != nil {
					return
				}
				get, err := hold.Ask(w.stores[0].Address(), 0)
				if err != nil {
					return
				}
				if hold.Send(t.Context(), &mailbox.Frame{Put: put, Get: get, Lag: time.Second}) != nil {
					return
				}
				time.Sleep(time.Minute)
			}
		}()
		n := w.add(1, slow())
		up := func() bool {
			n.engine.mu.Lock()
			defer n.engine.mu.Unlock()
			return n.engine.couriersInUse() > 0
		}
		day := func() uint32 {
			n.engine.mu.Lock()
			defer n.engine.mu.Unlock()
			if p := n.engine.passes[c.Address()]; p != nil && len(p.tokens) > 0 {
				return p.day
			}
			return 0
		}
		w.until(2*time.Hour, "the session", up)
		n.stop()
		w.run(n)
		w.until(2*time.Hour, "the session after a restart", up)
		first := day()
		time.Sleep(44 * time.Hour)
		if got := day(); !up() || got != first+1 {
			t.Errorf("after two days: connected %v, tokens of day %d, the first were of %d", up(), got, first)
		}
	})
}
