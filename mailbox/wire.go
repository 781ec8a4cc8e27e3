// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"tarn/crypto/sealed"
)

// ErrRequest: the bytes are not a request that this program understands.
var ErrRequest = errors.New("mailbox: malformed request")

// Kind of a request, in its header.
type Kind byte

// The kinds: what the first UpSize bytes of a connection are. All have the same size, and so have their answers; after
// the last two the connection stays.
const (
	KindDescriptor Kind = 1 // random bytes follow; asks for the descriptor, which has the key that all else needs
	KindSealed     Kind = 2 // an HPKE box follows: a request to the store, in direct mode
	KindSession    Kind = 3 // an HPKE box follows: a node's Hello to the courier
	KindLink       Kind = 4 // random bytes follow: a courier wants to hand over the sealed requests of others
)

// Clear is the first byte of an answer: what kind of answer follows. It is the only byte in clear.
type Clear byte

// The kinds of answer. After those from ClearStale on come random bytes: nobody can tell them from a sealed answer but
// by this byte.
const (
	ClearSealed     Clear = 0 // an answer sealed with the request's Reply
	ClearDescriptor Clear = 1 // a descriptor, zeros
	ClearStale      Clear = 2 // the store has no key of that epoch (any more)
	ClearBusy       Clear = 3 // the store is overloaded and did not look at the request
	ClearRefused    Clear = 4 // another geometry or kind, a role that is off, or the box does not open
	// ClearUnreachable only comes in a session: the courier could not bring the request to its target, or got no answer.
	ClearUnreachable Clear = 5
)

// Op is what a sealed request asks for.
type Op byte

// The operations. SPEC mailbox §3.
const (
	OpNothing Op = 0 // cover: the store does nothing and says StatusOK
	OpPut     Op = 1 // token, id, box
	OpGet     Op = 2 // the id's first 8 bytes, the handle; zeros
	OpDigest  Op = 3 // in place of the id: level 1, index 8, part 2; zeros
	// The next two look like a put: zeros for a token, id, box.
	OpRegister Op = 4 // no id; the box is a Register
	OpIssue    Op = 5 // the answer's id; the box is an Issue
	// Only in a GET half: the descriptor of the mailbox with that onion key 32. Every mailbox answers for itself, a courier
	// also for others.
	OpDescriptor Op = 6
)

// Status is the first byte of a sealed answer's plaintext.
type Status byte

// The statuses. A status other than StatusOK has a body of zeros.
const (
	StatusOK      Status = 0  // put: durable. get: the box, or a random filler. digest: the part
	StatusExists  Status = 1  // put: that handle belongs to another box
	StatusFull    Status = 2  // put: the quota or the disk is full
	StatusBusy    Status = 3  // try later
	StatusNotYet  Status = 4  // digest: the page is not closed yet
	StatusGone    Status = 5  // digest: boxes of that page may have expired
	StatusTooMany Status = 6  // digest: more handles than the store puts into one page; its lower level has them
	StatusRefused Status = 7  // the request makes no sense: unknown op, a part that the page has not got
	StatusToken   Status = 8  // put: no token that is good today and not spent on another box
	StatusAccount Status = 9  // register, issue: no such account, or what was shown for one is not taken
	StatusCap     Status = 10 // issue: the account has drawn its tokens of that day
	// StatusUnreachable: the courier cannot get the descriptor of that mailbox
	StatusUnreachable Status = 11
	StatusRate        Status = 12 // hello: more frames a second than the courier takes of one session
)

// Header is the part of a request in clear.
type Header struct {
	Kind  Kind
	Epoch uint32 // of the key that the box is sealed to; 0 for KindDescriptor and KindLink
}

// ParseHeader reads the header; another geometry, an unknown kind or an unused bit that is set are ErrRequest.
func ParseHeader(up *[UpSize]byte) (Header, error) {
	h := Header{Kind: Kind(up[1]), Epoch: binary.BigEndian.Uint32(up[4:])}
	switch {
	case up[0] != Geometry:
		return Header{}, fmt.Errorf("%w: geometry %d", ErrRequest, up[0])
	case up[2] != 0 || up[3] != 0:
		return Header{}, fmt.Errorf("%w: reserved bytes", ErrRequest)
	case (h.Kind == KindDescriptor || h.Kind == KindLink) && h.Epoch == 0, h.Kind == KindSealed, h.Kind == KindSession:
		return h, nil
	}
	return Header{}, fmt.Errorf("%w: kind %d", ErrRequest, h.Kind)
}

func putHeader(up *[UpSize]byte, h Header) {
	up[0], up[1], up[2], up[3] = Geometry, byte(h.Kind), 0, 0
	binary.BigEndian.PutUint32(up[4:], h.Epoch)
}

// DescriptorRequest fills up with a request for the descriptor.
func DescriptorRequest(up *[UpSize]byte) {
	putHeader(up, Header{Kind: KindDescriptor})
	rand.Read(up[HeaderSize:])
}

// Request is the plaintext of a sealed request. Only the fields of its Op count.
type Request struct {
	Op    Op
	Token [TokenSize]byte // put: the deposit right; zero for none
	ID    BoxID           // put, issue
	Box   []byte          // put, register, issue: BoxSize bytes. After OpenRequest it is part of the opened plaintext.
	Get   Handle          // get
	Page  PageAddr        // digest
	Onion [32]byte        // descriptor
}

// Offsets in a request's plaintext.
const (
	atToken = 1
	atID    = atToken + TokenSize
	atBox   = atID + IDSize
	atPad   = atBox + BoxSize
)

// SealRequest fills up with r, sealed to the store's key of that epoch. The reply opens the answer.
func SealRequest(up *[UpSize]byte, r Request, key *sealed.PublicKey, info []byte, epoch uint32) (*sealed.Reply, error) {
	plain := make([]byte, RequestSize)
	plain[0] = byte(r.Op)
	switch r.Op {
	case OpNothing:
	case OpPut, OpRegister, OpIssue:
		if len(r.Box) != BoxSize {
			return nil, fmt.Errorf("%w: a box of %d bytes, want %d", ErrRequest, len(r.Box), BoxSize)
		}
		copy(plain[atToken:], r.Token[:])
		copy(plain[atID:], r.ID[:])
		copy(plain[atBox:], r.Box)
	case OpGet:
		copy(plain[atID:], r.Get[:])
	case OpDigest:
		plain[atID] = r.Page.Level
		binary.BigEndian.PutUint64(plain[atID+1:], r.Page.Index)
		binary.BigEndian.PutUint16(plain[atID+9:], r.Page.Part)
	default:
		return nil, fmt.Errorf("%w: operation %d", ErrRequest, r.Op)
	}
	box, reply, err := key.Seal(info, plain)
	if err != nil {
		return nil, err
	}
	putHeader(up, Header{Kind: KindSealed, Epoch: epoch})
	copy(up[HeaderSize:], box)
	return reply, nil
}

// OpenRequest opens the box of a request. A box that does not open is sealed.ErrOpen, without a reply; one that opens
// to nonsense is ErrRequest, with the reply that the refusal can be sealed with.
func OpenRequest(up *[UpSize]byte, key *sealed.PrivateKey, info []byte) (Request, *sealed.Reply, error) {
	plain, reply, err := key.Open(info, up[HeaderSize:])
	if err != nil {
		return Request{}, nil, err
	}
	r, err := parseRequest(plain)
	return r, reply, err
}

// parseRequest reads the plaintext. Every byte that an operation does not use must be zero: nothing can be smuggled
// along, and a later version can give it a meaning.
func parseRequest(p []byte) (Request, error) {
	if len(p) != RequestSize {
		return Request{}, fmt.Errorf("%w: %d bytes, want %d", ErrRequest, len(p), RequestSize)
	}
	r := Request{Op: Op(p[0])}
	used := atToken
	switch r.Op {
	case OpNothing:
	case OpPut, OpRegister, OpIssue:
		r.Token = [TokenSize]byte(p[atToken:])
		r.ID = BoxID(p[atID:])
		r.Box = p[atBox:atPad]
		if r.Op != OpPut && r.Token != ([TokenSize]byte{}) {
			return Request{}, fmt.Errorf("%w: a token where none belongs", ErrRequest)
		}
		return r, padding(p[atPad:])
	case OpGet:
		r.Get = Handle(p[atID:])
		used = atID + HandleSize
	case OpDigest:
		r.Page = PageAddr{p[atID], binary.BigEndian.Uint64(p[atID+1:]), binary.BigEndian.Uint16(p[atID+9:])}
		used = atID + 11
	default:
		return Request{}, fmt.Errorf("%w: operation %d", ErrRequest, r.Op)
	}
	if r.Op != OpNothing && !zero(p[atToken:atID]) {
		return Request{}, fmt.Errorf("%w: a token where none belongs", ErrRequest)
	}
	return r, padding(p[used:])
}

func padding(b []byte) error {
	if !zero(b) {
		return fmt.Errorf("%w: padding is not zero", ErrRequest)
	}
	return nil
}

// SealAnswer fills down with a sealed answer. body is at most BodySize bytes; zeros fill it up.
func SealAnswer(down *[DownSize]byte, reply *sealed.Reply, s Status, body []byte) {
	plain := make([]byte, AnswerSize)
	plain[0] = byte(s)
	copy(plain[1:], body)
	down[0] = byte(ClearSealed)
	reply.AppendSeal(down[1:1], plain)
}

// ClearAnswer fills down with an answer that is not sealed: the descriptor, or (body nil) one of the refusals.
func ClearAnswer(down *[DownSize]byte, c Clear, body []byte) {
	down[0] = byte(c)
	if body == nil {
		rand.Read(down[1:])
		return
	}
	clear(down[1+copy(down[1:], body):])
}

// OpenAnswer opens the answer to a sealed request. body is BodySize bytes. What is not an answer is ErrBadReply;
// ErrBusy, ErrNoDescriptor (the store has no key of that epoch any more) and ErrRefused are answers in clear.
func OpenAnswer(down *[DownSize]byte, reply *sealed.Reply) (s Status, body []byte, err error) {
	if err := clearError(Clear(down[0])); err != nil {
		return 0, nil, err
	}
	plain, err := reply.Open(down[1:])
	if err != nil {
		return 0, nil, ErrBadReply
	}
	return Status(plain[0]), plain[1:], nil
}

// clearError is what an answer in clear says; nil: a sealed one follows.
func clearError(c Clear) error {
	switch c {
	case ClearSealed:
		return nil
	case ClearStale:
		return fmt.Errorf("%w: it has a new key", ErrNoDescriptor)
	case ClearBusy:
		return ErrBusy
	case ClearRefused:
		return ErrRefused
	case ClearUnreachable:
		return ErrUnreachable
	}
	return ErrBadReply
}

// err is the error for a status and what came with it; nil: StatusOK.
func (s Status) err(body []byte) error {
	switch {
	case s == StatusOK:
		return nil
	case s == StatusNotYet && len(body) >= closedSize:
		return EarlyError{binary.BigEndian.Uint64(body)}
	case int(s) < len(statusErrors):
		return statusErrors[s]
	}
	return ErrBadReply
}

// closedSize stands before a part of a digest in an answer: how many buckets are closed.
const closedSize = 8

// DigestBody is the body of an answer to OpDigest: closed 8 ‖ part (none: the page is not closed).
func DigestBody(closed uint64, part []byte) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, closedSize+len(part)), closed), part...)
}

var statusErrors = [...]error{
	StatusExists: ErrExists, StatusFull: ErrFull, StatusBusy: ErrBusy, StatusNotYet: ErrNotYet, StatusGone: ErrGone,
	StatusTooMany: ErrTooMany, StatusRefused: ErrRefused, StatusToken: ErrToken, StatusAccount: ErrAccount, StatusCap: ErrCap,
	StatusUnreachable: ErrUnreachable, StatusRate: ErrRate,
}
