// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Bounds of a search.
const (
	defaultHits  = 10
	maxHitsPage  = 100
	maxAround    = 50  // events before, and after, each hit
	maxTerm      = 512 // bytes
	orderRecent  = "recent"
	orderRank    = "rank"
	searchPrefix = "f" // of its tokens: how many hits were given, and the cut that the search was made at
)

type searchRequest struct {
	Categories struct {
		RoomEvents *struct {
			Term   string      `json:"search_term"`
			Keys   []string    `json:"keys"`
			Filter eventFilter `json:"filter"`
			Order  string      `json:"order_by"`
			Around *struct {
				Before  *int64 `json:"before_limit"`
				After   *int64 `json:"after_limit"`
				Profile bool   `json:"include_profile"`
			} `json:"event_context"`
			State  bool `json:"include_state"`
			Groups struct {
				By []struct {
					Key string `json:"key"`
				} `json:"group_by"`
			} `json:"groupings"`
		} `json:"room_events"`
	} `json:"search_categories"`
}

type searchResults struct {
	Count      int                                `json:"count"`
	Highlights []string                           `json:"highlights"`
	Results    []searchResult                     `json:"results"`
	Next       string                             `json:"next_batch,omitzero"`
	Groups     map[string]map[string]*searchGroup `json:"groups,omitempty"`
	State      map[matrix.RoomID][]jsontext.Value `json:"state,omitempty"`
}

type searchResult struct {
	Rank    float64        `json:"rank"`
	Result  jsontext.Value `json:"result"`
	Context *searchContext `json:"context,omitzero"`
}

type searchContext struct {
	Start    string                          `json:"start"`
	End      string                          `json:"end"`
	Before   []jsontext.Value                `json:"events_before"`
	After    []jsontext.Value                `json:"events_after"`
	Profiles map[matrix.UserID]searchProfile `json:"profile_info,omitempty"`
}

type searchProfile struct {
	Name   string `json:"displayname,omitzero"`
	Avatar string `json:"avatar_url,omitzero"`
}

type searchGroup struct {
	Order   int              `json:"order"`
	Results []matrix.EventID `json:"results"`
}

// search: POST /search?next_batch= (C-S API, "Server Side Search"). Of the hits the newest 500 are known, so "count" is no more.
func (a *API) search(c *call) (any, error) {
	var q searchRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	r := q.Categories.RoomEvents
	if r == nil { // "if a category is not there, nothing of it is searched"
		return map[string]any{"search_categories": empty{}}, nil
	}
	if r.Term == "" {
		return nil, missing("search_term")
	}
	if len(r.Term) > maxTerm {
		return nil, invalid("search_term has more than %d bytes", maxTerm)
	}
	if err := r.Filter.check(); err != nil {
		return nil, err
	}
	for _, k := range r.Keys {
		switch k {
		case "content.body", "content.name", "content.topic":
		default:
			return nil, invalid("keys may be content.body, content.name and content.topic")
		}
	}
	switch r.Order {
	case "":
		r.Order = orderRank // "Defaults to rank"
	case orderRank, orderRecent:
	default:
		return nil, invalid("order_by must be rank or recent")
	}
	for _, g := range r.Groups.By {
		if g.Key != "room_id" && g.Key != "sender" {
			return nil, invalid("groups are by room_id or sender")
		}
	}
	skip, at := 0, a.stream.Current()
	if s := c.query("next_batch"); s != "" {
		var err error
		if skip, at, err = parseSearchToken(s); err != nil {
			return nil, err
		}
	}
	limit := defaultHits
	if r.Filter.Limit != nil {
		limit = min(*r.Filter.Limit, maxHitsPage)
	}
	ask := room.Question{Term: r.Term, Keys: r.Keys, Before: at, Device: c.who.Device}
	if r.Filter.Rooms != nil {
		ask.Rooms = []matrix.RoomID{}
		for _, id := range *r.Filter.Rooms {
			ask.Rooms = append(ask.Rooms, matrix.RoomID(id))
		}
	}
	ignored, err := a.ignored(c.who.User)
	if err != nil {
		return nil, err
	}
	if !r.Filter.all() || len(ignored) > 0 {
		ask.Keep = func(e room.Entry) bool {
			return (r.Filter.all() || r.Filter.keepsEntry(e)) && !unheard(ignored, e.Event)
		}
	}
	hits, err := a.rooms.Search(c.who.User, ask)
	if err != nil {
		return nil, err
	}
	if r.Order == orderRank {
		slices.SortStableFunc(hits, func(a, b room.Hit) int { // the newer first among equals
			switch {
			case a.Rank > b.Rank:
				return -1
			case a.Rank < b.Rank:
				return 1
			}
			return 0
		})
	}
	out := &searchResults{Count: len(hits), Highlights: append([]string{}, ask.Terms()...), Results: []searchResult{}}
	page := hits[min(skip, len(hits)):]
	if len(page) > limit {
		page = page[:limit]
		out.Next = searchToken(skip+limit, at)
	}
	around := [2]int{-1, -1}
	profiles := false
	if x := r.Around; x != nil {
		profiles = x.Profile
		for i, n := range []*int64{x.Before, x.After} {
			around[i] = 5 // "Default: 5"
			if n != nil {
				around[i] = int(min(max(*n, 0), maxAround))
			}
		}
	}
	for i := range page {
		result, err := a.searchResult(c, &page[i], around, profiles)
		if err != nil {
			return nil, err
		}
		out.Results = append(out.Results, result)
	}
	for _, g := range r.Groups.By {
		out.group(g.Key, page)
	}
	if r.State {
		if out.State, err = a.statesOf(c, page); err != nil {
			return nil, err
		}
	}
	return map[string]any{"search_categories": map[string]any{"room_events": out}}, nil
}

// searchResult shows a hit, with what stands around it if that is asked for.
func (a *API) searchResult(c *call, h *room.Hit, around [2]int, profiles bool) (out searchResult, err error) {
	out.Rank = math.Round(h.Rank*1e6) / 1e6
	if out.Result, err = clientEvent(h.Entry, true); err != nil || around[0] < 0 {
		return out, err
	}
	before, after, _, err := a.rooms.Around(c.who.User, h.Room(), h.ID(), around[0], around[1], nil)
	if err != nil {
		return out, err
	}
	x := &searchContext{Start: token(before.End), End: token(after.End)}
	for _, events := range []*[]room.Entry{&before.Events, &after.Events} {
		if *events, err = a.heard(c, *events); err != nil {
			return out, err
		}
	}
	if x.Before, err = clientEvents(before.Events, true); err != nil {
		return out, err
	}
	if x.After, err = clientEvents(after.Events, true); err != nil {
		return out, err
	}
	if profiles {
		x.Profiles = map[matrix.UserID]searchProfile{}
		for _, e := range append(append([]room.Entry{h.Entry}, before.Events...), after.Events...) {
			if _, found := x.Profiles[e.Sender()]; !found {
				name, avatar := a.rooms.SenderProfile(c.who.User, h.Room(), e.Sender())
				x.Profiles[e.Sender()] = searchProfile{name, avatar}
			}
		}
	}
	out.Context = x
	return out, nil
}

// group orders the groups by their first hits.
func (s *searchResults) group(by string, page []room.Hit) {
	groups := map[string]*searchGroup{}
	for _, h := range page {
		name := string(h.Room())
		if by == "sender" {
			name = string(h.Sender())
		}
		g := groups[name]
		if g == nil {
			g = &searchGroup{Order: len(groups) + 1}
			groups[name] = g
		}
		g.Results = append(g.Results, h.ID())
	}
	if s.Groups == nil {
		s.Groups = map[string]map[string]*searchGroup{}
	}
	s.Groups[by] = groups
}

// statesOf reads the state of each room that has a hit.
func (a *API) statesOf(c *call, page []room.Hit) (map[matrix.RoomID][]jsontext.Value, error) {
	out := map[matrix.RoomID][]jsontext.Value{}
	for _, h := range page {
		if _, found := out[h.Room()]; found {
			continue
		}
		events, err := a.rooms.State(c.who.User, h.Room())
		if err == nil {
			out[h.Room()], err = stateEvents(events, true)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func searchToken(skip int, at store.Pos) string {
	return fmt.Sprintf("%s%d_%d", searchPrefix, skip, at)
}

func parseSearchToken(s string) (skip int, at store.Pos, err error) {
	rest, found := strings.CutPrefix(s, searchPrefix)
	a, b, both := strings.Cut(rest, "_")
	n, err1 := strconv.ParseUint(a, 10, 31)
	p, err2 := strconv.ParseUint(b, 10, 64)
	if !found || !both || err1 != nil || err2 != nil {
		return 0, 0, invalid("next_batch is no token of this server")
	}
	return int(n), store.Pos(p), nil
}
