// SPDX-License-Identifier: Apache-2.0

package dag

import "tarn/matrix"

// State is what holds in a room at one point: immutable by convention, shared freely.
type State map[matrix.StateKey]matrix.EventID

// Status is what became of an event.
type Status byte

// The statuses, as stored.
const (
	Accepted   Status = 1 // part of the graph and shown
	SoftFailed Status = 2 // allowed by its own branch, not by the room as it is now: in the graph, not shown (spec: soft failure)
	Rejected   Status = 3 // fails the auth rules: kept so that its children are not asked for again, never used
)

// View is what the graph reads of one room; room implements it over a transaction.
type View interface {
	// Event returns nil if the event is not held (or is itself waiting for parents).
	Event(matrix.EventID) (*matrix.Event, Status, error)
	// StateAfter is the state after a held event (for Rejected ones: the state before it).
	StateAfter(matrix.EventID) (State, error)
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
	Why     error // of SoftFailed and Rejected
	Before  State // at the event
	After   State // after it
	Heads   []matrix.EventID
	Current State // resolved over Heads; == Room.Current's map if unchanged
}

// Insert decides an event's fate (spec: server-server API, "Checks performed on receipt of a PDU", 4-6; its
// signature was verified before). Pure: the caller stores the result in one transaction. An event already held must not be inserted.
func Insert(v View, r Room, ev *matrix.Event) (Insertion, error) { panic("unwritten") }

// InsertOutlier checks an event of a snapshot by its auth events alone (rules 4.x): parents are not needed.
func InsertOutlier(v View, version matrix.RoomVersion, ev *matrix.Event) (Status, error, []matrix.EventID) {
	panic("unwritten")
}

// AuthEvents selects the auth events of a new event from the state (spec: "Auth events selection"; v12: not the create event).
func AuthEvents(version matrix.RoomVersion, s State, p matrix.Proto) []matrix.EventID {
	panic("unwritten")
}

// Allowed checks ev against a state (spec: authorization rules of the version), with the library's panics turned into errors.
func Allowed(v View, version matrix.RoomVersion, s State, ev *matrix.Event) error { panic("unwritten") }

// Resolve is state resolution v2 or v2.1, as the version says.
func Resolve(v View, version matrix.RoomVersion, sets []State) (State, error) { panic("unwritten") }

// AuthChain is every event that ids' events lean on, themselves not included, in no order.
func AuthChain(v View, ids []matrix.EventID) ([]matrix.EventID, error) { panic("unwritten") }

// Create finds the room's create event in a state (v12: by the room id).
func Create(room matrix.RoomID, version matrix.RoomVersion, s State) (matrix.EventID, bool) {
	panic("unwritten")
}
