// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"tarn/crypto/onionid"
)

// Limits of a session at the node.
const (
	maxWaiting   = 256              // frames whose answers are waited for; the oldest are given up beyond that
	writeTimeout = 30 * time.Second // for one frame
	// silence is how much later than it should something may come before the session is taken for broken.
	silence = 90 * time.Second
)

// SessionParams are what a session is asked for.
type SessionParams struct {
	// Push is the time between two page frames; 0: none.
	Push time.Duration
	// Frame is the mean time between two frames of the node's, over all its couriers; 0: a second.
	Frame time.Duration
	// Layers: the halves of this session go through further couriers (Half.Via, MaxLayers), and its frames have the sizes
	// for that.
	Layers bool
	// Token gives a session token of that courier's, or nil; it is called at each Connect. Nil: no tokens.
	Token func() *[TokenSize]byte
	// OnPage hears each part of a digest page that was pushed, as it came: see Client.ParsePushed. It is called by one
	// goroutine and must not block. Nil: nobody hears.
	OnPage func(store Address, part []byte)
}

// Frame is what leaves for a courier at one time. Both halves are there, real or not.
type Frame struct {
	Put, Get *Half
	Lag      time.Duration // the courier answers that long after the frame came
	Follow   []Address     // stores whose new digest pages are to be pushed; at most MaxFollow
}

// Session is a node's long session with one courier. It dials in Connect alone, and never again by itself: when it is
// broken, the schedule decides when to connect. Every frame has one size, and so has every answer. Safe for concurrent
// use.
type Session struct {
	courier *Client
	dial    Dialer
	params  SessionParams

	connecting sync.Mutex // one Connect at a time

	mu   sync.Mutex // guards life, and the states of halves
	life *life      // nil: not connected
}

// life is a session between its hello and its end.
type life struct {
	conn net.Conn
	up   *Channel
	down *Channel // the reader's

	sending sync.Mutex // one frame is sealed and written at a time: the order of both is one

	// Guarded by Session.mu.
	frames  uint32              // sent so far
	oldest  uint32              // no frame before is waited for
	waiting map[uint32]*waiting // by number
	over    bool
}

// waiting is a frame with halves that have no answer yet; nil: it has.
type waiting struct{ put, get *Half }

// NewSession makes a session that is not connected.
func NewSession(courier Address, d Dialer, p SessionParams) *Session {
	return &Session{courier: NewClient(courier, d), dial: d, params: p}
}

// layout is the sizes of the session's frames.
func (s *Session) layout() Layout {
	geometry := byte(Geometry)
	if s.params.Layers {
		geometry = GeometryLayers
	}
	l, _ := LayoutOf(geometry)
	return l
}

// Courier is the courier as a client knows it: its descriptor, once Connect has fetched it.
func (s *Session) Courier() *Client { return s.courier }

// Family is the operator's label in the courier's descriptor; "" is a family of its own, or not known yet.
func (s *Session) Family() string {
	d, _ := s.courier.Current()
	return d.Family
}

// Connected says whether frames can be sent.
func (s *Session) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life != nil
}

// Connect makes the session: the hello, and before it, when the courier's key of today is not known, an exchange of its
// own for the descriptor. The session then lives until it breaks or Close ends it. If it is connected, nothing is done.
// ErrBusy: the courier has no place. ErrRate: not for so many
// frames. ErrRefused: it is no courier.
func (s *Session) Connect(ctx context.Context) error {
	s.connecting.Lock()
	defer s.connecting.Unlock()
	if s.Connected() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	d, ok := s.courier.Current()
	if !ok {
		var err error
		if d, err = s.courier.Descriptor(ctx); err != nil {
			return err
		}
	}
	if !d.Roles.Has(RoleCourier) {
		return fmt.Errorf("%w: it is no courier", ErrRefused)
	}
	epoch, key, onion, err := s.courier.today()
	if err != nil {
		return err
	}
	// A circuit of its own, and a fresh one each time: nothing else of this node may be seen to be its.
	conn, err := s.dial.Dial(ctx, s.courier.addr.dial(), "session-"+rand.Text())
	if err != nil {
		return fmt.Errorf("mailbox: connect: %w", err)
	}
	hello := Hello{Geometry: s.layout().Geometry, Push: s.params.Push, Frame: s.params.Frame}
	if s.params.Token != nil {
		hello.Token = s.params.Token() // not before the courier is reached: it is good once
	}
	var up [UpSize]byte
	reply, err := SealHello(&up, hello, key, SessionInfo(onion, epoch), epoch)
	if err != nil {
		conn.Close()
		return err
	}
	down, err := exchange(ctx, conn, &up)
	if err != nil {
		conn.Close()
		return err
	}
	salt, descriptor, err := OpenWelcome(down, reply)
	if err != nil {
		conn.Close()
		s.courier.distrust(err)
		return err
	}
	if _, err := s.courier.take(descriptor); err != nil {
		conn.Close()
		return err
	}
	l := &life{conn: conn, waiting: map[uint32]*waiting{}}
	l.up, l.down = SessionChannels(s.layout(), reply, salt)
	s.mu.Lock()
	s.life = l
	s.mu.Unlock()
	go s.read(l)
	return nil
}

// Send writes exactly one frame, now, and returns when it is written. ErrSession: there is no session, or it broke; then
// the halves have failed.
func (s *Session) Send(ctx context.Context, f *Frame) error {
	s.mu.Lock()
	l := s.life
	s.mu.Unlock()
	if f.Put == nil || f.Get == nil || !f.Put.put || f.Get.put || f.Put.box == nil || f.Get.box == nil {
		return fmt.Errorf("%w: not a PUT half and a GET half that wait to be sent", ErrFrame)
	}
	if l == nil {
		f.fail(ErrSession)
		return ErrSession
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	u := UpFrame{Lag: f.Lag, Put: f.Put.Take(), Get: f.Get.Take()}
	for _, a := range f.Follow {
		o, err := a.Onion.Key()
		if err != nil {
			f.fail(err)
			return fmt.Errorf("mailbox: %w", err)
		}
		u.Follow = append(u.Follow, [32]byte(o))
	}
	b, err := l.up.AppendUpFrame(make([]byte, 0, s.layout().Up), &u)
	if err != nil {
		f.fail(err)
		return err
	}
	if !s.await(l, f) {
		f.fail(ErrSession)
		return ErrSession
	}
	deadline := time.Now().Add(writeTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	l.conn.SetWriteDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { l.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := l.conn.Write(b); err != nil {
		s.end(l) // half a frame may be out: nothing can follow it
		return fmt.Errorf("%w: send a frame: %w", ErrSession, err)
	}
	return nil
}

func (f *Frame) fail(err error) {
	f.Put.fail(err)
	f.Get.fail(err)
}

// await notes that the frame's answers are waited for; false: the session is over. l.sending is held.
func (s *Session) await(l *life, f *Frame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.over {
		return false
	}
	l.waiting[l.frames] = &waiting{f.Put, f.Get}
	l.frames++
	for len(l.waiting) > maxWaiting {
		if w := l.waiting[l.oldest]; w != nil {
			w.fail(ErrLost)
			delete(l.waiting, l.oldest)
		}
		l.oldest++
	}
	return true
}

func (w *waiting) fail(err error) {
	for _, h := range []*Half{w.put, w.get} {
		if h != nil {
			h.fail(err)
		}
	}
}

// read takes what comes down, until the session breaks.
func (s *Session) read(l *life) {
	defer s.end(l)
	buf := make([]byte, s.layout().Down)
	for {
		l.conn.SetReadDeadline(time.Now().Add(s.patience(l)))
		if _, err := io.ReadFull(l.conn, buf[:1]); err != nil {
			return
		}
		b := buf
		switch buf[0] {
		case downFrame:
		case pageFrame:
			b = buf[:PageFrameSize]
		default:
			return
		}
		if _, err := io.ReadFull(l.conn, b[1:]); err != nil {
			return
		}
		p, err := l.down.openDown(b)
		if err != nil {
			return
		}
		if b[0] == pageFrame {
			if s.pages(p) != nil {
				return
			}
			continue
		}
		f, err := parseDownFrame(s.layout(), p)
		if err != nil || !s.answers(l, f) {
			return
		}
	}
}

// patience is how long nothing may come before the courier is taken for gone: page frames come at their times, and an
// answer to each frame, at its lag. Without either a session may be silent for as long as nothing is sent.
func (s *Session) patience(l *life) time.Duration {
	if s.params.Push > 0 {
		return s.params.Push + silence
	}
	return MaxDelay + silence
}

func (s *Session) pages(p []byte) error {
	pages, err := parsePageFrame(p)
	if err != nil || s.params.OnPage == nil {
		return err
	}
	for _, g := range pages {
		s.params.OnPage(Address{Onion: onionid.FromKey(g.Store[:])}, append([]byte(nil), g.Part...)) // the buffer is used again
	}
	return nil
}

// answers gives the halves their answers; false: the courier answers what was never asked. An answer to what is not
// waited for any more, or the second one, is dropped.
func (s *Session) answers(l *life, f DownFrame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Get != nil {
		if f.Get.Frame >= l.frames {
			return false
		}
		if w := l.waiting[f.Get.Frame]; w != nil && w.get != nil {
			w.get.Resolve(f.Get.Data)
			w.get = nil
			l.settle(f.Get.Frame, w)
		}
	}
	for _, r := range f.Receipts {
		if r.Frame >= l.frames {
			return false
		}
		if w := l.waiting[r.Frame]; w != nil && w.put != nil {
			w.put.Resolve(r.Data)
			w.put = nil
			l.settle(r.Frame, w)
		}
	}
	return true
}

func (l *life) settle(frame uint32, w *waiting) {
	if w.put == nil && w.get == nil {
		delete(l.waiting, frame)
	}
}

// end breaks the session: all that is waited for fails.
func (s *Session) end(l *life) {
	l.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	if s.life == l {
		s.life = nil
	}
	for _, w := range l.waiting {
		w.fail(ErrSession)
	}
	l.waiting = nil
}

// Close ends the session; Connect can make it anew.
func (s *Session) Close() error {
	s.mu.Lock()
	l := s.life
	s.mu.Unlock()
	if l != nil {
		s.end(l)
	}
	return nil
}

// Ask makes a GET half that asks the courier itself for the descriptor of the mailbox a: its answer's body is for
// Client.SetDescriptor. It can be made once the session was connected.
//
// With a route the last courier of it is asked: so that the session's courier does not learn whose descriptor it is. Only
// a session with Layers has room for one.
func (s *Session) Ask(a Address, delay time.Duration, route ...Hop) (*Half, error) {
	onion, err := a.Onion.Key()
	if err != nil {
		return nil, fmt.Errorf("mailbox: %w", err)
	}
	at := s.courier
	if len(route) > 0 {
		at = route[len(route)-1].Courier
	}
	h, err := at.SealGet(Request{Op: OpDescriptor, Onion: [32]byte(onion)}, delay)
	if err != nil {
		return nil, err
	}
	return h, h.Via(s.layout().Layers, route...)
}

// Idle makes a PUT half for the courier itself that does nothing: for who knows no store yet.
func (s *Session) Idle(delay time.Duration) (*Half, error) {
	h, err := s.courier.SealPut(Request{Op: OpNothing}, delay)
	if err != nil {
		return nil, err
	}
	return h, h.Via(s.layout().Layers)
}
