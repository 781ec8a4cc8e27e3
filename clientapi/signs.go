// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"tarn/matrix"
	"tarn/room"
)

// Signs of life between nodes: who is there and who types, of this node's users and of contacts'. This package is asked for them (package
// replicate does, of contacts that are to hear them) and given those that came; it sends nothing.

const (
	maxGood     = 2 * time.Hour // how long another node's word of who is there holds at most: it may have died
	maxVisitors = 256           // users of one server whose presence is kept
)

// visitors are the users of another server of whom it said that they are there, or were.
type visitors struct {
	users map[matrix.UserID]bool
	ends  *time.Timer // its word is too old then,
	word  uint64      // which was this one
}

// SignsTurn grows with every change of what Signs could say.
func (a *API) SignsTurn() uint64 {
	return a.presence.turn.Load() + a.rooms.TypingTurn() + a.rooms.Memberships()
}

// Signs is what server's users may know of this node's: of who shares a joined room with one of them whether they are there, and who types
// in such a room. Good is not set. Those who did something last come first.
func (a *API) Signs(server matrix.ServerName) (s room.Signs, err error) {
	users, err := a.rooms.Company(server)
	if err != nil {
		return s, err
	}
	a.presence.mu.Lock()
	for _, u := range users {
		if p := a.presence.users[u]; p != nil && (p.state != offline || p.status != "") {
			s.Present = append(s.Present, room.Present{User: u, State: p.state, Active: p.active, Status: p.status})
		}
	}
	a.presence.mu.Unlock()
	slices.SortStableFunc(s.Present, func(a, b room.Present) int { return cmp.Compare(b.Active.UnixMilli(), a.Active.UnixMilli()) })
	s.Typing, err = a.rooms.Typists(server)
	return s, err
}

// TakeSigns takes another node's word, which is the whole of it: who is not named is not there. Of users of other servers, and of those who share
// no room with a user here, nothing is taken.
func (a *API) TakeSigns(from matrix.ServerName, s room.Signs) error {
	if err := a.rooms.IngestTyping(from, s.Typing); err != nil {
		return err
	}
	left := min(time.Until(s.Good), maxGood)
	named := map[matrix.UserID]room.Present{}
	for _, p := range s.Present {
		if left <= 0 || p.User.Homeserver() != string(from) || len(named) >= maxVisitors {
			continue
		}
		near, err := a.rooms.CompanyOf(p.User)
		if err != nil {
			return err
		}
		if p.Active.After(time.Now()) {
			p.Active = time.Now() // its clock is ahead of ours
		}
		if len(near) > 0 {
			named[p.User] = p
		}
	}
	x := &a.presence
	x.mu.Lock()
	v := x.others[from]
	if v == nil {
		if x.others == nil {
			x.others = map[matrix.ServerName]*visitors{}
		}
		v = &visitors{users: map[matrix.UserID]bool{}}
		x.others[from] = v
	}
	if v.ends != nil {
		v.ends.Stop()
	}
	v.word++
	if word := v.word; left > 0 {
		v.ends = time.AfterFunc(left, func() { a.noneThere(from, word) })
	}
	absent := slices.DeleteFunc(slices.Collect(maps.Keys(v.users)), func(u matrix.UserID) bool { _, there := named[u]; return there })
	for _, u := range absent {
		if p := x.users[u]; p != nil && p.state == offline && !x.fresh[u] && len(v.users)+len(named) > maxVisitors {
			delete(v.users, u)
			delete(x.users, u)
		}
	}
	for u := range named {
		v.users[u] = true
	}
	x.mu.Unlock()
	tell := false
	for u, p := range named {
		tell = a.changePresence(u, func(q *present) { q.state, q.status, q.active = p.State, p.Status, p.Active }) || tell
	}
	for _, u := range absent {
		tell = a.goneThere(u) || tell
	}
	if tell {
		a.tellPresence()
	}
	return nil
}

// noneThere ends what another node said, if it has not said anything since.
func (a *API) noneThere(from matrix.ServerName, word uint64) {
	a.presence.mu.Lock()
	v := a.presence.others[from]
	users := slices.Collect(maps.Keys(v.users))
	last := v.word == word
	a.presence.mu.Unlock()
	if !last {
		return
	}
	tell := false
	for _, u := range users {
		tell = a.goneThere(u) || tell
	}
	if tell {
		a.tellPresence()
	}
}

// goneThere makes another node's user absent, if the user is known.
func (a *API) goneThere(user matrix.UserID) (tell bool) {
	a.presence.mu.Lock()
	known := a.presence.users[user] != nil
	a.presence.mu.Unlock()
	return known && a.changePresence(user, func(p *present) { p.state, p.status = offline, "" })
}

// near are the local users who see a user's presence.
func (a *API) near(user matrix.UserID) ([]matrix.UserID, error) {
	if a.local(user) {
		return a.rooms.Neighbours(user)
	}
	return a.rooms.CompanyOf(user)
}

// othersNear are the users of other nodes whose presence is known and that a local user sees.
func (a *API) othersNear(user matrix.UserID) (out []matrix.UserID, err error) {
	var all []matrix.UserID
	a.presence.mu.Lock()
	for _, v := range a.presence.others {
		all = slices.AppendSeq(all, maps.Keys(v.users))
	}
	a.presence.mu.Unlock()
	for _, u := range all {
		ok, err := a.rooms.Shares(user, u)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, u)
		}
	}
	return out, nil
}
