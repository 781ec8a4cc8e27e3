// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/ratchet"
	"tarn/mailbox"
	"tarn/room"
	"tarn/store"
)

// When a box is given up under its index and sealed anew.
const (
	existsLimit  = 3 // answers EXISTS to our own identical box: the store has another one there, or lies
	skippedLimit = 4 // rewrites without an acknowledgement though later boxes were acknowledged: nobody can read it there
)

// box is one that was sealed and that the peer has not acknowledged.
type box struct {
	boxAt
	id        mailbox.BoxID
	created   time.Time
	sealed    time.Time // under this index
	eliciting bool      // it holds more than an acknowledgement, or signs of life
	once      bool      // it holds signs of life alone: it is written once, and whether it arrives is no matter (signs.go)
	carried   []uint64  // outbox items, one entry for each fragment or whole item in it
	place     [32]byte  // the ratchet slot's: which of the contact's stores it goes to

	// Not on disk: after a restart every box is due at once, and written identically, which a store allows.
	due      time.Time
	attempts int // times that a store said it has it
	failures int // since the last success
	exists   int
	busy     bool            // a slot carries it
	last     mailbox.Address // where it was written last
	via      *guard          // and through whom
}

func (b *box) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.raw(b.id[:])
	w.raw(b.place[:])
	w.time(b.created)
	w.time(b.sealed)
	w.flag(b.eliciting)
	w.flag(b.once)
	w.uvarint(uint64(len(b.carried)))
	for _, s := range b.carried {
		w.uvarint(s)
	}
	return w.b
}

func parseBox(v []byte) (*box, error) {
	r := reader{b: v}
	r.version()
	b := &box{}
	copy(b.id[:], r.raw(mailbox.IDSize))
	b.place = r.key32()
	b.created, b.sealed, b.eliciting, b.once = r.time(), r.time(), r.flag(), r.flag()
	n := r.uvarint()
	if n > bundle.MaxFragments {
		r.bad = true
	}
	for i := uint64(0); i < n && !r.bad; i++ {
		b.carried = append(b.carried, r.uvarint())
	}
	return b, r.end()
}

func boxKey(table byte, c *contact, at boxAt) []byte {
	return store.Key(table, string(c.name), uint64(at.epoch), at.index)
}

// boxBytes is a row of tableBox: the sealed box, then the plaintext without the zeros at its end. The plaintext is
// needed when the box must be sealed under another index; it is no more secret than the outbox beside it.
func boxBytes(sealed, plaintext []byte) []byte {
	return append(bytes.Clone(sealed), bytes.TrimRight(plaintext, "\x00")...)
}

// seal closes a box with what was chosen, and makes it leave.
//
// One Update: the streams' next state (with a step to the next epoch, if the box has one), the box's own bytes, and the items that are in it now. A crash before it: the
// index is unused and the items wait as before. After it, wherever: the box's bytes are on disk and are written
// identically until the peer acknowledges; whether they ever left does not matter. So no index ever seals two plaintexts.
func (e *Engine) seal(c *contact, f *filling, w *where, now time.Time) (job, bool) {
	plaintext := f.packer.Pack()
	bx, sealed, err := e.commitBox(c, plaintext, f, now)
	if err != nil {
		e.warn("sealing a box", err)
		return job{}, false
	}
	return e.putJob(c, bx, sealed, w), true
}

func (e *Engine) commitBox(c *contact, plaintext []byte, f *filling, now time.Time) (*box, *[mailbox.BoxSize]byte, error) {
	if c.lost() {
		return nil, nil, ErrRestored
	}
	slot, next := f.pair.Next()
	sealed := slot.Seal(plaintext)
	if len(sealed) != mailbox.BoxSize {
		return nil, nil, fmt.Errorf("replicate: a sealed bundle of %d bytes", len(sealed))
	}
	bx := &box{boxAt: boxAt{slot.Epoch, slot.Index}, id: slot.ID, place: slot.Place(), created: now, sealed: now, eliciting: f.eliciting, once: f.once, carried: append([]uint64(nil), f.whole...)}
	for _, p := range f.pieces {
		bx.carried = append(bx.carried, p.seq)
	}
	if f.split != 0 {
		bx.carried = append(bx.carried, f.split)
	}
	err := e.kv.Update(func(txn store.Txn) error {
		if err := e.writeFilling(txn, c, f, next); err != nil {
			return err
		}
		if err := txn.Set(boxKey(tableBoxMeta, c, bx.boxAt), bx.marshal()); err != nil {
			return err
		}
		return txn.Set(boxKey(tableBox, c, bx.boxAt), boxBytes(sealed, plaintext))
	})
	if err != nil {
		return nil, nil, err
	}
	old := c.pair
	c.pair, c.ackSent = next, acks(f.head)
	e.moved(c, old)
	c.turns = f.turns
	c.fragments += max(0, len(f.cut)-1) - len(f.pieces)
	c.boxes[bx.boxAt] = bx
	c.ackDue = time.Time{} // it rides in this one
	for _, g := range f.given {
		c.given[g] = true
	}
	e.toldFloor(c, now)
	for _, w := range f.asked {
		e.asked(w, now)
	}
	if f.sources != nil {
		c.relay.told = *f.sources
	}
	if f.signs != nil {
		c.signs.told = *f.signs
	}
	e.noteFiles(f)
	return bx, (*[mailbox.BoxSize]byte)(sealed), nil
}

// writeFilling writes what a filling changes beside the box: the streams, the outbox, fragments, certificates.
func (e *Engine) writeFilling(txn store.Txn, c *contact, f *filling, next ratchet.Pair) error {
	peer := string(c.name)
	if err := txn.Set(store.Key(tableStreams, peer), streamsRow(next, acks(f.head))); err != nil {
		return err
	}
	taken := f.whole
	if f.split != 0 {
		taken = append(slices.Clone(taken), f.split)
	}
	if err := store.Take(txn, peer, taken...); err != nil {
		return err
	}
	if len(f.dropped) > 0 {
		if err := store.Dequeue(txn, peer, f.dropped...); err != nil {
			return err
		}
	}
	if f.split != 0 && len(f.cut) > 1 {
		if err := txn.Set(store.Key(tableItem, peer, f.split), binary.AppendUvarint(nil, uint64(len(f.cut)))); err != nil {
			return err
		}
		for i, fr := range f.cut[1:] {
			if err := txn.Set(store.Key(tableFragment, peer, f.split, uint64(i+1)), marshalFragment(fr)); err != nil {
				return err
			}
		}
	}
	for _, p := range f.pieces {
		if err := txn.Delete(store.Key(tableFragment, peer, p.seq, p.index)); err != nil {
			return err
		}
	}
	if f.sources != nil {
		if err := txn.Set(store.Key(tableToldSources, peer), f.sources.marshal()); err != nil {
			return err
		}
	}
	for _, g := range f.given {
		if err := txn.Set(store.Key(tableGiven, peer, string(g)), []byte{rowVersion}); err != nil {
			return err
		}
	}
	return nil
}

// putJob writes a box to the store that it is for.
func (e *Engine) putJob(c *contact, bx *box, sealed *[mailbox.BoxSize]byte, w *where) job {
	d := w.aim(c, bx)
	if d == nil {
		d = w.places[0] // resealed under another index: the receiver reads all its stores
	}
	bx.busy, bx.last, bx.via = true, d.address, w.guard
	return job{
		store: d, deposit: true,
		do: func(ctx context.Context, m Mailbox) error { return m.Put(ctx, bx.id, sealed, nil) },
		done: func(err error) {
			p := e.profile.Load()
			now := time.Now()
			bx.busy = false
			switch {
			case bx.once:
				if err != nil {
					c.signs.told = room.Signs{} // again, in another box
				}
			case err == nil:
				bx.attempts++
				bx.failures = 0
				bx.due = now.Add(e.jitter(bx.pause(p, len(c.stores) > 1)))
			case errors.Is(err, errNotSent):
				bx.due, bx.last, bx.via = now, mailbox.Address{}, nil
			case errors.Is(err, errCourier), errors.Is(err, errUnanswered):
				bx.failures++ // at once by the other courier, then to the other store
				bx.due = now
			case errors.Is(err, mailbox.ErrExists):
				e.counts.exists.Add(1)
				bx.exists++
				bx.failures++
				bx.due = now.Add(e.jitter(backoff(p.Frame, bx.failures, p.Retransmit)))
			default:
				bx.failures++
				bx.due = now.Add(e.jitter(backoff(p.Frame, bx.failures, p.Retransmit)))
			}
		},
	}
}

// pause is how long a box that was just written waits to be written again: the second copy comes first.
func (b *box) pause(p *Profile, second bool) time.Duration {
	switch {
	case !second:
		return backoff(p.Retransmit, b.attempts-1, p.RetransmitMax)
	case b.attempts == 1:
		return p.SecondCopy
	}
	return backoff(p.Retransmit, b.attempts-2, p.RetransmitMax)
}

// backoff is base doubled n times, at most limit.
func backoff(base time.Duration, n int, limit time.Duration) time.Duration {
	for ; n > 0 && base < limit; n-- {
		base *= 2
	}
	return min(base, limit)
}

// jitter is d, a quarter more or less. The caller holds mu.
func (e *Engine) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + e.rng.Float64()/2))
}

// dueBox is the box that waits longest to be written (again) and can go there; nil: none. One that was not answered goes
// by another courier, if there is one that works.
func (c *contact) dueBox(w *where, now time.Time) *box {
	var best *box
	for _, b := range c.boxes {
		if b.busy || b.once || b.due.After(now) || best != nil && best.before(b.boxAt) ||
			b.failures%4 > 0 && b.via != nil && b.via == w.guard && w.others {
			continue
		}
		if w.aim(c, b) != nil {
			best = b
		}
	}
	return best
}

// rewrite writes a box again, byte for byte: a store that has it says so, one that lost it has it again. A box that
// can not be delivered under its index is sealed anew.
func (e *Engine) rewrite(c *contact, bx *box, w *where, now time.Time) (job, bool) {
	var row []byte
	err := e.kv.View(func(r store.Reader) error {
		var err error
		row, err = r.Get(boxKey(tableBox, c, bx.boxAt))
		return err
	})
	if err != nil || len(row) < mailbox.BoxSize || len(row) > mailbox.BoxSize+bundle.Size {
		e.log.Error("reading a box that waits for its acknowledgement", "err", errors.Join(err, ErrRow))
		bx.due = now.Add(time.Minute)
		return job{}, false
	}
	// A store forgets a box after its TTL. A copy under a new index is there before, and looks like any new box; the same
	// box again after the TTL would show that it is a real one.
	ttl := e.ttlOf(c)
	lost := c.unreadable(bx) || ttl > 0 && now.Sub(bx.sealed) > ttl/2 || bx.exists >= existsLimit || bx.attempts >= skippedLimit && c.overtaken(bx.boxAt)
	if lost && c.roomForBox(maxReseal) {
		plaintext := make([]byte, bundle.Size)
		copy(plaintext, row[mailbox.BoxSize:])
		return e.reseal(c, bx, plaintext, w, now)
	}
	if bx.attempts > 0 {
		e.counts.rewrites.Add(1)
	}
	return e.putJob(c, bx, (*[mailbox.BoxSize]byte)(row), w), true
}

// overtaken tells whether the peer has acknowledged a box that was sealed later.
func (c *contact) overtaken(at boxAt) bool {
	return at.epoch < c.pair.Epoch() && c.highAcked > 0 || at.epoch == c.pair.Epoch() && at.index < c.highAcked
}

// reseal gives a box up under its index and seals its plaintext under the next one, in one Update. The head in it is
// old; that is no matter: what it says of an epoch only grows, and of one that is over it is not listened to. A later box's head tells the peer to wait for the old one no longer.
func (e *Engine) reseal(c *contact, old *box, plaintext []byte, w *where, now time.Time) (job, bool) {
	if c.lost() {
		return job{}, false
	}
	slot, next := c.pair.Next()
	sealed := slot.Seal(plaintext)
	bx := &box{boxAt: boxAt{slot.Epoch, slot.Index}, id: slot.ID, place: slot.Place(), created: old.created, sealed: now, eliciting: old.eliciting, carried: old.carried, failures: old.failures}
	err := e.kv.Update(func(txn store.Txn) error {
		return errors.Join(
			txn.Set(store.Key(tableStreams, string(c.name)), streamsRow(next, c.ackSent)),
			txn.Delete(boxKey(tableBoxMeta, c, old.boxAt)),
			txn.Delete(boxKey(tableBox, c, old.boxAt)),
			txn.Set(boxKey(tableBoxMeta, c, bx.boxAt), bx.marshal()),
			txn.Set(boxKey(tableBox, c, bx.boxAt), boxBytes(sealed, plaintext)))
	})
	if err != nil {
		e.warn("sealing a box anew", err)
		return job{}, false
	}
	e.counts.resealed.Add(1)
	c.pair = next
	delete(c.boxes, old.boxAt)
	c.boxes[bx.boxAt] = bx
	c.floorDue, c.floorTold = now, 0
	return e.putJob(c, bx, (*[mailbox.BoxSize]byte)(sealed), w), true
}

// toldFloor notes that a box with our present floor is on its way: the next word of it alone can wait.
func (e *Engine) toldFloor(c *contact, now time.Time) {
	p := e.profile.Load()
	c.floorDue = now.Add(e.jitter(backoff(p.Retransmit, c.floorTold, p.RetransmitMax)))
	c.floorTold++
	if c.lowest() <= c.peerNext {
		c.floorTold = 0
	}
}

// ackBatch bounds the boxes that one Update forgets.
const ackBatch = 100

// applyAcks forgets the boxes that the peer has, and the outbox items of which nothing is left to deliver. A crash
// between two of its Updates leaves boxes that are written again until the peer's next acknowledgement, which covers them too.
func (e *Engine) applyAcks(c *contact, h bundle.Head) error {
	err := e.applyAck(c, h.Ack)
	if err == nil && h.Before != nil {
		err = e.applyAck(c, h.Before.Ack)
	}
	return err
}

func (e *Engine) applyAck(c *contact, a bundle.Ack) error {
	var acked []*box
	var last boxAt
	present := a.Epoch == c.pair.Epoch()
	for at, b := range c.boxes {
		if at.epoch == a.Epoch && a.Has(at.index) {
			acked = append(acked, b)
			if last.before(at) {
				last = at
			}
			if present {
				c.highAcked = max(c.highAcked, at.index+1)
			}
		}
	}
	for at, b := range c.boxes {
		if b.once && at.before(last) && !(at.epoch == a.Epoch && a.Has(at.index)) {
			acked = append(acked, b) // it was overtaken, or lost: the floor says so
		}
	}
	for len(acked) > 0 {
		n := min(len(acked), ackBatch)
		if err := e.kv.Update(func(txn store.Txn) error { return forgetBoxes(txn, c, acked[:n]) }); err != nil {
			return fmt.Errorf("forget acknowledged boxes: %w", err)
		}
		for _, b := range acked[:n] {
			delete(c.boxes, b.boxAt)
		}
		acked = acked[n:]
	}
	if present && a.Next <= c.pair.Index() {
		c.peerNext = max(c.peerNext, a.Next) // kept on disk with the box that it came in
	}
	return nil
}

func forgetBoxes(txn store.Txn, c *contact, acked []*box) error {
	peer := string(c.name)
	for _, b := range acked {
		if err := errors.Join(txn.Delete(boxKey(tableBoxMeta, c, b.boxAt)), txn.Delete(boxKey(tableBox, c, b.boxAt))); err != nil {
			return err
		}
		for _, seq := range b.carried {
			key := store.Key(tableItem, peer, seq)
			row, err := txn.Get(key)
			left := uint64(1) // no row: the item is in this box alone
			if err == nil {
				if left, _ = binary.Uvarint(row); left == 0 {
					return ErrRow
				}
			} else if !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if left--; left > 0 {
				err = txn.Set(key, binary.AppendUvarint(nil, left))
			} else {
				err = errors.Join(txn.Delete(key), store.Dequeue(txn, peer, seq))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func marshalFragment(f bundle.Fragment) []byte {
	w := writer{}
	w.u8(rowVersion)
	w.u8(byte(f.Type))
	w.raw(f.ID[:])
	w.uvarint(uint64(f.Index))
	w.uvarint(uint64(f.Count))
	w.bytes(f.Data)
	return w.b
}

// parseFragment reads it; Data is part of the row.
func parseFragment(b []byte) (bundle.Fragment, error) {
	r := reader{b: b}
	r.version()
	f := bundle.Fragment{Type: bundle.Type(r.u8())}
	copy(f.ID[:], r.raw(16))
	index, count := r.uvarint(), r.uvarint()
	f.Data = r.bytes(bundle.MaxInflated)
	if count > bundle.MaxFragments || index >= count {
		r.bad = true
	}
	f.Index, f.Count = uint16(index), uint16(count)
	return f, r.end()
}
