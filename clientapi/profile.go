// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	jsonv1 "encoding/json"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"maps"
	"net/http"
	"strings"

	"tarn/account"
	"tarn/matrix"
	"tarn/room"
)

// profileAnswer has only what is set.
type profileAnswer struct {
	DisplayName string `json:"displayname,omitzero"`
	AvatarURL   string `json:"avatar_url,omitzero"`
}

// profile: GET /profile/{userId}.
func (a *API) profile(c *call) (any, error) {
	p, err := a.findProfile(c)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for k, v := range p.Fields {
		out[k] = v
	}
	if p.DisplayName != "" {
		out[fieldName] = p.DisplayName
	}
	if p.AvatarURL != "" {
		out[fieldAvatar] = p.AvatarURL
	}
	return out, nil
}

// The fields that rooms show, too; all others stay in the profile (C-S API, "Profiles").
const (
	fieldName   = "displayname"
	fieldAvatar = "avatar_url"
)

// field reads the path's {field}.
func (c *call) field() (string, error) {
	name := c.path("field")
	if len(name) > account.MaxField {
		return "", &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeKeyTooLarge, Text: "the field's name is too long"}
	}
	for i, r := range name { // appendices, "Common Namespaced Identifier Grammar"
		if !('a' <= r && r <= 'z' || i > 0 && ('0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')) {
			return "", invalid("a field's name begins with a-z and may have a-z, 0-9, - . and _")
		}
	}
	return name, nil
}

// profileField: GET /profile/{userId}/{keyName}.
func (a *API) profileField(c *call) (any, error) {
	name, err := c.field()
	if err != nil {
		return nil, err
	}
	p, err := a.findProfile(c)
	if err != nil {
		return nil, err
	}
	v, ok := p.Fields[name]
	if !ok {
		return nil, notFound("the profile has no such field")
	}
	return map[string]jsonv1.RawMessage{name: v}, nil
}

// setProfileField: PUT of the same.
func (a *API) setProfileField(c *call) (any, error) {
	name, err := c.field()
	if err != nil {
		return nil, err
	}
	var q map[string]jsontext.Value
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	v, ok := q[name]
	if !ok {
		return nil, missing(name)
	}
	if err := v.Compact(); err != nil {
		return nil, notJSON()
	}
	return empty{}, a.setProfile(c, func(p *account.Profile) {
		p.Fields = maps.Clone(p.Fields)
		if p.Fields == nil {
			p.Fields = map[string]jsonv1.RawMessage{}
		}
		p.Fields[name] = jsonv1.RawMessage(v)
	})
}

// deleteProfileField: DELETE of the same, also for displayname and avatar_url.
func (a *API) deleteProfileField(c *call) (any, error) {
	name, err := c.field()
	if err != nil {
		return nil, err
	}
	return empty{}, a.setProfile(c, func(p *account.Profile) {
		switch name {
		case fieldName:
			p.DisplayName = ""
		case fieldAvatar:
			p.AvatarURL = ""
		default:
			p.Fields = maps.Clone(p.Fields)
			delete(p.Fields, name)
		}
	})
}

// displayName: GET /profile/{userId}/displayname.
func (a *API) displayName(c *call) (any, error) {
	p, err := a.findProfile(c)
	return profileAnswer{DisplayName: p.DisplayName}, err
}

// avatarURL: GET /profile/{userId}/avatar_url.
func (a *API) avatarURL(c *call) (any, error) {
	p, err := a.findProfile(c)
	return profileAnswer{AvatarURL: p.AvatarURL}, err
}

// findProfile: local users' from account; others' as a room that the asker shares with them shows it. Nobody is asked
// over the network: a look-up there would tell who looks.
func (a *API) findProfile(c *call) (account.Profile, error) {
	unknown := notFound("nothing is known of this user")
	who, err := userID(c.path("user"))
	if name, _, ok := strings.Cut(c.path("user"), ":"); err != nil && ok && strings.HasPrefix(name, "@") {
		return account.Profile{}, unknown // of a server that is no onion: somebody wrote of them
	}
	if err != nil {
		return account.Profile{}, err
	}
	if a.local(who) {
		p, err := a.accounts.Profile(who)
		if errors.Is(err, account.ErrNotFound) {
			return account.Profile{}, unknown
		}
		return p, err
	}
	if c.who.User == "" {
		return account.Profile{}, unknown
	}
	rooms, err := a.rooms.Joined(c.who.User)
	if err != nil {
		return account.Profile{}, err
	}
	for _, r := range rooms {
		ev, err := a.rooms.StateEvent(c.who.User, r, matrix.StateKey{Type: "m.room.member", Key: string(who)})
		if errors.Is(err, room.ErrNoState) || errors.Is(err, room.ErrNotMember) {
			continue
		}
		if err != nil {
			return account.Profile{}, err
		}
		if ev.Membership() == "join" {
			var p profileAnswer
			_ = json.Unmarshal(ev.Content(), &p) // a member event may hold anything there: then it shows nothing
			return account.Profile{DisplayName: p.DisplayName, AvatarURL: p.AvatarURL}, nil
		}
	}
	return account.Profile{}, unknown
}

// textField is a value that must be there and be a string; null, which elder clients send, clears the field.
func textField(name string, given jsontext.Value) (s string, err error) {
	switch given.Kind() {
	case 0:
		return "", missing(name)
	case 'n':
		return "", nil
	case '"':
		err = json.Unmarshal(given, &s)
		return s, err
	}
	return "", badJSON(name + " must be a string")
}

// setDisplayName: PUT /profile/{userId}/displayname.
func (a *API) setDisplayName(c *call) (any, error) {
	var q struct {
		Given jsontext.Value `json:"displayname"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	name, err := textField(fieldName, q.Given)
	if err != nil {
		return nil, err
	}
	if len(name) > account.MaxName {
		return nil, invalid("displayname is longer than %d bytes", account.MaxName)
	}
	return empty{}, a.setProfile(c, func(p *account.Profile) { p.DisplayName = name })
}

// setAvatarURL: PUT /profile/{userId}/avatar_url.
func (a *API) setAvatarURL(c *call) (any, error) {
	var q struct {
		Given jsontext.Value `json:"avatar_url"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	uri, err := textField(fieldAvatar, q.Given)
	if err != nil {
		return nil, err
	}
	if len(uri) > account.MaxAvatarURL {
		return nil, invalid("avatar_url is longer than %d bytes", account.MaxAvatarURL)
	}
	if uri != "" && !strings.HasPrefix(uri, "mxc://") {
		return nil, invalid("avatar_url must be an mxc:// URI")
	}
	return empty{}, a.setProfile(c, func(p *account.Profile) { p.AvatarURL = uri })
}

// setProfile stores the profile, then shows it in every room that the user is in ("Events on Change of Profile
// Information"). A crash in between leaves rooms that show the old one until the next change; the profile is safe.
func (a *API) setProfile(c *call, change func(*account.Profile)) error {
	if err := c.self(); err != nil {
		return err
	}
	defer a.edit(c.who.User)()
	var before, p account.Profile
	err := a.accounts.ChangeProfile(c.who.User, func(now *account.Profile) {
		before = *now
		change(now)
		p = *now
	})
	if err != nil || p.DisplayName == before.DisplayName && p.AvatarURL == before.AvatarURL {
		return err
	}
	rooms, err := a.rooms.Joined(c.who.User)
	if err != nil {
		return err
	}
	for _, r := range rooms {
		if err := a.showProfile(c, r, p); err != nil {
			a.log.Debug("a room does not take the new profile", "room", r, "err", err)
		}
	}
	return nil
}

// showProfile repeats the user's join with the new profile, all else in its content kept.
func (a *API) showProfile(c *call, r matrix.RoomID, p account.Profile) error {
	key := string(c.who.User)
	ev, err := a.rooms.StateEvent(c.who.User, r, matrix.StateKey{Type: "m.room.member", Key: key})
	if err != nil {
		return err
	}
	content := map[string]any{}
	if err := json.Unmarshal(ev.Content(), &content); err != nil {
		return err
	}
	set := func(name, value string) {
		if delete(content, name); value != "" {
			content[name] = value
		}
	}
	set("displayname", p.DisplayName)
	set("avatar_url", p.AvatarURL)
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	_, err = a.rooms.Send(c.r.Context(), room.NewEvent{Room: r, Sender: c.who.User, Type: "m.room.member", StateKey: &key, Content: raw})
	return err
}
