// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"errors"

	"tarn/matrix"
	"tarn/room"
)

type createRequest struct {
	Visibility      string             `json:"visibility"`
	Preset          string             `json:"preset"`
	Version         matrix.RoomVersion `json:"room_version"`
	Name            string             `json:"name"`
	Topic           string             `json:"topic"`
	Alias           string             `json:"room_alias_name"`
	Invite          []string           `json:"invite"`
	Invite3PID      []jsontext.Value   `json:"invite_3pid"`
	Direct          bool               `json:"is_direct"`
	CreationContent jsontext.Value     `json:"creation_content"`
	InitialState    []room.StateEvent  `json:"initial_state"`
	PowerLevels     jsontext.Value     `json:"power_level_content_override"`
}

// createRoom: POST /createRoom.
func (a *API) createRoom(c *call) (any, error) {
	var q createRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	switch q.Visibility {
	case "", "private", "public":
	default:
		return nil, invalid("visibility must be public or private")
	}
	switch q.Preset {
	case "", "private_chat", "trusted_private_chat", "public_chat":
	default:
		return nil, invalid("preset is not known")
	}
	if q.Version != "" && !matrix.Offered(q.Version) {
		return nil, room.ErrBadVersion
	}
	if len(q.Invite3PID) > 0 {
		return nil, invalid("there are no third-party invites here")
	}
	for _, o := range []*jsontext.Value{&q.CreationContent, &q.PowerLevels} {
		switch o.Kind() {
		case '{', 0:
		case 'n':
			*o = nil
		default:
			return nil, badJSON("creation_content and power_level_content_override must be objects")
		}
	}
	for _, s := range q.InitialState {
		if s.Type == "" || s.Content.Kind() != '{' {
			return nil, badJSON("initial_state needs a type and a content of each event")
		}
	}
	invites := make([]matrix.UserID, 0, len(q.Invite))
	for _, s := range q.Invite {
		u, err := userID(s)
		if err != nil {
			return nil, err
		}
		invites = append(invites, u)
	}
	if err := a.mayInvite(invites...); err != nil {
		return nil, err
	}
	id, err := a.rooms.Create(c.r.Context(), room.Create{
		Creator: c.who.User, Version: q.Version, Preset: q.Preset, Public: q.Visibility == "public",
		Name: q.Name, Topic: q.Topic, Alias: q.Alias, Invite: invites, Direct: q.Direct,
		CreationContent: q.CreationContent, InitialState: q.InitialState, PowerLevels: q.PowerLevels,
	})
	if err != nil {
		return nil, err
	}
	if q.Visibility == "public" {
		// After the room: a crash in between leaves a room that is not listed, which its maker can list. Who gave away the
		// power to do so by the first power levels has a room nevertheless.
		if err := a.rooms.Publish(c.who.User, id, true); err != nil && !errors.Is(err, room.ErrForbidden) {
			return nil, err
		}
	}
	return map[string]any{"room_id": id}, nil
}

// joinedRooms: GET /joined_rooms.
func (a *API) joinedRooms(c *call) (any, error) {
	rooms, err := a.rooms.Joined(c.who.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"joined_rooms": rooms}, nil
}

// mustBeJoined errs unless who asks is in the room now.
func (a *API) mustBeJoined(c *call, r matrix.RoomID) error {
	m, err := a.rooms.Membership(c.who.User, r)
	if err != nil {
		return err
	}
	if m != "join" {
		return room.ErrNotMember
	}
	return nil
}
