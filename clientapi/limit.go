// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"sync"
	"time"
)

// A family registers at once and rarely; a guesser asks all day.
const (
	limitBurst = 30              // requests that an address may make at once
	limitEvery = 2 * time.Second // then one per this
	limitKeys  = 1024            // addresses remembered; bounds memory
)

// limiter is a token bucket an address, kept as the time at which the bucket will be full again.
type limiter struct {
	mu   sync.Mutex // guards full, for nanoseconds
	full map[string]time.Time
}

// take uses one up, or says how long to wait.
func (l *limiter) take(key string) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.full == nil {
		l.full = map[string]time.Time{}
	}
	at := l.full[key]
	if at.Before(now) {
		at = now
	}
	at = at.Add(limitEvery)
	if over := at.Sub(now) - limitBurst*limitEvery; over > 0 {
		return over
	}
	if _, known := l.full[key]; !known && len(l.full) >= limitKeys {
		for k, t := range l.full {
			if t.Before(now) {
				delete(l.full, k)
			}
		}
		if len(l.full) >= limitKeys { // all of them busy: whoever comes new waits
			return limitEvery
		}
	}
	l.full[key] = at
	return 0
}
