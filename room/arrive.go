// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tarn/dag"
	"tarn/matrix"
)

// arrive takes an answer that changes the room; done: the user has the membership.
func (r *Rooms) arrive(ctx context.Context, from matrix.ServerName, s *seeking, a Answer) (done bool, err error) {
	switch {
	case s.Kind == AskJoin && a.Kind == AnswerSnapshot:
		return r.arriveBy(ctx, from, s, a.Snapshot)
	case s.Kind != AskJoin && a.Kind == AnswerDone && s.Sent != nil && s.By == from:
		return true, r.stand(s)
	}
	return false, nil
}

// arriveBy joins by a snapshot: of the room as it is, or of the join that a resident has co-signed and inserted.
func (r *Rooms) arriveBy(ctx context.Context, from matrix.ServerName, s *seeking, snap *Snapshot) (bool, error) {
	if snap.Room != s.Room {
		return false, fmt.Errorf("%w: of another room", ErrBadSnapshot)
	}
	c, err := r.checkArrival(from, s, snap)
	if err != nil {
		return false, fmt.Errorf("joining: %w", err)
	}
	l, err := r.make(s.Room)
	if err != nil {
		return false, err
	}
	active, err := r.takeArrival(l, s, snap, c)
	if err != nil || !active {
		return err == nil, err
	}
	// Another local user came in meanwhile, or was there: the events are like any others.
	for _, x := range c.certs {
		if err := r.AddCertificate(x); err != nil {
			return false, err
		}
	}
	if c.event != nil {
		if _, err := r.Ingest(ctx, from, s.Room, snap.Events); err != nil {
			return false, err
		}
	} else if _, err := r.SetMembership(ctx, s.Room, s.User, s.User, matrix.MemberJoin, s.Reason, false); err != nil {
		return false, err
	}
	m, err := r.Membership(s.User, s.Room)
	if err == nil && m != matrix.MemberJoin {
		err = fmt.Errorf("%w: the join is not in the room's state", ErrForbidden)
	}
	return err == nil, err
}

// checkArrival checks a snapshot that was asked for; c.event is the join that it is of, nil if it is of the room as it is.
func (r *Rooms) checkArrival(from matrix.ServerName, s *seeking, snap *Snapshot) (*checked, error) {
	c, good, err := r.checkEvents(from, snap)
	if err != nil {
		return nil, err
	}
	if err := c.checkState(snap, good); err != nil {
		return nil, err
	}
	if !c.resident {
		return nil, fmt.Errorf("%w: it comes from a server that is not in the room", ErrBadSnapshot)
	}
	c.user = s.User
	if s.Sent != nil {
		own, err := matrix.Parse(snap.Version, s.Sent)
		if err != nil || own.ID() != snap.Event || good[snap.Event] == nil {
			return nil, fmt.Errorf("%w: of another join", ErrBadSnapshot)
		}
		c.event = good[snap.Event]
		if err := dag.Allowed(good, snap.Version, c.state, c.event); err != nil {
			return nil, fmt.Errorf("%w: the join is not allowed: %w", ErrBadSnapshot, err)
		}
		return c, nil
	}
	if len(snap.Heads) == 0 || len(snap.Heads) > matrix.MaxPrev {
		return nil, fmt.Errorf("%w: heads", ErrBadSnapshot)
	}
	for _, id := range snap.Heads {
		if good[id] == nil {
			return nil, fmt.Errorf("%w: a head that is missing or not allowed", ErrBadSnapshot)
		}
		c.heads = append(c.heads, good[id])
	}
	return c, nil
}

// takeArrival makes the snapshot the room, with the user in it, in ONE transaction: a crash before it leaves nothing, and the answer is taken
// again; after it the user is in the room. active: a local user is in the room already, and nothing was done.
func (r *Rooms) takeArrival(l *live, s *seeking, snap *Snapshot, c *checked) (active bool, err error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	var p *plan
	err = r.view(func(rd snapshot) error {
		if p, err = r.beginFrom(l, rd, snap); err != nil {
			return err
		}
		if active = p.row.active; active {
			return nil
		}
		if err := p.outliers(c); err != nil {
			return err
		}
		id, err := p.idOf(c.state, p.row.current)
		if err != nil {
			return err
		}
		if c.event != nil {
			return p.adopt(userRow{event: mustHash(c.event.ID()), state: id})
		}
		if err := p.settleAt(c, id); err != nil {
			return err
		}
		key := string(s.User)
		_, err = p.author(matrix.Proto{Sender: s.User, Type: matrix.TypeMember, StateKey: &key, Content: r.memberContent(s.User, matrix.MemberJoin, s.Reason, false)})
		return err
	})
	if err != nil || active {
		l.abandon()
		return active, err
	}
	_, err = p.commit()
	return false, err
}

// settleAt makes a snapshot of the room as it is the room: its state the floor, its heads the heads, and as much of the history as hangs together.
func (p *plan) settleAt(c *checked, id uint32) error {
	p.row.floor, p.row.floorDepth = id, 0
	p.row.heads = p.row.heads[:0]
	for _, ev := range c.heads {
		p.row.floorDepth = max(p.row.floorDepth, ev.Depth())
		p.row.heads = append(p.row.heads, mustHash(ev.ID()))
	}
	p.row.pastDepth = max(0, p.row.floorDepth-historyEvents)
	var ids []matrix.EventID
	for _, ev := range c.heads {
		ids = append(ids, ev.ID())
	}
	history, err := p.hangingFrom(ids)
	if err != nil {
		return err
	}
	by := p.row.heads[0]
	for _, ev := range history {
		p.row.pastDepth = min(p.row.pastDepth, ev.Depth())
		h := mustHash(ev.ID())
		e, err := p.held(h)
		if err != nil {
			return err
		}
		e = p.change(h, e)
		// A head that the newcomer may not see came redacted: it has its place in the graph, and none on a screen.
		e.before, e.after, e.now, e.shown = id, id, id, !e.spoilt
		p.seat(h, e)
		if by = h; !e.shown {
			continue
		}
		if err := p.redactions(h, e); err != nil {
			return err
		}
		if err := p.relate(h, e); err != nil {
			return err
		}
	}
	e, err := p.held(by)
	if err != nil {
		return err
	}
	p.change(by, e)
	if err := p.openGap(ids, history, ids); err != nil {
		return err
	}
	return p.advance(c.state, id, by)
}

// seat gives an event that was held a new place in the order, unless it is new itself.
func (p *plan) seat(h hash, e *held) {
	if e.place != 0 || !slices.Contains(p.fresh, h) {
		p.fresh = append(p.fresh, h)
	}
}

func strippedKey(n uint32, u matrix.UserID) []byte {
	return append([]byte{tabAsking, 's', byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, u...)
}

// stand keeps the user's knock, or the end of one, in a room that the node is not in: the event, and what the room shows of itself.
func (r *Rooms) stand(s *seeking) error {
	ev, err := matrix.Parse(s.With.Version, s.Sent)
	if err != nil {
		return err
	}
	l, err := r.make(s.Room)
	if err != nil {
		return err
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	var p *plan
	nothing := false
	err = r.view(func(rd snapshot) error {
		p, err = r.begin(l, rd)
		if errors.Is(err, ErrUnknownRoom) {
			p, err = r.beginNew(l, rd, s.Room, s.With.Version)
		}
		if err != nil {
			return err
		}
		h := mustHash(ev.ID())
		known, err := p.held(h)
		if err != nil {
			return err
		}
		row, err := p.user(s.User)
		if err != nil {
			return err
		}
		if nothing = known != nil || p.row.active || s.Kind == AskKnock && row.membership == matrix.MemberInvite; nothing {
			return nil // taken before; or the answer to the knock was quicker
		}
		p.add(h, &held{ev: ev, status: dag.Accepted, outlier: true, shown: true, replaces: row.event})
		p.users[s.User] = userChange{userRow{membership: ev.Membership(), event: h}, h}
		p.topics[s.User] = true
		if s.Kind == AskKnock {
			p.stripped = &strippedState{s.User, object(strippedRow{s.By, s.With.Stripped})}
		}
		return nil
	})
	if err != nil || nothing {
		l.abandon()
		return err
	}
	_, err = p.commit()
	return err
}

// strippedState is what a room showed of itself to a user that knocked.
type strippedState struct {
	user matrix.UserID
	raw  []byte
}

// strippedRow is its row: By has the knock.
type strippedRow struct {
	By     matrix.ServerName `json:"by"`
	Events [][]byte          `json:"events"`
}

func (q *reading) strippedRow(u matrix.UserID) (row strippedRow, err error) {
	v, err := q.rd.Get(strippedKey(q.n, u))
	if isNotFound(err) {
		return row, nil
	}
	if err == nil && json.Unmarshal(v, &row) != nil {
		err = fmt.Errorf("%w: stripped state", errRow)
	}
	return row, err
}

// strippedOf reads what was shown: nil if there is none.
func (q *reading) strippedOf(u matrix.UserID) ([]json.RawMessage, error) {
	row, err := q.strippedRow(u)
	if err != nil {
		return nil, err
	}
	var out []json.RawMessage
	for _, raw := range row.Events {
		var e struct {
			Type     string          `json:"type"`
			StateKey *string         `json:"state_key"`
			Sender   string          `json:"sender"`
			Content  json.RawMessage `json:"content"`
		}
		if json.Unmarshal(raw, &e) == nil && e.StateKey != nil && slices.Contains(strippedTypes, e.Type) {
			out = append(out, object(e)) // of all that a contact may have written there, no more
		}
	}
	return out, nil
}

// writeStripped is its part of a plan's transaction.
func (p *plan) writeStripped(w *writer) {
	if p.stripped != nil {
		w.set(strippedKey(p.n, p.stripped.user), p.stripped.raw)
	}
	for _, s := range p.handed {
		w.delete(handoverKey(p.n, s))
	}
}

func handoverKey(n uint32, s matrix.ServerName) []byte {
	return append([]byte{tabAsking, 'h', byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, s...)
}

// handover reads up to where a server was given the room in an answer; 0: it was not.
func (q *reading) handover(s matrix.ServerName) (seq, error) {
	v, err := q.rd.Get(handoverKey(q.n, s))
	if isNotFound(err) {
		return 0, nil
	}
	d := decoder{b: v}
	at := seq(d.uvarint())
	return at, errors.Join(err, d.err("handover"))
}
