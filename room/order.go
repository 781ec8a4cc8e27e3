// SPDX-License-Identifier: Apache-2.0

package room

import "tarn/store"

// seq is an event's place in the node's order. One transaction has one stream position but may bring many events (a
// new room, a bundle of another node), so a place is the position (upper 48 bits) and the number within the transaction.
type seq uint64

const (
	subBits = 16
	maxSub  = 1<<subBits - 1
)

func seqOf(pos store.Pos, sub int) seq { return seq(pos)<<subBits | seq(sub) }

// pos is the stream position at which the event became visible.
func (s seq) pos() store.Pos { return store.Pos(s >> subBits) }

// token is a cut in the room's order as clients keep it ("prev_batch"): the cut right after s. Positions that
// Stream.Current gives are tokens too: they cut after everything of that position. A cut amid a
// transaction's events has the number within it, plus one, in the upper 16 bits, so it is not to be compared with others.
func (s seq) token() store.Pos {
	sub := s & maxSub
	if sub == maxSub {
		return s.pos()
	}
	return s.pos() | store.Pos(sub+1)<<48
}

// cut is the last place before the cut that t names.
func cut(t store.Pos) seq {
	pos, sub := t&(1<<48-1), t>>48
	if sub == 0 {
		return seqOf(pos, maxSub)
	}
	return seqOf(pos, int(sub-1))
}
