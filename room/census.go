// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"

	"tarn/matrix"
)

// census counts a room's current members by server. Its size is that of servers and local users, not of members.
type census struct {
	joined, invited int
	servers         map[matrix.ServerName]int    // joined members
	guests          map[matrix.ServerName]int    // invited members
	known           map[matrix.ServerName]int    // members of any membership
	locals          map[matrix.UserID]membership // local users that are joined or invited (or knock)
	shape           int                          // grows when servers come or go
}

type membership = string

// tally is what readers need of a census; never changed.
type tally struct {
	joined, invited int
	locals          []string            // joined local users: topics
	remotes         []matrix.ServerName // other servers with joined members, sorted
	guests          []matrix.ServerName // other servers with invited members
}

func (c *census) tally(own matrix.ServerName) *tally {
	t := &tally{joined: c.joined, invited: c.invited, remotes: remotes(c, own)}
	for s := range c.guests {
		if s != own {
			t.guests = append(t.guests, s)
		}
	}
	for u, m := range c.locals {
		if m == matrix.MemberJoin {
			t.locals = append(t.locals, string(u))
		}
	}
	return t
}

// count reads the census from the member table, once a room and process.
func (q *reading) count() (*census, error) {
	c := &census{servers: map[matrix.ServerName]int{}, guests: map[matrix.ServerName]int{}, known: map[matrix.ServerName]int{}, locals: map[matrix.UserID]membership{}}
	prefix := key(tabMember, q.n, 0)
	err := q.rd.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		m, _, err := decodeMember(v)
		if err != nil {
			return false, err
		}
		c.change(q.r, matrix.UserID(k[len(prefix):]), "", m)
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("counting members: %w", err)
	}
	return c, nil
}

// change moves a user from one membership to another.
func (c *census) change(r *Rooms, u matrix.UserID, from, to string) {
	s := serverOf(u)
	step := func(m string, by int) {
		switch m {
		case "":
			return
		case matrix.MemberJoin:
			c.joined += by
			if c.servers[s] == 0 {
				c.shape++
			}
			if c.servers[s] += by; c.servers[s] == 0 {
				delete(c.servers, s)
				c.shape++
			}
		case matrix.MemberInvite:
			c.invited += by
			if c.guests[s] += by; c.guests[s] == 0 {
				delete(c.guests, s)
			}
		}
		if c.known[s] += by; c.known[s] == 0 {
			delete(c.known, s)
		}
	}
	step(from, -1)
	step(to, 1)
	if s != r.server() {
		return
	}
	switch to {
	case matrix.MemberJoin, matrix.MemberInvite, matrix.MemberKnock:
		c.locals[u] = to
	default:
		delete(c.locals, u)
	}
}

// tallyOf gives a room's counts to a reader.
func (q *reading) tallyOf() (*tally, error) {
	q.r.mu.Lock()
	l := q.r.live[q.row.id]
	q.r.mu.Unlock()
	if l != nil {
		if t := l.tally.Load(); t != nil {
			return t, nil
		}
	}
	c, err := q.count()
	if err != nil {
		return nil, err
	}
	t := c.tally(q.r.server())
	if l != nil {
		l.tally.CompareAndSwap(nil, t) // a writer that came first knows better
	}
	return t, nil
}
