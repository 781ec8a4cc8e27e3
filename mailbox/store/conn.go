// SPDX-License-Identifier: Apache-2.0

package store

import (
	"container/list"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// drainTime is how long connections under way may go on when the store stops.
const drainTime = 2 * time.Second

// acceptPause is the wait after an accept that failed for want of something (file descriptors).
const acceptPause = 100 * time.Millisecond

// buffers are what a connection needs; they are used again.
type buffers struct {
	up   [mailbox.UpSize]byte
	down [mailbox.DownSize]byte
	box  [mailbox.BoxSize]byte
}

// acceptLoop serves connections until ctx ends (nil) or the listener is of no use any more.
func (s *Server) acceptLoop(ctx context.Context, ln net.Listener) error {
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return err
		}
		if err != nil {
			s.fault("accept a connection", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(acceptPause):
			}
			continue
		}
		s.conns.serve(ctx, c, s.serve)
	}
}

// serve is a connection's whole life: one request, one answer. sent is called once the request is there.
func (s *Server) serve(c net.Conn, sent func()) {
	if err := c.SetDeadline(time.Now().Add(s.cfg.Timeout)); err != nil {
		return
	}
	b := s.buffers.Get().(*buffers)
	defer s.buffers.Put(b)
	if _, err := io.ReadFull(c, b.up[:]); err != nil {
		return // nobody to tell, nothing to log
	}
	sent()
	began := time.Now()
	s.answer(b)
	if wait := s.cfg.AnswerTime - time.Since(began); wait > 0 {
		time.Sleep(wait)
	}
	c.Write(b.down[:]) //nolint:errcheck // the client asks again if it has not got the answer
}

// answer fills b.down with the answer to b.up.
func (s *Server) answer(b *buffers) {
	h, err := mailbox.ParseHeader(&b.up)
	if err != nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearRefused, nil)
		return
	}
	if h.Kind == mailbox.KindDescriptor {
		mailbox.ClearAnswer(&b.down, mailbox.ClearDescriptor, s.keys.current())
		return
	}
	key := s.keys.get(h.Epoch)
	if key == nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearStale, nil)
		return
	}
	r, reply, err := mailbox.OpenRequest(&b.up, key, mailbox.RequestInfo(s.onion(), h.Epoch))
	if reply == nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearRefused, nil)
		return
	}
	if err != nil {
		mailbox.SealAnswer(&b.down, reply, mailbox.StatusRefused, nil)
		return
	}
	s.do(b, r, reply)
}

// do carries out a request that was opened.
func (s *Server) do(b *buffers, r mailbox.Request, reply *sealed.Reply) {
	status, body := mailbox.StatusOK, []byte(nil)
	switch r.Op {
	case mailbox.OpPut:
		status = putStatus(s.put(r.ID, (*[mailbox.BoxSize]byte)(r.Box)))
	case mailbox.OpGet:
		found, err := s.engine.Get(r.Get, &b.box)
		if err != nil {
			s.fault("read a box", err)
			status = mailbox.StatusBusy
			break
		}
		if !found {
			rand.Read(b.box[:]) // a filler: only who holds the box's key can tell
		}
		body = b.box[:]
	case mailbox.OpDigest:
		part, err := s.pages.part(r.Page, time.Now())
		if err != nil {
			var known bool
			if status, known = pageStatus(err); !known {
				s.fault("read a digest", err)
			}
			break
		}
		body = part
	}
	mailbox.SealAnswer(&b.down, reply, status, body)
}

func putStatus(err error) mailbox.Status {
	switch {
	case err == nil:
		return mailbox.StatusOK
	case errors.Is(err, mailbox.ErrExists):
		return mailbox.StatusExists
	case errors.Is(err, mailbox.ErrFull):
		return mailbox.StatusFull
	}
	return mailbox.StatusBusy
}

// AddressOf is the address of the mailbox with that onion key: what others are told.
func AddressOf(onion ed25519.PrivateKey) mailbox.Address {
	return mailbox.Address{Onion: onionid.FromKey(onion.Public().(ed25519.PublicKey))}
}

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
