// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"strconv"
	"strings"

	"tarn/matrix"
	"tarn/room"
)

// Bounds of a walk through a space.
const (
	defaultSpacePage = 50
	maxSpacePage     = 100
	maxSpaceRooms    = 1000 // rooms looked at from the root on, by all pages of one walk
	maxSpaceDepth    = 20
)

type summaryAnswer struct {
	listing
	Version    matrix.RoomVersion `json:"room_version,omitzero"`
	Encryption string             `json:"encryption,omitzero"`
	Allowed    []matrix.RoomID    `json:"allowed_room_ids,omitempty"`
	Membership string             `json:"membership,omitzero"`
}

func summaryOf(s room.Summary) summaryAnswer {
	return summaryAnswer{listing: listing(s.Listing), Version: s.Version, Encryption: s.Encryption, Allowed: s.Allowed, Membership: s.Membership}
}

// roomSummary: GET /room_summary/{roomIdOrAlias} (v1.15), and its elder paths, which Cinny and matrix-js-sdk still ask for.
func (a *API) roomSummary(c *call) (any, error) {
	unknown := notFound("there is no such room, or it is not for you to see")
	r := matrix.RoomID(c.path("target"))
	var via []matrix.ServerName
	for _, s := range c.r.URL.Query()["via"] {
		via = append(via, matrix.ServerName(s))
	}
	if strings.HasPrefix(string(r), "#") {
		var servers []matrix.ServerName
		var err error
		if r, servers, err = a.aliasOf(c, string(r)); err != nil {
			return nil, err
		}
		via = append(via, servers...)
	} else if _, err := roomID(string(r)); err != nil {
		return nil, invalid("neither a room id nor an alias")
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), seekLimit)
	defer cancel()
	s, err := a.rooms.SummaryOf(ctx, c.who.User, r, via)
	if errors.Is(err, room.ErrUnknownRoom) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	if c.who.User != "" && s.Membership == "" {
		s.Membership = matrix.MemberLeave
	}
	return summaryOf(s), nil
}

type spaceRoom struct {
	summaryAnswer
	Children []spaceChildEvent `json:"children_state"`
}

type spaceChildEvent struct {
	Type     string         `json:"type"`
	StateKey matrix.RoomID  `json:"state_key"`
	Content  jsontext.Value `json:"content"`
	Sender   matrix.UserID  `json:"sender"`
	Time     int64          `json:"origin_server_ts"`
}

// walk goes through a space depth first, each room once.
type walk struct {
	a         *API
	ctx       context.Context
	user      matrix.UserID
	suggested bool
	depth     int
	skip      int // rooms of earlier pages
	limit     int
	seen      map[matrix.RoomID]bool
	passed    int
	rooms     []spaceRoom
	more      bool
}

func (w *walk) visit(id matrix.RoomID, via []matrix.ServerName, depth int) error {
	if w.more || w.seen[id] || len(w.seen) >= maxSpaceRooms {
		return nil
	}
	w.seen[id] = true
	s, err := w.a.rooms.SummaryOf(w.ctx, w.user, id, via)
	if depth > 0 && (errors.Is(err, room.ErrUnknownRoom) || errors.Is(err, room.ErrUnderWay) || errors.Is(err, room.ErrTooMany)) {
		return nil // "rooms that the user may not see are left out"; those of who has not answered yet are there the next time
	}
	if err != nil {
		return err
	}
	if w.passed++; w.passed > w.skip {
		if len(w.rooms) == w.limit {
			w.more = true
			return nil
		}
		out := spaceRoom{summaryAnswer: summaryOf(s), Children: []spaceChildEvent{}}
		out.Membership = ""
		for _, c := range s.Children {
			if w.suggested && !c.Suggested {
				continue
			}
			out.Children = append(out.Children, spaceChildEvent{matrix.TypeSpaceChild, c.Room, jsontext.Value(c.Content), c.Sender, c.Time.UnixMilli()})
		}
		w.rooms = append(w.rooms, out)
	}
	if depth == w.depth {
		return nil
	}
	for _, c := range s.Children {
		if w.suggested && !c.Suggested {
			continue
		}
		if err := w.visit(c.Room, c.Via, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// hierarchyPrefix begins its tokens: how many rooms were given, and the parameters of the walk, which must stay the same.
const hierarchyPrefix = "h1_"

// hierarchy: GET /rooms/{roomId}/hierarchy. Rooms that are not known here are asked for, of contacts that are said to be in them.
func (a *API) hierarchy(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	limit, err := c.queryInt("limit", defaultSpacePage)
	if err != nil {
		return nil, err
	}
	depth, err := c.queryInt("max_depth", maxSpaceDepth)
	if err != nil {
		return nil, err
	}
	if limit < 1 || depth < 0 {
		return nil, invalid("limit must be positive, and max_depth not negative")
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), seekLimit) // for all nodes that are asked together
	defer cancel()
	w := walk{a: a, ctx: ctx, user: c.who.User, depth: int(min(depth, maxSpaceDepth)), limit: int(min(limit, maxSpacePage)), seen: map[matrix.RoomID]bool{}}
	if s := c.query("suggested_only"); s != "" {
		if w.suggested, err = strconv.ParseBool(s); err != nil {
			return nil, invalid("suggested_only must be true or false")
		}
	}
	suffix := "_" + strconv.Itoa(w.depth) + "_" + strconv.FormatBool(w.suggested)
	if s := c.query("from"); s != "" {
		digits, found := strings.CutPrefix(s, hierarchyPrefix)
		digits, same := strings.CutSuffix(digits, suffix)
		n, err := strconv.ParseUint(digits, 10, 31)
		if !found || !same || err != nil {
			return nil, invalid("from is no token of this walk: suggested_only and max_depth must not change")
		}
		w.skip = int(n)
	}
	if err := w.visit(r, nil, 0); err != nil {
		return nil, err
	}
	out := map[string]any{"rooms": append([]spaceRoom{}, w.rooms...)}
	if w.more {
		out["next_batch"] = hierarchyPrefix + strconv.Itoa(w.skip+len(w.rooms)) + suffix
	}
	return out, nil
}
