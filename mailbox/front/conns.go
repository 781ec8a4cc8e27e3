// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conns bounds the connections, so that who holds many, or opens many a second, does not keep others out.
//
// A connection that has not sent a byte costs little, and there may be many of those (silentShare times as many as places); of
// more, one by lot goes. With its first bytes it needs a place, and buffers. When all places are taken, the one that has sent least loses its
// own to the newcomer: an honest request comes at the speed of its circuit, and who wants to displace it must send as much. By lot, and by
// how much came, not by age: a flood is always younger than an honest connection which takes a second to begin.
//
// A connection that stays (a session, a link) gives its place back; others bound how many of those there are.
type conns struct {
	places chan struct{}
	limit  time.Duration // for the first bytes
	wg     sync.WaitGroup

	mu      sync.Mutex // guards all below
	all     map[net.Conn]struct{}
	silent  []*arrival // without a place
	most    int        // of those
	sending map[*arrival]struct{}
	staying map[net.Conn]struct{}
	closed  bool // drain has begun
}

// silentShare is how many connections may wait to send for each that has a place.
const silentShare = 16

// arrival is a connection whose request is not there yet.
type arrival struct {
	net.Conn
	begin [512]byte
	first []byte // of begin: what came, and was not read yet
	got   atomic.Int64
	at    int           // in conns.silent; guarded by conns.mu
	gone  chan struct{} // closed when another takes its place among the silent
}

func (a *arrival) Read(b []byte) (int, error) {
	if len(a.first) > 0 && len(b) > 0 {
		n := copy(b, a.first)
		a.first = a.first[n:]
		return n, nil
	}
	n, err := a.Conn.Read(b)
	a.got.Add(int64(n))
	return n, err
}

func newConns(n int, limit time.Duration) conns {
	return conns{
		places: make(chan struct{}, n), limit: limit, most: silentShare * n, all: map[net.Conn]struct{}{},
		sending: map[*arrival]struct{}{}, staying: map[net.Conn]struct{}{},
	}
}

// serve runs fn on c in a goroutine, once its first bytes are there and there is a place, and then, without a place, what fn
// returned, unless it is nil; c is closed afterwards, or when ctx ends before.
func (p *conns) serve(ctx context.Context, c net.Conn, fn func(c net.Conn, sent func()) (stay func())) {
	a := &arrival{Conn: c, gone: make(chan struct{})}
	p.mu.Lock()
	p.all[c] = struct{}{}
	if len(p.silent) >= p.most {
		b := p.silent[rand.IntN(len(p.silent))]
		p.unwait(b)
		close(b.gone)
		b.Close()
	}
	a.at = len(p.silent)
	p.silent = append(p.silent, a)
	if p.closed {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Go(func() {
		defer func() {
			c.Close()
			p.mu.Lock()
			p.unwait(a)
			delete(p.all, c)
			delete(p.staying, c)
			p.mu.Unlock()
		}()
		if !p.enter(ctx, a) {
			return
		}
		sent := func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.sending, a) // no harm if it is out already
		}
		stay := func() func() {
			defer func() {
				sent()
				<-p.places
			}()
			return fn(a, sent)
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

// enter waits for the first bytes and for a place; false: the connection is over.
func (p *conns) enter(ctx context.Context, a *arrival) bool {
	if err := a.SetReadDeadline(time.Now().Add(p.limit)); err != nil {
		return false
	}
	n, err := a.Read(a.begin[:])
	if n == 0 || err != nil {
		return false
	}
	a.first = a.begin[:n]
	select {
	case p.places <- struct{}{}:
	default:
		p.evict()
		select {
		case p.places <- struct{}{}: // the evicted one's, or that of one which is being answered: soon
		case <-a.gone:
			return false
		case <-ctx.Done():
			return false
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unwait(a)
	p.sending[a] = struct{}{}
	if p.closed {
		a.Close()
	}
	return true
}

// unwait takes it out of the silent, if it is among them; p.mu is held.
func (p *conns) unwait(a *arrival) {
	if a.at < 0 || a.at >= len(p.silent) || p.silent[a.at] != a {
		return
	}
	last := len(p.silent) - 1
	p.silent[a.at] = p.silent[last]
	p.silent[a.at].at = a.at
	p.silent[last] = nil
	p.silent = p.silent[:last]
	a.at = -1
}

// evict closes the connection that has sent least, if one is sending; of several one by lot.
func (p *conns) evict() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var least *arrival
	var got int64
	n := 0
	for a := range p.sending {
		switch g := a.got.Load(); {
		case least == nil || g < got:
			least, got, n = a, g, 1
		case g == got:
			if n++; rand.IntN(n) == 0 {
				least = a
			}
		}
	}
	if least != nil {
		delete(p.sending, least)
		least.Close()
	}
}

// drain ends all connections: those still sending and those that stay at once, the others after limit at the latest.
func (p *conns) drain(limit time.Duration) {
	p.mu.Lock()
	p.closed = true
	for _, a := range p.silent {
		a.Close()
	}
	for a := range p.sending {
		a.Close()
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
