// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/store"
)

// Giving tokens to contacts, and taking theirs.
const (
	giveSoon  = 2                     // chunks that a contact is given of today and tomorrow, at each of our stores
	giveLater = 1                     // and of each later day: it writes while we are away
	giveAway  = 2 * 24 * time.Hour    // a contact that was not heard for so long gets the later days' share only
	giveQueue = 2                     // records that wait for a contact; more tokens are given when they are fewer
	givePace  = 5                     // frames between two chunks that are not for today: a chunk is a box, and people speak too
	maxTaken  = 8                     // chunks of one day at one store that are taken from all contacts
	takeAhead = mailbox.TokenDays + 2 // days
)

// tokensOf names what a contact was given.
type tokensOf struct {
	store mailbox.Address
	day   uint32
}

func (c *contact) tokensKey(k tokensOf) []byte {
	return store.Key(tableTokens, string(c.name), string(k.store.Onion), uint64(k.day))
}

// loadTokens reads what the contact was given.
func (c *contact) loadTokens(r store.Reader) error {
	return scanOf(r, tableTokens, string(c.name), func(k *store.KeyReader, v []byte) error {
		at := tokensOf{addressOfOnion(k.String()), uint32(k.Uint64())}
		n, size := binary.Uvarint(v)
		if size <= 0 || k.Err() != nil {
			return errors.Join(ErrRow, k.Err())
		}
		c.tokens[at] = int(n)
		return nil
	})
}

// giveStep hands one chunk to a contact that lacks it, or puts it into a box that is left for it; false: nobody lacks what we have. The caller holds mu.
func (e *Engine) giveStep(now time.Time) bool {
	today := mailbox.Epoch(now)
	for day := today; day <= today+mailbox.TokenDays; day++ { // what is needed first goes first
		for _, c := range e.contacts {
			if c.state != contactActive || c.cut || day > today && c.giveAfter.After(now) {
				continue
			}
			want := giveLater
			if day <= today+1 && now.Sub(latest(c.lastHeard, c.created)) < giveAway {
				want = giveSoon
			}
			for _, a := range c.told {
				d := e.depots[a]
				k := tokensOf{a, day}
				if d == nil || !d.own || !d.wantsTokens() || c.draws(a) || c.tokens[k] >= want && (c.left[k] != nil || day > today+leaveAhead) {
					continue
				}
				p := e.purse(a)
				i := slices.IndexFunc(p.chunks[day], func(x *chunk) bool { return !x.given && !x.held && x.used == 0 })
				if i < 0 {
					continue
				}
				// One in a record, one where it is left, the others in records.
				if full := e.queued(c) >= giveQueue; full || c.tokens[k] > 0 {
					if e.leave(c, p, p.chunks[day][i], k) {
						return true
					}
					if full || c.tokens[k] >= want {
						continue
					}
				}
				if e.give(c, p, p.chunks[day][i], k) {
					return true
				}
			}
		}
	}
	return false
}

// draws tells whether the contact has that mailbox too, and so tokens of its own there.
func (c *contact) draws(a mailbox.Address) bool { return slices.Contains(c.stores, a) }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// queued is how many items wait for a contact, at most giveQueue.
func (e *Engine) queued(c *contact) int {
	n := giveQueue
	err := e.kv.View(func(r store.Reader) error {
		n = 0
		for _, class := range []byte{store.Urgent, store.Bulk} {
			items, _, err := store.Next(r, string(c.name), class, 0, giveQueue-n)
			if n += len(items); err != nil || n == giveQueue {
				return err
			}
		}
		return nil
	})
	if err != nil {
		e.warn("reading the outbox", err)
	}
	return n
}

// takeOut deletes a chunk's row in the Update that puts the tokens elsewhere, and gives them. Once that is durable, drop it.
func (p *purse) takeOut(txn store.Txn, x *chunk) (seed [32]byte, outputs []byte, err error) {
	at := chunkKey(tableChunk, p.address, x)
	row, err := txn.Get(at)
	if err != nil {
		return seed, nil, err
	}
	if _, seed, outputs, err = parseChunk(row); err != nil {
		return seed, nil, err
	}
	return seed, outputs, txn.Delete(at)
}

// drop takes a chunk that has no row any more out of the purse.
func (p *purse) drop(x *chunk) {
	p.chunks[x.day] = slices.DeleteFunc(p.chunks[x.day], func(y *chunk) bool { return y == x })
}

// give moves a chunk from our purse into the contact's outbox, in ONE Update: a chunk is ours or the contact's.
func (e *Engine) give(c *contact, p *purse, x *chunk, k tokensOf) bool {
	err := e.kv.Update(func(txn store.Txn) error {
		seed, outputs, err := p.takeOut(txn, x)
		if err != nil {
			return err
		}
		rec, err := bundle.Tokens{Store: p.address.Onion, Day: x.day, Seed: seed, Outputs: outputs}.Record()
		if err != nil {
			return err
		}
		return errors.Join(
			store.Enqueue(txn, string(c.name), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...)),
			txn.Set(c.tokensKey(k), binary.AppendUvarint(nil, uint64(c.tokens[k]+1))))
	})
	if err != nil {
		e.warn("giving tokens to a contact", err)
		return false
	}
	c.tokens[k]++
	c.giveAfter = time.Now().Add(e.jitter(givePace * e.profile.Load().Frame))
	p.drop(x)
	return true
}

// takeTokens takes a chunk that a contact gives us for a store where its boxes are left. Doubles are ignored.
func (e *Engine) takeTokens(c *contact, data []byte) (effect, error) {
	t, err := bundle.ParseTokens(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	today := mailbox.Epoch(time.Now())
	a := mailbox.Address{Onion: t.Store}
	if t.Day < today || e.mayBeShown(t.Day) || t.Day > today+takeAhead || !slices.Contains(c.stores, a) {
		return effect{}, nil // too late, or of no use
	}
	x := &chunk{serial: serialOf(t.Seed), day: t.Day, n: len(t.Outputs) / token.OutputSize, given: true}
	p := e.purse(a)
	given := 0
	for _, y := range p.chunks[t.Day] {
		if y.serial == x.serial && y.n >= x.n {
			return effect{}, nil
		}
		if y.given {
			given++
		}
	}
	if given >= maxTaken {
		return effect{}, nil
	}
	row := chunkRow(x, t.Seed, t.Outputs)
	return effect{
		write: func(txn store.Txn) error { return txn.Set(chunkKey(tableChunk, a, x), row) },
		apply: func() { e.addChunk(p, x) },
	}, nil
}

// addChunk puts a chunk beside the others; one that was there in part stays as far used as it is. The caller holds mu.
func (e *Engine) addChunk(p *purse, x *chunk) {
	for _, y := range p.chunks[x.day] {
		if y.serial == x.serial {
			y.n = max(y.n, x.n)
			if p.current.serial == x.serial {
				p.current.outputs = nil // read again
			}
			return
		}
	}
	p.chunks[x.day] = append(p.chunks[x.day], x)
}

// serialOf names a chunk that we were given: the same one that comes twice is one.
func serialOf(seed [32]byte) uint64 {
	return binary.BigEndian.Uint64(hmacOf(seed[:], "tarn/1 token chunk"))
}

// Cut ends a contact's tokens for our mailboxes: once those that it has are spent or too old, at most two weeks on, it
// can leave no more boxes there, and nobody but it notices. What it still sends is read. As its tokens for us come in
// those boxes, ours for its mailboxes end with them. cut false undoes it, before that.
// ErrNoContact.
func (e *Engine) Cut(name string, cut bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.contacts {
		if string(c.name) != name || c.cut == cut {
			if string(c.name) == name {
				return nil
			}
			continue
		}
		key := store.Key(tableCut, string(c.name))
		err := e.kv.Update(func(txn store.Txn) error {
			if cut {
				return txn.Set(key, []byte{rowVersion})
			}
			return txn.Delete(key)
		})
		if err != nil {
			return err
		}
		c.cut = cut
		e.wakeWallet()
		return nil
	}
	return ErrNoContact
}
