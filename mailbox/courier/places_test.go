// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
)

// A flood of hellos takes no place from sessions that were there before and send frames, however slowly, nor from those with a
// token; and who has a token comes in.
func TestAFloodOfHellosLeavesSessionsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, reserved = 40, 10
		w := newWorld(t, func(c *courier.Config) { c.MaxSessions, c.Reserved = most, reserved })
		m := mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithTokens(), mailboxtest.WithSessionTokens(100),
			mailboxtest.WithCourier(w.mesh, func(c *courier.Config) { c.MaxSessions, c.Reserved = most, reserved }))
		w.courier = m
		c := m.Client()
		_, err := c.Descriptor(t.Context())
		must(t, err)
		var toks []token.Token
		for range 2 {
			toks = append(toks, mailboxtest.Draw(t, c, mailboxtest.Account(t, c), mailbox.Epoch(time.Now())|mailbox.SessionEpoch, [32]byte{byte(len(toks))}, 8)...)
		}
		open := func(tok *token.Token) (*mailbox.Session, error) {
			s := mailbox.NewSession(m.Address(), w.mesh, mailbox.SessionParams{Token: func() *[mailbox.TokenSize]byte { return (*[mailbox.TokenSize]byte)(tok) }})
			t.Cleanup(func() { s.Close() })
			return s, s.Connect(t.Context())
		}
		send := func(s *mailbox.Session) {
			put, err := s.Idle(0)
			must(t, err)
			get, err := s.Ask(w.store.Address(), 0)
			must(t, err)
			must(t, s.Send(t.Context(), &mailbox.Frame{Put: put, Get: get, Lag: time.Second}))
		}
		// One that sends each two minutes, and one that sends each seven: longer than others may be idle.
		quick, err := open(nil)
		must(t, err)
		slow, err := open(nil)
		must(t, err)
		for i := range 30 {
			if send(quick); i%4 == 0 {
				send(slow)
			}
			time.Sleep(2 * time.Minute)
		}
		paid, err := open(&toks[0]) // and sends nearly nothing
		must(t, err)
		came, busy := 0, 0
		for i := range 200 * 6 { // twenty minutes of a hello a second
			if _, err := open(nil); err == nil {
				came++
			} else if errors.Is(err, mailbox.ErrBusy) {
				busy++
			} else {
				t.Fatal(err)
			}
			if i%120 == 0 {
				send(quick)
			}
			if i%420 == 0 {
				send(slow)
			}
			if i == 590 { // just below what a node itself bears without an answer
				send(paid)
			}
			time.Sleep(time.Second)
		}
		if !quick.Connected() || !slow.Connected() || !paid.Connected() {
			t.Errorf("after %d sessions and %d refusals: quick %v, slow %v, with a token %v", came, busy, quick.Connected(), slow.Connected(), paid.Connected())
		}
		if came < most-reserved-2 || busy == 0 {
			t.Errorf("the flood was none: %d sessions, %d refusals", came, busy)
		}
		for i := range reserved - 1 {
			if _, err := open(&toks[1+i]); err != nil {
				t.Errorf("with a token: %v", err)
			}
		}
		if _, err := open(&toks[1]); !errors.Is(err, mailbox.ErrBusy) {
			t.Errorf("with a token that was spent: %v", err)
		}
	})
}

// unreachable is a network that fails for a while.
type unreachable struct {
	mailbox.Dialer
	down bool
}

func (u *unreachable) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	if u.down {
		return nil, errors.New("no way there")
	}
	return u.Dialer.Dial(ctx, addr, isolation)
}

// A session token is not used up by a courier that is not reached.
func TestNoTokenIsTakenForACourierThatIsNotReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		way, taken := &unreachable{Dialer: w.mesh}, 0
		s := mailbox.NewSession(w.courier.Address(), way, mailbox.SessionParams{Token: func() *[mailbox.TokenSize]byte { taken++; return nil }})
		defer s.Close()
		_, err := s.Courier().Descriptor(t.Context())
		must(t, err)
		way.down = true
		if err := s.Connect(t.Context()); err == nil || taken != 0 {
			t.Errorf("%v; %d tokens were taken", err, taken)
		}
		way.down = false
		if err := s.Connect(t.Context()); err != nil || taken != 1 {
			t.Errorf("%v; %d tokens were taken", err, taken)
		}
	})
}
