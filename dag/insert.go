// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"errors"
	"fmt"
	"slices"

	"tarn/matrix"
)

// Insert decides an event's fate (spec: server-server API, "Checks performed on receipt of a PDU", 4-6; its
// signature was verified before). Pure: the caller stores the result in one transaction. An event already held must not be
// inserted, unless it is held as an outlier only.
// Errors: ErrOtherRoom, ErrHeld, ErrIncomplete, matrix.ErrVersion, the view's; then nothing is known and nothing is to be stored.
func Insert(v View, r Room, ev *matrix.Event) (Insertion, error) {
	return InsertWithout(v, r, ev, nil)
}

// InsertWithout is Insert of an event of which nobody gives the parents that are Missing (its auth events it must have): instead is taken for the state
// after each of those, which so is only nearly known (Approximator).
func InsertWithout(v View, r Room, ev *matrix.Event, instead State) (Insertion, error) {
	switch {
	case !matrix.Supported(r.Version):
		return Insertion{}, fmt.Errorf("%w %q", matrix.ErrVersion, r.Version)
	case ev.Room() != r.ID, ev.Version() != r.Version:
		return Insertion{}, ErrOtherRoom
	}
	if err := unheld(v, ev.ID()); err != nil {
		return Insertion{}, err
	}
	if ev.Type() == matrix.TypeCreate {
		return insertCreate(r, ev)
	}
	in := insertion{view: v, room: r, ev: ev, instead: instead}
	if err := in.gather(); err != nil || len(in.missing) > 0 {
		return Insertion{Missing: in.missing}, err
	}
	before, err := in.before()
	if err != nil {
		return Insertion{}, err
	}
	out := Insertion{Before: before, After: before, Heads: r.Heads, Current: r.Current, Approximate: !in.exact}
	out.Status, out.Why, err = in.judge(before)
	if err != nil {
		return Insertion{}, err
	}
	if out.Status == Rejected {
		return out, nil
	}
	if slot, ok := ev.Slot(); ok {
		holds, err := in.holds(before, slot, out.Status)
		if err != nil {
			return Insertion{}, err
		}
		if holds {
			out.After = before.With(slot, ev.ID())
		}
	}
	if out.Status == SoftFailed {
		// Neither a head nor part of the room's state until an event that follows it comes (spec: "Soft failure").
		return out, nil
	}
	return out, in.advance(&out)
}

// unheld is nil unless the event is part of the graph: inserted again, an old one would become a head.
func unheld(v View, id matrix.EventID) error {
	held, _, err := v.Event(id)
	if err != nil {
		return fmt.Errorf("reading an event: %w", err)
	}
	if held == nil {
		return nil
	}
	after, err := v.StateAfter(id)
	if err != nil {
		return fmt.Errorf("reading the state after an event: %w", err)
	}
	if after != nil {
		return ErrHeld
	}
	return nil
}

// insertCreate starts a room. A room has one create event: a second one, which the first's server could sign in a room
// of version 11 or older, is rejected.
func insertCreate(r Room, ev *matrix.Event) (Insertion, error) {
	nothing := State{}
	out := Insertion{Status: Rejected, Before: nothing, After: nothing, Heads: r.Heads, Current: r.Current}
	if len(r.Heads) > 0 || len(r.Current) > 0 {
		out.Why = fmt.Errorf("%w: the room has a create event", ErrNotAllowed)
		return out, nil
	}
	if err := allowedBy(r.Version, ev, nil, nil); err != nil {
		out.Why = err
		return out, nil
	}
	out.Status = Accepted
	out.After = State{{Type: matrix.TypeCreate}: ev.ID()}
	out.Heads = []matrix.EventID{ev.ID()}
	out.Current = out.After
	return out, nil
}

// insertion is one call of Insert: what was read of the view, once.
type insertion struct {
	view    View
	room    Room
	ev      *matrix.Event
	missing []matrix.EventID

	prev   []matrix.EventID // the event's parents, each once
	states []State          // after each of them
	status []Status         // of each of them
	own    []*matrix.Event  // the auth events, in their order
	lost   bool             // an auth event is rejected
	create *matrix.Event    // version 12
	exact  bool             // the state after a parent is known exactly
	near   bool             // that after a parent is only nearly known
	beside bool             // check 5 said no, by a state that is only nearly known

	instead State // of parents whose states nobody knows; nil: they are missing
}

// gather reads parents, auth events and the create event, and lists what is not held.
func (in *insertion) gather() error {
	if err := in.parents(); err != nil {
		return err
	}
	return in.lean()
}

// miss notes what is not held, once.
func (in *insertion) miss(id matrix.EventID) {
	if !slices.Contains(in.missing, id) {
		in.missing = append(in.missing, id)
	}
}

// parents reads the parents and the states after them.
func (in *insertion) parents() error {
	guessed := false
	for _, id := range in.ev.PrevEvents() {
		if slices.Contains(in.prev, id) {
			continue
		}
		prev, status, err := in.view.Event(id)
		if err != nil {
			return fmt.Errorf("reading a parent: %w", err)
		}
		var after State
		if prev != nil {
			if after, err = in.view.StateAfter(id); err != nil {
				return fmt.Errorf("reading the state after a parent: %w", err)
			}
		}
		if after == nil && in.instead != nil {
			in.states, guessed = append(in.states, in.instead), true
			continue
		}
		if after == nil {
			in.miss(id)
			continue
		}
		exactly, err := in.exactly(id)
		if err != nil {
			return err
		}
		in.exact, in.near = in.exact || exactly, in.near || !exactly
		in.prev = append(in.prev, id)
		in.status = append(in.status, status)
		in.states = append(in.states, after)
	}
	in.near = in.near || guessed // who names what is known exactly beside it is known so: the heads of a room always are
	return nil
}

// holds says whether the state after the event has it. Not if it is forbidden by a state that is known but for a branch, and no leave of one's own: that would be more
// power than old parents give. Nor if it is an invite, and all that is known of the state before it is that somebody removed the user at a greater
// depth: most likely the invite lies before that, and resolution, which takes removals first, could not tell.
func (in *insertion) holds(before State, slot matrix.StateKey, s Status) (bool, error) {
	if s == SoftFailed && in.beside && in.exact {
		return in.ev.Membership() == matrix.MemberLeave && slot.Key == string(in.ev.Sender()), nil
	}
	old := before[slot]
	if in.exact || old == "" || in.ev.Membership() != matrix.MemberInvite {
		return true, nil
	}
	e, _, err := event(in.view, old)
	if err != nil {
		return false, err
	}
	removal := e.Membership() == matrix.MemberLeave && string(e.Sender()) != slot.Key
	return !removal || e.Depth() <= in.ev.Depth(), nil
}

// exactly says whether the view knows the state after an event exactly.
func (in *insertion) exactly(id matrix.EventID) (bool, error) {
	v, ok := in.view.(Approximator)
	if !ok {
		return true, nil
	}
	near, err := v.Approximate(id)
	if err != nil {
		return false, fmt.Errorf("reading how well a state is known: %w", err)
	}
	return !near, nil
}

// lean reads the auth events and the create event.
func (in *insertion) lean() error {
	own, create, lost, missing, err := authorities(in.view, in.room.Version, in.ev)
	if err != nil {
		return err
	}
	for _, id := range missing {
		in.miss(id)
	}
	in.own, in.create, in.lost = own, create, lost
	return nil
}

// authorities reads an event's auth events and, for version 12, the create event; lost: one of them is rejected.
func authorities(v View, version matrix.RoomVersion, ev *matrix.Event) (own []*matrix.Event, create *matrix.Event, lost bool, missing []matrix.EventID, err error) {
	read := func(id matrix.EventID) (*matrix.Event, error) {
		a, status, err := v.Event(id)
		if err != nil {
			return nil, fmt.Errorf("reading an auth event: %w", err)
		}
		if a == nil {
			missing = append(missing, id)
		}
		lost = lost || status == Rejected
		return a, nil
	}
	for _, id := range ev.AuthEvents() {
		a, err := read(id)
		if err != nil {
			return nil, nil, false, nil, err
		}
		own = append(own, a)
	}
	if version.RoomIDIsCreateEventID() && ev.Type() != matrix.TypeCreate {
		if create, err = read(matrix.CreateEventID(version, ev.Room())); err != nil {
			return nil, nil, false, nil, err
		}
		if create != nil && create.Type() != matrix.TypeCreate {
			lost = true // rule 2: a room id that is the id of something else
		}
	}
	return own, create, lost, missing, nil
}

// before is the state at the event: resolved over the states after its parents.
func (in *insertion) before() (State, error) {
	if sameIDs(in.prev, in.room.Heads) && len(in.prev) > 0 {
		// It follows exactly what is the room now, as an event of our own always does.
		return in.room.Current, nil
	}
	s, err := Resolve(in.view, in.room.Version, in.states)
	if err != nil {
		return nil, fmt.Errorf("resolving the state before an event: %w", err)
	}
	if s.Equal(in.room.Current) && in.room.Current != nil {
		return in.room.Current, nil
	}
	return s, nil
}

// judge runs the checks 4, 5 and 6 of the spec. The last result is an error of the view, not of the event.
func (in *insertion) judge(before State) (Status, error, error) {
	version := in.room.Version
	switch {
	case len(in.ev.PrevEvents()) == 0:
		// No rule forbids it by itself; but it would start a second room within the room.
		return Rejected, fmt.Errorf("%w: it has no parents and is no create event", ErrNotAllowed), nil
	case in.lost:
		return Rejected, fmt.Errorf("%w: an auth event is rejected", ErrNotAllowed), nil // rule 3.3
	}
	if root, ok := Create(in.room.ID, version, in.room.Current); ok && in.create == nil {
		for _, a := range in.own {
			if a.Type() == matrix.TypeCreate && a.ID() != root {
				return Rejected, fmt.Errorf("%w: it leans on a second create event", ErrNotAllowed), nil
			}
		}
	}
	if err := allowedByOwn(version, in.ev, in.create, in.own); err != nil {
		return Rejected, err, nil // check 4
	}
	keys := in.ev.PDU().AuthEventSelection(version)
	checked := in.ev.AuthEvents()
	if ids := pick(before, keys); !sameIDs(ids, checked) {
		if err := Allowed(in.view, version, before, in.ev); err != nil {
			if !in.near {
				return verdict(Rejected, err) // check 5
			}
			in.beside = true
			return verdict(SoftFailed, err) // by nearly the right state: Approximator
		}
		checked = ids
	}
	if in.room.Current.Same(before) || sameIDs(pick(in.room.Current, keys), checked) {
		return Accepted, nil, nil
	}
	if err := Allowed(in.view, version, in.room.Current, in.ev); err != nil {
		return verdict(SoftFailed, err) // check 6
	}
	return Accepted, nil, nil
}

// verdict tells a rule's no from a view's failure.
func verdict(s Status, err error) (Status, error, error) {
	if errors.Is(err, ErrNotAllowed) {
		return s, err, nil
	}
	return 0, nil, err
}

// advance makes an accepted event a head, in place of all that it follows, and finds what holds now.
func (in *insertion) advance(out *Insertion) error {
	gone, err := in.followed()
	if err != nil {
		return err
	}
	kept := make([]matrix.EventID, 0, len(in.room.Heads)+1)
	for _, h := range in.room.Heads {
		if !gone[h] {
			kept = append(kept, h)
		}
	}
	late := false
	if ref, ok := in.view.(Referencer); ok {
		if late, err = ref.Referenced(in.ev.ID()); err != nil {
			return fmt.Errorf("looking for an event's children: %w", err)
		}
	}
	if late {
		// Its children are held: it is history. What it follows is so too.
		if len(kept) < len(in.room.Heads) && len(kept) > 0 {
			out.Heads = kept
			return in.settle(out, nil)
		}
		return nil
	}
	out.Heads = append(kept, in.ev.ID())
	return in.settle(out, out.After)
}

// settle resolves the current state over out.Heads; after is that of the new event, nil if it is no head.
func (in *insertion) settle(out *Insertion, after State) error {
	sets := make([]State, 0, len(out.Heads))
	for _, h := range out.Heads {
		if h == in.ev.ID() {
			sets = append(sets, after)
			continue
		}
		s, err := in.view.StateAfter(h)
		if err != nil {
			return fmt.Errorf("reading the state after a head: %w", err)
		}
		if s == nil {
			return fmt.Errorf("reading the state after a head: %w", ErrIncomplete)
		}
		sets = append(sets, s)
	}
	if after != nil && in.unmoved(out, after) {
		return nil
	}
	current, err := Resolve(also{in.view, in.ev}, in.room.Version, sets)
	if err != nil {
		return fmt.Errorf("resolving the current state: %w", err)
	}
	if !current.Equal(out.Current) {
		out.Current = current
	}
	return nil
}

// also is a view with one event more: the one that is being accepted, which the state after it names.
type also struct {
	View
	ev *matrix.Event
}

// Event implements View.
func (a also) Event(id matrix.EventID) (*matrix.Event, Status, error) {
	if id == a.ev.ID() {
		return a.ev, Accepted, nil
	}
	return a.View.Event(id)
}

// unmoved: the event took the place of heads whose states were all its own, so that the set of states is what it was.
// This spares the resolution for each message sent while the room is forked.
func (in *insertion) unmoved(out *Insertion, after State) bool {
	replaced := 0
	for i, p := range in.prev {
		if !slices.Contains(in.room.Heads, p) {
			continue
		}
		if !in.states[i].Equal(after) {
			return false
		}
		replaced++
	}
	// Every head that went is one of the parents just compared.
	return replaced > 0 && len(in.room.Heads)-replaced+1 == len(out.Heads)
}

// followed is what the event puts behind it: its parents, and where a parent is not accepted and so never took its own
// parents' place, those too, and so on.
func (in *insertion) followed() (map[matrix.EventID]bool, error) {
	gone := make(map[matrix.EventID]bool, len(in.prev))
	var walk []matrix.EventID
	for i, p := range in.prev {
		gone[p] = true
		if in.status[i] != Accepted {
			walk = append(walk, p)
		}
	}
	for len(walk) > 0 {
		x := walk[len(walk)-1]
		walk = walk[:len(walk)-1]
		ev, _, err := event(in.view, x)
		if err != nil {
			return nil, err
		}
		for _, p := range ev.PrevEvents() {
			if gone[p] {
				continue
			}
			gone[p] = true
			prev, status, err := in.view.Event(p)
			if err != nil {
				return nil, fmt.Errorf("reading a parent: %w", err)
			}
			if prev != nil && status != Accepted {
				walk = append(walk, p)
			}
		}
	}
	return gone, nil
}

// sameIDs: the same ids in any order; neither list has one twice.
func sameIDs(a, b []matrix.EventID) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			return false
		}
	}
	return true
}
