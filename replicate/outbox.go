// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/matrix"
	"tarn/media"
	"tarn/room"
	"tarn/store"
)

// Bounds of one packing: what is read at most to fill one box.
const (
	packItems = 64       // outbox items
	packBytes = 40 << 10 // of events before compression; bundle.MaxInflated bounds them anyway
	packWants = 64       // events asked for in one box
	bulkShare = 4        // one in how many boxes begins with what nobody waits for
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
	var reachable []*contact
	for _, c := range e.contacts {
		if c.state == contactActive && w.takes(c) {
			reachable = append(reachable, c)
			offers = append(offers, func() (job, bool) { return e.putNew(c, w, now) })
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
			f := e.blank(c, now).begin()
			e.addSigns(c, f, now)
			return e.seal(c, f, w, now)
		}
	}
	if j, ok := e.putSigns(reachable, w, now); ok {
		return j, true
	}
	return e.leaveTokens(w, false, now)
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
	f, err := e.fill(c, now)
	if err != nil {
		e.warn("a box for a contact could not be filled", err)
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

// fragmentKey names a row of tableFragment.
type fragmentKey struct{ seq, index uint64 }

// entry is one outbox item, ready to be packed.
type entry struct {
	seq    uint64
	class  byte          // and lane, in the outbox
	lane   uint64        // of those that have turns
	room   matrix.RoomID // of an event; the record is made once it is known which events share it
	raw    []byte
	signed []onionid.Name // the servers whose certificates it takes to check it
	record *bundle.Record
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

// entries reads the next items: of each room, and of each kind of other things, one after the other, so that many of one do not keep back the
// others; what nobody waits for behind what somebody does, but for one box in bulkShare.
func (e *Engine) entries(c *contact, f *filling) (out []entry, err error) {
	type candidate struct {
		store.Item
		class byte
		lane  uint64
	}
	var all []candidate
	err = e.kv.View(func(r store.Reader) error {
		classes := []byte{store.Urgent, store.Bulk}
		if e.rng.IntN(bulkShare) == 0 {
			slices.Reverse(classes)
		}
		for _, class := range classes {
			items, lanes, err := store.Next(r, string(c.name), class, c.turns[class], packItems-len(all))
			if err != nil {
				return err
			}
			for i, it := range items {
				all = append(all, candidate{it, class, lanes[i]})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	size := 0
	for _, it := range all {
		en, err := e.entry(c, it.Item)
		switch {
		case errors.Is(err, errHeld):
			f.dropped = append(f.dropped, it.Seq)
		case errors.Is(err, errUnsendable):
			e.counts.unsent.Add(1)
			f.dropped = append(f.dropped, it.Seq)
		case err != nil:
			if len(out) == 0 && len(f.dropped) == 0 {
				return nil, fmt.Errorf("read an outbox item: %w", err)
			}
			return out, nil // it waits; those before it can go
		default:
			n := len(en.raw)
			if en.record != nil {
				n = len(en.record.Data)
			}
			if size += n; size > packBytes && len(out) > 0 {
				return out, nil
			}
			en.class, en.lane = it.class, it.lane
			out = append(out, en)
		}
	}
	return out, nil
}

// errHeld: the contact has shown meanwhile that it has the event.
var errHeld = errors.New("replicate: the contact has it")

// errUnsendable: what the item names does not exist (any more), or the item is malformed.
var errUnsendable = errors.New("replicate: nothing to send")

func (e *Engine) entry(c *contact, it store.Item) (entry, error) {
	switch it.Kind {
	case store.ItemRecord:
		if len(it.Data) == 0 {
			return entry{}, errUnsendable
		}
		return entry{seq: it.Seq, record: &bundle.Record{Type: bundle.Type(it.Data[0]), Data: it.Data[1:]}}, nil
	case store.ItemMessage, store.ItemAsk:
		rec, err := encodeItem(it)
		if err != nil {
			return entry{}, errUnsendable
		}
		return entry{seq: it.Seq, record: &rec}, nil
	case store.ItemQuestion, store.ItemAnswer, store.ItemOlder:
		rec, err := e.encodeAsking(c, it)
		if err != nil {
			return entry{}, err
		}
		return entry{seq: it.Seq, record: &rec}, nil
	case store.ItemEvent, store.ItemHistory, store.ItemInvite:
		roomID, id, ok := bytes.Cut(it.Data, []byte{0})
		if !ok {
			return entry{}, errUnsendable
		}
		if it.Kind != store.ItemInvite {
			if c.relay.shown.has(matrix.EventID(id)) {
				return entry{}, errHeld
			}
			raw, err := e.rooms.RawFor(c.name, matrix.RoomID(roomID), matrix.EventID(id))
			if gone(err) {
				return entry{}, errUnsendable
			}
			if err != nil {
				return entry{}, err
			}
			if _, err := encodeEvents(matrix.RoomID(roomID), [][]byte{raw}); err != nil {
				return entry{}, errUnsendable
			}
			c.relay.sent.add(matrix.EventID(id))
			return entry{seq: it.Seq, room: matrix.RoomID(roomID), raw: raw, signed: signers(raw)}, nil
		}
		s, err := e.rooms.Snapshot(matrix.RoomID(roomID), matrix.EventID(id))
		if gone(err) {
			return entry{}, errUnsendable
		}
		if err != nil {
			return entry{}, err
		}
		rec, err := encodeSnapshot(s)
		if err != nil {
			return entry{}, errUnsendable // larger than a record may be
		}
		return entry{seq: it.Seq, record: &rec}, nil
	}
	return entry{}, errUnsendable
}

func gone(err error) bool {
	return errors.Is(err, room.ErrUnknownEvent) || errors.Is(err, room.ErrUnknownRoom) || errors.Is(err, room.ErrLargeRoom)
}

// signers are the servers of an event's sender, and of who let it in by a restricted join; none if the bytes do not say.
func signers(raw []byte) (out []onionid.Name) {
	var ev struct {
		Sender  matrix.UserID `json:"sender"`
		Content struct {
			By matrix.UserID `json:"join_authorised_via_users_server"`
		} `json:"content"`
	}
	_ = json.Unmarshal(raw, &ev) // a field of another kind stays empty
	for _, u := range []matrix.UserID{ev.Sender, ev.Content.By} {
		if n, err := onionid.Parse(u.Homeserver()); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// records makes the records of some entries: before them the certificates of servers that are neither of the two
// ends and that the peer was not given yet; the events of one room together, each kind in the order of the outbox.
func (e *Engine) records(c *contact, entries []entry) (out []bundle.Record, given []onionid.Name) {
	var rooms []matrix.RoomID
	events := map[matrix.RoomID][][]byte{}
	var others []bundle.Record
	for _, en := range entries {
		if en.record != nil {
			others = append(others, *en.record)
			continue
		}
		for _, a := range en.signed {
			if a == e.self.Name || a == c.name || c.given[a] || slices.Contains(given, a) {
				continue
			}
			if cert, ok, err := e.rooms.Certificate(a); err == nil && ok {
				out = append(out, bundle.Record{Type: bundle.TypeCertificate, Data: cert.Bytes()})
				given = append(given, a)
			}
		}
		if events[en.room] == nil {
			rooms = append(rooms, en.room)
		}
		events[en.room] = append(events[en.room], en.raw)
	}
	out = append(out, others...)
	for _, r := range rooms {
		if rec, err := encodeEvents(r, events[r]); err == nil { // each event passed alone, and they are few
			out = append(out, rec)
		}
	}
	return out, given
}

// addFragments puts the next waiting fragments into a box.
func (e *Engine) addFragments(c *contact, f *filling, add func(func(*bundle.Packer) bool) bool) error {
	err := e.kv.View(func(r store.Reader) error {
		return scanOf(r, tableFragment, string(c.name), func(k *store.KeyReader, v []byte) error {
			key := fragmentKey{k.Uint64(), k.Uint64()}
			fr, err := parseFragment(v)
			if err != nil || k.Err() != nil {
				return errors.Join(err, k.Err())
			}
			fr.Data = bytes.Clone(fr.Data)
			if !add(func(p *bundle.Packer) bool { return p.AddFragment(fr) }) {
				return errStop
			}
			f.pieces = append(f.pieces, key)
			return nil
		})
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// errStop ends a scan that has what it wants.
var errStop = errors.New("replicate: enough")
