// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"tarn/dag"
	"tarn/matrix"
)

// Snapshot is what lets a node take part in a room alone and offline: it goes with an invite.
//
// The node that gets it believes the inviter in one thing: that State was the room's state before Event. Everything in it is signed by
// who wrote it and allowed by its auth events; what the inviter could do is leave newer state out. Of the states before
// the snapshot's other events the node knows nothing. It takes State for it ("floor") where it must have one: for the
// visibility of the history, and where an event that another server wrote beside the invite leans on what was before (dag.Approximator: what
// it forbids is soft-failed, not rejected). Nobody has more power by that than by naming old parents: the room's current state judges such an event too.
type Snapshot struct {
	Room         matrix.RoomID
	Version      matrix.RoomVersion
	Event        matrix.EventID // the invite (or membership event) it goes with; in Events
	Heads        []matrix.EventID
	Events       [][]byte         // state at Event, its auth chain, the last events as far as visibility allows; parents first
	State        []matrix.EventID // which of them are the state before Event
	Certificates [][]byte         // of every server that signed one of them
}

// Limits of a snapshot.
const (
	historyEvents   = 50        // last events that go along
	historyBytes    = 512 << 10 // bytes of them
	maxSnapshot     = 20_000    // events
	maxCertificates = 2_000
	maxSnapshotSize = 8 << 20 // bytes of all events; what is taken
	maxHandedOver   = 4 << 20 // of a bundle's record, which holds all of it: what is given
	largeRoom       = 500     // entries of the state of a room that is measured before somebody is invited
	invitesFrom     = 100     // of one server's users for one of ours, in rooms that this node never was in
)

// Snapshot assembles one for the membership event. ErrUnknownRoom, ErrUnknownEvent, ErrLargeRoom.
func (r *Rooms) Snapshot(room matrix.RoomID, event matrix.EventID) (*Snapshot, error) {
	var out *Snapshot
	err := r.read(room, func(q *reading) (err error) {
		out, err = q.snapshot(event)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("assembling a snapshot: %w", err)
	}
	return out, nil
}

func (q *reading) snapshot(id matrix.EventID) (*Snapshot, error) {
	e, err := q.byID(id)
	if err != nil {
		return nil, err
	}
	if e == nil || e.outlier || e.status != dag.Accepted || e.ev.Type() != matrix.TypeMember || e.ev.StateKey() == nil {
		return nil, ErrUnknownEvent
	}
	state, err := q.state(e.before)
	if err != nil {
		return nil, err
	}
	if denied, err := q.denied(serverOf(matrix.UserID(*e.ev.StateKey()))); denied || err != nil {
		return nil, cmp.Or(err, ErrUnknownEvent)
	}
	ended := e.ev.Membership() == matrix.MemberLeave || e.ev.Membership() == matrix.MemberBan
	if ended { // what it leans on, no more (ended.go)
		if state, err = q.leanedOn(e.ev, state); err != nil {
			return nil, err
		}
	}
	s := &Snapshot{Room: q.row.id, Version: q.row.version, Event: id, Heads: []matrix.EventID{id}}
	all := map[matrix.EventID]*held{id: e}
	var history map[matrix.EventID]*held
	if !ended {
		if history, err = q.historyFor(serverOf(matrix.UserID(*e.ev.StateKey())), e); err != nil {
			return nil, err
		}
	}
	if err := q.gather(s, state, history, []matrix.EventID{id}, all); err != nil {
		return nil, err
	}
	if err := q.fill(s, all); err != nil {
		return nil, err
	}
	return s, nil
}

// gather names the state in s, and puts it and the history, with the auth chains of them and of roots, into all.
func (q *reading) gather(s *Snapshot, state dag.State, history map[matrix.EventID]*held, roots []matrix.EventID, all map[matrix.EventID]*held) error {
	for _, x := range state {
		s.State, roots = append(s.State, x), append(roots, x)
	}
	slices.Sort(s.State)
	for h, x := range history {
		all[h], roots = x, append(roots, h)
	}
	chain, err := dag.AuthChain(q, roots)
	if err != nil {
		return err
	}
	for _, x := range append(roots, chain...) {
		if all[x] != nil {
			continue
		}
		if all[x], err = q.byID(x); err != nil {
			return err
		}
		if all[x] == nil {
			return fmt.Errorf("%w: an event of the state is missing", errRow)
		}
	}
	return nil
}

// leanedOn is that part of the state before an event which it names as its auth events, and the create event.
func (q *reading) leanedOn(ev *matrix.Event, state dag.State) (dag.State, error) {
	out := dag.State{}
	create, err := q.createIn(state)
	if err != nil {
		return nil, err
	}
	if create != nil {
		out[matrix.StateKey{Type: matrix.TypeCreate}] = create.ID()
	}
	for _, id := range ev.AuthEvents() {
		e, err := q.byID(id)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, fmt.Errorf("%w: an auth event is missing", errRow)
		}
		if slot, ok := e.ev.Slot(); ok {
			out[slot] = id
		}
	}
	if !q.r.local(ev.Sender()) { // it goes through our hands: that we are in the room is to be seen
		t, err := q.tallyOf()
		if err != nil || len(t.locals) == 0 {
			return out, err
		}
		slot := matrix.StateKey{Type: matrix.TypeMember, Key: slices.Min(t.locals)}
		if id, ok := state[slot]; ok && out[slot] == "" {
			out[slot] = id
		}
	}
	return out, nil
}

// fill puts events, parents first, and their certificates into s. ErrLargeRoom.
func (q *reading) fill(s *Snapshot, all map[matrix.EventID]*held) error {
	sorted := make([]*matrix.Event, 0, len(all))
	for _, e := range all {
		sorted = append(sorted, shown(e)) // what was redacted is given redacted
	}
	slices.SortFunc(sorted, byDepth)
	for _, ev := range sorted {
		s.Events = append(s.Events, ev.Raw())
	}
	var err error
	if s.Certificates, err = q.certificatesOf(sorted); err != nil {
		return err
	}
	if len(s.Events) > maxSnapshot || len(s.Certificates) > maxCertificates || s.size() > maxHandedOver {
		return ErrLargeRoom
	}
	return nil
}

// certificatesOf are those of the keys that signed events, as far as they are here.
func (q *reading) certificatesOf(events []*matrix.Event) (out [][]byte, err error) {
	have := map[string]bool{}
	for _, ev := range events {
		for server, keys := range ev.PDU().Signatures {
			for keyID := range keys {
				name := server + " " + string(keyID)
				if have[name] {
					continue
				}
				have[name] = true
				// As it lies there: it was checked when it came, and checking a thousand again would take half a second.
				raw, err := q.rd.Get(certificateKey(matrix.ServerName(server), string(keyID)))
				if isNotFound(err) {
					continue
				}
				if err != nil {
					return nil, err
				}
				out = append(out, slices.Clone(raw))
			}
		}
	}
	return out, nil
}

// size is how many bytes a record of s takes at most (SPEC §6.3: each piece with its length).
func (s *Snapshot) size() int {
	n := len(s.Room) + len(s.Version) + len(s.Event) + 64
	for _, ids := range [][]matrix.EventID{s.Heads, s.State} {
		for _, id := range ids {
			n += len(id) + 1
		}
	}
	for _, raws := range [][][]byte{s.Events, s.Certificates} {
		for _, raw := range raws {
			n += len(raw) + 3
		}
	}
	return n
}

// fits is nil if the room as it is could go with an invite to a server. ErrLargeRoom.
func (p *plan) fits(server matrix.ServerName) error {
	if p.r.server() == server || len(p.current) < largeRoom {
		return nil
	}
	if in, err := p.serverIn(server); in || err != nil {
		return err // it gets the event alone
	}
	_, err := p.snapshotNow(server)
	return err
}

// byDepth sorts parents before children, the same everywhere.
func byDepth(a, b *matrix.Event) int {
	return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), a.Time().Compare(b.Time()), cmp.Compare(a.ID(), b.ID()))
}

// historyFor are the last events before e that a server whose user comes in by e may see.
func (q *reading) historyFor(server matrix.ServerName, e *held) (map[matrix.EventID]*held, error) {
	out := map[matrix.EventID]*held{}
	size := 0
	err := q.walk(e.place-1, 0, true, func(x placed) (bool, error) {
		s, err := q.state(x.before)
		if err != nil {
			return false, err
		}
		open, err := q.visibilityIn(s)
		if err != nil {
			return false, err
		}
		ok := open >= openness(visShared)
		if !ok && open == openness(visInvited) {
			ok, err = q.serverWas(s, server, matrix.MemberInvite)
		}
		if !ok && err == nil {
			ok, err = q.serverWas(s, server, matrix.MemberJoin)
		}
		if err != nil || !ok {
			return false, err
		}
		size += len(x.ev.Raw())
		out[x.ev.ID()] = x.held
		return len(out) < historyEvents && size < historyBytes, nil
	})
	if err != nil {
		return nil, err
	}
	// What was not accepted is not in the timeline, but children lean on it.
	for _, x := range slices.Collect(maps.Values(out)) {
		for _, id := range x.ev.PrevEvents() {
			prev, err := q.byID(id)
			if err != nil {
				return nil, err
			}
			if prev != nil && !prev.shown && !prev.outlier && size < historyBytes {
				size += len(prev.ev.Raw())
				out[id] = prev
			}
		}
	}
	return out, nil
}

// IngestSnapshot takes an invite (checked whole before anything is kept): the invited local user sees it in /sync. Or what became of a
// local user in a room that nobody here is in; ErrUnknownRoom: the user has no standing there yet.
// If the node is in the room already, its events are ingested like any others. A snapshot that was taken before changes nothing.
// ErrBadSnapshot says what is wrong with it. ErrForbidden: too many invites of one server wait.
func (r *Rooms) IngestSnapshot(ctx context.Context, from matrix.ServerName, s *Snapshot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := r.checkSnapshot(from, s)
	if err != nil {
		return fmt.Errorf("taking an invite: %w", err)
	}
	if err := r.roomForInvite(s.Room, c); err != nil {
		return fmt.Errorf("taking an invite: %w", err)
	}
	find := r.make
	if c.event.Membership() != matrix.MemberInvite {
		find = r.get
	}
	l, err := find(s.Room)
	if err != nil {
		return err
	}
	active, err := r.takeSnapshot(l, s, c)
	if err != nil {
		return fmt.Errorf("taking an invite: %w", err)
	}
	if !active {
		return nil
	}
	for _, x := range c.certs {
		if err := r.AddCertificate(x); err != nil {
			return err
		}
	}
	_, err = r.Ingest(ctx, from, s.Room, s.Events)
	return err
}

// roomForInvite refuses an invite to a room that is new here if the user has invitesFrom of that server's in rooms that
// the node never was in: open ones, and those that the server took back, for their events stay.
func (r *Rooms) roomForInvite(room matrix.RoomID, c *checked) error {
	return r.view(func(rd snapshot) error {
		if _, err := r.number(rd, room); !errors.Is(err, ErrUnknownRoom) {
			return err
		}
		rows, err := userRows(rd, c.user)
		if err != nil || len(rows) < invitesFrom {
			return err
		}
		n := 0
		for _, x := range rows {
			if x.row.membership == matrix.MemberJoin {
				continue
			}
			q, err := r.openNumber(rd, x.n)
			if err != nil {
				return err
			}
			if q.row.active {
				continue
			}
			e, err := q.held(x.row.event)
			if err != nil {
				return err
			}
			if e != nil && e.ev.Server() == c.event.Server() {
				n++
			}
		}
		if n >= invitesFrom {
			return fmt.Errorf("%w: %d invites of one server wait", ErrForbidden, n)
		}
		return nil
	})
}

// beginFrom plans what a snapshot brings, to a room that is known or not. In a room that the node takes part in nothing of the
// snapshot is looked at.
func (r *Rooms) beginFrom(l *live, rd snapshot, s *Snapshot) (*plan, error) {
	p, err := r.begin(l, rd)
	if errors.Is(err, ErrUnknownRoom) {
		p, err = r.beginNew(l, rd, s.Room, s.Version)
	}
	if err == nil && !p.row.active && p.row.version != s.Version {
		err = fmt.Errorf("%w: another version than the room has", ErrBadSnapshot)
	}
	return p, err
}

// takeSnapshot stores a good snapshot; active: the node is in the room, and nothing was stored.
func (r *Rooms) takeSnapshot(l *live, s *Snapshot, c *checked) (active bool, err error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	var p *plan
	nothing := false
	err = r.view(func(rd snapshot) error {
		if p, err = r.beginFrom(l, rd, s); err != nil {
			return err
		}
		if active = p.row.active; active {
			return nil
		}
		known, err := p.byID(s.Event)
		if err != nil {
			return err
		}
		if nothing = known != nil; nothing {
			return nil
		}
		if c.event.Membership() == matrix.MemberInvite {
			err = p.plant(c)
		} else {
			err = p.endBy(c)
		}
		nothing = len(p.changed) == 0
		return err
	})
	if err != nil {
		l.abandon()
		return false, err
	}
	if active || nothing {
		if p.created {
			l.abandon()
		}
		return active, nil
	}
	// A crash before this is durable: the sender gets no acknowledgement and sends the snapshot again. After it: the user
	// sees the invite, and the same snapshot again changes nothing.
	_, err = p.commit()
	return false, err
}

// plant plans a snapshot's events as outliers and the invited user's standing.
func (p *plan) plant(c *checked) error {
	if late, err := p.overtaken(c); late || err != nil {
		return err
	}
	if err := p.outliers(c); err != nil {
		return err
	}
	id, err := p.idOf(c.state, p.row.current)
	if err != nil {
		return err
	}
	by := mustHash(c.event.ID())
	p.users[c.user] = userChange{userRow{membership: matrix.MemberInvite, event: by, state: id}, by}
	p.topics[c.user] = true
	return nil
}

// overtaken tells whether an invite is nothing beside the user's standing: who wrote it did not know that the user had left, or was removed,
// and by the rules that stands. A join on it would be one for this node alone. (Who invited learns of the leave as of any event.)
func (p *plan) overtaken(c *checked) (bool, error) {
	row, err := p.user(c.user)
	if err != nil || row.event == (hash{}) {
		return false, err
	}
	old, err := p.held(row.event)
	if err != nil || old == nil {
		return false, err
	}
	if c.event.Depth() < old.ev.Depth() {
		return true, nil // it was taken back before it came
	}
	if row.membership != matrix.MemberLeave && row.membership != matrix.MemberBan {
		return false, nil
	}
	s, err := p.state(cmp.Or(old.after, p.row.current))
	if err != nil {
		return false, err
	}
	slot, _ := c.event.Slot()
	now, err := dag.Resolve(beside{p, c}, p.row.version, []dag.State{s.With(slot, old.ev.ID()), c.state.With(slot, c.event.ID())})
	return err == nil && now[slot] != c.event.ID(), err
}

// beside is what the plan holds, with a snapshot that it has not taken.
type beside struct {
	*plan
	c *checked
}

// Event is a dag.View's.
func (b beside) Event(id matrix.EventID) (*matrix.Event, dag.Status, error) {
	if ev, status, err := b.plan.Event(id); ev != nil || err != nil {
		return ev, status, err
	}
	return b.c.good.Event(id)
}

// outliers plans a snapshot's events, without their states.
func (p *plan) outliers(c *checked) error {
	for _, ev := range c.events {
		h := mustHash(ev.ID())
		e, err := p.held(h)
		if err != nil {
			return err
		}
		if e == nil {
			p.add(h, &held{ev: ev, status: dag.Accepted, outlier: true, spoilt: c.spoilt[ev.ID()]})
		}
	}
	for _, ev := range c.events {
		if err := p.edges(ev); err != nil {
			return err
		}
	}
	p.certificates = c.certs
	return nil
}
