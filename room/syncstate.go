// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/binary"
	"encoding/json"

	"tarn/dag"
	"tarn/matrix"
)

// wished fills in the state at end that the reader wishes for.
func (s *syncing) wished(c *Change, base, end seq, full bool) error {
	wish := s.o.Wish(c)
	want, err := s.q.nowAt(end)
	if err != nil {
		return err
	}
	had := uint32(0)
	if !full {
		if had, err = s.q.nowAt(base); err != nil {
			return err
		}
	}
	now, err := s.q.state(want)
	if err != nil {
		return err
	}
	out := dag.State{}
	if want != had && wish.Changed != nil {
		before, err := s.q.state(had)
		if err != nil {
			return err
		}
		for k, id := range now {
			if before[k] != id && wish.Changed(k) {
				out[k] = id
			}
		}
	}
	if wish.All != nil {
		for k, id := range now {
			if wish.All(k) {
				out[k] = id
			}
		}
	}
	for _, k := range wish.Also {
		if id, ok := now[k]; ok {
			out[k] = id
		}
	}
	c.State, err = s.q.eventsOf(out)
	return err
}

// state fills in what the client must know before the timeline, so that it ends with what holds at end.
func (s *syncing) state(c *Change, base, start, end seq, full bool) error {
	want, err := s.q.nowAt(end)
	if err != nil {
		return err
	}
	atStart, had := want, uint32(0)
	if start != end {
		if atStart, err = s.q.nowAt(start); err != nil {
			return err
		}
	}
	if !full {
		if had, err = s.q.nowAt(base); err != nil {
			return err
		}
		if had == want && had == atStart && (!s.o.LazyMembers || len(c.Timeline) == 0) {
			return nil
		}
	}
	wantState, err := s.q.state(want)
	if err != nil {
		return err
	}
	startState, err := s.q.state(atStart)
	if err != nil {
		return err
	}
	hadState, err := s.q.state(had)
	if err != nil {
		return err
	}
	inTimeline := map[matrix.StateKey]bool{}
	for _, e := range c.Timeline {
		if k, ok := e.Slot(); ok {
			inTimeline[k] = true
		}
	}
	delta := dag.State{}
	for k, id := range wantState {
		if inTimeline[k] {
			// The timeline goes on from what held at its start.
			var ok bool
			if id, ok = startState[k]; !ok {
				continue
			}
		}
		if hadState[k] != id {
			delta[k] = id
		}
	}
	if s.o.LazyMembers {
		needed := s.needed(c)
		for k := range delta {
			if full && k.Type == matrix.TypeMember && !needed[matrix.UserID(k.Key)] {
				delete(delta, k)
			}
		}
		for u := range needed {
			k := matrix.StateKey{Type: matrix.TypeMember, Key: string(u)}
			from := wantState
			if inTimeline[k] {
				from = startState
			}
			if id, ok := from[k]; ok {
				delta[k] = id
			}
		}
	}
	c.State, err = s.q.eventsOf(delta)
	return err
}

// needed are the members without whom a client cannot show the room.
func (s *syncing) needed(c *Change) map[matrix.UserID]bool {
	out := map[matrix.UserID]bool{}
	if c.Newly || s.o.FullState {
		out[s.user] = true
		for _, u := range c.Heroes {
			out[u] = true
		}
	}
	for u := range c.Needed() {
		out[u] = true
	}
	return out
}

// Needed are those who sent what the timeline shows, and whom it is about.
func (c *Change) Needed() map[matrix.UserID]bool {
	out := map[matrix.UserID]bool{}
	for _, e := range c.Timeline {
		out[e.Sender()] = true
		if e.Type() == matrix.TypeMember && e.StateKey() != nil {
			out[matrix.UserID(*e.StateKey())] = true
		}
	}
	return out
}

// strippedTypes are shown to who is invited (C-S API, "Stripped state").
var strippedTypes = []string{matrix.TypeCreate, matrix.TypeName, matrix.TypeAvatar, matrix.TypeTopic, matrix.TypeJoinRules,
	matrix.TypeCanonicalAlias, matrix.TypeEncryption}

// stripped is the stripped state of an invite or a knock: its own member event last.
func (s *syncing) stripped(now standing) ([]json.RawMessage, error) {
	own, err := s.q.held(now.event)
	if err != nil || own == nil {
		return nil, err
	}
	if !s.q.row.active && now.membership == matrix.MemberKnock {
		out, err := s.q.strippedOf(s.user)
		if err != nil {
			return nil, err
		}
		raw, err := own.ev.Stripped()
		return append(out, raw), err
	}
	id := s.row.state
	if id == 0 {
		if id, err = s.q.nowAt(cut(s.upTo)); err != nil {
			return nil, err
		}
	}
	st, err := s.q.state(id)
	if err != nil {
		return nil, err
	}
	out, err := s.q.strippedState(st)
	if err != nil {
		return nil, err
	}
	add := func(e *matrix.Event) error {
		raw, err := e.Stripped()
		out = append(out, raw)
		return err
	}
	if own.ev.Sender() != s.user {
		e, err := s.q.stateEvent(st, matrix.TypeMember, string(own.ev.Sender()))
		if err != nil {
			return nil, err
		}
		if e != nil {
			if err := add(shown(e)); err != nil {
				return nil, err
			}
		}
	}
	return out, add(own.ev)
}

// strippedState is what a state shows to who is not in the room.
func (q *reading) strippedState(st dag.State) (out []json.RawMessage, err error) {
	for _, t := range strippedTypes {
		e, err := q.stateEvent(st, t, "")
		if err != nil {
			return nil, err
		}
		if t == matrix.TypeCreate && e == nil {
			create, err := q.createIn(st)
			if err != nil {
				return nil, err
			}
			if create != nil {
				e = &held{ev: create}
			}
		}
		if e == nil {
			continue
		}
		raw, err := shown(e).Stripped()
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// summary fills in the counts and, for a room without a name, some members (C-S API, "RoomSummary").
func (s *syncing) summary(c *Change) error {
	if c.Joined > 0 {
		return nil // done
	}
	t, err := s.q.tallyOf()
	if err != nil {
		return err
	}
	c.Joined, c.Invited = t.joined, t.invited
	st, err := s.q.state(s.q.row.current)
	if err != nil {
		return err
	}
	for _, typ := range []string{matrix.TypeName, matrix.TypeCanonicalAlias} {
		if st[matrix.StateKey{Type: typ}] != "" {
			return nil
		}
	}
	const most = 5
	var gone []matrix.UserID
	prefix := key(tabMember, s.q.n, 0)
	scanned := 0
	err = s.q.rd.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		u := matrix.UserID(k[len(prefix):])
		m, _, err := decodeMember(v)
		if err != nil {
			return false, err
		}
		switch {
		case u == s.user:
		case m == matrix.MemberJoin || m == matrix.MemberInvite:
			c.Heroes = append(c.Heroes, u)
		case len(gone) < most:
			gone = append(gone, u)
		}
		scanned++
		return len(c.Heroes) < most && scanned < maxScan, nil
	})
	if len(c.Heroes) == 0 {
		c.Heroes = gone
	}
	return err
}

func numberFromKey(k []byte) uint32 { return binary.BigEndian.Uint32(k[len(k)-4:]) }
