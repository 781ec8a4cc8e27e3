// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"tarn/dag"
	"tarn/matrix"
)

// Create of a room, by the spec's order of events (POST /createRoom).
type Create struct {
	Creator         matrix.UserID
	Version         matrix.RoomVersion // "": 12
	Preset          string             // private_chat, trusted_private_chat, public_chat; "" from Public
	Public          bool               // visibility: public
	Name, Topic     string
	Alias           string // localpart of a local alias, or ""
	Invite          []matrix.UserID
	Direct          bool // is_direct on the invites
	CreationContent json.RawMessage
	InitialState    []StateEvent
	PowerLevels     json.RawMessage // power_level_content_override
}

// StateEvent is a piece of state to be set.
type StateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// preset is what a preset of POST /createRoom says.
type preset struct {
	joinRule, guests string
	trusted          bool  // the invited are as powerful as the creator
	invite           int64 // power level
}

var presets = map[string]preset{
	"private_chat":         {joinRule: "invite", guests: "can_join"},
	"trusted_private_chat": {joinRule: "invite", guests: "can_join", trusted: true},
	"public_chat":          {joinRule: "public", guests: "forbidden", invite: 50},
}

// maxInvites bounds how many users one Create invites; each is an event.
const maxInvites = 1000

// Create makes a room with all its first events, invites included, in one transaction: there is never half a room.
// Errors: ErrBadVersion, ErrBadEvent, ErrTooLarge, ErrForbidden, ErrAliasInUse.
func (r *Rooms) Create(ctx context.Context, c Create) (matrix.RoomID, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if c.Version == "" {
		c.Version = matrix.DefaultVersion
	}
	if !matrix.Offered(c.Version) {
		return "", fmt.Errorf("%w: %.20q", ErrBadVersion, string(c.Version))
	}
	if c.Preset == "" {
		c.Preset = "private_chat"
		if c.Public {
			c.Preset = "public_chat"
		}
	}
	kind, ok := presets[c.Preset]
	if !ok {
		return "", fmt.Errorf("%w: unknown preset", ErrBadEvent)
	}
	if len(c.Invite) > maxInvites {
		return "", fmt.Errorf("%w: more than %d invites", ErrTooLarge, maxInvites)
	}
	if !r.local(c.Creator) {
		return "", fmt.Errorf("%w: the creator is not of this server", ErrForbidden)
	}
	var alias string
	if c.Alias != "" {
		var err error
		if alias, err = r.newAlias(c.Alias); err != nil {
			return "", err
		}
	}
	first, err := r.firstEvent(c, kind)
	if err != nil {
		return "", err
	}
	l, err := r.make(first.Room())
	if err != nil {
		return "", err
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	var p *plan
	err = r.view(func(rd snapshot) (err error) {
		if p, err = r.beginNew(l, rd, first.Room(), c.Version); err != nil {
			return err
		}
		return p.create(c, kind, first, alias)
	})
	if err != nil {
		l.abandon()
		return "", err
	}
	if _, err := p.commit(); err != nil {
		return "", err
	}
	return first.Room(), nil
}

// firstEvent builds the m.room.create event. Its hash is the room's id from version 12 on; before, the id is random.
func (r *Rooms) firstEvent(c Create, kind preset) (*matrix.Event, error) {
	extra := map[string]json.RawMessage{}
	if len(c.CreationContent) > 0 {
		if err := json.Unmarshal(c.CreationContent, &extra); err != nil || extra == nil {
			return nil, fmt.Errorf("%w: creation_content is not an object", ErrBadEvent)
		}
	}
	if c.Version.PrivilegedRoomCreators() && kind.trusted && len(c.Invite) > 0 {
		// Room version 12: trusted_private_chat makes the invited creators too.
		var more []matrix.UserID
		if raw, ok := extra["additional_creators"]; ok {
			if err := json.Unmarshal(raw, &more); err != nil {
				return nil, fmt.Errorf("%w: additional_creators is not a list", ErrBadEvent)
			}
		}
		extra["additional_creators"] = object(append(more, c.Invite...))
	}
	content, err := matrix.CreateContent(c.Version, c.Creator, object(extra))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadEvent, err)
	}
	proto := matrix.Proto{Sender: c.Creator, Type: matrix.TypeCreate, StateKey: new(string), Content: content, Depth: 1, Time: time.Now()}
	if !c.Version.RoomIDIsCreateEventID() {
		var b [18]byte
		rand.Read(b[:]) // never fails
		proto.Room = matrix.RoomID("!" + base64.RawURLEncoding.EncodeToString(b[:]) + ":" + string(r.server()))
	}
	return r.build(c.Version, proto)
}

// create plans all events of a new room, in the order that the spec gives.
func (p *plan) create(c Create, kind preset, first *matrix.Event, alias string) error {
	in, err := p.try(first)
	if err != nil {
		return err
	}
	if in.Status != dag.Accepted {
		return fmt.Errorf("%w: %w", ErrForbidden, in.Why)
	}
	p.row.clock = first.Time().UnixMilli()
	if _, err := p.put(first, in); err != nil {
		return err
	}
	given := map[matrix.StateKey]bool{}
	levels := powerLevels(c, kind)
	for _, s := range c.InitialState {
		given[matrix.StateKey{Type: s.Type, Key: s.StateKey}] = true
		if s.Type == matrix.TypePowerLevels && s.StateKey == "" {
			levels = s.Content
		}
	}
	if levels, err = override(levels, c.PowerLevels); err != nil {
		return err
	}
	events := []StateEvent{
		{matrix.TypeMember, string(c.Creator), p.r.memberContent(c.Creator, matrix.MemberJoin, "", false)},
		{matrix.TypePowerLevels, "", levels},
	}
	add := func(typ, field, value string) {
		if !given[matrix.StateKey{Type: typ}] {
			events = append(events, StateEvent{typ, "", object(map[string]string{field: value})})
		}
	}
	if alias != "" {
		p.aliases[alias] = true
		events = append(events, StateEvent{matrix.TypeCanonicalAlias, "", object(map[string]string{"alias": alias})})
	}
	add(matrix.TypeJoinRules, "join_rule", kind.joinRule)
	add(matrix.TypeHistoryVisibility, "history_visibility", visShared)
	add(matrix.TypeGuestAccess, "guest_access", kind.guests)
	for _, s := range c.InitialState {
		if s.Type == matrix.TypePowerLevels && s.StateKey == "" {
			continue
		}
		events = append(events, s)
	}
	if c.Name != "" {
		events = append(events, StateEvent{matrix.TypeName, "", object(map[string]string{"name": c.Name})})
	}
	if c.Topic != "" {
		// C-S API v1.15, "Rich text in room topics": the plain one alone.
		events = append(events, StateEvent{matrix.TypeTopic, "", object(map[string]any{"topic": c.Topic,
			"m.topic": map[string]any{"m.text": []map[string]string{{"body": c.Topic, "mimetype": "text/plain"}}}})})
	}
	for _, u := range c.Invite {
		events = append(events, StateEvent{matrix.TypeMember, string(u), p.r.memberContent(u, matrix.MemberInvite, "", c.Direct)})
	}
	for _, s := range events {
		key := s.StateKey
		if _, err := p.author(matrix.Proto{Sender: c.Creator, Type: s.Type, StateKey: &key, Content: s.Content}); err != nil {
			return fmt.Errorf("creating a room, %.80s: %w", s.Type, err)
		}
	}
	return nil
}

// powerLevels are those of a new room (C-S API, "m.room.power_levels"; room version 12: creators have no entry, and only
// they may end the room).
func powerLevels(c Create, kind preset) json.RawMessage {
	users := map[matrix.UserID]int64{}
	tombstone := int64(100)
	if c.Version.PrivilegedRoomCreators() {
		tombstone = 150
	} else {
		users[c.Creator] = 100
		if kind.trusted {
			for _, u := range c.Invite {
				users[u] = 100
			}
		}
	}
	return object(map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": kind.invite, "historical": 100,
		"events": map[string]int64{
			matrix.TypeName: 50, matrix.TypeAvatar: 50, matrix.TypeCanonicalAlias: 50,
			matrix.TypePowerLevels: 100, matrix.TypeHistoryVisibility: 100, matrix.TypeEncryption: 100,
			matrix.TypeServerACL: 100, matrix.TypeTombstone: tombstone,
		},
		"notifications": map[string]int64{"room": 50},
	})
}

// override replaces the keys of base that over has.
func override(base, over json.RawMessage) (json.RawMessage, error) {
	if len(over) == 0 {
		return base, nil
	}
	var all, some map[string]json.RawMessage
	if json.Unmarshal(base, &all) != nil || json.Unmarshal(over, &some) != nil || all == nil {
		return nil, fmt.Errorf("%w: power_level_content_override is not an object", ErrBadEvent)
	}
	for k, v := range some {
		all[k] = v
	}
	return object(all), nil
}

// object is v as JSON; v is of our own making and always has one.
func object(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic("room: " + err.Error())
	}
	return b
}
