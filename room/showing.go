// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"tarn/matrix"
)

// What rooms, spaces and the directory show to other servers that ask (SPEC §8.12), and its form.

// summaryWire is what a room shows of itself in an answer: that of the federation API's /hierarchy.
type summaryWire struct {
	Room       matrix.RoomID      `json:"room_id"`
	Name       string             `json:"name,omitempty"`
	Topic      string             `json:"topic,omitempty"`
	Alias      string             `json:"canonical_alias,omitempty"`
	Avatar     string             `json:"avatar_url,omitempty"`
	JoinRule   string             `json:"join_rule,omitempty"`
	Type       string             `json:"room_type,omitempty"`
	Joined     int                `json:"num_joined_members"`
	World      bool               `json:"world_readable"`
	Guests     bool               `json:"guest_can_join"`
	Version    matrix.RoomVersion `json:"room_version,omitempty"`
	Encryption string             `json:"encryption,omitempty"`
	Allowed    []matrix.RoomID    `json:"allowed_room_ids,omitempty"`
	Children   []childWire        `json:"children_state,omitempty"`
}

type childWire struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Sender   matrix.UserID   `json:"sender"`
	Time     int64           `json:"origin_server_ts"`
}

type summariesWire struct {
	Room     summaryWire   `json:"room"`
	Children []summaryWire `json:"children,omitempty"`
}

func (s *Summary) wire() summaryWire {
	w := summaryWire{Room: s.Room, Name: s.Name, Topic: s.Topic, Alias: s.Alias, Avatar: s.Avatar, JoinRule: s.JoinRule, Type: s.Type, Joined: s.Joined,
		World: s.World, Guests: s.Guests, Version: s.Version, Encryption: s.Encryption, Allowed: s.Allowed}
	for _, c := range s.Children {
		w.Children = append(w.Children, childWire{matrix.TypeSpaceChild, string(c.Room), c.Content, c.Sender, c.Time.UnixMilli()})
	}
	return w
}

func (w *summaryWire) summary() Summary {
	s := Summary{Listing: w.listing(), Version: w.Version, Encryption: w.Encryption, Allowed: w.Allowed}
	for _, c := range w.Children {
		if x, ok := childIn(c.StateKey, c.Content, c.Sender, time.UnixMilli(c.Time)); ok && len(s.Children) < maxScan {
			s.Children = append(s.Children, x)
		}
	}
	slices.SortFunc(s.Children, compareChildren)
	return s
}

func (w *summaryWire) listing() Listing {
	return Listing{Room: w.Room, Name: w.Name, Topic: w.Topic, Alias: w.Alias, Avatar: w.Avatar, JoinRule: w.JoinRule, Type: w.Type, Joined: max(0, w.Joined), World: w.World, Guests: w.Guests}
}

// readSummaries reads an answer of room, and what it has of others, as answers of their own.
func readSummaries(data []byte, room matrix.RoomID) (s Summary, others map[matrix.RoomID][]byte, ok bool) {
	var w summariesWire
	if json.Unmarshal(data, &w) != nil || w.Room.Room != room {
		return s, nil, false
	}
	s = w.Room.summary()
	others = map[matrix.RoomID][]byte{}
	for _, c := range w.Children {
		if slices.ContainsFunc(s.Children, func(x Child) bool { return x.Room == c.Room }) && len(others) < maxShown {
			others[c.Room] = object(summariesWire{Room: c})
		}
	}
	return s, others, true
}

// lookUp answers what a contact looks at.
func (r *Rooms) lookUp(from matrix.ServerName, q Ask, item *answerItem) error {
	switch q.Kind {
	case AskAlias:
		room, err := r.ResolveAlias(q.Text)
		if err != nil {
			return err
		}
		return r.read(room, func(p *reading) error {
			if _, err := p.shownTo(from); err != nil {
				return err
			}
			t, err := p.tallyOf()
			item.Kind, item.Room = AnswerRoom, room
			item.Servers = t.remotes[:min(len(t.remotes), maxVia)]
			return err
		})
	case AskSummary:
		var w summariesWire
		err := r.read(q.Room, func(p *reading) error {
			s, err := p.shownTo(from)
			if err != nil {
				return err
			}
			w.Room = s.wire()
			return p.childrenFor(from, s, &w)
		})
		if err != nil {
			return err
		}
		item.Kind, item.Data = AnswerData, object(w)
	case AskList:
		var search ListQuery
		if json.Unmarshal([]byte(q.Text), &search) != nil || len(search.Types) > 16 {
			return ErrBadEvent
		}
		search.Limit = min(max(search.Limit, 1), maxShown)
		page, err := r.listFor(from, search)
		if err != nil {
			return err
		}
		w := listWire{Total: page.Total, Next: page.Next}
		size := 0
		for i, l := range page.Rooms {
			x := (&Summary{Listing: l}).wire()
			if size += len(object(x)); size > maxShownSize {
				w.Next = max(search.Since, 0) + max(i, 1)
				break
			}
			w.Rooms = append(w.Rooms, x)
		}
		item.Kind, item.Data = AnswerData, object(w)
	}
	if len(item.Data) > maxShownSize+maxShownSize/4 {
		return ErrTooLarge
	}
	return nil
}

// childrenFor adds what a space's children show to a server.
func (q *reading) childrenFor(server matrix.ServerName, s *Summary, w *summariesWire) error {
	size := len(object(w.Room))
	for _, c := range s.Children[:min(len(s.Children), maxShown)] {
		o, err := q.r.open(q.rd, c.Room)
		if errors.Is(err, ErrUnknownRoom) {
			continue
		}
		if err != nil {
			return err
		}
		child, err := o.shownTo(server)
		if isNo(err) {
			continue
		}
		if err != nil {
			return err
		}
		x := child.wire()
		if size += len(object(x)); size > maxShownSize {
			return nil
		}
		w.Children = append(w.Children, x)
	}
	return nil
}

// shownTo is what a room shows of itself to a server: ErrUnknownRoom if that server may not know of it.
func (q *reading) shownTo(server matrix.ServerName) (*Summary, error) {
	if !q.row.active {
		return nil, ErrUnknownRoom
	}
	state, err := q.state(q.row.current)
	if err != nil {
		return nil, err
	}
	if denied, err := q.deniedIn(state, server); denied || err != nil {
		return nil, cmp.Or(err, ErrUnknownRoom)
	}
	var s Summary
	if s.Listing, err = q.describe(state); err != nil {
		return nil, err
	}
	if err := q.summarise(state, &s); err != nil {
		return nil, err
	}
	in, err := q.serverIn(server)
	if err != nil {
		return nil, err
	}
	_, err = q.rd.Get(guestKey(server, q.n))
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	if in || err == nil || s.World {
		return &s, nil
	}
	switch s.JoinRule {
	case "public", "knock", "knock_restricted":
		return &s, nil
	}
	for _, a := range s.Allowed {
		o, err := q.r.open(q.rd, a)
		if errors.Is(err, ErrUnknownRoom) || err == nil && !o.row.active {
			continue
		}
		if err != nil {
			return nil, err
		}
		if in, err := o.serverIn(server); in || err != nil {
			return &s, err
		}
	}
	return nil, ErrUnknownRoom
}
