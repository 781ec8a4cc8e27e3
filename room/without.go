// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tarn/dag"
	"tarn/matrix"
)

// An event waits for its parents. Mostly who gave it has them. But it can be that nobody does who could be asked: those who came by a snapshot
// never had what lies before it, and who had it is no contact, or has left. Waiting for ever, the room would end there for this node, and
// its users would see nothing of what follows.
//
// So after some asking (package replicate says when) the event is taken without: for the state after those parents stands one that is near, the snapshot's
// (the floor) or, deeper, the room's present one. What such a state forbids is soft-failed (dag.Approximator); where the branches come together it is
// resolved as everything is. If a parent comes after all, it is one branch more.

// Without takes the events that wait for any of ids, which nobody gives, as far as they wait for nothing else.
//
// Its transactions are Ingest's. A crash before one: the events wait as before, and it is called again.
func (r *Rooms) Without(ctx context.Context, room matrix.RoomID, ids []matrix.EventID) (Ingested, error) {
	var out Ingested
	if err := ctx.Err(); err != nil {
		return out, err
	}
	l, err := r.get(room)
	if errors.Is(err, ErrUnknownRoom) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	in := &ingest{r: r, l: l, room: room, from: r.server(), out: &out, todo: map[hash]*candidate{}, waits: map[hash][]hash{}, ungiven: map[matrix.EventID]bool{}}
	for _, id := range ids {
		in.ungiven[id] = true
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	if err := r.read(room, in.waiting); err != nil {
		return out, fmt.Errorf("taking events without their parents: %w", err)
	}
	for more := len(in.todo) > 0; more; {
		if more, err = in.piece(); err != nil {
			return out, fmt.Errorf("taking events without their parents: %w", err)
		}
	}
	return out, nil
}

// waiting puts to work what waits for what nobody gives.
func (in *ingest) waiting(q *reading) error {
	for id := range in.ungiven {
		h, err := hashOf(id)
		if err != nil {
			continue
		}
		waiters, err := q.waitersFor(h)
		if err != nil {
			return err
		}
		for _, w := range waiters {
			x, err := q.pendingEvent(w)
			if err != nil {
				return err
			}
			if x != nil {
				in.todo[w] = &candidate{ev: x.ev, from: x.from, spoilt: x.spoilt, parked: true}
			}
		}
	}
	in.queueAll()
	return nil
}

// without says whether nobody gives any of these.
func (p *plan) without(ids []matrix.EventID) bool {
	return !slices.ContainsFunc(ids, func(id matrix.EventID) bool { return !p.ungiven[id] })
}

// tryWithout is try with a near state for the parents that are not here.
func (p *plan) tryWithout(ev *matrix.Event) (dag.Insertion, error) {
	near := p.row.current
	if p.row.floor != 0 && ev.Depth() <= p.row.floorDepth {
		near = p.row.floor
	}
	state, err := p.state(near)
	if err != nil {
		return dag.Insertion{}, err
	}
	return dag.InsertWithout(p, p.graph(), ev, state)
}
