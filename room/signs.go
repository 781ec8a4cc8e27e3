// SPDX-License-Identifier: Apache-2.0

package room

import (
	"errors"
	"slices"
	"time"

	"tarn/matrix"
)

// Signs of life are what a contact that is told so hears of this node's users, and this node of the contact's: who is there, and who
// types. It is off for every contact until the operator says otherwise (package replicate): they are clocks.
type Signs struct {
	Good    time.Time // until when Present holds
	Present []Present
	Typing  []Typist
}

// Present is a user who is there, or left a word.
type Present struct {
	User   matrix.UserID
	State  string    // online, unavailable, offline
	Active time.Time // when the user last did something; zero: it is not said
	Status string    // for people
}

// Typist is a user who types in a room.
type Typist struct {
	Room  matrix.RoomID
	User  matrix.UserID
	Until time.Time
}

// TypingTurn grows with every change of who of this node's users types, or how long.
func (r *Rooms) TypingTurn() uint64 { return r.typing.turn.Load() }

// Typists lists who of this node's users types in the rooms that server has joined members in, except where an ACL denies it; sorted.
func (r *Rooms) Typists(server matrix.ServerName) ([]Typist, error) {
	var out []Typist
	for _, t := range r.typing.ofServer(r.server()) {
		err := r.read(t.Room, func(q *reading) error {
			if in, err := q.holds(server); !in || err != nil {
				return err
			}
			m, err := q.member(t.User)
			if m == matrix.MemberJoin {
				out = append(out, t)
			}
			return err
		})
		if err != nil && !errors.Is(err, ErrUnknownRoom) {
			return nil, err
		}
	}
	return out, nil
}

// holds tells whether server has joined members in the room, and is not denied.
func (q *reading) holds(server matrix.ServerName) (bool, error) {
	t, err := q.tallyOf()
	if err != nil {
		return false, err
	}
	if _, in := slices.BinarySearch(t.remotes, server); !in {
		return false, nil
	}
	denied, err := q.denied(server)
	return !denied, err
}

// IngestTyping takes another node's word about who of its users types. It is the whole of it: who is not named has ended. Those who are not
// of the sender's server, or not in the room, are dropped.
func (r *Rooms) IngestTyping(from matrix.ServerName, now []Typist) error {
	if from == r.server() {
		return ErrForbidden
	}
	named := map[Typist]bool{}
	for _, t := range now {
		left := min(time.Until(t.Until), maxTyping)
		if left <= 0 || serverOf(t.User) != from {
			continue
		}
		var locals []string
		err := r.read(t.Room, func(q *reading) error {
			if in, err := q.holds(from); !in || err != nil {
				return err
			}
			if m, err := q.member(t.User); m != matrix.MemberJoin || err != nil {
				return err
			}
			tally, err := q.tallyOf()
			if err == nil {
				locals = tally.locals
			}
			return err
		})
		if err != nil && !errors.Is(err, ErrUnknownRoom) {
			return err
		}
		if len(locals) == 0 {
			continue
		}
		named[Typist{Room: t.Room, User: t.User}] = true
		r.typing.set(t.Room, t.User, true, left, locals)
	}
	for _, t := range r.typing.ofServer(from) {
		if !named[Typist{Room: t.Room, User: t.User}] {
			r.typing.stop(t.Room, t.User)
		}
	}
	return nil
}

// Company lists the local users that are joined to a room in which server has joined members, except where an ACL denies it: those of whom
// its users may know whether they are there. It looks at counts in memory, one for each such room.
func (r *Rooms) Company(server matrix.ServerName) ([]matrix.UserID, error) {
	found := localUsers{}
	err := r.eachOf(server, func(q *reading) error {
		if in, err := q.holds(server); !in || err != nil {
			return err
		}
		return found.add(q)
	})
	return found.sorted(), err
}

// CompanyOf lists the local users that share a joined room, which does not deny its server, with a user of another server.
func (r *Rooms) CompanyOf(user matrix.UserID) ([]matrix.UserID, error) {
	found := localUsers{}
	err := r.eachOf(serverOf(user), func(q *reading) error {
		if in, err := q.holds(serverOf(user)); !in || err != nil {
			return err
		}
		if m, err := q.member(user); m != matrix.MemberJoin || err != nil {
			return err
		}
		return found.add(q)
	})
	return found.sorted(), err
}
