// SPDX-License-Identifier: Apache-2.0

package account

import (
	"sync"
	"time"
)

// How many wrong passwords are let through: at first, and then one a period. Right ones cost nothing. The numbers
// let a family mistype as it does, and an attacker try some ten thousand a day of one user.
var (
	perPair   = rate{burst: 10, period: 10 * time.Second} // one user from one address
	perRemote = rate{burst: 30, period: 3 * time.Second}  // all users from one address
	perUser   = rate{burst: 60, period: 5 * time.Second}  // one user from all addresses where that user never logged in
)

// maxBuckets bounds the memory of the limiter (about 2 MB).
const maxBuckets = 10_000

type rate struct {
	burst  int
	period time.Duration
}

// bucket holds what is spent; it empties with time. It is kept as the moment when it will be empty.
type bucket struct {
	rate  rate
	empty time.Time
}

// wait is how long until one more fits.
func (b *bucket) wait(now time.Time) time.Duration {
	full := time.Duration(b.rate.burst) * b.rate.period
	return max(0, b.empty.Add(b.rate.period).Sub(now)-full)
}

func (b *bucket) spend(now time.Time) {
	if b.empty.Before(now) {
		b.empty = now
	}
	b.empty = b.empty.Add(b.rate.period)
}

// limiter slows down who guesses passwords. It counts by user and address together, so that somebody elsewhere
// cannot lock a user out: where the user has logged in before, only attempts from that same address count.
// A nil limiter lets all through.
type limiter struct {
	mu      sync.Mutex // guards what follows, for moments
	buckets map[limitKey]*bucket
	known   map[limitKey]struct{} // (user, address) that had the right password
}

// limitKey: an empty user means all, an empty remote too.
type limitKey struct {
	user, remote string
	all          byte // 'u': of all remotes, 'r': of all users, 0: the pair
}

func newLimiter() *limiter {
	return &limiter{buckets: map[limitKey]*bucket{}, known: map[limitKey]struct{}{}}
}

// attempt counts an attempt before it is made (so that many at once do not slip through), or says Limited.
// giveBack is called if the password was right.
func (l *limiter) attempt(user, remote string) (giveBack func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	user, remote = clip(user), clip(remote)
	pair := limitKey{user: user, remote: remote}
	use := []*bucket{l.bucket(pair, perPair, now), l.bucket(limitKey{remote: remote, all: 'r'}, perRemote, now)}
	if _, ok := l.known[pair]; !ok {
		use = append(use, l.bucket(limitKey{user: user, all: 'u'}, perUser, now))
	}
	var wait time.Duration
	for _, b := range use {
		wait = max(wait, b.wait(now))
	}
	if wait > 0 {
		return nil, Limited{RetryAfter: wait}
	}
	for _, b := range use {
		b.spend(now)
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, b := range use {
			b.empty = b.empty.Add(-b.rate.period)
		}
		if len(l.known) >= maxBuckets {
			clear(l.known)
		}
		l.known[pair] = struct{}{}
	}, nil
}

// bucket finds or makes one. l.mu is held.
func (l *limiter) bucket(key limitKey, r rate, now time.Time) *bucket {
	if b := l.buckets[key]; b != nil {
		return b
	}
	if len(l.buckets) >= maxBuckets {
		for k, b := range l.buckets {
			if b.empty.Before(now) {
				delete(l.buckets, k)
			}
		}
		for k := range l.buckets { // still full: forget any, rather than grow
			if len(l.buckets) < maxBuckets*9/10 {
				break
			}
			delete(l.buckets, k)
		}
	}
	b := &bucket{rate: r, empty: now}
	l.buckets[key] = b
	return b
}

// clip bounds what a stranger can make us remember.
func clip(s string) string { return s[:min(len(s), 255)] }
