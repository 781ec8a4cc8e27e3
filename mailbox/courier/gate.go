// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"context"
	"sync"
	"time"
)

// gate lets a few pass at once. Of those that wait who came to the courier first goes first, and when too many wait who came
// last gives way: so a crowd that came yesterday does not stand before those who have been here for weeks.
type gate struct {
	most int // that wait

	mu      sync.Mutex // guards all below
	free    int
	waiting []*waiter
}

type waiter struct {
	since  time.Time
	passes chan bool // one value: whether it may
}

func newGate(places, waiting int) *gate { return &gate{most: waiting, free: places} }

// enter waits for a place; false: there is none, or ctx ended. since is when who wants to pass came.
func (g *gate) enter(ctx context.Context, since time.Time) bool {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return true
	}
	w := &waiter{since, make(chan bool, 1)}
	if len(g.waiting) >= g.most {
		last := 0
		for i, o := range g.waiting {
			if o.since.After(g.waiting[last].since) {
				last = i
			}
		}
		if len(g.waiting) == 0 || !since.Before(g.waiting[last].since) {
			g.mu.Unlock()
			return false
		}
		g.waiting[last].passes <- false
		g.waiting[last] = w
	} else {
		g.waiting = append(g.waiting, w)
	}
	g.mu.Unlock()
	select {
	case ok := <-w.passes:
		return ok
	case <-ctx.Done():
	}
	g.mu.Lock()
	for i, o := range g.waiting {
		if o == w {
			g.remove(i)
			g.mu.Unlock()
			return false
		}
	}
	g.mu.Unlock()
	if <-w.passes { // it was let through meanwhile
		g.leave()
	}
	return false
}

// leave gives the place to the next.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.free++
		return
	}
	first := 0
	for i, o := range g.waiting {
		if o.since.Before(g.waiting[first].since) {
			first = i
		}
	}
	g.waiting[first].passes <- true
	g.remove(first)
}

func (g *gate) remove(i int) {
	g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
}
