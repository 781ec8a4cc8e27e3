// SPDX-License-Identifier: Apache-2.0

package room

import (
	"slices"

	"tarn/dag"
	"tarn/matrix"
)

// The floor is the one state that a room which was joined by a snapshot takes for all that lies before (snapshot.go). Here is what counts as that past, and which of it has
// a state that others may stand on.

// Approximate implements dag.Approximator: of what came with a snapshot, or as the past that others tell, no state is surely right.
func (q *reading) Approximate(id matrix.EventID) (bool, error) {
	e, err := q.byID(id)
	return e != nil && (e.outlier || e.near), err
}

// stateOf is the id of the state after an event that is rooted.
func (q *reading) stateOf(e *held) uint32 {
	if e.outlier && !e.told {
		return q.row.floor
	}
	return e.after
}

// rooted says whether a state after e is known. Of what came with the snapshot only one is: the floor.
func (q *reading) rooted(e *held) (bool, error) {
	if !e.outlier || q.row.floor == 0 || e.ev.Depth() > q.row.floorDepth {
		return !e.outlier, nil
	}
	beyond, err := q.beyond(e.ev)
	return !beyond || e.told, err
}

// beyond says whether an event comes after what the floor has in its place, though it is no deeper than the floor: it came with another snapshot than the one that was
// taken, and is to be inserted when something leans on it.
func (q *reading) beyond(ev *matrix.Event) (bool, error) {
	slot, ok := ev.Slot()
	if !ok {
		return false, nil
	}
	floor, err := q.state(q.row.floor)
	if err != nil {
		return false, err
	}
	at := floor[slot]
	return at != ev.ID() && slices.Contains(ev.AuthEvents(), at), nil
}

// past says whether an event lies before the history that the snapshot gave: what it did is in the floor.
func (p *plan) past(ev *matrix.Event) (bool, error) {
	if p.row.floor == 0 || ev.Depth() > p.row.floorDepth {
		return false, nil
	}
	if beyond, err := p.beyond(ev); beyond || err != nil {
		return false, err
	}
	if ev.Depth() < p.row.pastDepth {
		return true, nil
	}
	return p.Referenced(ev.ID())
}

// outlie takes an event of the past as what another one leans on: with the floor as its state, not shown.
func (p *plan) outlie(ev *matrix.Event) (*held, []matrix.EventID, error) {
	status, why, missing := dag.InsertOutlier(p, p.row.version, ev)
	switch {
	case len(missing) > 0:
		return nil, missing, nil
	case status == 0:
		return nil, nil, why
	case status == dag.Rejected && p.stranger(ev):
		return nil, nil, nil
	}
	h := mustHash(ev.ID())
	p.add(h, &held{ev: ev, status: status, outlier: true})
	return p.changed[h], nil, p.edges(ev)
}

// Referenced implements dag.Referencer: an event whose child came with a snapshot is no head when it comes.
func (q *reading) Referenced(id matrix.EventID) (bool, error) {
	h, err := hashOf(id)
	if err != nil {
		return false, nil
	}
	if q.over != nil && q.over.edge[h] {
		return true, nil
	}
	_, err = q.rd.Get(edgeKey(q.n, h))
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// edges notes the parents of an outlier that are not held.
func (p *plan) edges(ev *matrix.Event) error {
	for _, id := range ev.PrevEvents() {
		h := mustHash(id)
		if e, err := p.held(h); err != nil {
			return err
		} else if e == nil {
			p.edge[h] = true
		}
	}
	return nil
}
