// SPDX-License-Identifier: Apache-2.0

package room

import (
	"errors"
	"maps"
	"slices"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// Neighbours lists the local users that share a joined room with user, which is not among them. It looks at counts in
// memory, one a room of the user's.
func (r *Rooms) Neighbours(user matrix.UserID) ([]matrix.UserID, error) {
	found := map[matrix.UserID]bool{}
	err := r.eachJoined(user, func(q *reading) error {
		t, err := q.tallyOf()
		if err != nil {
			return err
		}
		for _, u := range t.locals {
			found[matrix.UserID(u)] = true
		}
		return nil
	})
	delete(found, user)
	return slices.Sorted(maps.Keys(found)), err
}

// Shares tells whether user, a local one, and other are joined to a common room.
func (r *Rooms) Shares(user, other matrix.UserID) (bool, error) {
	found := false
	err := r.view(func(rd snapshot) (err error) {
		found, err = shares(rd, user, other)
		return err
	})
	return found, err
}

func shares(rd snapshot, user, other matrix.UserID) (bool, error) {
	rows, err := userRows(rd, user)
	if err != nil {
		return false, err
	}
	for _, x := range rows {
		if x.row.membership != matrix.MemberJoin {
			continue
		}
		q := reading{rd: rd, n: x.n}
		if m, err := q.member(other); err != nil || m == matrix.MemberJoin {
			return err == nil, err
		}
	}
	return false, nil
}

// Mutual lists the rooms that a local user and another are joined to both.
func (r *Rooms) Mutual(user, other matrix.UserID) ([]matrix.RoomID, error) {
	out := []matrix.RoomID{}
	err := r.eachJoined(user, func(q *reading) error {
		m, err := q.member(other)
		if m == matrix.MemberJoin {
			out = append(out, q.row.id)
		}
		return err
	})
	return out, err
}

// eachJoined calls fn for the rooms that a local user is joined to.
func (r *Rooms) eachJoined(user matrix.UserID, fn func(*reading) error) error {
	return r.view(func(rd snapshot) error {
		rows, err := userRows(rd, user)
		if err != nil {
			return err
		}
		for _, x := range rows {
			if x.row.membership != matrix.MemberJoin {
				continue
			}
			q, err := r.openNumber(rd, x.n)
			if err != nil {
				return err
			}
			if err := fn(q); err != nil {
				return err
			}
		}
		return nil
	})
}

// Memberships grows with every change of a room's members, once it can be read.
func (r *Rooms) Memberships() uint64 { return r.memberships.Load() }

// Sharers lists the local users that are joined to a room in which server has a joined or an invited member: those whose keys
// its node must have. It looks at counts in memory, one for each such room.
func (r *Rooms) Sharers(server matrix.ServerName) ([]matrix.UserID, error) {
	found := localUsers{}
	err := r.eachUnder(found.add, serverPrefix(server), guestPrefix(server))
	return found.sorted(), err
}

// eachOf calls fn for the rooms that server has joined members in and this node keeps up with.
func (r *Rooms) eachOf(server matrix.ServerName, fn func(*reading) error) error {
	return r.eachUnder(func(q *reading) error {
		if !q.row.active {
			return nil
		}
		return fn(q)
	}, serverPrefix(server))
}

// eachUnder calls fn for the rooms that rows under some prefixes name, once for each that is known.
func (r *Rooms) eachUnder(fn func(*reading) error, prefixes ...[]byte) error {
	return r.view(func(rd snapshot) error {
		numbers := map[uint32]bool{}
		for _, prefix := range prefixes {
			if err := rd.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
				numbers[numberFromKey(k)] = true
				return true, nil
			}); err != nil {
				return err
			}
		}
		for _, n := range slices.Sorted(maps.Keys(numbers)) {
			q, err := r.openNumber(rd, n)
			if errors.Is(err, ErrUnknownRoom) {
				continue
			}
			if err != nil {
				return err
			}
			if err := fn(q); err != nil {
				return err
			}
		}
		return nil
	})
}

// localUsers gathers the local users of rooms.
type localUsers map[matrix.UserID]bool

// add takes those that are joined to a room, from its counts in memory.
func (l localUsers) add(q *reading) error {
	t, err := q.tallyOf()
	if err != nil {
		return err
	}
	for _, u := range t.locals {
		l[matrix.UserID(u)] = true
	}
	return nil
}

func (l localUsers) sorted() []matrix.UserID { return slices.Sorted(maps.Keys(l)) }

// Sharing lists who came to share a room with user (a local one) after since and not after upTo, and who shares none any
// more, for the client's lists of devices. Somebody who left and came back is among came. What it costs grows with
// the number of the user's rooms (a look in memory each) and with the members of those where something happened.
func (r *Rooms) Sharing(user matrix.UserID, since, upTo store.Pos) (came, left []matrix.UserID, err error) {
	with, without := map[matrix.UserID]bool{}, map[matrix.UserID]bool{}
	err = r.view(func(rd snapshot) error {
		rows, err := userRows(rd, user)
		if err != nil {
			return err
		}
		for _, x := range rows {
			if !r.mayHaveNews(x, since, SyncOptions{}) && !x.row.forgotten || x.row.forgotten && x.row.place <= cut(since) {
				continue
			}
			q, err := r.openNumber(rd, x.n)
			if err != nil {
				return err
			}
			if err := q.sharing(user, since, upTo, with, without); err != nil {
				return err
			}
		}
		delete(with, user)
		for u := range without {
			still := with[u] || u == user
			if !still {
				if still, err = shares(rd, user, u); err != nil {
					return err
				}
			}
			if still {
				delete(without, u)
			}
		}
		return nil
	})
	return slices.Sorted(maps.Keys(with)), slices.Sorted(maps.Keys(without)), err
}

// sharing adds what happened in one room.
func (q *reading) sharing(user matrix.UserID, since, upTo store.Pos, came, left map[matrix.UserID]bool) error {
	was, err := q.standingAt(user, cut(since))
	if err != nil {
		return err
	}
	is, err := q.standingAt(user, cut(upTo))
	if err != nil {
		return err
	}
	before, after := uint32(0), uint32(0)
	if was.membership == matrix.MemberJoin {
		if before, err = q.nowAt(cut(since)); err != nil {
			return err
		}
	}
	if is.membership == matrix.MemberJoin {
		if after, err = q.nowAt(cut(upTo)); err != nil {
			return err
		}
	}
	if before == after {
		return nil
	}
	old, err := q.state(before)
	if err != nil {
		return err
	}
	now, err := q.state(after)
	if err != nil {
		return err
	}
	// differ calls add for those that are joined in a and not in b. Only members whose event differs are looked at.
	differ := func(a, b dag.State, add func(matrix.UserID)) error {
		for k, id := range a {
			if k.Type != matrix.TypeMember || b[k] == id {
				continue
			}
			u := matrix.UserID(k.Key)
			in, err := q.membershipIn(a, u)
			if err != nil || in != matrix.MemberJoin {
				if err != nil {
					return err
				}
				continue
			}
			if in, err = q.membershipIn(b, u); err != nil {
				return err
			} else if in != matrix.MemberJoin {
				add(u)
			}
		}
		return nil
	}
	if err := differ(now, old, func(u matrix.UserID) { came[u] = true }); err != nil {
		return err
	}
	return differ(old, now, func(u matrix.UserID) { left[u] = true })
}

// Known calls fn with the members (joined or invited) of the rooms that a local user is joined to, until it returns false;
// a member of several rooms comes several times. It looks at maxScan members of each room at most.
func (r *Rooms) Known(user matrix.UserID, fn func(member *matrix.Event) bool) error {
	done := false
	return r.eachJoined(user, func(q *reading) error {
		if done {
			return nil
		}
		var events []hash
		prefix := key(tabMember, q.n, 0)
		if err := q.rd.Scan(prefix, nil, func(_, v []byte) (bool, error) {
			m, h, err := decodeMember(v)
			if err == nil && (m == matrix.MemberJoin || m == matrix.MemberInvite) {
				events = append(events, h)
			}
			return len(events) < maxScan, err
		}); err != nil {
			return err
		}
		for _, h := range events {
			e, err := q.held(h)
			if err != nil {
				return err
			}
			if e != nil && !fn(shown(e)) {
				done = true
				return nil
			}
		}
		return nil
	})
}
