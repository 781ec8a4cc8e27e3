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
	"tarn/store"
)

// SetMembership is invite, join, leave (also reject an invite), kick, ban, unban (leave for a banned target), by actor on target.
// A join from an invite works alone and offline from the invite's snapshot. A join of who is joined gives the event
// by which they are. Errors: ErrForbidden, ErrLargeRoom (an invite), ErrUnknownRoom, ErrNotMember (leaving what one is not in), ErrBadEvent.
func (r *Rooms) SetMembership(ctx context.Context, room matrix.RoomID, actor, target matrix.UserID, membership, reason string, direct bool) (matrix.EventID, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if _, _, err := matrix.ParseUserID(target); err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadEvent, err)
	}
	if membershipByte(membership) == 0 {
		return "", fmt.Errorf("%w: membership %.20q", ErrBadEvent, membership)
	}
	if !r.local(actor) {
		return "", fmt.Errorf("%w: the sender is not of this server", ErrForbidden)
	}
	l, err := r.get(room)
	if err != nil {
		return "", err
	}
	var id matrix.EventID
	_, err = r.write(l, func(p *plan) (err error) {
		if actor == target && (membership == matrix.MemberJoin || membership == matrix.MemberLeave) {
			if id, err = p.enter(actor, membership); id != "" || err != nil {
				return err
			}
		} else if !p.row.active {
			return fmt.Errorf("%w: nobody here is in the room", ErrForbidden)
		}
		if membership == matrix.MemberInvite {
			if err := p.fits(serverOf(target)); err != nil {
				return err
			}
		}
		content := r.memberContent(target, membership, reason, direct)
		if actor == target && membership == matrix.MemberJoin {
			if content, err = p.restricted(actor, content); err != nil {
				return err
			}
		}
		key := string(target)
		e, err := p.author(matrix.Proto{Sender: actor, Type: matrix.TypeMember, StateKey: &key, Content: content})
		if err != nil {
			return err
		}
		id = e.ev.ID()
		return nil
	})
	if errors.Is(err, errNothing) {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	return id, nil
}

// Alone tells whether this node can give a local user that membership by itself: else who is in the room is to be asked (Seek).
// It is not said that the rules allow it.
func (r *Rooms) Alone(user matrix.UserID, room matrix.RoomID, membership string) (bool, error) {
	alone := false
	err := r.read(room, func(q *reading) error {
		row, err := q.user(user)
		if err != nil {
			return err
		}
		if !q.row.active {
			alone = row.membership == matrix.MemberInvite && row.state != 0 && membership != matrix.MemberKnock ||
				membership == matrix.MemberLeave && row.membership != matrix.MemberKnock
			return nil
		}
		if alone = true; membership != matrix.MemberJoin || row.membership == matrix.MemberInvite || row.membership == matrix.MemberBan {
			return nil
		}
		// A restricted join that nobody of ours can vouch for; somebody elsewhere may.
		e, err := q.stateEvent(mustState(q), matrix.TypeJoinRules, "")
		if err != nil || e == nil {
			return err
		}
		if rule, _ := joinRules(e.ev); rule == "restricted" || rule == "knock_restricted" {
			by, err := q.voucher(user)
			if err != nil {
				return err
			}
			t, err := q.tallyOf()
			if err != nil {
				return err
			}
			alone = by != "" || len(r.contacts(t.remotes)) == 0
		}
		return nil
	})
	if errors.Is(err, ErrUnknownRoom) {
		return membership == matrix.MemberLeave, nil
	}
	return alone, err
}

// errNothing ends a write that has nothing to write.
var errNothing = errors.New("nothing to do")

// enter makes the room ready for a user's own join or leave. With errNothing, id is the event that did it already.
func (p *plan) enter(u matrix.UserID, membership string) (id matrix.EventID, err error) {
	standing, err := p.user(u)
	if err != nil {
		return "", err
	}
	if membership == matrix.MemberLeave {
		switch standing.membership {
		case "", matrix.MemberLeave:
			return "", ErrNotMember
		case matrix.MemberBan:
			return "", fmt.Errorf("%w: banned", ErrForbidden)
		}
	} else if standing.membership == matrix.MemberJoin {
		return standing.event.id(), errNothing
	}
	switch invited := standing.membership == matrix.MemberInvite && standing.state != 0; {
	case p.row.active && invited:
		return "", p.merge(standing)
	case p.row.active:
		return "", nil
	case invited:
		return "", p.adopt(standing)
	case membership == matrix.MemberLeave:
		return "", ErrNotMember
	}
	// The room was left, or only heard of: nobody here can say who is in it. Who is can be asked (Seek).
	return "", ErrUnknownRoom
}

// merge brings an invite that came with a snapshot into a room that another local user has entered meanwhile.
func (p *plan) merge(standing userRow) error {
	e, err := p.held(standing.event)
	if err != nil {
		return err
	}
	if e == nil {
		return fmt.Errorf("%w: an invite is missing", errRow)
	}
	if !e.outlier {
		return nil
	}
	in, err := p.try(e.ev)
	if err != nil && !errors.Is(err, dag.ErrHeld) {
		return err
	}
	if err == nil && len(in.Missing) == 0 {
		_, err = p.put(e.ev, in)
		return err
	}
	_, err = p.graft(e.ev, standing.state)
	return err
}

// graft inserts an event whose parents are not all known, with a state that is taken for the one before it.
// Who authors such an event has no more power by it than by naming old parents: the room's current state judges it too.
func (p *plan) graft(ev *matrix.Event, before uint32) (*held, error) {
	s, err := p.state(before)
	if err != nil {
		return nil, err
	}
	in := dag.Insertion{Status: dag.Accepted, Before: s, After: s, Current: p.current}
	for _, h := range p.row.heads {
		in.Heads = append(in.Heads, h.id())
	}
	judge := func(s dag.State, no dag.Status) error {
		err := dag.Allowed(p, p.row.version, s, ev)
		if errors.Is(err, dag.ErrNotAllowed) {
			in.Status, in.Why, err = no, err, nil
		}
		return err
	}
	if err := judge(s, dag.Rejected); err != nil {
		return nil, err
	}
	if in.Status == dag.Accepted {
		if err := judge(p.current, dag.SoftFailed); err != nil {
			return nil, err
		}
	}
	if slot, ok := ev.Slot(); ok && in.Status != dag.Rejected {
		in.After = s.With(slot, ev.ID())
	}
	if in.Status == dag.Accepted {
		in.Heads = slices.DeleteFunc(in.Heads, func(id matrix.EventID) bool { return slices.Contains(ev.PrevEvents(), id) })
		in.Heads = append(in.Heads, ev.ID())
		if in.Current, err = dag.Resolve(p, p.row.version, []dag.State{p.current, in.After}); err != nil {
			return nil, err
		}
	}
	return p.put(ev, in)
}

// memberContent is the content of a member event.
func (r *Rooms) memberContent(u matrix.UserID, membership, reason string, direct bool) json.RawMessage {
	c := struct {
		Membership string `json:"membership"`
		Name       string `json:"displayname,omitempty"`
		Avatar     string `json:"avatar_url,omitempty"`
		Reason     string `json:"reason,omitempty"`
		Direct     bool   `json:"is_direct,omitempty"`
	}{Membership: membership, Reason: reason, Direct: direct && membership == matrix.MemberInvite}
	if r.o.Profile != nil && r.local(u) && (membership == matrix.MemberJoin || membership == matrix.MemberInvite || membership == matrix.MemberKnock) {
		c.Name, c.Avatar = r.o.Profile(u)
	}
	return object(c)
}

// restricted adds the authorising user to a join that only membership of another room allows (room version 8,
// "restricted"): one of ours who may invite. What is not allowed the rules refuse.
func (p *plan) restricted(u matrix.UserID, content json.RawMessage) (json.RawMessage, error) {
	if was, err := p.memberNow(u); err != nil || was == matrix.MemberInvite || was == matrix.MemberJoin {
		return content, err
	}
	by, err := p.voucher(u)
	if by == "" || err != nil {
		return content, err
	}
	return vouchedBy(content, by)
}

// Forget hides a left room from its user (POST /forget); ErrForbidden while still in it, ErrUnknownRoom.
func (r *Rooms) Forget(user matrix.UserID, room matrix.RoomID) error {
	l, err := r.get(room)
	if err != nil {
		return err
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	err = r.kv.Update(func(txn store.Txn) error {
		v, err := txn.Get(userKey(user, l.n))
		if isNotFound(err) {
			return ErrUnknownRoom
		}
		if err != nil {
			return err
		}
		row, err := decodeUser(v)
		if err != nil {
			return err
		}
		if row.membership != matrix.MemberLeave && row.membership != matrix.MemberBan {
			return fmt.Errorf("%w: still in the room", ErrForbidden)
		}
		row.forgotten = true
		return txn.Set(userKey(user, l.n), row.encode())
	})
	if err != nil {
		return fmt.Errorf("forgetting a room: %w", err)
	}
	return nil
}
