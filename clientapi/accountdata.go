// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"math"
	"net/http"

	"tarn/account"
	"tarn/matrix"
)

// Types of account data that the server keeps by itself.
const (
	dataPushRules = "m.push_rules"
	dataTags      = "m.tag"
)

// maxTags of a room, per user.
const maxTags = 100

// dataRoom reads whose account data a path names: of the user, or of the user in {room}.
func (c *call) dataRoom() (matrix.RoomID, error) {
	if err := c.self(); err != nil {
		return "", err
	}
	if c.path("room") == "" {
		return "", nil
	}
	return c.room()
}

// accountData: GET /user/{userId}[/rooms/{roomId}]/account_data/{type}.
func (a *API) accountData(c *call) (any, error) {
	r, err := c.dataRoom()
	if err != nil {
		return nil, err
	}
	if r == "" && c.path("type") == dataPushRules {
		return a.pushRules(c)
	}
	raw, err := a.accounts.Data(c.who.User, r, c.path("type"))
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// setAccountData: PUT of the same.
func (a *API) setAccountData(c *call) (any, error) {
	r, err := c.dataRoom()
	if err != nil {
		return nil, err
	}
	typ := c.path("type")
	switch {
	case len(typ) > matrix.MaxID:
		return nil, invalid("the type is too long")
	case typ == markFully || r == "" && typ == dataPushRules:
		// "The given type of account data is controlled by the server; it cannot be modified by clients."
		return nil, &Error{Status: http.StatusMethodNotAllowed, Code: matrix.ErrcodeBadJSON, Text: "cannot set " + typ + " through this API"}
	}
	content, err := c.object()
	if err != nil {
		return nil, err
	}
	if typ == dataTags { // not between the reading and the writing of setTag
		defer a.edit(c.who.User)()
	}
	return empty{}, a.accounts.SetData(c.who.User, r, typ, content)
}

// tagContent is m.tag: one key, the tags by name.
type tagContent struct {
	Tags map[string]jsontext.Value `json:"tags"`
}

func (a *API) readTags(user matrix.UserID, r matrix.RoomID) (tagContent, error) {
	t := tagContent{}
	raw, err := a.accounts.Data(user, r, dataTags)
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		return t, err
	}
	_ = json.Unmarshal(raw, &t) // a client may have put anything there by account_data: then there are no tags
	if t.Tags == nil {
		t.Tags = map[string]jsontext.Value{}
	}
	return t, nil
}

// tags: GET /user/{userId}/rooms/{roomId}/tags.
func (a *API) tags(c *call) (any, error) {
	r, err := c.dataRoom()
	if err != nil {
		return nil, err
	}
	return a.readTags(c.who.User, r)
}

// setTag: PUT /user/{userId}/rooms/{roomId}/tags/{tag}.
func (a *API) setTag(c *call) (any, error) {
	var q struct {
		Order *float64 `json:"order"`
	}
	content, err := c.object()
	if err != nil {
		return nil, err
	}
	if err := decode(content, &q); err != nil {
		return nil, err
	}
	if q.Order != nil && (*q.Order < 0 || *q.Order > 1 || math.IsNaN(*q.Order)) {
		return nil, invalid("order must be between 0 and 1")
	}
	if len(c.path("tag")) > matrix.MaxID {
		return nil, invalid("the tag is too long")
	}
	return a.changeTags(c, func(t tagContent) error {
		t.Tags[c.path("tag")] = content
		if len(t.Tags) > maxTags {
			return invalid("more than %d tags", maxTags)
		}
		return nil
	})
}

// deleteTag: DELETE /user/{userId}/rooms/{roomId}/tags/{tag}.
func (a *API) deleteTag(c *call) (any, error) {
	return a.changeTags(c, func(t tagContent) error {
		delete(t.Tags, c.path("tag"))
		return nil
	})
}

func (a *API) changeTags(c *call, change func(tagContent) error) (any, error) {
	r, err := c.dataRoom()
	if err != nil {
		return nil, err
	}
	defer a.edit(c.who.User)()
	t, err := a.readTags(c.who.User, r)
	if err != nil {
		return nil, err
	}
	if err := change(t); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(t, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return empty{}, a.accounts.SetData(c.who.User, r, dataTags, raw)
}
