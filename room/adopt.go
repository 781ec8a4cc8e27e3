// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"slices"

	"tarn/dag"
	"tarn/matrix"
)

// adopt makes the snapshot of a user's invite (or of a join that a resident inserted) the room: its state, the invite as its head, and as much of the history as
// hangs together. The user's own join or leave follows in the same transaction.
func (p *plan) adopt(standing userRow) error {
	invite, err := p.held(standing.event)
	if err != nil {
		return err
	}
	if invite == nil {
		return fmt.Errorf("%w: an invite is missing", errRow)
	}
	base, err := p.state(standing.state)
	if err != nil {
		return err
	}
	if done, err := p.replay(invite, base); done || err != nil {
		return err
	}
	p.row.floor, p.row.floorDepth = standing.state, invite.ev.Depth()
	history, err := p.hanging(invite.ev)
	if err != nil {
		return err
	}
	// Deeper than this the node asks for what an event leans on, also where the history was withheld: once it is in the
	// room it gets such events redacted (RawFor).
	p.row.pastDepth = max(0, p.row.floorDepth-historyEvents)
	for _, ev := range history {
		p.row.pastDepth = min(p.row.pastDepth, ev.Depth())
		h := mustHash(ev.ID())
		e, err := p.held(h)
		if err != nil {
			return err
		}
		e = p.change(h, e)
		e.before, e.after, e.now, e.shown = standing.state, standing.state, standing.state, true
		p.seat(h, e)
	}
	slot, _ := invite.ev.Slot()
	after := base.With(slot, invite.ev.ID())
	e := p.change(standing.event, invite)
	e.outlier, e.shown, e.before = false, true, standing.state
	if e.after, err = p.idOf(after, standing.state); err != nil {
		return err
	}
	e.now = e.after
	if old := base[slot]; old != "" {
		e.replaces = mustHash(old)
	}
	p.seat(standing.event, e)
	p.row.heads = []hash{standing.event}
	for _, h := range slices.Clone(p.fresh) {
		if err := p.redactions(h, p.changed[h]); err != nil {
			return err
		}
		if err := p.relate(h, p.changed[h]); err != nil {
			return err
		}
	}
	if err := p.openGap(invite.ev.PrevEvents(), history, []matrix.EventID{invite.ev.ID()}); err != nil {
		return err
	}
	return p.advance(after, e.after, standing.event)
}

// replay inserts a snapshot's history from the room's first event on, if all of it is there, so that every state is known
// exactly. It gives up, having changed nothing, if something is missing or the invite's state comes out otherwise.
func (p *plan) replay(invite *held, base dag.State) (bool, error) {
	if len(p.row.heads) > 0 {
		return false, nil // was here before: the old graph stays as it is
	}
	history, err := p.hanging(invite.ev)
	if err != nil {
		return false, err
	}
	g := graph{p: p, after: map[matrix.EventID]dag.State{}, status: map[matrix.EventID]dag.Status{}}
	room := dag.Room{ID: p.row.id, Version: p.row.version, Current: dag.State{}}
	var ins []dag.Insertion
	for _, ev := range append(history, invite.ev) {
		in, err := dag.Insert(&g, room, ev)
		if err != nil || len(in.Missing) > 0 {
			return false, nil
		}
		g.after[ev.ID()], g.status[ev.ID()] = in.After, in.Status
		room.Heads, room.Current = in.Heads, in.Current
		ins = append(ins, in)
	}
	last := ins[len(ins)-1]
	if last.Status != dag.Accepted || !last.Before.Equal(base) {
		return false, nil
	}
	for i, ev := range append(history, invite.ev) {
		h := mustHash(ev.ID())
		old, err := p.held(h)
		if err != nil {
			return false, err
		}
		e, err := p.put(ev, ins[i])
		if err != nil {
			return false, err
		}
		e.spoilt = old.spoilt
	}
	return true, nil
}

// graph is the dag.View of a replay: what was inserted so far has a state.
type graph struct {
	p      *plan
	after  map[matrix.EventID]dag.State
	status map[matrix.EventID]dag.Status
}

func (g *graph) Event(id matrix.EventID) (*matrix.Event, dag.Status, error) {
	e, err := g.p.byID(id)
	if e == nil || err != nil {
		return nil, 0, err
	}
	if s, ok := g.status[id]; ok {
		return e.ev, s, nil
	}
	return e.ev, e.status, nil
}

func (g *graph) StateAfter(id matrix.EventID) (dag.State, error) { return g.after[id], nil }

// hanging are the events of the snapshot that lie before the invite without a gap, not in the timeline yet, parents first.
func (p *plan) hanging(invite *matrix.Event) ([]*matrix.Event, error) {
	return p.hangingFrom(invite.PrevEvents())
}

// hangingFrom are those among ids, and before them.
func (p *plan) hangingFrom(ids []matrix.EventID) ([]*matrix.Event, error) {
	const most = 2 * historyEvents
	var out []*matrix.Event
	seen := map[matrix.EventID]bool{}
	work := slices.Clone(ids)
	for len(work) > 0 && len(out) < most {
		id := work[0]
		work = work[1:]
		if seen[id] {
			continue
		}
		seen[id] = true
		e, err := p.byID(id)
		if err != nil {
			return nil, err
		}
		if e == nil || !e.outlier || e.shown || e.status != dag.Accepted {
			continue
		}
		out = append(out, e.ev)
		work = append(work, e.ev.PrevEvents()...)
	}
	slices.SortFunc(out, byDepth)
	return out, nil
}
