// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
)

// Sizes in bytes; and the window.
const (
	IDSize   = 16
	KeySize  = 32
	Window   = 2000 // how many indices ahead of the first missing one a receiver accepts
	Overhead = 16   // what Seal adds to a plaintext
)

// The labels of the key schedule. Each purpose has its own; testdata/vectors.json has values for all.
const (
	labelInitiator = "tarn/1 ratchet initiator" // the chain that the initiator of the contact sends on
	labelResponder = "tarn/1 ratchet responder"
	labelCarry     = "tarn/1 ratchet carry" // what of this root goes into the next epoch's
	labelNext      = "tarn/1 ratchet next"
	labelSlot      = "tarn/1 ratchet slot"
	labelID        = "tarn/1 ratchet id"
	labelKey       = "tarn/1 ratchet key"
	labelPlace     = "tarn/1 ratchet place" // which of the receiver's stores
	labelBox       = "tarn/1 ratchet box"   // associated data
)

var (
	// ErrState: the bytes are not a state that this program can read.
	ErrState = errors.New("ratchet: unreadable state")
	// ErrOpen: the box is not authentic for that index (also what a filler or a decoy looks like).
	ErrOpen = errors.New("ratchet: box does not open")
	// ErrIndex: the index was opened or given up before, or is beyond the window.
	ErrIndex = errors.New("ratchet: index is done or out of the window")
)

// Root is the secret that two nodes share for one epoch: 32 bytes that are uniformly random to everybody else. It
// derives every key of the epoch, so it must not be kept once Sender and Receiver are made.
type Root [32]byte

// String and LogValue keep the secret out of logs.
func (Root) String() string       { return "[root]" }
func (Root) LogValue() slog.Value { return slog.StringValue("[root]") }

// secret is a chain key k_i or a slot secret s_i.
type secret [32]byte

// derive is HMAC-SHA256(key, label ‖ more).
func derive(key *[32]byte, label string, more ...byte) (out [32]byte) {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte(label))
	m.Write(more)
	m.Sum(out[:0])
	return out
}

func (k *secret) next() secret { return derive((*[32]byte)(k), labelNext) } // k_i -> k_{i+1}
func (k *secret) slot() secret { return derive((*[32]byte)(k), labelSlot) } // k_i -> s_i

// chain is k_0 of the stream that the initiator, or else the responder, sends on.
func (r *Root) chain(epoch uint32, initiator bool) secret {
	label := labelResponder
	if initiator {
		label = labelInitiator
	}
	return derive((*[32]byte)(r), label, binary.BigEndian.AppendUint32(nil, epoch)...)
}
