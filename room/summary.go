// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarn/dag"
	"tarn/matrix"
)

// Summary is what a room shows of itself to who may come in (C-S API, "Room summaries", "Spaces").
type Summary struct {
	Listing
	Version    matrix.RoomVersion
	Encryption string          // the algorithm; "": none
	Allowed    []matrix.RoomID // of a restricted room: members of these may join
	Membership string          // of who asks; "" if never
	Children   []Child         // in the space's order
}

// Child is an m.space.child event that counts.
type Child struct {
	Room      matrix.RoomID
	Suggested bool
	Via       []matrix.ServerName
	Sender    matrix.UserID
	Content   json.RawMessage
	Time      time.Time
	order     string
}

// Summary describes a room to a user, "" for one who did not say who they are. ErrUnknownRoom also if they may not know of it: "the
// room is public, knockable, world-readable, or open to members of a room that they are in; or they are in or invited".
func (r *Rooms) Summary(user matrix.UserID, room matrix.RoomID) (Summary, error) {
	var out Summary
	err := r.read(room, func(q *reading) error {
		var row userRow
		if user != "" {
			var err error
			if row, err = q.user(user); err != nil {
				return err
			}
		}
		out.Membership = row.membership
		id := q.row.current
		if row.membership == matrix.MemberInvite && row.state != 0 && !q.row.active {
			id = row.state
		} else if !q.row.active {
			return ErrUnknownRoom // what is known of it is old
		}
		s, err := q.state(id)
		if err != nil {
			return err
		}
		if out.Listing, err = q.describe(s); err != nil {
			return err
		}
		if err := q.summarise(s, &out); err != nil {
			return err
		}
		ok, err := q.mayKnow(user, &out)
		if err == nil && !ok {
			err = ErrUnknownRoom
		}
		return err
	})
	return out, err
}

// mayKnow says whether a user may see the summary.
func (q *reading) mayKnow(user matrix.UserID, s *Summary) (bool, error) {
	switch s.Membership {
	case matrix.MemberJoin, matrix.MemberInvite, matrix.MemberKnock:
		return true, nil
	case matrix.MemberBan:
		return false, nil
	}
	switch s.JoinRule {
	case "public", "knock", "knock_restricted":
		return true, nil
	}
	if s.World || user == "" {
		return s.World, nil
	}
	for _, a := range s.Allowed {
		o, err := q.r.open(q.rd, a)
		if errors.Is(err, ErrUnknownRoom) {
			continue
		}
		if err != nil {
			return false, err
		}
		row, err := o.user(user)
		if err != nil || row.membership == matrix.MemberJoin {
			return err == nil, err
		}
	}
	return false, nil
}

// describe reads what stands in the directory of a room.
func (q *reading) describe(s dag.State) (l Listing, err error) {
	t, err := q.tallyOf()
	if err != nil {
		return l, err
	}
	l = Listing{Room: q.row.id, Joined: t.joined}
	open, err := q.visibilityIn(s)
	if err != nil {
		return l, err
	}
	l.World = open == openness(visWorld)
	if create, err := q.createIn(s); err != nil {
		return l, err
	} else if create != nil {
		l.Type = textOf(create, "type")
	}
	guests := ""
	for typ, f := range map[string]struct {
		name string
		to   *string
	}{
		matrix.TypeName: {"name", &l.Name}, matrix.TypeTopic: {"topic", &l.Topic}, matrix.TypeCanonicalAlias: {"alias", &l.Alias},
		matrix.TypeAvatar: {"url", &l.Avatar}, matrix.TypeJoinRules: {"join_rule", &l.JoinRule}, matrix.TypeGuestAccess: {"guest_access", &guests},
	} {
		if *f.to, err = q.textIn(s, typ, f.name); err != nil {
			return l, err
		}
	}
	l.Guests = guests == "can_join"
	return l, nil
}

func (q *reading) summarise(s dag.State, out *Summary) (err error) {
	out.Version = q.row.version
	if out.Encryption, err = q.textIn(s, matrix.TypeEncryption, "algorithm"); err != nil {
		return err
	}
	rules, err := q.stateEvent(s, matrix.TypeJoinRules, "")
	if err != nil {
		return err
	}
	if rules != nil {
		_, out.Allowed = joinRules(rules.ev)
	}
	if out.Type != "m.space" {
		return nil
	}
	for k := range s {
		if k.Type != matrix.TypeSpaceChild {
			continue
		}
		e, err := q.stateEvent(s, k.Type, k.Key)
		if err != nil {
			return err
		}
		if e == nil {
			return fmt.Errorf("%w: a state's event is missing", errRow)
		}
		if c, ok := childOf(shown(e)); ok {
			out.Children = append(out.Children, c)
		}
	}
	slices.SortFunc(out.Children, compareChildren)
	return nil
}

// joinRules reads m.room.join_rules: the rule, and the rooms whose members may join.
func joinRules(ev *matrix.Event) (rule string, allowed []matrix.RoomID) {
	var c struct {
		Rule  string `json:"join_rule"`
		Allow []struct {
			Type string        `json:"type"`
			Room matrix.RoomID `json:"room_id"`
		} `json:"allow"`
	}
	if json.Unmarshal(ev.Content(), &c) != nil || c.Rule != "restricted" && c.Rule != "knock_restricted" {
		return c.Rule, nil
	}
	for _, a := range c.Allow {
		if a.Type == "m.room_membership" {
			allowed = append(allowed, a.Room)
		}
	}
	return c.Rule, allowed
}

// childOf reads an m.space.child; false: it does not count, for it has no via.
func childOf(ev *matrix.Event) (Child, bool) {
	if ev.StateKey() == nil {
		return Child{}, false
	}
	return childIn(*ev.StateKey(), ev.Content(), ev.Sender(), ev.Time())
}

func childIn(key string, content json.RawMessage, sender matrix.UserID, at time.Time) (Child, bool) {
	var c struct {
		Via       []matrix.ServerName `json:"via"`
		Order     any                 `json:"order"`
		Suggested bool                `json:"suggested"`
	}
	if json.Unmarshal(content, &c) != nil || len(c.Via) == 0 {
		return Child{}, false
	}
	out := Child{Room: matrix.RoomID(key), Suggested: c.Suggested, Via: c.Via[:min(len(c.Via), maxVia)], Sender: sender, Content: content, Time: at}
	if len(out.Room) < 2 || len(out.Room) > matrix.MaxID || out.Room[0] != '!' {
		return Child{}, false
	}
	// "order: at most 50 characters of U+0020 to U+007E"; what is not is as if it were not there.
	if s, ok := c.Order.(string); ok && len(s) <= 50 && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		out.order = s
	}
	return out, true
}

// compareChildren: those with an order first, by it; then by age, then by room id ("Ordering of children within a space").
func compareChildren(a, b Child) int {
	switch {
	case a.order != b.order && a.order == "":
		return 1
	case a.order != b.order && b.order == "":
		return -1
	case a.order != b.order:
		return strings.Compare(a.order, b.order)
	}
	if c := a.Time.Compare(b.Time); c != 0 {
		return c
	}
	return strings.Compare(string(a.Room), string(b.Room))
}

// MaySend errs with ErrForbidden unless a user has the power to send an event of that type, and ErrNotMember unless joined.
func (r *Rooms) MaySend(user matrix.UserID, room matrix.RoomID, typ string, state bool) error {
	return r.read(room, func(q *reading) error {
		row, err := q.user(user)
		if err != nil {
			return err
		}
		if row.membership != matrix.MemberJoin {
			return ErrNotMember
		}
		s, err := q.state(q.row.current)
		if err != nil {
			return err
		}
		power, err := q.powerIn(s)
		if err != nil {
			return err
		}
		if power.User(user) < power.Event(typ, state) {
			return fmt.Errorf("%w: the user has not the power to send %.80s", ErrForbidden, typ)
		}
		return nil
	})
}
