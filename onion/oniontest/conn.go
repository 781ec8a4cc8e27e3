// SPDX-License-Identifier: Apache-2.0

package oniontest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"tarn/onion"
)

// errReset is what both ends get when a host goes down or a partition falls between them.
var errReset = error(&net.OpError{Op: "read", Net: "onion", Err: syscall.ECONNRESET})

// window is how many bytes of a direction may be under way before Write waits, about a Tor stream's window.
const window = 256 << 10

// flow is one connection: two directions.
type flow struct {
	net       *Net
	id        uint64
	link      pair
	addr      string
	isolation string
	up, down  *half

	mu     sync.Mutex // guards the rest
	rng    *rand.Rand
	closes int  // ends that have closed
	over   bool // the Close event was shown
}

// openLocked makes a connection of p; n.mu is held.
func (n *Net) openLocked(p pair, addr, isolation string, rng *rand.Rand) *flow {
	n.lastConn++
	f := &flow{net: n, id: n.lastConn, link: p, addr: addr, isolation: isolation, rng: rng}
	f.up, f.down = newHalf(), newHalf()
	n.conns[f] = struct{}{}
	return f
}

func (f *flow) client() net.Conn {
	return &conn{flow: f, in: f.down, out: f.up, up: true, local: onion.AnonymousClient, remote: onion.Addr(f.addr)}
}

func (f *flow) server() net.Conn {
	return &conn{flow: f, in: f.up, out: f.down, local: onion.Addr(f.addr), remote: onion.AnonymousClient}
}

// sent counts and shows a write, and says how long it is under way.
func (f *flow) sent(up bool, bytes int) time.Duration {
	n := f.net
	n.mu.Lock()
	k := n.link(f.link)
	if up {
		k.traffic.Up += uint64(bytes)
	} else {
		k.traffic.Down += uint64(bytes)
	}
	delay, jitter := k.Delay, k.Jitter
	n.mu.Unlock()
	if jitter > 0 {
		f.mu.Lock()
		delay += draw(f.rng, jitter)
		f.mu.Unlock()
	}
	n.tap(Event{Kind: Data, flow: f, Up: up, Bytes: bytes, Time: time.Now()})
	return delay
}

// close counts an end that has closed: the first ends the connection for a wire-tapper, the second for the books.
func (f *flow) close() {
	f.ended()
	f.mu.Lock()
	f.closes++
	last := f.closes == 2
	f.mu.Unlock()
	if last {
		f.net.mu.Lock()
		delete(f.net.conns, f)
		f.net.mu.Unlock()
	}
}

// ended shows the end of the connection, once.
func (f *flow) ended() {
	f.mu.Lock()
	again := f.over
	f.over = true
	f.mu.Unlock()
	if !again {
		f.net.tap(Event{Kind: Close, flow: f, Time: time.Now()})
	}
}

// conn is one end.
type conn struct {
	flow          *flow
	in, out       *half
	up            bool // out is up
	local, remote net.Addr
}

func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

func (c *conn) Write(b []byte) (int, error) {
	done := 0
	for {
		n, err := c.out.room(len(b) - done)
		if err != nil {
			return done, err
		}
		// An empty write shows nothing on a wire.
		if n > 0 {
			if err := c.out.write(b[done:done+n], c.flow.sent(c.up, n)); err != nil {
				return done, err
			}
		}
		if done += n; done == len(b) {
			return done, nil
		}
	}
}

// Close ends both directions: the peer reads what is under way, then EOF; its writes fail.
func (c *conn) Close() error {
	if !c.in.closeRead() {
		return net.ErrClosed
	}
	c.flow.net.mu.Lock()
	delay := c.flow.net.link(c.flow.link).Delay
	c.flow.net.mu.Unlock()
	c.out.closeWrite(delay)
	c.flow.close()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
func (c *conn) SetReadDeadline(t time.Time) error  { return c.in.setDeadline(&c.in.readBy, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(&c.out.writeBy, t) }

// half is one direction: chunks, each readable from its time of arrival on.
type half struct {
	mu      sync.Mutex
	cond    sync.Cond
	chunks  []chunk
	size    int       // bytes in chunks
	last    time.Time // arrival of the last chunk: later ones do not overtake it
	readEnd bool      // the reader has closed
	end     bool      // the writer has closed:
	endAt   time.Time // EOF is seen from here on
	err     error     // reset
	readBy  deadline
	writeBy deadline
}

type chunk struct {
	b  []byte
	at time.Time
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed(now time.Time) bool { return !d.at.IsZero() && !now.Before(d.at) }

func newHalf() *half {
	h := &half{}
	h.cond.L = &h.mu
	return h
}

// wake is for timers: under the lock, or a reader that has just looked at the clock would miss it.
func (h *half) wake() {
	h.mu.Lock()
	h.cond.Broadcast()
	h.mu.Unlock()
}

// waitUntil waits for a change or for t. h.mu is held.
func (h *half) waitUntil(t, now time.Time) {
	if !t.IsZero() {
		timer := time.AfterFunc(t.Sub(now), h.wake)
		defer timer.Stop()
	}
	h.cond.Wait()
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		now := time.Now()
		var next time.Time
		switch {
		case h.readEnd:
			return 0, net.ErrClosed
		case h.readBy.passed(now):
			return 0, os.ErrDeadlineExceeded
		case h.err != nil:
			return 0, h.err
		case len(b) == 0:
			return 0, nil
		case len(h.chunks) > 0 && !h.chunks[0].at.After(now):
			return h.takeLocked(b, now), nil
		case len(h.chunks) > 0:
			next = h.chunks[0].at
		case h.end && !h.endAt.After(now):
			return 0, io.EOF
		case h.end:
			next = h.endAt
		}
		h.waitUntil(next, now)
	}
}

// takeLocked fills b from the chunks that have arrived.
func (h *half) takeLocked(b []byte, now time.Time) int {
	n := 0
	for len(h.chunks) > 0 && !h.chunks[0].at.After(now) && n < len(b) {
		c := &h.chunks[0]
		k := copy(b[n:], c.b)
		n += k
		if c.b = c.b[k:]; len(c.b) == 0 {
			h.chunks[0] = chunk{}
			h.chunks = h.chunks[1:]
		}
	}
	h.size -= n
	h.cond.Broadcast() // a writer may wait for room
	return n
}

// room waits until some of want bytes fit, and says how many.
func (h *half) room(want int) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.end:
			return 0, net.ErrClosed
		case h.writeBy.passed(time.Now()):
			return 0, os.ErrDeadlineExceeded
		case h.err != nil:
			return 0, h.err
		case h.readEnd:
			return 0, &net.OpError{Op: "write", Net: "onion", Err: syscall.EPIPE}
		case want == 0 || h.size < window:
			return min(want, window-h.size), nil
		}
		h.cond.Wait()
	}
}

func (h *half) write(b []byte, delay time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.end {
		return net.ErrClosed
	}
	if h.err != nil {
		return h.err
	}
	at := time.Now().Add(delay)
	if at.Before(h.last) {
		at = h.last
	}
	h.last = at
	h.chunks = append(h.chunks, chunk{append([]byte(nil), b...), at})
	h.size += len(b)
	h.cond.Broadcast()
	return nil
}

func (h *half) setDeadline(d *deadline, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		if wait := time.Until(t); wait > 0 {
			d.timer = time.AfterFunc(wait, h.wake)
		}
	}
	h.cond.Broadcast()
	return nil
}

// closeRead ends the reading side; false if it was already.
func (h *half) closeRead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.readEnd {
		return false
	}
	h.readEnd, h.chunks, h.size = true, nil, 0
	h.dropTimerLocked(&h.readBy)
	h.cond.Broadcast()
	return true
}

func (h *half) closeWrite(delay time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end = true
	if h.endAt = time.Now().Add(delay); h.endAt.Before(h.last) {
		h.endAt = h.last
	}
	h.dropTimerLocked(&h.writeBy)
	h.cond.Broadcast()
}

func (h *half) dropTimerLocked(d *deadline) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (h *half) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	h.cond.Broadcast()
}
