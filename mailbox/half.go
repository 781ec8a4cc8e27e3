// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
)

// Sizes of the two sub-requests of a frame ("halves") and of their answers, in bytes. They are told apart by size alone.
const (
	// PutSize is the plaintext of a PUT half: op 1, token 96, id 16, box 8208.
	PutSize = atPad
	// GetSize is the plaintext of a GET half: op 1, handle 8 or page address 11 or onion key 32; zeros.
	GetSize = 64
	// SealedPutSize and SealedGetSize are the halves as they travel.
	SealedPutSize = PutSize + sealed.Overhead // 9,457
	SealedGetSize = GetSize + sealed.Overhead // 1,200

	// ReceiptSize is the answer to a PUT half as it travels: clear 1, sealed (status 1, zeros 7).
	ReceiptSize = 1 + receiptPlain + sealed.ReplyOverhead // 49
	// GetAnswerSize is the answer to a GET half as it travels: clear 1, sealed (status 1, body 8208).
	GetAnswerSize = 1 + getPlain + sealed.ReplyOverhead // 8,250

	receiptPlain = 8
	getPlain     = 1 + BoxSize

	// MaxDelay is the longest that a courier holds a half, or an answer to a frame.
	MaxDelay = 10 * time.Minute
)

const (
	_ = uint(BoxSize - (closedSize + pageHeaderSize + PageHandles*HandleSize + signatureSize))
	_ = uint(BoxSize - maxDescriptorSize)
)

// Errors of halves and sessions.
var (
	// ErrRate: the courier does not take as many frames a second as the session would send.
	ErrRate = errors.New("mailbox: the courier takes fewer frames a second")
	// ErrUnreachable: the courier could not bring the request to the mailbox, or did not get its answer.
	ErrUnreachable = errors.New("mailbox: the courier cannot reach that mailbox")
	// ErrSession: the session with the courier broke before the answer came, or there is none.
	ErrSession = errors.New("mailbox: no session with the courier")
	// ErrLost: the answer has not come while many later ones did.
	ErrLost = errors.New("mailbox: the courier brought no answer")
)

// IsPut says whether a half or an answer of that many bytes belongs to a PUT. What is neither a PUT's nor a GET's is an
// error of the caller.
func IsPut(size int) bool {
	for layers := range MaxLayers + 1 {
		if size == HalfSize(true, layers) || size == HalfAnswerSize(true, layers) {
			return true
		}
	}
	return false
}

// SealHalf encrypts r as a PUT half (nothing, put, register, issue) or as a GET half (nothing, get, digest, descriptor).
func SealHalf(put bool, r Request, key *sealed.PublicKey, info []byte) ([]byte, *sealed.Reply, error) {
	p := make([]byte, GetSize)
	if put {
		p = make([]byte, PutSize)
	}
	p[0] = byte(r.Op)
	switch {
	case r.Op == OpNothing:
	case put && (r.Op == OpPut || r.Op == OpRegister || r.Op == OpIssue):
		if len(r.Box) != BoxSize {
			return nil, nil, fmt.Errorf("%w: a box of %d bytes, want %d", ErrRequest, len(r.Box), BoxSize)
		}
		copy(p[atToken:], r.Token[:])
		copy(p[atID:], r.ID[:])
		copy(p[atBox:], r.Box)
	case !put && r.Op == OpGet:
		copy(p[1:], r.Get[:])
	case !put && r.Op == OpDigest:
		p[1] = r.Page.Level
		binary.BigEndian.PutUint64(p[2:], r.Page.Index)
		binary.BigEndian.PutUint16(p[10:], r.Page.Part)
	case !put && r.Op == OpDescriptor:
		copy(p[1:], r.Onion[:])
	default:
		return nil, nil, fmt.Errorf("%w: operation %d in a half of that kind", ErrRequest, r.Op)
	}
	return key.Seal(info, p)
}

// OpenHalf opens a half of either kind. A box that does not open is sealed.ErrOpen, without a reply; one that opens to
// nonsense is ErrRequest, with the reply that the refusal can be sealed with.
func OpenHalf(box []byte, key *sealed.PrivateKey, info []byte) (Request, *sealed.Reply, error) {
	p, reply, err := key.Open(info, box)
	if err != nil {
		return Request{}, nil, err
	}
	r, err := parseHalf(p)
	return r, reply, err
}

// parseHalf reads the plaintext. Every byte that an operation does not use must be zero.
func parseHalf(p []byte) (Request, error) {
	if len(p) != PutSize && len(p) != GetSize {
		return Request{}, fmt.Errorf("%w: a half of %d bytes", ErrRequest, len(p))
	}
	put, used := len(p) == PutSize, 1
	r := Request{Op: Op(p[0])}
	switch {
	case r.Op == OpNothing:
	case put && (r.Op == OpPut || r.Op == OpRegister || r.Op == OpIssue):
		r.Token = [TokenSize]byte(p[atToken:])
		r.ID = BoxID(p[atID:])
		r.Box = p[atBox:]
		if r.Op != OpPut && r.Token != ([TokenSize]byte{}) {
			return Request{}, fmt.Errorf("%w: a token where none belongs", ErrRequest)
		}
		return r, nil
	case !put && r.Op == OpGet:
		r.Get = Handle(p[1:])
		used += HandleSize
	case !put && r.Op == OpDigest:
		r.Page = PageAddr{p[1], binary.BigEndian.Uint64(p[2:]), binary.BigEndian.Uint16(p[10:])}
		used += 11
	case !put && r.Op == OpDescriptor:
		r.Onion = [32]byte(p[1:])
		used += 32
	default:
		return Request{}, fmt.Errorf("%w: operation %d in a half of that kind", ErrRequest, r.Op)
	}
	return r, padding(p[used:])
}

// SealHalfAnswer is the answer to a half that was opened: ReceiptSize bytes for a PUT (which has no body),
// GetAnswerSize for a GET, whose body is at most BoxSize bytes; zeros fill it up.
func SealHalfAnswer(put bool, reply *sealed.Reply, s Status, body []byte) []byte {
	size, n := GetAnswerSize, getPlain
	if put {
		size, n, body = ReceiptSize, receiptPlain, nil
	}
	plain := make([]byte, n)
	plain[0] = byte(s)
	copy(plain[1:], body)
	return reply.AppendSeal(append(make([]byte, 0, size), byte(ClearSealed)), plain)
}

// openHalfAnswer opens the answer to a half. The body of a GET's is BoxSize bytes.
func openHalfAnswer(put bool, b []byte, reply *sealed.Reply) (Status, []byte, error) {
	if len(b) != GetAnswerSize && !put || len(b) != ReceiptSize && put {
		return 0, nil, ErrBadReply
	}
	if err := clearError(Clear(b[0])); err != nil {
		return 0, nil, err
	}
	plain, err := reply.Open(b[1:])
	if err != nil {
		return 0, nil, ErrBadReply
	}
	s := Status(plain[0])
	if !put {
		return s, plain[1:], s.err(plain[1:])
	}
	if !zero(plain[1:]) {
		return 0, nil, ErrBadReply
	}
	return s, nil, s.err(nil)
}

// Half is one sealed sub-request on its way: made by Client.SealPut and SealGet, sent once, in a Frame. Wait may be
// called from many goroutines.
type Half struct {
	put    bool
	target [32]byte // onion key
	delay  time.Duration
	epoch  uint32
	box    []byte // nil once sent
	reply  *sealed.Reply
	// Of a half that goes through further couriers (Via):
	layers  int             // that its size has
	replies []*sealed.Reply // of those that are sealed to couriers, outermost first
	route   []*Client       // these couriers

	done   chan struct{} // closed when the rest is there
	status Status
	body   []byte
	err    error
}

// Target is the mailbox that the half is sealed for, as the courier sees it.
func (h *Half) Target() Address { return Address{Onion: onionid.FromKey(h.target[:])} }

// Wait returns the answer, whenever it comes: of a PUT the status alone, of a GET also the body of BoxSize bytes.
// Statuses other than StatusOK are errors, the same as those of Client's methods. ErrUnreachable, ErrSession and ErrLost:
// the store may have done what was asked, or not.
func (h *Half) Wait(ctx context.Context) (Status, []byte, error) {
	select {
	case <-h.done:
		return h.status, h.body, h.err
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

// Take gives the half away as a courier gets it: it can be sent once only. It is for who carries it otherwise than by a
// Session: a courier that asks for itself, a test.
func (h *Half) Take() SubRequest {
	r := SubRequest{Target: h.target, Delay: h.delay, Epoch: h.epoch, Box: h.box}
	h.box = nil
	return r
}

// Resolve gives the half its answer as it travelled. It is called once at most, by who took the half.
func (h *Half) Resolve(answer []byte) {
	if answer, h.err = h.unwrap(answer); h.err == nil {
		h.status, h.body, h.err = openHalfAnswer(h.put, answer, h.reply)
	}
	close(h.done)
}

// fail ends the waiting. It is called once at most, and not after resolve.
func (h *Half) fail(err error) {
	h.err = err
	close(h.done)
}

// SealPut makes a PUT half (put, register, issue, nothing) that the courier shall forward delay after it came.
// ErrNoDescriptor: the mailbox's key of today is not known. It dials nothing.
func (c *Client) SealPut(r Request, delay time.Duration) (*Half, error) {
	return c.seal(true, r, delay)
}

// SealGet makes a GET half (get, digest, nothing; of a courier also descriptor), like SealPut.
func (c *Client) SealGet(r Request, delay time.Duration) (*Half, error) {
	return c.seal(false, r, delay)
}

func (c *Client) seal(put bool, r Request, delay time.Duration) (*Half, error) {
	k, key, onion, err := c.today()
	if err != nil {
		return nil, err
	}
	h := &Half{put: put, target: [32]byte(onion), delay: min(max(delay, 0), MaxDelay), epoch: k, done: make(chan struct{})}
	h.box, h.reply, err = SealHalf(put, r, key, RequestInfo(onion, k))
	return h, err
}

// SetDescriptor takes the mailbox's descriptor as it came through a courier: the body of an answer to OpDescriptor.
// Anything but the mailbox's own is ErrBadReply (wrapping ErrDescriptor).
func (c *Client) SetDescriptor(b []byte) (Descriptor, error) { return c.take(b) }

// ReadPage reads the body of an answer to OpDigest. A page that does not hold is ErrBadReply (wrapping ErrPage).
func (c *Client) ReadPage(p PageAddr, body []byte) (Page, error) {
	if len(body) < closedSize {
		return Page{}, fmt.Errorf("%w: %w: too short", ErrBadReply, ErrPage)
	}
	page, err := c.readPart(p, body[closedSize:])
	page.Closed = binary.BigEndian.Uint64(body)
	return page, err
}

func (c *Client) readPart(p PageAddr, b []byte) (Page, error) {
	c.mu.Lock()
	d := c.current
	c.mu.Unlock()
	if d == nil {
		return Page{}, ErrNoDescriptor
	}
	page, err := ParsePage(*d, p, b)
	if err != nil {
		return Page{}, fmt.Errorf("%w: %w", ErrBadReply, err)
	}
	return page, nil
}

// ParsePushed reads a part of a page that a courier pushed: the store signed it, whoever brings it.
func (c *Client) ParsePushed(part []byte) (Page, error) {
	if len(part) < pageHeaderSize {
		return Page{}, fmt.Errorf("%w: %w: too short", ErrBadReply, ErrPage)
	}
	return c.readPart(PageAddr{part[0], binary.BigEndian.Uint64(part[1:]), binary.BigEndian.Uint16(part[9:])}, part)
}
