// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"tarn/crypto/ratchet"
	"tarn/mailbox"
	"tarn/store"
)

// A node that was restored from a backup has forgotten which indices it used since: it must not seal one more box in the
// streams that it knows. So it asks each contact for new ones, in a box whose id both can derive for every day, and the
// contact answers in another. SPEC §7.10.
//
// Write order. MarkRestored is durable before the engine is made; New makes a request for each contact, durable before
// the mark goes; from then on the contact's row in tableRecovery forbids sealing (asking), until the Update that keeps
// the answer's root, with the old streams deleted. The contact that answers keeps its old streams until the first box of the
// new epoch comes: a request that somebody writes a second time changes nothing.

// ErrRestored: the streams of a restored backup are not to be used.
var ErrRestored = errors.New("replicate: this node was restored from a backup; the contact has not answered with new keys yet")

// recovery is one that is under way. Guarded by the engine's mutex.
type recovery struct {
	asking  bool // it has our request; else our answer
	lost    bool // we lost the streams: nothing may be sealed in them. So too after an answer, when both ends lost them
	created time.Time
	day     uint32 // of the box's place
	try     byte
	offer   ratchet.Offer // asking: the private half of request
	request []byte        // asking: what was sealed, with its signature
	sealed  []byte        // request or answer for the contact's key
	box     *box          // where it lies: not in c.boxes
	bytes   []byte        // its bytes
}

// recoveryRow is what is on disk of it.
func (r *recovery) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.flag(r.asking)
	w.flag(r.lost)
	w.time(r.created)
	w.uvarint(uint64(r.day))
	w.u8(r.try)
	w.raw(r.offer.Bytes())
	w.bytes(r.request)
	w.bytes(r.sealed)
	w.raw(r.box.id[:])
	w.raw(r.bytes)
	return w.b
}

func parseRecovery(b []byte) (*recovery, error) {
	r := reader{b: b}
	r.version()
	v := &recovery{asking: r.flag(), lost: r.flag(), created: r.time()}
	day := r.uvarint()
	v.day, v.try = uint32(day), r.u8()
	offer := r.raw(32)
	v.request, v.sealed = slices.Clone(r.bytes(mailbox.PayloadSize)), slices.Clone(r.bytes(mailbox.PayloadSize))
	v.box = &box{}
	copy(v.box.id[:], r.raw(mailbox.IDSize))
	v.bytes = slices.Clone(r.raw(mailbox.BoxSize))
	if day > math.MaxUint32 || v.try >= recoveryTries {
		r.bad = true
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	v.box.place = sha256.Sum256(v.box.id[:])
	var err error
	v.offer, err = ratchet.ParseOffer(offer)
	return v, err
}

// asking tells whether the contact has to answer us; lost, whether nothing may be sealed for it.
func (c *contact) asking() bool { return c.recovery != nil && c.recovery.asking }

func (c *contact) lost() bool { return c.recovery != nil && c.recovery.lost }

// lay puts a recovery's message into the place of a day.
func (c *contact) lay(r *recovery, day uint32, try byte) error {
	at := recoveryPlace(c.recoverySecret, c.initiator, day, try)
	b, err := at.sealRandom(r.sealed)
	if err != nil {
		return err
	}
	r.day, r.try, r.bytes = day, try, b
	r.box = &box{id: at.id, place: sha256.Sum256(at.id[:])}
	return nil
}

// MarkRestored says in a database that it was restored from a backup. The next New begins the recoveries.
func MarkRestored(kv store.KV) error {
	return kv.Update(func(txn store.Txn) error { return txn.Set(store.Key(tableRestored), []byte{rowVersion}) })
}

// beginRecoveries makes a request for each contact if the database was restored. Links under way are given up: of one that
// was answered since the backup the streams would begin a second time, from the same root. And the wallet is thrown away.
func (e *Engine) beginRecoveries(now time.Time) error {
	mark := store.Key(tableRestored)
	err := e.kv.View(func(r store.Reader) error { _, err := r.Get(mark); return err })
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// Nobody knows which one-time keys were given since the backup.
	if e.accounts != nil {
		if err := e.accounts.ForgetOneTimeKeys(now); err != nil {
			return fmt.Errorf("forget one-time keys: %w", err)
		}
	}
	for _, c := range e.contacts {
		if err := e.ask(c, now); err != nil {
			return fmt.Errorf("ask a contact for new keys: %w", err)
		}
	}
	if err := e.kv.Update(func(txn store.Txn) error {
		for v, in := range e.invites {
			if in.failed != "" {
				continue
			}
			if in.peer != "" {
				if err := txn.Delete(store.Key(tableInvite, v[:])); err != nil {
					return err
				}
				continue
			}
			next := *in
			next.failed = "A backup was restored since this link was made; make a new one."
			if err := txn.Set(store.Key(tableInvite, v[:]), next.marshal()); err != nil {
				return err
			}
		}
		for v, a := range e.accepts {
			if !a.open() {
				continue // a reply that was delivered is the same as before
			}
			if a.from != "" {
				if err := txn.Delete(store.Key(tableAccept, v[:])); err != nil {
					return err
				}
				continue
			}
			next := *a
			next.state, next.reason = acceptFailed, "A backup was restored since this link was accepted; ask for a new one."
			next.reply, next.root, next.numberKey = nil, ratchet.Root{}, [32]byte{}
			if err := txn.Set(store.Key(tableAccept, v[:]), next.marshal()); err != nil {
				return err
			}
		}
		return errors.Join(e.eraseWallet(txn, now), txn.Delete(mark))
	}); err != nil {
		return err
	}
	e.walletErased(now)
	for v, in := range e.invites {
		if in.failed != "" {
			continue
		}
		if in.peer != "" { // no person waits for it: it is made anew
			delete(e.expected, in.reply().id.Handle())
			delete(e.invites, v)
			continue
		}
		in.failed = "A backup was restored since this link was made; make a new one."
		delete(e.expected, in.reply().id.Handle()) // its answer begins streams that may have begun before
	}
	for v, a := range e.accepts {
		if !a.open() {
			continue
		}
		if a.from != "" {
			delete(e.accepts, v)
			continue
		}
		a.state, a.reason = acceptFailed, "A backup was restored since this link was accepted; ask for a new one."
		a.reply, a.root, a.numberKey = nil, ratchet.Root{}, [32]byte{}
	}
	return nil
}

// ask makes a request. It is durable when ask returns; the old streams are not used from then on.
func (e *Engine) ask(c *contact, now time.Time) error {
	offer, err := ratchet.NewOffer()
	if err != nil {
		return err
	}
	public, err := offer.Public()
	if err != nil {
		return err
	}
	body := append(binary.BigEndian.AppendUint64([]byte{contactVersion}, uint64(now.Unix())), public...)
	r := &recovery{asking: true, lost: true, created: now, offer: offer}
	if r.request, r.sealed, err = e.sealSigned(c, labelRequest, body); err != nil {
		return err
	}
	if err := c.lay(r, mailbox.Epoch(now), 0); err != nil {
		return err
	}
	if err := e.saveRecovery(c, r); err != nil {
		return err
	}
	r.box.due = now
	c.recovery = r
	return nil
}

func (e *Engine) saveRecovery(c *contact, r *recovery) error {
	return e.kv.Update(func(txn store.Txn) error {
		return txn.Set(store.Key(tableRecovery, string(c.name)), r.marshal())
	})
}

// putRecovery writes the request or the answer, again and again until the other end shows that it was read. What lies
// long, or finds its place taken (by another restored backup, on the same day), is laid elsewhere first.
func (e *Engine) putRecovery(c *contact, w *where, now time.Time) (job, bool) {
	r := c.recovery
	if r.box.busy || r.box.due.After(now) || w.aim(c, r.box) == nil {
		return job{}, false
	}
	today := mailbox.Epoch(now)
	moved := *r
	var err error
	switch {
	case r.box.exists > 0 && r.try+1 < recoveryTries:
		err = c.lay(&moved, r.day, r.try+1)
	case r.box.exists > 0 && r.day >= today:
		return job{}, false // tomorrow
	case r.box.exists > 0, today >= r.day+recoveryDays/2:
		err = c.lay(&moved, today, 0)
	}
	if err == nil && moved.box != r.box {
		if err = e.saveRecovery(c, &moved); err == nil {
			moved.box.due = now
			*r = moved
		}
	}
	if err != nil {
		e.warn("laying a recovery elsewhere", err)
		return job{}, false
	}
	return e.putJob(c, r.box, (*[mailbox.BoxSize]byte)(r.bytes), w), true
}

// expectRecovery puts the places of the contact's requests and answers into the engine's map: of the days that a store
// keeps, and tomorrow. It is called once a day.
func (e *Engine) expectRecovery(c *contact, now time.Time) {
	if len(c.peerKey) == 0 {
		return
	}
	for h, r := range e.expected {
		if r.contact == c && r.recovery != nil {
			delete(e.expected, h)
		}
	}
	c.recoveryDay = mailbox.Epoch(now)
	for day := c.recoveryDay - min(c.recoveryDay, recoveryDays); day <= c.recoveryDay+1; day++ {
		for try := range byte(recoveryTries) {
			at := recoveryPlace(c.recoverySecret, !c.initiator, day, try)
			e.expected[at.id.Handle()] = ref{contact: c, recovery: &at}
		}
	}
}

// openRecovery reads a box at such a place. What is not authentic, not for us, or of before is passed over for good.
func (e *Engine) openRecovery(st *depot, t *todo, got *[mailbox.BoxSize]byte) error {
	c := t.contact
	content, err := t.recovery.openRandom(got)
	if errors.Is(err, errBadBox) {
		return err
	}
	now := time.Now()
	done := func(txn store.Txn) error { return txn.Delete(todoKey(st, t.handle)) }
	if err == nil {
		var b []byte
		if b, err = e.openSigned(c, labelAnswer, content, answerSize); err == nil {
			err = e.takeAnswer(c, b[:answerSize], now, done)
		} else if b, err = e.openSigned(c, labelRequest, content, requestSize); err == nil {
			err = e.takeRequest(c, b, now, done)
		}
	}
	switch {
	case errors.Is(err, ErrPayload), errors.Is(err, ratchet.ErrBlock):
		e.log.Debug("a recovery that is of no use", "err", err)
		if err := e.kv.Update(done); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	delete(st.todo, t.handle)
	delete(e.expected, t.handle) // until the day changes; a request of before is known by its time
	return nil
}

// errStale: a message of a recovery that is over.
var errStale = fmt.Errorf("%w: it is of before", ErrPayload)

// takeRequest answers a contact that has lost our streams. If both lost them, the initiator's request counts. ONE Update:
// the streams with the new epoch to come, the sealed answer, and the request's time, before which none is answered again.
func (e *Engine) takeRequest(c *contact, signed []byte, now time.Time, done func(store.Txn) error) error {
	body := signed[:requestSize]
	at := binary.BigEndian.Uint64(body[1:])
	if at > maxUnix || !time.Unix(int64(at), 0).After(c.recovered) || c.asking() && c.initiator {
		return errStale
	}
	newest := uint64(max(c.pair.Newest(), c.pair.Epoch()))
	number := max(at, uint64(now.Unix()), newest+1)
	if number >= math.MaxUint32 {
		return fmt.Errorf("%w: no epoch is left", ErrPayload)
	}
	epoch := uint32(number)
	ct, root, err := ratchet.AnswerOffer(c.recoverySecret, epoch, !c.initiator, body[9:])
	if err != nil {
		return err
	}
	hash := sha256.Sum256(signed)
	answer := binary.BigEndian.AppendUint64([]byte{contactVersion}, uint64(now.Unix()))
	answer = slices.Concat(binary.BigEndian.AppendUint32(answer, epoch), hash[:], ct)
	r := &recovery{created: now, lost: c.lost()}
	if _, r.sealed, err = e.sealSigned(c, labelAnswer, answer); err != nil {
		return err
	}
	try := byte(0)
	if old := c.recovery; old != nil && old.day == mailbox.Epoch(now) {
		try = min(old.try+1, recoveryTries-1) // our own box lies in the first place
	}
	if err := c.lay(r, mailbox.Epoch(now), try); err != nil {
		return err
	}
	pair := c.pair.Rescued(root, epoch, now)
	row := c.contactRow
	row.recovered, row.rescued = time.Unix(int64(at), 0), epoch
	if err := e.kv.Update(func(txn store.Txn) error {
		return errors.Join(done(txn),
			txn.Set(store.Key(tableStreams, string(c.name)), streamsRow(pair, c.ackSent)),
			txn.Set(store.Key(tableContact, string(c.name)), row.marshal()),
			txn.Set(store.Key(tableRecovery, string(c.name)), r.marshal()),
			forgetToldOf(txn, c), forgetSources(txn, c))
	}); err != nil {
		return fmt.Errorf("answer a contact that was restored: %w", err)
	}
	old := c.pair
	c.pair, c.contactRow = pair, row
	c.keys.again()
	c.relay.told.hash = [32]byte{}
	c.recovery = r
	r.box.due = now
	e.moved(c, old)
	return nil
}

// takeAnswer begins the new streams. ONE Update: the new pair in place of the old one, and the request's end with its key.
func (e *Engine) takeAnswer(c *contact, body []byte, now time.Time, done func(store.Txn) error) error {
	r := c.recovery
	at, epoch, hash, ct := binary.BigEndian.Uint64(body[1:]), binary.BigEndian.Uint32(body[9:]), body[13:45], body[45:]
	if !c.asking() || at > maxUnix {
		return errStale
	}
	if sum := sha256.Sum256(r.request); !bytes.Equal(sum[:], hash) {
		return errStale
	}
	if epoch <= c.pair.Epoch() {
		return fmt.Errorf("%w: an epoch of before", ErrPayload)
	}
	root, err := r.offer.Root(c.recoverySecret, epoch, c.initiator, ct)
	if err != nil {
		return err
	}
	pair := ratchet.NewPair(root, epoch, c.initiator, now)
	row := c.contactRow
	row.recovered, row.rescued, row.peerNext, row.lastHeard = time.Unix(int64(at), 0), epoch, 0, now
	if err := e.kv.Update(func(txn store.Txn) error {
		return errors.Join(done(txn),
			txn.Set(store.Key(tableStreams, string(c.name)), streamsRow(pair, [32]byte{})),
			txn.Set(store.Key(tableContact, string(c.name)), row.marshal()),
			txn.Delete(store.Key(tableRecovery, string(c.name))),
			forgetToldOf(txn, c), forgetSources(txn, c))
	}); err != nil {
		return fmt.Errorf("keep a contact's new keys: %w", err)
	}
	old := c.pair
	c.pair, c.contactRow, c.recovery = pair, row, nil
	c.relay.told.hash = [32]byte{}
	c.ackSent = [32]byte{}
	e.moved(c, old)
	e.renewed(c, now)
	return nil
}

// renewed follows the end of a recovery: what was sealed before is sealed anew, the other end gets a box as soon as may
// be, and what either lacks of the rooms shows in a summary.
func (e *Engine) renewed(c *contact, now time.Time) {
	c.highAcked, c.floorTold = 0, 0
	for _, b := range c.boxes {
		b.due = now
	}
	c.ackDue, c.headsDue = now, now
	c.keys.again()
}

// unreadable tells whether a box was sealed in streams that the other end has lost, or that we had lost.
func (c *contact) unreadable(b *box) bool { return b.epoch < c.rescued && c.pair.Epoch() >= c.rescued }

// recoveryReason is the state of a recovery in words for people; "" if there is none.
func (c *contact) recoveryReason(now time.Time) string {
	switch {
	case c.asking():
		return "This node was restored from a backup: it waits for new keys from the other one, which must be on line once. Nothing can be sent until then; what waits is not lost."
	case c.lost():
		return "Both nodes were restored from backups: new keys are being agreed on."
	case c.recovery != nil:
		return "The other node was restored from a backup; our new keys for it are in the mailbox."
	case !c.recovered.IsZero() && now.Sub(c.recovered) < 7*24*time.Hour:
		return "Restored from a backup on " + c.recovered.UTC().Format(time.DateOnly) + "; new keys are in use, and what is missing comes again."
	}
	return ""
}
