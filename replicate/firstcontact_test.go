// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

func mustInvite(t *testing.T, n *node) Link {
	t.Helper()
	l, err := n.engine.Invite(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// link finds the only link of a node's status.
func (n *node) link() ContactStatus {
	n.t.Helper()
	cs, err := n.engine.Contacts()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range cs {
		if c.ID != "" {
			return c
		}
	}
	return ContactStatus{}
}

func TestALinkWorksWhileItsMakerIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.node(1, fast()), w.node(2, fast())
		defer w.stopAll()
		a.start()
		l := mustInvite(t, a)
		w.until(time.Hour, "the deposit", func() bool { return a.link().Deposited })
		a.stop()
		b.start()
		st, err := b.engine.Accept(context.Background(), l)
		if err != nil || st.State != Accepting {
			t.Fatalf("Accept: %+v, %v", st, err)
		}
		w.until(time.Hour, "b's side", func() bool { return b.state(a.name()) == Active })
		// b talks before a has ever heard of it.
		b.rooms.join(lounge, a.name(), b.name())
		b.rooms.send(t, lounge, "hello")
		time.Sleep(10 * time.Minute)
		b.stop()
		a.rooms.join(lounge, a.name(), b.name())
		a.start()
		w.until(time.Hour, "a's side", func() bool { return a.state(b.name()) == Active })
		w.has(a, lounge, 1, time.Hour)
		time.Sleep(time.Minute)
		a.stop()
		b.start()
		w.until(time.Hour, "the number", func() bool { return b.status(a.name()).Number != "" })
		if x, y := a.status(b.name()).Number, b.status(a.name()).Number; x != y || len(x) != 7 {
			t.Errorf("the numbers are %q and %q", x, y)
		}
		if c, ok := b.rooms.certs[a.name()]; !ok || c.Server != a.name() {
			t.Error("a's certificate did not come with its link")
		}
		if c, ok := a.rooms.certs[b.name()]; !ok || c.Server != b.name() {
			t.Error("b's certificate did not come with its answer")
		}
	})
}

func TestALinkServesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b, c := w.node(1, fast()), w.node(2, fast()), w.node(3, fast())
		for _, n := range []*node{a, b, c} {
			n.start()
		}
		defer w.stopAll()
		l := mustInvite(t, a)
		if _, err := b.engine.Accept(context.Background(), l); err != nil {
			t.Fatal(err)
		}
		w.until(time.Hour, "the contact", func() bool { return b.state(a.name()) == Active })
		if _, err := c.engine.Accept(context.Background(), l); err != nil {
			t.Fatal(err)
		}
		w.until(time.Hour, "c's failure", func() bool { return c.link().State == Failed })
		if r := c.link().Reason; !strings.Contains(r, "already used") {
			t.Errorf("c is told %q", r)
		}
		if st := c.state(a.name()); st != Failed {
			t.Errorf("a is %v for c", st)
		}
		w.until(time.Hour, "a's side", func() bool { return a.state(b.name()) == Active })
		if len(a.engine.contacts) != 1 {
			t.Errorf("a has %d contacts", len(a.engine.contacts))
		}
		for who, err := range map[*node]error{a: ErrOwnLink, b: ErrFollowed, c: ErrFollowed} {
			if _, got := who.engine.Accept(context.Background(), l); !errors.Is(got, err) {
				t.Errorf("accepting again: %v, want %v", got, err)
			}
		}
	})
}

func TestTwoWhoAcceptALinkAtOnceDoNotBothSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b, c := w.node(1, fast()), w.node(2, fast()), w.node(3, fast())
		for _, n := range []*node{a, b, c} {
			n.start()
		}
		defer w.stopAll()
		l := mustInvite(t, a)
		for _, n := range []*node{b, c} {
			if _, err := n.engine.Accept(context.Background(), l); err != nil {
				t.Fatal(err)
			}
		}
		w.until(time.Hour, "one success and one failure", func() bool {
			x, y := b.state(a.name()), c.state(a.name())
			return x == Active && y == Failed || x == Failed && y == Active
		})
	})
}

func TestLinksThatComeToNothingSayWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b := w.node(1, fast()), w.node(2, fast())
		a.start()
		b.start()
		defer w.stopAll()
		ctx := context.Background()
		l := mustInvite(t, a)
		if _, err := a.engine.Accept(ctx, l); !errors.Is(err, ErrOwnLink) {
			t.Errorf("own link: %v", err)
		}
		wrong := l
		wrong.Voucher[3] ^= 1
		if _, err := b.engine.Accept(ctx, wrong); err != nil {
			t.Fatal(err)
		}
		w.until(time.Hour, "a look", func() bool { return strings.Contains(b.link().Reason, "Nothing lies under this link") })
		old := l
		old.Expiry = time.Now().Add(-time.Second)
		if _, err := b.engine.Accept(ctx, old); !errors.Is(err, ErrExpired) {
			t.Errorf("expired link: %v", err)
		}
		later := l
		later.Expiry = later.Expiry.Add(time.Hour) // somebody prolonged it
		if err := b.engine.Forget(b.link().ID); err != nil {
			t.Fatal(err)
		}
		if _, err := b.engine.Accept(ctx, later); err != nil {
			t.Fatal(err)
		}
		w.until(time.Hour, "a refusal", func() bool { return b.link().State == Failed })
		if err := b.engine.Forget(b.link().ID); err != nil {
			t.Fatal(err)
		}
		if st := b.link(); st.ID != "" {
			t.Errorf("a forgotten link is still there: %+v", st)
		}
		// Nobody takes it.
		for _, n := range []*node{a, b} {
			if err := n.engine.SetProfile(CustomProfile(time.Hour, 0)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(8 * 24 * time.Hour)
		if st := a.link(); st.State != Failed || !strings.Contains(st.Reason, "expired") {
			t.Errorf("a's link after its life: %+v", st)
		}
		time.Sleep(15 * 24 * time.Hour)
		if st := a.link(); st.ID != "" {
			t.Errorf("a link is there long after its life: %+v", st)
		}
	})
}

func TestAnInviteWaitsForADeadStoreAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.node(1, fast())
		w.store(0).down = errors.New("dead")
		a.start()
		defer w.stopAll()
		mustInvite(t, a)
		time.Sleep(time.Minute)
		if st := a.link(); st.Deposited || !strings.Contains(st.Reason, "cannot be reached") {
			t.Errorf("%+v", st)
		}
		if s := a.engine.Stores(); len(s) != 1 || s[0].Problem == "" || !s[0].LastSuccess.IsZero() {
			t.Errorf("%+v", s)
		}
		w.store(0).mu.Lock()
		w.store(0).down = nil
		w.store(0).mu.Unlock()
		w.until(10*time.Minute, "the deposit", func() bool { return a.link().Deposited })
		if s := a.engine.Stores(); s[0].Problem != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestALinkToAnOldContactBeginsTheStreamAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 3, 10*time.Minute)
		// b lost its state (an old backup, say) and forgets a; what a says meanwhile waits.
		if err := b.engine.Forget(string(a.name())); err != nil {
			t.Fatal(err)
		}
		if got := b.state(a.name()); got != "" {
			t.Fatalf("a is %v for b after being forgotten", got)
		}
		a.rooms.send(t, lounge, "while forgotten")
		time.Sleep(time.Minute)
		before := b.status(a.name()).Number
		w.contact(b, a)
		w.has(b, lounge, 4, time.Hour)
		talk(t, w, a, b, 2, time.Hour)
		talk(t, w, b, a, 2, time.Hour)
		quiet(w, a, b, time.Hour)
		if x, y := a.status(b.name()).Number, b.status(a.name()).Number; x != y || x == before {
			t.Errorf("numbers %q, %q, before %q", x, y, before)
		}
		if err := b.engine.Forget("nobody"); !errors.Is(err, ErrNoContact) {
			t.Errorf("forgetting nobody: %v", err)
		}
	})
}

func TestAMovedMailboxIsToldToContacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.node(2, fast()), w.node(4, fast())
		a.start()
		b.start()
		defer w.stopAll()
		w.friends(a, b)
		b.stop()
		b.own = []mailbox.Address{w.store(1).address, w.store(0).address}
		b.start()
		w.until(time.Hour, "a knows", func() bool {
			a.engine.mu.Lock()
			defer a.engine.mu.Unlock()
			return len(a.engine.contacts[b.name()].stores) == 2
		})
		w.store(0).mu.Lock()
		w.store(0).down = errors.New("dead for good")
		w.store(0).mu.Unlock()
		a.rooms.send(t, lounge, "by the other store")
		w.has(b, lounge, 1, time.Hour)
	})
}
