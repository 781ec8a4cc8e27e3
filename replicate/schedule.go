// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"math/rand/v2"
	"time"
)

// slotKind is what a slot's transaction is for. On the wire all kinds look the same.
type slotKind byte

const (
	slotPut slotKind = iota
	slotGet
	slotDigest
	slotKinds
)

func (k slotKind) String() string { return [...]string{"put", "get", "digest"}[k] }

// slot is one transaction's place in time.
type slot struct {
	kind  slotKind
	at    time.Time
	store *depot
	cover bool // PUT: if there is nothing to write, write a random box
}

// schedule is the Poisson process. Its generator is used for nothing else, and every tick draws the same number of
// values from it whatever happens, so that nothing that is said can shift a time.
type schedule struct{ rng *rand.Rand }

// draw is what one tick takes from the generator: all of it, whichever way the tick's traffic goes.
type draw struct {
	gap   float64 // to the next tick, in frames: exponential, mean 1
	frame frameDraw
	slots []slotDraw // in direct mode
}

type slotDraw struct {
	kind   slotKind
	offset float64 // after the tick, in frames: uniform in [0, 1)
	store  uint64  // which of the known stores, modulo their number
	cover  float64
}

func (s schedule) gap() float64 { return s.rng.ExpFloat64() }

func (s schedule) tick(digests int) draw {
	d := draw{gap: s.gap(), frame: s.frame(), slots: make([]slotDraw, 0, 2+digests)}
	one := func(k slotKind) {
		d.slots = append(d.slots, slotDraw{k, s.rng.Float64(), s.rng.Uint64(), s.rng.Float64()})
	}
	one(slotPut)
	one(slotGet)
	for range digests {
		one(slotDigest)
	}
	return d
}

// scale is f frames.
func scale(f float64, frame time.Duration) time.Duration { return time.Duration(f * float64(frame)) }

// runSchedule ticks until ctx ends. A tick that comes late because the machine slept is not made up for: the process
// goes on from now.
func (e *Engine) runSchedule(ctx context.Context) {
	s := schedule{e.clock}
	next := time.Now().Add(scale(s.gap(), e.profile.Load().Frame))
	for waitUntil(ctx, next) {
		p := e.profile.Load()
		if now := time.Now(); now.Sub(next) > p.Frame+time.Second {
			next = now
		}
		d := s.tick(p.Digests)
		if e.tendCouriers(ctx, p, d.frame, next) == Couriers {
			e.spawnFrame(ctx, p, next, d.frame)
		} else {
			for _, sd := range d.slots {
				e.spawn(ctx, p, next, sd)
			}
		}
		next = next.Add(scale(d.gap, p.Frame))
	}
}

// spawn starts one slot, or drops it if too many are under way: later ones keep their times.
func (e *Engine) spawn(ctx context.Context, p *Profile, tick time.Time, d slotDraw) {
	r := e.routes.Load()
	set := r.read
	if d.kind == slotPut {
		set = r.write
	} else if d.kind == slotDigest {
		set = r.own
	}
	if len(set) == 0 {
		return
	}
	if e.active.Load() >= int64(p.InFlight) {
		e.counts.dropped.Add(1)
		return
	}
	lead := p.lead()
	sl := slot{kind: d.kind, at: tick.Add(lead + scale(d.offset, p.Frame)), store: set[d.store%uint64(len(set))], cover: d.cover < p.CoverPut}
	e.active.Add(1)
	e.slots.Go(func() {
		defer e.active.Add(-1)
		e.runSlot(ctx, sl, lead, p.Timeout)
	})
}

// runSlot chooses what the slot carries a little before its time and makes exactly one transaction at its time. What
// was not chosen in time is not sent late: then the slot is idle.
func (e *Engine) runSlot(ctx context.Context, s slot, lead, timeout time.Duration) {
	if !waitUntil(ctx, s.at.Add(-lead)) {
		return
	}
	chosen := make(chan job, 1)
	e.slots.Go(func() { chosen <- e.prepare(s) })
	var j job
	if !waitUntil(ctx, s.at) {
		(<-chosen).finish(e, errNotSent)
		return
	}
	select {
	case j = <-chosen:
	default:
		e.counts.late.Add(1)
		if s.store.tokens.Load() {
			s.cover = false // there is no token for it now
		}
		j = e.idle(s)
		e.slots.Go(func() { (<-chosen).finish(e, errNotSent) })
	}
	if e.trace != nil {
		e.trace(s)
	}
	tctx, cancel := context.WithTimeout(ctx, timeout)
	err := j.do(tctx, s.store.client)
	cancel()
	if ctx.Err() != nil && err != nil {
		err = errNotSent // we stop: no fault of the store's
	}
	j.finish(e, err)
}

// waitUntil is false if ctx ended before.
func waitUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
