// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	people "tarn/account"
	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/store"
)

// Comparing what a contact was told of keys with what is so reads and writes the disk, for as long as there are users and devices. So it is none of
// the slots' business: a worker does it, without the engine's lock, twice a frame and when a PUT slot finds that it is due. That slot leaves what is new
// for the contact to the next one, once, so that who hears of a user's join has the user's keys.

const tellLater = time.Minute // after a failure

// keyState is when a contact's keys were last compared. Guarded by the engine's mutex.
type keyState struct {
	accounts, rooms uint64 // the generations then
	compared        bool
	turn            uint64    // grows with every again
	after           time.Time // not again before: it failed
	next            time.Time // again then, whatever changed or not; zero: never
	held            bool      // the last PUT slot found it due
}

// again makes all be compared again, also what is being compared now.
func (k *keyState) again() { *k = keyState{turn: k.turn + 1, held: k.held} }

// keysDue tells whether c's keys are to be compared. The caller holds mu.
func (e *Engine) keysDue(c *contact, now time.Time) bool {
	if e.accounts == nil || now.Before(c.keys.after) {
		return false
	}
	k := c.keys
	return !k.compared || k.accounts != e.accounts.KeyGeneration() || k.rooms != e.rooms.Memberships() || !k.next.IsZero() && !now.Before(k.next)
}

// holdForKeys tells whether a PUT slot leaves what is new for c to the next one: if its keys are to be compared, and the slot before did not wait for
// that already. The caller holds mu.
func (e *Engine) holdForKeys(c *contact, now time.Time) bool {
	due := e.keysDue(c, now)
	if due {
		e.wakeKeys()
	}
	hold := due && !c.keys.held
	c.keys.held = due
	return hold
}

func (e *Engine) wakeKeys() {
	select {
	case e.keyWake <- struct{}{}:
	default:
	}
}

// workKeys compares, until ctx ends.
func (e *Engine) workKeys(ctx context.Context) {
	if e.accounts == nil {
		return
	}
	for {
		e.mu.Lock()
		cs := slices.SortedFunc(maps.Values(e.contacts), func(a, b *contact) int { return cmp.Compare(a.name, b.name) })
		e.mu.Unlock()
		for _, c := range cs {
			if ctx.Err() == nil {
				e.tellKeys(c)
			}
		}
		timer := time.NewTimer(e.profile.Load().Frame / 2)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-e.keyWake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// listener is a contact as the worker has it, without the engine's lock. What may have changed of it since is looked at in the transactions.
type listener struct {
	name  onionid.Name
	floor uint64 // serials of batches are higher
	among int    // contacts, this one included
}

// errMoved: a row is not as it was when it was read; all is compared again.
var errMoved = errors.New("replicate: a row changed meanwhile")

// tellKeys puts what is new of users' keys for c into the outbox.
func (e *Engine) tellKeys(c *contact) {
	now := time.Now()
	e.mu.Lock()
	if e.contacts[c.name] != c || !e.keysDue(c, now) {
		e.mu.Unlock()
		return
	}
	turn := c.keys.turn
	l := listener{name: c.name, among: len(e.contacts)}
	if !c.recovered.IsZero() {
		l.floor = uint64(c.recovered.Add(people.RestoreSlack).UnixMilli())
	}
	e.mu.Unlock()
	accounts, rooms := e.accounts.KeyGeneration(), e.rooms.Memberships() // before what they count is read
	next, err := e.compareKeys(l, now)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.contacts[c.name] != c, c.keys.turn != turn, errors.Is(err, errMoved): // it is still due
	case err != nil:
		c.keys.after = now.Add(tellLater)
		e.warn("telling a contact of keys", err)
	default:
		c.keys = keyState{accounts: accounts, rooms: rooms, compared: true, turn: turn, next: next, held: c.keys.held}
	}
}

// compareKeys tells and hands what is new. next is when it is to be done again in any case: if the contact waits for keys that it gets on another day.
func (e *Engine) compareKeys(l listener, now time.Time) (next time.Time, err error) {
	users, err := e.rooms.Sharers(l.name)
	if err != nil {
		return next, err
	}
	shared := map[matrix.UserID]bool{}
	for _, user := range users {
		shared[user] = true
		p, err := e.accounts.Published(user)
		if err != nil {
			return next, err
		}
		if err := e.tellUser(l, p, now); err != nil {
			return next, err
		}
		for _, d := range p.Devices {
			waits, err := e.handKeys(l, user, d, now)
			if err != nil {
				return next, err
			}
			if waits {
				next = now.Truncate(24 * time.Hour).Add(24 * time.Hour)
			}
		}
	}
	// Who shares no room any more is told from the start if they share one again.
	var gone [][]byte
	if err := e.kv.View(func(r store.Reader) error {
		return scanOf(r, tableTold, string(l.name), func(k *store.KeyReader, v []byte) error {
			user := matrix.UserID(k.String())
			t, err := parseTold(v)
			if err == nil && !shared[user] && t.hash != [32]byte{} {
				gone = append(gone, toldKey(l.name, user))
			}
			return errors.Join(err, k.Err())
		})
	}); err != nil || len(gone) == 0 {
		return next, err
	}
	return next, e.kv.Update(func(txn store.Txn) error { return errors.Join(known(txn, l.name), forgetTold(txn, gone)) })
}

// known is errMoved if the contact was forgotten: nothing more is written for it.
func known(r store.Reader, name onionid.Name) error {
	_, err := r.Get(store.Key(tableContact, string(name)))
	if errors.Is(err, store.ErrNotFound) {
		return errMoved
	}
	return err
}
