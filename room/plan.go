// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"reflect"
	"slices"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// plan is a transaction in the making: what a writer decided, in memory. Everything is decided before the transaction,
// under the room's lock; the transaction itself only writes (commit.go). A plan that fails is dropped.
type plan struct {
	reading
	l       *live
	census  *census
	current dag.State

	changed map[hash]*held // new and changed events
	fresh   []hash         // those among them that get a place in the order, in their order
	states  map[uint32]newState
	ids     map[uintptr]uint32 // ids of states by their maps
	maps    []dag.State        // keeps the maps of ids alive, so that no other takes a place in memory

	members  []memberChange
	users    map[matrix.UserID]userChange // standings that no member change gives: invites with a snapshot
	topics   map[matrix.UserID]bool
	servers  map[matrix.ServerName]bool // whose number of joined or invited members changed
	outbox   []delivery
	txns     []txnRow
	redacts  map[[2]hash]bool // redaction rows to write
	aliases  map[string]bool  // to be set to this room
	edge     map[hash]bool    // parents of outliers that are not held
	pending  map[hash]*pendingRow
	targets  map[hash]bool // what new events relate to
	unlinked []hash        // held events that a redaction took out of their relations, and out of the index of words
	unseated []seq         // timeline rows of events that got another place
	created  bool          // the room is new

	// Of a room's past (gaps.go): what got a place below others, each with its place; the gap that a snapshot leaves; the one that is filled.
	seated     []hash
	opened     *gapRow
	filled     *filled
	gapsBefore []gap  // the room's, before this plan
	near       uint32 // the id of a state that is probably like the next one

	certificates []onionid.Certificate
	stripped     *strippedState
	ungiven      map[matrix.EventID]bool    // those that nobody gives (without.go)
	handed       []matrix.ServerName        // servers that were handed what they had missed
	parted       map[matrix.ServerName]hash // servers that are not in the room any more by what an event decided that was not about them (parted.go)
	verdicts     []hash                     // what others decided of who is in the room, and took part in no plan before (parted.go)
}

type newState struct {
	chained
	row stateRow
}

type memberChange struct {
	user     matrix.UserID
	from, to string
	event    hash // the member event
	by       hash // the event that made it so, whose place is the change's
}

type userChange struct {
	row userRow
	by  hash
}

type delivery struct {
	to   matrix.ServerName
	kind byte
	data []byte
}

// begin reads the room for a writer, who holds the lock until commit or abandon.
func (r *Rooms) begin(l *live, rd snapshot) (*plan, error) {
	p := &plan{
		reading: reading{r: r, rd: rd, n: l.n}, l: l,
		changed: map[hash]*held{}, states: map[uint32]newState{}, ids: map[uintptr]uint32{},
		users: map[matrix.UserID]userChange{}, topics: map[matrix.UserID]bool{}, servers: map[matrix.ServerName]bool{}, parted: map[matrix.ServerName]hash{},
		redacts: map[[2]hash]bool{}, aliases: map[string]bool{}, edge: map[hash]bool{}, targets: map[hash]bool{}, pending: map[hash]*pendingRow{},
	}
	p.over = p
	if l.row == nil {
		q, err := r.openNumber(rd, l.n)
		if err != nil {
			return nil, err
		}
		l.row = &q.row
	}
	p.row = *l.row
	p.row.heads = slices.Clone(p.row.heads)
	p.gapsBefore = p.row.gaps
	if l.census == nil {
		var err error
		if l.census, err = p.count(); err != nil {
			return nil, err
		}
	}
	p.census = l.census
	var err error
	p.current, err = p.state(p.row.current)
	return p, err
}

// beginNew is begin for a room without a row.
func (r *Rooms) beginNew(l *live, rd snapshot, id matrix.RoomID, version matrix.RoomVersion) (*plan, error) {
	l.row = &roomRow{id: id, version: version, nextID: 1}
	l.census = nil
	p, err := r.begin(l, rd)
	if err == nil {
		p.created = true
	}
	return p, err
}

// abandon forgets what a plan may have changed in memory.
func (l *live) abandon() {
	l.row, l.census, l.ways = nil, nil, nil
	l.tally.Store(nil)
}

// write runs fn on a plan of the room and commits it. fn's error, or the transaction's, leaves nothing.
func (r *Rooms) write(l *live, fn func(*plan) error) (store.Pos, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	var p *plan
	err := r.view(func(rd snapshot) (err error) {
		if p, err = r.begin(l, rd); err != nil {
			return err
		}
		return fn(p)
	})
	if err != nil {
		l.abandon()
		return 0, err
	}
	return p.commit()
}

// know remembers that id is the id of s.
func (p *plan) know(s dag.State, id uint32) {
	if ptr := reflect.ValueOf(s).Pointer(); ptr != 0 {
		if _, ok := p.ids[ptr]; !ok {
			p.ids[ptr] = id
			p.maps = append(p.maps, s)
		}
	}
}

// idOf finds or makes the id of a state; near is the id of one that is probably alike.
func (p *plan) idOf(s dag.State, near uint32) (uint32, error) {
	if len(s) == 0 {
		return 0, nil
	}
	if id, ok := p.ids[reflect.ValueOf(s).Pointer()]; ok {
		return id, nil
	}
	base, err := p.chained(near)
	if err != nil {
		return 0, err
	}
	row := stateRow{base: near, depth: base.depth + 1, set: dag.State{}}
	for k, v := range s {
		if base.state[k] != v {
			row.set[k] = v
		}
	}
	for k := range base.state {
		if _, ok := s[k]; !ok {
			row.gone = append(row.gone, k)
		}
	}
	if near != 0 && len(row.set) == 0 && len(row.gone) == 0 {
		p.know(s, near)
		return near, nil
	}
	// A full state now and then bounds what a look-up costs. The larger the state the rarer: so the bytes an event costs do
	// not grow with the room, and reading the chain costs about what reading the full state does.
	if near == 0 || row.depth > max(32, min(len(s)/4, 512)) || len(row.set)+len(row.gone) > len(s)/2 {
		row = stateRow{set: s}
	}
	id := p.row.nextID
	p.row.nextID++
	p.states[id] = newState{chained{s, row.depth}, row}
	p.know(s, id)
	return id, nil
}

// graph is what dag knows of the room.
func (p *plan) graph() dag.Room {
	g := dag.Room{ID: p.row.id, Version: p.row.version, Current: p.current}
	for _, h := range p.row.heads {
		g.Heads = append(g.Heads, h.id())
	}
	return g
}

// try asks dag what an event does; nothing is changed.
func (p *plan) try(ev *matrix.Event) (dag.Insertion, error) {
	in, err := dag.Insert(p, p.graph(), ev)
	if err != nil || len(in.Missing) == 0 || !p.without(in.Missing) {
		return in, err
	}
	return p.tryWithout(ev)
}

// put takes an insertion into the plan.
func (p *plan) put(ev *matrix.Event, in dag.Insertion) (*held, error) {
	h := mustHash(ev.ID())
	e := &held{ev: ev, status: in.Status, near: in.Approximate}
	var err error
	if e.before, err = p.idOf(in.Before, p.row.current); err != nil {
		return nil, err
	}
	if e.after, err = p.idOf(in.After, e.before); err != nil {
		return nil, err
	}
	if in.Status == dag.Rejected {
		e.after = e.before
	}
	if e.now, err = p.idOf(in.Current, max(e.after, p.row.current)); err != nil {
		return nil, err
	}
	if slot, ok := ev.Slot(); ok && in.Before[slot] != "" {
		e.replaces = mustHash(in.Before[slot])
	}
	e.shown = in.Status == dag.Accepted
	p.add(h, e)
	if e.shown {
		if err := p.redactions(h, e); err != nil {
			return nil, err
		}
		if err := p.relate(h, e); err != nil {
			return nil, err
		}
	}
	p.row.heads = p.row.heads[:0]
	for _, id := range in.Heads {
		p.row.heads = append(p.row.heads, mustHash(id))
	}
	if err := p.advance(in.Current, e.now, h); err != nil {
		return nil, err
	}
	return p.changed[h], p.catchUp(e)
}

// add gives an event a place in the order.
func (p *plan) add(h hash, e *held) {
	if old := p.changed[h]; old == nil || old.place != 0 { // else it came in this very plan, by a snapshot
		p.fresh = append(p.fresh, h)
	}
	p.changed[h] = e
}

// change gives a copy of a held event to be changed; its place stays.
func (p *plan) change(h hash, e *held) *held {
	if c := p.changed[h]; c != nil {
		return c
	}
	c := *e
	p.changed[h] = &c
	return &c
}

// advance makes s (of the id) the room's current state and follows its members.
func (p *plan) advance(s dag.State, id uint32, by hash) error {
	old := p.current
	p.current, p.row.current = s, id
	if s.Same(old) {
		return nil
	}
	for k, v := range s {
		if k.Type == matrix.TypeMember && old[k] != v {
			e, err := p.byID(v)
			if err != nil {
				return err
			}
			if e == nil {
				return fmt.Errorf("%w: a member event is missing", errRow)
			}
			if err := p.move(matrix.UserID(k.Key), e.ev.Membership(), mustHash(v), by); err != nil {
				return err
			}
		}
	}
	for k := range old {
		if _, ok := s[k]; !ok && k.Type == matrix.TypeMember {
			if err := p.move(matrix.UserID(k.Key), matrix.MemberLeave, hash{}, by); err != nil {
				return err
			}
		}
	}
	return nil
}

// move notes a member's change.
func (p *plan) move(u matrix.UserID, to string, event, by hash) error {
	from, err := p.memberNow(u)
	if err != nil {
		return err
	}
	p.members = append(p.members, memberChange{u, from, to, event, by})
	p.census.change(p.r, u, from, to)
	if from == matrix.MemberJoin != (to == matrix.MemberJoin) || from == matrix.MemberInvite != (to == matrix.MemberInvite) {
		p.servers[serverOf(u)] = true
	}
	if from == matrix.MemberJoin && to != matrix.MemberJoin && event != by && !p.r.local(u) {
		p.parted[serverOf(u)] = by
	}
	if p.r.local(u) {
		p.topics[u] = true
	}
	return nil
}

// memberNow is a user's membership as the plan has it.
func (p *plan) memberNow(u matrix.UserID) (string, error) {
	for _, m := range slices.Backward(p.members) {
		if m.user == u {
			return m.to, nil
		}
	}
	return p.member(u)
}
