// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// liar is a store made by hand: it opens requests rightly, and answers as the test says.
type liar struct {
	t      *testing.T
	s      testStore
	answer func(down *[DownSize]byte, descriptor []byte, r Request, seal func(s Status, body []byte))

	mu  sync.Mutex
	iso map[string]int
}

func (l *liar) Dial(_ context.Context, addr, isolation string) (net.Conn, error) {
	if addr != string(l.s.addr.Onion)+":4001" {
		l.t.Errorf("dialled %q", addr)
	}
	l.mu.Lock()
	l.iso[isolation]++
	l.mu.Unlock()
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		var up [UpSize]byte
		if _, err := io.ReadFull(there, up[:]); err != nil {
			return
		}
		var down [DownSize]byte
		today := Epoch(time.Now())
		desc, err := SignDescriptor(l.s.onion, l.s.descriptor(today, today+1))
		if err != nil {
			l.t.Error(err)
		}
		h, err := ParseHeader(&up)
		if err != nil {
			l.t.Error(err)
		}
		var r Request
		seal := func(Status, []byte) { l.t.Error("nothing to seal") }
		if h.Kind == KindSealed {
			req, reply, err := OpenRequest(&up, l.s.request, RequestInfo(l.s.onionPublic(), h.Epoch))
			if err != nil {
				l.t.Error(err)
			}
			r, seal = req, func(st Status, body []byte) { SealAnswer(&down, reply, st, body) }
		}
		l.answer(&down, desc, r, seal)
		there.Write(down[:])
	}()
	return here, nil
}

func newLiar(t *testing.T) *liar { return &liar{t: t, s: newTestStore(t), iso: map[string]int{}} }

// honest answers the descriptor, and lets lie answer the rest.
func honest(lie func(down *[DownSize]byte, r Request, seal func(Status, []byte))) func(*[DownSize]byte, []byte, Request, func(Status, []byte)) {
	first := true
	return func(down *[DownSize]byte, desc []byte, r Request, seal func(Status, []byte)) {
		if first {
			ClearAnswer(down, ClearDescriptor, desc)
			first = false
			return
		}
		lie(down, r, seal)
	}
}

func TestClientBelievesNothingUnsigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			lie  func(down *[DownSize]byte, desc []byte)
			want error
		}{
			"zeros":            {func(*[DownSize]byte, []byte) {}, ErrBadReply},
			"unknown kind":     {func(down *[DownSize]byte, _ []byte) { down[0] = 99 }, ErrBadReply},
			"random":           {func(down *[DownSize]byte, _ []byte) { ClearAnswer(down, ClearDescriptor, nil) }, ErrBadReply},
			"changed":          {func(down *[DownSize]byte, d []byte) { d[40] ^= 1; ClearAnswer(down, ClearDescriptor, d) }, ErrBadReply},
			"stale, for one":   {func(down *[DownSize]byte, _ []byte) { ClearAnswer(down, ClearStale, nil) }, ErrBadReply},
			"busy":             {func(down *[DownSize]byte, _ []byte) { ClearAnswer(down, ClearBusy, nil) }, ErrBusy},
			"refused":          {func(down *[DownSize]byte, _ []byte) { ClearAnswer(down, ClearRefused, nil) }, ErrRefused},
			"another geometry": {func(down *[DownSize]byte, d []byte) { d[0] = 2; ClearAnswer(down, ClearDescriptor, d) }, ErrBadReply},
		} {
			l := newLiar(t)
			l.answer = func(down *[DownSize]byte, d []byte, _ Request, _ func(Status, []byte)) { c.lie(down, d) }
			cl := NewClient(l.s.addr, l)
			if _, err := cl.Descriptor(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
			if _, ok := cl.Current(); ok {
				t.Errorf("%s: it was kept", name)
			}
			if _, err := cl.Get(t.Context(), Handle{}); !errors.Is(err, ErrNoDescriptor) {
				t.Errorf("%s: %v", name, err)
			}
		}
		l := newLiar(t)
		l.answer = func(down *[DownSize]byte, _ []byte, _ Request, _ func(Status, []byte)) {
			old, err := SignDescriptor(l.s.onion, l.s.descriptor(1, 2))
			if err != nil {
				t.Error(err)
			}
			ClearAnswer(down, ClearDescriptor, old)
		}
		if _, err := NewClient(l.s.addr, l).Descriptor(t.Context()); !errors.Is(err, ErrNoDescriptor) {
			t.Errorf("an old descriptor: %v", err)
		}
	})
}

func TestClientTakesOnlyTheAnswerToItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestStore(t)
		page := func(sign testStore, p Page) []byte {
			return DigestBody(1, SignPage(sign.signing, s.onionPublic(), 10*time.Second, p))
		}
		at := PageAddr{Level: 1, Index: 77}
		other := s
		other.signing = s.onion
		get := func(c *Client) error { _, err := c.Get(t.Context(), Handle{1}); return err }
		digest := func(c *Client) error { _, err := c.Digest(t.Context(), at); return err }
		put := func(c *Client) error { return c.Put(t.Context(), BoxID{}, new([BoxSize]byte), nil) }
		for name, c := range map[string]struct {
			call func(*Client) error
			lie  func(down *[DownSize]byte, r Request, seal func(Status, []byte))
			want error
		}{
			"not sealed":   {get, func(down *[DownSize]byte, _ Request, _ func(Status, []byte)) { down[0] = 0 }, ErrBadReply},
			"a descriptor": {get, func(down *[DownSize]byte, _ Request, _ func(Status, []byte)) { down[0] = byte(ClearDescriptor) }, ErrBadReply},
			"more than a box": {get, func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) {
				seal(0, bytes.Repeat([]byte{1}, BodySize))
			}, ErrBadReply},
			"unknown status":      {put, func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) { seal(77, nil) }, ErrBadReply},
			"a page of zeros":     {digest, func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) { seal(0, nil) }, ErrBadReply},
			"another's signature": {digest, func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) { seal(0, page(other, testPage(3))) }, ErrPage},
			"another page": {digest, func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) {
				seal(0, page(s, Page{PageAddr: PageAddr{Index: 77}, Parts: 1}))
			}, ErrPage},
			"no key":                 {put, func(down *[DownSize]byte, _ Request, _ func(Status, []byte)) { ClearAnswer(down, ClearStale, nil) }, ErrNoDescriptor},
			"too many":               {digest, func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) { seal(StatusTooMany, nil) }, ErrTooMany},
			"the right page":         {digest, func(_ *[DownSize]byte, r Request, seal func(Status, []byte)) { seal(0, page(s, testPage(3))) }, nil},
			"refused, though opened": {put, func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) { seal(StatusRefused, nil) }, ErrRefused},
		} {
			l := newLiar(t)
			l.answer = honest(c.lie)
			cl := NewClient(l.s.addr, l)
			if _, err := cl.Descriptor(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.call(cl); !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
	})
}

func TestEveryTransactionHasItsOwnCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t)
		l.answer = honest(func(_ *[DownSize]byte, _ Request, seal func(Status, []byte)) { seal(StatusOK, nil) })
		c := NewClient(l.s.addr, l)
		if _, err := c.Descriptor(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := c.Nothing(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if len(l.iso) != 11 {
			t.Errorf("11 transactions have %d isolation strings", len(l.iso))
		}
	})
}

func TestTransactionEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t)
		l.answer = func(*[DownSize]byte, []byte, Request, func(Status, []byte)) { time.Sleep(10 * DefaultTimeout) }
		c := NewClient(l.s.addr, l)
		for _, limit := range []time.Duration{time.Second, 10 * DefaultTimeout} {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			began := time.Now()
			if _, err := c.Descriptor(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != min(limit, DefaultTimeout) {
				t.Errorf("limit %v: %v after %v", limit, err, time.Since(began))
			}
			cancel()
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := c.Descriptor(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		time.Sleep(20 * DefaultTimeout)
	})
}
