// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
	"tarn/onion/oniontest"
)

// wiretap is what somebody sees who watches one connection: when how much went which way. A write is one frame.
type wiretap struct {
	mu     sync.Mutex
	writes []write
}

type write struct {
	at    time.Time
	up    bool
	bytes int
}

func (p *wiretap) add(up bool, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes = append(p.writes, write{time.Now(), up, n})
}

func (p *wiretap) all() []write {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.writes)
}

// wiretapped dials sessions with a tap on them; the down direction is counted by the frames' sizes as they are read whole.
type wiretapped struct {
	mailbox.Dialer
	tap *wiretap
}

func (d wiretapped) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	c, err := d.Dialer.Dial(ctx, addr, isolation)
	if err != nil || len(isolation) < 8 || isolation[:8] != "session-" {
		return c, err
	}
	return &wiretapConn{c, d.tap}, nil
}

type wiretapConn struct {
	net.Conn
	tap *wiretap
}

func (c *wiretapConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.tap.add(true, n)
	return n, err
}

func (c *wiretapConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.tap.add(false, n)
	}
	return n, err
}

// frames joins what was read at one instant: a frame comes at once, in two reads.
func frames(ws []write) (up, down []write) {
	for _, w := range ws {
		switch n := len(down); {
		case w.up:
			up = append(up, w)
		case n > 0 && down[n-1].at.Equal(w.at):
			down[n-1].bytes += w.bytes
		default:
			down = append(down, w)
		}
	}
	return up, down
}

// Whatever becomes of the halves of a frame, what goes down has one size, and goes exactly a lag after what came up.
func TestEveryFrameIsAnsweredAtItsLagInOneSize(t *testing.T) {
	const lag = 6007 * time.Millisecond // at no multiple of the pushes
	for name, c := range map[string]struct {
		config func(*courier.Config)
		fault  mailboxtest.Fault // of the courier
		store  mailboxtest.Fault
		gone   bool // halves are for a mailbox that is not there
		kill   bool // the store
		want   error
	}{
		"all is well":       {},
		"store down":        {store: mailboxtest.Fault{Down: true}, kill: true, want: mailbox.ErrUnreachable},
		"store unreachable": {store: mailboxtest.Fault{Unreachable: true}, kill: true, want: mailbox.ErrUnreachable},
		"store full":        {store: mailboxtest.Fault{Full: true}, want: mailbox.ErrFull},
		"store busy":        {store: mailboxtest.Fault{Busy: true}, want: mailbox.ErrBusy},
		"store hangs":       {store: mailboxtest.Fault{Hang: true}, kill: true, want: mailbox.ErrUnreachable},
		"garbage of store":  {store: mailboxtest.Fault{Garbage: true}, kill: true, want: mailbox.ErrUnreachable},
		"no such mailbox":   {gone: true, want: mailbox.ErrUnreachable},
		"courier is full":   {config: func(c *courier.Config) { c.MaxHeld = 9000 }, want: mailbox.ErrBusy},
		"courier drops":     {fault: mailboxtest.Fault{DropShare: 1}, want: mailbox.ErrUnreachable},
		"courier delays":    {fault: mailboxtest.Fault{Carry: 500 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				if c.config != nil {
					w.courier = mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(w.mesh, c.config))
				}
				tap := &wiretap{}
				w.session = mailbox.NewSession(w.courier.Address(), wiretapped{w.mesh, tap}, mailbox.SessionParams{Push: 10 * time.Second})
				t.Cleanup(func() { w.session.Close() })
				if c.config == nil {
					w.connect()
				} else {
					must(t, w.session.Connect(t.Context()))
					_, err := w.client.Descriptor(t.Context())
					must(t, err)
				}
				if c.kill { // the link breaks, and a new one meets the fault
					w.store.Kill()
					w.store.Start()
				}
				w.courier.Faults.Set(c.fault)
				w.store.Faults.Set(c.store)
				if c.gone {
					w.client = clientOfNone(t, w)
				}
				before := len(tap.all())
				var puts []*mailbox.Half
				rng := rand.New(rand.NewPCG(1, 2))
				for range 20 {
					id, box := randomBox()
					put, _ := w.frame(putOf(id, box), getOf(id), 2*time.Second, time.Second, lag, w.store.Address())
					puts = append(puts, put)
					time.Sleep(time.Duration(rng.ExpFloat64() * float64(10*time.Second)))
				}
				time.Sleep(5 * time.Minute)
				up, down := frames(tap.all()[before:])
				var asked []time.Time
				for _, u := range up {
					if u.bytes != mailbox.UpFrameSize {
						t.Fatalf("a frame of %d bytes went up", u.bytes)
					}
					asked = append(asked, u.at)
				}
				var answers, pages []time.Time
				for _, d := range down {
					switch d.bytes {
					case mailbox.DownFrameSize:
						answers = append(answers, d.at)
					case mailbox.PageFrameSize:
						pages = append(pages, d.at)
					default:
						t.Fatalf("%d bytes came down at once", d.bytes)
					}
				}
				if len(asked) != 20 || len(answers) != 20 {
					t.Fatalf("%d frames went up, %d came down", len(asked), len(answers))
				}
				for i := range answers {
					if d := answers[i].Sub(asked[i]); d != lag {
						t.Errorf("frame %d was answered after %v", i, d)
					}
				}
				if len(pages) < 25 {
					t.Errorf("only %d page frames", len(pages))
				}
				for i, p := range pages {
					if ms := p.Add(-courier.DefaultPushLag).UnixMilli(); ms%10_000 != 0 || i > 0 && p.Sub(pages[i-1]) != 10*time.Second {
						t.Errorf("a page frame at %v", p)
					}
				}
				// What waits at a store that hangs uses up the session's room: the rest is answered busy. Receipts that were late
				// wait for the next frame: the last few have none.
				as := map[bool]int{}
				for _, p := range puts {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, _, err := p.Wait(ctx)
					cancel()
					if errors.Is(err, c.want) {
						as[true]++
					} else if c.want == nil || !errors.Is(err, mailbox.ErrBusy) && !errors.Is(err, context.DeadlineExceeded) {
						as[false]++
						t.Logf("put: %v", err)
					}
				}
				if as[true] < 12 && c.fault.DropShare == 0 || as[true] == 0 || as[false] > 3 {
					t.Errorf("of 20 puts %d ended with %v, %d otherwise", as[true], c.want, as[false])
				}
			})
		})
	}
}

// Page frames have one size and one time whether there is something to push or not, and whatever the digest holds.
func TestPageFramesDoNotTellWhatTheyHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		tap := &wiretap{}
		w.session = mailbox.NewSession(w.courier.Address(), wiretapped{w.mesh, tap}, mailbox.SessionParams{Push: 10 * time.Second})
		t.Cleanup(func() { w.session.Close() })
		w.connect()
		before := len(tap.all())
		w.frame(nothing, nothing, 0, 0, time.Second, w.store.Address())
		time.Sleep(time.Minute)
		for range 300 { // more handles in a bucket than fit
			id, box := randomBox()
			must(t, w.client.Put(t.Context(), id, (*[mailbox.BoxSize]byte)(box), nil))
		}
		time.Sleep(time.Minute)
		w.frame(nothing, nothing, 0, 0, time.Second) // follows nothing any more
		time.Sleep(time.Minute)
		_, down := frames(tap.all()[before:])
		var last time.Time
		n := 0
		for _, d := range down {
			if d.bytes == mailbox.DownFrameSize {
				continue
			}
			if n++; d.bytes != mailbox.PageFrameSize || !last.IsZero() && d.at.Sub(last) != 10*time.Second {
				t.Errorf("%d bytes, %v after the last", d.bytes, d.at.Sub(last))
			}
			last = d.at
		}
		if n < 18 {
			t.Errorf("%d page frames in three minutes", n)
		}
	})
}

// clientOfNone knows the descriptor of a mailbox that is not there any more.
func clientOfNone(t *testing.T, w *world) *mailbox.Client {
	was := mailboxtest.New(t, mailboxtest.WithMesh(w.mesh))
	c := was.Client()
	_, err := c.Descriptor(t.Context())
	must(t, err)
	was.Kill()
	return c
}

// On a network with delays, the bytes are what the design says: a balanced node's day in both directions.
func TestBytesOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := oniontest.New(1)
		t.Cleanup(n.Close)
		n.SetDefault(oniontest.Link{Delay: 700 * time.Millisecond})
		listen := func(host string) func(key ed25519.PrivateKey, port int) (net.Listener, error) {
			return func(key ed25519.PrivateKey, port int) (net.Listener, error) {
				return n.Host(host).Listen(t.Context(), key, port)
			}
		}
		st := mailboxtest.New(t, mailboxtest.WithNetwork(listen("store"), n.Host("courier")))
		co := mailboxtest.New(t, mailboxtest.WithoutStore(), mailboxtest.WithNetwork(listen("courier"), n.Host("node")), mailboxtest.WithCourier(n.Host("courier"), nil))
		must(t, n.Host("store").WaitPublished(t.Context(), st.Address().Onion))
		must(t, n.Host("courier").WaitPublished(t.Context(), co.Address().Onion))
		var mu sync.Mutex
		pages := 0
		s := mailbox.NewSession(co.Address(), n.Host("node"), mailbox.SessionParams{Push: 10 * time.Second, OnPage: func(mailbox.Address, []byte) {
			mu.Lock()
			defer mu.Unlock()
			pages++
		}})
		t.Cleanup(func() { s.Close() })
		must(t, s.Connect(t.Context()))
		c := mailbox.NewClient(st.Address(), n.Host("node"))
		get, err := s.Ask(st.Address(), 0)
		must(t, err)
		put, err := s.Idle(0)
		must(t, err)
		must(t, s.Send(t.Context(), &mailbox.Frame{Put: put, Get: get, Lag: 10 * time.Second, Follow: []mailbox.Address{st.Address()}}))
		_, body, err := get.Wait(t.Context())
		must(t, err)
		_, err = c.SetDescriptor(body)
		must(t, err)
		began, before := time.Now(), n.Traffic("node", "courier")
		rng := rand.New(rand.NewPCG(3, 4))
		var halves []*mailbox.Half
		sent := 0
		for time.Since(began) < 20*time.Minute {
			time.Sleep(time.Duration(rng.ExpFloat64() * float64(10*time.Second)))
			put, err := c.SealPut(nothing, time.Duration(rng.ExpFloat64()*float64(2*time.Second)))
			must(t, err)
			get, err := c.SealGet(nothing, min(time.Duration(rng.ExpFloat64()*float64(2*time.Second)), 4*time.Second))
			must(t, err)
			must(t, s.Send(t.Context(), &mailbox.Frame{Put: put, Get: get, Lag: 6 * time.Second, Follow: []mailbox.Address{st.Address()}}))
			halves = append(halves, put, get)
			sent++
		}
		time.Sleep(time.Minute)
		after := n.Traffic("node", "courier")
		up, down := after.Up-before.Up, after.Down-before.Down
		if up != uint64(sent)*mailbox.UpFrameSize {
			t.Errorf("%d bytes up for %d frames", up, sent)
		}
		pushes := (down - uint64(sent)*mailbox.DownFrameSize) / mailbox.PageFrameSize
		if down != uint64(sent)*mailbox.DownFrameSize+pushes*mailbox.PageFrameSize || pushes < 120 || pushes > 135 {
			t.Errorf("%d bytes down for %d frames", down, sent)
		}
		mu.Lock()
		defer mu.Unlock()
		// The number of frames in so short a time is chance; what one costs is not, nor are the pushes.
		day := (8640*float64(up+uint64(sent)*mailbox.DownFrameSize)/float64(sent) + float64(24*time.Hour/(10*time.Second))*mailbox.PageFrameSize) / 1e6
		t.Logf("%d frames, %d pushes with %d pages: %.1f MB a day", sent, pushes, pages, day)
		if day < 173*0.95 || day > 173*1.05 {
			t.Errorf("%.1f MB a day, want 173 within 5 %%", day)
		}
		// With these delays and a Tor round trip of 1.4 s, nearly every GET answer makes its frame, and none is lost.
		for i, h := range halves {
			if _, _, err := h.Wait(t.Context()); err != nil && i < len(halves)-4 {
				t.Errorf("half %d: %v", i, err)
			}
		}
		if pages < 115 {
			t.Errorf("%d pages were pushed in twenty minutes", pages)
		}
	})
}
