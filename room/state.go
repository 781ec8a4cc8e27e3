// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"slices"
	"strings"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// Reading. Each checks what user may see ("History visibility"); a user who left sees the room as it was then.

// stateFor is the id of the state that a user may read: now's for members, that of their leaving for who left, now's of
// a world-readable room for everybody. ErrNotMember.
func (q *reading) stateFor(user matrix.UserID) (uint32, error) {
	y, err := q.enter(user)
	if err != nil {
		return 0, err
	}
	if y.last == 0 {
		return q.row.current, nil
	}
	if y.joined == 0 {
		return 0, ErrNotMember // was invited only
	}
	return q.nowAt(y.last)
}

// events reads the events of a state, sorted by type and key.
func (q *reading) events(id uint32) ([]*matrix.Event, error) {
	s, err := q.state(id)
	if err != nil {
		return nil, err
	}
	return q.eventsOf(s)
}

func (q *reading) eventsOf(s dag.State) ([]*matrix.Event, error) {
	keys := make([]matrix.StateKey, 0, len(s))
	for k := range s {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b matrix.StateKey) int {
		if a.Type != b.Type {
			return strings.Compare(a.Type, b.Type)
		}
		return strings.Compare(a.Key, b.Key)
	})
	out := make([]*matrix.Event, 0, len(keys))
	for _, k := range keys {
		e, err := q.stateEvent(s, k.Type, k.Key)
		if err != nil {
			return nil, err
		}
		out = append(out, shown(e))
	}
	return out, nil
}

// State reads the room's state (as of the user's leaving).
func (r *Rooms) State(user matrix.UserID, room matrix.RoomID) ([]*matrix.Event, error) {
	var out []*matrix.Event
	err := r.read(room, func(q *reading) error {
		id, err := q.stateFor(user)
		if err != nil {
			return err
		}
		out, err = q.events(id)
		return err
	})
	return out, err
}

// StateOf reads those pieces of it that keep keeps.
func (r *Rooms) StateOf(user matrix.UserID, room matrix.RoomID, keep func(matrix.StateKey) bool) ([]*matrix.Event, error) {
	var out []*matrix.Event
	err := r.read(room, func(q *reading) error {
		id, err := q.stateFor(user)
		if err != nil {
			return err
		}
		s, err := q.state(id)
		if err != nil {
			return err
		}
		some := dag.State{}
		for k, v := range s {
			if keep(k) {
				some[k] = v
			}
		}
		out, err = q.eventsOf(some)
		return err
	})
	return out, err
}

// StateEvent reads one piece of it; ErrNoState.
func (r *Rooms) StateEvent(user matrix.UserID, room matrix.RoomID, k matrix.StateKey) (*matrix.Event, error) {
	var out *matrix.Event
	err := r.read(room, func(q *reading) error {
		id, err := q.stateFor(user)
		if err != nil {
			return err
		}
		s, err := q.state(id)
		if err != nil {
			return err
		}
		e, err := q.stateEvent(s, k.Type, k.Key)
		if err != nil {
			return err
		}
		if e == nil {
			return ErrNoState
		}
		out = shown(e)
		return nil
	})
	return out, err
}

// Members lists member events; at 0: now.
func (r *Rooms) Members(user matrix.UserID, room matrix.RoomID, at store.Pos) ([]*matrix.Event, error) {
	var out []*matrix.Event
	err := r.read(room, func(q *reading) error {
		id, err := q.stateFor(user)
		if err != nil {
			return err
		}
		if at != 0 && cut(at) < q.row.last {
			y, err := q.look(user)
			if err != nil {
				return err
			}
			if y.last == 0 || cut(at) < y.last {
				if id, err = q.nowAt(cut(at)); err != nil {
					return err
				}
			}
		}
		s, err := q.state(id)
		if err != nil {
			return err
		}
		members := dag.State{}
		for k, v := range s {
			if k.Type == matrix.TypeMember {
				members[k] = v
			}
		}
		out, err = q.eventsOf(members)
		return err
	})
	return out, err
}

// Membership of user in room ("" if never); of users of other servers as the room's state has it.
func (r *Rooms) Membership(user matrix.UserID, room matrix.RoomID) (string, error) {
	var out string
	err := r.read(room, func(q *reading) (err error) {
		if !r.local(user) {
			out, err = q.member(user)
			return err
		}
		row, err := q.user(user)
		out = row.membership
		return err
	})
	if err == ErrUnknownRoom {
		return "", nil
	}
	return out, err
}

// Joined lists the rooms that user is joined to.
func (r *Rooms) Joined(user matrix.UserID) ([]matrix.RoomID, error) {
	var out []matrix.RoomID
	err := r.eachJoined(user, func(q *reading) error {
		out = append(out, q.row.id)
		return nil
	})
	return out, err
}

// numbered is a user's standing in the room of that number.
type numbered struct {
	n   uint32
	row userRow
}

// userRows reads a local user's standings.
func userRows(rd store.Reader, user matrix.UserID) ([]numbered, error) {
	var out []numbered
	prefix := userPrefix(user)
	err := rd.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		row, err := decodeUser(v)
		if err != nil || len(k) != len(prefix)+4 {
			return false, fmt.Errorf("%w: user", errRow)
		}
		out = append(out, numbered{numberFromKey(k), row})
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading a user's rooms: %w", err)
	}
	return out, nil
}
