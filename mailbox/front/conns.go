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
// loses its own to the newcomer: who holds connections open without a request cannot keep others out.
type conns struct {
	places chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex // guards all below
	all     map[net.Conn]struct{}
	sending *list.List // of net.Conn, oldest first: requests that are not there yet
}

func newConns(n int) conns {
	return conns{places: make(chan struct{}, n), all: map[net.Conn]struct{}{}, sending: list.New()}
}

// serve runs fn on c in a goroutine, once there is a place; c is closed afterwards, or when ctx ends before.
func (p *conns) serve(ctx context.Context, c net.Conn, fn func(c net.Conn, sent func())) {
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
			sent()
			c.Close()
			p.mu.Lock()
			delete(p.all, c)
			p.mu.Unlock()
			<-p.places
		}()
		fn(c, sent)
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

// drain ends all connections: those still sending at once, the others after limit at the latest.
func (p *conns) drain(limit time.Duration) {
	p.mu.Lock()
	for e := p.sending.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
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
