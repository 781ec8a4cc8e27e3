// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/store"
)

// follower knows which buckets of one store's digest were read. It reads the newest bucket, for speed, and the oldest
// gap, for completeness, by turns; a gap by the largest page that is closed.
type follower struct {
	begun   bool
	saved   uint64             // the cursor on disk; 0: none
	head    uint64             // buckets from here on were not looked at
	gaps    []span             // buckets below head that are not read nor being read, ascending, apart
	pending []span             // those that are being read
	open    []mailbox.PageAddr // parts after the first of pages in pending: to be read next
	back    bool               // whose turn: the oldest gap's

	// slack is how long after its end (by our clock) a bucket is closed at the store; it is learnt, and negative if
	// our clock is behind. smooth counts the pages that came since the store last said "not yet".
	slack  time.Duration
	smooth int

	keep   uint64 // how many buckets the store keeps, about
	skew   uint64 // how many buckets two clocks may differ by
	born   uint64 // where this follower began at a new store; 0: elsewhere, or that does not matter any more
	gone   uint64 // pages whose first bucket is below are gone, or nearly
	behind int    // how often that was not as our clock says

	// crowded is the lowest level whose pages the store said to have too many handles for, lately; 0: none.
	crowded uint8
}

// span is buckets, from included, to not.
type span struct{ from, to uint64 }

const (
	maxGaps  = 256 // beyond, the two oldest gaps are joined and a few pages are read twice
	maxOpen  = 64  // parts
	maxSlack = mailbox.SkewTolerance
	// ahead is how many buckets head may be in the future before that is believed to be our clock's doing, which was
	// ahead and was set back: what is learnt of slack moves it by a few.
	ahead = 64
)

// cursor is the first bucket that was not read.
func (f *follower) cursor() uint64 {
	c := f.head
	if len(f.gaps) > 0 {
		c = f.gaps[0].from
	}
	for _, p := range f.pending {
		c = min(c, p.from)
	}
	return c
}

// advance makes the buckets that closed since the last time a gap: those before closed, by what is learnt of slack; now
// is by our clock alone. Many that were not closed after all are none any more. If that is because our clock went back,
// it may have been ahead when we began, and what came since may lie before that place.
func (f *follower) advance(closed, now uint64) {
	latest := max(closed, now)
	if f.head > closed+ahead {
		f.take(span{closed, f.head})
		// Where we began is not known any more after a restart: the time by which clocks may differ is read again.
		if from := closed - min(closed, f.skew); f.head > latest+ahead && from < closed {
			f.gone = 0
			f.unreadAgain(span{from, closed})
		}
		f.head = closed
	}
	if f.born > latest+ahead {
		f.born = 0
		f.unreadAgain(span{min(closed, f.oldest(closed)), closed})
	}
	if f.head < closed {
		f.unreadAgain(span{f.head, closed})
		f.head = closed
	}
}

// rewind makes everything from a bucket on unread.
func (f *follower) rewind(to uint64) {
	if f.begun && to < f.head {
		f.unreadAgain(span{to, f.head})
	}
}

// unreadAgain adds a gap.
func (f *follower) unreadAgain(s span) {
	var out []span
	for _, g := range f.gaps {
		if g.to < s.from || g.from > s.to {
			out = append(out, g)
			continue
		}
		s = span{min(s.from, g.from), max(s.to, g.to)}
	}
	i, _ := slices.BinarySearchFunc(out, s.from, func(g span, from uint64) int { return cmp.Compare(g.from, from) })
	f.gaps = slices.Insert(out, i, s)
	for len(f.gaps) > maxGaps {
		f.gaps[1].from = f.gaps[0].from
		f.gaps = f.gaps[1:]
	}
}

// take removes buckets from the gaps.
func (f *follower) take(s span) {
	var out []span
	for _, g := range f.gaps {
		if g.to <= s.from || g.from >= s.to {
			out = append(out, g)
			continue
		}
		if g.from < s.from {
			out = append(out, span{g.from, s.from})
		}
		if g.to > s.to {
			out = append(out, span{s.to, g.to})
		}
	}
	f.gaps = out
}

// settle ends the reading of a page: read to its end, or to be read again.
func (f *follower) settle(s span, read bool) {
	if i := slices.Index(f.pending, s); i >= 0 {
		f.pending = slices.Delete(f.pending, i, i+1)
	}
	if !read {
		f.unreadAgain(s)
	}
}

// unread counts the gap buckets within a range.
func (f *follower) unread(from, to uint64) (n uint64) {
	for _, g := range f.gaps {
		if lo, hi := max(g.from, from), min(g.to, to); lo < hi {
			n += hi - lo
		}
	}
	return n
}

// next is the page to read, which is pending from now on until it is settled; false: everything that is closed was
// read or is being read. perBucket is how many handles a bucket has, about: it tells how many parts a large page has.
func (f *follower) next(perBucket float64) (mailbox.PageAddr, bool) {
	f.back = !f.back
	if n := len(f.open); n > 0 && (f.back || len(f.gaps) == 0 || n >= maxOpen) {
		p := f.open[0]
		f.open = f.open[1:]
		return p, true
	}
	if len(f.gaps) == 0 {
		return mailbox.PageAddr{}, false
	}
	b := f.gaps[len(f.gaps)-1].to - 1
	if f.back {
		b = f.gaps[0].from
	}
	best, gain := mailbox.PageAddr{Index: b}, 0.0
	for level := uint8(0); level < mailbox.Levels; level++ {
		size := mailbox.LevelSpan(level)
		p := mailbox.PageAddr{Level: level, Index: b / size}
		from, to, ok := p.Buckets()
		if !ok || to > f.head || f.crowded > 0 && level >= f.crowded || level > 0 && from < f.gone {
			break
		}
		parts := 1 + float64(size)*perBucket/mailbox.PageHandles
		if g := float64(f.unread(from, to)) / parts; g > gain {
			best, gain = p, g
		}
	}
	from, to, _ := best.Buckets()
	f.take(span{from, to})
	f.pending = append(f.pending, span{from, to})
	return best, true
}

// expired ends the reading of a page that the store has no more, because its first bucket is gone. The others are
// looked for in pages of lower levels, but for those that go so soon that we would run after them. oldest is the first
// bucket that should be there by our clock; when that is no help (it is behind the store's) the steps double.
func (f *follower) expired(s span, oldest uint64) {
	f.gone = max(f.gone, oldest)
	if s.from >= oldest {
		f.gone = max(f.gone, s.from+f.margin()<<f.behind)
		f.behind = min(f.behind+1, 3)
	}
	f.settle(s, true)
	if s.from < f.gone {
		f.take(span{0, f.gone})
	}
	if from := max(f.gone, s.from+1); from < s.to {
		f.unreadAgain(span{from, s.to})
	}
}

// margin is how many buckets at the far end are given up: 20 minutes of two weeks. Their boxes are about to expire, and
// are written again.
func (f *follower) margin() uint64 { return 1 + f.keep/1000 }

// oldest is the first bucket that is worth reading if those before closed are closed.
func (f *follower) oldest(closed uint64) uint64 { return closed - min(closed, f.keep) + f.margin() }

// notYet learns that a page which ended that long before the request was not closed.
func (f *follower) notYet(ended, bucket time.Duration) {
	f.slack = min(max(f.slack, ended+bucket/4), maxSlack)
	f.smooth = 0
}

// came learns that a page came: maybe the next can be asked for sooner. The longer nothing was too early, the bolder.
func (f *follower) came(bucket time.Duration) {
	if f.smooth++; f.smooth%256 == 0 {
		f.crowded = 0 // see again
	}
	f.slack = max(f.slack-min(bucket/64<<min(f.smooth/8, 12), bucket*60), -maxSlack)
}

// begin sets where a follower starts, once the store's bucket and TTL are known: where it stopped, but not before
// what the store still has; at a new store as far back as its clock may be behind ours, for nothing older can be for us. Of a place in the
// future (our clock was ahead when it was saved, or it was counted in shorter buckets: the mailbox was made anew under
// its old key) it is not known what was read before it, so all is: about 90 pages for two weeks.
func (f *follower) begin(closed uint64, d *descriptor) {
	f.begun = true
	f.keep = uint64(d.ttl / d.bucket)
	f.skew = uint64(maxSlack / d.bucket)
	f.gone = min(closed, f.oldest(closed))
	switch {
	case f.saved == 0:
		f.head = closed - min(closed, 2+f.skew)
		f.born = closed - min(closed, 2)
	case f.saved > closed+ahead:
		f.head = f.gone
	default:
		f.head = max(f.saved, f.gone)
	}
}

// beginDigest starts to follow a store's digest. At a new store the place where it starts is durable before anything
// else is done there: what is written from then on is found, also after a crash.
func (e *Engine) beginDigest(st *depot, now time.Time) error {
	f := &st.follow
	if !st.own || f.begun {
		return nil
	}
	d := st.descriptor
	closed := mailbox.BucketAt(now, d.bucket)
	f.begin(closed, d)
	if f.saved > 0 {
		return nil
	}
	// Somebody may know this store longer than we can reach it.
	since := now
	for _, c := range e.contacts {
		since = earlier(since, c.created)
	}
	for _, in := range e.invites {
		since = earlier(since, in.created)
	}
	for _, a := range e.accepts {
		since = earlier(since, a.created)
	}
	if since.Before(now) {
		f.head = max(mailbox.BucketAt(since.Add(-2*time.Minute-maxSlack), d.bucket), closed-min(closed, uint64(d.ttl/d.bucket)))
	}
	err := e.kv.Update(func(txn store.Txn) error {
		return txn.Set(store.Key(tableDigest, string(st.address.Onion)), binary.BigEndian.AppendUint64(nil, f.head))
	})
	if err != nil {
		f.begun = false
		return err
	}
	f.saved = f.head
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// chooseDigest reads the next page of one of our stores' digests.
func (e *Engine) chooseDigest(st *depot, now time.Time) (job, bool) {
	if !st.own {
		return job{}, false
	}
	f := &st.follow
	bucket := st.descriptor.bucket
	if e.mode == Direct {
		f.advance(mailbox.BucketAt(now.Add(-f.slack), bucket), mailbox.BucketAt(now, bucket))
	}
	p, ok := f.next(st.decoys.perBucket)
	if !ok {
		return job{}, false
	}
	from, to, _ := p.Buckets()
	_, end := p.Times(bucket)
	var page mailbox.Page
	var asked, answered time.Time
	return job{
		do: func(ctx context.Context, m Mailbox) error {
			var err error
			asked = time.Now()
			page, err = m.Digest(ctx, p)
			answered = time.Now()
			return err
		},
		done: func(err error) {
			var early mailbox.EarlyError
			errors.As(err, &early)
			defer func() { f.slack = mailbox.Slack(f.slack, bucket, max(page.Closed, early.Closed), asked, answered) }()
			switch {
			case err == nil:
				if p.Level == 0 {
					f.came(bucket)
				}
				if err := e.readPage(st, page, bucket); err != nil {
					e.log.Warn("keeping a digest page", "err", err)
					f.settle(span{from, to}, false)
				}
			case errors.Is(err, mailbox.ErrGone):
				f.expired(span{from, to}, f.oldest(mailbox.BucketAt(now, bucket)))
			default:
				if errors.Is(err, mailbox.ErrTooMany) && p.Level > 0 {
					f.crowded = p.Level
				}
				if errors.Is(err, mailbox.ErrNotYet) {
					f.notYet(now.Sub(end), bucket)
				}
				f.settle(span{from, to}, false)
			}
		},
	}, true
}

// readPage looks for boxes of ours in a page. The matches and, once the page was read to its last part, the cursor
// behind it are durable in one Update; a crash before reads the page again.
func (e *Engine) readPage(st *depot, page mailbox.Page, bucket time.Duration) error {
	from, to, ok := page.Buckets()
	if !ok {
		return nil
	}
	st.heard.hearPage(page)
	f := &st.follow
	begin, end := page.Times(bucket)
	begin, end = begin.Add(f.slack), end.Add(f.slack) // by our clock
	var found []*todo
	for _, h := range page.Handles {
		r, ok := e.expected[h]
		if !ok || st.todo[h] != nil {
			continue
		}
		if r.invite != nil && begin.After(r.invite.expiry) {
			continue // answered after the link expired
		}
		found = append(found, &todo{handle: h, ref: r, listed: begin, span: end.Sub(begin)})
	}
	f.settle(span{from, to}, true)
	if page.Part+1 < page.Parts {
		next := page.PageAddr
		next.Part++
		f.pending = append(f.pending, span{from, to})
		f.open = append(f.open, next)
	}
	if len(found) > 0 {
		err := e.kv.Update(func(txn store.Txn) error {
			for _, t := range found {
				if t.loop != nil {
					continue // of no use after a restart
				}
				if err := txn.Set(todoKey(st, t.handle), t.marshal()); err != nil {
					return err
				}
			}
			return txn.Set(store.Key(tableDigest, string(st.address.Onion)), binary.BigEndian.AppendUint64(nil, f.cursor()))
		})
		if err != nil {
			return err
		}
		f.saved = f.cursor()
	}
	for _, t := range found {
		st.todo[t.handle] = t
	}
	page.Handles = slices.DeleteFunc(slices.Clone(page.Handles), func(h mailbox.Handle) bool { return st.todo[h] != nil })
	st.decoys.add(page, begin, end, e.rng)
	return nil
}

// pushed takes a digest page that a courier passed on. What is missing before it becomes a gap, which GETs read.
func (e *Engine) pushed(a mailbox.Address, part []byte) {
	e.mu.Lock()
	st := e.depots[a]
	ok := st != nil && st.own && st.sealer != nil && st.descriptor != nil && st.follow.begun
	e.mu.Unlock()
	if !ok {
		return
	}
	page, err := st.sealer.ParsePushed(part)
	if err != nil {
		e.log.Debug("a pushed digest page does not hold", "err", err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.depots[a] != st || st.descriptor == nil || !st.follow.begun {
		return
	}
	now, bucket, f := time.Now(), st.descriptor.bucket, &st.follow
	from, to, good := page.Buckets()
	_, end := page.Times(bucket)
	if !good || page.Part > 0 || to > mailbox.BucketAt(now.Add(maxSlack), bucket) || !f.news(span{from, to}) {
		return // what is read twice, or is the rest of a page that is read through GETs
	}
	f.slack = max(min(f.slack, now.Sub(end)), -maxSlack) // it is closed: our clock may be behind
	if err := e.readPage(st, page, bucket); err != nil {
		e.log.Warn("keeping a pushed digest page", "err", err)
		f.unreadAgain(span{from, to})
	}
}

// news takes a page that came unasked: false if it was read before. What lies between it and the head becomes a gap.
func (f *follower) news(s span) bool {
	if s.to > f.head {
		if s.from > f.head {
			f.unreadAgain(span{f.head, s.from})
		}
		f.head = s.to
		f.take(s)
		return true
	}
	if f.unread(s.from, s.to) == 0 {
		return false
	}
	f.take(s)
	return true
}

// behind tells whether there is something of the store's digest to be read through GETs, once what is about to be pushed
// is left out.
func (e *Engine) behind(st *depot, p *Profile, now time.Time) bool {
	if !st.knows(now) || !st.follow.begun {
		return false
	}
	f, bucket := &st.follow, st.descriptor.bucket
	grace := min(2*p.Push+2*oneWay+time.Second, bucket*ahead/2)
	f.advance(mailbox.BucketAt(now.Add(-f.slack-grace), bucket), mailbox.BucketAt(now, bucket))
	return len(f.gaps) > 0 || len(f.open) > 0
}

// cursorEvery is how often a cursor is saved though nothing was found.
const cursorEvery = 30 * time.Second

// saveCursors keeps how far the digests were read. Losing it only costs reading again. The caller holds mu.
func (e *Engine) saveCursors() error {
	err := e.kv.Update(func(txn store.Txn) error {
		for _, st := range e.depots {
			if f := &st.follow; st.own && f.begun && f.cursor() != f.saved {
				if err := txn.Set(store.Key(tableDigest, string(st.address.Onion)), binary.BigEndian.AppendUint64(nil, f.cursor())); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, st := range e.depots {
		if f := &st.follow; st.own && f.begun { // of others the disk knows more
			f.saved = f.cursor()
		}
	}
	return nil
}

// drainFor is how long a mailbox that ceased to be one of ours is read: as long as most keep a box.
const drainFor = 14*24*time.Hour + 2*time.Hour

// loadDraining finds the mailboxes that were our own and are not any more, by their cursors. Contacts may not know yet:
// what they leave there is read until it would have expired.
func (e *Engine) loadDraining(now time.Time) error {
	var write, forget []mailbox.Address
	err := e.kv.View(func(r store.Reader) error {
		return scan(r, tableDigest, func(k *store.KeyReader, _ []byte) error {
			name, err := onionid.Parse(k.String())
			if err != nil || k.Err() != nil {
				return errors.Join(ErrRow, err, k.Err())
			}
			a := mailbox.Address{Onion: name}
			row, err := r.Get(store.Key(tableDrain, string(name)))
			switch {
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return err
			case slices.Contains(e.own, a):
				if err == nil {
					forget = append(forget, a) // it is ours again
				}
			case err != nil:
				write = append(write, a)
				e.draining = append(e.draining, a)
			case len(row) == 8 && now.Sub(time.Unix(int64(binary.BigEndian.Uint64(row)), 0)) < drainFor:
				e.draining = append(e.draining, a)
			default:
				forget = append(forget, a)
			}
			return nil
		})
	})
	if err != nil || len(write)+len(forget) == 0 {
		return err
	}
	return e.kv.Update(func(txn store.Txn) error {
		for _, a := range write {
			if err := txn.Set(store.Key(tableDrain, string(a.Onion)), binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))); err != nil {
				return err
			}
		}
		for _, a := range forget {
			if err := txn.Delete(store.Key(tableDrain, string(a.Onion))); err != nil {
				return err
			}
			if !slices.Contains(e.own, a) {
				if err := txn.Delete(store.Key(tableDigest, string(a.Onion))); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// loadDepots reads the cursors and the boxes that are still to be fetched. stale are the rows of those that nobody waits
// for any more: they came by another store, or their contact was forgotten or made anew.
func (e *Engine) loadDepots(r store.Reader, stale *[][]byte) error {
	for _, st := range e.depots {
		if !st.own {
			continue
		}
		name := string(st.address.Onion)
		switch b, err := r.Get(store.Key(tableDigest, name)); {
		case err == nil && len(b) == 8:
			st.follow.saved = binary.BigEndian.Uint64(b)
		case err == nil:
			return fmt.Errorf("digest cursor: %w", ErrRow)
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		err := scanOf(r, tableTodo, name, func(k *store.KeyReader, v []byte) error {
			h := k.String()
			listed, err := parseTodo(v)
			if err != nil || k.Err() != nil || len(h) != mailbox.HandleSize {
				return errors.Join(ErrRow, err, k.Err())
			}
			handle := mailbox.Handle([]byte(h))
			if rf, ok := e.expected[handle]; ok {
				st.todo[handle] = &todo{handle: handle, ref: rf, listed: listed}
			} else {
				*stale = append(*stale, todoKey(st, handle))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// decoys are handles that the digest showed lately, with their time, for the GETs of idle slots.
type decoys struct {
	seen      []decoy // ascending in time, nearly
	perBucket float64 // handles, averaged
}

type decoy struct {
	handle mailbox.Handle
	at     time.Time
}

// maxDecoys bounds what is kept of a store: 32 KiB.
const maxDecoys = 1024

func (d *decoys) add(p mailbox.Page, begin, end time.Time, rng *rand.Rand) {
	span := float64(mailbox.LevelSpan(p.Level))
	d.perBucket += (float64(len(p.Handles))*float64(p.Parts)/span - d.perBucket) / 16
	hs := p.Handles
	if len(hs) > maxDecoys/4 {
		hs = slices.Clone(hs)
		rng.Shuffle(len(hs), func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
		hs = hs[:maxDecoys/4]
	}
	for _, h := range hs {
		d.seen = append(d.seen, decoy{h, begin.Add(time.Duration(rng.Float64() * float64(end.Sub(begin))))})
	}
	slices.SortStableFunc(d.seen, func(a, b decoy) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return bytes.Compare(a.handle[:], b.handle[:])
	})
	if n := len(d.seen) - maxDecoys; n > 0 {
		d.seen = slices.Delete(d.seen, 0, n)
	}
}

// pick takes the handle that is nearest to a time; false: none is known. It is not taken again: who reads one box twice
// shows that it was no box for it.
func (d *decoys) pick(at time.Time, rng *rand.Rand) (mailbox.Handle, bool) {
	if len(d.seen) == 0 {
		return mailbox.Handle{}, false
	}
	i, _ := slices.BinarySearchFunc(d.seen, at, func(x decoy, t time.Time) int { return x.at.Compare(t) })
	if i == len(d.seen) || i > 0 && rng.IntN(2) == 0 {
		i--
	}
	h := d.seen[i].handle
	d.seen = slices.Delete(d.seen, i, i+1)
	return h, true
}

// ages are how old boxes were when they were really read, lately: decoys are drawn from them, because to who sees both
// ends, anything else tells decoys and reads apart (facts: uniform ages give 0.92).
type ages struct {
	last [256]time.Duration
	n    int
}

// fewAges is from how many on they are used.
const fewAges = 16

func (a *ages) add(age time.Duration) {
	a.last[a.n%len(a.last)] = max(age, 0)
	a.n++
}

// draw is an age. While few are known it is what it would be: a part of the bucket, until it is known here, until a GET.
func (a *ages) draw(bucket, listing, wait time.Duration, rng *rand.Rand) time.Duration {
	if a.n >= fewAges {
		return a.last[rng.IntN(min(a.n, len(a.last)))]
	}
	return time.Duration(rng.Float64()*float64(bucket) + rng.ExpFloat64()*float64(listing) + rng.ExpFloat64()*float64(wait))
}
