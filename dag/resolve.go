// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"fmt"
	"maps"

	"maunium.net/go/mautrix/id"

	"tarn/matrix"
)

// Resolve is state resolution v2 or v2.1, as the version says (room versions 2 and 12, "State resolution"). The order of
// sets does not matter; nil ones are left out. Equal sets resolve to the first one's own map.
// ErrIncomplete: an event of the sets or of their auth chains is not held.
func Resolve(v View, version matrix.RoomVersion, sets []State) (State, error) {
	if !matrix.Supported(version) {
		return nil, fmt.Errorf("%w %q", matrix.ErrVersion, version)
	}
	sets = distinct(sets)
	switch len(sets) {
	case 0:
		return State{}, nil
	case 1:
		return sets[0], nil
	}
	r := &resolver{view: v, version: version, nodes: map[matrix.EventID]*node{}, levels: map[matrix.EventID]*matrix.PowerLevels{}}
	return r.resolve(sets, version.StateResVersion() == id.StateResV2_1)
}

// resolver is one resolution: each event is read once.
type resolver struct {
	view    View
	version matrix.RoomVersion
	nodes   map[matrix.EventID]*node
	levels  map[matrix.EventID]*matrix.PowerLevels // by the power levels event; "": none
	create  *matrix.Event
}

// node is an event as the resolution sees it.
type node struct {
	ev       *matrix.Event
	id       matrix.EventID
	slot     matrix.StateKey
	auth     []*node
	rejected bool
	linked   bool // auth is filled
}

// eventSet is a set of events.
type eventSet map[*node]struct{}

func (s eventSet) has(n *node) bool { _, ok := s[n]; return ok }
func (s eventSet) add(n *node)      { s[n] = struct{}{} }

// load reads an event.
func (r *resolver) load(id matrix.EventID) (*node, error) {
	if n := r.nodes[id]; n != nil {
		return n, nil
	}
	ev, status, err := event(r.view, id)
	if err != nil {
		return nil, err
	}
	slot, ok := ev.Slot()
	if !ok {
		return nil, fmt.Errorf("%w: a message in a state or an auth chain", ErrIncomplete)
	}
	n := &node{ev: ev, id: id, slot: slot, rejected: status == Rejected}
	r.nodes[id] = n
	return n, nil
}

// parents are the events that n leans on.
func (r *resolver) parents(n *node) ([]*node, error) {
	if n.linked {
		return n.auth, nil
	}
	ids := n.ev.AuthEvents()
	n.auth = make([]*node, len(ids))
	for i, id := range ids {
		a, err := r.load(id)
		if err != nil {
			return nil, err
		}
		n.auth[i] = a
	}
	n.linked = true
	return n.auth, nil
}

// resolve is the algorithm. v21: start from nothing, and look at the events between the conflicted ones too (MSC4297).
func (r *resolver) resolve(sets []State, v21 bool) (State, error) {
	agreed, conflicted, err := r.split(sets)
	if err != nil {
		return nil, fmt.Errorf("splitting the states: %w", err)
	}
	if r.create, err = r.findCreate(sets, conflicted); err != nil {
		return nil, fmt.Errorf("finding the create event: %w", err)
	}
	full, err := r.authDifference(sets, agreed)
	if err != nil {
		return nil, fmt.Errorf("walking the auth chains: %w", err)
	}
	for n := range conflicted {
		full.add(n)
	}
	if v21 {
		between, err := r.subgraph(conflicted)
		if err != nil {
			return nil, fmt.Errorf("walking the conflicted subgraph: %w", err)
		}
		for n := range between {
			full.add(n)
		}
	}

	// 1 and 2: the events that can take away what others may do, in an order in which power decides.
	p := &partial{resolver: r, set: map[matrix.StateKey]*node{}}
	if !v21 {
		p.base = agreed
	}
	power, err := r.powerSet(full)
	if err != nil {
		return nil, err
	}
	order, err := r.powerOrder(power)
	if err != nil {
		return nil, err
	}
	if err := p.apply(order); err != nil {
		return nil, fmt.Errorf("applying the power events: %w", err)
	}

	// 3 and 4: the others, along the line of power levels that has come out.
	levels, err := p.get(matrix.StateKey{Type: matrix.TypePowerLevels})
	if err != nil {
		return nil, err
	}
	if order, err = r.mainlineOrder(levels, full, power); err != nil {
		return nil, err
	}
	if err := p.apply(order); err != nil {
		return nil, fmt.Errorf("applying the other events: %w", err)
	}

	// 5: what all agreed on stays.
	out := make(State, len(agreed)+len(p.set))
	for k, n := range p.set {
		out[k] = n.id
	}
	maps.Copy(out, agreed)
	return out, nil
}

// findCreate is the room's create event.
func (r *resolver) findCreate(sets []State, conflicted eventSet) (*matrix.Event, error) {
	var room matrix.RoomID
	for n := range conflicted {
		room = n.ev.Room() // the same of all
		break
	}
	for _, s := range sets {
		if id, ok := Create(room, r.version, s); ok {
			n, err := r.load(id)
			if err != nil {
				return nil, err
			}
			return n.ev, nil
		}
	}
	return nil, ErrIncomplete
}
