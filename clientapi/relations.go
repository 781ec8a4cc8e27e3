// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"strconv"

	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// aggregations is what unsigned has under m.relations (C-S API, "Aggregations of child events"). Annotations are not
// among them: clients count those that they see (v1.7 on).
func aggregations(r *room.Related, withRoom bool) (map[string]any, error) {
	out := map[string]any{}
	if r.Edit != nil {
		edit, err := clientEvent(*r.Edit, withRoom)
		if err != nil {
			return nil, err
		}
		out[matrix.RelReplace] = edit
	}
	if r.Thread != nil {
		latest, err := clientEvent(r.Thread.Latest, withRoom)
		if err != nil {
			return nil, err
		}
		out[matrix.RelThread] = map[string]any{
			"latest_event": latest, "count": r.Thread.Count, "current_user_participated": r.Thread.Participated,
		}
	}
	if len(r.References) > 0 {
		type reference struct {
			Event matrix.EventID `json:"event_id"`
		}
		chunk := make([]reference, 0, len(r.References))
		for _, id := range r.References {
			chunk = append(chunk, reference{id})
		}
		out[matrix.RelReference] = map[string]any{"chunk": chunk}
	}
	return out, nil
}

type relationsAnswer struct {
	Chunk []jsontext.Value `json:"chunk"`
	Next  string           `json:"next_batch,omitzero"`
	Prev  string           `json:"prev_batch,omitzero"`
	Depth int              `json:"recursion_depth,omitzero"`
}

// direction reads dir; backwards if it says nothing.
func (c *call) direction() (back bool, err error) {
	switch c.query("dir") {
	case "b", "":
		return true, nil
	case "f":
		return false, nil
	}
	return false, invalid("dir must be b or f")
}

// cut reads a token of the query; nil: there is none.
func (c *call) cut(name string) (*store.Pos, error) {
	s := c.query(name)
	if s == "" {
		return nil, nil
	}
	p, err := parseToken(s)
	return &p, err
}

// relations: GET /rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]].
func (a *API) relations(c *call) (any, error) {
	r, id, err := c.roomEvent()
	if err != nil {
		return nil, err
	}
	o := room.RelationQuery{Rel: c.path("rel"), Type: c.path("type")}
	if o.Back, err = c.direction(); err != nil {
		return nil, err
	}
	if o.Limit, err = c.limitOf(); err != nil {
		return nil, err
	}
	if o.From, err = c.cut("from"); err != nil {
		return nil, err
	}
	if o.To, err = c.cut("to"); err != nil {
		return nil, err
	}
	if s := c.query("recurse"); s != "" {
		if o.Recurse, err = strconv.ParseBool(s); err != nil {
			return nil, invalid("recurse must be true or false")
		}
	}
	page, err := a.rooms.Relations(c.who.User, r, id, o)
	if err != nil {
		return nil, hidden(err)
	}
	if page.Events, err = a.heard(c, page.Events); err != nil {
		return nil, err
	}
	out := relationsAnswer{Prev: c.query("from")}
	if page.More {
		out.Next = token(page.End)
	}
	if o.Recurse {
		out.Depth = room.RecursionDepth
	}
	out.Chunk, err = c.events(page.Events)
	return out, err
}

// threads: GET /rooms/{roomId}/threads.
func (a *API) threads(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	participated := false
	switch c.query("include") {
	case "", "all":
	case "participated":
		participated = true
	default:
		return nil, invalid("include must be all or participated")
	}
	limit, err := c.limitOf()
	if err != nil {
		return nil, err
	}
	var from store.Pos
	if s := c.query("from"); s != "" {
		if from, err = parseToken(s); err != nil {
			return nil, err
		}
	}
	page, err := a.rooms.Threads(c.who.User, r, participated, from, limit)
	if err != nil {
		return nil, err
	}
	if page.Events, err = a.heard(c, page.Events); err != nil {
		return nil, err
	}
	out := relationsAnswer{}
	if page.More {
		out.Next = token(page.End)
	}
	out.Chunk, err = c.events(page.Events)
	return out, err
}

// timestampToEvent: GET /rooms/{roomId}/timestamp_to_event.
func (a *API) timestampToEvent(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	if c.query("ts") == "" {
		return nil, missing("ts")
	}
	ms, err := c.queryInt("ts", 0)
	if err != nil {
		return nil, err
	}
	if ms < 0 {
		return nil, invalid("ts must not be negative")
	}
	if c.query("dir") == "" {
		return nil, missing("dir")
	}
	back, err := c.direction()
	if err != nil {
		return nil, err
	}
	e, err := a.rooms.AtTime(c.who.User, r, ms, back)
	if err != nil {
		return nil, err
	}
	return map[string]any{"event_id": e.ID(), "origin_server_ts": e.Time().UnixMilli()}, nil
}

// hidden answers 404 for an event of a room that the user is not in, as for one that does not exist.
func hidden(err error) error {
	if ignoreUnknown(err) == nil && err != nil {
		return room.ErrUnknownEvent
	}
	return err
}
