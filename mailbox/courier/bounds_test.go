// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
)

// The halves of a frame reach the store each after its own delay, on the one link, and not together.
func TestHalvesAreForwardedSeparatelyAfterTheirDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.connect()
		w.frame(nothing, nothing, 0, 0, 0) // the link is there
		time.Sleep(time.Minute)
		seen := w.store.Observe()
		began := time.Now()
		id, box := randomBox()
		w.frame(putOf(id, box), getOf(id), 7*time.Second, 1500*time.Millisecond, 6*time.Second)
		w.frame(nothing, nothing, 400*time.Millisecond, 11*time.Minute, 6*time.Second) // longer than a courier holds anything
		time.Sleep(15 * time.Minute)
		var got []string
		for _, o := range seen() {
			if o.Request.Op == mailbox.OpDigest {
				continue
			}
			got = append(got, o.At.Sub(began).String()+map[bool]string{true: " put", false: " get"}[o.Put])
		}
		want := []string{"400ms put", "1.5s get", "7s put", "10m0s get"}
		if !slices.Equal(got, want) {
			t.Errorf("the store saw %v, want %v", got, want)
		}
		links := 0
		for _, x := range w.store.Transactions() {
			if strings.HasPrefix(x.Isolation, "link-") {
				links++
			}
		}
		if links != 1 {
			t.Errorf("%d links", links)
		}
	})
}

// A box that is there and one that is not cost the same: on the session, on the link, and in time.
func TestAnAbsentBoxCostsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.connect()
		id, box := randomBox()
		put, _ := w.frame(putOf(id, box), nothing, 0, 0, time.Second)
		_, _, err := put.Wait(t.Context())
		must(t, err)
		type cost struct {
			took     time.Duration
			up, down int
		}
		var costs []cost
		for _, h := range []mailbox.BoxID{id, {1, 2, 3}, id, {4, 5, 6}} {
			sum := func() (up, down int) {
				for _, x := range w.store.Transactions() {
					up, down = up+x.Up, down+x.Down
				}
				return up, down
			}
			u, d := sum()
			began := time.Now()
			_, get := w.frame(nothing, getOf(h), 0, 0, 500*time.Millisecond)
			_, _, err := get.Wait(t.Context())
			must(t, err)
			u2, d2 := sum()
			costs = append(costs, cost{time.Since(began), u2 - u, d2 - d})
		}
		for _, c := range costs[1:] {
			if c != costs[0] {
				t.Errorf("%+v", costs)
			}
		}
	})
}

func TestASessionSurvivesTheLossOfALink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.connect()
		id, box := randomBox()
		put, _ := w.frame(putOf(id, box), nothing, 0, 0, time.Second)
		_, _, err := put.Wait(t.Context())
		must(t, err)
		w.store.Kill()
		put, _ = w.frame(putOf(id, box), nothing, 0, 0, time.Second)
		if _, _, err := put.Wait(t.Context()); !errors.Is(err, mailbox.ErrUnreachable) {
			t.Errorf("while the store is down: %v", err)
		}
		w.store.Start()
		time.Sleep(10 * time.Second)
		put, get := w.frame(putOf(id, box), getOf(id), 0, time.Second, 2*time.Second)
		if _, _, err := put.Wait(t.Context()); err != nil {
			t.Errorf("written again: %v", err)
		}
		if _, body, err := get.Wait(t.Context()); err != nil || !bytes.Equal(body, box) {
			t.Errorf("read again: %v", err)
		}
		if !w.session.Connected() {
			t.Error("the session broke")
		}
	})
}

// A courier that is killed loses what it held; the node is told, connects anew, and writes it again.
func TestAKilledCourierLosesOnlyWhatIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.connect()
		boxes := map[mailbox.BoxID][]byte{}
		unsure := map[mailbox.BoxID]bool{}
		for i := range 10 {
			id, box := randomBox()
			boxes[id], unsure[id] = box, true
			put, _ := w.frame(putOf(id, box), nothing, time.Duration(i)*time.Second, 0, 12*time.Second)
			go func() {
				if _, _, err := put.Wait(context.Background()); err == nil {
					w.mu.Lock()
					defer w.mu.Unlock()
					delete(unsure, id)
				}
			}()
		}
		time.Sleep(5500 * time.Millisecond)
		before := w.store.Boxes()
		w.courier.Kill()
		synctest.Wait()
		if w.session.Connected() || before == 0 || before == 10 {
			t.Fatalf("connected %v, %d boxes are there", w.session.Connected(), before)
		}
		p, err := w.client.SealPut(nothing, 0)
		must(t, err)
		g, err := w.client.SealGet(nothing, 0)
		must(t, err)
		if err := w.session.Send(t.Context(), &mailbox.Frame{Put: p, Get: g}); !errors.Is(err, mailbox.ErrSession) {
			t.Errorf("sent into nothing: %v", err)
		}
		if _, _, err := p.Wait(t.Context()); !errors.Is(err, mailbox.ErrSession) {
			t.Errorf("a half that was not sent: %v", err)
		}
		w.courier.Start()
		must(t, w.session.Connect(t.Context()))
		for id := range unsure {
			put, _ := w.frame(putOf(id, boxes[id]), nothing, 0, 0, time.Second)
			if _, _, err := put.Wait(t.Context()); err != nil {
				t.Errorf("written again: %v", err)
			}
		}
		if w.store.Boxes() != 10 {
			t.Errorf("%d boxes", w.store.Boxes())
		}
	})
}

// Sessions are bounded in number; who is idle loses its place, who is not keeps it; the refusal looks like the welcome.
func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 5
		tokens := map[byte]bool{}
		var mu sync.Mutex
		w := newWorld(t, func(c *courier.Config) {
			c.MaxSessions, c.Reserved = most, 2
			c.Redeem = func(token *[mailbox.TokenSize]byte) bool {
				mu.Lock()
				defer mu.Unlock()
				if token[0] == 0 || tokens[token[0]] {
					return false
				}
				tokens[token[0]] = true
				return true
			}
		})
		open := func(token byte) (*mailbox.Session, error) {
			s := mailbox.NewSession(w.courier.Address(), w.mesh, mailbox.SessionParams{Token: func() *[mailbox.TokenSize]byte {
				return &[mailbox.TokenSize]byte{token}
			}})
			t.Cleanup(func() { s.Close() })
			return s, s.Connect(t.Context())
		}
		var first *mailbox.Session
		for i := range most - 2 {
			s, err := open(0) // a token that is none
			must(t, err)
			if i == 0 {
				first = s
			}
		}
		if _, err := open(0); !errors.Is(err, mailbox.ErrBusy) {
			t.Errorf("one more: %v", err)
		}
		for i := range byte(2) {
			if _, err := open(i + 1); err != nil {
				t.Errorf("with a token: %v", err)
			}
		}
		if _, err := open(3); !errors.Is(err, mailbox.ErrBusy) || tokens[3] {
			t.Errorf("with a token, while there is no place: %v; it is spent: %v", err, tokens[3])
		}
		if _, err := open(1); !errors.Is(err, mailbox.ErrBusy) {
			t.Errorf("with a spent token: %v", err)
		}
		for _, x := range w.courier.Transactions() {
			if x.Up != mailbox.UpSize || x.Down != mailbox.DownSize {
				t.Errorf("a hello of %d bytes up, %d down", x.Up, x.Down)
			}
		}
		if s := w.courier.Courier().Status(); s.Sessions != most {
			t.Errorf("%+v", s)
		}
		// The first one goes on; the others are idle.
		idle := func(s *mailbox.Session) {
			put, err := s.Idle(0)
			must(t, err)
			get, err := s.Ask(w.store.Address(), 0)
			must(t, err)
			must(t, s.Send(t.Context(), &mailbox.Frame{Put: put, Get: get}))
		}
		for range 10 {
			time.Sleep(time.Minute)
			idle(first)
		}
		for range 10 { // newcomers have the places of those that are idle
			s, err := open(0)
			if err != nil {
				break
			}
			idle(s)
		}
		synctest.Wait()
		if !first.Connected() {
			t.Error("a session with frames lost its place")
		}
		if s := w.courier.Courier().Status(); s.Sessions > most {
			t.Errorf("%+v", s)
		}
	})
}

// What a session sends faster than its rate waits; it costs the courier neither memory nor the others their time.
func TestASessionIsHeldToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *courier.Config) { c.Burst = 10 })
		w.session = mailbox.NewSession(w.courier.Address(), w.mesh, mailbox.SessionParams{Frame: 1500 * time.Millisecond})
		t.Cleanup(func() { w.session.Close() })
		w.connect()
		began := time.Now()
		var last *mailbox.Half
		for range 100 {
			p, err := w.client.SealPut(nothing, 0)
			must(t, err)
			g, err := w.client.SealGet(nothing, 0)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			must(t, w.session.Send(ctx, &mailbox.Frame{Put: p, Get: g, Lag: 100 * time.Millisecond}))
			cancel()
			last = g
		}
		if _, _, err := last.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 85*time.Second || took > 95*time.Second {
			t.Errorf("100 frames took %v at one in 1.5 s, and half as many more, with ten at once", took)
		}
	})
}

// The courier reads a page once, however many sessions follow the store.
func TestAPageIsFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.connect()
		id, box := randomBox()
		put, _ := w.frame(putOf(id, box), nothing, 0, 0, time.Second, w.store.Address())
		_, _, err := put.Wait(t.Context())
		must(t, err)
		for range 19 {
			s := w.newSession(10 * time.Second)
			must(t, s.Connect(t.Context()))
			p, err := w.client.SealPut(nothing, 0)
			must(t, err)
			g, err := w.client.SealGet(nothing, 0)
			must(t, err)
			must(t, s.Send(t.Context(), &mailbox.Frame{Put: p, Get: g, Follow: []mailbox.Address{w.store.Address()}}))
		}
		time.Sleep(time.Minute)
		seen := w.store.Observe()
		w.mu.Lock()
		before := len(w.pages)
		w.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if n := len(seen()); n < 58 || n > 62 {
			t.Errorf("%d requests in ten minutes, want one every ten seconds", n)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.pages) - before; n < 20*58 || n > 20*62 {
			t.Errorf("%d pages were pushed to 20 sessions in ten minutes", n)
		}
	})
}

// A mailbox answers for the roles that it has, in the same size.
func TestARoleThatIsOffRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		if err := mailbox.NewSession(w.store.Address(), w.mesh, mailbox.SessionParams{}).Connect(t.Context()); !errors.Is(err, mailbox.ErrRefused) {
			t.Errorf("a session with a store: %v", err)
		}
		c := w.courier.Client()
		_, err := c.Descriptor(t.Context())
		must(t, err)
		if err := c.Nothing(t.Context()); !errors.Is(err, mailbox.ErrRefused) {
			t.Errorf("a request to a courier: %v", err)
		}
		for _, x := range append(w.courier.Transactions(), w.store.Transactions()...) {
			if x.Up != mailbox.UpSize || x.Down != mailbox.DownSize {
				t.Errorf("%+v", x)
			}
		}
		// Halves for the courier itself: what a store does, it refuses.
		w.connect()
		self := w.session.Courier()
		p, err := self.SealPut(putOf(mailbox.BoxID{1}, make([]byte, mailbox.BoxSize)), 0)
		must(t, err)
		g, err := self.SealGet(getOf(mailbox.BoxID{1}), 0)
		must(t, err)
		must(t, w.session.Send(t.Context(), &mailbox.Frame{Put: p, Get: g, Lag: time.Second}))
		for _, h := range []*mailbox.Half{p, g} {
			if _, _, err := h.Wait(t.Context()); !errors.Is(err, mailbox.ErrRefused) {
				t.Errorf("a half for the courier itself: %v", err)
			}
		}
	})
}

// A mailbox with both roles is its own store without a link to itself.
func TestBothRolesInOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		both := mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithCourier(w.mesh, nil), mailboxtest.WithFamily("one"),
			mailboxtest.WithFront(func(c *front.Config) { c.MaxConns = 4 }))
		w.courier, w.store, w.client = both, both, mailbox.NewClient(both.Address(), w.mesh)
		w.session = w.newSession(10 * time.Second)
		w.connect()
		if w.session.Family() != "one" {
			t.Errorf("family %q", w.session.Family())
		}
		id, box := randomBox()
		w.frame(putOf(id, box), nothing, 0, 0, time.Second, both.Address())
		_, get := w.frame(nothing, getOf(id), 0, time.Second, 2*time.Second, both.Address())
		if _, body, err := get.Wait(t.Context()); err != nil || !bytes.Equal(body, box) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.pages) < 4 {
			t.Errorf("%d pages of its own were pushed", len(w.pages))
		}
		for _, x := range both.Transactions() {
			if strings.HasPrefix(x.Isolation, "link-") {
				t.Error("it dialled itself")
			}
		}
	})
}

// Sessions and halves live over midnight, when keys change, and a descriptor is asked for once a day.
func TestKeysChangeUnderASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOf(t, 10*time.Minute, nil) // few pages: each costs real work
		w.connect()
		for range 3 * 24 {
			time.Sleep(time.Hour)
			p, err := w.client.SealPut(nothing, 0)
			if errors.Is(err, mailbox.ErrNoDescriptor) {
				p, err := w.session.Idle(0)
				must(t, err)
				g, err := w.session.Ask(w.store.Address(), 0)
				must(t, err)
				must(t, w.session.Send(t.Context(), &mailbox.Frame{Put: p, Get: g, Lag: 2 * time.Second}))
				_, body, err := g.Wait(t.Context())
				must(t, err)
				_, err = w.client.SetDescriptor(body)
				must(t, err)
				continue
			}
			must(t, err)
			g, err := w.session.Ask(w.courier.Address(), 0)
			must(t, err)
			must(t, w.session.Send(t.Context(), &mailbox.Frame{Put: p, Get: g, Lag: 2 * time.Second, Follow: []mailbox.Address{w.store.Address()}}))
			_, body, err := g.Wait(t.Context())
			must(t, err)
			_, err = w.session.Courier().SetDescriptor(body)
			must(t, err)
			if _, _, err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.pages); n < 3*144-20 { // none in the hours whose frame follows nothing
			t.Errorf("%d pages were pushed in three days", n)
		}
	})
}
