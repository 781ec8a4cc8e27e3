// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"sync"
	"time"

	"tarn/mailbox"
)

// Half is one sealed sub-request of a frame.
type Half interface {
	// Wait returns the answer whenever it comes. Statuses other than OK are errors, as a *mailbox.Client's.
	Wait(ctx context.Context) (mailbox.Status, []byte, error)
}

// Frame is what leaves for a courier at one time. Both halves are there.
type Frame struct {
	Put, Get Half
	Lag      time.Duration
	Follow   []mailbox.Address // stores whose new digest pages are to be pushed; at most 3
}

// Sealer makes the halves for one store, and reads what came of them. What it does not know the store's keys for errs with
// mailbox.ErrNoDescriptor. Safe for concurrent use; it sends nothing.
type Sealer interface {
	SealPut(r mailbox.Request, delay time.Duration) (Half, error)
	SealGet(r mailbox.Request, delay time.Duration) (Half, error)
	// SetDescriptor takes the store's descriptor, as it came through a courier.
	SetDescriptor(b []byte) (mailbox.Descriptor, error)
	// ReadPage reads the body of an answer to a request for that page.
	ReadPage(p mailbox.PageAddr, body []byte) (mailbox.Page, error)
	// ParsePushed reads a page that a courier pushed.
	ParsePushed(part []byte) (mailbox.Page, error)
}

// half is the Mailbox that a job of a courier's frame gets: its one call seals the sub-request into the frame, waits
// until the frame has left, and for the answer.
type half struct {
	guard   *guard
	session Courier
	put     bool
	way     way
	store   *depot          // whom it is for; nil until chosen
	target  mailbox.Address // what the courier sees: the store, or the courier itself

	ready chan Half // of one: the sealed sub-request
	once  sync.Once
	left  chan struct{} // closed when the frame has left, or will not
	err   error         // why it will not; before left is closed
	sent  bool          // take gave it away
}

var _ Mailbox = (*half)(nil)

func newHalf(s *frameSlot, put bool, w way) *half {
	return &half{guard: s.guard, session: s.session, put: put, way: w, ready: make(chan Half, 1), left: make(chan struct{})}
}

// take is the sealed sub-request if it is there; else nil, and it will not be sent any more.
func (h *half) take() Half {
	select {
	case s := <-h.ready:
		h.sent = true
		return s
	default:
		h.leave(errNotSent)
		return nil
	}
}

// leave says that the frame has left (nil) or why it will not. The first word counts.
func (h *half) leave(err error) {
	h.once.Do(func() {
		h.err = err
		close(h.left)
	})
}

// ask sends what seal makes and waits for the answer's body.
func (h *half) ask(ctx context.Context, seal func() (Half, error)) ([]byte, error) {
	s, err := seal()
	if err != nil {
		return nil, err
	}
	h.ready <- s
	select {
	case <-h.left:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if h.err != nil {
		return nil, h.err
	}
	_, body, err := s.Wait(ctx)
	return body, err
}

func (h *half) request(ctx context.Context, r mailbox.Request) ([]byte, error) {
	return h.ask(ctx, func() (Half, error) { return h.way.over(h.store.seal(h.put, r, h.way.first)) })
}

// Descriptor asks the courier for the store's: the last one on the way.
func (h *half) Descriptor(ctx context.Context) (mailbox.Descriptor, error) {
	body, err := h.ask(ctx, func() (Half, error) { return h.way.ask(h.session, len(h.way.route), h.store.address) })
	if err != nil {
		return mailbox.Descriptor{}, err
	}
	return h.store.sealer.SetDescriptor(body)
}

// Put is a Mailbox's.
func (h *half) Put(ctx context.Context, id mailbox.BoxID, box *[mailbox.BoxSize]byte, token *[mailbox.TokenSize]byte) error {
	r := mailbox.Request{Op: mailbox.OpPut, ID: id, Box: box[:]}
	if token != nil {
		r.Token = *token
	}
	_, err := h.request(ctx, r)
	return err
}

// Nothing is a Mailbox's.
func (h *half) Nothing(ctx context.Context) error {
	if h.store == nil { // no store's keys are known yet: the courier itself
		_, err := h.ask(ctx, func() (Half, error) { return h.session.Idle(h.way.first) })
		return err
	}
	_, err := h.request(ctx, mailbox.Request{Op: mailbox.OpNothing})
	return err
}

// Get is a Mailbox's.
func (h *half) Get(ctx context.Context, handle mailbox.Handle) (*[mailbox.BoxSize]byte, error) {
	body, err := h.request(ctx, mailbox.Request{Op: mailbox.OpGet, Get: handle})
	if err != nil {
		return nil, err
	}
	if len(body) < mailbox.BoxSize {
		return nil, mailbox.ErrBadReply
	}
	return (*[mailbox.BoxSize]byte)(body), nil
}

// Digest is a Mailbox's.
func (h *half) Digest(ctx context.Context, p mailbox.PageAddr) (mailbox.Page, error) {
	body, err := h.request(ctx, mailbox.Request{Op: mailbox.OpDigest, Page: p})
	if err != nil {
		return mailbox.Page{}, err
	}
	return h.store.sealer.ReadPage(p, body)
}
