// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/mailbox"
)

// errNotSent: the job's slot passed before it was ready, or the engine stops. Nothing left the node.
var errNotSent = errors.New("replicate: not sent")

// job is what one slot carries: exactly one transaction with the slot's store.
type job struct {
	// do makes the transaction. It runs without the engine's lock.
	do func(context.Context, Mailbox) error
	// done hears how it ended, under the engine's lock; nil: nobody cares. errNotSent says that do did not run.
	done func(error)
	// after runs last, without the lock; it may use the database. nil: nothing.
	after func(error)
	store *depot
	// deposit: it asks the store to keep a box, and so tells whether the store has space.
	deposit bool
	// cover: a box of nobody, which leaves the last tokens to others.
	cover bool
}

// finish records the outcome.
func (j job) finish(e *Engine, err error) {
	e.mu.Lock()
	if j.store != nil && !errors.Is(err, errNotSent) {
		j.store.outcome(err, j.deposit, time.Now())
	}
	if j.done != nil {
		j.done(err)
	}
	e.mu.Unlock()
	if j.after != nil {
		j.after(err)
	}
}

// prepare chooses the slot's job; what must be durable before it leaves is durable when prepare returns.
func (e *Engine) prepare(s slot) job {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if d := s.store.descriptor; d == nil || !d.covers(now) {
		return job{store: s.store, do: func(ctx context.Context, m Mailbox) error { return e.fetchDescriptor(ctx, m, s.store) }}
	}
	j := e.choose(s, now)
	j.store = s.store
	return e.pay(j, now)
}

// prepareFrame chooses what a frame carries; what must be durable before it leaves is durable when it returns.
func (e *Engine) prepareFrame(s *frameSlot, put, get *half) (jp, jg job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, p := time.Now(), e.profile.Load()
	jp, jg = e.pay(e.prepareWrite(s, p, now), now), e.prepareRead(s, p, get, now)
	for h, j := range map[*half]job{put: jp, get: jg} {
		if h.store == nil {
			h.store = j.store
		}
		if h.target == (mailbox.Address{}) {
			h.target = s.guard.address
			if h.store != nil {
				h.target = h.store.address
			}
		}
		if h.store != nil {
			h.target = h.way.seen(h.target)
		}
	}
	return jp, jg
}

// prepareWrite chooses a frame's PUT. The set of stores was drawn; which store of it, the box's place says, or a draw: to
// who sees the targets, the two are alike.
func (e *Engine) prepareWrite(s *frameSlot, p *Profile, now time.Time) job {
	ready := func(d *depot) bool { return d.knows(now) }
	set := s.sets[s.set%uint64(len(s.sets))]
	places := keep(set.stores, ready)
	if len(places) == 0 {
		places, set.own = keep(s.own, ready), false
	}
	if len(places) == 0 {
		return job{do: func(ctx context.Context, m Mailbox) error { return m.Nothing(ctx) }} // by the courier itself
	}
	w := &where{places: places, set: set.key, guard: s.guard, others: s.others, cover: s.cover < p.CoverPut, left: e.left}
	d := places[s.member%uint64(len(places))]
	if j, ok := e.chooseWrite(w, d, len(s.sets) > 1, now); ok {
		e.repay(w.cover, j)
		return j
	}
	switch {
	case !e.covers(w.cover):
		return putNothing(d)
	case set.own && s.loop < min(1, float64(len(s.sets))/2): // half of all cover, and we read our own stores only
		return e.putLoop(d, nil)
	}
	return putRandom(d)
}

// chooseWrite finds something to write for the drawn set, or else, if there are others, what another set's receiver has a
// place for at the drawn member of it: a receiver that shares a store with many sets need not wait for its own to be drawn.
// The target is uniform in the drawn set either way, by the box's place or by the draw. Acknowledgements alone come last.
func (e *Engine) chooseWrite(w *where, drawn *depot, others bool, now time.Time) (job, bool) {
	if !others {
		return e.choosePut(w, now)
	}
	set, one := *w, *w
	one.places, one.direct = []*depot{drawn}, true
	if j, ok := e.filesFirst(&set, now); ok {
		return j, true
	}
	for _, cover := range []bool{false, true} {
		for _, at := range []*where{&set, &one} {
			if at.cover = cover; cover && !w.cover {
				continue
			}
			if j, ok := e.chooseSmall(at, now); ok {
				return j, true
			}
		}
	}
	return e.filesLast(now, &set, &one)
}

// maxOwed bounds the boxes that cover makes room for later, so that a long transfer is not followed by hours without cover.
const maxOwed = 16

// covers tells whether a PUT slot that was drawn as cover, and has nothing to say, writes a box. One that was drawn makes
// up for each box of content that a slot wrote which was not: so that the boxes which a node writes in an hour are as many
// whether its users talk or not, for who sees which of them are one node's. Acknowledgements still have the slot, so that
// a contact does not wait for them longer because the node talks with others. The caller holds mu.
func (e *Engine) covers(drawn bool) bool {
	if drawn && e.owed > 0 {
		e.owed--
		return false
	}
	return drawn
}

// repay notes a box of content; cover: its slot would have written one anyway.
func (e *Engine) repay(cover bool, j job) {
	if j.deposit && !cover {
		e.owed = min(e.owed+1, maxOwed)
	}
}

func keep(set []*depot, ok func(*depot) bool) (out []*depot) {
	for _, d := range set {
		if ok(d) {
			out = append(out, d)
		}
	}
	return out
}

// renewAhead is how long before a store's keys are over new ones are asked for.
const renewAhead = 2 * time.Hour

// prepareRead chooses a frame's GET: a descriptor that is due; by the draws a store where a link's payload is looked for,
// or what was missed of a digest, so long as anything was; else the box that was listed first, or one like it.
func (e *Engine) prepareRead(s *frameSlot, p *Profile, h *half, now time.Time) job {
	if d := e.descriptorDue(s, p, now); d != nil {
		h.store, h.target = d, s.guard.address
		return job{do: func(ctx context.Context, m Mailbox) error { return e.fetchDescriptor(ctx, m, d) }}
	}
	if n := s.read % uint64(len(s.own)+len(s.seek)); n >= uint64(len(s.own)) {
		d := s.seek[n-uint64(len(s.own))]
		if j, ok := e.seekPayload([]*depot{d}, now); ok {
			return j
		}
		return getNothing(d)
	}
	ready := keep(s.own, func(d *depot) bool { return d.knows(now) })
	if len(ready) == 0 {
		return getNothing(s.own[s.frameDraw.own%uint64(len(s.own))])
	}
	if late := keep(ready, func(d *depot) bool {
		share := catchUp
		if d.lastFail.After(d.lastOK) {
			share /= 10 // it will not answer this time either
		}
		return s.digest < share && e.behind(d, p, now)
	}); len(late) > 0 {
		d := late[s.frameDraw.own%uint64(len(late))]
		if j, ok := e.chooseDigest(d, now); ok {
			j.store = d
			return j
		}
	}
	if j, ok := e.seekPayload(ready, now); ok {
		return j
	}
	for _, d := range ready {
		if j, ok := e.getTokens(d, now); ok {
			return j
		}
	}
	if j, ok := e.chooseRead(ready, now); ok {
		return j
	}
	if t := e.probe(now); t != nil {
		d := ready[s.frameDraw.own%uint64(len(ready))]
		for _, a := range placesOf(e.own, t.place) {
			if i := slices.IndexFunc(ready, func(d *depot) bool { return d.address == a }); i >= 0 {
				d = ready[i]
				break
			}
		}
		j := e.fetch(d, t)
		j.store = d
		return j
	}
	for _, d := range ready {
		if j, ok := e.lookForAnswer(d, now); ok {
			return j
		}
	}
	d := ready[s.frameDraw.own%uint64(len(ready))]
	if j, ok := e.readDecoy(d, now, pushTime, p.Frame); ok {
		return j
	}
	return getNothing(d)
}

// seekPayload looks for a link's payload if that is due at one of the stores.
func (e *Engine) seekPayload(stores []*depot, now time.Time) (job, bool) {
	for _, d := range stores {
		for _, a := range e.accepts {
			if d.knows(now) && a.fetchDue(d.address, now) {
				j := e.fetchPayload(a)
				j.store = d
				return j, true
			}
			if d.knows(now) && e.lacksTokens(a, d, now) {
				j := e.fetchTokens(a)
				j.store = d
				return j, true
			}
		}
		if d.knows(now) {
			if j, ok := e.seekLeft(d, now); ok {
				return j, true
			}
		}
	}
	return job{}, false
}

// catchUp is the share of GETs that read on in a digest while something of it was missed.
const catchUp = 0.5

// descriptorDue is a store whose keys are not known, or soon over, our own first.
func (e *Engine) descriptorDue(s *frameSlot, p *Profile, now time.Time) *depot {
	try := func(set []*depot) *depot {
		for _, d := range set {
			if d.sealer == nil || now.Before(d.askAfter) || d.knows(now) && d.knows(now.Add(renewAhead)) {
				continue
			}
			d.asked++
			d.askAfter = now.Add(e.jitter(backoff(p.answerWait(1), d.asked, 15*time.Minute)))
			return d
		}
		return nil
	}
	if d := try(s.follow); d != nil {
		return d
	}
	for _, set := range s.sets {
		if d := try(set.stores); d != nil {
			return d
		}
	}
	return try(s.seek)
}

// choose finds the job of a slot at a store whose descriptor is known.
func (e *Engine) choose(s slot, now time.Time) job {
	var j job
	var ok bool
	switch s.kind {
	case slotPut:
		if j, ok = e.choosePut(&where{places: []*depot{s.store}, direct: true, cover: s.cover, left: e.left}, now); ok {
			e.repay(s.cover, j)
		} else {
			s.cover = e.covers(s.cover)
		}
	case slotGet:
		j, ok = e.chooseGet(s.store, now)
	case slotDigest:
		j, ok = e.chooseDigest(s.store, now)
	}
	if !ok && s.kind == slotPut && s.cover && s.store.own && e.rng.IntN(2) == 0 {
		return e.putLoop(s.store, nil)
	}
	if !ok {
		return e.idle(s)
	}
	return j
}

// fetchDescriptor reads a store's descriptor and keeps what the engine needs of it.
func (e *Engine) fetchDescriptor(ctx context.Context, m Mailbox, st *depot) error {
	d, err := m.Descriptor(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	st.setDescriptor(d, now)
	e.hearDescriptor(st, d)
	e.wakeWallet()
	if err := e.beginDigest(st, now); err != nil {
		st.descriptor = nil // nothing is done at this store before
		return fmt.Errorf("keep a digest cursor: %w", err)
	}
	return nil
}

// putNothing, putRandom and getNothing are what there is to do at a store when there is nothing to do.
func putNothing(d *depot) job {
	return job{store: d, do: func(ctx context.Context, m Mailbox) error { return m.Nothing(ctx) }}
}

func putRandom(d *depot) job {
	var id mailbox.BoxID
	box := new([mailbox.BoxSize]byte)
	rand.Read(id[:])
	rand.Read(box[:])
	return job{store: d, deposit: true, cover: true, do: func(ctx context.Context, m Mailbox) error { return m.Put(ctx, id, box, nil) }}
}

func getNothing(d *depot) job {
	var h mailbox.Handle
	rand.Read(h[:])
	return job{store: d, do: func(ctx context.Context, m Mailbox) error { _, err := m.Get(ctx, h); return err }}
}

// idle is the job of a slot that has nothing to do. It reads no mutable state but the decoys, and never the disk.
func (e *Engine) idle(s slot) job {
	j := job{store: s.store}
	if s.store.bucket.Load() == 0 {
		// No descriptor yet: anything else would make no transaction, and that the slot was late would show.
		j.do = func(ctx context.Context, m Mailbox) error { _, err := m.Descriptor(ctx); return err }
		return j
	}
	switch s.kind {
	case slotPut:
		if s.cover {
			return putRandom(s.store)
		}
		return putNothing(s.store)
	case slotGet:
		return getNothing(s.store)
	default:
		// The newest page is as good as any: what it lists is read again when the cursor comes to it.
		j.do = func(ctx context.Context, m Mailbox) error {
			bucket := 10 * time.Second
			if b := s.store.bucket.Load(); b > 0 {
				bucket = time.Duration(b)
			}
			n := mailbox.BucketAt(time.Now(), bucket)
			_, err := m.Digest(ctx, mailbox.PageAddr{Index: max(n, 2) - 2})
			if errors.Is(err, mailbox.ErrNotYet) || errors.Is(err, mailbox.ErrGone) {
				return nil
			}
			return err
		}
	}
	return j
}
