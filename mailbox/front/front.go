// SPDX-License-Identifier: Apache-2.0

// Package front is what a mailbox shows to the network: one onion, one descriptor, one door for both of its roles.
//
// Problem: a store and a courier that live under one onion must look like one thing, and who comes must learn nothing
// from how he is answered: not whether a role is on by another size, not by time what was asked. So there is one accept
// loop; the first UpSize bytes of every connection are read alike, and what they say decides who goes on: an exchange
// is answered and over, a node's session goes to the courier, a courier's link brings it the requests of others.
//
// Here are [Keys] (the onion key, the daily request keys and the signed descriptor, which both roles share) and
// [Server]. Opening and sealing of requests happens here; package mailbox/store only sees what was opened, package
// mailbox/courier only what it is to carry.
//
// Invariants: every answer has one size and, but for sessions, one time, whatever it is; connections, links and what
// is worked on at once are bounded; a connection that does not say what it wants is ended; nothing about a request is
// logged.
//
// Data, under the directory of [OpenKeys] (mode 0700): N.key, the request key of day N (since 1970), 32 bytes;
// destroyed when day N+1 is over.
package front

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"tarn/mailbox"
)

// Defaults of Config.
const (
	DefaultMaxConns   = 512
	DefaultTimeout    = time.Minute
	DefaultAnswerTime = 25 * time.Millisecond
)

// drainTime is how long connections under way may go on when the server stops.
const drainTime = 2 * time.Second

// acceptPause is the wait after an accept that failed for want of something (file descriptors).
const acceptPause = 100 * time.Millisecond

// Store is the role that keeps boxes: *store.Server.
type Store interface {
	// Run works until ctx ends, and gives back what the store took. It is called once. Do is called only meanwhile.
	Run(ctx context.Context) error
	// Do carries out a request that was opened. The body may lie in box, which is the caller's. Concurrent.
	Do(r mailbox.Request, box *[mailbox.BoxSize]byte) (mailbox.Status, []byte)
}

// Config says what a Server is. A zero value is replaced by the default.
type Config struct {
	Keys  *Keys // required
	Store Store // nil: the role is off

	MaxConns int           // exchanges at once; each needs about 50 kB
	Timeout  time.Duration // of an exchange's whole life
	// AnswerTime is how long every answer takes at least, from the last byte of the request. It is longer than nearly
	// all work, so that who watches connections cannot tell a write from a read, or a hit from a miss.
	// Negative: not at all (benchmarks).
	AnswerTime time.Duration

	// Log gets faults of the machine; nil: nothing.
	Log *slog.Logger
}

// Server is the door. It is served by Run.
type Server struct {
	cfg     Config
	conns   conns
	buffers sync.Pool // of *buffers
}

// buffers are what an exchange needs; they are used again.
type buffers struct {
	up   [mailbox.UpSize]byte
	down [mailbox.DownSize]byte
	box  [mailbox.BoxSize]byte
}

// New makes a server; it starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Keys == nil {
		return nil, errors.New("mailbox: no keys")
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.AnswerTime == 0 {
		cfg.AnswerTime = DefaultAnswerTime
	}
	if cfg.MaxConns < 1 || cfg.Timeout < 0 {
		return nil, errors.New("mailbox: an impossible number of connections or time limit")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, conns: newConns(cfg.MaxConns), buffers: sync.Pool{New: func() any { return new(buffers) }}}, nil
}

// Run serves ln, with the roles, until ctx ends or ln fails or a role does. It returns when every connection has ended
// and the roles have given back what they took. It can be called once.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The roles live longer than the connections, which need them.
	roles, stopRoles := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRoles()
	var wg sync.WaitGroup
	var storeErr error
	if s.cfg.Store != nil {
		wg.Go(func() {
			storeErr = s.cfg.Store.Run(roles)
			cancel()
		})
	}
	wg.Go(func() { s.keepKeys(roles) })

	stop := context.AfterFunc(ctx, func() { ln.Close() })
	err := s.acceptLoop(ctx, ln)
	stop()
	ln.Close()
	s.conns.drain(drainTime)
	stopRoles()
	wg.Wait()
	return errors.Join(err, storeErr)
}

// keepKeys makes and destroys request keys with the days, until ctx ends.
func (s *Server) keepKeys(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := s.cfg.Keys.Rotate(now); err != nil {
				s.cfg.Log.Error("mailbox: cannot keep the request keys", "err", err)
			}
		}
	}
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
			s.cfg.Log.Error("mailbox: cannot accept a connection", "err", err)
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

// serve is an exchange's whole life: one request, one answer. sent is called once the request is there.
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
	switch {
	case err != nil:
		mailbox.ClearAnswer(&b.down, mailbox.ClearRefused, nil)
		return
	case h.Kind == mailbox.KindDescriptor:
		mailbox.ClearAnswer(&b.down, mailbox.ClearDescriptor, s.cfg.Keys.Descriptor())
		return
	case h.Kind != mailbox.KindSealed || s.cfg.Store == nil:
		mailbox.ClearAnswer(&b.down, mailbox.ClearRefused, nil)
		return
	}
	key := s.cfg.Keys.Get(h.Epoch)
	if key == nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearStale, nil)
		return
	}
	r, reply, err := mailbox.OpenRequest(&b.up, key, mailbox.RequestInfo(s.cfg.Keys.Onion(), h.Epoch))
	if reply == nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearRefused, nil)
		return
	}
	status, body := s.do(r, err, &b.box)
	mailbox.SealAnswer(&b.down, reply, status, body)
}

// do has a request carried out that was opened; err: to nonsense.
func (s *Server) do(r mailbox.Request, err error, box *[mailbox.BoxSize]byte) (mailbox.Status, []byte) {
	if err != nil || s.cfg.Store == nil {
		return mailbox.StatusRefused, nil
	}
	return s.cfg.Store.Do(r, box)
}
