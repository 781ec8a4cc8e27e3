// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"tarn/crypto/token"
)

// Errors that a store answers about accounts and tokens.
var (
	// ErrToken: the deposit had no token that is good today and not spent on another box.
	ErrToken = errors.New("mailbox: the store wants a token for this box")
	// ErrAccount: the store does not know the account, or does not take what was shown for one.
	ErrAccount = errors.New("mailbox: the store gives no account for that")
	// ErrCap: the account has drawn its tokens of that day.
	ErrCap = errors.New("mailbox: the account has no tokens left for that day")
	// ErrCode: the text is not an invite code.
	ErrCode = errors.New("mailbox: not an invite code of a mailbox")
)

// MaxIssue is how many tokens one request draws at most.
const MaxIssue = token.MaxBatch

// AccountSecret is a requester's account with one store: 32 random bytes, made by the requester, shown with each draw.
type AccountSecret [32]byte

// AccountID is what a store keeps of it, and what an operator's list names: it draws nothing.
type AccountID [32]byte

const (
	labelAccount = "tarn/1 account\x00"      // SHA-256(this ‖ secret) is the account's id
	labelWork    = "tarn/1 account work\x00" // SHA-256(this ‖ onion key ‖ id ‖ nonce 8) must begin with zeros
	labelCode    = "tarn/1 invite code\x00"  // SHA-256(this ‖ code) is what a store keeps of a code
)

// ID of the account.
func (s AccountSecret) ID() AccountID {
	return sha256.Sum256(append([]byte(labelAccount), s[:]...))
}

const accountPrefix = "tarn-account:1:"

// String is the line that a person gives to an operator who keeps a list.
func (id AccountID) String() string { return accountPrefix + codeText.EncodeToString(id[:]) }

// ParseAccountID reads that line; ErrAccount.
func ParseAccountID(s string) (id AccountID, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), accountPrefix)
	if !ok || len(rest) != codeText.EncodedLen(len(id)) {
		return id, fmt.Errorf("%w: not the line of an account", ErrAccount)
	}
	if _, err := codeText.Decode(id[:], []byte(rest)); err != nil || id.String() != accountPrefix+rest {
		return AccountID{}, fmt.Errorf("%w: not the line of an account", ErrAccount)
	}
	return id, nil
}

// Code is an operator's invite code: good for one account.
type Code [15]byte

var codeText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding) // Crockford's: no i, l, o, u

// String is how people pass it on: 24 letters and digits in groups of six.
func (c Code) String() string {
	s := codeText.EncodeToString(c[:])
	return s[:6] + "-" + s[6:12] + "-" + s[12:18] + "-" + s[18:]
}

// ParseCode reads it, whatever the case, with or without dashes; ErrCode.
func ParseCode(s string) (c Code, err error) {
	if len(s) > 64 {
		return c, ErrCode
	}
	s = strings.NewReplacer("-", "", " ", "", "i", "1", "l", "1", "o", "0").Replace(strings.ToLower(s))
	if len(s) != codeText.EncodedLen(len(c)) {
		return c, ErrCode
	}
	if _, err := codeText.Decode(c[:], []byte(s)); err != nil {
		return Code{}, ErrCode
	}
	return c, nil
}

// Hash is what a store keeps of a code.
func (c Code) Hash() [32]byte { return sha256.Sum256(append([]byte(labelCode), c[:]...)) }

// Proof says what a Register shows.
type Proof byte

// The proofs.
const (
	ProofWork Proof = 1 // Nonce
	ProofCode Proof = 2 // Code
)

// Register asks a store to know an account.
type Register struct {
	Account AccountID
	Proof   Proof
	Nonce   uint64 // ProofWork
	Code    Code   // ProofCode
}

// Issue draws tokens.
type Issue struct {
	Account AccountSecret
	Key     [chacha20poly1305.KeySize]byte // the answer is sealed under it; fresh for each draw
	Epoch   uint32                         // the day that the tokens are for, with SessionEpoch for session tokens
	Blinded []byte                         // 1 to MaxIssue elements
}

const (
	registerSize = 32 + 1 + 16
	issueFixed   = 32 + chacha20poly1305.KeySize + 4 + 2
	_            = uint(BoxSize - (issueFixed + MaxIssue*token.ElementSize))
	_            = uint(PayloadSize - (2 + MaxIssue*token.ElementSize + token.ProofSize))
)

// Request is r as a store takes it: a request like a deposit's, whose box holds r.
func (r Register) Request() Request {
	b := make([]byte, BoxSize)
	copy(b, r.Account[:])
	b[32] = byte(r.Proof)
	switch r.Proof {
	case ProofWork:
		binary.BigEndian.PutUint64(b[33:], r.Nonce)
	case ProofCode:
		copy(b[33:], r.Code[:])
	}
	return Request{Op: OpRegister, Box: b}
}

// ParseRegister reads what Request made; ErrRequest.
func ParseRegister(q Request) (r Register, err error) {
	if q.Op != OpRegister || len(q.Box) != BoxSize {
		return r, fmt.Errorf("%w: no registration", ErrRequest)
	}
	r.Account, r.Proof = AccountID(q.Box), Proof(q.Box[32])
	switch r.Proof {
	case ProofWork:
		r.Nonce = binary.BigEndian.Uint64(q.Box[33:])
	case ProofCode:
		r.Code = Code(q.Box[33:])
	}
	if !bytes.Equal(r.Request().Box, q.Box) || q.ID != (BoxID{}) || r.Proof < ProofWork || r.Proof > ProofCode {
		return Register{}, fmt.Errorf("%w: registration", ErrRequest)
	}
	return r, nil
}

// Request is i as a store takes it; the answer will be found under id, for an hour. ErrRequest if there are no
// elements or too many.
func (i Issue) Request(id BoxID) (Request, error) {
	n := len(i.Blinded) / token.ElementSize
	if n < 1 || n > MaxIssue || len(i.Blinded)%token.ElementSize != 0 {
		return Request{}, fmt.Errorf("%w: %d bytes of elements", ErrRequest, len(i.Blinded))
	}
	b := make([]byte, 0, BoxSize)
	b = append(append(b, i.Account[:]...), i.Key[:]...)
	b = binary.BigEndian.AppendUint32(b, i.Epoch)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, i.Blinded...)
	return Request{Op: OpIssue, ID: id, Box: b[:BoxSize]}, nil
}

// ParseIssue reads what Request made; ErrRequest. Blinded is part of q.Box; its elements are not looked at.
func ParseIssue(q Request) (i Issue, err error) {
	if q.Op != OpIssue || len(q.Box) != BoxSize {
		return i, fmt.Errorf("%w: no draw", ErrRequest)
	}
	i.Account, i.Key, i.Epoch = AccountSecret(q.Box), [chacha20poly1305.KeySize]byte(q.Box[32:]), binary.BigEndian.Uint32(q.Box[64:])
	n := int(binary.BigEndian.Uint16(q.Box[68:]))
	if n < 1 || n > MaxIssue {
		return Issue{}, fmt.Errorf("%w: a draw of %d", ErrRequest, n)
	}
	end := issueFixed + n*token.ElementSize
	i.Blinded = q.Box[issueFixed:end]
	return i, padding(q.Box[end:])
}

// SealIssued makes the box that a draw's answer waits in: nobody but who drew can tell it from another box.
func SealIssued(key *[chacha20poly1305.KeySize]byte, id BoxID, answer []byte) (*[BoxSize]byte, error) {
	if len(answer) > PayloadSize-2 {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrRequest, len(answer))
	}
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, err
	}
	plain := make([]byte, PayloadSize, BoxSize)
	binary.BigEndian.PutUint16(plain, uint16(len(answer)))
	copy(plain[2:], answer)
	// The nonce is zero: a key serves one draw, and a store answers a draw once and keeps the answer.
	return (*[BoxSize]byte)(a.Seal(plain[:0], make([]byte, a.NonceSize()), plain, id[:])), nil
}

// OpenIssued reads it; what is not the answer (yet) is ErrBadReply.
func OpenIssued(key *[chacha20poly1305.KeySize]byte, id BoxID, box *[BoxSize]byte) ([]byte, error) {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, make([]byte, a.NonceSize()), box[:], id[:])
	if err != nil {
		return nil, ErrBadReply
	}
	n := int(binary.BigEndian.Uint16(plain))
	if n > len(plain)-2 || !zero(plain[2+n:]) {
		return nil, ErrBadReply
	}
	return plain[2 : 2+n], nil
}

// Worked tells whether nonce is a proof of work of that many bits for the account at that store.
func Worked(onion []byte, id AccountID, nonce uint64, want uint8) bool {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], nonce)
	h := sha256.New()
	h.Write([]byte(labelWork))
	h.Write(onion)
	h.Write(id[:])
	h.Write(n[:])
	sum := h.Sum(nil)
	zeros := bits.LeadingZeros64(binary.BigEndian.Uint64(sum))
	return zeros >= int(want)
}

// Work searches a nonce that Worked takes: 2^bits hashes on average, on one processor. It errs when ctx ends; then the next try begins
// elsewhere.
func Work(ctx context.Context, onion []byte, id AccountID, want uint8) (uint64, error) {
	if want > MaxWorkBits {
		return 0, fmt.Errorf("%w: %d bits of work are too many", ErrAccount, want)
	}
	for n := rand.Uint64(); ; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if Worked(onion, id, n, want) {
			return n, nil
		}
	}
}

// Register makes the account known to the store: nil also when it was before. ErrAccount, ErrFull, ErrBusy.
func (c *Client) Register(ctx context.Context, r Register) error {
	_, err := c.ask(ctx, r.Request())
	return err
}

// Issue draws tokens: when it returns nil the store has taken the draw, and its answer can be fetched with Get under
// the id's handle, soon and for an hour (OpenIssued). The identical draw again is nil and draws nothing more.
// ErrAccount, ErrCap, ErrFull, ErrExists (another draw has that handle), ErrBusy.
func (c *Client) Issue(ctx context.Context, id BoxID, i Issue) error {
	q, err := i.Request(id)
	if err != nil {
		return err
	}
	_, err = c.ask(ctx, q)
	return err
}
