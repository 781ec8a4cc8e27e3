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
	*mailbox.Half
	request mailbox.Request
	put     bool
	store   int // the courier itself: -1
	delay   time.Duration
}

func (c *client) SealPut(r mailbox.Request, delay time.Duration) (replicate.Half, error) {
	h, err := c.Client.SealPut(r, delay)
	return &sentHalf{h, r, true, c.store, delay}, err
}

func (c *client) SealGet(r mailbox.Request, delay time.Duration) (replicate.Half, error) {
	h, err := c.Client.SealGet(r, delay)
	return &sentHalf{h, r, false, c.store, delay}, err
}

// session is a node's side of its session with a courier, which tells the recorder what the courier sees of a frame,
// and what is in it.
type session struct {
	*mailbox.Session
	player  *player
	courier int
}

func (p *player) session(a mailbox.Address, params replicate.SessionParams) replicate.Courier {
	s := mailbox.NewSession(a, p.host, mailbox.SessionParams{Push: params.Push, OnPage: params.OnPage})
	return &session{s, p, p.w.courierIndex[a]}
}

func (s *session) Send(ctx context.Context, f *replicate.Frame) error {
	put, get := f.Put.(*sentHalf), f.Get.(*sentHalf)
	s.note(put, get)
	return s.Session.Send(ctx, &mailbox.Frame{Put: put.Half, Get: get.Half, Lag: f.Lag, Follow: f.Follow})
}

func (s *session) note(put, get *sentHalf) {
	p, now := s.player, time.Now()
	p.w.rec.frame(leakage.Frame{At: p.w.rec.since(now), Node: p.n, Courier: s.courier, Put: put.store, Get: get.store, PutDelay: put.delay, GetDelay: get.delay})
	for _, h := range []*sentHalf{put, get} {
		if h.store < 0 {
			continue
		}
		arrives := now.Add(h.delay + 2*(torDelay.Delay+torDelay.Jitter/2)) // about
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
		p.w.rec.ask(p.n, s.courier, h.store, k, box, arrives)
	}
}

func (s *session) Ask(store mailbox.Address, delay time.Duration) (replicate.Half, error) {
	h, err := s.Session.Ask(store, delay)
	return &sentHalf{h, mailbox.Request{Op: mailbox.OpDescriptor}, false, -1, delay}, err
}

func (s *session) Idle(delay time.Duration) (replicate.Half, error) {
	h, err := s.Session.Idle(delay)
	return &sentHalf{h, mailbox.Request{Op: mailbox.OpNothing}, true, -1, delay}, err
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
