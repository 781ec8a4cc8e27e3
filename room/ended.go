// SPDX-License-Identifier: Apache-2.0

package room

import (
	"errors"
	"fmt"

	"tarn/dag"
	"tarn/matrix"
)

// A node that is in no room any more, or not yet, must still hear what becomes of its users there: an invite is taken back, a knock
// is refused, who left is banned, a ban is lifted. The node can not judge such an event by the room's state, of which it knows an old
// one at most. So the event comes with what it leans on (a small snapshot: its auth events and their chain), which is believed of a server in the room.

// ends says whether a user's standing can become m by another's word while nobody here is in the room.
func ends(standing, m string) bool {
	return standing != "" && standing != matrix.MemberJoin && (m == matrix.MemberLeave || m == matrix.MemberBan)
}

// retractions looks at events of a room that the node takes no part in: of interest is only what becomes of local users.
func (in *ingest) retractions(p *plan) error {
	for h, c := range in.todo {
		delete(in.todo, h)
		done, err := p.retract(h, c)
		if err != nil {
			return err
		}
		if done {
			in.out.Stored = append(in.out.Stored, c.ev.ID())
		} else {
			in.out.Bad++
		}
	}
	in.work = nil
	return nil
}

// retract takes such an event if the state that the node knows allows it: that of the invite, or of when it left.
func (p *plan) retract(h hash, c *candidate) (bool, error) {
	ev := c.ev
	if ev.Type() != matrix.TypeMember || ev.StateKey() == nil || !p.r.local(matrix.UserID(*ev.StateKey())) {
		return false, nil
	}
	user := matrix.UserID(*ev.StateKey())
	row, err := p.user(user)
	if err != nil || row.state == 0 && row.membership == matrix.MemberInvite {
		return false, err
	}
	s, id, err := p.standingIn(user, row)
	if err != nil {
		return false, err
	}
	status, why, missing := dag.InsertOutlier(p, p.row.version, ev)
	if status == 0 && len(missing) == 0 {
		return false, why
	}
	if status != dag.Accepted {
		return false, nil
	}
	if err := dag.Allowed(p, p.row.version, s, ev); err != nil {
		if errors.Is(err, dag.ErrNotAllowed) {
			err = nil
		}
		return false, err
	}
	return p.end(user, row, ev, c.spoilt, id)
}

// standingIn is the newest state that the node knows of a room that nobody here is in, with the user's standing in it.
func (p *plan) standingIn(user matrix.UserID, row userRow) (dag.State, uint32, error) {
	near := row.state
	if near == 0 {
		near = p.row.current
	}
	s, err := p.state(near)
	if err != nil {
		return nil, 0, err
	}
	s = s.With(matrix.StateKey{Type: matrix.TypeMember, Key: string(user)}, row.event.id())
	id, err := p.idOf(s, near)
	return s, id, err
}

// end makes a leave or ban by another the user's standing, and shows it, with the state of that id. false: it changes nothing, for it is
// older than the standing, or was taken before.
func (p *plan) end(user matrix.UserID, row userRow, ev *matrix.Event, spoilt bool, state uint32) (bool, error) {
	h := mustHash(ev.ID())
	known, err := p.held(h)
	if known != nil || err != nil || !ends(row.membership, ev.Membership()) {
		return false, err
	}
	if _, twice := p.users[user]; twice {
		return false, nil
	}
	old, err := p.held(row.event)
	if err != nil {
		return false, err
	}
	if old == nil {
		return false, fmt.Errorf("%w: a member event is missing", errRow)
	}
	if ev.Depth() < old.ev.Depth() {
		return false, nil // overtaken by what it is older than
	}
	p.add(h, &held{ev: ev, status: dag.Accepted, outlier: true, spoilt: spoilt, shown: true,
		before: state, after: state, now: state, replaces: row.event})
	p.users[user] = userChange{userRow{membership: ev.Membership(), event: h}, h}
	p.topics[user] = true
	return true, nil
}

// endBy takes a small snapshot: what became of a user. ErrUnknownRoom: the node does not know the user in the room yet; what it is about may be on its way.
func (p *plan) endBy(c *checked) error {
	row, err := p.user(c.user)
	if err != nil {
		return err
	}
	if row.membership == "" {
		return ErrUnknownRoom
	}
	s, known, err := p.standingIn(c.user, row)
	if err != nil {
		return err
	}
	if !c.resident {
		if in, err := p.serverWas(s, c.from, matrix.MemberJoin); err != nil || !in {
			return errors.Join(err, fmt.Errorf("%w: it comes from a server that is not in the room", ErrBadSnapshot))
		}
	}
	if ok, err := p.end(c.user, row, c.event, c.spoilt[c.event.ID()], known); !ok || err != nil {
		return err
	}
	return p.outliers(c)
}
