// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"tarn/mailbox"
)

// Bounds of what the courier reads itself.
const (
	keepPages    = 8                // of a level, of each store that is followed
	maxLevel     = 2                // the highest level whose pages are pushed
	wantedFor    = 10 * time.Minute // a level that no session was pushed for so long is not read any more
	lingers      = 10 * time.Minute // a store that no session follows is read for so long still
	followAgain  = time.Minute      // after a store could not be followed; and how long one has that is not reached
	fetchTimeout = time.Minute
	fetchPause   = 30 * time.Second // after a failure
	maxCatchUp   = 3                // pages that are read after a stall; older ones are not
)

// follower reads the digest of one store for all sessions that follow it: one fetch a page.
type follower struct {
	target [32]byte

	// Guarded by Server.mu.
	slack    time.Duration // mailbox.Slack of its clock
	sessions int           // that follow it
	began    time.Time     // when the first came
	idle     time.Time     // since when there are none
	bucket   time.Duration // 0: not known yet
	pages    [maxLevel + 1][]page
	wanted   [maxLevel + 1]time.Time // when a session was pushed pages of that level
}

// page is what there is to push; part is nil if the page does not fit a page frame.
type page struct {
	index uint64
	part  []byte
}

// follow makes the session follow these stores from now on. It is called by the session's reader alone, with each frame: a store
// that could not be followed, or whose place another got, is tried again.
func (x *session) follow(stores [][32]byte) {
	x.mu.Lock()
	if !slices.Equal(x.follows, stores) {
		x.follows = slices.Clone(stores)
		x.pushed = nil
	}
	x.mu.Unlock()
	now, s := time.Now(), x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, f := range x.counted {
		if s.follows[t] != f || !slices.Contains(stores, t) {
			f.leave(now)
			delete(x.counted, t)
		}
	}
	if now.Sub(x.refused) < followAgain {
		return
	}
	for _, t := range stores {
		if x.counted[t] != nil {
			continue
		}
		if f := s.followerLocked(t, now); f != nil {
			f.sessions++
			x.counted[t] = f
		} else {
			x.refused = now
		}
	}
}

// followerLocked is who reads that store's digest; nil: it has no place. s.mu is held.
func (s *Server) followerLocked(t [32]byte, now time.Time) *follower {
	if f := s.follows[t]; f != nil {
		return f
	}
	if t != s.self && len(s.follows) >= s.cfg.MaxLinks && !s.dropFollowerLocked(now) {
		return nil
	}
	f := &follower{target: t, began: now}
	f.wanted[0] = now
	if !s.spawnLocked(func() { s.readDigest(f) }) {
		return nil
	}
	s.follows[t] = f
	return f
}

// dropFollowerLocked forgets a store that is followed and was not reached though there was time for it, if there is one, one that
// no session follows any more first; s.mu is held. Who is followed in earnest was asked for its descriptor before.
func (s *Server) dropFollowerLocked(now time.Time) bool {
	var drop *follower
	for t, f := range s.follows {
		if f.bucket == 0 && t != s.self && now.Sub(f.began) >= followAgain && !s.provenLocked(t) && (drop == nil || f.sessions == 0) {
			drop = f
		}
	}
	if drop == nil {
		return false
	}
	delete(s.follows, drop.target)
	return true
}

// leave says that a session does not follow it any more; Server.mu is held.
func (f *follower) leave(now time.Time) {
	if f.sessions--; f.sessions == 0 {
		f.idle = now
	}
}

// nextPush is when the next page frame of a session with that push leaves: the same times for all.
func (s *Server) nextPush(now time.Time, push time.Duration) time.Time {
	ms, lag := push.Milliseconds(), s.cfg.PushLag.Milliseconds()
	return time.UnixMilli(((now.UnixMilli()-lag)/ms+1)*ms + lag)
}

// pushes is what a session was pushed of one store.
type pushes struct {
	newest mailbox.PageAddr // of what there was
	missed []uint64         // pages of that level, before it, that did not fit; at most keepPages
}

// pages takes what is to be pushed now, whole pages, as many as fit: of each followed store the newest that the session
// has not had, each time beginning with another store; then those that did not fit before, the newest first. What is
// older than keepPages is not made up for: the node reads it. What is chosen depends on the stores that are followed,
// and on nothing else that the node does.
func (x *session) pages() []mailbox.PushedPage {
	x.mu.Lock()
	follows, pushed := x.follows, x.pushed
	x.turn++
	turn := x.turn
	x.mu.Unlock()
	type want struct {
		store [32]byte
		page
	}
	var fresh, older []want
	now := time.Now()
	next := map[[32]byte]pushes{}
	s := x.s
	s.mu.Lock()
	for i := range follows {
		t := follows[(i+turn)%len(follows)]
		f := s.follows[t]
		if f == nil || f.bucket == 0 {
			continue
		}
		level := uint8(0)
		for l := uint8(1); l <= maxLevel; l++ {
			if time.Duration(mailbox.LevelSpan(l))*f.bucket <= x.push {
				level = l
			}
		}
		f.wanted[level] = now
		had, ok := pushed[t]
		if ok = ok && had.newest.Level == level; !ok {
			had = pushes{}
		}
		last, first := had.newest.Index, true
		for _, p := range slices.Backward(f.pages[level]) {
			switch {
			case !ok || p.index > last:
				if w := (want{t, p}); first {
					first, had.newest = false, mailbox.PageAddr{Level: level, Index: p.index}
					fresh = append(fresh, w)
				} else {
					older = append(older, w)
				}
			case slices.Contains(had.missed, p.index):
				older = append(older, want{t, p})
			}
			if !ok {
				break // it only begins: the newest
			}
		}
		had.missed = nil
		if ok || !first {
			next[t] = had
		}
	}
	s.mu.Unlock()
	slices.SortStableFunc(older, func(a, b want) int { return cmp.Compare(b.index, a.index) })
	var out []mailbox.PushedPage
	room := mailbox.PushedRoom
	for _, w := range append(fresh, older...) {
		if w.part == nil {
			continue // it never fits
		}
		if n := mailbox.PushedOverhead + len(w.part); n <= room {
			out, room = append(out, mailbox.PushedPage{Store: w.store, Part: w.part}), room-n
			continue
		}
		h := next[w.store]
		h.missed = append(h.missed, w.index)
		next[w.store] = h
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pushed = next
	return out
}

// readDigest reads the pages of a store as they are closed, while sessions follow it.
func (s *Server) readDigest(f *follower) {
	var done [maxLevel + 1]uint64 // pages below were read, or are not worth it any more
	c := mailbox.NewClient(addressOf(f.target), s.cfg.Dial)
	for s.ctx.Err() == nil {
		d, ok := c.Current()
		if !ok || d.Bucket == 0 {
			raw, err := s.describe(nil, f.target)
			if err == nil {
				d, err = c.SetDescriptor(raw)
			}
			if err != nil || d.Bucket == 0 {
				if s.sleep(fetchPause) != nil || s.abandoned(f, 0) {
					return
				}
				continue
			}
		}
		if s.abandoned(f, d.Bucket) {
			return
		}
		now := time.Now()
		levels, slack := s.wantedLevels(f, now)
		theirs := now.Add(-slack)
		var next time.Time
		for _, level := range levels {
			at := mailbox.PageAt(level, theirs, d.Bucket)
			if done[level] > at.Index { // the store's clock is behind what we took it for
				done[level] = 0
			}
			done[level] = max(done[level], at.Index-min(at.Index, maxCatchUp))
			done[level] += s.readPages(f, c, level, done[level], at.Index)
			_, end := at.Times(d.Bucket)
			if next.IsZero() || end.Before(next) {
				next = end
			}
		}
		// A moment later, for clocks that are not quite right.
		_, slack = s.wantedLevels(f, now)
		if s.sleep(max(time.Until(next.Add(slack)), 0)+min(d.Bucket/8, 100*time.Millisecond)) != nil {
			return
		}
	}
}

// wantedLevels are the levels to read, and the follower's slack.
func (s *Server) wantedLevels(f *follower, now time.Time) (out []uint8, slack time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, at := range f.wanted {
		if !at.IsZero() && now.Sub(at) < wantedFor {
			out = append(out, uint8(l))
		}
	}
	if len(out) == 0 {
		out = []uint8{0} // nobody is pushed anything now: what a newcomer wants first
	}
	return out, f.slack
}

// abandoned notes the store's bucket, and whether its digest need not be read any more: then the follower is gone, if it
// is not already.
func (s *Server) abandoned(f *follower, bucket time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follows[f.target] != f {
		return true
	}
	if f.bucket = bucket; f.sessions == 0 && time.Since(f.idle) > lingers {
		delete(s.follows, f.target)
		return true
	}
	return false
}

// readPages reads the pages of a level from one index to before another, at most maxCatchUp, all at once: where a bucket is shorter than the way to
// the store and back, one after the other would fall behind. It keeps them in their order, up to the first that did not come, and says how many are
// done with.
func (s *Server) readPages(f *follower, c *mailbox.Client, level uint8, from, to uint64) (done uint64) {
	type result struct {
		page *page
		ok   bool
	}
	results := make([]result, to-from)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			results[i].page, results[i].ok = s.readPage(f, c, mailbox.PageAddr{Level: level, Index: from + uint64(i)})
		})
	}
	all.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range results {
		if !r.ok {
			break
		}
		done++
		if r.page != nil {
			f.pages[level] = append(f.pages[level], *r.page)
		}
	}
	if n := len(f.pages[level]); n > keepPages {
		f.pages[level] = slices.Clone(f.pages[level][n-keepPages:])
	}
	return done
}

// readPage reads one page; false: it is to be tried again with the next. nil: there is nothing to push of it.
func (s *Server) readPage(f *follower, c *mailbox.Client, at mailbox.PageAddr) (*page, bool) {
	learn := func(closed uint64, asked time.Time) {
		s.mu.Lock()
		defer s.mu.Unlock()
		f.slack = mailbox.Slack(f.slack, f.bucket, closed, asked, time.Now())
	}
	for try := range 3 {
		asked := time.Now()
		h, err := c.SealGet(mailbox.Request{Op: mailbox.OpDigest, Page: at}, 0)
		if err != nil {
			return nil, false
		}
		r := h.Take()
		s.forward(nil, r.Target, r.Epoch, r.Box, nil, h.Resolve)
		ctx, cancel := context.WithTimeout(s.ctx, fetchTimeout)
		_, body, err := h.Wait(ctx)
		cancel()
		var early mailbox.EarlyError
		switch {
		case errors.As(err, &early):
			learn(early.Closed, asked)
			if try == 2 || s.sleep(time.Second) != nil {
				return nil, false
			}
			continue
		case errors.Is(err, mailbox.ErrTooMany), errors.Is(err, mailbox.ErrGone):
			return nil, true
		case errors.Is(err, mailbox.ErrNoDescriptor):
			s.forget(f.target)
			if raw, err := s.describe(nil, f.target); err == nil {
				c.SetDescriptor(raw) //nolint:errcheck // if it is no good the next page fails too
			}
			return nil, false
		case err != nil:
			return nil, false
		}
		p, err := c.ReadPage(at, body)
		if err != nil {
			return nil, false
		}
		learn(p.Closed, asked)
		g := &page{index: at.Index}
		if p.Parts == 1 && p.Size()+mailbox.PushedOverhead <= mailbox.PushedRoom {
			g.part = p.Bytes()
		}
		return g, true
	}
	return nil, false
}

func (s *Server) sleep(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
