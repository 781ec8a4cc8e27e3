// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/media"
	"tarn/room"
	"tarn/store"
)

// choosePut finds something to write: what package room and people wait for, acknowledgements, and then files, which now and then come first.
func (e *Engine) choosePut(w *where, now time.Time) (job, bool) {
	if j, ok := e.filesFirst(w, now); ok {
		return j, true
	}
	if j, ok := e.chooseSmall(w, now); ok {
		return j, true
	}
	return e.filesLast(now, w)
}

// chooseSmall finds something to write that is no file: a part of a first contact, a rewrite that is due, something new for a contact that
// has this store or set, or, where cover would be written anyway, an acknowledgement alone.
func (e *Engine) chooseSmall(w *where, now time.Time) (job, bool) {
	var offers []func() (job, bool)
	at := func(d *depot, j func() job) {
		offers = append(offers, func() (job, bool) {
			j := j()
			j.store = d
			return j, true
		})
	}
	for _, d := range w.places {
		if e.tokensDue(d, now) {
			at(d, func() job { return e.putTokens(d, now) })
		}
	}
	// Boxes go only where there is a token for them.
	payable := *w
	payable.places = keep(w.places, func(d *depot) bool { return e.canPay(d, now) })
	if w = &payable; len(w.places) == 0 {
		if len(offers) > 0 {
			return offers[e.rng.IntN(len(offers))]()
		}
		return job{}, false
	}
	for _, d := range w.places {
		for _, in := range e.invites {
			if in.depositDue(d.address, now) && e.tokensReady(in, now) {
				at(d, func() job { return e.deposit(in) })
			}
		}
		for _, a := range e.accepts {
			if a.replyDue(d.address, now) {
				at(d, func() job { return e.deliverReply(a) })
			}
		}
	}
	var reachable, waiting []*contact
	for _, c := range e.contacts {
		if c.state == contactActive && w.takes(c) {
			reachable = append(reachable, c)
			offers = append(offers, func() (job, bool) { return e.putNew(c, w, now) })
			if e.ackOverdue(c, w, now) {
				waiting = append(waiting, c)
			}
		}
	}
	if len(waiting) > 0 && (w.cover || slices.ContainsFunc(reachable, func(c *contact) bool { return w.aimNext(c) != nil && e.hasNew(c, now) })) {
		for _, c := range waiting {
			offers = append(offers, func() (job, bool) { return e.putAck(c, w, now) })
		}
	}
	e.rng.Shuffle(len(offers), func(i, j int) { offers[i], offers[j] = offers[j], offers[i] })
	offers = append(offers, func() (job, bool) { return e.putAgain(reachable, w, now) })
	if e.rng.IntN(rewriteShare) == 0 {
		slices.Reverse(offers)
	}
	for _, o := range offers {
		if j, ok := o(); ok {
			return j, true
		}
	}
	// Nobody has anything to say. An acknowledgement alone takes the place of a cover box and of nothing else, so
	// that the store sees no more boxes than without.
	if !w.cover && e.profile.Load().CoverPut > 0 {
		return job{}, false
	}
	if j, ok := e.leaveTokens(w, true, now); ok {
		return j, true
	}
	e.rng.Shuffle(len(reachable), func(i, j int) { reachable[i], reachable[j] = reachable[j], reachable[i] })
	for _, c := range reachable {
		if c.lost() || !c.roomForBox(maxUnacked) || w.aimNext(c) == nil {
			continue
		}
		if now.After(c.headsDue) && !c.headsDue.IsZero() && c.waits() < maxSummaries {
			if j, ok := e.putHeads(c, w, now); ok {
				return j, true
			}
		}
		if !c.ackDue.IsZero() && now.After(c.ackDue) {
			return e.putAck(c, w, now)
		}
	}
	if j, ok := e.putSigns(reachable, w, now); ok {
		return j, true
	}
	return e.leaveTokens(w, false, now)
}

// ackOverdue tells whether an acknowledgement to c has waited for a place of cover for so long that c is about to write its box a second
// time. So long it waits only where each slot has something to carry, new or again: it has a turn among what is new then. No box more is written for it: it
// saves that second copy. Were it to wait on, he who writes much would never acknowledge what he is told, be told it all twice, and again,
// and those rewrites would take the slots of what is new at the other end, which so has no slot for its acknowledgements either.
func (e *Engine) ackOverdue(c *contact, w *where, now time.Time) bool {
	p := e.profile.Load()
	return !c.ackDue.IsZero() && now.After(c.ackDue.Add(max(p.SecondCopy/2-p.AckDelay, 0))) && !c.lost() && c.roomForBox(maxUnacked) && w.aimNext(c) != nil
}

// putAck seals a box with an acknowledgement alone.
func (e *Engine) putAck(c *contact, w *where, now time.Time) (job, bool) {
	f := e.blank(c, now).begin()
	e.addSigns(c, f, now)
	return e.seal(c, f, w, now)
}

// roomForBox tells whether the next index is less than ahead above the lowest that the peer lacks.
func (c *contact) roomForBox(ahead uint64) bool {
	return c.pair.Index() < c.peerNext+ahead
}

// maxSummaries is how many boxes a peer may have to acknowledge before it is sent no more summaries: a peer that is
// off does not gather them, and a mailbox that hides one of them from it does not hide all.
const maxSummaries = 3

// waits counts the boxes that the peer has to acknowledge.
func (c *contact) waits() (n int) {
	for _, b := range c.boxes {
		if b.eliciting {
			n++
		}
	}
	return n
}

// gaveUp tells whether the peer waits for a box that will not come, and is to be told so: its lowest index is none
// that we would still write.
func (c *contact) gaveUp(now time.Time) bool {
	return !c.floorDue.After(now) && c.lowest() > c.peerNext
}

// rewriteShare is one in how many PUTs goes to a rewrite while there is something new, of whichever contact: a second copy can wait, but not
// for ever. Were it for each contact alone, what waits for acknowledgements that are late would take the slots of what is new, which then
// is late itself, and its acknowledgements.
const rewriteShare = 4

// putNew finds something new for one contact.
func (e *Engine) putNew(c *contact, w *where, now time.Time) (job, bool) {
	hold := e.holdForKeys(c, now)
	if c.recovery != nil {
		if j, ok := e.putRecovery(c, w, now); ok || c.lost() {
			return j, ok
		}
	}
	next := w.aimNext(c) != nil
	fresh := next && !hold && c.roomForBox(maxUnacked) && e.hasNew(c, now)
	if next && !fresh && c.gaveUp(now) && c.roomForBox(maxAhead) {
		f := e.blank(c, now).begin()
		f.eliciting = true
		e.addSigns(c, f, now)
		return e.seal(c, f, w, now)
	}
	if !fresh {
		return job{}, false
	}
	f, err := e.nextBox(c, now)
	if err != nil {
		e.warn("a box for a contact could not be filled", err)
		return job{}, false
	}
	if f == nil {
		return job{}, false
	}
	if !f.eliciting {
		// Nothing of it can ever be sent: only the outbox changes.
		if err := e.kv.Update(func(txn store.Txn) error { return e.writeFilling(txn, c, f, c.pair) }); err != nil {
			e.warn("dropping outbox items", err)
			return job{}, false
		}
		return job{}, false
	}
	return e.seal(c, f, w, now)
}

// putAgain finds a rewrite that is due, of any of some contacts.
func (e *Engine) putAgain(of []*contact, w *where, now time.Time) (job, bool) {
	of = slices.Clone(of)
	e.rng.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	for _, c := range of {
		if c.lost() {
			continue
		}
		if due := c.dueBox(w, now); due != nil {
			if j, ok := e.rewrite(c, due, w, now); ok {
				return j, true
			}
		}
	}
	return job{}, false
}

// hasNew tells whether something waits that is in no box yet.
func (e *Engine) hasNew(c *contact, now time.Time) bool {
	if c.fragments > 0 || c.wantDue(now) || e.fileQuestions(c, now) {
		return true
	}
	some := false
	err := e.kv.View(func(r store.Reader) error {
		var err error
		some, err = store.Untaken(r, string(c.name), 0)
		return err
	})
	if err != nil {
		e.warn("reading the outbox", err)
	}
	return some
}

// filling is what one box is going to hold, and what that changes on disk.
type filling struct {
	head      bundle.Head
	pair      ratchet.Pair // the streams with the step that head has
	packer    *bundle.Packer
	eliciting bool     // the peer will acknowledge it
	once      bool     // it will not, and need not
	full      bool     // more waits than there was room for
	whole     []uint64 // items that are whole in this box
	pieces    []fragmentKey
	dropped   []uint64 // items that can never be sent
	split     uint64   // an item that was cut: its seq
	cut       []bundle.Fragment
	given     []onionid.Name
	asked     []*want
	turns     [2]uint64    // of each class, the lane that had the last turn
	sources   *toldSources // what c is told of whose events we get from themselves
	questions []media.Ask
	files     []gave
	signs     *room.Signs // what c is told of who is here
}

// begin makes the packer of a box that holds little.
func (f *filling) begin() *filling {
	f.packer = bundle.NewPacker(f.head)
	return f
}

// fill chooses what goes into c's next box. It writes nothing.
func (e *Engine) fill(c *contact, now time.Time) (*filling, error) {
	f := e.blank(c, now)
	var prefix []func(*bundle.Packer) bool // what stands in the box before the items
	add := func(fn func(*bundle.Packer) bool) bool {
		if p := bundle.NewPacker(f.head); !addAll(p, prefix) || !fn(p) {
			return false
		}
		prefix = append(prefix, fn)
		f.eliciting = true
		return true
	}
	entries, err := e.entries(c, f)
	if err != nil {
		return nil, err
	}
	all := len(entries)
	// A long record and short ones share the stream by lot, so that neither waits for the other's end.
	if c.fragments > 0 && (len(entries) == 0 || e.rng.IntN(2) == 0) {
		if err := e.addFragments(c, f, add); err != nil {
			return nil, err
		}
	}
	for _, r := range e.wantRecords(c, f, now) {
		add(func(p *bundle.Packer) bool { return p.Add(r) })
	}
	e.addSources(c, f, func(r bundle.Record) bool { return add(func(p *bundle.Packer) bool { return p.Add(r) }) }, now)
	e.addQuestions(c, f, now, add)
	for ; len(entries) > 0; entries = entries[1:] {
		// The longest beginning of entries that fits.
		for n := len(entries); n > 0; n = n * 2 / 3 {
			records, given := e.records(c, entries[:n])
			p := bundle.NewPacker(f.head)
			if addAll(p, prefix) && addRecords(p, records) {
				f.packer, f.given, f.eliciting = p, given, true
				f.full = f.full || n < all
				for _, en := range entries[:n] {
					f.whole = append(f.whole, en.seq)
					f.turns[en.class] = en.lane
				}
				e.addSigns(c, f, now)
				e.addParts(c, f, now)
				return f, nil
			}
		}
		if len(prefix) == 0 && f.head.KEM == nil && c.fragments == 0 {
			return f, e.split(c, f, entries[0])
		}
		// The first has to wait for a box of its own, or for its turn to be cut; others need not.
	}
	if len(prefix) == 0 && c.fragments > 0 {
		if err := e.addFragments(c, f, add); err != nil {
			return nil, err
		}
	}
	f.packer = bundle.NewPacker(f.head)
	addAll(f.packer, prefix)
	e.addSigns(c, f, now)
	e.addParts(c, f, now)
	return f, nil
}

func addAll(p *bundle.Packer, fns []func(*bundle.Packer) bool) bool {
	for _, fn := range fns {
		if !fn(p) {
			return false
		}
	}
	return true
}

func addRecords(p *bundle.Packer, rs []bundle.Record) bool {
	for _, r := range rs {
		if !p.Add(r) {
			return false
		}
	}
	return true
}

// split deals with an item that no box holds whole: it is cut, and the first piece goes into this box. Only one
// record of a contact is in pieces at a time: that bounds what the peer must keep.
func (e *Engine) split(c *contact, f *filling, en entry) error {
	f.packer = bundle.NewPacker(f.head)
	records, given := e.records(c, []entry{en})
	if len(given) > 0 {
		// The certificate goes ahead in a box of its own.
		f.given, f.eliciting = given, addRecords(f.packer, records[:len(records)-1])
		return nil
	}
	var id [16]byte
	rand.Read(id[:])
	cut, err := bundle.Split(records[len(records)-1], id)
	if err != nil {
		// Larger than any record may be: it can not be sent at all.
		e.counts.unsent.Add(1)
		f.dropped = append(f.dropped, en.seq)
		return nil
	}
	f.split, f.cut = en.seq, cut
	f.turns[en.class] = en.lane
	if !f.packer.AddFragment(cut[0]) {
		return fmt.Errorf("%w: a fragment does not fit an empty bundle", bundle.ErrTooLarge)
	}
	f.eliciting = true
	return nil
}
