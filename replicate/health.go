// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/store"
)

// A loop is a cover box that the node writes to a store of its own and reads back as it reads real ones: to the store, and
// to a courier, it is one. So who drops, hides or replaces boxes drops loops too, and the node, which alone knows them,
// sees that.

// When a store or a courier is left.
const (
	maxLoops     = 512   // under way
	lostLoops    = 3     // acknowledged and then not there, weighted by age, before a store is said to lose boxes,
	lossyStore   = 0.005 // and this share of all: an honest store loses none
	lossyCourier = 0.1   // share of unanswered halves, for hours
	recently     = 20    // frames: a store that answered since then is up
)

// loop is a box of our own on its way round.
type loop struct {
	sum   [sha256.Size]byte
	store *depot
	sent  time.Time
	acked time.Time // zero: no receipt yet
}

// score is what went well and what was lost, each weighing half after a half-life.
type score struct {
	good, lost float64
	at         time.Time
}

func (s *score) add(now time.Time, half time.Duration, good, lost float64) {
	k := 1.0
	if d := now.Sub(s.at); d > 0 && !s.at.IsZero() {
		k = math.Exp2(-float64(d) / float64(half))
	}
	s.good, s.lost, s.at = s.good*k+good, s.lost*k+lost, now
}

// loses tells whether more than rate of at least enough is lost.
func (s score) loses(now time.Time, half time.Duration, rate, enough float64) bool {
	s.add(now, half, 0, 0)
	return s.good+s.lost >= enough && s.lost > rate*(s.good+s.lost)
}

// rate is the share that is lost.
func (s score) rate() float64 {
	if s.good+s.lost == 0 {
		return 0
	}
	return s.lost / (s.good + s.lost)
}

// storeState is what the node thinks of a store.
type storeState byte

// The states, as stored.
const (
	storeGood  storeState = 0
	storeDead  storeState = 1 // it does not answer
	storeLossy storeState = 2 // it acknowledged boxes that are not there, or not what was written
	storeFalse storeState = 3 // it contradicted itself under its own signature (witness.go): for good
)

// health is what the node knows of a store beside its last answers.
type health struct {
	state   storeState
	since   time.Time
	loops   score
	delay   time.Duration // of loops, from the frame to the answer that has it, averaged
	upSince time.Time     // it answered everything since then; zero: it did not answer last time
}

func (h *health) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.u8(byte(h.state))
	w.time(h.since)
	return w.b
}

func parseHealth(b []byte) (health, error) {
	r := reader{b: b}
	r.version()
	h := health{state: storeState(r.u8()), since: r.time()}
	if h.state > storeFalse {
		r.bad = true
	}
	if h.state == storeLossy {
		h.loops = score{lost: lostLoops, at: h.since} // it has to show that it is better now
	}
	return h, r.end()
}

// usable tells whether boxes may be left there.
func (d *depot) usable() bool { return d.health.state == storeGood }

// left tells whether a store is not to be used. The caller holds mu.
func (e *Engine) left(a mailbox.Address) bool {
	d := e.depots[a]
	return d != nil && !d.usable()
}

// words about the state.
func (s storeState) words() string {
	switch s {
	case storeDead:
		return "It did not answer for hours; contacts are told to use the others."
	case storeLossy:
		return "It loses or changes boxes that it said it had; contacts are told to use the others."
	case storeFalse:
		return "It was proven to lie; it is not used any more."
	}
	return ""
}

// daylong is the half-life of what is known of a store's honesty, hours that of its and a courier's being there.
func (p *Profile) daylong() time.Duration { return 48 * p.Retransmit }
func (p *Profile) hours() time.Duration   { return 6 * p.Retransmit }

// putLoop writes a random box to one of our own stores, to be read back.
func (e *Engine) putLoop(d *depot, token *[mailbox.TokenSize]byte) job {
	var id mailbox.BoxID
	box := new([mailbox.BoxSize]byte)
	rand.Read(id[:])
	rand.Read(box[:])
	h := id.Handle()
	l := &loop{sum: sha256.Sum256(box[:]), store: d}
	return job{
		store: d, deposit: true, cover: true,
		do: func(ctx context.Context, m Mailbox) error {
			e.mu.Lock()
			l.sent = time.Now()
			if len(e.loops) < maxLoops {
				e.loops[h] = l
				e.expected[h] = ref{loop: l}
			}
			e.mu.Unlock()
			return m.Put(ctx, id, box, token)
		},
		done: func(err error) {
			switch {
			case err == nil:
				l.acked = time.Now()
			case errors.Is(err, errUnanswered): // it may have come all the same
			default:
				e.endLoop(h, l)
			}
		},
	}
}

// endLoop forgets a loop.
func (e *Engine) endLoop(h mailbox.Handle, l *loop) {
	if e.loops[h] == l {
		delete(e.loops, h)
		delete(e.expected, h)
		for _, d := range e.depots {
			if t := d.todo[h]; t != nil && t.loop == l {
				delete(d.todo, h)
			}
		}
	}
}

// closeLoop looks at what came back. Garbage in place of a loop is looked at again, as it is for a real box, before it counts.
func (e *Engine) closeLoop(t *todo, got *[mailbox.BoxSize]byte) error {
	l, now, p := t.loop, time.Now(), e.profile.Load()
	if sha256.Sum256(got[:]) != l.sum {
		if t.tries+1 >= loopTries {
			l.store.health.loops.add(now, p.daylong(), 0, 1)
			e.endLoop(t.handle, l)
			return nil
		}
		return errBadBox
	}
	l.store.health.loops.add(now, p.daylong(), 1, 0)
	if took := now.Sub(l.sent); l.store.health.delay == 0 {
		l.store.health.delay = took
	} else {
		l.store.health.delay += (took - l.store.health.delay) / 16
	}
	e.endLoop(t.handle, l)
	return nil
}

// loopTries is how often a loop is asked for before it counts as lost.
const loopTries = 3

// judge ends loops that will not come back and says what is to be thought of each store. What changes is durable, and
// contacts are told, before it counts. The caller holds mu.
func (e *Engine) judge(now time.Time) {
	p := e.profile.Load()
	for h, l := range e.loops {
		switch {
		case !l.acked.IsZero() && l.store.todo[h] == nil && l.store.passed(l.acked):
			// The digest of that time was read to its end, and the box is not in it: it was acknowledged and is hidden.
			l.store.health.loops.add(now, p.daylong(), 0, 1)
			e.endLoop(h, l)
		case now.Sub(l.sent) > p.daylong()/4, e.depots[l.store.address] != l.store:
			e.endLoop(h, l)
		}
	}
	someUp := false
	for _, d := range e.depots {
		someUp = someUp || now.Sub(d.lastOK) < recently*p.Frame
	}
	for _, d := range e.depots {
		state := d.judged(now, p, someUp && now.Sub(e.began) > p.hours())
		if state == d.health.state {
			continue
		}
		was := d.health
		d.health.state, d.health.since = state, now
		if err := e.saveHealth(d); err != nil {
			e.warn("keeping what is thought of a mailbox", err)
			d.health = was
			continue
		}
		if state != storeGood {
			e.log.Warn("a mailbox is left: " + state.words())
			for _, c := range e.contacts {
				e.hasten(c, d.address, now)
			}
		} else {
			e.log.Info("a mailbox works again")
		}
		if d.own {
			if err := e.tellStores(now); err != nil {
				e.warn("telling contacts our mailboxes", err)
			}
		}
	}
}

// judged is the state that a store should be in.
func (d *depot) judged(now time.Time, p *Profile, canTell bool) storeState {
	h := &d.health
	h.loops.add(now, p.daylong(), 0, 0)
	steady := !h.upSince.IsZero() && now.Sub(h.upSince) > 2*p.Retransmit
	switch {
	case h.state == storeFalse || d.heard.lie != nil:
		return storeFalse
	case h.loops.lost >= lostLoops && h.loops.rate() > lossyStore:
		return storeLossy
	case h.state == storeLossy && (h.loops.lost >= 1 || !steady):
		return storeLossy
	case h.state == storeDead && !steady:
		return storeDead
	case canTell && d.lastFail.After(d.lastOK) && now.Sub(d.lastOK) > p.hours():
		return storeDead
	}
	return storeGood
}

// passed tells whether the digest was read past t.
func (d *depot) passed(t time.Time) bool {
	if d.descriptor == nil || !d.follow.begun {
		return false
	}
	return d.follow.cursor() > mailbox.BucketAt(t.Add(max(d.follow.slack, 0)), d.descriptor.bucket)+2
}

// hasten makes boxes that lie at a store that was left due, by and by, at their other one.
func (e *Engine) hasten(c *contact, left mailbox.Address, now time.Time) {
	p := e.profile.Load()
	for _, b := range c.boxes {
		if b.last == left && b.due.After(now.Add(p.Retransmit)) {
			b.due = now.Add(e.exp(p.Retransmit / 2))
		}
	}
}

func (e *Engine) saveHealth(d *depot) error {
	key := store.Key(tableHealth, string(d.address.Onion))
	return e.kv.Update(func(txn store.Txn) error {
		if d.health.state == storeGood {
			return txn.Delete(key)
		}
		return txn.Set(key, d.health.marshal())
	})
}

// loadHealth reads what was thought of stores.
func (e *Engine) loadHealth(r store.Reader) error {
	return scan(r, tableHealth, func(k *store.KeyReader, v []byte) error {
		name := onionid.Name(k.String())
		h, err := parseHealth(v)
		if err != nil || k.Err() != nil {
			return fmt.Errorf("state of a mailbox: %w", errors.Join(ErrRow, err, k.Err()))
		}
		if d := e.depots[mailbox.Address{Onion: name}]; d != nil {
			d.health = h
		}
		return nil
	})
}

// offered are the stores that contacts are told to use: our own that work; all, if none does.
func (e *Engine) offered() []mailbox.Address {
	var out []mailbox.Address
	for _, a := range e.own {
		if d := e.depots[a]; d == nil || d.usable() {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return e.own
	}
	return slices.Clip(out)
}

// tally notes what a courier did with a half.
func (e *Engine) tally(h *half, d *depot, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, p := time.Now(), e.profile.Load()
	switch {
	case errors.Is(err, errNotSent), errors.Is(err, errCourier), errors.Is(err, mailbox.ErrNoDescriptor):
	case !errors.Is(err, errUnanswered):
		h.guard.score.add(now, p.hours(), 1, 0)
	case d == nil || now.Sub(d.lastOK) < recently*p.Frame: // else it may be the store that does not answer
		h.guard.score.add(now, p.hours(), 0, 1)
	}
}
