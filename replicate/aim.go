// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"slices"

	"tarn/mailbox"
)

// where says where a PUT may go.
type where struct {
	places []*depot                   // stores that requests can be sealed for
	direct bool                       // places is one store, and what is written must belong there; else what is written chooses among them; in frames it is the drawn one
	set    string                     // else: the set that was drawn
	guard  *guard                     // and through whom
	others bool                       // another courier's session is up too
	cover  bool                       // if there is nothing to write, a random box is written
	left   func(mailbox.Address) bool // a store is not to be used
}

// has finds a store among the places.
func (w *where) has(a mailbox.Address) *depot {
	for _, d := range w.places {
		if d.address == a {
			return d
		}
	}
	return nil
}

// takes tells whether a contact's boxes may go there.
func (w *where) takes(c *contact) bool {
	if w.direct {
		return slices.Contains(c.stores, w.places[0].address)
	}
	return setKey(c.stores) == w.set
}

// aim is the store for a box of c: of its two stores the first, and the other one by turns when it is written again. One
// that is left counts last, and one that this frame can not reach is passed over, also for one of the receiver's others: it
// reads them all. nil: not there, not now.
func (w *where) aim(c *contact, b *box) *depot {
	var order, left []mailbox.Address
	for _, a := range placesOf(c.stores, b.place) {
		if w.left(a) {
			left = append(left, a)
		} else {
			order = append(order, a)
		}
	}
	if len(order) == 0 {
		order, left = left, nil
	}
	n := min(copies, len(order))
	if w.direct {
		d := w.places[0]
		again := b.last == d.address && n > 1 && (b.attempts+b.failures)%4 != 3
		if !slices.Contains(order[:n], d.address) || again {
			return nil
		}
		return d
	}
	turn := (b.attempts + b.failures/2) % n
	if b.attempts > 0 && b.failures == 0 && order[turn] == b.last {
		turn = (turn + 1) % n // its first copy lies there, because that store was drawn
	}
	for _, a := range slices.Concat(order[turn:n], order[:turn], order[n:], left) {
		if d := w.has(a); d != nil {
			return d
		}
	}
	return nil
}

// aimNext is the store for the next new box of c; nil: it can not go there now.
func (w *where) aimNext(c *contact) *depot {
	slot, _ := c.pair.Next() // a step to the next epoch does not change it
	return w.aim(c, &box{place: slot.Place()})
}
