// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"fmt"

	"tarn/matrix"
)

// InsertPast decides an event of a room's past, of which the room's present heads and state take no notice: what was before a snapshot, or
// between two times in the room. before is the state at the event as somebody told it; nil: it is resolved over the states after its parents, which
// are Missing if the view does not know them. Checks 4 and 5 of Insert are made. Check 6 is not (spec: "Soft failure" is judged by the state when
// an event comes): whether it was soft-failed only who was there knows. Of the result Missing, Status, Why, Before and After are set.
// Errors: ErrOtherRoom, matrix.ErrVersion, the view's.
func InsertPast(v View, r Room, ev *matrix.Event, before State) (Insertion, error) {
	switch {
	case !matrix.Supported(r.Version):
		return Insertion{}, fmt.Errorf("%w %q", matrix.ErrVersion, r.Version)
	case ev.Room() != r.ID, ev.Version() != r.Version:
		return Insertion{}, ErrOtherRoom
	}
	if ev.Type() == matrix.TypeCreate {
		out, err := insertCreate(Room{ID: r.ID, Version: r.Version}, ev)
		out.Heads, out.Current = nil, nil
		return out, err
	}
	in := insertion{view: v, room: Room{ID: r.ID, Version: r.Version}, ev: ev, exact: true}
	err := in.lean()
	if err == nil && before == nil {
		err = in.parents()
	}
	if err != nil || len(in.missing) > 0 {
		return Insertion{Missing: in.missing}, err
	}
	if before == nil {
		if before, err = Resolve(v, r.Version, in.states); err != nil {
			return Insertion{}, fmt.Errorf("resolving the state before an event: %w", err)
		}
	}
	in.room.Current = before // so that the room as it is has no say
	out := Insertion{Before: before, After: before}
	if out.Status, out.Why, err = in.judge(before); err != nil {
		return Insertion{}, err
	}
	if slot, ok := ev.Slot(); ok && out.Status == Accepted {
		out.After = before.With(slot, ev.ID())
	}
	return out, nil
}
