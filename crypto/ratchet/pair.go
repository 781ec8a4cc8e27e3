// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"fmt"
	"log/slog"
	"math"
	"time"
)

// When an epoch is over.
const (
	EpochBoxes = 64             // boxes of both directions
	EpochLife  = 24 * time.Hour // if any box went either way
)

// Pair is one end of a stream pair through its epochs: what it sends on, the chains that it receives on (of the newest
// epoch and the one before), and how far the turn to the next epoch is.
//
// A turn. In even epochs the initiator offers, in odd ones the responder:
//
//	offerer                                     answerer
//	in a box of e: a fresh public key     ──▶   keeps the key
//	                                            encapsulates; has the chains of e+1, sends on in e
//	has the chains of e+1; sends in e+1   ◀──   in a box of e: the ciphertext
//	first box of e+1                      ──▶   sends in e+1
//
// So nobody sends in an epoch before the other end can read it. Boxes of e that are under way are read and
// acknowledged on; every box of e+1 says how many its sender wrote in e, and the chain of e is forgotten when all of
// them were opened or given up. No turn begins before that: there are never more than two epochs.
//
// It is a value: every method that changes something returns or works on a copy, and what it returns must be on disk
// BEFORE the box that it belongs to leaves (Next, Turn), or in the transaction that keeps what came (Opened, Take).
type Pair struct {
	initiator bool
	sender    Sender
	ended     *Ended   // what was sent in the epoch before the sender's
	receiver  Receiver // of the newest epoch
	before    *Receiver
	closed    *Got // instead of before, when nothing more comes in that epoch

	// The turn. At most one of the three is there.
	seed    *seed   // offerer: of the key that was offered and is not answered yet
	peerKey []byte  // answerer: the offered key
	next    *Sender // answerer: of the epoch that was answered, until the other end's first box of it

	orphan bool // before will never be ended by the other end, which has lost that epoch: it holds up no turn
}

// Ended says how many boxes were sent in an epoch that is over.
type Ended struct {
	Epoch uint32
	Count uint64 // the boxes have the indices below
}

// Got says which boxes of an epoch were received, as Receiver.Ack.
type Got struct {
	Epoch uint32
	Next  uint64
	Seen  [ackBits / 8]byte
}

// NewPair begins an epoch from its root. Forget the root.
func NewPair(root Root, epoch uint32, initiator bool, now time.Time) Pair {
	p := Pair{initiator: initiator, sender: NewSender(root, epoch, initiator), receiver: NewReceiver(root, epoch, initiator)}
	p.sender.began, p.receiver.began = unix(now), unix(now)
	return p
}

func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 1)) }

// Rescued is the answerer's end of a recovery: it receives in the new epoch at once, and sends in it from the other
// end's first box on, which shows that the answer was read. Until then it goes on as before: whoever made a stale
// recovery come again has not broken the streams. Boxes that the other end wrote before it lost its state are still read.
func (p Pair) Rescued(root Root, epoch uint32, now time.Time) Pair {
	n := NewPair(root, epoch, p.initiator, now)
	// Of the chains that are there the one that the other end sent on last.
	last := p.receiver
	if p.next != nil && p.before != nil && last.high == 0 && len(last.missed) == 0 {
		last = *p.before
	}
	return Pair{initiator: p.initiator, sender: p.sender, ended: p.ended, receiver: n.receiver, before: &last, next: &n.sender, orphan: true}
}

// String and LogValue keep the secrets out of logs.
func (Pair) String() string       { return "[pair]" }
func (Pair) LogValue() slog.Value { return slog.StringValue("[pair]") }

// Next is the slot of the next box, and the state after it.
func (p Pair) Next() (Slot, Pair) {
	var s Slot
	s, p.sender = p.sender.Next()
	return s, p
}

// Epoch is the one in which the next box is sent.
func (p *Pair) Epoch() uint32 { return p.sender.epoch }

// Newest is the newest epoch that anything can come in: Epoch or, while this end has answered, the one after it.
func (p *Pair) Newest() uint32 { return p.receiver.epoch }

// began is when the epoch began that the next box is sent in.
func (p *Pair) began() time.Time { return time.Unix(int64(p.sender.began), 0) }

// Index of the next box.
func (p *Pair) Index() uint64 { return p.sender.index }

// Ended is what was sent in the epoch before Epoch; false if there was none.
func (p *Pair) Ended() (Ended, bool) {
	if p.ended == nil {
		return Ended{}, false
	}
	return *p.ended, true
}

// Receivers are the chains that boxes can come on, newest first: one or two. They are the pair's own: look only.
func (p *Pair) Receivers() []*Receiver {
	if p.before == nil {
		return []*Receiver{&p.receiver}
	}
	return []*Receiver{&p.receiver, p.before}
}

// Receiver is the chain of an epoch, or nil. It is the pair's own: look only.
func (p *Pair) Receiver(epoch uint32) *Receiver {
	for _, r := range p.Receivers() {
		if r.epoch == epoch {
			return r
		}
	}
	return nil
}

// Got is what is acknowledged: of the newest epoch and, while it is known, of the one before.
func (p *Pair) Got() (now Got, before Got, both bool) {
	got := func(r *Receiver) Got {
		next, seen := r.Ack()
		return Got{r.epoch, next, seen}
	}
	now = got(&p.receiver)
	switch {
	case p.before != nil:
		return now, got(p.before), true
	case p.closed != nil:
		return now, *p.closed, true
	}
	return now, before, false
}

// change gives the caller a receiver of an epoch to work on: a copy, so that copies of the pair stay as they are.
func (p *Pair) change(epoch uint32) (*Receiver, error) {
	switch {
	case p.receiver.epoch == epoch:
		return &p.receiver, nil
	case p.before != nil && p.before.epoch == epoch:
		r := *p.before
		p.before = &r
		return p.before, nil
	}
	return nil, fmt.Errorf("epoch %d: %w", epoch, ErrIndex)
}

// Opened marks a box as opened, as Receiver.Done. The first box of an epoch that this end has answered makes it send
// in that epoch; turned says so.
func (p *Pair) Opened(epoch uint32, index uint64) (turned bool, err error) {
	r, err := p.change(epoch)
	if err != nil {
		return false, err
	}
	if err := r.Done(index); err != nil {
		return false, err
	}
	if p.next != nil && epoch == p.next.epoch {
		p.ended = &Ended{p.sender.epoch, p.sender.index}
		p.sender, p.next = *p.next, nil
		return true, nil
	}
	return false, nil
}

// Skip is Receiver.Skip on the chain of an epoch; one that is not there any more is no error.
func (p *Pair) Skip(epoch uint32, below uint64) error {
	r, err := p.change(epoch)
	if err != nil {
		return nil
	}
	return r.Skip(below)
}

// Close takes the other end's word of how many boxes it wrote in the epoch before the newest: once all of them are
// opened or given up their chain is forgotten. It tells whether that was so.
func (p *Pair) Close(epoch uint32, count uint64) bool {
	if p.before == nil || p.before.epoch != epoch || p.before.low() < count {
		return false
	}
	p.closed = &Got{Epoch: epoch, Next: p.before.low()}
	p.before, p.orphan = nil, false
	return true
}

// offers tells whether this end makes the offer of the present epoch.
func (p *Pair) offers() bool { return (p.sender.epoch%2 == 0) == p.initiator }

// due tells whether the epoch has lasted long enough.
func (p *Pair) due(now time.Time) bool {
	boxes := p.sender.index + p.receiver.high
	life := now.Sub(p.began())
	return boxes >= EpochBoxes || boxes > 0 && (life >= EpochLife || life < -EpochLife)
}

// Turn gives the KEM block that the next box takes along, and the state that must be on disk with that box; nil: none,
// p is not changed. A block goes into ONE box, which is written until it is acknowledged, like all boxes. settled says
// that every box of earlier epochs is acknowledged or given up.
func (p Pair) Turn(now time.Time, settled bool) (block []byte, next Pair, err error) {
	free := settled && (p.before == nil || p.orphan) && p.next == nil && p.sender.epoch == p.receiver.epoch
	if !free || p.seed != nil || p.sender.epoch == math.MaxUint32 {
		return nil, p, nil
	}
	epoch := p.sender.epoch + 1
	if p.peerKey != nil {
		ct, ss, err := encapsulate(p.peerKey, epoch)
		if err != nil {
			return nil, p, err
		}
		q := p.turned(nextRoot(&p.sender.carry, ss, epoch, !p.initiator, p.peerKey, ct), epoch, now)
		sender := q.sender
		q.sender, q.ended, q.next = p.sender, p.ended, &sender
		return appendBlock(blockAnswer, epoch, ct), q, nil
	}
	if !p.offers() || !p.due(now) {
		return nil, p, nil
	}
	s, err := newSeed()
	if err != nil {
		return nil, p, err
	}
	public, err := s.public()
	if err != nil {
		return nil, p, err
	}
	p.seed = &s
	return appendBlock(blockOffer, epoch, public), p, nil
}

// turned is the pair in the epoch after the present one.
func (p *Pair) turned(root Root, epoch uint32, now time.Time) Pair {
	n := NewPair(root, epoch, p.initiator, now)
	before := p.receiver
	n.before, n.ended = &before, &Ended{p.sender.epoch, p.sender.index}
	return n
}

// Take takes a KEM block that a box had; the box is to be marked as opened in the same transaction. One that is out of
// place (a copy in a box that was sealed anew, an offer while another is under way) is ErrBlock, and no change. turned
// says that the next box is sent in a new epoch.
func (p Pair) Take(block []byte, now time.Time) (_ Pair, turned bool, err error) {
	kind, epoch, body, err := readBlock(block)
	if err != nil {
		return p, false, err
	}
	if p.sender.epoch == math.MaxUint32 || epoch != p.sender.epoch+1 || p.next != nil || p.sender.epoch != p.receiver.epoch {
		return p, false, fmt.Errorf("%w: it leads to epoch %d", ErrBlock, epoch)
	}
	switch {
	case kind == blockOffer && !p.offers() && p.peerKey == nil:
		if err := checkPublic(body); err != nil {
			return p, false, err
		}
		p.peerKey = append([]byte(nil), body...)
		return p, false, nil
	case kind == blockAnswer && p.seed != nil:
		public, err := p.seed.public()
		if err != nil {
			return p, false, err
		}
		ss, err := p.seed.decapsulate(body, epoch)
		if err != nil {
			return p, false, err
		}
		return p.turned(nextRoot(&p.sender.carry, ss, epoch, p.initiator, public, body), epoch, now), true, nil
	}
	return p, false, fmt.Errorf("%w: nobody waits for it", ErrBlock)
}
