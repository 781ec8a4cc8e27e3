// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/store"
)

// The first tokens of a contact. Who follows a link must leave its answer, and the first boxes of the stream, at the
// inviter's mailbox; so beside the link's payload waits a box with some tokens of each day until the link expires. It is not in the
// payload: that exists from the moment when the link is made, perhaps before there is a token at all.
const (
	labelTokensID  = "tarn/1 invitation tokens id"
	labelTokensKey = "tarn/1 invitation tokens key"

	linkTokens = 14 // of each day at most
)

// tokensPlace follows from the payload's reply secret, as the reply's place does.
func tokensPlace(voucher, secret [32]byte) place {
	return place{mailbox.BoxID(derive(secret[:], voucher[:], labelTokensID, mailbox.IDSize)), [32]byte(derive(secret[:], voucher[:], labelTokensKey, 32))}
}

// linkChunk is the beginning of a chunk in that box.
type linkChunk struct {
	day     uint32
	seed    [32]byte
	outputs []byte
}

func marshalLinkTokens(cs []linkChunk) []byte {
	w := writer{}
	w.u8(contactVersion)
	w.u8(byte(len(cs)))
	for _, c := range cs {
		w.b = binary.BigEndian.AppendUint32(w.b, c.day)
		w.raw(c.seed[:])
		w.u8(byte(len(c.outputs) / token.OutputSize))
		w.raw(c.outputs)
	}
	return w.b
}

func parseLinkTokens(b []byte) (out []linkChunk, err error) {
	r := reader{b: b}
	if r.u8() != contactVersion {
		r.bad = true
	}
	for n := int(r.u8()); n > 0 && !r.bad; n-- {
		var day [4]byte
		copy(day[:], r.raw(4))
		c := linkChunk{day: binary.BigEndian.Uint32(day[:]), seed: r.key32()}
		k := int(r.u8())
		if k == 0 || k > token.Chunk {
			r.bad = true
		}
		c.outputs = r.raw(k * token.OutputSize)
		out = append(out, c)
	}
	if r.end() != nil {
		return nil, fmt.Errorf("%w: tokens", ErrPayload)
	}
	return out, nil
}

// linkPurse is what a link of ours gives: the box's content, and the chunks that it begins, which its follower gets
// whole once it is a contact. Guarded by the engine's mutex.
type linkPurse struct {
	store     mailbox.Address
	content   []byte
	held      []tokensHeld
	deposited bool // since the payload was written last
}

type tokensHeld struct {
	day    uint32
	serial uint64
}

func (l *linkPurse) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.str(string(l.store.Onion))
	w.bytes(l.content)
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
	l := &linkPurse{store: mailbox.Address{Onion: r.name()}, content: slices.Clone(r.bytes(mailbox.PayloadSize))}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		l.held = append(l.held, tokensHeld{uint32(r.uvarint()), r.uvarint()})
	}
	return l, r.end()
}

// linkStep makes the tokens of a link of ours, once there is a chunk for each of its days; and hands on, or forgets, what
// was held for links that are over. The caller holds mu.
func (e *Engine) linkStep(now time.Time) bool {
	for v, l := range e.linkPurses {
		if e.invites[v] == nil && e.endLink(v, l) {
			return true
		}
	}
	for v, in := range e.invites {
		d := e.depots[in.store]
		if e.linkPurses[v] != nil || in.failed != "" || !now.Before(in.expiry) || d == nil || !d.wantsTokens() {
			continue
		}
		p, today := e.purse(in.store), mailbox.Epoch(now)
		last := min(mailbox.Epoch(in.expiry), today+mailbox.TokenDays)
		var chunks []*chunk
		for day := today; day <= last; day++ {
			if i := slices.IndexFunc(p.chunks[day], func(x *chunk) bool { return !x.given && !x.held && x.used == 0 }); i >= 0 {
				chunks = append(chunks, p.chunks[day][i])
			}
		}
		if len(chunks) < int(last-today)+1 {
			continue
		}
		if e.makeLinkPurse(in, p, chunks) {
			return true
		}
	}
	return false
}

// makeLinkPurse takes the chunks out of use and keeps the box's content, in ONE Update: what the box shows is spent by
// nobody else, and what is written again is the same.
func (e *Engine) makeLinkPurse(in *invite, p *purse, chunks []*chunk) bool {
	each := min(linkTokens, ((mailbox.PayloadSize-4)/len(chunks)-37)/token.OutputSize)
	l := &linkPurse{store: in.store}
	err := e.kv.Update(func(txn store.Txn) error {
		l.held = l.held[:0]
		var parts []linkChunk
		for _, x := range chunks {
			row, err := txn.Get(chunkKey(tableChunk, p.address, x))
			if err != nil {
				return err
			}
			_, seed, outputs, err := parseChunk(row)
			if err != nil {
				return err
			}
			held := *x
			held.held = true
			if err := txn.Set(chunkKey(tableChunk, p.address, x), chunkRow(&held, seed, outputs)); err != nil {
				return err
			}
			parts = append(parts, linkChunk{x.day, seed, outputs[:min(each*token.OutputSize, len(outputs))]})
			l.held = append(l.held, tokensHeld{x.day, x.serial})
		}
		l.content = marshalLinkTokens(parts)
		return txn.Set(store.Key(tableTokenBox, in.voucher[:]), l.marshal())
	})
	if err != nil {
		e.log.Warn("keeping a link's tokens", "err", err)
		return false
	}
	for _, x := range chunks {
		x.held = true
	}
	e.linkPurses[in.voucher] = l
	return true
}

// endLink gives one held chunk to the contact that the link made, or forgets the link's purse when there is none left.
// Without a contact the chunks go: the box that has their beginnings may be read by somebody.
func (e *Engine) endLink(voucher [32]byte, l *linkPurse) bool {
	p := e.purse(l.store)
	for _, c := range e.contacts {
		if c.voucher != voucher || !c.initiator || c.cut {
			continue
		}
		for _, h := range l.held {
			i := slices.IndexFunc(p.chunks[h.day], func(x *chunk) bool { return x.serial == h.serial })
			if i < 0 {
				continue
			}
			if e.queued(c) >= giveQueue {
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
		e.log.Warn("forgetting a link's tokens", "err", err)
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
func (e *Engine) tokensReady(in *invite) bool {
	d := e.depots[in.store]
	return d != nil && (!d.wantsTokens() || e.linkPurses[in.voucher] != nil)
}

// depositTokens writes the box of tokens of a link, before its payload; nil: it is there, or none is needed.
func (e *Engine) depositTokens(in *invite) *job {
	l := e.linkPurses[in.voucher]
	if l == nil || l.deposited {
		return nil
	}
	at := tokensPlace(in.voucher, in.replySecret)
	box, err := at.seal(l.content)
	in.busy = true
	return &job{
		deposit: true,
		do: func(ctx context.Context, m Mailbox) error {
			if err != nil {
				return err
			}
			return m.Put(ctx, at.id, box, nil)
		},
		done: func(err error) {
			p, now := e.profile.Load(), time.Now()
			in.busy = false
			switch {
			case err == nil:
				l.deposited, in.due = true, now
			case errors.Is(err, errNotSent):
				in.due = now
			default:
				in.attempts++
				in.due = now.Add(e.jitter(backoff(p.Frame, in.attempts, p.Retransmit)))
			}
		},
	}
}

// lacksTokens tells whether who follows the link needs the box of tokens at that store now.
func (e *Engine) lacksTokens(a *accept, d *depot, now time.Time) bool {
	return a.state == acceptReplying && a.link.Store == d.address && a.tokens != (place{}) && !a.busy && !a.tokensAfter.After(now) &&
		d.wantsTokens() && !e.canPay(d, now)
}

// fetchTokens reads that box.
func (e *Engine) fetchTokens(a *accept) job {
	a.busy = true
	var got *[mailbox.BoxSize]byte
	return job{
		do: func(ctx context.Context, m Mailbox) (err error) {
			got, err = m.Get(ctx, a.tokens.id.Handle())
			return err
		},
		done: func(err error) {
			p, now := e.profile.Load(), time.Now()
			a.busy = false
			if err == nil {
				var content []byte
				if content, err = a.tokens.open(got); err == nil {
					err = e.keepLinkTokens(a.link.Store, content)
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

func (e *Engine) keepLinkTokens(a mailbox.Address, content []byte) error {
	parts, err := parseLinkTokens(content)
	if err != nil {
		return err
	}
	p := e.purse(a)
	today := mailbox.Epoch(time.Now())
	var fresh []*chunk
	err = e.kv.Update(func(txn store.Txn) error {
		fresh = fresh[:0]
		for _, c := range parts {
			x := &chunk{serial: serialOf(c.seed), day: c.day, n: len(c.outputs) / token.OutputSize, given: true}
			if x.day < today || x.day > today+takeAhead || slices.ContainsFunc(p.chunks[x.day], func(y *chunk) bool { return y.serial == x.serial }) {
				continue
			}
			if err := txn.Set(chunkKey(tableChunk, a, x), chunkRow(x, c.seed, c.outputs)); err != nil {
				return err
			}
			fresh = append(fresh, x)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, x := range fresh {
		e.addChunk(p, x)
	}
	return nil
}
