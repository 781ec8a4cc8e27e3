// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"encoding/binary"
	"fmt"
	"log/slog"
)

// senderSize is the size of a marshalled Sender in bytes: version 1, kind 1, epoch 4, began 8, carry 32, index 8, chain key 32.
const senderSize = stateHead + 32 + 8 + 32

const (
	stateVersion = 1
	kindSender   = 'S'
	kindReceiver = 'R'
	stateHead    = 1 + 1 + 4 + 8 // version, kind, epoch, began
	maxIndex     = 1 << 56       // no stream gets there; so that no sum of indices overflows
)

// Sender is the sending half of a stream. It is a value: Next returns the state that must be on disk BEFORE the
// box leaves; an index is never used twice.
type Sender struct {
	epoch uint32
	began uint64 // Unix seconds at which the epoch began; 0 outside of a Pair
	carry [32]byte
	index uint64 // of the next box
	chain secret // k_index
}

// NewSender derives the sending half of a node's stream for one epoch. initiator tells whether this node is the one
// that began the contact; the other end says the contrary. The initiator's sender goes with the responder's receiver.
func NewSender(root Root, epoch uint32, initiator bool) Sender {
	return Sender{
		epoch: epoch,
		carry: derive((*[32]byte)(&root), labelCarry),
		chain: root.chain(epoch, initiator),
	}
}

// Next is the slot for the next box and the sender after it.
func (s Sender) Next() (Slot, Sender) {
	m := s.chain.slot()
	slot := slotOf(s.epoch, s.index, &m)
	s.chain = s.chain.next()
	s.index++
	return slot, s
}

// Epoch of the stream.
func (s Sender) Epoch() uint32 { return s.epoch }

// Index of the next box.
func (s Sender) Index() uint64 { return s.index }

// String and LogValue keep the secrets out of logs.
func (Sender) String() string       { return "[sender]" }
func (Sender) LogValue() slog.Value { return slog.StringValue("[sender]") }

// marshal writes the state: senderSize bytes, which are secret.
func (s Sender) marshal() []byte {
	b := appendHead(make([]byte, 0, senderSize), kindSender, s.epoch, s.began)
	b = append(b, s.carry[:]...)
	b = binary.BigEndian.AppendUint64(b, s.index)
	return append(b, s.chain[:]...)
}

// parseSender reads what marshal wrote; the error wraps ErrState.
func parseSender(b []byte) (Sender, error) {
	if len(b) != senderSize {
		return Sender{}, fmt.Errorf("%w: a sender of %d bytes, not %d", ErrState, len(b), senderSize)
	}
	var s Sender
	var err error
	if s.epoch, s.began, err = readHead(b, kindSender); err != nil {
		return Sender{}, err
	}
	b = b[stateHead:]
	s.carry = [32]byte(b[:32])
	s.index = binary.BigEndian.Uint64(b[32:])
	s.chain = secret(b[40:])
	if s.index > maxIndex {
		return Sender{}, fmt.Errorf("%w: impossible index", ErrState)
	}
	return s, nil
}

// appendHead writes what both kinds of state begin with.
func appendHead(b []byte, kind byte, epoch uint32, began uint64) []byte {
	b = append(b, stateVersion, kind)
	b = binary.BigEndian.AppendUint32(b, epoch)
	return binary.BigEndian.AppendUint64(b, began)
}

// readHead checks and reads it; b has at least stateHead bytes.
func readHead(b []byte, kind byte) (epoch uint32, began uint64, err error) {
	if b[0] != stateVersion {
		return 0, 0, fmt.Errorf("%w: version %d is of a newer program", ErrState, b[0])
	}
	if b[1] != kind {
		return 0, 0, fmt.Errorf("%w: wrong kind %q", ErrState, b[1])
	}
	return binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint64(b[6:]), nil
}
