// SPDX-License-Identifier: Apache-2.0

package front

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"
)

// conns bounds the connections. When all places are taken, the one that has been sending its request for longest
// loses its own to the newcomer: who holds connections open without a request cannot keep others out. A connection that
// stays (a session, a link) gives its place back; others bound how many of those there are.
type conns struct {
	places chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex // guards all below
	all     map[net.Conn]struct{}
	sending *list.List // of net.Conn, oldest first: requests that are not there yet
	staying map[net.Conn]struct{}
	closed  bool // drain has begun
}

func newConns(n int) conns {
	return conns{
		places: make(chan struct{}, n), all: map[net.Conn]struct{}{}, sending: list.New(), staying: map[net.Conn]struct{}{},
	}
}

// serve runs fn on c in a goroutine, once there is a place, and then, without a place, what fn returned, unless it is
// nil; c is closed afterwards, or when ctx ends before.
func (p *conns) serve(ctx context.Context, c net.Conn, fn func(c net.Conn, sent func()) (stay func())) {
	select {
	case p.places <- struct{}{}:
	default:
		p.evict()
		select {
		case p.places <- struct{}{}: // the evicted one's, or that of one which is being answered: soon
		case <-ctx.Done():
			c.Close()
			return
		}
	}
	p.mu.Lock()
	p.all[c] = struct{}{}
	e := p.sending.PushBack(c)
	p.mu.Unlock()
	sent := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sending.Remove(e) // no harm if it is out already
	}
	p.wg.Go(func() {
		defer func() {
			c.Close()
			p.mu.Lock()
			delete(p.all, c)
			delete(p.staying, c)
			p.mu.Unlock()
		}()
		stay := func() func() {
			defer func() {
				sent()
				<-p.places
			}()
			return fn(c, sent)
		}()
		if stay == nil {
			return
		}
		p.mu.Lock()
		p.staying[c] = struct{}{}
		if p.closed {
			c.Close() // stay sees it at once
		}
		p.mu.Unlock()
		stay()
	})
}

// evict closes the connection that has been sending for longest, if there is one.
func (p *conns) evict() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.sending.Front(); e != nil {
		p.sending.Remove(e).(net.Conn).Close()
	}
}

// drain ends all connections: those still sending and those that stay at once, the others after limit at the latest.
func (p *conns) drain(limit time.Duration) {
	p.mu.Lock()
	p.closed = true
	for e := p.sending.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
	for c := range p.staying {
		c.Close()
	}
	p.mu.Unlock()
	late := time.AfterFunc(limit, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for c := range p.all {
			c.Close()
		}
	})
	defer late.Stop()
	p.wg.Wait()
}
