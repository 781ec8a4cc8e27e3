// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/json"

	"tarn/dag"
	"tarn/matrix"
)

// The history visibilities (C-S API, "Room History Visibility"), the most open last.
const (
	visJoined  = "joined"
	visInvited = "invited"
	visShared  = "shared"
	visWorld   = "world_readable"
)

func openness(v string) int {
	switch v {
	case visJoined:
		return 0
	case visInvited:
		return 1
	case visWorld:
		return 3
	}
	return 2 // shared is the default, also for what nobody knows
}

// visibilityIn is the openness of a state.
func (q *reading) visibilityIn(s dag.State) (int, error) {
	e, err := q.stateEvent(s, matrix.TypeHistoryVisibility, "")
	if e == nil {
		return openness(visShared), err
	}
	return visibilityOf(e.ev), nil
}

func visibilityOf(ev *matrix.Event) int {
	var c struct {
		V string `json:"history_visibility"`
	}
	if json.Unmarshal(ev.Content(), &c) != nil {
		return openness(visShared)
	}
	return openness(c.V)
}

// eyes are a local user's, looking at one room: what they may see of it.
type eyes struct {
	q    *reading
	user matrix.UserID
	row  userRow // standing now; zero for who never was in the room
	// last is the end of what the user may see: where they left. 0: no end.
	last seq
	// joined is the last place up to which they were a member: "shared" history before it is theirs. 0: never.
	joined seq

	edge bool // reading backwards has come to a gap (gaps.go)

	// What was found for the last event's state: neighbours mostly share it.
	state    uint32
	known    bool
	openness int
	was      string
}

// look prepares to read as a user. ErrNotMember is not among the errors: a room may be world-readable.
func (q *reading) look(u matrix.UserID) (*eyes, error) {
	row, err := q.user(u)
	if err != nil {
		return nil, err
	}
	return q.lookAs(u, row)
}

// lookAs is look with the user's row, which was read already.
func (q *reading) lookAs(u matrix.UserID, row userRow) (*eyes, error) {
	e := &eyes{q: q, user: u, row: row}
	var err error
	if e.row.forgotten {
		e.row = userRow{}
		return e, nil
	}
	switch e.row.membership {
	case matrix.MemberJoin:
		e.joined = ^seq(0)
	case matrix.MemberLeave, matrix.MemberBan:
		e.last = e.row.place
		fallthrough
	case matrix.MemberInvite, matrix.MemberKnock:
		// The end of the last time that they were joined.
		prefix := historyPrefix(q.n, u)
		var next seq
		err = q.rd.ScanBack(prefix, nil, func(k, v []byte) (bool, error) {
			m, _, err := decodeMember(v)
			if err != nil {
				return false, err
			}
			if m == matrix.MemberJoin {
				e.joined = next
				return false, nil
			}
			next = seqFromKey(k)
			return true, nil
		})
	}
	return e, err
}

// sees says whether the user may see an event of the timeline (C-S API, "Room History Visibility", "Server behaviour").
func (y *eyes) sees(e *held) (bool, error) {
	if y.last != 0 && e.place > y.last {
		return false, nil
	}
	if !y.known || y.state != e.before {
		s, err := y.q.state(e.before)
		if err != nil {
			return false, err
		}
		if y.openness, err = y.q.visibilityIn(s); err != nil {
			return false, err
		}
		if y.was, err = y.q.membershipIn(s, y.user); err != nil {
			return false, err
		}
		y.state, y.known = e.before, true
	}
	open, was := y.openness, y.was
	switch {
	// The more open of before and after counts for what changes either.
	case e.ev.Is(matrix.TypeHistoryVisibility, ""):
		open = max(open, visibilityOf(e.ev))
	case e.ev.Is(matrix.TypeMember, string(y.user)):
		if m := e.ev.Membership(); was != matrix.MemberJoin {
			if m == matrix.MemberInvite || m == matrix.MemberJoin || m == matrix.MemberKnock {
				return true, nil // one's own invite and join one always sees
			}
			return was == matrix.MemberInvite || was == matrix.MemberKnock || m == matrix.MemberBan || open == 3, nil
		}
	}
	switch {
	case open == openness(visWorld), was == matrix.MemberJoin:
		return true, nil
	case open == openness(visShared):
		return e.place <= y.joined, nil
	case open == openness(visInvited) && was == matrix.MemberInvite:
		return true, nil
	}
	return y.meant(e)
}

// meant says whether who gave a message knew the user in the room when it was written, though by the state before it, as it is known here, he was not: of somebody who
// came again, or by a snapshot, that is often only nearly known. A server is given the text of what its users may read, and nothing of what they may not
// (mayHave): so whoever gave this to a server that by that state has nobody in the room meant those that are in it.
func (y *eyes) meant(e *held) (bool, error) {
	if e.ev.StateKey() != nil || e.spoilt || e.outlier || y.row.membership != matrix.MemberJoin || e.place < y.row.place || e.ev.Server() == y.q.r.server() {
		return false, nil
	}
	s, err := y.q.state(e.before)
	if err != nil {
		return false, err
	}
	somebody, err := y.q.serverWas(s, y.q.r.server(), matrix.MemberJoin)
	return !somebody, err
}

// torn tells whether an event is held without its content, though users here may read it, and nobody redacted it.
func (q *reading) torn(e *held) (bool, error) {
	if !e.spoilt || e.redacted || e.outlier || !e.shown || !q.row.active {
		return false, nil
	}
	return q.mayHave(q.r.server(), e)
}

func (q *reading) mayHave(server matrix.ServerName, e *held) (bool, error) {
	s, err := q.state(e.before)
	if err != nil {
		return false, err
	}
	if e.ev.Type() == matrix.TypeMember && serverOf(matrix.UserID(*orEmpty(e.ev.StateKey()))) == server {
		return true, nil
	}
	if was, err := q.serverWas(s, server, matrix.MemberJoin); was || err != nil {
		return was, err
	}
	in, err := q.serverIn(server)
	if err != nil || !in {
		return false, err
	}
	if e.ev.StateKey() != nil {
		return true, nil
	}
	open, err := q.visibilityIn(s)
	switch {
	case err != nil:
		return false, err
	case open == openness(visInvited):
		return q.serverWas(s, server, matrix.MemberInvite)
	}
	return open >= openness(visShared), nil
}

func orEmpty(s *string) *string {
	if s == nil {
		return new(string)
	}
	return s
}

// serverIn says whether a server has joined members now.
func (q *reading) serverIn(server matrix.ServerName) (bool, error) {
	if server == q.r.server() {
		return q.row.active, nil
	}
	_, err := q.rd.Get(serverKey(server, q.n))
	if isNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// wasInAfter says whether a joined member of a server left the room, or was removed, after an event.
func (q *reading) wasInAfter(server matrix.ServerName, e *held) (bool, error) {
	s, err := q.state(q.row.current)
	if err != nil {
		return false, err
	}
	for k, id := range s {
		if k.Type != matrix.TypeMember || serverOf(matrix.UserID(k.Key)) != server {
			continue
		}
		end, err := q.byID(id)
		if err != nil {
			return false, err
		}
		if end == nil || end.outlier || !e.outlier && e.place >= end.place {
			continue
		}
		if m := end.ev.Membership(); m != matrix.MemberLeave && m != matrix.MemberBan {
			continue
		}
		before, err := q.state(end.before)
		if err != nil {
			return false, err
		}
		if was, err := q.membershipIn(before, matrix.UserID(k.Key)); err != nil || was == matrix.MemberJoin {
			return err == nil, err
		}
	}
	return false, nil
}

// serverWas says whether a user of the server has that membership in a state. It looks at every member's name.
func (q *reading) serverWas(s dag.State, server matrix.ServerName, membership string) (bool, error) {
	for k, id := range s {
		if k.Type != matrix.TypeMember || serverOf(matrix.UserID(k.Key)) != server {
			continue
		}
		e, err := q.byID(id)
		if err != nil {
			return false, err
		}
		if e != nil && e.ev.Membership() == membership {
			return true, nil
		}
	}
	return false, nil
}
