// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
)

// fakeCourier follows the rules of a courier without cryptography: it holds each half for its delay, answers a frame lag
// after it came with what is there, and pushes the pages that fit.
type fakeCourier struct {
	address mailbox.Address
	w       *world

	mu       sync.Mutex
	family   string
	down     error                                   // Connect fails
	net      time.Duration                           // one way, of every message
	drop     func(put bool, to mailbox.Address) bool // halves it throws away
	frames   []seenFrame
	connects int
	broken   int           // sessions opened before are broken
	least    time.Duration // between two frames; who makes more is refused
}

// seenFrame is all that a courier sees of a frame.
type seenFrame struct {
	at                 time.Duration
	node               onionid.Name
	put, get           mailbox.Address
	putDelay, getDelay time.Duration
	courier            mailbox.Address // the courier's; set by watchedFrames
}

func (w *world) courier(n byte) *fakeCourier {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0xc0 | n}, 32))
	a := mailbox.Address{Onion: onionid.FromKey(key.Public().(ed25519.PublicKey))}
	if w.couriers[a] == nil {
		w.couriers[a] = &fakeCourier{address: a, w: w}
	}
	return w.couriers[a]
}

func (c *fakeCourier) set(f func(*fakeCourier)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

// carried is how many frames it got.
func (c *fakeCourier) carried() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.frames)
}

// fakeHalf is a sub-request that is not sealed.
type fakeHalf struct {
	client *fakeClient // nil: for the courier itself
	r      mailbox.Request
	about  mailbox.Address // a descriptor's store
	put    bool
	delay  time.Duration

	once   sync.Once
	done   chan struct{}
	answer []byte
	err    error
}

func (h *fakeHalf) Wait(ctx context.Context) (mailbox.Status, []byte, error) {
	select {
	case <-h.done:
		return 0, h.answer, h.err
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

func (h *fakeHalf) finish(answer []byte, err error) {
	h.once.Do(func() {
		h.answer, h.err = answer, err
		close(h.done)
	})
}

func (c *fakeClient) sealHalf(put bool, r mailbox.Request, delay time.Duration) (Half, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		return nil, mailbox.ErrNoDescriptor
	}
	r.Box = bytes.Clone(r.Box)
	return &fakeHalf{client: c, r: r, put: put, delay: delay, done: make(chan struct{})}, nil
}

func (c *fakeClient) SealPut(r mailbox.Request, delay time.Duration) (Half, error) {
	return c.sealHalf(true, r, delay)
}

func (c *fakeClient) SealGet(r mailbox.Request, delay time.Duration) (Half, error) {
	return c.sealHalf(false, r, delay)
}

func (c *fakeClient) SetDescriptor([]byte) (mailbox.Descriptor, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = true
	return c.descriptor(), nil
}

func (c *fakeClient) ReadPage(_ mailbox.PageAddr, body []byte) (mailbox.Page, error) {
	p := readPart(body[8:])
	p.Closed = binary.BigEndian.Uint64(body)
	return p, nil
}

func (c *fakeClient) ParsePushed(part []byte) (mailbox.Page, error) { return readPart(part), nil }

// readPart is mailbox.ParsePage for the fakes' parts, which nobody signed.
func readPart(b []byte) mailbox.Page {
	n := binary.BigEndian.Uint16
	p := mailbox.Page{PageAddr: mailbox.PageAddr{Level: b[0], Index: binary.BigEndian.Uint64(b[1:]), Part: n(b[9:])}, Parts: n(b[11:])}
	for b := range slices.Chunk(b[15:15+mailbox.HandleSize*int(n(b[13:]))], mailbox.HandleSize) {
		p.Handles = append(p.Handles, mailbox.Handle(b))
	}
	return p
}

// serve is the store's work on a half.
func (h *fakeHalf) serve() ([]byte, error) {
	ctx := context.Background()
	c := &fakeClient{fakeStore: h.client.fakeStore, known: true}
	switch h.r.Op {
	case mailbox.OpPut:
		c.mu.Lock()
		if c.writers == nil {
			c.writers = map[onionid.Name]int{}
		}
		c.writers[h.client.node.name()]++
		c.mu.Unlock()
		return nil, c.Put(ctx, h.r.ID, (*[mailbox.BoxSize]byte)(h.r.Box), &h.r.Token)
	case mailbox.OpRegister:
		r, err := mailbox.ParseRegister(h.r)
		if err != nil {
			return nil, err
		}
		return nil, c.Register(ctx, r)
	case mailbox.OpIssue:
		i, err := mailbox.ParseIssue(h.r)
		if err != nil {
			return nil, err
		}
		return nil, c.Issue(ctx, h.r.ID, i)
	case mailbox.OpGet:
		box, err := c.Get(ctx, h.r.Get)
		if err != nil {
			return nil, err
		}
		return box[:], nil
	case mailbox.OpDigest:
		page, err := c.Digest(ctx, h.r.Page)
		if err != nil {
			return nil, err
		}
		return mailbox.DigestBody(page.Closed, page.Bytes()), nil
	}
	return nil, c.Nothing(ctx)
}

// fakeSession is a node's session with a fakeCourier.
type fakeSession struct {
	*fakeCourier
	node   *node
	params SessionParams

	smu      sync.Mutex
	up       bool
	number   int // of fakeCourier.broken when it was made
	end      chan struct{}
	late     []func() // answers that missed their frame's lag
	followed []mailbox.Address
}

var errBroken = errors.New("the session is broken")

func (s *fakeSession) Connect(ctx context.Context) error {
	s.mu.Lock()
	s.connects++
	down, net, n, least := s.down, s.net, s.broken, s.least
	s.mu.Unlock()
	if s.node != nil && s.node.offline.Load() {
		down = errors.New("no network")
	}
	if down != nil {
		return down
	}
	if s.params.Frame < least {
		return mailbox.ErrRate
	}
	select {
	case <-time.After(2 * net):
	case <-ctx.Done():
		return ctx.Err()
	}
	s.smu.Lock()
	s.up, s.number, s.end = true, n, make(chan struct{})
	s.smu.Unlock()
	if s.params.Push > 0 {
		go s.push(s.end)
	}
	return nil
}

func (s *fakeSession) Connected() bool {
	s.mu.Lock()
	broken := s.broken
	s.mu.Unlock()
	s.smu.Lock()
	defer s.smu.Unlock()
	if s.up && (s.number != broken || s.node != nil && s.node.offline.Load()) {
		s.up = false
		close(s.end)
	}
	return s.up
}

func (s *fakeSession) Close() error {
	s.smu.Lock()
	defer s.smu.Unlock()
	if s.up {
		s.up = false
		close(s.end)
	}
	return nil
}

func (s *fakeSession) Family() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.family
}

func (s *fakeSession) Ask(a mailbox.Address, delay time.Duration) (Half, error) {
	return &fakeHalf{about: a, delay: delay, done: make(chan struct{})}, nil
}

func (s *fakeSession) Idle(delay time.Duration) (Half, error) {
	return &fakeHalf{put: true, delay: delay, done: make(chan struct{})}, nil
}

func (s *fakeSession) Send(ctx context.Context, f *Frame) error {
	if !s.Connected() {
		return errBroken
	}
	put, get := f.Put.(*fakeHalf), f.Get.(*fakeHalf)
	seen := seenFrame{at: time.Since(playStart), put: s.address, get: s.address, putDelay: put.delay, getDelay: get.delay}
	if s.node != nil {
		seen.node = s.node.name()
	}
	for _, h := range []*fakeHalf{put, get} {
		to := &seen.put
		if h == get {
			to = &seen.get
		}
		if h.client != nil {
			*to = h.client.address
		}
	}
	s.mu.Lock()
	s.frames = append(s.frames, seen)
	net, drop := s.net, s.drop
	s.mu.Unlock()
	s.smu.Lock()
	s.followed = slices.Clone(f.Follow)
	end := s.end
	s.smu.Unlock()
	for _, h := range []*fakeHalf{put, get} {
		if h.client != nil && drop != nil && drop(h.put, h.client.address) {
			continue
		}
		go func() {
			hop := 2 * net // to the courier, and to the store
			if h.client == nil {
				hop = net
			}
			time.Sleep(h.delay + hop)
			var answer []byte
			var err error
			if h.client != nil {
				if answer, err = h.serve(); errors.Is(err, errSilent) {
					return
				}
				time.Sleep(net)
			}
			s.smu.Lock()
			s.late = append(s.late, func() { h.finish(answer, err) })
			s.smu.Unlock()
		}()
	}
	go func() { // the frame down
		select {
		case <-time.After(net + f.Lag):
		case <-end:
			return
		}
		s.smu.Lock()
		ready := s.late
		s.late = nil
		s.smu.Unlock()
		time.Sleep(net)
		for _, f := range ready {
			f()
		}
	}()
	return nil
}

// errSilent is a store that does not answer a courier at all.
var errSilent = errors.New("silence")

// pushAfter is how long after the end of a bucket its page is there, and leaves.
const pushAfter = 2 * time.Second

// push passes on digest pages that have one part.
func (s *fakeSession) push(end chan struct{}) {
	sent := map[mailbox.Address]uint64{}
	for {
		wait := time.Until(time.Now().Add(-pushAfter).Truncate(s.params.Push).Add(s.params.Push + pushAfter))
		select {
		case <-time.After(wait):
		case <-end:
			return
		}
		if !s.Connected() {
			return
		}
		s.smu.Lock()
		followed := s.followed
		s.smu.Unlock()
		for _, a := range followed {
			st := s.w.stores[a]
			c := &fakeClient{fakeStore: st, known: true}
			st.mu.Lock()
			bucket, closing, down := st.bucket, st.closing-st.skew, st.down
			st.mu.Unlock()
			if down != nil {
				continue
			}
			newest := mailbox.BucketAt(time.Now().Add(-closing), bucket)
			for i := max(sent[a], newest-min(newest, 8)); i < newest; i++ {
				page, err := c.Digest(context.Background(), mailbox.PageAddr{Index: i})
				if err != nil || page.Parts > 1 {
					continue
				}
				sent[a] = i + 1
				b := page.Bytes()
				go func() {
					s.mu.Lock()
					net := s.net
					s.mu.Unlock()
					time.Sleep(net)
					s.params.OnPage(a, b)
				}()
			}
		}
	}
}
