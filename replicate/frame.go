// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"tarn/mailbox"
)

// maxHops is how many couriers a half may pass; every tick draws for as many.
const maxHops = 3

// maxDelay is the longest that a courier holds a half (SPEC §4).
const maxDelay = 10 * time.Minute

// frameDraw is what one frame takes from the generator. What of it counts depends on the node's state; what is drawn
// does not.
type frameDraw struct {
	courier  uint64           // which of the node's couriers, modulo their number
	set      uint64           // PUT: which set of stores
	member   uint64           // PUT: which store of it, for what has no place of its own
	cover    float64          // PUT: if there is nothing to write, write a random box
	loop     float64          // PUT: and read it back
	putDelay [maxHops]float64 // exponential, mean 1
	putBack  [maxHops]float64 // of the answer, uniform in [0, 1)
	read     uint64           // GET: our own stores, or one where a link's payload is looked for
	own      uint64           // GET: which of our own, for what has no place of its own
	digest   float64          // GET: read on in a digest
	getDelay [maxHops]float64 // uniform in [0, 1)
	getBack  [maxHops]float64
}

func (s schedule) frame() (d frameDraw) {
	d.courier, d.set, d.member = s.rng.Uint64(), s.rng.Uint64(), s.rng.Uint64()
	d.cover, d.loop = s.rng.Float64(), s.rng.Float64()
	for i := range d.putDelay {
		d.putDelay[i] = s.rng.ExpFloat64()
	}
	d.read, d.own, d.digest = s.rng.Uint64(), s.rng.Uint64(), s.rng.Float64()
	for _, u := range []*[maxHops]float64{&d.getDelay, &d.putBack, &d.getBack} {
		for i := range u {
			u[i] = s.rng.Float64()
		}
	}
	return d
}

// getCut is where the delay of a GET, or of an answer, ends, in means: the answer shall make the frame's own lag. A PUT's
// has no such end. Through several couriers it is later, for their delays hardly ever all come near to it.
func getCut(hops int) float64 {
	if hops > 1 {
		return 1.5
	}
	return 1
}

// cut is an exponential delay that ends there.
func (p *Profile) cut(u float64) time.Duration {
	return time.Duration(-math.Log1p(-u*(1-math.Exp(-getCut(p.Hops)))) * float64(p.Mix))
}

// putWay is what the PUT half asks of its couriers, getWay what the GET half does.
func (s *frameSlot) putWay(p *Profile) way {
	return s.way(func(i int) (delay, back time.Duration) {
		return min(time.Duration(s.putDelay[i]*float64(p.Mix)), maxDelay), p.cut(s.putBack[i])
	})
}

func (s *frameSlot) getWay(p *Profile) way {
	return s.way(func(i int) (delay, back time.Duration) { return p.cut(s.getDelay[i]), p.cut(s.getBack[i]) })
}

// way asks the session's courier for the first delay; it answers when the frame's lag is over.
func (s *frameSlot) way(draw func(i int) (delay, back time.Duration)) way {
	w := way{couriers: s.route, layered: len(s.route) > 0}
	w.first, _ = draw(0)
	for i, h := range s.route {
		delay, back := draw(i + 1)
		w.route = append(w.route, Hop{Courier: h.sealer, Delay: delay, Back: back})
	}
	return w
}

// frameSlot is one frame's place in time.
type frameSlot struct {
	frameDraw
	at      time.Time
	guard   *guard
	session Courier
	sets    []storeSet // where PUTs go, each without what this courier should not reach; none is empty
	own     []*depot   // where GETs go, in the same way
	seek    []*depot
	follow  []*depot // whose pages are to be pushed
	others  bool     // another courier's session is up too
	route   []*hop   // further couriers; none: the session has no layers
	missing int      // the first of them whose keys are not known; -1: none
}

// frameTrace is what a test hears of a frame when it leaves: nothing that a courier does not see.
type frameTrace struct {
	at       time.Time
	courier  mailbox.Address
	put, get mailbox.Address
}

// errCourier: the frame did not leave, or its session broke before the answer: no fault of the store's.
var errCourier = errors.New("replicate: the session with the courier broke")

// errUnanswered: no answer came in time.
var errUnanswered = errors.New("replicate: no answer came through the courier in time")

// spawnFrame starts one frame with the drawn courier, or with another one if that one's session is down; or none.
func (e *Engine) spawnFrame(ctx context.Context, p *Profile, tick time.Time, d frameDraw) {
	s, ok := e.placeFrame(d)
	if !ok {
		return
	}
	if e.active.Load() >= int64(p.InFlight) {
		e.counts.dropped.Add(1)
		return
	}
	s.at = tick.Add(p.lead())
	e.active.Add(1)
	e.slots.Go(func() {
		defer e.active.Add(-1)
		e.runFrame(ctx, p, s)
	})
}

// placeFrame says by which courier a frame goes and what it may reach; false: no session is up, or there is no store.
func (e *Engine) placeFrame(d frameDraw) (frameSlot, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, session := e.connected(d.courier)
	r := e.routes.Load()
	if g == nil || len(r.own) == 0 {
		return frameSlot{}, false
	}
	s := frameSlot{frameDraw: d, guard: g, session: session, own: e.through(g, r.own), seek: r.seek, follow: r.own, others: e.couriersInUse() > 1, missing: -1}
	if now := time.Now(); g.params.Hops > 1 {
		s.route = e.routeOf(g, now)
		s.missing = slices.IndexFunc(s.route, func(h *hop) bool { return !h.known(now) })
		if len(s.route) == 0 {
			return frameSlot{}, false // the session will be made anew
		}
	}
	for _, set := range r.sets {
		set.stores = e.through(g, set.stores)
		s.sets = append(s.sets, set)
	}
	return s, true
}

// runFrame chooses both halves, seals them, and writes the frame at its time. A half that is not sealed by then is not
// sent late: an idle one takes its place, which needs no lock, no disk and no choice.
func (e *Engine) runFrame(ctx context.Context, p *Profile, s frameSlot) {
	if s.missing >= 0 {
		e.learnHop(ctx, p, &s, s.putWay(p), s.getWay(p))
		return
	}
	put := newHalf(&s, true, s.putWay(p))
	get := newHalf(&s, false, s.getWay(p))
	wait := p.answerWait(1)
	if s.others {
		wait = p.answerWait(guards)
	}
	e.slots.Go(func() {
		jp, jg := e.prepareFrame(&s, put, get)
		hctx, cancel := context.WithTimeout(ctx, time.Until(s.at)+wait)
		defer cancel()
		var both sync.WaitGroup // the answer to one half may come long before the other's
		both.Go(func() { e.runHalf(hctx, ctx, jg, get) })
		e.runHalf(hctx, ctx, jp, put)
		both.Wait()
	})
	ok := waitUntil(ctx, s.at)
	if ok && time.Since(s.at) > p.Frame+time.Second { // the machine slept
		ok = false
	}
	if !ok {
		put.leave(errNotSent)
		get.leave(errNotSent)
		return
	}
	f := &Frame{Put: put.take(), Get: get.take(), Lag: p.Lag, Follow: s.followed()}
	tr := frameTrace{at: s.at, courier: s.guard.address}
	if f.Put != nil {
		tr.put = put.target
	} else {
		f.Put, tr.put = s.idlePut(put.way)
	}
	if f.Get != nil {
		tr.get = get.target
	} else {
		f.Get, tr.get = s.idleGet(get.way)
	}
	if f.Put == nil || f.Get == nil { // the session broke just now
		put.leave(errCourier)
		get.leave(errCourier)
		return
	}
	if !put.sent || !get.sent {
		e.counts.late.Add(1)
	}
	if e.traceFrame != nil {
		e.traceFrame(tr)
	}
	sctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	err := s.session.Send(sctx, f)
	if err != nil {
		e.log.Debug("a frame did not leave", "err", err)
		err = errCourier
		if ctx.Err() != nil {
			err = errNotSent
		}
	}
	put.leave(err)
	get.leave(err)
}

// followed are the stores whose pages the courier is to push.
func (s *frameSlot) followed() (out []mailbox.Address) {
	for _, d := range s.follow[:min(len(s.follow), maxStores)] {
		out = append(out, d.address)
	}
	return out
}

// idlePut is a no-op for a store of the drawn set, idleGet a read of nothing at one of our own.
func (s *frameSlot) idlePut(w way) (Half, mailbox.Address) {
	set := s.sets[s.set%uint64(len(s.sets))].stores
	for i := range set {
		d := set[(s.member+uint64(i))%uint64(len(set))]
		if h, err := w.over(d.seal(true, mailbox.Request{Op: mailbox.OpNothing}, w.first)); err == nil {
			return h, w.seen(d.address)
		}
	}
	h, err := s.session.Idle(w.first)
	if err != nil {
		return nil, mailbox.Address{}
	}
	return h, s.guard.address
}

func (s *frameSlot) idleGet(w way) (Half, mailbox.Address) {
	for i := range s.own {
		d := s.own[(s.frameDraw.own+uint64(i))%uint64(len(s.own))]
		r := mailbox.Request{Op: mailbox.OpGet}
		rand.Read(r.Get[:])
		if h, err := w.over(d.seal(false, r, w.first)); err == nil {
			return h, w.seen(d.address)
		}
	}
	h, err := w.ask(s.session, len(w.route), s.own[0].address)
	if err != nil {
		return nil, mailbox.Address{}
	}
	return h, s.guard.address
}

// runHalf makes a half's one request and records how it ended.
func (e *Engine) runHalf(ctx, run context.Context, j job, h *half) {
	err := j.do(ctx, h)
	switch {
	case err == nil:
	case run.Err() != nil:
		err = errNotSent // we stop: nobody's fault
	case ctx.Err() != nil && !errors.Is(err, errNotSent):
		err = errUnanswered
	}
	err = e.tallyHops(h.way, err)
	e.tally(h, j.store, err)
	j.finish(e, err)
}

// answerWait is how long a half's answer is waited for: it may come in the frame's own frame down, or in that of one of
// the next frames of the same session, which is one in couriers.
func (p *Profile) answerWait(couriers int) time.Duration {
	return time.Duration(3*max(1, couriers))*p.Frame + p.Lag + 2*oneWay
}
