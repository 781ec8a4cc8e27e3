// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"encoding/binary"
	"log/slog"

	"golang.org/x/crypto/chacha20poly1305"
)

// Slot is one index of a stream: what to call the box and how to seal it.
type Slot struct {
	Epoch uint32
	Index uint64
	ID    [IDSize]byte
	seed  secret // s_i
}

// slotOf derives the id from s_i; key and place are derived where they are asked for: most slots only wait.
func slotOf(epoch uint32, index uint64, s *secret) Slot {
	id := derive((*[32]byte)(s), labelID)
	return Slot{Epoch: epoch, Index: index, ID: [IDSize]byte(id[:IDSize]), seed: *s}
}

// key seals the slot's box.
func (s Slot) key() [KeySize]byte { return derive((*[32]byte)(&s.seed), labelKey) }

// Place chooses among the receiver's stores: both ends, and nobody else, can tell which store a box goes to, and to
// all others the choice of one index says nothing about that of another.
func (s Slot) Place() [32]byte { return derive((*[32]byte)(&s.seed), labelPlace) }

// String and LogValue hide id and key: an id names a box.
func (Slot) String() string       { return "[slot]" }
func (Slot) LogValue() slog.Value { return slog.StringValue("[slot]") }

// Seal encrypts plaintext (any constant size) for the slot: ChaCha20-Poly1305, zero nonce (the key is used once),
// associated data = label, epoch, index, id. It adds Overhead bytes. The same plaintext gives the same box.
func (s Slot) Seal(plaintext []byte) []byte {
	key := s.key()
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	var nonce [chacha20poly1305.NonceSize]byte
	out := make([]byte, 0, len(plaintext)+Overhead)
	return a.Seal(out, nonce[:], plaintext, s.associated())
}

// Open decrypts a box for a slot that Expected gave; the state is unchanged. ErrOpen if it is not authentic: the work
// for that is one pass over the box, whatever it holds, and nothing is decrypted.
func (s Slot) Open(box []byte) ([]byte, error) {
	if len(box) < Overhead {
		return nil, ErrOpen
	}
	key := s.key()
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	var nonce [chacha20poly1305.NonceSize]byte
	out, err := a.Open(nil, nonce[:], box, s.associated())
	if err != nil {
		return nil, ErrOpen
	}
	return out, nil
}

// associated is label ‖ epoch 4 ‖ index 8 ‖ id 16, big-endian.
func (s Slot) associated() []byte {
	b := make([]byte, 0, len(labelBox)+4+8+IDSize)
	b = append(b, labelBox...)
	b = binary.BigEndian.AppendUint32(b, s.Epoch)
	b = binary.BigEndian.AppendUint64(b, s.Index)
	return append(b, s.ID[:]...)
}
