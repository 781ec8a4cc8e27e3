// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/v2"
	"errors"
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
func (a *API) profile(c *call) (any, error) { return a.findProfile(c) }

// displayName: GET /profile/{userId}/displayname.
func (a *API) displayName(c *call) (any, error) {
	p, err := a.findProfile(c)
	p.AvatarURL = ""
	return p, err
}

// avatarURL: GET /profile/{userId}/avatar_url.
func (a *API) avatarURL(c *call) (any, error) {
	p, err := a.findProfile(c)
	p.DisplayName = ""
	return p, err
}

// findProfile: local users' from account; others' as a room that the asker shares with them shows it. Nobody is asked
// over the network: a look-up there would tell who looks.
func (a *API) findProfile(c *call) (profileAnswer, error) {
	who, err := userID(c.path("user"))
	if err != nil {
		return profileAnswer{}, err
	}
	unknown := notFound("nothing is known of this user")
	if a.local(who) {
		p, err := a.accounts.Profile(who)
		if errors.Is(err, account.ErrNotFound) {
			return profileAnswer{}, unknown
		}
		return profileAnswer(p), err
	}
	if c.who.User == "" {
		return profileAnswer{}, unknown
	}
	rooms, err := a.rooms.Joined(c.who.User)
	if err != nil {
		return profileAnswer{}, err
	}
	for _, r := range rooms {
		ev, err := a.rooms.StateEvent(c.who.User, r, matrix.StateKey{Type: "m.room.member", Key: string(who)})
		if errors.Is(err, room.ErrNoState) || errors.Is(err, room.ErrNotMember) {
			continue
		}
		if err != nil {
			return profileAnswer{}, err
		}
		if ev.Membership() == "join" {
			var p profileAnswer
			_ = json.Unmarshal(ev.Content(), &p) // a member event may hold anything there: then it shows nothing
			return p, nil
		}
	}
	return profileAnswer{}, unknown
}

// setDisplayName: PUT /profile/{userId}/displayname.
func (a *API) setDisplayName(c *call) (any, error) {
	var q struct {
		Value string `json:"displayname"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if len(q.Value) > account.MaxName {
		return nil, invalid("displayname is longer than %d bytes", account.MaxName)
	}
	return empty{}, a.setProfile(c, func(p *account.Profile) { p.DisplayName = q.Value })
}

// setAvatarURL: PUT /profile/{userId}/avatar_url.
func (a *API) setAvatarURL(c *call) (any, error) {
	var q struct {
		Value string `json:"avatar_url"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if len(q.Value) > account.MaxAvatarURL {
		return nil, invalid("avatar_url is longer than %d bytes", account.MaxAvatarURL)
	}
	if q.Value != "" && !strings.HasPrefix(q.Value, "mxc://") {
		return nil, invalid("avatar_url must be an mxc:// URI")
	}
	return empty{}, a.setProfile(c, func(p *account.Profile) { p.AvatarURL = q.Value })
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
	if err != nil || p == before {
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
