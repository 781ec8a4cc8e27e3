// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"encoding/binary"
	"fmt"
)

// MaxPairSize bounds a marshalled Pair in bytes: usually it has some 300, and 1,216 more while an offer waits.
const MaxPairSize = 3 + 2*senderSize + 12 + 2*(4+maxReceiverSize) + PublicSize

const kindPair = 'P'

// What a pair's state has, as a byte.
const (
	hasInitiator = 1 << iota
	hasEnded
	hasBefore
	hasClosed
	hasSeed
	hasPeerKey
	hasNext
	hasOrphan
)

// Marshal writes the state: at most MaxPairSize bytes, which are secret.
func (p Pair) Marshal() []byte {
	var has byte
	for bit, there := range map[byte]bool{hasInitiator: p.initiator, hasEnded: p.ended != nil, hasBefore: p.before != nil, hasClosed: p.closed != nil,
		hasSeed: p.seed != nil, hasPeerKey: p.peerKey != nil, hasNext: p.next != nil, hasOrphan: p.orphan} {
		if there {
			has |= bit
		}
	}
	b := append(make([]byte, 0, 512), stateVersion, kindPair, has)
	b = append(b, p.sender.marshal()...)
	if p.ended != nil {
		b = binary.BigEndian.AppendUint32(b, p.ended.Epoch)
		b = binary.BigEndian.AppendUint64(b, p.ended.Count)
	}
	b = appendReceiver(b, p.receiver)
	if p.before != nil {
		b = appendReceiver(b, *p.before)
	}
	if p.closed != nil {
		b = binary.BigEndian.AppendUint32(b, p.closed.Epoch)
		b = binary.BigEndian.AppendUint64(b, p.closed.Next)
	}
	if p.seed != nil {
		b = append(b, p.seed[:]...)
	}
	b = append(b, p.peerKey...)
	if p.next != nil {
		b = append(b, p.next.marshal()...)
	}
	return b
}

func appendReceiver(b []byte, r Receiver) []byte {
	s := r.marshal()
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// ParsePair reads what Marshal wrote; the error wraps ErrState.
func ParsePair(b []byte) (Pair, error) {
	p, err := parsePair(b)
	if err != nil {
		return Pair{}, err
	}
	return p, nil
}

func parsePair(b []byte) (p Pair, err error) {
	if len(b) < 3 || len(b) > MaxPairSize {
		return p, fmt.Errorf("%w: a pair of %d bytes", ErrState, len(b))
	}
	if b[0] != stateVersion || b[1] != kindPair {
		return p, fmt.Errorf("%w: version %d, kind %q", ErrState, b[0], b[1])
	}
	has := b[2]
	s := stateReader{b: b[3:]}
	p.initiator, p.orphan = has&hasInitiator != 0, has&hasOrphan != 0
	if p.sender, err = parseSender(s.take(senderSize)); err != nil {
		return p, err
	}
	if has&hasEnded != 0 {
		e := s.take(12)
		if e == nil {
			return p, errCut
		}
		p.ended = &Ended{binary.BigEndian.Uint32(e), binary.BigEndian.Uint64(e[4:])}
	}
	if p.receiver, err = s.receiver(); err != nil {
		return p, err
	}
	if has&hasBefore != 0 {
		r, err := s.receiver()
		if err != nil {
			return p, err
		}
		p.before = &r
	}
	if has&hasClosed != 0 {
		g := s.take(12)
		if g == nil {
			return p, errCut
		}
		p.closed = &Got{Epoch: binary.BigEndian.Uint32(g), Next: binary.BigEndian.Uint64(g[4:])}
	}
	if has&hasSeed != 0 {
		k := s.take(seedSize)
		if k == nil {
			return p, errCut
		}
		p.seed = (*seed)(append([]byte(nil), k...))
	}
	if has&hasPeerKey != 0 {
		k := s.take(PublicSize)
		if k == nil {
			return p, errCut
		}
		p.peerKey = append([]byte(nil), k...)
	}
	if has&hasNext != 0 {
		n, err := parseSender(s.take(senderSize))
		if err != nil {
			return p, err
		}
		p.next = &n
	}
	if len(s.b) != 0 {
		return p, fmt.Errorf("%w: %d bytes are left over", ErrState, len(s.b))
	}
	return p, p.possible()
}

var errCut = fmt.Errorf("%w: it is cut off", ErrState)

// possible holds a state that was read against what the methods can lead to.
func (p *Pair) possible() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrState, what) }
	waiting := 0
	for _, there := range []bool{p.seed != nil, p.peerKey != nil, p.next != nil} {
		if there {
			waiting++
		}
	}
	switch {
	case waiting > 1:
		return bad("two steps of a turn at once")
	case p.next != nil && (p.next.epoch != p.receiver.epoch || p.next.index != 0 || p.sender.epoch >= p.next.epoch):
		return bad("the epoch that was answered is another one")
	case p.next == nil && p.sender.epoch != p.receiver.epoch:
		return bad("it sends in one epoch and receives in another")
	case p.before != nil && p.closed != nil || p.orphan && p.before == nil:
		return bad("the epoch before is there twice, or not")
	case p.before != nil && p.before.epoch >= p.receiver.epoch, p.closed != nil && p.closed.Epoch >= p.receiver.epoch:
		return bad("its epochs are out of order")
	case p.ended != nil && p.ended.Epoch >= p.sender.epoch:
		return bad("what it sent is out of order")
	}
	return nil
}

// stateReader takes a state apart.
type stateReader struct{ b []byte }

// take is the next n bytes, nil if there are not so many.
func (s *stateReader) take(n int) []byte {
	if n > len(s.b) {
		s.b = nil
		return nil
	}
	out := s.b[:n:n]
	s.b = s.b[n:]
	return out
}

func (s *stateReader) receiver() (Receiver, error) {
	n := s.take(4)
	if n == nil {
		return Receiver{}, errCut
	}
	size := binary.BigEndian.Uint32(n)
	if size > maxReceiverSize {
		return Receiver{}, fmt.Errorf("%w: a receiver of %d bytes", ErrState, size)
	}
	return parseReceiver(s.take(int(size)))
}
