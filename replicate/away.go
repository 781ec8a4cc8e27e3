// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"time"

	"tarn/crypto/onionid"
	"tarn/store"
)

// What is kept for a contact that is away. SPEC §7.4.
const (
	awayAfter  = 24 * time.Hour // not heard for so long, while something waits: it is called away
	maxWaiting = 20_000         // outbox items of a contact; beyond, the oldest events of rooms are taken out
	boundBatch = 1000           // items that one Update takes out
)

// ttlOf is how long the contact's stores keep a box: the shortest that is known, else 0.
func (e *Engine) ttlOf(c *contact) (ttl time.Duration) {
	for _, a := range c.stores {
		if st := e.depots[a]; st != nil && st.descriptor != nil && (ttl == 0 || st.descriptor.ttl < ttl) {
			ttl = st.descriptor.ttl
		}
	}
	return ttl
}

// boundOutboxes takes the oldest events out of the outbox of a contact that has too much waiting: they are in our rooms, and
// the contact asks for them when a summary, or a later event, shows that they are missing. If that is not enough, the oldest
// to-device messages go: without a bound one contact that never comes would fill the disk, and clients ask each other for
// keys that they lack. Nothing else is taken out, for nothing else heals; and the numbers that were are kept for people to see until the
// contact is heard of. Of what waits for a server that is no contact, perhaps never, the oldest goes, whatever it is. The caller holds mu.
func (e *Engine) boundOutboxes() error {
	var waiting map[string]int
	if err := e.kv.View(func(r store.Reader) (err error) {
		waiting, err = store.Destinations(r)
		return err
	}); err != nil {
		return fmt.Errorf("count what waits: %w", err)
	}
	for name, n := range waiting {
		c := e.contacts[onionid.Name(name)]
		kinds := []byte{store.ItemHistory, store.ItemOlder, store.ItemEvent, store.ItemMessage}
		if c == nil {
			kinds = []byte{anyKind}
		}
		left := n - e.maxWaiting
		for _, kind := range kinds {
			for left > 0 {
				n, err := e.takeOut(name, c, kind, left)
				if err != nil {
					return err
				}
				if n == 0 {
					break // only what does not heal, or is in boxes
				}
				left -= n
			}
		}
	}
	return nil
}

const anyKind = 0 // of items

// takeOut is one Update: the items and, of a contact (nil: it is none), their number go together.
func (e *Engine) takeOut(name string, c *contact, kind byte, limit int) (n int, err error) {
	var row contactRow
	err = e.kv.Update(func(txn store.Txn) error {
		after := uint64(0)
		var seqs []uint64
		for len(seqs) < min(limit, boundBatch) {
			items, err := store.Pending(txn, name, after, boundBatch)
			if err != nil {
				return err
			}
			if len(items) == 0 {
				break
			}
			for _, it := range items {
				if after = it.Seq; it.Kind != kind && kind != anyKind || len(seqs) >= min(limit, boundBatch) {
					continue
				}
				if free, err := store.Untaken(txn, name, it.Seq); err != nil {
					return err
				} else if free {
					seqs = append(seqs, it.Seq)
				}
			}
		}
		if n = len(seqs); n == 0 {
			return nil
		}
		if err := store.Dequeue(txn, name, seqs...); err != nil || c == nil {
			return err
		}
		row = c.contactRow
		if kind != store.ItemMessage {
			row.unsent += uint64(n)
		} else {
			row.unsentMessages += uint64(n)
		}
		return txn.Set(store.Key(tableContact, name), row.marshal())
	})
	if err != nil {
		return 0, fmt.Errorf("bound an outbox: %w", err)
	}
	if c != nil && n > 0 {
		c.contactRow = row
	}
	return n, nil
}

// awayReason says so to people; "" if the contact is not away.
func (c *contact) awayReason(waiting int, now time.Time) string {
	since := c.lastHeard
	if since.IsZero() {
		since = c.created
	}
	if now.Sub(since) < awayAfter || waiting == 0 && c.unsent == 0 && c.unsentMessages == 0 {
		return ""
	}
	s := fmt.Sprintf("Away since %s; %d things wait for it.", since.UTC().Format("2006-01-02 15:04"), waiting)
	if c.unsent > 0 {
		s += fmt.Sprintf(" %d older events of rooms wait no more: when it is back its node asks for them.", c.unsent)
	}
	if c.unsentMessages > 0 {
		s += fmt.Sprintf(" %d older messages between devices were given up: some of what was encrypted for it then can be read only if its clients ask for the keys.", c.unsentMessages)
	}
	return s
}
