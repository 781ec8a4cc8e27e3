// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"slices"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
)

// checked is a snapshot that was found good.
type checked struct {
	events []*matrix.Event // parents first; those whose auth events allow them
	good   outliers        // the same, by id
	spoilt map[matrix.EventID]bool
	state  dag.State
	event  *matrix.Event // of whose membership it is
	heads  []*matrix.Event
	user   matrix.UserID
	from   matrix.ServerName
	// resident: the state, or the event itself, says that from is a server in the room.
	resident bool
	certs    []onionid.Certificate
}

// outliers is the dag.View of a snapshot's events.
type outliers map[matrix.EventID]*matrix.Event

func (o outliers) Event(id matrix.EventID) (*matrix.Event, dag.Status, error) {
	return o[id], dag.Accepted, nil
}
func (o outliers) StateAfter(matrix.EventID) (dag.State, error) { return nil, nil }

// checkSnapshot checks everything that can be checked of the snapshot of an invite, or of the end of a standing; it writes nothing.
func (r *Rooms) checkSnapshot(from matrix.ServerName, s *Snapshot) (*checked, error) {
	c, good, err := r.checkEvents(from, s)
	if err != nil {
		return nil, err
	}
	c.event = good[s.Event]
	if c.event == nil || c.event.Type() != matrix.TypeMember || c.event.StateKey() == nil {
		return nil, badSnapshot("no member event that is allowed")
	}
	invite := false
	switch c.event.Membership() {
	case matrix.MemberInvite:
		invite = true
	case matrix.MemberLeave, matrix.MemberBan:
	default:
		return nil, badSnapshot("of no invite, and not the end of one")
	}
	c.user = matrix.UserID(*c.event.StateKey())
	if !r.local(c.user) || r.o.Exists != nil && !r.o.Exists(c.user) {
		return nil, badSnapshot("it is about nobody here")
	}
	c.resident = c.event.Server() == from
	if err := c.checkState(s, good); err != nil {
		return nil, err
	}
	if !c.resident && invite {
		return nil, badSnapshot("it comes from a server that is not in the room")
	}
	if id, ok := c.state[matrix.StateKey{Type: matrix.TypeServerACL}]; ok {
		if a := readACL(good[id].Content()); !a.allows(c.event.Server()) || !a.allows(from) {
			return nil, badSnapshot("the room denies the server")
		}
	}
	if err := dag.Allowed(good, s.Version, c.state, c.event); err != nil {
		return nil, badSnapshot("it is not allowed: %w", err)
	}
	return c, nil
}

func badSnapshot(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrBadSnapshot}, a...)...)
}

// checkEvents checks the bounds, and every event by itself; good are those that their auth events allow.
func (r *Rooms) checkEvents(from matrix.ServerName, s *Snapshot) (c *checked, good outliers, err error) {
	size := 0
	for _, raw := range s.Events {
		size += len(raw)
	}
	switch {
	case !matrix.Supported(s.Version):
		return nil, nil, fmt.Errorf("%w: %.20q", ErrBadVersion, string(s.Version))
	case matrix.CheckRoomID(s.Version, s.Room) != nil:
		return nil, nil, badSnapshot("room id")
	case len(s.Events) > maxSnapshot || size > maxSnapshotSize || len(s.Certificates) > maxCertificates || len(s.State) > len(s.Events):
		return nil, nil, badSnapshot("too large")
	}
	c = &checked{spoilt: map[matrix.EventID]bool{}, from: from}
	keys, err := r.snapshotKeys(s, c)
	if err != nil {
		return nil, nil, err
	}
	all := make(map[matrix.EventID]*matrix.Event, len(s.Events))
	for _, raw := range s.Events {
		ev, err := matrix.Parse(s.Version, raw)
		if err != nil {
			return nil, nil, badSnapshot("an event: %w", err)
		}
		if ev.Room() != s.Room {
			return nil, nil, badSnapshot("an event of another room")
		}
		if err := ev.Verify(keys); err != nil {
			return nil, nil, badSnapshot("an event: %w", err)
		}
		if ev.Redacted() {
			c.spoilt[ev.ID()] = true
		}
		all[ev.ID()] = ev
	}
	c.good = c.settle(s.Version, all)
	return c, c.good, nil
}

// checkState checks that the state is one, of this room, and sees whether who sent it is in the room.
func (c *checked) checkState(s *Snapshot, good outliers) error {
	c.state = make(dag.State, len(s.State))
	for _, id := range s.State {
		ev := good[id]
		if ev == nil {
			return badSnapshot("state that is missing or not allowed")
		}
		slot, ok := ev.Slot()
		if !ok || c.state[slot] != "" {
			return badSnapshot("state twice, or not state")
		}
		c.state[slot] = id
		c.resident = c.resident || slot.Type == matrix.TypeMember && ev.Membership() == matrix.MemberJoin && serverOf(matrix.UserID(slot.Key)) == c.from
	}
	create, ok := dag.Create(s.Room, s.Version, c.state)
	if !ok || good[create] == nil || c.state[matrix.StateKey{Type: matrix.TypeCreate}] != create {
		return badSnapshot("no create event")
	}
	return nil
}

// snapshotKeys reads the certificates; keys that are known already count too.
func (r *Rooms) snapshotKeys(s *Snapshot, c *checked) (matrix.KeyFunc, error) {
	given := map[string]onionid.Certificate{}
	for _, raw := range s.Certificates {
		x, err := onionid.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: a certificate: %w", ErrBadSnapshot, err)
		}
		given[string(x.Server)+" "+x.KeyID] = x
		c.certs = append(c.certs, x)
	}
	return r.keysWith(given), nil
}

// settle finds the events whose auth events allow them, those first that others lean on, and lists them parents first.
func (c *checked) settle(version matrix.RoomVersion, all map[matrix.EventID]*matrix.Event) outliers {
	good := outliers{}
	waits := map[matrix.EventID][]*matrix.Event{}
	work := make([]*matrix.Event, 0, len(all))
	for _, ev := range all {
		work = append(work, ev)
	}
	slices.SortFunc(work, func(a, b *matrix.Event) int { return byDepth(b, a) })
	for len(work) > 0 {
		ev := work[len(work)-1]
		work = work[:len(work)-1]
		if good[ev.ID()] != nil {
			continue
		}
		status, _, missing := dag.InsertOutlier(good, version, ev)
		switch {
		case len(missing) > 0:
			// Tried again with each auth event that is found good: at most ten times.
			waits[missing[0]] = append(waits[missing[0]], ev)
		case status == dag.Accepted:
			good[ev.ID()] = ev
			c.events = append(c.events, ev)
			work = append(work, waits[ev.ID()]...)
			delete(waits, ev.ID())
		}
	}
	slices.SortFunc(c.events, byDepth)
	return good
}
