// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/v2"
	"strings"

	"tarn/matrix"
)

// Limits of a search.
const (
	defaultPeople = 10
	maxPeople     = 50
)

type personAnswer struct {
	User   matrix.UserID `json:"user_id"`
	Name   string        `json:"display_name,omitzero"`
	Avatar string        `json:"avatar_url,omitzero"`
}

// searchPeople: POST /user_directory/search. It knows the node's own users, and who shares a room with the asker.
func (a *API) searchPeople(c *call) (any, error) {
	var q struct {
		Term  *string `json:"search_term"`
		Limit *int    `json:"limit"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Term == nil {
		return nil, missing("search_term")
	}
	limit := defaultPeople
	if q.Limit != nil && *q.Limit > 0 {
		limit = min(*q.Limit, maxPeople)
	}
	term := strings.ToLower(strings.TrimSpace(*q.Term))
	out := struct {
		Results []personAnswer `json:"results"`
		Limited bool           `json:"limited"`
	}{Results: []personAnswer{}}
	seen := map[matrix.UserID]bool{c.who.User: true}
	// add says whether there may be more.
	add := func(p personAnswer) bool {
		if seen[p.User] {
			return true
		}
		seen[p.User] = true
		if !strings.Contains(strings.ToLower(string(p.User)), term) && !strings.Contains(strings.ToLower(p.Name), term) {
			return true
		}
		if len(out.Results) == limit {
			out.Limited = true
			return false
		}
		out.Results = append(out.Results, p)
		return true
	}
	users, err := a.accounts.Users()
	if err != nil {
		return nil, err
	}
	for _, u := range users {
		p, err := a.accounts.Profile(u)
		if err != nil {
			continue // gone meanwhile
		}
		if !add(personAnswer{u, p.DisplayName, p.AvatarURL}) {
			return out, nil
		}
	}
	err = a.rooms.Known(c.who.User, func(member *matrix.Event) bool {
		if key := member.StateKey(); key != nil && !a.local(matrix.UserID(*key)) {
			var p struct {
				Name   string `json:"displayname"`
				Avatar string `json:"avatar_url"`
			}
			_ = json.Unmarshal(member.Content(), &p) // what another server wrote there may be anything
			return add(personAnswer{matrix.UserID(*key), p.Name, p.Avatar})
		}
		return true
	})
	return out, err
}

// mutualRooms: GET /v1/mutual_rooms?user_id= (v1.19; MSC2666 before). All at once: there are no batches, and so no from.
func (a *API) mutualRooms(c *call) (any, error) {
	other := c.query("user_id")
	name, server, found := strings.Cut(other, ":")
	switch {
	case !strings.HasPrefix(name, "@") || !found || server == "":
		return nil, invalid("user_id is missing, or none")
	case other == string(c.who.User):
		return nil, invalid("these are your own rooms: ask /joined_rooms")
	case c.query("from") != "" || c.query("batch_token") != "":
		return nil, invalid("from was never given out")
	}
	rooms, err := a.rooms.Mutual(c.who.User, matrix.UserID(other))
	return map[string]any{"joined": rooms, "count": len(rooms)}, err
}

// turnServer: GET /voip/turnServer. There is none (spec v1.15, MSC4166: 404 M_NOT_FOUND).
func (a *API) turnServer(*call) (any, error) {
	return nil, notFound("this node has no TURN server")
}
