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
// Invariants: every answer has one size and, but for sessions, the same time as the others, whatever it is; connections, links and what
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
	"runtime"
	"sync"
	"time"

	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// Defaults of Config.
const (
	DefaultMaxConns   = 512
	DefaultMaxLinks   = 256
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
	// Failed returns when the store is of no use any more until it is opened again, with the reason; nil when ctx ends before.
	Failed(ctx context.Context) error
}

// Courier is the role that carries: *courier.Server.
type Courier interface {
	// Attach is called once, before all else: local carries out the halves that are for this very mailbox (Server.Half).
	Attach(local func(epoch uint32, box []byte, describe func(onion [32]byte) ([]byte, error)) []byte)
	// Run works until ctx ends. It is called once. Hello is called only meanwhile.
	Run(ctx context.Context) error
	// Hello answers the hello of a session, whose key is of that epoch. What is sealed is opened within opening, which waits for
	// its turn. serve, unless it is nil, is called after the answer
	// was written, and lasts as long as the session; it ends when the connection is closed. Concurrent.
	Hello(epoch uint32, up *[mailbox.UpSize]byte, down *[mailbox.DownSize]byte, opening func(func())) (serve func(net.Conn))
	// Carry is called for each link. What it returns takes the link's halves that have layers, which it peels within opening, whose
	// function says whether that went well; it does not wait for anything else, and calls answer once at most, at once or later, from any goroutine.
	Carry(opening func(func() bool)) func(epoch uint32, box []byte, answer func([]byte))
}

// Config says what a Server is. A zero value is replaced by the default.
type Config struct {
	Keys    *Keys   // required
	Store   Store   // nil: the role is off
	Courier Courier // nil: the role is off

	MaxConns int           // exchanges at once; each needs about 50 kB
	MaxLinks int           // links of couriers at once; each needs about 20 kB, and more while it brings requests
	Timeout  time.Duration // of an exchange's whole life
	// AnswerTime is how long every answer takes at least, from the last byte of the request, so that who watches
	// connections cannot tell a write from a read, or a hit from a miss. If the machine is slower, all answers take its
	// double, or that one's, up to 32 times (pace). Negative: not at all (benchmarks).
	AnswerTime time.Duration

	// Log gets faults of the machine; nil: nothing.
	Log *slog.Logger
}

// Server is the door. It is served by Run.
type Server struct {
	cfg     Config
	conns   conns
	links   links
	opening chan struct{} // places of those for whom something sealed by a stranger is being opened
	pace    pace
	buffers sync.Pool // of *buffers
}

// buffers are what an exchange needs; they are used again.
type buffers struct {
	up   [mailbox.UpSize]byte
	down [mailbox.DownSize]byte
	box  [mailbox.BoxSize]byte
	op   mailbox.Op // of the request; 0: none was opened
}

// New makes a server; it starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Keys == nil {
		return nil, errors.New("mailbox: no keys")
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = DefaultMaxConns
	}
	if cfg.MaxLinks == 0 {
		cfg.MaxLinks = DefaultMaxLinks
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.AnswerTime == 0 {
		cfg.AnswerTime = DefaultAnswerTime
	}
	if cfg.MaxConns < 1 || cfg.MaxLinks < 1 || cfg.Timeout < 0 {
		return nil, errors.New("mailbox: an impossible number of connections or time limit")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, opening: make(chan struct{}, openingPlaces()), conns: newConns(cfg.MaxConns, cfg.Timeout), links: newLinks(cfg.MaxLinks), pace: newPace(cfg.AnswerTime), buffers: sync.Pool{New: func() any { return new(buffers) }}}
	if cfg.Courier != nil {
		cfg.Courier.Attach(s.Half)
	}
	return s, nil
}

// openingPlaces is how many sealed things are opened at once for those who connect, and as many again for what links and the
// courier's own sessions bring. Opening is what a stranger can make a mailbox work most for his bytes. However many come, what else
// there is to do (frames, the disk) stands beside so many openings, not behind hundreds; and neither kind of stranger waits for
// the other.
func openingPlaces() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// open runs fn when it has its turn among what those who connect want opened.
func (s *Server) open(fn func()) {
	s.opening <- struct{}{}
	defer func() { <-s.opening }()
	fn()
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
	var storeErr, failure, courierErr error
	if s.cfg.Store != nil {
		wg.Go(func() {
			if failure = s.cfg.Store.Failed(roles); failure != nil {
				cancel()
			}
		})
		wg.Go(func() {
			storeErr = s.cfg.Store.Run(roles)
			cancel()
		})
	}
	courier, stopCourier := context.WithCancel(roles)
	defer stopCourier()
	var carrying sync.WaitGroup
	if s.cfg.Courier != nil {
		carrying.Go(func() {
			courierErr = s.cfg.Courier.Run(courier)
			cancel()
		})
	}
	wg.Go(func() { s.keepKeys(roles) })

	stop := context.AfterFunc(ctx, func() { ln.Close() })
	err := s.acceptLoop(ctx, ln)
	stop()
	ln.Close()
	s.conns.drain(drainTime)
	stopCourier()
	carrying.Wait() // it may still hand halves to the store
	stopRoles()
	wg.Wait()
	return errors.Join(err, failure, storeErr, courierErr)
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

// serve is an exchange's whole life: one request, one answer. sent is called once the request is there. What begins a
// session or a link goes on with stay.
func (s *Server) serve(c net.Conn, sent func()) (stay func()) {
	if err := c.SetDeadline(time.Now().Add(s.cfg.Timeout)); err != nil {
		return nil
	}
	b := s.buffers.Get().(*buffers)
	defer s.buffers.Put(b)
	if _, err := io.ReadFull(c, b.up[:]); err != nil {
		return nil // nobody to tell, nothing to log
	}
	sent()
	came := time.Now()
	goOn := s.answer(b)
	time.Sleep(s.pace.wait(came, b.op))
	_, err := c.Write(b.down[:]) // if that fails the client asks again
	if goOn == nil {
		return nil
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		c.Close() // goOn still has a place to give back
	}
	return func() { goOn(c) }
}

// answer fills b.down with the answer to b.up. goOn, unless it is nil, serves what begins with it.
func (s *Server) answer(b *buffers) (goOn func(net.Conn)) {
	h, err := mailbox.ParseHeader(&b.up)
	b.op = 0
	switch {
	case err != nil:
	case h.Kind == mailbox.KindDescriptor:
		mailbox.ClearAnswer(&b.down, mailbox.ClearDescriptor, s.cfg.Keys.Descriptor())
		return nil
	case h.Kind == mailbox.KindSealed && s.cfg.Store != nil:
		s.exchange(b, h.Epoch)
		return nil
	case h.Kind == mailbox.KindSession && s.cfg.Courier != nil:
		return s.cfg.Courier.Hello(h.Epoch, &b.up, &b.down, s.open)
	case h.Kind == mailbox.KindLink: // for a store, or for a courier that is not the first
		return s.welcomeLink(b)
	}
	mailbox.ClearAnswer(&b.down, mailbox.ClearRefused, nil)
	return nil
}

// exchange answers a sealed request of direct mode.
func (s *Server) exchange(b *buffers, epoch uint32) {
	key := s.cfg.Keys.Get(epoch)
	if key == nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearStale, nil)
		return
	}
	var r mailbox.Request
	var reply *sealed.Reply
	var err error
	s.open(func() {
		r, reply, err = mailbox.OpenRequest(&b.up, key, mailbox.RequestInfo(s.cfg.Keys.Onion(), epoch))
	})
	if reply == nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearRefused, nil)
		return
	}
	b.op = r.Op
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
