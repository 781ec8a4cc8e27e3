// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"io"
	"math"
	"net"
	"sync"
	"time"

	"tarn/mailbox"
)

// session is the courier's end of a node's session.
type session struct {
	s       *Server
	token   bool
	began   time.Time
	granted float64 // frames a second
	push    time.Duration
	up      *mailbox.Channel // the reader's
	down    *mailbox.Channel // the writer's

	due  chan uint32   // frames whose answer is due now
	room chan struct{} // a place for each frame whose answer is not written yet
	done chan struct{} // closed by end
	once sync.Once

	counted map[[32]byte]*follower // those that count it; guarded by Server.mu
	refused time.Time              // when a store could not be followed; the reader's

	mu       sync.Mutex // guards all below
	conn     net.Conn
	over     bool
	last     time.Time           // of the newest frame
	frames   int                 // that came
	pending  int                 // halves without an answer
	asking   int                 // of those, for a descriptor that is not there yet
	held     int                 // bytes, of those and of the answers below
	open     map[uint32]struct{} // frames whose answer has not left
	gets     []mailbox.HalfAnswer
	receipts []mailbox.HalfAnswer
	follows  [][32]byte
	pushed   map[[32]byte]pushes // what was pushed of each store that is followed
	turn     int                 // whose page comes first
	rate     bucket
	dials    bucket
}

func newSession(s *Server, token bool, rate float64, now time.Time) *session {
	frames := maxFrames * busier(rate)
	return &session{
		s: s, token: token, began: now, granted: rate, open: map[uint32]struct{}{}, counted: map[[32]byte]*follower{}, due: make(chan uint32, frames), room: make(chan struct{}, frames), done: make(chan struct{}), last: now,
		rate:  bucket{rate: spare * rate, burst: float64(s.cfg.Burst), left: float64(s.cfg.Burst), at: now},
		dials: bucket{rate: 1 / sessionDialEvery.Seconds(), burst: sessionDials, left: sessionDials, at: now},
	}
}

// bucket is a token bucket.
type bucket struct {
	rate, burst, left float64
	at                time.Time
}

// wait takes one and says how long to wait for it.
func (b *bucket) wait(now time.Time) time.Duration {
	b.left = min(b.burst, b.left+b.rate*now.Sub(b.at).Seconds())
	b.at = now
	b.left--
	if b.left >= 0 {
		return 0
	}
	return time.Duration(-b.left / b.rate * float64(time.Second))
}

// try takes one if it is there.
func (b *bucket) try(now time.Time) bool {
	if b.wait(now) > 0 {
		b.left++
		return false
	}
	return true
}

// idle is how long no frame has come.
func (x *session) idle(now time.Time) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	return now.Sub(x.last)
}

// value is what an idle session is worth to the courier: who floods it with hellos and sends nothing shall not displace a node
// that is slow. Those that never sent a frame go first, then those that were idle for longest.
type value struct {
	used bool
	idle time.Duration
}

func (v value) less(o value) bool {
	if v.used != o.used {
		return o.used
	}
	return v.idle > o.idle
}

// value tells also whether the session is idle, so that it may lose its place: for longer than idleEvict, and for as long as
// several of its own frames take.
func (x *session) value(now time.Time) (v value, idle bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	v = value{used: x.frames > 0, idle: now.Sub(x.last)}
	mean := min(x.last.Sub(x.began)/time.Duration(max(x.frames, 1)), idleEnd/idleFrames)
	return v, v.idle > max(idleEvict, idleFrames*mean)
}

// end makes the session end, soon.
func (x *session) end() {
	x.once.Do(func() {
		close(x.done)
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.conn != nil {
			x.conn.Close()
		}
	})
}

// serve is the session's whole life after its hello.
func (x *session) serve(c net.Conn) {
	x.mu.Lock()
	x.conn = c
	x.mu.Unlock()
	select {
	case <-x.done: // it lost its place already
		c.Close()
	default:
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer x.end()
		x.write(c)
	})
	x.read(c)
	x.end()
	wg.Wait()
	x.leave()
}

// leave gives back what the session has. Halves that wait are forwarded nevertheless: the end of a session must not show
// in what reaches the stores. Their answers are dropped.
func (x *session) leave() {
	s := x.s
	x.mu.Lock()
	x.over = true
	n := 0
	for _, a := range x.gets {
		n += len(a.Data)
	}
	for _, a := range x.receipts {
		n += len(a.Data)
	}
	x.held -= n
	x.gets, x.receipts = nil, nil
	x.mu.Unlock()
	s.held.release(n)
	x.follow(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(x)
}

// read takes frames until the session breaks. It reads no faster than the session's rate allows, and no further while too
// many frames wait for their lag: the node waits then.
func (x *session) read(c net.Conn) {
	buf := make([]byte, x.up.Layout().Up)
	for n := uint32(0); ; n++ {
		select {
		case x.room <- struct{}{}:
		case <-x.done:
			return
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		now := time.Now()
		f, err := x.up.OpenUpFrame(buf)
		if err != nil {
			return // not this node's, or somebody changed it: nothing can follow
		}
		x.mu.Lock()
		x.last = now
		x.frames++
		x.open[n] = struct{}{}
		pause := x.rate.wait(now)
		x.mu.Unlock()
		time.AfterFunc(f.Lag, func() {
			select {
			case x.due <- n: // there is a place: room
			case <-x.done:
			}
		})
		x.follow(f.Follow)
		for _, r := range []mailbox.SubRequest{f.Put, f.Get} {
			x.accept(n, r)
		}
		if pause > 0 {
			select {
			case <-time.After(pause):
			case <-x.done:
				return
			}
		}
	}
}

// accept takes a half to forward it after its delay, or answers that the courier is busy.
func (x *session) accept(frame uint32, r mailbox.SubRequest) {
	put, size := mailbox.IsPut(len(r.Box)), len(r.Box)
	if !x.admit(size, r.Delay) {
		x.deliver(frame, put, mailbox.RefuseHalf(size, mailbox.ClearBusy))
		return
	}
	r.Box = append(make([]byte, 0, size), r.Box...) // the buffer is used again
	epoch, box, target := r.Epoch, r.Box, r.Target
	sent := sync.OnceFunc(func() { // the box is held no longer, though its answer is waited for
		x.mu.Lock()
		x.held -= size
		x.mu.Unlock()
		x.s.held.release(size)
	})
	x.s.after(r.Delay, func() {
		x.s.forward(x, target, epoch, box, sent, func(answer []byte) {
			sent()
			x.mu.Lock()
			x.pending--
			x.mu.Unlock()
			x.deliver(frame, put, answer)
		})
	})
}

// times is a bound of the session: one whose halves have layers waits that much longer for each answer, so more wait; and
// one that sends more has more under way.
func (x *session) times(bound int) int { return bound * (1 + x.up.Layout().Layers) * busier(x.granted) }

// busier is by how much the bounds of a session of that rate are multiplied. What all sessions hold is bounded too.
func busier(rate float64) int { return max(1, int(math.Ceil(rate/boundRate))) }

// admit reserves what a half of that size needs.
func (x *session) admit(size int, wait time.Duration) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.pending >= x.times(maxPending) || x.held+size > x.times(maxHeld) || !x.s.held.take(size, x.held, x.began, wait) {
		return false
	}
	x.pending++
	x.held += size
	return true
}

// deliver keeps an answer for the next frame down. The oldest make room.
func (x *session) deliver(frame uint32, put bool, answer []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.over || !x.s.held.take(len(answer), x.held, x.began, 0) {
		return
	}
	list, most := &x.gets, x.times(maxGets)
	if put {
		list, most = &x.receipts, x.times(maxRecs)
	}
	x.held += len(answer)
	*list = append(*list, mailbox.HalfAnswer{Frame: frame, Data: answer})
	if len(*list) > most {
		x.drop(list, 0)
	}
}

// drop removes an answer; x.mu is held.
func (x *session) drop(list *[]mailbox.HalfAnswer, i int) mailbox.HalfAnswer {
	a := (*list)[i]
	*list = append((*list)[:i:i], (*list)[i+1:]...)
	x.held -= len(a.Data)
	x.s.held.release(len(a.Data))
	return a
}

// write sends the frames down, each when it is due, until the session ends.
func (x *session) write(c net.Conn) {
	var tick <-chan time.Time
	var next time.Time
	if x.push > 0 {
		next = x.s.nextPush(time.Now(), x.push)
		tick = time.After(time.Until(next))
	}
	buf := make([]byte, 0, x.down.Layout().Down)
	for {
		var err error
		select {
		case <-x.done:
			return
		case n := <-x.due:
			<-x.room
			buf, err = x.down.AppendDownFrame(buf[:0], x.answers(n))
		case <-tick:
			buf, err = x.down.AppendPageFrame(buf[:0], x.pages())
			next = x.s.nextPush(time.Now(), x.push) // what was missed is not made up for
			tick = time.After(time.Until(next))
		}
		if err != nil {
			return
		}
		c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// answers takes what the answer to that frame holds: the GET answer of the frame itself if it is there, else the newest
// one that was too late for its own; and the oldest receipts. One that is early is not taken: its own frame would then
// take another's, and so on, and each time that none is there all would wait longer, for ever. So would they if the oldest
// late one went first: each frame carries one answer and asks for one, so that what a stall once left behind stays; whoever
// asked for that has asked again.
func (x *session) answers(frame uint32) *mailbox.DownFrame {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := &mailbox.DownFrame{}
	delete(x.open, frame)
	take := -1
	for i, a := range x.gets {
		if _, early := x.open[a.Frame]; !early {
			take = i // they lie in the order in which they came
		}
		if a.Frame == frame {
			break
		}
	}
	if take >= 0 {
		a := x.drop(&x.gets, take)
		f.Get = &a
	}
	for len(x.receipts) > 0 && len(f.Receipts) < mailbox.MaxReceipts {
		f.Receipts = append(f.Receipts, x.drop(&x.receipts, 0))
	}
	return f
}
