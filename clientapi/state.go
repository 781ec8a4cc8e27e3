// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"strings"

	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// state: GET /rooms/{roomId}/state.
func (a *API) state(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	events, err := a.rooms.State(c.who.User, r)
	if err != nil {
		return nil, err
	}
	return stateEvents(events, true)
}

// slot reads the path's {type} and {key}; no key is the empty key.
func (c *call) slot() matrix.StateKey {
	return matrix.StateKey{Type: c.path("type"), Key: c.path("key")}
}

// stateEvent: GET /rooms/{roomId}/state/{eventType}/{stateKey}: the content, or with format=event (v1.16) the event.
func (a *API) stateEvent(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	ev, err := a.rooms.StateEvent(c.who.User, r, c.slot())
	if err != nil {
		return nil, err
	}
	switch c.query("format") {
	case "", "content":
		return jsontext.Value(ev.Content()), nil
	case "event":
		return stateEvent(ev, true)
	}
	return nil, invalid("format must be content or event")
}

// setState: PUT /rooms/{roomId}/state/{eventType}/{stateKey}.
func (a *API) setState(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	content, err := c.object()
	if err != nil {
		return nil, err
	}
	slot := c.slot()
	switch slot.Type {
	case "m.room.canonical_alias":
		if err := a.checkAliases(c, r, content); err != nil {
			return nil, err
		}
	case "m.room.member":
		if id, done, err := a.joinByState(c, r, slot, content); done || err != nil {
			return map[string]any{"event_id": id}, err
		}
	}
	return a.sendEvent(c, room.NewEvent{Room: r, Sender: c.who.User, Type: slot.Type, StateKey: &slot.Key, Content: content})
}

// joinByState makes a join of an own member event that says so: an invite from another node carries the room, and
// only SetMembership takes it up. Not done: an event like any other.
func (a *API) joinByState(c *call, r matrix.RoomID, slot matrix.StateKey, content jsontext.Value) (matrix.EventID, bool, error) {
	var q struct {
		Membership string `json:"membership"`
		Reason     string `json:"reason"`
	}
	if err := decode(content, &q); err != nil {
		return "", false, err
	}
	if slot.Key != string(c.who.User) {
		if q.Membership == matrix.MemberInvite {
			return "", false, a.mayInvite(matrix.UserID(slot.Key))
		}
		return "", false, nil
	}
	switch q.Membership {
	case matrix.MemberLeave:
		return "", false, a.mayLeave(c.who.User, r)
	case matrix.MemberJoin:
	default:
		return "", false, nil
	}
	if m, err := a.rooms.Membership(c.who.User, r); err != nil || m != "invite" {
		return "", false, err
	}
	ctx, cancel := c.commit()
	defer cancel()
	id, err := a.rooms.SetMembership(ctx, r, c.who.User, c.who.User, "join", q.Reason, false)
	return id, true, err
}

// checkAliases: "M_BAD_ALIAS ... if any of the aliases newly added do not point at the room". Aliases of other servers
// cannot be looked up here, so they cannot be added.
func (a *API) checkAliases(c *call, r matrix.RoomID, content jsontext.Value) error {
	type aliases struct {
		Alias *string  `json:"alias"`
		Alt   []string `json:"alt_aliases"`
	}
	list := func(x aliases) []string {
		if x.Alias != nil && *x.Alias != "" {
			return append(x.Alt, *x.Alias)
		}
		return x.Alt
	}
	var now, before aliases
	if err := decode(content, &now); err != nil {
		return err
	}
	if ev, err := a.rooms.StateEvent(c.who.User, r, matrix.StateKey{Type: "m.room.canonical_alias"}); err == nil {
		_ = json.Unmarshal(ev.Content(), &before)
	}
	known := map[string]bool{}
	for _, s := range list(before) {
		known[s] = true
	}
	for _, s := range list(now) {
		if known[s] {
			continue
		}
		if !strings.HasPrefix(s, "#") {
			return invalid("not a room alias")
		}
		target, err := a.findAlias(s)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			return err
		}
		if err != nil || target != r {
			return &Error{Status: 400, Code: matrix.ErrcodeBadAlias, Text: "an alias does not point to this room"}
		}
	}
	return nil
}

// members: GET /rooms/{roomId}/members.
func (a *API) members(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	var at store.Pos
	if s := c.query("at"); s != "" {
		if at, err = parseToken(s); err != nil {
			return nil, err
		}
	}
	only, not := c.query("membership"), c.query("not_membership")
	events, err := a.rooms.Members(c.who.User, r, at)
	if err != nil {
		return nil, err
	}
	kept := make([]*matrix.Event, 0, len(events))
	for _, e := range events {
		m := e.Membership()
		// "the two are inclusive: a user who meets either is shown"
		if only == "" && not == "" || only != "" && m == only || not != "" && m != not {
			kept = append(kept, e)
		}
	}
	chunk, err := stateEvents(kept, true)
	if err != nil {
		return nil, err
	}
	return map[string]any{"chunk": chunk}, nil
}

// joinedMembers: GET /rooms/{roomId}/joined_members, for those in the room now.
func (a *API) joinedMembers(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	if err := a.mustBeJoined(c, r); err != nil {
		return nil, err
	}
	events, err := a.rooms.Members(c.who.User, r, 0)
	if err != nil {
		return nil, err
	}
	type member struct {
		Name   string `json:"display_name,omitzero"`
		Avatar string `json:"avatar_url,omitzero"`
	}
	joined := map[string]member{}
	for _, e := range events {
		if e.Membership() != "join" || e.StateKey() == nil {
			continue
		}
		var p profileAnswer
		_ = json.Unmarshal(e.Content(), &p) // others may write anything there
		joined[*e.StateKey()] = member{p.DisplayName, p.AvatarURL}
	}
	return map[string]any{"joined": joined}, nil
}
