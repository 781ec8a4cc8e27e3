// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
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
	read     uint64           // GET: our own stores, or one where a link's payload is looked for
	own      uint64           // GET: which of our own, for what has no place of its own
	digest   float64          // GET: read on in a digest
	getDelay [maxHops]float64 // uniform in [0, 1)
}

func (s schedule) frame() (d frameDraw) {
	d.courier, d.set, d.member = s.rng.Uint64(), s.rng.Uint64(), s.rng.Uint64()
	d.cover, d.loop = s.rng.Float64(), s.rng.Float64()
	for i := range d.putDelay {
		d.putDelay[i] = s.rng.ExpFloat64()
	}
	d.read, d.own, d.digest = s.rng.Uint64(), s.rng.Uint64(), s.rng.Float64()
	for i := range d.getDelay {
		d.getDelay[i] = s.rng.Float64()
	}
	return d
}

// putDelays are what the PUT half asks of its couriers.
func (d *frameDraw) putDelays(p *Profile) time.Duration {
	var sum time.Duration
	for _, x := range d.putDelay[:p.Hops] {
		sum += min(time.Duration(x*float64(p.Mix)), maxDelay)
	}
	return min(sum, maxDelay)
}

// getCut is where a GET's delay ends, in means: its answer shall make the frame's own lag. A PUT's has no such end.
const getCut = 1.75

// getDelays are what the GET half asks: exponential too, but cut.
func (d *frameDraw) getDelays(p *Profile) time.Duration {
	var sum time.Duration
	for _, u := range d.getDelay[:p.Hops] {
		sum += time.Duration(-math.Log1p(-u*(1-math.Exp(-getCut))) * float64(p.Mix))
	}
	return min(sum, maxDelay)
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
	s := frameSlot{frameDraw: d, guard: g, session: session, own: e.through(g, r.own), seek: r.seek, follow: r.own, others: e.couriersInUse() > 1}
	for _, set := range r.sets {
		set.stores = e.through(g, set.stores)
		s.sets = append(s.sets, set)
	}
	return s, true
}

// runFrame chooses both halves, seals them, and writes the frame at its time. A half that is not sealed by then is not
// sent late: an idle one takes its place, which needs no lock, no disk and no choice.
func (e *Engine) runFrame(ctx context.Context, p *Profile, s frameSlot) {
	put := newHalf(&s, true, s.putDelays(p))
	get := newHalf(&s, false, s.getDelays(p))
	wait := p.answerWait(1)
	if s.others {
		wait = p.answerWait(guards)
	}
	e.slots.Go(func() {
		jp, jg := e.prepareFrame(&s, put, get)
		hctx, cancel := context.WithTimeout(ctx, time.Until(s.at)+wait)
		defer cancel()
		e.slots.Go(func() { e.runHalf(hctx, ctx, jg, get) })
		e.runHalf(hctx, ctx, jp, put)
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
		f.Put, tr.put = s.idlePut()
	}
	if f.Get != nil {
		tr.get = get.target
	} else {
		f.Get, tr.get = s.idleGet()
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
func (s *frameSlot) idlePut() (Half, mailbox.Address) {
	set := s.sets[s.set%uint64(len(s.sets))].stores
	for i := range set {
		d := set[(s.member+uint64(i))%uint64(len(set))]
		if h, err := d.seal(true, mailbox.Request{Op: mailbox.OpNothing}, 0); err == nil {
			return h, d.address
		}
	}
	h, err := s.session.Idle(0)
	if err != nil {
		return nil, mailbox.Address{}
	}
	return h, s.guard.address
}

func (s *frameSlot) idleGet() (Half, mailbox.Address) {
	for i := range s.own {
		d := s.own[(s.frameDraw.own+uint64(i))%uint64(len(s.own))]
		r := mailbox.Request{Op: mailbox.OpGet}
		rand.Read(r.Get[:])
		if h, err := d.seal(false, r, 0); err == nil {
			return h, d.address
		}
	}
	h, err := s.session.Ask(s.own[0].address, 0)
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
	e.tally(h, j.store, err)
	j.finish(e, err)
}

// answerWait is how long a half's answer is waited for: it may come in the frame's own frame down, or in that of one of
// the next frames of the same session, which is one in couriers.
func (p *Profile) answerWait(couriers int) time.Duration {
	return time.Duration(3*max(1, couriers))*p.Frame + p.Lag + 2*oneWay
}
