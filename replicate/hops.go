// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"tarn/mailbox"
)

// Halves may go through further couriers after the session's (Profile.Hops): so that the one who knows the node's
// session does not know the stores, and the one who knows the stores does not know the session. The further ones of a
// courier are drawn with it and stay as long as it does: who changes its route with every half meets a bad one sooner.
// They are of different operators when there is a choice, and none a store's.

// Hop is a courier that a half goes through after the session's.
type Hop struct {
	Courier Sealer        // what is known of it
	Delay   time.Duration // how long it holds the half
	Back    time.Duration // how long it holds the answer
}

// Router is a Half that can go through further couriers.
type Router interface {
	// Via sends the half, before it is sent, through these. A route that is shorter than a session's layers ends at the
	// courier that the half is for.
	Via(route []Hop) error
}

// When a courier on the way is left for another one.
const (
	hopFails  = 20               // halves in a row that did not come through,
	hopFailed = 30 * time.Minute // and none that did for so long;
	hopRest   = 6 * time.Hour    // for so long
)

// hop is what is known of a courier on the way. Guarded by the engine's mutex but for address and sealer.
type hop struct {
	address    mailbox.Address
	sealer     Sealer // nil: what Dial made cannot
	family     string
	descriptor *descriptor
	lastOK     time.Time
	fails      int       // since
	rests      time.Time // not used before
}

func (h *hop) known(now time.Time) bool { return h.descriptor != nil && h.descriptor.covers(now) }

// resting tells whether it is to be left out if there are others.
func (h *hop) resting(now time.Time) bool { return now.Before(h.rests) }

// came notes that it brought something, failed that it did not.
func (h *hop) came(now time.Time) { h.lastOK, h.fails, h.rests = now, 0, time.Time{} }

func (h *hop) failed(now time.Time) {
	if h.fails == 0 && h.lastOK.IsZero() {
		h.lastOK = now // counts from the first use
	}
	if h.fails++; h.fails >= hopFails && now.Sub(h.lastOK) > hopFailed {
		h.rests, h.fails, h.lastOK = now.Add(hopRest), 0, now
	}
}

// hopOf is what is known of a courier. The caller holds mu.
func (e *Engine) hopOf(a mailbox.Address) *hop {
	h := e.hops[a]
	if h == nil {
		h = &hop{address: a, sealer: sealerOf(e.dial(a))}
		e.hops[a] = h
	}
	return h
}

// routeOf are the couriers after g, or nil if too few are known: the first ones in an order that only this node knows,
// and that is another one with each courier and each time it is chosen. The caller holds mu.
func (e *Engine) routeOf(g *guard, now time.Time) []*hop {
	m := hmac.New(sha256.New, e.self.Key.Seed())
	m.Write([]byte("tarn/1 route\x00" + g.address.Onion))
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(g.since.UnixMilli())))
	secret := m.Sum(nil)
	type place struct {
		*hop
		order []byte
	}
	var all []place
	for _, a := range e.knownCouriers() {
		if h := e.hopOf(a); a != g.address && h.sealer != nil {
			m := hmac.New(sha256.New, secret)
			m.Write([]byte(a.Onion))
			all = append(all, place{h, m.Sum(nil)})
		}
	}
	slices.SortFunc(all, func(a, b place) int { return bytes.Compare(a.order, b.order) })
	var route []*hop
	r := e.routes.Load()
	// First those without a fault, then those of an operator who has a store or a session of ours, then those that rest;
	// but never two of one operator.
	for pass := range 3 {
		for _, p := range all {
			same := func(family string) bool { return family != "" && family == p.family }
			switch {
			case len(route) == mailbox.MaxLayers:
				return route
			case slices.Contains(route, p.hop), same(g.family), slices.ContainsFunc(route, func(h *hop) bool { return same(h.family) }):
			case pass < 2 && p.resting(now):
			case pass < 1 && (slices.ContainsFunc(r.write, func(d *depot) bool { return d.address == p.address || same(d.operator()) }) ||
				slices.ContainsFunc(e.guards, func(o *guard) bool { return o.address == p.address || same(o.family) })):
			default:
				route = append(route, p.hop)
			}
		}
	}
	if len(route) < mailbox.MaxLayers {
		return nil
	}
	return route
}

// knownCouriers are all that may be one, in a fixed order. The caller holds mu.
func (e *Engine) knownCouriers() []mailbox.Address {
	known := slices.Clone(e.couriers)
	for a, d := range e.depots {
		if d.courier && !slices.Contains(known, a) {
			known = append(known, a)
		}
	}
	slices.SortFunc(known, func(a, b mailbox.Address) int { return cmp.Compare(a.Onion, b.Onion) })
	return known
}

// hopsOf is how many couriers the halves of g's session go through: what the profile wants, if so many are known.
// The caller holds mu.
func (e *Engine) hopsOf(p *Profile, g *guard, now time.Time) int {
	if p.Hops > 1 && e.routeOf(g, now) == nil {
		return 1
	}
	return p.Hops
}

// hopsNow is the fewest of any session. The caller holds mu.
func (e *Engine) hopsNow(p *Profile, now time.Time) int {
	n := p.Hops
	for _, g := range e.guards {
		n = min(n, e.hopsOf(p, g, now))
	}
	return n
}

// way is how a half travels: what its sender asks of each courier.
type way struct {
	first    time.Duration // the session's courier holds it
	route    []Hop         // the further ones
	couriers []*hop        // these
	layered  bool          // the session has halves with layers
}

// over sends a sealed half that way.
func (w way) over(h Half, err error) (Half, error) { return w.part(len(w.route), h, err) }

// part sends a half through the first n further couriers; it is for the last of them, or for what follows all.
func (w way) part(n int, h Half, err error) (Half, error) {
	if err != nil || !w.layered {
		return h, err
	}
	r, ok := h.(Router)
	if !ok {
		return nil, mailbox.ErrNoDescriptor
	}
	return h, r.Via(w.route[:n])
}

// seen is whom the session's courier sees a half for that mailbox go to.
func (w way) seen(a mailbox.Address) mailbox.Address {
	if w.layered {
		return w.couriers[0].address
	}
	return a
}

// ask makes a half that asks for the descriptor of a mailbox: the courier before it, who is to know of it anyway.
func (w way) ask(session Courier, n int, about mailbox.Address) (Half, error) {
	if n == 0 {
		return session.Ask(about, w.first)
	}
	onion, err := about.Onion.Key()
	if err != nil {
		return nil, err
	}
	h, err := w.route[n-1].Courier.SealGet(mailbox.Request{Op: mailbox.OpDescriptor, Onion: [32]byte(onion)}, w.first)
	return w.part(n, h, err)
}

// learnHop spends a frame on learning the keys of a courier on the way; nothing can be sent through it before.
func (e *Engine) learnHop(ctx context.Context, p *Profile, s *frameSlot, put, get way) {
	h := s.route[s.missing]
	idle, err := s.session.Idle(put.first)
	if err != nil {
		return
	}
	ask, err := get.ask(s.session, s.missing, h.address)
	if err != nil || !waitUntil(ctx, s.at) {
		return
	}
	if e.traceFrame != nil {
		t := frameTrace{at: s.at, courier: s.guard.address, put: s.guard.address, get: s.guard.address}
		if s.missing > 0 {
			t.get = s.route[0].address
		}
		e.traceFrame(t)
	}
	sctx, cancel := context.WithTimeout(ctx, p.Timeout)
	err = s.session.Send(sctx, &Frame{Put: idle, Get: ask, Lag: p.Lag, Follow: s.followed()})
	cancel()
	if err != nil {
		return
	}
	wctx, cancel := context.WithTimeout(ctx, p.answerWait(guards))
	defer cancel()
	_, body, err := ask.Wait(wctx)
	if ctx.Err() != nil || errors.Is(err, errCourier) {
		return
	}
	var d mailbox.Descriptor
	if err == nil {
		d, err = h.sealer.SetDescriptor(body)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	courier, family := rolesOf(d)
	if err != nil || !courier {
		e.log.Debug("a courier on the way is not known", "err", err)
		h.failed(now)
		if err == nil {
			h.rests = now.Add(hopRest) // it is none any more
		}
		return
	}
	n := &descriptor{}
	for _, k := range d.Keys {
		n.epochs = append(n.epochs, k.Epoch)
	}
	if !n.covers(now) {
		n.epochs = append(n.epochs, mailbox.Epoch(now)) // as with a store's: SetDescriptor knows its tolerance
	}
	h.descriptor, h.family = n, family
}

// tallyHops notes how a half's way was, and says whose fault an error is: what a courier on the way could not do is not
// the store's.
func (e *Engine) tallyHops(w way, err error) error {
	if !w.layered || errors.Is(err, errNotSent) {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	var at *mailbox.HopError
	switch {
	case errors.As(err, &at) && at.Hop < len(w.couriers):
		h := w.couriers[at.Hop]
		h.failed(now)
		if errors.Is(err, mailbox.ErrNoDescriptor) || errors.Is(err, mailbox.ErrRefused) {
			h.descriptor = nil // it has other keys, or another program
		}
		return errors.Join(errCourier, at.Err)
	case errors.Is(err, errCourier):
	case errors.Is(err, errUnanswered):
		for _, h := range w.couriers {
			h.failed(now)
		}
	default:
		for _, h := range w.couriers {
			h.came(now)
		}
	}
	return err
}
