// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"slices"
	"time"

	"tarn/mailbox"
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
