// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"crypto/sha256"
	"errors"
	"time"

	"tarn/bundle"
	"tarn/crypto/ratchet"
	"tarn/mailbox"
)

// How the epochs of a contact's streams show in boxes: SPEC §5.4, SPEC §7.4. The steps themselves are
// package ratchet's; here they are made durable with the boxes that they ride in.

// boxAt names a box of ours: its epoch and its index there.
type boxAt struct {
	epoch uint32
	index uint64
}

// before tells whether a was sealed earlier than b.
func (a boxAt) before(b boxAt) bool {
	return a.epoch < b.epoch || a.epoch == b.epoch && a.index < b.index
}

// blank begins a box: its head, and in it a step to the next epoch if there is one to make. What the step changes is
// on disk when the box is (commitBox), in one Update: a crash before leaves the state without the step, and the key or
// the ciphertext of it never left.
func (e *Engine) blank(c *contact, now time.Time) *filling {
	f := &filling{head: c.head(), pair: c.pair, turns: c.turns}
	if c.recovery != nil {
		return f // the streams begin anew soon
	}
	block, next, err := c.pair.Turn(now, c.settled())
	if err != nil {
		e.warn("beginning a new epoch", err)
		return f
	}
	if block != nil {
		f.head.KEM, f.pair, f.eliciting = block, next, true
	}
	return f
}

// settled tells whether every box of ours of earlier epochs is acknowledged, or was given up.
func (c *contact) settled() bool {
	for at := range c.boxes {
		if at.epoch != c.pair.Epoch() {
			return false
		}
	}
	return true
}

// lowest is the lowest index of the present epoch that we may still write: of an unacknowledged box, or the next.
func (c *contact) lowest() uint64 { return c.lowestOf(c.pair.Epoch(), c.pair.Index()) }

func (c *contact) lowestOf(epoch uint32, next uint64) uint64 {
	for at := range c.boxes {
		if at.epoch == epoch {
			next = min(next, at.index)
		}
	}
	return next
}

// head is the beginning of the contact's next box: the acknowledgements, and below which indices no box will come.
func (c *contact) head() bundle.Head {
	now, before, both := c.pair.Got()
	h := bundle.Head{Ack: bundle.Ack(now), Floor: bundle.Floor{Epoch: c.pair.Epoch(), Index: c.lowest()}}
	ended, ok := c.pair.Ended()
	if !both && !ok {
		return h
	}
	h.Before = &bundle.Before{Ack: bundle.Ack{Epoch: now.Epoch}, Floor: bundle.Floor{Epoch: h.Floor.Epoch}}
	if both {
		h.Before.Ack = bundle.Ack(before)
	}
	if ok {
		h.Before.Floor = bundle.Floor{Epoch: ended.Epoch, Index: c.lowestOf(ended.Epoch, ended.Count)}
		h.Before.Count = ended.Count
	}
	return h
}

// acks is what a head acknowledges, as a hash: to see whether there is anything new to acknowledge.
func acks(h bundle.Head) [32]byte {
	w := writer{}
	write := func(a bundle.Ack) {
		w.uvarint(uint64(a.Epoch))
		w.uvarint(a.Next)
		w.raw(a.Seen[:])
	}
	write(h.Ack)
	if h.Before != nil {
		write(h.Before.Ack)
	}
	return sha256.Sum256(w.b)
}

// expect puts the handles of the boxes that may come next into the engine's map. All of the window is there, so that
// a box is known whenever a digest lists it; it is refilled in steps, for that costs a hash a slot.
func (e *Engine) expect(c *contact) {
	for _, r := range c.pair.Receivers() {
		next, _ := r.Ack()
		mapped := c.mapped[r.Epoch()]
		if mapped > 0 && mapped >= next+lookahead-lookahead/4 {
			continue
		}
		for _, s := range r.Expected(lookahead) {
			if s.Index < mapped {
				continue
			}
			e.expected[mailbox.BoxID(s.ID).Handle()] = ref{contact: c, at: boxAt{s.Epoch, s.Index}}
			mapped = s.Index + 1
		}
		c.mapped[r.Epoch()] = mapped
	}
}

// moved follows a change of the contact's streams that is durable: the handles of a chain that is over are forgotten,
// those of a new one expected. A box in a new epoch can not come before: nobody has its root earlier.
func (e *Engine) moved(c *contact, old ratchet.Pair) {
	for _, r := range old.Receivers() {
		if c.pair.Receiver(r.Epoch()) != nil {
			continue
		}
		for _, s := range r.Expected(lookahead) {
			delete(e.expected, mailbox.BoxID(s.ID).Handle())
		}
		delete(c.mapped, r.Epoch())
	}
	e.expect(c)
}

// slotFor finds the slot of an index that is not opened yet.
func (c *contact) slotFor(at boxAt) (ratchet.Slot, bool) {
	r := c.pair.Receiver(at.epoch)
	if r == nil {
		return ratchet.Slot{}, false
	}
	next, _ := r.Ack()
	if at.index < next || at.index-next >= lookahead {
		return ratchet.Slot{}, false
	}
	slots := r.Expected(int(at.index-next) + 1)
	for i := len(slots) - 1; i >= 0; i-- {
		if slots[i].Index == at.index {
			return slots[i], true
		}
	}
	return ratchet.Slot{}, false
}

// awaited is the chain in which a box that no digest listed is looked for: the older one while boxes are missing there
// that later ones show to have been written, else the newest.
func (c *contact) awaited() *ratchet.Receiver {
	chains := c.pair.Receivers()
	for _, r := range chains[1:] {
		if _, seen := r.Ack(); seen != [32]byte{} {
			return r
		}
	}
	return chains[0]
}

// opened is what opening a box does to the streams: the step in it, the box itself, and what its sender says that it
// will not write any more. given are the handles of those. Nothing of c changes.
func (c *contact) opened(at boxAt, head bundle.Head, now time.Time) (p ratchet.Pair, turned bool, given []mailbox.Handle, err error) {
	p = c.pair
	if head.KEM != nil {
		q, did, err := p.Take(head.KEM, now)
		if err != nil && !errors.Is(err, ratchet.ErrBlock) {
			return p, false, nil, err
		}
		p, turned = q, did // one that is out of place changes nothing
	}
	did, err := p.Opened(at.epoch, at.index)
	if err != nil {
		return p, false, nil, err
	}
	floors := []bundle.Floor{head.Floor}
	if head.Before != nil {
		floors = append(floors, head.Before.Floor)
	}
	for _, f := range floors {
		r := p.Receiver(f.Epoch)
		if r == nil || f.Epoch == at.epoch && f.Index > at.index {
			continue
		}
		next, _ := r.Ack()
		if f.Index <= next || f.Index-next > ratchet.Window {
			continue
		}
		for _, s := range r.Expected(int(f.Index - next)) {
			if s.Index < f.Index {
				given = append(given, mailbox.BoxID(s.ID).Handle())
			}
		}
		if err := p.Skip(f.Epoch, f.Index); err != nil {
			return p, false, nil, err
		}
	}
	if b := head.Before; b != nil && b.Count > 0 {
		p.Close(b.Floor.Epoch, b.Count)
	}
	return p, turned || did, given, nil
}
