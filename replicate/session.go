// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/mailbox"
)

// NewSession is a session of package mailbox as the engine uses it. It dials in Connect alone.
func NewSession(courier mailbox.Address, d mailbox.Dialer, p SessionParams) Courier {
	return wireSession{mailbox.NewSession(courier, d, mailbox.SessionParams{Push: p.Push, Frame: p.Frame, Layers: p.Hops > 1, OnPage: p.OnPage, Token: p.Token})}
}

type wireSession struct{ *mailbox.Session }

var _ Courier = wireSession{}

// Send is a Courier's.
func (s wireSession) Send(ctx context.Context, f *Frame) error {
	put, ok := f.Put.(wireHalf)
	get, too := f.Get.(wireHalf)
	if !ok || !too {
		return fmt.Errorf("%w: halves of another kind of session", mailbox.ErrFrame)
	}
	return s.Session.Send(ctx, &mailbox.Frame{Put: put.Half, Get: get.Half, Lag: f.Lag, Follow: f.Follow})
}

// Ask is a Courier's.
func (s wireSession) Ask(store mailbox.Address, delay time.Duration) (Half, error) {
	return wired(s.Session.Ask(store, delay))
}

// Idle is a Courier's.
func (s wireSession) Idle(delay time.Duration) (Half, error) { return wired(s.Session.Idle(delay)) }

// wireHalf is a half of package mailbox, whose failures are the session's or the store's.
type wireHalf struct{ *mailbox.Half }

// Via is a Router's.
func (h wireHalf) Via(route []Hop) error {
	hops := make([]mailbox.Hop, len(route))
	for i, x := range route {
		c, ok := x.Courier.(wireSealer)
		if !ok {
			return fmt.Errorf("%w: a courier of another kind of session", mailbox.ErrFrame)
		}
		hops[i] = mailbox.Hop{Courier: c.Client, Delay: x.Delay, Back: x.Back}
	}
	return h.Half.Via(mailbox.MaxLayers, hops...)
}

var _ Router = wireHalf{}

func wired(h *mailbox.Half, err error) (Half, error) {
	if err != nil {
		return nil, err
	}
	return wireHalf{h}, nil
}

// Wait is a Half's.
func (h wireHalf) Wait(ctx context.Context) (mailbox.Status, []byte, error) {
	status, body, err := h.Half.Wait(ctx)
	switch {
	case errors.Is(err, mailbox.ErrSession):
		err = fmt.Errorf("%w: %w", errCourier, err)
	case errors.Is(err, mailbox.ErrLost), errors.Is(err, mailbox.ErrUnreachable):
		err = fmt.Errorf("%w: %w", errUnanswered, err)
	}
	return status, body, err
}

// NewSealer makes halves with a client of package mailbox. The engine does so itself with what Dial made; this is for who
// stands between the two and watches.
func NewSealer(c *mailbox.Client) Sealer { return wireSealer{c} }

// wireSealer makes a client's halves.
type wireSealer struct{ *mailbox.Client }

var _ Sealer = wireSealer{}

// SealPut is a Sealer's.
func (s wireSealer) SealPut(r mailbox.Request, delay time.Duration) (Half, error) {
	return wired(s.Client.SealPut(r, delay))
}

// SealGet is a Sealer's.
func (s wireSealer) SealGet(r mailbox.Request, delay time.Duration) (Half, error) {
	return wired(s.Client.SealGet(r, delay))
}

// sealerOf is how halves for a store are made; nil if what Dial made can not.
func sealerOf(m Mailbox) Sealer {
	switch c := m.(type) {
	case *mailbox.Client:
		return wireSealer{c}
	case Sealer:
		return c
	}
	return nil
}

// rolesOf is what a descriptor says of the mailbox's other role, and of its operator.
func rolesOf(d mailbox.Descriptor) (courier bool, family string) {
	return d.Roles.Has(mailbox.RoleCourier), d.Family
}
