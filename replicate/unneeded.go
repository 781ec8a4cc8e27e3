// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/store"
)

// A contact that was introduced is there for the rooms that the two are in. Of such contacts a node has a bounded number; were those kept whom it has no room with any
// more, it would in time have no place for those whom it needs. So each end ends such a contact after two weeks without a room, or an invite, between the two: as long as
// one may be away and still be told all. Only hours count in which the node was there: who comes back after weeks first reads what waits for it, which may be an invite by
// that contact. It is not shunned: when they meet again they are introduced again. SPEC §7.11.

const (
	unneededFor  = 14 * 24 * time.Hour // in which a mailbox of ours answered
	unneededLook = time.Hour
	unneededMost = 4 * time.Hour // between two looks: else the node was off, or asleep
)

func unneededKey(name onionid.Name) []byte { return store.Key(tableUnneeded, string(name)) }

func (c *contact) loadUnneeded(r store.Reader) error {
	v, err := r.Get(unneededKey(c.name))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	d := reader{b: v}
	d.version()
	c.unneeded = time.Duration(d.uvarint()) * time.Second
	return errors.Join(err, d.end())
}

// endUnneeded adds up the time in which introduced contacts have nothing to do with us, and ends those of whom that goes for long. One Update counts; another ends a contact:
// after a crash between the two, or before what others keep of it is gone, it is a stranger of whom nothing more comes.
func (e *Engine) endUnneeded(now time.Time) error {
	passed := now.Sub(e.unneededLooked)
	switch {
	case passed < 0, passed > unneededMost:
		passed = 0
	case passed < unneededLook:
		return nil
	}
	e.unneededLooked = now
	needed, err := e.rooms.Companions()
	if err != nil {
		return err
	}
	cs, there := e.introducedContacts(now)
	for _, c := range cs {
		switch {
		case needed[c.name]:
			err = e.countUnneeded(c, 0)
		case !there:
		case c.unneeded >= unneededFor:
			err = e.endIntroduced(c, now)
		default:
			err = e.countUnneeded(c, c.unneeded+passed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// introducedContacts are those who were, and whether a mailbox of ours answered since the last look, so that we would know of what comes from them.
func (e *Engine) introducedContacts(now time.Time) (out []*contact, there bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.contacts {
		if c.introducer != "" {
			out = append(out, c)
		}
	}
	return out, slices.ContainsFunc(e.own, func(a mailbox.Address) bool {
		d := e.depots[a]
		return d != nil && now.Sub(d.lastOK) < unneededLook
	})
}

func (e *Engine) countUnneeded(c *contact, spent time.Duration) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.contacts[c.name] != c || spent == c.unneeded {
		return nil
	}
	if err := e.kv.Update(func(txn store.Txn) error {
		if spent == 0 {
			return txn.Delete(unneededKey(c.name))
		}
		w := writer{}
		w.u8(rowVersion)
		w.uvarint(uint64(spent / time.Second))
		return txn.Set(unneededKey(c.name), w.b)
	}); err != nil {
		return fmt.Errorf("note what a contact is needed for: %w", err)
	}
	c.unneeded = spent
	return nil
}

// endIntroduced ends a contact, unless a person has made it one meanwhile, or something is on its way between the two: what was acknowledged and is not worked off, or what a
// contact that is there is still to be given. Then it is looked at again later.
func (e *Engine) endIntroduced(c *contact, now time.Time) error {
	ended, err := e.endIdle(c, now)
	if err != nil || !ended {
		return err
	}
	return e.forgetBeside(c.name)
}

func (e *Engine) endIdle(c *contact, now time.Time) (ended bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.contacts[c.name] != c || c.introducer == "" || c.inbox > 0 {
		return false, nil
	}
	var waiting []store.Item
	if err := e.kv.View(func(r store.Reader) (err error) {
		waiting, err = store.Pending(r, string(c.name), 0, 1) // those in boxes that are not acknowledged too
		return err
	}); err != nil {
		return false, fmt.Errorf("read what waits for a contact: %w", err)
	}
	if len(waiting) > 0 && now.Sub(c.lastHeard) < unneededFor {
		return false, nil
	}
	if err := e.endContact(c, func(store.Txn) error { return nil }); err != nil {
		return false, err
	}
	_, err = e.emptyOutbox(string(c.name))
	return true, err
}
