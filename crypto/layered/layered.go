// SPDX-License-Identifier: Apache-2.0

// Package layered wraps a message for a chain of carriers, each of whom learns only its own part: who handed it over,
// whom to hand it to, and how long to hold it.
//
// Problem: one courier knows who sent a request and to which store it goes. A node that must not trust any single
// courier with that pair sends through several, of different operators. None may know more than its two neighbours;
// the bytes that come in must not be linkable to those that go out; and a carrier that marks a message (changes a bit
// and looks where it comes out broken) must not learn anything by it.
//
// A message is an onion of hybrid HPKE boxes (package crypto/sealed), one a carrier:
//
//	message = sealed(to this carrier, next 32 ‖ delay 4 (ms) ‖ back 4 (ms) ‖ epoch 4 ‖ inner)
//
// inner is the next carrier's message, and for the last one what the final receiver gets. The depth is fixed, and each
// carrier knows its own: so a layer has one size, [Overhead] more than what it holds, and needs no padding that
// somebody would have to forge (Outfox does the same; Sphinx hides the position too, at the price of its own
// cryptography). The answer goes back the same way; each carrier puts one layer around it, under the key that its box
// exports ([sealed.Reply]), so that it looks new on each leg, and only the sender can take it apart. It is held on its way
// back too: else the two ends of the chain could tell by its time which message it answers, whatever the way there.
//
// Invariants: a box is authenticated as a whole, so a changed message dies at the first honest carrier; sizes depend on
// the depth and the size of what is carried alone; the sender is anonymous; Peel never panics and takes memory only in
// proportion to its input. The sender chooses the delays; a carrier bounds them.
//
// A carrier MUST peel a message once only: who replays one would see the same thing leave twice. [Message.ID] is what
// it remembers, for as long as it has the key; that is the carrier's to keep (package mailbox/courier).
//
// Data: none.
package layered

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"tarn/crypto/sealed"
)

// Sizes in bytes.
const (
	// Overhead of a layer: 1136 (HPKE) + 44 (header).
	Overhead = sealed.Overhead + headerSize
	// ReplyOverhead of a layer around an answer: 24 (nonce) + 16 (tag).
	ReplyOverhead = sealed.ReplyOverhead
	// AddressSize is the size of a carrier's name: its onion key.
	AddressSize = 32
	// MaxHops is how many layers Wrap makes at most: more carriers cost time and bytes, and hide nothing more.
	MaxHops = 8
	// IDSize is the size of what a carrier remembers of a message.
	IDSize = sha256.Size

	headerSize = AddressSize + 4 + 4 + 4
)

var (
	// ErrOpen: the message is not for this key and info, or somebody changed it.
	ErrOpen = errors.New("layered: message does not open")
	// ErrHops: no message can be made for these carriers.
	ErrHops = errors.New("layered: impossible chain of carriers")
)

// Header is what a carrier reads in its layer.
type Header struct {
	Next  [AddressSize]byte // the onion key of whom the inner message is for
	Delay time.Duration     // how long to hold it; whole milliseconds
	Back  time.Duration     // how long to hold the answer to it; whole milliseconds
	Epoch uint32            // the day of the key that the inner message is sealed to: when that key is gone, the message is
}

// Hop is one carrier of a chain, with what its layer says.
type Hop struct {
	Key  *sealed.PublicKey // the carrier's
	Info []byte            // what its key is bound to: use, onion key, day
	Header
}

// Message is a peeled one.
type Message struct {
	Header
	Inner []byte // for Next
}

// Wrap makes the message for a chain of carriers, hops[0] first, whose last one hands on inner. The message is
// len(inner) + len(hops)·Overhead bytes. replies[i] takes off the layer that hops[i] puts around the answer: that of
// hops[0] is the outermost.
func Wrap(hops []Hop, inner []byte) (msg []byte, replies []*sealed.Reply, err error) {
	if len(hops) == 0 || len(hops) > MaxHops {
		return nil, nil, fmt.Errorf("%w: %d hops", ErrHops, len(hops))
	}
	replies = make([]*sealed.Reply, len(hops))
	msg = inner
	for i := len(hops) - 1; i >= 0; i-- {
		h := hops[i]
		plain := make([]byte, 0, headerSize+len(msg))
		plain = append(plain, h.Next[:]...)
		for _, d := range []time.Duration{h.Delay, h.Back} {
			ms := d.Milliseconds()
			if ms < 0 || ms > 1<<32-1 {
				return nil, nil, fmt.Errorf("%w: a delay of %v", ErrHops, d)
			}
			plain = binary.BigEndian.AppendUint32(plain, uint32(ms))
		}
		plain = binary.BigEndian.AppendUint32(plain, h.Epoch)
		plain = append(plain, msg...)
		box, r, err := h.Key.Seal(h.Info, plain)
		if err != nil {
			return nil, nil, fmt.Errorf("layered: %w", err)
		}
		msg, replies[i] = box, r
	}
	return msg, replies, nil
}

// Peel takes a carrier's own layer off. r puts its layer around the answer. All that is no message for this key and
// info is ErrOpen.
func Peel(key *sealed.PrivateKey, info, msg []byte) (m Message, r *sealed.Reply, err error) {
	if len(msg) < Overhead {
		return Message{}, nil, ErrOpen
	}
	plain, r, err := key.Open(info, msg)
	if err != nil {
		return Message{}, nil, ErrOpen
	}
	m.Next = [AddressSize]byte(plain)
	m.Delay = time.Duration(binary.BigEndian.Uint32(plain[AddressSize:])) * time.Millisecond
	m.Back = time.Duration(binary.BigEndian.Uint32(plain[AddressSize+4:])) * time.Millisecond
	m.Epoch = binary.BigEndian.Uint32(plain[AddressSize+8:])
	m.Inner = plain[headerSize:]
	return m, r, nil
}

// ID is what a carrier remembers of a message that it peeled, to refuse it the second time: SHA-256 of the HPKE
// encapsulation. Nobody but the sender can make another message with the same one, since it gives the key of the rest.
func ID(msg []byte) [IDSize]byte {
	return sha256.Sum256(msg[:min(len(msg), sealed.EncapsulationSize)])
}
