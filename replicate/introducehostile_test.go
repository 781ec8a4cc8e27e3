// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
)

// forge answers a link as somebody who has it, whom his own node would not let.
func forge(t *testing.T, w *world, l Link, by *node) {
	t.Helper()
	store := &fakeClient{fakeStore: w.stores[l.Store], known: true}
	w.until(time.Hour, "the payload", func() bool {
		at := payloadPlace(l.Voucher)
		box, err := store.Get(t.Context(), at.id.Handle())
		if err != nil {
			return false
		}
		content, err := at.open(box)
		if err != nil {
			return false
		}
		p, err := parsePayload(content)
		if err != nil {
			t.Fatal(err)
		}
		r := reply{name: by.name(), contribution: random32(), recovery: testRecovery(5).Public().Bytes(), certificate: by.id.Certificate, stores: by.own}
		key, err := sealed.ParsePublicKey(p.key)
		if err != nil {
			t.Fatal(err)
		}
		answer, _, err := key.Seal(replyInfo(l.Voucher), r.marshal(by.id.Key, l.Voucher))
		if err != nil {
			t.Fatal(err)
		}
		back := replyPlace(l.Voucher, p.replySecret)
		if box, err = back.seal(answer); err != nil {
			t.Fatal(err)
		}
		return store.Put(t.Context(), back.id, box, nil) == nil
	})
}

// An introducer swaps links, answers them itself, keeps them back, and sends a thousand: it can keep the two apart as long as no other contact is asked, and
// nothing else.
func TestABadIntroducer(t *testing.T) {
	setup := func(t *testing.T) (w *world, a, b, c *node) {
		w = newWorld(t, 2)
		ns := acquaintances(w, 3)
		a, b, c = ns[0], ns[1], ns[2]
		c.introductions = NoIntroductions // its owner does it by hand
		for _, n := range ns {
			n.start()
		}
		w.contact(a, c)
		w.contact(c, b)
		gather(cellar, a, b, c)
		return w, a, b, c
	}
	// asked waits for the link that a gives c.
	asked := func(w *world, a, b *node) (l Link) {
		w.t.Helper()
		w.until(time.Hour, "an introduction asked for", func() bool {
			a.engine.mu.Lock()
			defer a.engine.mu.Unlock()
			for _, in := range a.engine.invites {
				l = in.link()
				if in.peer != b.name() {
					w.t.Fatalf("a link for %.4s", in.peer)
				}
			}
			return l.Voucher != [32]byte{}
		})
		return l
	}
	t.Run("swaps the link", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, a, b, c := setup(t)
			defer w.stopAll()
			asked(w, a, b)
			x := w.node(9, fast()) // a node of c's owner's, that nobody knows
			x.start()
			c.queue(b, bundle.Introduced{From: a.name(), Link: wireLink(t, mustInvite(t, x))})
			w.until(time.Hour, "b's following", func() bool { _, n := b.links(); return n == 1 })
			w.until(time.Hour, "b's refusal", func() bool { _, n := b.links(); return n == 0 })
			w.noContact(a, b, 5*time.Minute)
			bs, _ := b.contacts()
			if xs, _ := x.contacts(); x.link().State != Inviting || bs != 1 || xs != 0 {
				t.Errorf("b answered c's link: %+v, %d contacts", x.link(), bs)
			}
		})
	})
	t.Run("follows it itself", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, a, b, c := setup(t)
			defer w.stopAll()
			l := asked(w, a, b)
			before := a.status(c.name())
			forge(t, w, l, c)
			w.until(time.Hour, "a's refusal", func() bool { n, _ := a.links(); return n == 0 })
			all, _ := a.contacts()
			if got := a.status(c.name()); got.Number != before.Number || got.Introducer != "" || all != 1 {
				t.Errorf("a took c's answer: %+v", got)
			}
			c.queue(b, bundle.Introduced{From: a.name(), Link: wireLink(t, l)}) // too late
			w.noContact(a, b, 5*time.Minute)
			// Another contact of both does better.
			d := w.node(9, fast())
			d.introductions = NeededIntroductions
			d.start()
			w.contact(a, d)
			w.contact(d, b)
			gather(cellar, a, b, c, d)
			w.met(a, b, 10*time.Hour)
		})
	})
	t.Run("a stranger's node follows it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, a, b, _ := setup(t)
			defer w.stopAll()
			l := asked(w, a, b)
			x := w.node(9, fast())
			x.start()
			if _, err := x.engine.Accept(context.Background(), l); err != nil {
				t.Fatal(err)
			}
			w.until(time.Hour, "a's refusal", func() bool { n, _ := a.links(); return n == 0 })
			if all, _ := a.contacts(); all != 1 {
				t.Errorf("a has %d contacts", all)
			}
		})
	})
	t.Run("keeps a link until later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, a, b, c := setup(t)
			defer w.stopAll()
			l := asked(w, a, b)
			w.contact(a, b) // by hand
			before := [2]ContactStatus{a.status(b.name()), b.status(a.name())}
			c.queue(b, bundle.Introduced{From: a.name(), Link: wireLink(t, l)})
			time.Sleep(10 * time.Minute)
			if x, y := a.status(b.name()), b.status(a.name()); x.Number != before[0].Number || y.Number != before[1].Number || x.Introducer != "" || y.Introducer != "" {
				t.Errorf("an old link changed a contact: %+v, %+v", x, y)
			}
			a.rooms.join(lounge, a.name(), b.name())
			b.rooms.join(lounge, a.name(), b.name())
			talk(t, w, a, b, 2, time.Hour)
		})
	})
	t.Run("sends it again, and others that nothing lies under", func(t *testing.T) {
		measures(t)
		synctest.Test(t, func(t *testing.T) {
			w, a, b, c := setup(t)
			defer w.stopAll()
			l := asked(w, a, b)
			for i := range 1000 {
				x := l
				if i != 500 {
					x.Voucher = [32]byte{byte(i), byte(i >> 8), 9}
					x.Expiry = time.Unix(time.Now().Add(time.Duration(i+1)*time.Minute).Unix(), 0)
				}
				from := a.name()
				if i%2 == 1 {
					from = testIdentity(byte(100 + i%100)).Name // in no room
				}
				c.queue(b, bundle.Introduced{From: from, Link: wireLink(t, x)})
			}
			most := 0
			for range 60 * 60 / 10 {
				time.Sleep(10 * time.Second)
				_, n := b.links()
				most = max(most, n)
			}
			b.engine.mu.Lock()
			accepts, depots := len(b.engine.accepts), len(b.engine.depots)
			b.engine.mu.Unlock()
			if most != maxFollowed || accepts > maxFollowed || depots > 2 {
				t.Errorf("%d followed at a time, %d kept, %d mailboxes", most, accepts, depots)
			}
			if brought := inside(b, func(e *Engine) uint64 { return e.contacts[c.name()].intro.brought }); brought != maxBrought {
				t.Errorf("%d taken of a day", brought)
			}
		})
	})
}

// Who asks too much is not served, and its wishes cost nothing more.
func TestWhoAsksForManyIntroductionsGetsFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, c := line(t)
		defer w.stopAll()
		w.met(a, b, time.Hour)
		passed := func() []onionid.Name {
			return inside(c, func(e *Engine) []onionid.Name { return slices.Clone(e.contacts[a.name()].intro.passed) })
		}
		before := passed()
		if !slices.Equal(before, []onionid.Name{b.name()}) {
			t.Fatalf("c passed on %v", before)
		}
		for i := range 200 {
			l := Link{Store: a.own[0], Voucher: [32]byte{byte(i)}, Expiry: time.Unix(time.Now().Add(time.Hour).Unix(), 0)}
			to := b.name()
			switch i % 4 {
			case 1:
				to = testIdentity(byte(100 + i)).Name // nobody
			case 2:
				to = c.name()
			case 3:
				l.Expiry = time.Unix(time.Now().Add(200*24*time.Hour).Unix(), 0)
			}
			a.queue(c, bundle.Introduce{To: to, Link: wireLink(t, l)})
		}
		w.until(time.Hour, "its wishes' end", func() bool { return a.status(c.name()).Waiting == 0 })
		time.Sleep(10 * time.Minute)
		if got := passed(); !slices.Equal(got, before) {
			t.Errorf("c passed on %v", got)
		}
		if _, n := b.links(); n != 0 {
			t.Errorf("b follows %d links", n)
		}
	})
}
