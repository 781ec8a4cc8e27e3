// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"errors"
	"fmt"

	"tarn/matrix"
)

// Status is what became of an event.
type Status byte

// The statuses, as stored.
const (
	Accepted   Status = 1 // part of the graph and shown
	SoftFailed Status = 2 // allowed by its own branch, not by the room as it is now: in the graph, not shown (spec: soft failure)
	Rejected   Status = 3 // fails the auth rules: kept so that its children are not asked for again, never used
)

// String is the status in a word.
func (s Status) String() string {
	switch s {
	case Accepted:
		return "accepted"
	case SoftFailed:
		return "soft-failed"
	case Rejected:
		return "rejected"
	}
	return fmt.Sprintf("status %d", byte(s))
}

var (
	// ErrNotAllowed: the authorization rules say no. Every reason for a rejection or a soft failure wraps it.
	ErrNotAllowed = errors.New("not allowed in this room")
	// ErrIncomplete: an event that must be held is not; the store is damaged, or the caller broke an invariant.
	ErrIncomplete = errors.New("an event that others lean on is missing")
	// ErrOtherRoom: the event is not of this room, or of another version than the room. A caller's mistake or a peer's lie; nothing is stored.
	ErrOtherRoom = errors.New("event of another room")
	// ErrHeld: the event is held already.
	ErrHeld = errors.New("event is held already")
)

// View is what the graph reads of one room; room implements it over a transaction. Its answers do not change during a call.
type View interface {
	// Event returns nil if the event is not held (or is itself waiting for parents).
	Event(matrix.EventID) (*matrix.Event, Status, error)
	// StateAfter is the state after a held event (for Rejected ones: the state before it). It is nil for an event that
	// is held as an outlier only (InsertOutlier), whose state nobody knows; an event that follows it is Missing it.
	// The map is not changed by anybody; handing out the same map for the same state makes comparisons cheap.
	StateAfter(matrix.EventID) (State, error)
}

// Referencer may be implemented by a View that can hold an event before its parents (a room joined by a snapshot, whose
// history comes later): Referenced says whether an Accepted event that is held has id among its prev_events. Such an
// event, when it is inserted, is no head.
type Referencer interface {
	Referenced(id matrix.EventID) (bool, error)
}

// Approximator may be implemented by a View that knows some states only nearly (a room joined by a snapshot takes one for all that lies before it):
// Approximate says whether the state after a held event is such. An event is so too (Insertion.Approximate) if those after all of its parents are. What check 5
// refuses with such a parent is soft-failed, not rejected: whoever knows the true state may have accepted it, and the room goes on from there. That
// gives nobody more than naming old parents does: what holds in the room is resolved against its other branches. An invite beside a deeper removal counts as older than that.
type Approximator interface {
	Approximate(id matrix.EventID) (bool, error)
}

// Room is what is known of a room before an event is inserted.
type Room struct {
	ID      matrix.RoomID
	Version matrix.RoomVersion
	Heads   []matrix.EventID // forward extremities
	Current State            // resolved over Heads
}

// Insertion says what an event does to its room.
type Insertion struct {
	Missing []matrix.EventID // not empty: parents or auth events that are not held; nothing else is set
	Status  Status
	Why     error // of SoftFailed and Rejected; wraps ErrNotAllowed
	Before  State // at the event; never nil
	After   State // after it; Before's map if it changes nothing
	Heads   []matrix.EventID
	Current State // resolved over Heads; == Room.Current's map if unchanged

	Approximate bool // Before is only nearly known (Approximator)
}

// Create finds the room's create event in a state (v12: by the room id).
func Create(room matrix.RoomID, version matrix.RoomVersion, s State) (matrix.EventID, bool) {
	if version.RoomIDIsCreateEventID() {
		id := matrix.CreateEventID(version, room)
		return id, id != ""
	}
	id, ok := s[matrix.StateKey{Type: matrix.TypeCreate}]
	return id, ok
}

// event is the view's, or ErrIncomplete.
func event(v View, id matrix.EventID) (*matrix.Event, Status, error) {
	ev, status, err := v.Event(id)
	if err != nil {
		return nil, 0, fmt.Errorf("reading an event: %w", err)
	}
	if ev == nil {
		return nil, 0, ErrIncomplete
	}
	return ev, status, nil
}
