// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/store"
)

// Courier is a node's long session with one courier. Safe for concurrent use. It dials in Connect alone.
type Courier interface {
	// Connect makes the session, which lives until it breaks.
	Connect(ctx context.Context) error
	Connected() bool
	// Send writes exactly one frame, now, and returns when it is written.
	Send(ctx context.Context, f *Frame) error
	Close() error
	// Ask makes a GET half that asks the courier itself for a store's descriptor; Idle a PUT half for the courier itself,
	// that does nothing.
	Ask(store mailbox.Address, delay time.Duration) (Half, error)
	Idle(delay time.Duration) (Half, error)
	// Family is the operator's label in the courier's descriptor; "" is a family of its own. Known once connected.
	Family() string
}

// SessionParams are what a session is asked for.
type SessionParams struct {
	Push  time.Duration // between two page frames; 0: none
	Frame time.Duration // the mean time between two frames of ours, over both couriers
	Hops  int
	// Token gives a session token of the courier's for a hello, or nil.
	Token func() *[mailbox.TokenSize]byte
	// OnPage hears each digest page that was pushed, as it came.
	OnPage func(store mailbox.Address, part []byte)
}

// A node sends its frames to two couriers and keeps them for months: who sees the sessions of a node learns when it is
// on; every courier more is one more that does, and who may change couriers will one day choose a bad one.
const (
	guards       = 2
	guardLife    = 60 * 24 * time.Hour // and up to half as much again
	guardRetired = 30 * 24 * time.Hour // one that was replaced for cause is not chosen again before
	guardTerm    = 24 * time.Hour      // at most one is replaced for cause in that time

	connectTimeout = 90 * time.Second
	connectPause   = 15 * time.Minute // the longest between two attempts
	// directAfter is how long no courier may be usable before the node speaks to the stores directly: long enough that
	// who cuts a session does not thereby choose the weaker mode for us.
	directAfter = 30 * time.Minute
)

// guard is one of the node's couriers. Guarded by the engine's mutex but for what New set and session's own methods.
type guard struct {
	address mailbox.Address
	session Courier
	params  SessionParams

	family  string
	since   time.Time
	until   time.Time
	retired time.Time // replaced for cause then; zero: in use
	cause   string

	connecting bool
	attempts   int // since the last success
	nextTry    time.Time
	refuses    bool      // so many frames as the profile makes
	everUp     bool      // in this process
	lastUp     time.Time // connected then
	downSince  time.Time // not connected since, while another one was; zero: connected, or none is
	score      score
}

func (g *guard) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.time(g.since)
	w.time(g.until)
	w.time(g.retired)
	w.str(g.family)
	w.str(g.cause)
	return w.b
}

func parseGuard(a mailbox.Address, b []byte) (*guard, error) {
	r := reader{b: b}
	r.version()
	g := &guard{address: a, since: r.time(), until: r.time(), retired: r.time(), family: r.str(32), cause: r.str(200)}
	return g, r.end()
}

func guardKey(a mailbox.Address) []byte { return store.Key(tableGuard, string(a.Onion)) }

// sameOperator tells whether the courier and the store are known to be one operator's.
func (g *guard) sameOperator(d *depot) bool {
	f := d.operator()
	return d.address == g.address || f != "" && f == g.family
}

// through are the stores of a set that the courier may be asked to reach: those of other operators, and those that no
// courier of ours is better for. If that is none, all: then there is no choice.
func (e *Engine) through(g *guard, set []*depot) []*depot {
	var out []*depot
	for _, d := range set {
		if !g.sameOperator(d) || !slices.ContainsFunc(e.guards, func(o *guard) bool { return !o.sameOperator(d) }) {
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return set
	}
	return out
}

// connected is the drawn courier if its session is up, else the next one whose is. The caller holds mu.
func (e *Engine) connected(draw uint64) (*guard, Courier) {
	for i := range e.guards {
		if g := e.guards[(draw+uint64(i))%uint64(len(e.guards))]; g.session != nil && g.session.Connected() {
			return g, g.session
		}
	}
	return nil, nil
}

// couriersInUse counts the sessions that are up. The caller holds mu.
func (e *Engine) couriersInUse() (n int) {
	for _, g := range e.guards {
		if g.session != nil && g.session.Connected() {
			n++
		}
	}
	return n
}

// tendCouriers chooses couriers, and begins to make the drawn one's session if it is down. It says which way this
// tick's traffic goes.
func (e *Engine) tendCouriers(ctx context.Context, p *Profile, d frameDraw, now time.Time) Mode {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.judge(now)
	if e.newSession == nil || e.stopping {
		return Direct
	}
	e.chooseCouriers(now)
	up := 0
	for _, g := range e.guards {
		if g.session != nil && g.session.Connected() {
			up++
			g.lastUp, g.downSince = now, time.Time{}
			e.usable = now
		}
	}
	for _, g := range e.guards {
		if up > 0 && g.downSince.IsZero() && (g.session == nil || !g.session.Connected()) {
			g.downSince = now
		} else if up == 0 {
			g.downSince = time.Time{} // it is not this one's fault
		}
	}
	if len(e.guards) > 0 {
		e.tendSession(ctx, p, e.guards[d.courier%uint64(len(e.guards))], now)
	}
	e.mode = Direct
	if len(e.guards) > 0 && now.Sub(e.usable) < directAfter {
		e.mode = Couriers
	}
	return e.mode
}

// tendSession begins to connect if that is due: at the time of a frame, so that no connection is ever made at another.
func (e *Engine) tendSession(ctx context.Context, p *Profile, g *guard, now time.Time) {
	want := e.sessionParams(p, g)
	if g.connecting || now.Before(g.nextTry) {
		return
	}
	if g.session != nil && g.session.Connected() {
		if g.params.Push == want.Push && g.params.Frame == want.Frame && g.params.Hops == want.Hops {
			return
		}
		// The profile was changed: a session of other parameters takes its place.
	}
	s := e.newSession(g.address, want)
	g.connecting = true
	old := g.params
	g.params = want
	e.slots.Go(func() {
		cctx, cancel := context.WithTimeout(ctx, connectTimeout)
		err := s.Connect(cctx)
		cancel()
		e.mu.Lock()
		defer e.mu.Unlock()
		g.connecting, g.refuses = false, errors.Is(err, mailbox.ErrRate)
		if err != nil || e.stopping {
			e.log.Debug("a courier could not be reached", "err", err)
			g.attempts++
			g.nextTry = time.Now().Add(e.jitter(backoff(p.Frame, g.attempts, connectPause)))
			g.params = old
			e.slots.Go(func() { s.Close() })
			return
		}
		if old := g.session; old != nil {
			e.slots.Go(func() { old.Close() })
		}
		g.session = s
		g.attempts, g.everUp, g.lastUp, g.downSince = 0, true, time.Now(), time.Time{}
		e.usable = time.Now()
		if f := s.Family(); f != g.family {
			g.family = f
			e.saveGuard(g)
		}
	})
}

// sessionParams are what the courier's session should be asked for. One session is pushed the digests, not both: if it
// breaks, the other one is made anew, to be pushed them, with its next frame.
func (e *Engine) sessionParams(p *Profile, g *guard) SessionParams {
	s := SessionParams{Push: p.Push, Frame: p.Frame, Hops: e.hopsOf(p, g, time.Now()), OnPage: e.pushed, Token: func() *[mailbox.TokenSize]byte { return e.sessionToken(g.address) }}
	for _, o := range e.guards {
		if o != g && o.params.Push > 0 && (o.connecting || o.session != nil && o.session.Connected()) {
			s.Push = 0
		}
	}
	return s
}

// chooseCouriers fills the node's couriers up to two, and replaces those whose time is over or who do not do their work.
// The caller holds mu.
func (e *Engine) chooseCouriers(now time.Time) {
	var ended []mailbox.Address // not drawn again at once
	for i := 0; i < len(e.guards); i++ {
		g := e.guards[i]
		cause := e.causeAgainst(g, now)
		over := !now.Before(g.until)
		if cause == "" && !over {
			continue
		}
		other := e.candidate(now, g, ended)
		if other == (mailbox.Address{}) {
			if over && cause == "" {
				g.until = now.Add(e.guardLife()) // there is no other
				e.saveGuard(g)
			}
			continue
		}
		g.until = now
		if cause != "" {
			g.retired, g.cause, e.replaced = now, cause, now
			e.log.Warn("a courier is replaced", "cause", cause)
		}
		e.retire(g)
		ended = append(ended, g.address)
		i--
	}
	for len(e.guards) < guards {
		a := e.candidate(now, nil, ended)
		if a == (mailbox.Address{}) {
			return
		}
		g := &guard{address: a, since: now, until: now.Add(e.guardLife())}
		if d := e.depots[a]; d != nil {
			g.family = d.operator()
		}
		if !e.saveGuard(g) {
			return
		}
		e.guards = append(e.guards, g)
		slices.SortFunc(e.guards, func(a, b *guard) int { return cmp.Compare(a.address.Onion, b.address.Onion) })
	}
}

func (e *Engine) guardLife() time.Duration {
	return guardLife + time.Duration(e.rng.Float64()*float64(guardLife)/2)
}

// retire ends a courier's use. One that was replaced for cause is remembered.
func (e *Engine) retire(g *guard) {
	e.guards = slices.DeleteFunc(e.guards, func(x *guard) bool { return x == g })
	if g.session != nil {
		s := g.session
		e.slots.Go(func() { s.Close() })
	}
	if g.retired.IsZero() {
		if err := e.kv.Update(func(txn store.Txn) error { return txn.Delete(guardKey(g.address)) }); err != nil {
			e.warn("forgetting a courier", err)
		}
		return
	}
	e.saveGuard(g)
	e.retired = append(e.retired, g)
}

func (e *Engine) saveGuard(g *guard) bool {
	if err := e.kv.Update(func(txn store.Txn) error { return txn.Set(guardKey(g.address), g.marshal()) }); err != nil {
		e.warn("keeping a courier", err)
		return false
	}
	return true
}

// candidate draws a courier that is not in use: of those that are known, the ones of an operator who is neither the other
// courier's nor a known store's, if there are any; then those of another operator than the other courier's; but none that
// shares its operator with all of our own stores: with that one the requests of a session could be told apart, and direct
// mode is better. The zero address: there is none. leaving is the one whose place it takes, not are never drawn.
func (e *Engine) candidate(now time.Time, leaving *guard, not []mailbox.Address) mailbox.Address {
	known := e.knownCouriers()
	var best []mailbox.Address
	class := 0
	for _, a := range known {
		if slices.Contains(not, a) || slices.ContainsFunc(e.guards, func(g *guard) bool { return g.address == a }) ||
			slices.ContainsFunc(e.retired, func(g *guard) bool { return g.address == a && now.Sub(g.retired) < guardRetired }) {
			continue
		}
		probe := &guard{address: a}
		if d := e.depots[a]; d != nil {
			probe.family = d.operator()
		}
		r := e.routes.Load()
		if !slices.ContainsFunc(r.own, func(d *depot) bool { return !probe.sameOperator(d) }) {
			continue
		}
		c := 1
		if !slices.ContainsFunc(e.guards, func(g *guard) bool { return g != leaving && g.family != "" && g.family == probe.family }) {
			c = 2
			if !slices.ContainsFunc(r.write, func(d *depot) bool { return probe.sameOperator(d) }) {
				c = 3
			}
		}
		if c > class {
			class, best = c, nil
		}
		if c == class {
			best = append(best, a)
		}
	}
	if len(best) == 0 {
		return mailbox.Address{}
	}
	return best[e.rng.IntN(len(best))]
}

// causeAgainst is why a courier should be replaced, in words; "" if it should not. Whoever can make a node change its
// couriers can make it try until it takes one of theirs, so it takes hours, and one is replaced in a day at most.
func (e *Engine) causeAgainst(g *guard, now time.Time) string {
	if now.Sub(e.replaced) < guardTerm && !e.replaced.IsZero() {
		return ""
	}
	hours := 6 * e.profile.Load().Retransmit // 3 h in balanced
	switch {
	case !g.downSince.IsZero() && now.Sub(g.downSince) > 2*hours:
		return "It could not be reached for hours, while the other one could."
	case g.score.loses(now, hours, lossyCourier, 30) && !e.othersLose(g, now, hours):
		return "It loses too much of what goes through it."
	}
	return ""
}

// othersLose tells whether all other couriers lose as much: then it is the stores, or our own line.
func (e *Engine) othersLose(g *guard, now time.Time, hours time.Duration) bool {
	for _, o := range e.guards {
		if o != g && !o.score.loses(now, hours, lossyCourier/3, 10) {
			return false
		}
	}
	return true
}

// loadGuards reads the couriers of before.
func (e *Engine) loadGuards(r store.Reader) error {
	err := scan(r, tableGuard, func(k *store.KeyReader, v []byte) error {
		name, err := onionid.Parse(k.String())
		if err != nil || k.Err() != nil {
			return errors.Join(ErrRow, err, k.Err())
		}
		g, err := parseGuard(mailbox.Address{Onion: name}, v)
		switch {
		case err != nil:
			return fmt.Errorf("a courier: %w", err)
		case g.retired.IsZero():
			e.guards = append(e.guards, g)
		default:
			e.retired = append(e.retired, g)
		}
		return nil
	})
	slices.SortFunc(e.guards, func(a, b *guard) int { return strings.Compare(string(a.address.Onion), string(b.address.Onion)) })
	return err
}

// closeSessions ends them all.
func (e *Engine) closeSessions() {
	e.mu.Lock()
	e.stopping = true
	var all []Courier
	for _, g := range e.guards {
		if g.session != nil {
			all = append(all, g.session)
		}
	}
	e.mu.Unlock()
	for _, s := range all {
		s.Close()
	}
}
