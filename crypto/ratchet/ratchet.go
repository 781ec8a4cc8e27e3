// SPDX-License-Identifier: Apache-2.0

package ratchet

import "errors"

// Sizes in bytes.
const (
	IDSize  = 16
	KeySize = 32
	Window  = 2000 // how many indices ahead of the first missing one a receiver accepts
)

var (
	// ErrState: the bytes are not a state that this program can read.
	ErrState = errors.New("ratchet: unreadable state")
	// ErrOpen: the box is not authentic for that index (also what a filler or a decoy looks like).
	ErrOpen = errors.New("ratchet: box does not open")
)

// Root is the secret that two nodes share for one epoch.
type Root [32]byte

// Sender is the sending half of a stream. It is a value: Next returns the state that must be on disk BEFORE the
// box leaves; an index is never used twice.
type Sender struct{}

// Receiver is the receiving half: it knows the ids to look for, and forgets keys of boxes that were opened.
type Receiver struct{}

// NewSender and NewReceiver derive the chain of one direction: a and b are the two ends' names; the initiator's
// sender has the label of the responder's receiver.
func NewSender(root Root, epoch uint32, initiator bool) Sender     { panic("unwritten") }
func NewReceiver(root Root, epoch uint32, initiator bool) Receiver { panic("unwritten") }

// Slot is one index of a stream: what to call the box and how to seal it.
type Slot struct {
	Epoch uint32
	Index uint64
	ID    [IDSize]byte
	key   [KeySize]byte
}

// Next is the slot for the next box and the sender after it.
func (s Sender) Next() (Slot, Sender) { panic("unwritten") }

// Epoch and Index of the next box.
func (s Sender) Epoch() uint32 { panic("unwritten") }
func (s Sender) Index() uint64 { panic("unwritten") }

// Marshal and ParseSender: versioned, constant size.
func (s Sender) Marshal() []byte               { panic("unwritten") }
func ParseSender(b []byte) (Sender, error)     { panic("unwritten") }
func (r Receiver) Marshal() []byte             { panic("unwritten") } // bounded by Window
func ParseReceiver(b []byte) (Receiver, error) { panic("unwritten") }

// Seal encrypts plaintext (any constant size) for the slot: ChaCha20-Poly1305, zero nonce (the key is used once),
// associated data = label, epoch, index, id.
func (s Slot) Seal(plaintext []byte) []byte { panic("unwritten") }

// Expected lists the next n slots that have not been opened yet, lowest first (bounded by Window).
func (r *Receiver) Expected(n int) []Slot { panic("unwritten") }

// Open decrypts a box for a slot that Expected gave; the state is unchanged.
func (s Slot) Open(box []byte) ([]byte, error) { panic("unwritten") }

// Done marks an index as opened: its key is forgotten (forward secrecy). Persist in the transaction that stores what was in the box.
func (r *Receiver) Done(index uint64) error { panic("unwritten") }

// Next is the lowest index not yet opened; Seen a bitmap of the 256 after it: the ack that rides back.
func (r *Receiver) Ack() (next uint64, seen [32]byte) { panic("unwritten") }

// Epoch of the stream.
func (r *Receiver) Epoch() uint32 { panic("unwritten") }
