// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/store"
)

// Tokens that are left for a contact. Tokens for one another come in boxes that must be paid with such tokens; so two nodes
// that were both away for longer than tokens are given ahead could never write to each other again, nor could a node that
// lost its wallet ask for more. A read costs nothing. So a node leaves, at each mailbox of its own, a box with a chunk a day for
// each contact, at a place that both can derive for every day. Who has no token of today for a contact's mailboxes reads it
// there. SPEC §11.6.
//
// The boxes take the places of cover and of nothing else, as acknowledgements alone do, and are left whether they are
// needed or not: neither the mailbox nor a courier learns from them who is away.
//
// The chunk of a box is in no record: a node that lost its wallet may have spent from those, and would show a token with two
// boxes. It may have spent from that box, too, and read it a second time after it was restored from a backup, perhaps not for the first time on that day,
// of which the backup knows nothing. So each of the box's tokens has a time of its day before which nobody shows it (end), and who was restored shows
// those alone whose time was not yet.
const (
	leaveAhead   = 7                        // days ahead of today for which a box is left
	labelLeftID  = "tarn/1 left tokens id"  // ‖ 1 if the initiator leaves it, else 0 ‖ day 4 ‖ key of the mailbox: HKDF info
	labelLeftKey = "tarn/1 left tokens key" // as well

	daySeconds = 24 * 60 * 60

	soughtAtOnce = 2             // contacts whose boxes are looked for at a time: their mailboxes get a share of all reads
	looks        = 4             // times that one is looked for at each,
	lookPause    = 3 * time.Hour // and then not for so long
)

// end is the first of a chunk's tokens that are not to be shown yet.
func (c *chunk) end(now time.Time) int {
	if !c.left {
		return c.n
	}
	since := now.Unix() - int64(c.day)*daySeconds
	return int(max(0, min(since*int64(c.n)/daySeconds+1, int64(c.n))))
}

// mayBeShown tells whether tokens of that day, unless they have their times, may have been shown before the wallet was thrown away.
func (e *Engine) mayBeShown(day uint32) bool {
	return !e.erased.IsZero() && day <= mailbox.Epoch(e.erased)
}

// leftPlace is where the tokens of a day lie.
func leftPlace(secret [32]byte, initiator bool, day uint32, at mailbox.Address) (place, error) {
	onion, err := at.Onion.Key()
	if err != nil {
		return place{}, err
	}
	who := byte(0)
	if initiator {
		who = 1
	}
	tail := string(append(binary.BigEndian.AppendUint32([]byte{who}, day), onion...))
	return place{mailbox.BoxID(derive(secret[:], nil, labelLeftID+tail, mailbox.IDSize)), [32]byte(derive(secret[:], nil, labelLeftKey+tail, 32))}, nil
}

// leftBox is one that is left for a contact, or is to be. Guarded by the engine's mutex.
type leftBox struct {
	there    bool // on the disk
	busy     bool
	due      time.Time
	attempts int
}

func (c *contact) leftKey(k tokensOf) []byte {
	return store.Key(tableLeft, string(c.name), string(k.store.Onion), uint64(k.day))
}

// leftRow is a row of tableLeft: the chunk that is to be left; nil: the box is there.
func leftRow(seed [32]byte, outputs []byte) []byte {
	w := writer{}
	w.u8(rowVersion)
	w.flag(outputs == nil)
	if outputs != nil {
		w.raw(seed[:])
		w.bytes(outputs)
	}
	return w.b
}

func parseLeft(b []byte) (there bool, seed [32]byte, outputs []byte, err error) {
	r := reader{b: b}
	r.version()
	if there = r.flag(); !there {
		seed, outputs = r.key32(), r.bytes(token.Chunk*token.OutputSize)
		if len(outputs) == 0 || len(outputs)%token.OutputSize != 0 {
			r.bad = true
		}
	}
	return there, seed, outputs, r.end()
}

func (c *contact) loadLeft(r store.Reader) error {
	return scanOf(r, tableLeft, string(c.name), func(k *store.KeyReader, v []byte) error {
		at := tokensOf{addressOfOnion(k.String()), uint32(k.Uint64())}
		there, _, _, err := parseLeft(v)
		if err != nil || k.Err() != nil {
			return errors.Join(ErrRow, err, k.Err())
		}
		c.left[at] = &leftBox{there: there}
		return nil
	})
}

// leave moves a chunk from our purse into the box for a contact, in ONE Update; false: there is one, or none is left for so late a
// day.
func (e *Engine) leave(c *contact, p *purse, x *chunk, k tokensOf) bool {
	if c.left[k] != nil || k.day > mailbox.Epoch(time.Now())+leaveAhead {
		return false
	}
	err := e.kv.Update(func(txn store.Txn) error {
		seed, outputs, err := p.takeOut(txn, x)
		if err != nil {
			return err
		}
		return txn.Set(c.leftKey(k), leftRow(seed, outputs))
	})
	if err != nil {
		e.warn("leaving tokens for a contact", err)
		return false
	}
	c.left[k] = &leftBox{}
	p.drop(x)
	return true
}

// leaveTokens finds a box of tokens to be left at one of the places, that of the earliest day: of today and tomorrow (soon), or
// of later days.
func (e *Engine) leaveTokens(w *where, soon bool, now time.Time) (job, bool) {
	today := mailbox.Epoch(now)
	type leaving struct {
		c *contact
		k tokensOf
		d *depot
		b *leftBox
	}
	var best []leaving
	for _, c := range e.contacts {
		if c.cut {
			continue
		}
		for k, b := range c.left {
			if b.there || b.busy || b.due.After(now) || k.day < today || (k.day <= today+1) != soon || len(best) > 0 && k.day > best[0].k.day {
				continue
			}
			if d := w.has(k.store); d != nil && d.own {
				if len(best) > 0 && k.day < best[0].k.day {
					best = best[:0]
				}
				best = append(best, leaving{c, k, d, b})
			}
		}
	}
	if len(best) == 0 {
		return job{}, false
	}
	l := best[e.rng.IntN(len(best))]
	return e.putLeft(l.c, l.k, l.d, l.b), true
}

// putLeft writes the box. Written again after a crash it has other bytes (its nonce is random) and the store says that it has
// another one: then it is there.
func (e *Engine) putLeft(c *contact, k tokensOf, d *depot, b *leftBox) job {
	at, err := leftPlace(c.recoverySecret, c.initiator, k.day, k.store)
	var content []byte
	if err == nil {
		err = e.kv.View(func(r store.Reader) error {
			row, err := r.Get(c.leftKey(k))
			if err != nil {
				return err
			}
			_, seed, outputs, err := parseLeft(row)
			content = linkChunk{k.day, seed, outputs}.marshal()
			return err
		})
	}
	var box []byte
	if err == nil {
		box, err = at.sealRandom(content)
	}
	b.busy = true
	return job{
		store: d, deposit: true,
		do: func(ctx context.Context, m Mailbox) error {
			if err != nil {
				return errors.Join(err, m.Nothing(ctx))
			}
			return m.Put(ctx, at.id, (*[mailbox.BoxSize]byte)(box), nil)
		},
		done: func(err error) {
			p, now := e.profile.Load(), time.Now()
			b.busy = false
			switch {
			case c.left[k] != b:
			case err == nil, errors.Is(err, mailbox.ErrExists):
				if err := e.kv.Update(func(txn store.Txn) error { return txn.Set(c.leftKey(k), leftRow([32]byte{}, nil)) }); err == nil {
					b.there = true
				}
			case errors.Is(err, errNotSent):
			default:
				b.attempts++
				b.due = now.Add(e.jitter(backoff(p.Frame, b.attempts, p.Retransmit)))
			}
		},
	}
}

// lacksToday tells whether the contact's mailboxes want tokens and none of today was ever given or found for one of them. What
// was given and is used up is another matter: it says that there was enough.
func (e *Engine) lacksToday(c *contact, now time.Time) bool {
	today, lacks := mailbox.Epoch(now), false
	for _, a := range c.stores {
		d := e.depots[a]
		if d == nil || d.descriptor == nil {
			continue
		}
		if d.own || !d.wantsTokens() || len(e.purse(a).chunks[today]) > 0 {
			return false
		}
		lacks = true
	}
	return lacks
}

// seekStep begins or ends the looking for boxes that contacts leave for us. It depends on what tokens there are, never on
// whether there is something to say. The caller holds mu.
func (e *Engine) seekStep(now time.Time) {
	changed, sought := false, 0
	for _, c := range e.contacts {
		lacks := e.lacksToday(c, now)
		if c.sought && (!lacks || c.looks >= looks*len(c.stores)) {
			c.sought, c.lookAfter, changed = false, now.Add(e.jitter(lookPause)), true
		}
		if !lacks {
			c.lookAfter = time.Time{}
		}
		if c.sought {
			sought++
		}
	}
	for _, c := range e.contacts {
		if sought < soughtAtOnce && !c.sought && !c.lookAfter.After(now) && e.lacksToday(c, now) {
			c.sought, c.looks, c.lookDue, changed = true, 0, now, true
			sought++
		}
	}
	if changed {
		e.reroute()
	}
}

// seekLeft looks for such a box at a store.
func (e *Engine) seekLeft(d *depot, now time.Time) (job, bool) {
	for _, c := range e.contacts {
		if c.sought && !c.lookBusy && !c.lookDue.After(now) && slices.Contains(c.stores, d.address) && d.wantsTokens() {
			if at, err := leftPlace(c.recoverySecret, !c.initiator, mailbox.Epoch(now), d.address); err == nil {
				return e.fetchLeft(c, d, at, mailbox.Epoch(now)), true
			}
		}
	}
	return job{}, false
}

func (e *Engine) fetchLeft(c *contact, d *depot, at place, day uint32) job {
	c.lookBusy = true
	var got *[mailbox.BoxSize]byte
	return job{
		store: d,
		do: func(ctx context.Context, m Mailbox) (err error) {
			got, err = m.Get(ctx, at.id.Handle())
			return err
		},
		done: func(err error) {
			p, now := e.profile.Load(), time.Now()
			c.lookBusy = false
			if errors.Is(err, errNotSent) || e.contacts[c.name] != c {
				return
			}
			c.looks++
			c.lookDue = now.Add(e.jitter(backoff(2*p.Frame, c.looks, p.Retransmit)))
			if err == nil {
				var content []byte
				if content, err = at.openRandom(got); err == nil {
					err = e.keepTokens(d.address, day, content, true)
				}
			}
			if err != nil {
				e.log.Debug("no tokens are left for us", "err", err)
			}
			e.wakeWallet()
		},
	}
}
