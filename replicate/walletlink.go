// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/store"
)

// The first tokens of a contact. Who follows a link must leave its answer, and the first boxes of the stream, at the
// inviter's mailbox; so beside the link's payload waits a box with tokens for each day until the link expires. They are not in
// the payload: that exists from the moment when the link is made, perhaps before there is a token at all. And they are
// not in one box: the payload waits for today's only, so that a link of a node that has just begun can be followed soon.
const (
	labelTokens    = "tarn/1 invitation tokens"
	labelTokensID  = "tarn/1 invitation tokens id"
	labelTokensKey = "tarn/1 invitation tokens key"

	linkPace = 3 // frames between the boxes that the payload does not wait for
)

// tokensSecret follows from the payload's reply secret, as the reply's place does.
func tokensSecret(voucher, secret [32]byte) [32]byte {
	return [32]byte(derive(secret[:], voucher[:], labelTokens, 32))
}

// tokensPlace is the place of a day's box.
func tokensPlace(secret [32]byte, day uint32) place {
	d := binary.BigEndian.AppendUint32(nil, day)
	return place{mailbox.BoxID(derive(secret[:], d, labelTokensID, mailbox.IDSize)), [32]byte(derive(secret[:], d, labelTokensKey, 32))}
}

// linkChunk is a chunk in such a box.
type linkChunk struct {
	day     uint32
	seed    [32]byte
	outputs []byte
}

func (c linkChunk) marshal() []byte {
	w := writer{}
	w.u8(contactVersion)
	w.b = binary.BigEndian.AppendUint32(w.b, c.day)
	w.raw(c.seed[:])
	w.u8(byte(len(c.outputs) / token.OutputSize))
	w.raw(c.outputs)
	return w.b
}

func parseLinkTokens(b []byte) (c linkChunk, err error) {
	r := reader{b: b}
	if r.u8() != contactVersion {
		r.bad = true
	}
	var day [4]byte
	copy(day[:], r.raw(4))
	c.day, c.seed = binary.BigEndian.Uint32(day[:]), r.key32()
	n := int(r.u8())
	if n == 0 || n > token.Chunk {
		r.bad = true
	}
	c.outputs = r.raw(n * token.OutputSize)
	if r.end() != nil {
		return linkChunk{}, fmt.Errorf("%w: tokens", ErrPayload)
	}
	return c, nil
}

// linkPurse names the chunks that a link of ours shows, one of a day, which its follower gets once more in the stream when it
// is a contact. Guarded by the engine's mutex.
type linkPurse struct {
	store mailbox.Address
	held  []tokensHeld
}

type tokensHeld struct {
	day       uint32
	serial    uint64
	deposited bool // since the payload's turn began; not on the disk
}

func (l *linkPurse) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.str(string(l.store.Onion))
	w.uvarint(uint64(len(l.held)))
	for _, h := range l.held {
		w.uvarint(uint64(h.day))
		w.uvarint(h.serial)
	}
	return w.b
}

func parseLinkPurse(b []byte) (*linkPurse, error) {
	r := reader{b: b}
	r.version()
	l := &linkPurse{store: mailbox.Address{Onion: r.name()}}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		day := r.uvarint()
		if day > math.MaxUint32 {
			r.bad = true
		}
		l.held = append(l.held, tokensHeld{day: uint32(day), serial: r.uvarint()})
	}
	return l, r.end()
}

// of is what the link has for that day; nil: nothing.
func (l *linkPurse) of(day uint32) *tokensHeld {
	if l == nil {
		return nil
	}
	if i := slices.IndexFunc(l.held, func(h tokensHeld) bool { return h.day == day }); i >= 0 {
		return &l.held[i]
	}
	return nil
}

// linkStep holds a chunk for a day of a link of ours, once there is one; and hands on, or forgets, what was held for
// links that are over. The caller holds mu.
func (e *Engine) linkStep(now time.Time) bool {
	for v, l := range e.linkPurses {
		if e.invites[v] == nil && e.endLink(v, l) {
			return true
		}
	}
	for v, in := range e.invites {
		d := e.depots[in.store]
		if in.failed != "" || !now.Before(in.expiry) || d == nil || !d.wantsTokens() {
			continue
		}
		p, today := e.purse(in.store), mailbox.Epoch(now)
		for day := today; day <= min(mailbox.Epoch(in.expiry), today+mailbox.TokenDays); day++ {
			if e.linkPurses[v].of(day) != nil {
				continue
			}
			i := slices.IndexFunc(p.chunks[day], func(x *chunk) bool { return !x.given && !x.held && x.used == 0 })
			if i >= 0 && e.hold(in, p.chunks[day][i]) {
				if !in.busy && in.put {
					e.depositedOne(in, now)
				}
				return true
			}
		}
	}
	return false
}

// hold takes a chunk out of use, for a link, in ONE Update: what a link's box shows is spent by nobody else, and what is
// written again is the same.
func (e *Engine) hold(in *invite, x *chunk) bool {
	next := &linkPurse{store: in.store}
	if l := e.linkPurses[in.voucher]; l != nil {
		next.held = slices.Clone(l.held)
	}
	today := mailbox.Epoch(time.Now())
	next.held = slices.DeleteFunc(next.held, func(h tokensHeld) bool { return h.day < today })
	next.held = append(next.held, tokensHeld{day: x.day, serial: x.serial})
	at := chunkKey(tableChunk, in.store, x)
	if err := e.kv.Update(func(txn store.Txn) error {
		row, err := txn.Get(at)
		if err != nil {
			return err
		}
		c, seed, outputs, err := parseChunk(row)
		if err != nil {
			return err
		}
		c.held = true
		return errors.Join(txn.Set(at, chunkRow(&c, seed, outputs)), txn.Set(store.Key(tableTokenBox, in.voucher[:]), next.marshal()))
	}); err != nil {
		e.warn("keeping a link's tokens", err)
		return false
	}
	x.held = true
	e.linkPurses[in.voucher] = next
	return true
}

// endLink gives one held chunk to the contact that the link made, or forgets the link's purse when there is none left.
// Without a contact the chunks go: their boxes may be read by somebody.
func (e *Engine) endLink(voucher [32]byte, l *linkPurse) bool {
	p := e.purse(l.store)
	for _, c := range e.contacts {
		if c.voucher != voucher || !c.initiator || c.cut || c.draws(l.store) {
			continue
		}
		for _, h := range l.held {
			i := slices.IndexFunc(p.chunks[h.day], func(x *chunk) bool { return x.serial == h.serial })
			if i < 0 {
				continue
			}
			now := time.Now()
			if h.day > mailbox.Epoch(now) && c.giveAfter.After(now) || e.queued(c) >= giveQueue {
				return false
			}
			return e.give(c, p, p.chunks[h.day][i], tokensOf{l.store, h.day})
		}
	}
	if err := e.kv.Update(func(txn store.Txn) error {
		errs := []error{txn.Delete(store.Key(tableTokenBox, voucher[:]))}
		for _, h := range l.held {
			errs = append(errs, txn.Delete(chunkKey(tableChunk, l.store, &chunk{day: h.day, serial: h.serial})))
		}
		return errors.Join(errs...)
	}); err != nil {
		e.warn("forgetting a link's tokens", err)
		return false
	}
	for _, h := range l.held {
		p.chunks[h.day] = slices.DeleteFunc(p.chunks[h.day], func(x *chunk) bool { return x.serial == h.serial })
	}
	delete(e.linkPurses, voucher)
	return true
}

func (e *Engine) loadLinkPurses(r store.Reader) error {
	return scan(r, tableTokenBox, func(k *store.KeyReader, v []byte) error {
		id := k.String()
		l, err := parseLinkPurse(v)
		if err != nil || k.Err() != nil || len(id) != 32 {
			return errors.Join(ErrRow, err, k.Err())
		}
		e.linkPurses[[32]byte([]byte(id))] = l
		return nil
	})
}

// tokensReady tells whether a link's payload may be deposited: its follower finds tokens beside it, or needs none.
func (e *Engine) tokensReady(in *invite, now time.Time) bool {
	d := e.depots[in.store]
	return d != nil && (!d.wantsTokens() || e.linkPurses[in.voucher].of(mailbox.Epoch(now)) != nil)
}

// heldNext is the box of tokens that is written next for a link; nil: all are written. Today's goes before the payload,
// the others go after it.
func (e *Engine) heldNext(in *invite, now time.Time) *tokensHeld {
	l, today := e.linkPurses[in.voucher], mailbox.Epoch(now)
	if l == nil {
		return nil
	}
	if h := l.of(today); h != nil && !h.deposited {
		return h
	}
	if !in.put {
		return nil
	}
	for i := range l.held {
		if h := &l.held[i]; h.day > today && !h.deposited {
			return h
		}
	}
	return nil
}

// depositTokens writes such a box.
func (e *Engine) depositTokens(in *invite, h tokensHeld) job {
	at := tokensPlace(tokensSecret(in.voucher, in.replySecret), h.day)
	var box *[mailbox.BoxSize]byte
	err := e.kv.View(func(r store.Reader) error {
		row, err := r.Get(chunkKey(tableChunk, in.store, &chunk{day: h.day, serial: h.serial}))
		if err != nil {
			return err
		}
		_, seed, outputs, err := parseChunk(row)
		if err == nil {
			box, err = at.seal(linkChunk{h.day, seed, outputs}.marshal())
		}
		return err
	})
	in.busy = true
	return job{
		deposit: true,
		do: func(ctx context.Context, m Mailbox) error {
			if err != nil {
				return errors.Join(err, m.Nothing(ctx))
			}
			return m.Put(ctx, at.id, box, nil)
		},
		done: func(err error) {
			p, now := e.profile.Load(), time.Now()
			in.busy = false
			switch {
			case err == nil:
				if h := e.linkPurses[in.voucher].of(h.day); h != nil {
					h.deposited = true
				}
				e.depositedOne(in, now)
			case errors.Is(err, errNotSent):
				in.due = now
			default:
				in.attempts++
				in.due = now.Add(e.jitter(backoff(p.Frame, in.attempts, p.Retransmit)))
			}
		},
	}
}

// depositedOne says when a link's next box is due: today's tokens and the payload at once, the other days' at a pace, and
// all again later, in case the store lost them.
func (e *Engine) depositedOne(in *invite, now time.Time) {
	p := e.profile.Load()
	switch h := e.heldNext(in, now); {
	case !in.put || h != nil && h.day == mailbox.Epoch(now):
		in.due = now
	case h != nil:
		in.due = now.Add(e.jitter(linkPace * p.Frame))
	default: // all are there
		in.attempts++
		in.due = now.Add(e.jitter(backoff(p.Retransmit, in.attempts, p.RetransmitMax)))
	}
}

// lacksTokens tells whether who follows the link needs the box of tokens at that store now.
func (e *Engine) lacksTokens(a *accept, d *depot, now time.Time) bool {
	return a.state == acceptReplying && a.link.Store == d.address && a.tokens != [32]byte{} && !a.busy && !a.tokensAfter.After(now) &&
		d.wantsTokens() && !e.canPay(d, now) && !e.mayBeShown(mailbox.Epoch(now))
}

// fetchTokens reads today's.
func (e *Engine) fetchTokens(a *accept) job {
	a.busy = true
	day := mailbox.Epoch(time.Now())
	at := tokensPlace(a.tokens, day)
	var got *[mailbox.BoxSize]byte
	return job{
		do: func(ctx context.Context, m Mailbox) (err error) {
			got, err = m.Get(ctx, at.id.Handle())
			return err
		},
		done: func(err error) {
			p, now := e.profile.Load(), time.Now()
			a.busy = false
			if err == nil {
				var content []byte
				if content, err = at.open(got); err == nil {
					err = e.keepTokens(a.link.Store, day, content, false)
				}
			}
			if err != nil { // not deposited yet, or the store does not answer
				if !errors.Is(err, errNotSent) {
					a.tokensTries++
				}
				a.tokensAfter = now.Add(e.jitter(backoff(2*p.Frame, a.tokensTries, p.Retransmit)))
				return
			}
			a.tokensAfter = now.Add(e.jitter(p.Retransmit))
		},
	}
}

// keepTokens keeps a day's chunk that was found in a box, one that a contact left for us or one beside a link. What of it may have been shown before
// stays marked; after a restore on that day that is what of it had its time then, or all.
func (e *Engine) keepTokens(a mailbox.Address, day uint32, content []byte, left bool) error {
	c, err := parseLinkTokens(content)
	if err != nil {
		return err
	}
	if c.day != day {
		return fmt.Errorf("%w: tokens of another day", ErrPayload)
	}
	p := e.purse(a)
	x := &chunk{serial: serialOf(c.seed), day: day, n: len(c.outputs) / token.OutputSize, given: true, left: left}
	if e.mayBeShown(day) {
		x.used = x.end(e.erased)
		x.next = x.used
	}
	if slices.ContainsFunc(p.chunks[day], func(y *chunk) bool { return y.serial == x.serial }) {
		return nil
	}
	if err := e.kv.Update(func(txn store.Txn) error {
		return errors.Join(txn.Set(chunkKey(tableChunk, a, x), chunkRow(x, c.seed, c.outputs)),
			txn.Set(chunkKey(tableUsed, a, x), binary.AppendUvarint(nil, uint64(x.used))))
	}); err != nil {
		return err
	}
	e.addChunk(p, x)
	return nil
}
