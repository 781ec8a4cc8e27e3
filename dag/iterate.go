// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"tarn/matrix"
)

// partial is the state while it is put together.
type partial struct {
	*resolver
	base State // under set; v2.1 starts from nothing
	set  map[matrix.StateKey]*node

	auth []*matrix.Event // scratch
	keys []matrix.StateKey
}

// get is the event of a slot, or nil. Only what is asked for is read of the base.
func (p *partial) get(k matrix.StateKey) (*node, error) {
	if n := p.set[k]; n != nil {
		return n, nil
	}
	if id, ok := p.base[k]; ok {
		return p.load(id)
	}
	return nil, nil
}

// apply takes the events in order into the state, each if the rules allow it there ("Iterative auth checks"). It is judged
// by the state as far as it has come; where that has nothing, by its own auth events that are not rejected.
func (p *partial) apply(order []*node) error {
	for _, n := range order {
		p.auth, p.keys = p.auth[:0], p.keys[:0]
		for _, k := range n.ev.PDU().AuthEventSelection(p.version) {
			key := matrix.StateKey{Type: k.Type, Key: k.StateKey}
			a, err := p.get(key)
			if err != nil {
				return err
			}
			if a != nil {
				p.auth = append(p.auth, a.ev)
				p.keys = append(p.keys, key)
			}
		}
		own, err := p.parents(n)
		if err != nil {
			return err
		}
	own:
		for _, a := range own {
			for _, k := range p.keys {
				if a.slot == k {
					continue own
				}
			}
			if !a.rejected {
				p.auth = append(p.auth, a.ev)
				p.keys = append(p.keys, a.slot)
			}
		}
		if allowedBy(p.version, n.ev, p.implicit(), p.auth) == nil {
			p.set[n.slot] = n
		}
	}
	return nil
}

// implicit is the create event that version 12 events do not name.
func (p *partial) implicit() *matrix.Event {
	if p.version.RoomIDIsCreateEventID() {
		return p.create
	}
	return nil
}
