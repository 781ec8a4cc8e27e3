// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"errors"
	"strconv"

	"tarn/matrix"
	"tarn/room"
)

// Limits of a page of the directory.
const (
	defaultListings = 50
	maxListings     = 500
)

// addAlias: PUT /directory/room/{roomAlias}.
func (a *API) addAlias(c *call) (any, error) {
	var q struct {
		Room string `json:"room_id"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Room == "" {
		return nil, missing("room_id")
	}
	r, err := roomID(q.Room)
	if err != nil {
		return nil, err
	}
	err = a.rooms.AddAlias(c.who.User, c.path("alias"), r)
	switch {
	case errors.Is(err, room.ErrAliasInUse):
		return nil, &Error{Status: 409, Code: matrix.ErrcodeUnknown, Text: "this alias is taken"}
	case errors.Is(err, room.ErrBadEvent):
		return nil, invalid("not a room alias of this server")
	}
	return empty{}, err
}

// removeAlias: DELETE /directory/room/{roomAlias}.
func (a *API) removeAlias(c *call) (any, error) {
	if _, err := a.findAlias(c.path("alias")); err != nil {
		return nil, err
	}
	return empty{}, a.rooms.RemoveAlias(c.who.User, c.path("alias"))
}

// aliases: GET /rooms/{roomId}/aliases.
func (a *API) aliases(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	if err := a.mustBeJoined(c, r); err != nil {
		return nil, err
	}
	all, err := a.rooms.Aliases(r)
	return map[string]any{"aliases": all}, err
}

// roomVisibility: GET /directory/list/room/{roomId}.
func (a *API) roomVisibility(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	public, err := a.rooms.IsPublished(r)
	if errors.Is(err, room.ErrUnknownRoom) {
		return nil, notFound("there is no such room")
	}
	v := "private"
	if public {
		v = "public"
	}
	return map[string]string{"visibility": v}, err
}

// setRoomVisibility: PUT /directory/list/room/{roomId}.
func (a *API) setRoomVisibility(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	var q struct {
		Visibility string `json:"visibility"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	switch q.Visibility {
	case "", "public", "private":
	default:
		return nil, invalid("visibility must be public or private")
	}
	return empty{}, a.rooms.Publish(c.who.User, r, q.Visibility != "private") // "Defaults to public"
}

type listing struct {
	Room     matrix.RoomID `json:"room_id"`
	Name     string        `json:"name,omitzero"`
	Topic    string        `json:"topic,omitzero"`
	Alias    string        `json:"canonical_alias,omitzero"`
	Avatar   string        `json:"avatar_url,omitzero"`
	JoinRule string        `json:"join_rule,omitzero"`
	Type     string        `json:"room_type,omitzero"`
	Joined   int           `json:"num_joined_members"`
	World    bool          `json:"world_readable"`
	Guests   bool          `json:"guest_can_join"`
}

type listingsRequest struct {
	Limit  *int64 `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"` // null: rooms without a type
	} `json:"filter"`
}

// publicRooms: GET and POST /publicRooms. Another node's, if it is a contact, is asked for.
func (a *API) publicRooms(c *call) (any, error) {
	var q listingsRequest
	if c.r.Method == "POST" {
		if err := c.decode(&q); err != nil {
			return nil, err
		}
	} else {
		n, err := c.queryInt("limit", defaultListings)
		if err != nil {
			return nil, err
		}
		q.Limit, q.Since = &n, c.query("since")
	}
	limit := int64(defaultListings)
	if q.Limit != nil && *q.Limit > 0 {
		limit = min(*q.Limit, maxListings)
	}
	from := 0
	if q.Since != "" {
		n, err := strconv.ParseUint(q.Since, 10, 31)
		if err != nil {
			return nil, invalid("since is no token of this server")
		}
		from = int(n)
	}
	search := room.ListQuery{Limit: int(limit), Since: from, Term: q.Filter.Term, Types: q.Filter.Types}
	var found room.ListPage
	var err error
	if s := c.query("server"); s != "" && s != string(a.cfg.Server) {
		ctx, cancel := context.WithTimeout(c.r.Context(), seekLimit)
		defer cancel()
		found, err = a.rooms.ListOf(ctx, matrix.ServerName(s), search)
	} else {
		found, err = a.rooms.List(search)
	}
	if err != nil {
		return nil, err
	}
	all := make([]listing, 0, len(found.Rooms))
	for _, l := range found.Rooms {
		all = append(all, listing(l))
	}
	out := map[string]any{"chunk": all, "total_room_count_estimate": found.Total}
	if found.Next > 0 {
		out["next_batch"] = strconv.Itoa(found.Next)
	}
	if from > 0 {
		out["prev_batch"] = strconv.Itoa(max(from-int(limit), 0))
	}
	return out, nil
}
