// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"slices"
	"time"

	"tarn/internal/leakage"
	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/replicate"
)

// sentHalf is a half that remembers what it asks for.
type sentHalf struct {
	replicate.Half
	request mailbox.Request
	put     bool
	store   int // a courier: -1
	delay   time.Duration
	route   []int         // the couriers after the session's
	later   time.Duration // how long these hold it
	w       *world
}

// Via is replicate.Router's.
func (h *sentHalf) Via(route []replicate.Hop) error {
	inner := slices.Clone(route)
	for i, x := range route {
		c := x.Courier.(*client)
		inner[i].Courier = replicate.NewSealer(c.Client)
		h.route = append(h.route, h.w.courierIndex[c.Client.Address()])
		h.later += x.Delay
	}
	return h.Half.(replicate.Router).Via(inner)
}

// target is whom the session's courier sees it go to: a store, itself (-1), or another courier, of which numbers begin at
// farCouriers.
func (h *sentHalf) target() int {
	if len(h.route) > 0 {
		return farCouriers + h.route[0]
	}
	return h.store
}

const farCouriers = 1000

func sent(h replicate.Half, err error, s sentHalf) (replicate.Half, error) {
	s.Half = h
	return &s, err
}

// SealPut makes client a replicate.Sealer, with the methods that it has of *mailbox.Client.
func (c *client) SealPut(r mailbox.Request, delay time.Duration) (replicate.Half, error) {
	h, err := replicate.NewSealer(c.Client).SealPut(r, delay)
	return sent(h, err, sentHalf{request: r, put: true, store: c.store, delay: delay, w: c.player.w})
}

func (c *client) SealGet(r mailbox.Request, delay time.Duration) (replicate.Half, error) {
	h, err := replicate.NewSealer(c.Client).SealGet(r, delay)
	return sent(h, err, sentHalf{request: r, store: c.store, delay: delay, w: c.player.w})
}

// session is a node's session with a courier. It tells the recorder what the courier sees of a frame, and what is in it.
type session struct {
	replicate.Courier
	player  *player
	courier int
}

func (p *player) session(a mailbox.Address, params replicate.SessionParams) replicate.Courier {
	return &session{replicate.NewSession(a, p.host, params), p, p.w.courierIndex[a]}
}

func (s *session) Send(ctx context.Context, f *replicate.Frame) error {
	put, get := f.Put.(*sentHalf), f.Get.(*sentHalf)
	s.note(put, get)
	return s.Courier.Send(ctx, &replicate.Frame{Put: put.Half, Get: get.Half, Lag: f.Lag, Follow: f.Follow})
}

func (s *session) note(put, get *sentHalf) {
	p, now := s.player, time.Now()
	p.w.rec.frame(leakage.Frame{At: p.w.rec.since(now), Node: p.n, Courier: s.courier, Put: put.target(), Get: get.target(), PutDelay: put.delay, GetDelay: get.delay})
	for _, h := range []*sentHalf{put, get} {
		if h.store < 0 {
			continue
		}
		arrives := now.Add(h.delay + h.later + time.Duration(2+len(h.route))*(torDelay.Delay+torDelay.Jitter/2)) // about
		k, box := leakage.Nothing, uint64(0)
		switch h.request.Op {
		case mailbox.OpPut:
			p.put(h.request.ID)
			k, box = leakage.Put, boxName(h.request.ID.Handle())
		case mailbox.OpGet:
			k, box = leakage.Get, boxName(h.request.Get)
		case mailbox.OpDigest:
			k = leakage.Digest
		case mailbox.OpDescriptor:
			k = leakage.Describe
		}
		from := s.courier // who brings it to the store
		if n := len(h.route); n > 0 {
			from = h.route[n-1]
		}
		p.w.rec.ask(p.n, from, h.store, k, box, arrives)
	}
}

func (s *session) Ask(store mailbox.Address, delay time.Duration) (replicate.Half, error) {
	h, err := s.Courier.Ask(store, delay)
	return sent(h, err, sentHalf{request: mailbox.Request{Op: mailbox.OpDescriptor}, store: -1, delay: delay, w: s.player.w})
}

func (s *session) Idle(delay time.Duration) (replicate.Half, error) {
	h, err := s.Courier.Idle(delay)
	return sent(h, err, sentHalf{request: mailbox.Request{Op: mailbox.OpNothing}, put: true, store: -1, delay: delay, w: s.player.w})
}

func (r *recorder) frame(f leakage.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.Frames = append(r.log.Frames, f)
	if cs := &r.log.Couriers[f.Node]; !slices.Contains(*cs, f.Courier) {
		*cs = append(*cs, f.Courier)
	}
}

// addCourier makes a mailbox that is a courier alone, of an operator of its own.
func (w *world) addCourier(i int) {
	host := w.net.Host(courierHost(i))
	m := mailboxtest.New(w.t, mailboxtest.WithoutStore(), mailboxtest.WithFamily(fmt.Sprint("carrier ", i)),
		mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Onion = ed25519.NewKeyFromSeed(digest("courier", i)) }),
		mailboxtest.WithFront(func(c *front.Config) { c.MaxConns = 1 << 12 }),
		mailboxtest.WithCourier(host, func(*courier.Config) {}),
		mailboxtest.WithNetwork(func(key ed25519.PrivateKey, port int) (net.Listener, error) {
			return host.Listen(w.t.Context(), key, port)
		}, host))
	w.courierIndex[m.Address()] = i
	w.couriers = append(w.couriers, m.Address())
}

func courierHost(i int) string { return fmt.Sprint("courier", i) }
