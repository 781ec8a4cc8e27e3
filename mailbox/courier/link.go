// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"tarn/mailbox"
)

// Bounds of links.
const (
	maxDialling = 16               // dials at once, of targets that were reached before
	maxTrying   = 8                // and of others
	maxTriers   = 64               // that wait for one of those
	linkIdle    = 10 * time.Minute // a link without requests for so long is closed
	linkEvict   = time.Minute      // one that has been unused for so long loses its place to another
	answerTime  = 2 * time.Minute  // what has no answer then is given up
	dialTimeout = 2 * time.Minute

	minBackoff = 5 * time.Second // after a failed dial nothing is tried for so long, and then for twice as long each time
	maxBackoff = 5 * time.Minute

	sessionDials     = 8                // a session may make the courier dial so many targets at once …
	sessionDialEvery = 30 * time.Second // … and one more each time that long
)

// failure is a target that could not be reached.
type failure struct {
	at   time.Time
	wait time.Duration
}

// link is the one connection with a store, on which the requests of all sessions for it go.
type link struct {
	s       *Server
	target  [32]byte
	proven  bool // it was reached before
	since   time.Time
	out     *turns
	evicted chan struct{} // closed when another link takes its place

	mu      sync.Mutex // guards all below
	over    bool
	used    time.Time
	tag     uint32
	waiting map[uint32]wait
}

// request is a half on its way to a store.
type request struct {
	epoch uint32
	box   []byte
	sent  func()              // called once or more when the box is not held any more; done may come before
	done  func(answer []byte) // called once
}

type wait struct {
	size int // of the half
	by   time.Time
	done func(answer []byte)
}

// after calls fn after d, in a goroutine of its own, unless the courier ends before. The runtime's timers are the heap. What is due needs none (and two
// timers that are due when they are made can crash a test in made-up time: Go 1.26 runs them at once, both under the bubble's one race context).
func (s *Server) after(d time.Duration, fn func()) {
	run := func() {
		if s.ctx.Err() == nil {
			fn()
		}
	}
	if d <= 0 {
		go run()
		return
	}
	time.AfterFunc(d, run)
}

// spawn runs fn in a goroutine that Run waits for; false: the courier ends.
func (s *Server) spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spawnLocked(fn)
}

func (s *Server) spawnLocked(fn func()) bool {
	if s.ctx.Err() != nil {
		return false
	}
	s.wg.Go(fn)
	return true
}

// forward hands a half to its target. done gets the answer once, at once or later, from any goroutine; sent, unless it is
// nil, is called when the half has left, if it ever does.
func (s *Server) forward(x payer, target [32]byte, epoch uint32, box []byte, sent func(), done func(answer []byte)) {
	if target == s.self {
		s.spawn(func() {
			half, fill := mailbox.OwnHalf(box)
			done(fill(s.local(epoch, half, func(onion [32]byte) ([]byte, error) {
				if x == nil || !x.asks(1) {
					return nil, errDescriptor
				}
				defer x.asks(-1)
				return s.describe(x, onion)
			})))
		})
		return
	}
	l := s.link(x, target)
	if l == nil || !l.send(x, request{epoch, box, sent, done}) {
		done(mailbox.RefuseHalf(len(box), mailbox.ClearUnreachable))
	}
}

// link is the link with that target; a new one is dialled. nil: not now. x pays for the dial; nil: the courier itself.
func (s *Server) link(x payer, target [32]byte) *link {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.links[target]; l != nil {
		return l
	}
	if f, ok := s.failed[target]; ok && now.Sub(f.at) < f.wait {
		return nil
	}
	if len(s.links) >= s.cfg.MaxLinks && !s.evictLink(now) || x != nil && !x.mayDial(now) {
		return nil
	}
	l := &link{s: s, target: target, proven: s.provenLocked(target), since: since(x), out: newTurns(), evicted: make(chan struct{}), used: now, waiting: map[uint32]wait{}}
	if !s.spawnLocked(l.run) {
		return nil
	}
	s.links[target] = l
	return l
}

// provenLocked tells whether the target was reached lately; s.mu is held.
func (s *Server) provenLocked(target [32]byte) bool {
	k := s.known[target]
	return k != nil && k.reached
}

// passTo waits until the target may be dialled, for who came then; nil: not now. The pass is to be given back.
func (s *Server) passTo(ctx context.Context, proven bool, since time.Time) (leave func()) {
	g := s.trying
	if proven {
		g = s.dialling
	}
	if !g.enter(ctx, since) {
		return nil
	}
	return g.leave
}

func (x *session) since() time.Time { return x.began }

func (x *session) asks(n int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n > 0 && x.asking >= maxAsking {
		return false
	}
	x.asking += n
	return true
}

func (x *session) mayDial(now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.dials.try(now)
}

// evictLink closes the link that has been unused for longest, if nothing is waited for on it. s.mu is held.
func (s *Server) evictLink(now time.Time) bool {
	var idlest *link
	var since time.Time
	for _, l := range s.links {
		l.mu.Lock()
		if len(l.waiting) == 0 && l.out.empty() && now.Sub(l.used) > linkEvict && (idlest == nil || l.used.Before(since)) {
			idlest, since = l, l.used
		}
		l.mu.Unlock()
	}
	if idlest == nil {
		return false
	}
	delete(s.links, idlest.target)
	close(idlest.evicted)
	return true
}

// send queues a request; false: the link is over.
func (l *link) send(x payer, r request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.out.add(x, r)
	l.used = time.Now()
	return true
}

// run is the link's whole life. When it ends, everything that waits is answered: unreachable.
func (l *link) run() {
	ctx, cancel := context.WithCancel(l.s.ctx)
	defer cancel()
	c, err := l.dial(ctx)
	if !errors.Is(err, errCrowded) {
		l.s.reached(l, err == nil)
	}
	if err == nil {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		var reading sync.WaitGroup
		reading.Go(func() {
			l.read(c)
			cancel()
		})
		l.write(ctx, c)
		c.Close()
		reading.Wait()
		stop()
	}
	l.s.drop(l)
	l.mu.Lock()
	l.over = true
	rest := l.waiting
	l.waiting = nil
	l.mu.Unlock()
	for _, w := range rest {
		w.done(mailbox.RefuseHalf(w.size, mailbox.ClearUnreachable))
	}
	for {
		r, ok := l.out.next() // nothing is added any more
		if !ok {
			return
		}
		r.done(mailbox.RefuseHalf(len(r.box), mailbox.ClearUnreachable))
	}
}

var (
	errLink    = errors.New("courier: the mailbox takes no link")
	errCrowded = errors.New("courier: too many mailboxes are being tried")
)

// dial makes the connection and its hello. The answer is the mailbox's descriptor, which sessions ask for too.
func (l *link) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	leave := l.s.passTo(ctx, l.proven, l.since)
	if leave == nil {
		return nil, errCrowded
	}
	defer leave()
	a := addressOf(l.target)
	// A circuit of its own, which no session's requests have to do with.
	c, err := l.s.cfg.Dial.Dial(ctx, string(a.Onion)+":"+strconv.Itoa(mailbox.Port), "link-"+rand.Text())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	var up [mailbox.UpSize]byte
	var down [mailbox.DownSize]byte
	mailbox.LinkRequest(&up)
	_, err = c.Write(up[:])
	if err == nil {
		_, err = io.ReadFull(c, down[:])
	}
	if err == nil && mailbox.Clear(down[0]) != mailbox.ClearDescriptor {
		err = errLink
	}
	if err == nil {
		err = l.s.learn(l.target, down[1:1+mailbox.BoxSize])
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// reached notes how a dial went.
func (s *Server) reached(l *link, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		delete(s.failed, l.target)
		return
	}
	wait := min(max(2*s.failed[l.target].wait, minBackoff), maxBackoff)
	s.failed[l.target] = failure{time.Now(), wait}
}

// drop takes the link out of the courier's books.
func (s *Server) drop(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links[l.target] == l {
		delete(s.links, l.target)
	}
}

// write sends what is queued until the link breaks, is idle for too long, or loses its place.
func (l *link) write(ctx context.Context, c net.Conn) {
	tick := time.NewTicker(linkIdle / 20)
	defer tick.Stop()
	buf := make([]byte, 0, mailbox.MaxLinkMessage)
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.evicted:
			return
		case now := <-tick.C:
			if l.expire(now) {
				return
			}
		case <-l.out.wake:
			r, ok := l.out.next()
			if !ok {
				continue
			}
			_, layers, _ := mailbox.HalfShape(len(r.box))
			by := time.Now().Add(answerTime + time.Duration(layers)*layerTime)
			l.mu.Lock()
			l.tag++
			tag := l.tag
			l.waiting[tag] = wait{len(r.box), by, r.done}
			l.mu.Unlock()
			buf = mailbox.AppendLinkMessage(buf[:0], mailbox.LinkMessage{Kind: mailbox.LinkKindOf(len(r.box)), Tag: tag, Epoch: r.epoch, Data: r.box})
			c.SetWriteDeadline(time.Now().Add(writeTimeout))
			_, err := c.Write(buf)
			if r.sent != nil {
				r.sent()
			}
			if err != nil {
				return
			}
		}
	}
}

// expire gives up what is waited for too long; true: the link is not used any more.
func (l *link) expire(now time.Time) (idle bool) {
	var late []wait
	l.mu.Lock()
	for tag, w := range l.waiting {
		if now.After(w.by) {
			late = append(late, w)
			delete(l.waiting, tag)
		}
	}
	idle = len(l.waiting) == 0 && l.out.empty() && now.Sub(l.used) > linkIdle
	l.mu.Unlock()
	for _, w := range late {
		w.done(mailbox.RefuseHalf(w.size, mailbox.ClearUnreachable))
	}
	return idle
}

// read hands the answers on until the link breaks. An answer that nobody waits for, or of another kind, ends it.
func (l *link) read(c net.Conn) {
	r := bufio.NewReaderSize(c, mailbox.GetAnswerSize)
	for {
		m, err := mailbox.ReadLinkMessage(r, true)
		if err != nil {
			return
		}
		l.mu.Lock()
		w, ok := l.waiting[m.Tag]
		ok = ok && mailbox.LinkKindOf(w.size).Answer() == m.Kind
		if ok {
			delete(l.waiting, m.Tag)
		}
		known := m.Tag <= l.tag // it may have been given up
		l.mu.Unlock()
		switch {
		case ok:
			w.done(m.Data)
		case !known:
			return
		}
	}
}
