// SPDX-License-Identifier: Apache-2.0

package room

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// Sizes of the caches in bytes, as estimated.
const (
	eventCache = 12 << 20
	stateCache = 8 << 20
	certCache  = 512 << 10
	certCost   = 300 // of a certificate beside its bytes
	eventCost  = 700 // of an event beside its bytes
	stateCost  = 190 // of an entry of a state
)

type eventID struct {
	n uint32
	h hash
}

type stateID struct{ n, id uint32 }

// reading is one room in one snapshot of the database. It implements dag.View.
type reading struct {
	r   *Rooms
	rd  snapshot
	n   uint32
	row roomRow

	over *plan // of a writer: what it is about to write, seen as if it were there
}

// snapshot is one snapshot of the database. Rows of events change now and then (a redaction, a snapshot's event that
// gets its place); changes is how often they had when the snapshot was not yet taken, so that nothing old is put into the cache.
type snapshot struct {
	store.Reader
	changes uint64
}

// view runs fn on a snapshot.
func (r *Rooms) view(fn func(snapshot) error) error {
	changes := r.changes.Load()
	return r.kv.View(func(rd store.Reader) error { return fn(snapshot{rd, changes}) })
}

// read runs fn on a room in a snapshot.
func (r *Rooms) read(room matrix.RoomID, fn func(*reading) error) error {
	return r.view(func(rd snapshot) error {
		q, err := r.open(rd, room)
		if err != nil {
			return err
		}
		return fn(q)
	})
}

var _ dag.View = (*reading)(nil)

// open reads the room's row.
func (r *Rooms) open(rd snapshot, room matrix.RoomID) (*reading, error) {
	n, err := r.number(rd, room)
	if err != nil {
		return nil, err
	}
	return r.openNumber(rd, n)
}

func (r *Rooms) openNumber(rd snapshot, n uint32) (*reading, error) {
	v, err := rd.Get(roomKey(n))
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrUnknownRoom
	}
	if err != nil {
		return nil, fmt.Errorf("reading a room: %w", err)
	}
	row, err := decodeRoom(v)
	if err != nil {
		return nil, err
	}
	return &reading{r: r, rd: rd, n: n, row: row}, nil
}

// held reads an event; nil if the node does not have it.
func (q *reading) held(h hash) (*held, error) {
	if q.over != nil {
		if e := q.over.changed[h]; e != nil {
			return e, nil
		}
	}
	k := eventID{q.n, h}
	if e, ok := q.r.events.get(k); ok {
		return e, nil
	}
	v, err := q.rd.Get(eventKey(q.n, h))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading an event: %w", err)
	}
	e, err := decodeHeld(q.row.version, h.id(), v)
	if err != nil {
		return nil, err
	}
	q.r.events.putIf(k, e, eventCost+len(e.ev.Raw()), func() bool { return q.r.changes.Load() == q.rd.changes })
	return e, nil
}

// head reads an event that the row of the room says is here.
func (q *reading) head(h hash) (*held, error) {
	e, err := q.held(h)
	if e == nil && err == nil {
		err = fmt.Errorf("%w: a head is missing", errRow)
	}
	return e, err
}

// byID is held by event id; nil also for what is no event id.
func (q *reading) byID(id matrix.EventID) (*held, error) {
	h, err := hashOf(id)
	if err != nil {
		return nil, nil
	}
	return q.held(h)
}

// Event implements dag.View.
func (q *reading) Event(id matrix.EventID) (*matrix.Event, dag.Status, error) {
	e, err := q.byID(id)
	if e == nil {
		return nil, 0, err
	}
	return e.ev, e.status, nil
}

// StateAfter implements dag.View; nil: nobody knows.
func (q *reading) StateAfter(id matrix.EventID) (dag.State, error) {
	e, err := q.byID(id)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fmt.Errorf("%w: the state after it", ErrUnknownEvent) // without the id: errors reach logs
	}
	if rooted, err := q.rooted(e); !rooted || err != nil {
		return nil, err
	}
	return q.state(q.stateOf(e))
}

// chained is a state, and how long the chain of differences is that it is stored as.
type chained struct {
	state dag.State
	depth int
}

// state reads a state by its id; 0 is the empty one. Not to be changed. The same id gives the same map, mostly.
func (q *reading) state(id uint32) (dag.State, error) {
	c, err := q.chained(id)
	if err == nil && q.over != nil {
		q.over.know(c.state, id)
	}
	return c.state, err
}

func (q *reading) chained(id uint32) (chained, error) {
	if id == 0 {
		return chained{state: dag.State{}}, nil
	}
	var rows []stateRow
	var base chained
	for at := id; ; {
		if q.over != nil {
			if c, ok := q.over.states[at]; ok {
				base = c.chained
				break
			}
		}
		if c, ok := q.r.states.get(stateID{q.n, at}); ok {
			base = c
			break
		}
		v, err := q.rd.Get(stateKey(q.n, at))
		if err != nil {
			return chained{}, fmt.Errorf("reading a state: %w", err)
		}
		row, err := decodeState(v)
		if err != nil {
			return chained{}, err
		}
		if row.base == 0 {
			base = chained{state: row.set}
			if len(rows) == 0 {
				q.r.states.put(stateID{q.n, id}, base, len(base.state)*stateCost)
			}
			break
		}
		if row.base >= at { // ids grow along a chain: no loop, however the rows were damaged
			return chained{}, fmt.Errorf("%w: state", errRow)
		}
		rows = append(rows, row)
		at = row.base
	}
	if len(rows) == 0 {
		return base, nil
	}
	c := chained{applyChain(base.state, rows), base.depth + len(rows)}
	q.r.states.put(stateID{q.n, id}, c, len(c.state)*stateCost)
	return c, nil
}

// applyChain puts differences, the newest first, onto a copy of base.
func applyChain(base dag.State, rows []stateRow) dag.State {
	out := make(dag.State, len(base)+len(rows))
	maps.Copy(out, base)
	for _, row := range slices.Backward(rows) {
		maps.Copy(out, row.set)
		for _, k := range row.gone {
			delete(out, k)
		}
	}
	return out
}

// stateEvent reads a piece of a state; nil if it is not there.
func (q *reading) stateEvent(s dag.State, typ, key string) (*held, error) {
	id, ok := s[matrix.StateKey{Type: typ, Key: key}]
	if !ok {
		return nil, nil
	}
	e, err := q.byID(id)
	if err == nil && e == nil {
		err = fmt.Errorf("%w: a state's event is missing", errRow)
	}
	return e, err
}

// membershipIn is the membership of a user in a state; "" if never.
func (q *reading) membershipIn(s dag.State, u matrix.UserID) (string, error) {
	e, err := q.stateEvent(s, matrix.TypeMember, string(u))
	if e == nil {
		return "", err
	}
	return e.ev.Membership(), nil
}

// powerIn reads the power levels of a state.
func (q *reading) powerIn(s dag.State) (*matrix.PowerLevels, error) {
	create, err := q.createIn(s)
	if err != nil {
		return nil, err
	}
	levels, err := q.stateEvent(s, matrix.TypePowerLevels, "")
	if err != nil {
		return nil, err
	}
	var l *matrix.Event
	if levels != nil {
		l = levels.ev
	}
	return matrix.NewPowerLevels(create, l), nil
}

func (q *reading) createIn(s dag.State) (*matrix.Event, error) {
	id, ok := dag.Create(q.row.id, q.row.version, s)
	if !ok {
		return nil, nil
	}
	e, err := q.byID(id)
	if e == nil {
		return nil, err
	}
	return e.ev, nil
}

// user reads a local user's standing; the zero row if there is none.
func (q *reading) user(u matrix.UserID) (userRow, error) {
	v, err := q.rd.Get(userKey(u, q.n))
	if errors.Is(err, store.ErrNotFound) {
		return userRow{}, nil
	}
	if err != nil {
		return userRow{}, fmt.Errorf("reading a membership: %w", err)
	}
	return decodeUser(v)
}

// member reads a user's membership in the current state.
func (q *reading) member(u matrix.UserID) (string, error) {
	v, err := q.rd.Get(memberKey(q.n, u))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading a member: %w", err)
	}
	m, _, err := decodeMember(v)
	return m, err
}
