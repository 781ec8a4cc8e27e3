// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
)

// tap is a dialer that notes how long each write and each whole message that comes back is.
type tap struct {
	mailbox.Dialer
	mu   sync.Mutex // guards the rest
	up   map[int]int
	down int // bytes
}

func (d *tap) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	c, err := d.Dialer.Dial(ctx, addr, isolation)
	if err != nil {
		return nil, err
	}
	return &tapped{c, d}, nil
}

type tapped struct {
	net.Conn
	tap *tap
}

func (c *tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.up[len(b)]++
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.tap.mu.Lock()
	c.tap.down += n
	c.tap.mu.Unlock()
	return n, err
}

// sizes are those of what was sent so far.
func (d *tap) sizes() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.up))
}

// chain is a node, three couriers in a row, and a store.
type chain struct {
	t        testing.TB
	mesh     *mailboxtest.Mesh
	couriers [3]*mailboxtest.Mailbox
	store    *mailboxtest.Mailbox
	taps     [4]*tap // of the node, and of each courier
	session  *mailbox.Session
	clients  [3]*mailbox.Client // of the second and the third courier, and of the store
}

func newChain(t testing.TB, edit func(i int, c *courier.Config)) *chain {
	w := &chain{t: t, mesh: mailboxtest.NewMesh()}
	for i := range w.taps {
		w.taps[i] = &tap{Dialer: w.mesh, up: map[int]int{}}
	}
	w.store = mailboxtest.New(t, mailboxtest.WithMesh(w.mesh))
	for i := range w.couriers {
		w.couriers[i] = mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(w.taps[i+1], func(c *courier.Config) {
			if edit != nil {
				edit(i, c)
			}
		}))
	}
	w.session = mailbox.NewSession(w.couriers[0].Address(), w.taps[0], mailbox.SessionParams{Push: 10 * time.Second, Layers: true})
	t.Cleanup(func() { w.session.Close() })
	for i, m := range []*mailboxtest.Mailbox{w.couriers[1], w.couriers[2], w.store} {
		w.clients[i] = mailbox.NewClient(m.Address(), w.mesh)
	}
	return w
}

// route goes through the first n couriers after the session's.
func (w *chain) route(n int, delay, back time.Duration) (hops []mailbox.Hop) {
	for _, c := range w.clients[:n] {
		hops = append(hops, mailbox.Hop{Courier: c, Delay: delay, Back: back})
	}
	return hops
}

// connect makes the session and learns who comes after whom, each from the one before.
func (w *chain) connect() {
	w.t.Helper()
	must(w.t, w.session.Connect(w.t.Context()))
	for i, c := range w.clients {
		put, err := w.session.Idle(0)
		must(w.t, err)
		get, err := w.session.Ask(c.Address(), 0, w.route(i, 0, 0)...)
		must(w.t, err)
		must(w.t, w.session.Send(w.t.Context(), &mailbox.Frame{Put: put, Get: get, Lag: time.Second}))
		_, body, err := get.Wait(w.t.Context())
		must(w.t, err)
		_, err = c.SetDescriptor(body)
		must(w.t, err)
	}
}

// frame seals, wraps and sends.
func (w *chain) frame(put, get mailbox.Request, delay, back, lag time.Duration) (*mailbox.Half, *mailbox.Half) {
	w.t.Helper()
	p, err := w.clients[2].SealPut(put, delay)
	must(w.t, err)
	g, err := w.clients[2].SealGet(get, delay)
	must(w.t, err)
	for _, h := range []*mailbox.Half{p, g} {
		must(w.t, h.Via(mailbox.MaxLayers, w.route(2, delay, back)...))
		if h.Target() != w.couriers[1].Address() {
			w.t.Errorf("the session's courier is told of %v", h.Target())
		}
	}
	must(w.t, w.session.Send(w.t.Context(), &mailbox.Frame{Put: p, Get: g, Lag: lag}))
	return p, g
}

func TestABoxGoesThroughThreeCouriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newChain(t, nil)
		w.connect()
		ctx := t.Context()
		id, box := randomBox()
		began := time.Now()
		put, _ := w.frame(putOf(id, box), nothing, 20*time.Second, 10*time.Second, 90*time.Second)
		if _, _, err := put.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 90*time.Second || took > 91*time.Second {
			t.Errorf("the receipt came after %v", took)
		}
		_, get := w.frame(nothing, getOf(id), 20*time.Second, 10*time.Second, 81*time.Second)
		_, body, err := get.Wait(ctx)
		if err != nil || !bytes.Equal(body, box) {
			t.Errorf("the box did not come back: %v", err)
		}
		_, other := randomBox()
		put, get = w.frame(putOf(id, other), getOf(mailbox.BoxID{1}), time.Second, time.Second, 20*time.Second)
		if _, _, err := put.Wait(ctx); !errors.Is(err, mailbox.ErrExists) {
			t.Errorf("another box under that id: %v", err)
		}
		if _, body, err := get.Wait(ctx); err != nil || bytes.Equal(body, box) {
			t.Errorf("an absent box: %v", err)
		}
		// What is held too long for its frame comes with a later one.
		_, get = w.frame(nothing, getOf(id), 20*time.Second, 10*time.Second, 10*time.Second)
		time.Sleep(5 * time.Minute)
		w.frame(nothing, nothing, 20*time.Second, 0, 10*time.Second)
		if _, body, err := get.Wait(ctx); err != nil || !bytes.Equal(body, box) {
			t.Errorf("a late answer: %v", err)
		}
	})
}

// Each leg has its own sizes, and they depend on nothing but the leg: not on what a half is, nor on what became of it.
func TestEachLegHasItsConstantSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newChain(t, nil)
		w.connect()
		id, box := randomBox()
		for i, f := range [][2]mailbox.Request{{putOf(id, box), getOf(id)}, {nothing, nothing}, {putOf(id, box), getOf(mailbox.BoxID{2})},
			{nothing, {Op: mailbox.OpDigest, Page: mailbox.PageAddr{Level: 9}}}} {
			w.frame(f[0], f[1], time.Duration(i)*time.Second, time.Second, 30*time.Second)
		}
		time.Sleep(2 * time.Minute)
		w.store.Kill()
		w.frame(nothing, nothing, 0, 0, 10*time.Second)
		time.Sleep(3 * time.Minute)
		w.couriers[2].Kill()
		w.frame(nothing, nothing, 0, 0, 10*time.Second)
		time.Sleep(3 * time.Minute)

		message := func(put bool, layers int) int { return 1 + 4 + 4 + mailbox.HalfSize(put, layers) }
		want := [4][]int{
			{mailbox.UpSize, mailbox.LayeredUpFrameSize},
			{message(false, 2), mailbox.UpSize, message(true, 2)},
			{message(false, 1), mailbox.UpSize, message(true, 1)},
			{message(false, 0), message(true, 0), mailbox.UpSize},
		}
		for i, d := range w.taps {
			slices.Sort(want[i])
			if got := d.sizes(); !slices.Equal(got, want[i]) {
				t.Errorf("leg %d: messages of %v bytes, want %v", i, got, want[i])
			}
		}
		// Down the session: the descriptor, the welcome, a frame for each frame, and page frames.
		frames := w.taps[0].up[mailbox.LayeredUpFrameSize]
		if rest := w.taps[0].down - 2*mailbox.DownSize - frames*mailbox.LayeredDownFrameSize; rest <= 0 || rest%mailbox.PageFrameSize != 0 {
			t.Errorf("%d bytes down for %d frames", w.taps[0].down, frames)
		}
	})
}

func TestACourierOnTheWayThatIsGoneOrOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newChain(t, nil)
		w.connect()
		ctx := t.Context()
		for i := 1; i < 3; i++ {
			w.couriers[i].Kill()
			began := time.Now()
			put, get := w.frame(nothing, nothing, 0, 0, 30*time.Second)
			for _, h := range []*mailbox.Half{put, get} {
				if _, _, err := h.Wait(ctx); !errors.Is(err, mailbox.ErrUnreachable) {
					t.Errorf("without courier %d: %v", i+1, err)
				}
			}
			if took := time.Since(began); took.Round(time.Second) != 30*time.Second {
				t.Errorf("the answer came after %v", took)
			}
			w.couriers[i].Start()
			time.Sleep(10 * time.Minute) // couriers do not dial at once again
			put, _ = w.frame(nothing, nothing, 0, 0, 30*time.Second)
			if _, _, err := put.Wait(ctx); err != nil {
				t.Errorf("courier %d is back: %v", i+1, err)
			}
		}
		// A mailbox that is no courier, in the place of one.
		p, err := w.clients[2].SealPut(nothing, 0)
		must(t, err)
		must(t, p.Via(2, mailbox.Hop{Courier: w.clients[0]}, mailbox.Hop{Courier: w.clients[2]}))
		g, err := w.session.Ask(w.clients[0].Address(), 0)
		must(t, err)
		must(t, w.session.Send(ctx, &mailbox.Frame{Put: p, Get: g, Lag: time.Second}))
		if _, _, err := p.Wait(ctx); !errors.Is(err, mailbox.ErrRefused) {
			t.Errorf("through a store: %v", err)
		}
		if _, ok := w.clients[2].Current(); ok {
			t.Error("the descriptor is still believed: it is to be asked for again")
		}
	})
}

// rawLink is a link by hand: what another courier, or an attacker, can send.
type rawLink struct {
	t testing.TB
	net.Conn
	tag uint32
}

func newRawLink(t testing.TB, d mailbox.Dialer, m *mailboxtest.Mailbox) *rawLink {
	t.Helper()
	c, err := d.Dial(t.Context(), string(m.Address().Onion)+":"+strconv.Itoa(mailbox.Port), "attacker")
	must(t, err)
	var up [mailbox.UpSize]byte
	mailbox.LinkRequest(&up)
	_, err = c.Write(up[:])
	must(t, err)
	_, err = io.ReadFull(c, make([]byte, mailbox.DownSize))
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return &rawLink{t: t, Conn: c}
}

func (l *rawLink) send(r mailbox.SubRequest) {
	l.t.Helper()
	l.tag++
	_, err := l.Write(mailbox.AppendLinkMessage(nil, mailbox.LinkMessage{Kind: mailbox.LinkKindOf(len(r.Box)), Tag: l.tag, Epoch: r.Epoch, Data: r.Box}))
	must(l.t, err)
}

func (l *rawLink) receive() mailbox.Clear {
	l.t.Helper()
	m, err := mailbox.ReadLinkMessage(l, true)
	must(l.t, err)
	return mailbox.Clear(m.Data[0])
}

func (l *rawLink) ask(r mailbox.SubRequest) mailbox.Clear {
	l.t.Helper()
	l.send(r)
	return l.receive()
}

// layered is a PUT half as it comes to the second courier.
func (w *chain) layered(delay, back time.Duration) mailbox.SubRequest {
	w.t.Helper()
	h, err := w.clients[2].SealPut(nothing, 0)
	must(w.t, err)
	must(w.t, h.Via(2, w.route(2, delay, back)...))
	return h.Take()
}

func TestALayerIsPeeledOnceAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newChain(t, func(i int, c *courier.Config) { c.Dir = filepath.Join(dir, fmt.Sprint(i)) })
		w.connect()
		r, later := w.layered(0, 0), w.layered(0, 0)
		l := newRawLink(t, w.mesh, w.couriers[1])
		if c := l.ask(r); c != mailbox.ClearSealed {
			t.Fatalf("the first time: %d", c)
		}
		if c := l.ask(r); c != mailbox.ClearRefused {
			t.Errorf("the second time: %d", c)
		}
		if c := newRawLink(t, w.mesh, w.couriers[1]).ask(r); c != mailbox.ClearRefused {
			t.Errorf("over another link: %d", c)
		}
		w.couriers[1].Kill()
		// The process was killed in the middle of a mark.
		files, err := filepath.Glob(filepath.Join(dir, "1", "*.peeled"))
		must(t, err)
		if len(files) != 1 {
			t.Fatalf("%d files of marks", len(files))
		}
		f, err := os.OpenFile(files[0], os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		_, err = f.Write([]byte{1, 2, 3})
		must(t, errors.Join(err, f.Close()))
		w.couriers[1].Start()
		l = newRawLink(t, w.mesh, w.couriers[1])
		if c := l.ask(r); c != mailbox.ClearRefused {
			t.Errorf("after a restart: %d", c)
		}
		if c := l.ask(later); c != mailbox.ClearSealed {
			t.Errorf("another one after a restart: %d", c)
		}
		w.couriers[1].Kill()
		w.couriers[1].Start()
		l = newRawLink(t, w.mesh, w.couriers[1])
		for _, x := range []mailbox.SubRequest{r, later} {
			if c := l.ask(x); c != mailbox.ClearRefused {
				t.Errorf("after two restarts: %d", c)
			}
		}
		// The next day the key still opens, and the marks are still there; the day after both are gone.
		day := func() { time.Sleep(24*time.Hour + time.Minute) }
		day()
		l = newRawLink(t, w.mesh, w.couriers[1])
		if c := l.ask(r); c != mailbox.ClearRefused {
			t.Errorf("the next day: %d", c)
		}
		day()
		time.Sleep(2 * time.Minute)
		l = newRawLink(t, w.mesh, w.couriers[1])
		if c := l.ask(r); c != mailbox.ClearStale {
			t.Errorf("two days later: %d", c)
		}
		if files, _ := filepath.Glob(filepath.Join(dir, "1", "*.peeled")); len(files) != 0 {
			t.Errorf("marks outlive their key: %v", files)
		}
	})
}

// A sender's delays are bounded, on the way there and back.
func TestOverlongDelaysAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newChain(t, nil)
		w.connect()
		// At the second courier the longest that can be asked for, at the third one a little.
		h, err := w.clients[2].SealPut(nothing, 0)
		must(t, err)
		must(t, h.Via(2, mailbox.Hop{Courier: w.clients[0], Delay: 5 * time.Hour, Back: 5 * time.Hour}, mailbox.Hop{Courier: w.clients[1], Delay: time.Second}))
		l := newRawLink(t, w.mesh, w.couriers[1])
		began := time.Now()
		if c := l.ask(h.Take()); c != mailbox.ClearSealed {
			t.Errorf("answered with %d", c)
		}
		if took := time.Since(began); took < 2*mailbox.MaxDelay || took > 2*mailbox.MaxDelay+5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// One link can have only so much held; the rest is busy, at once, and nothing is kept for it.
func TestWhatALinkMayHoldIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand layers")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newChain(t, nil)
		w.connect()
		l := newRawLink(t, w.mesh, w.couriers[1])
		const n = 1100
		clear := map[mailbox.Clear]int{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range n {
				clear[l.receive()]++
			}
		}()
		for range n {
			l.send(w.layered(time.Minute, 0))
		}
		time.Sleep(30 * time.Second)
		if held := w.couriers[1].Courier().Status().Held; held < 1000*9000 || held > 1024*14000 {
			t.Errorf("%d bytes are held", held)
		}
		<-done
		if clear[mailbox.ClearSealed] != 1024 || clear[mailbox.ClearBusy] != n-1024 {
			t.Errorf("answers: %v", clear)
		}
		time.Sleep(time.Minute)
		if held := w.couriers[1].Courier().Status().Held; held != 0 {
			t.Errorf("%d bytes are held though nothing waits", held)
		}
	})
}

// Garbage of the right size is refused at once, in the right size.
func TestGarbageInTheFormOfLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newChain(t, nil)
		w.connect()
		good := w.layered(0, 0)
		l := newRawLink(t, w.mesh, w.couriers[1])
		for _, layers := range []int{1, 2} {
			for _, put := range []bool{true, false} {
				r := good
				r.Box = bytes.Repeat([]byte{7}, mailbox.HalfSize(put, layers))
				if c := l.ask(r); c != mailbox.ClearRefused {
					t.Errorf("garbage: %d", c)
				}
			}
		}
		r := good
		r.Epoch += 77
		if c := l.ask(r); c != mailbox.ClearStale {
			t.Errorf("another day's: %d", c)
		}
		if c := l.ask(good); c != mailbox.ClearSealed {
			t.Errorf("a good one after that: %d", c)
		}
	})
}
