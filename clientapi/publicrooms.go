// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"errors"
	"slices"
	"strconv"
	"strings"

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

// publicRooms: GET and POST /publicRooms. Only this node's own: to ask another server would tell it who looks.
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
	if s := c.query("server"); s != "" && s != string(a.cfg.Server) {
		return nil, notFound("other servers' directories are not known here")
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
	term := strings.ToLower(q.Filter.Term)
	all := []listing{}
	err := a.rooms.Directory(func(l room.Listing) bool {
		if q.Filter.Types != nil && !slices.ContainsFunc(q.Filter.Types, func(t *string) bool { return t == nil && l.Type == "" || t != nil && *t == l.Type }) {
			return true
		}
		if term == "" || slices.ContainsFunc([]string{l.Name, l.Topic, l.Alias}, func(s string) bool { return strings.Contains(strings.ToLower(s), term) }) {
			all = append(all, listing(l))
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	out := map[string]any{"total_room_count_estimate": len(all)}
	page := all[min(from, len(all)):]
	if int64(len(page)) > limit {
		page = page[:limit]
		out["next_batch"] = strconv.Itoa(from + int(limit))
	}
	if from > 0 {
		out["prev_batch"] = strconv.Itoa(max(from-int(limit), 0))
	}
	out["chunk"] = page
	return out, nil
}
