// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
)

// maxReceiverSize bounds a marshalled Receiver in bytes: head 14, high 8, chain key 32, count 2, and 34 for each index
// that was jumped over (usually none; at most Window-1 of them).
const maxReceiverSize = receiverHead + (Window-1)*missedSize

const (
	receiverHead = stateHead + 8 + 32 + 2
	missedSize   = 2 + 32
	ackBits      = 256
)

// Receiver is the receiving half: it knows the ids to look for, and forgets keys of boxes that were opened.
//
// Its slices are replaced, never written into, so that a copy made before Done is the state before Done: a caller
// whose transaction fails goes on with the copy.
type Receiver struct {
	epoch  uint32
	began  uint64   // Unix seconds at which the epoch began; 0 outside of a Pair
	high   uint64   // the index after the highest one that was opened
	chain  secret   // k_high
	missed []missed // those below high that were not opened, ascending

	// The beginning of the list that Expected gives, so that it need not be derived again: not part of the state.
	cache []Slot
	ahead secret // if cache goes beyond missed: the chain key after its last slot
}

// missed is an index that was jumped over: s_i is kept, for k_i would give away what comes after it.
type missed struct {
	index  uint64
	secret secret
}

// NewReceiver derives the receiving half of a node's stream for one epoch. initiator tells whether this node is the
// one that began the contact, as in NewSender.
func NewReceiver(root Root, epoch uint32, initiator bool) Receiver {
	return Receiver{epoch: epoch, chain: root.chain(epoch, !initiator)}
}

// Epoch of the stream.
func (r *Receiver) Epoch() uint32 { return r.epoch }

// String and LogValue keep the secrets out of logs.
func (Receiver) String() string       { return "[receiver]" }
func (Receiver) LogValue() slog.Value { return slog.StringValue("[receiver]") }

// low is the lowest index not yet opened.
func (r *Receiver) low() uint64 {
	if len(r.missed) > 0 {
		return r.missed[0].index
	}
	return r.high
}

// Expected lists the next n slots that have not been opened yet, lowest first (bounded by Window). A repeated call
// derives nothing again. The slice is the caller's.
func (r *Receiver) Expected(n int) []Slot {
	// Those missed, and those from high up to the window's end.
	room := len(r.missed) + int(r.low()+Window-r.high)
	n = max(0, min(n, room))
	for len(r.cache) < n {
		at := len(r.cache)
		if at < len(r.missed) {
			m := &r.missed[at]
			r.cache = append(r.cache, slotOf(r.epoch, m.index, &m.secret))
			continue
		}
		if at == len(r.missed) {
			r.ahead = r.chain
		}
		s := r.ahead.slot()
		r.cache = append(r.cache, slotOf(r.epoch, r.high+uint64(at-len(r.missed)), &s))
		r.ahead = r.ahead.next()
	}
	return slices.Clone(r.cache[:n])
}

// Done marks an index as opened: its key is forgotten (forward secrecy). Persist in the transaction that stores what
// was in the box. ErrIndex, and no change, if it was done before or is beyond the window.
func (r *Receiver) Done(index uint64) error {
	if index >= r.low()+Window {
		return fmt.Errorf("marking a box as opened: %w", ErrIndex)
	}
	if index < r.high {
		at, found := r.find(index)
		if !found {
			return fmt.Errorf("marking a box as opened: %w", ErrIndex)
		}
		r.missed = slices.Concat(r.missed[:at], r.missed[at+1:])
	} else {
		r.missed = slices.Concat(r.missed, r.advance(index))
		r.chain = r.chain.next() // over index itself, of which nothing is kept
		r.high++
	}
	if at, found := slices.BinarySearchFunc(r.cache, index, func(s Slot, i uint64) int { return cmp.Compare(s.Index, i) }); found {
		r.cache = slices.Concat(r.cache[:at], r.cache[at+1:])
	}
	r.cache = slices.Clip(r.cache) // what is appended now must not show in a copy of r
	return nil
}

// Skip gives up every index below below, as the sender says that it will not write those any more; their keys are
// forgotten. Nothing happens if all of them are done already. ErrIndex, and no change, if below is beyond the window:
// the work is bounded.
func (r *Receiver) Skip(below uint64) error {
	if below > r.low()+Window {
		return fmt.Errorf("giving up boxes: %w", ErrIndex)
	}
	at, _ := r.find(below)
	if at > 0 {
		r.missed = slices.Clone(r.missed[at:])
	}
	if below > r.high {
		r.advance(below)
	}
	at, _ = slices.BinarySearchFunc(r.cache, below, func(s Slot, i uint64) int { return cmp.Compare(s.Index, i) })
	if at > 0 {
		r.cache = slices.Clone(r.cache[at:])
	}
	r.cache = slices.Clip(r.cache)
	return nil
}

// advance moves high and chain up to index, and returns what was jumped over.
func (r *Receiver) advance(index uint64) []missed {
	over := make([]missed, 0, index-r.high)
	for ; r.high < index; r.high++ {
		over = append(over, missed{r.high, r.chain.slot()})
		r.chain = r.chain.next()
	}
	return over
}

// find is where index stands, or would stand, among those missed.
func (r *Receiver) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(r.missed, index, func(m missed, i uint64) int { return cmp.Compare(m.index, i) })
}

// Ack is what rides back to the sender: next is the lowest index not yet opened (or given up); bit j of seen (bit j%8,
// counted from the lowest, of byte j/8) tells whether index next+j was opened. Bit 0 is never set.
func (r *Receiver) Ack() (next uint64, seen [ackBits / 8]byte) {
	next = r.low()
	at := 0
	for j := uint64(0); j < ackBits && next+j < r.high; j++ {
		if at < len(r.missed) && r.missed[at].index == next+j {
			at++
			continue
		}
		seen[j/8] |= 1 << (j % 8)
	}
	return next, seen
}

// marshal writes the state: at most maxReceiverSize bytes, which are secret.
func (r Receiver) marshal() []byte {
	b := make([]byte, 0, receiverHead+len(r.missed)*missedSize)
	b = appendHead(b, kindReceiver, r.epoch, r.began)
	b = binary.BigEndian.AppendUint64(b, r.high)
	b = append(b, r.chain[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.missed)))
	for i := range r.missed {
		b = binary.BigEndian.AppendUint16(b, uint16(r.high-r.missed[i].index))
		b = append(b, r.missed[i].secret[:]...)
	}
	return b
}

// parseReceiver reads what marshal wrote; the error wraps ErrState.
func parseReceiver(b []byte) (Receiver, error) {
	if len(b) < receiverHead || len(b) > maxReceiverSize {
		return Receiver{}, fmt.Errorf("%w: a receiver of %d bytes", ErrState, len(b))
	}
	var r Receiver
	var err error
	if r.epoch, r.began, err = readHead(b, kindReceiver); err != nil {
		return Receiver{}, err
	}
	b = b[stateHead:]
	r.high = binary.BigEndian.Uint64(b)
	r.chain = secret(b[8:40])
	count := int(binary.BigEndian.Uint16(b[40:]))
	b = b[42:]
	if r.high > maxIndex {
		return Receiver{}, fmt.Errorf("%w: impossible index", ErrState)
	}
	if len(b) != count*missedSize {
		return Receiver{}, fmt.Errorf("%w: %d bytes for %d missed indices", ErrState, len(b), count)
	}
	if count == 0 {
		return r, nil
	}
	r.missed = make([]missed, count)
	for i := range r.missed {
		// How far below high: strictly falling, and high is never more than Window above the first.
		back := uint64(binary.BigEndian.Uint16(b))
		if back < 1 || back > Window || back > r.high || i > 0 && r.high-back <= r.missed[i-1].index {
			return Receiver{}, fmt.Errorf("%w: missed indices out of order", ErrState)
		}
		r.missed[i] = missed{r.high - back, secret(b[2:missedSize])}
		b = b[missedSize:]
	}
	return r, nil
}
