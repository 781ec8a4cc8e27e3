// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn/matrix"
	"tarn/room"
)

// carried are the types of state that a new version of a room takes over (C-S API, "Server behaviour" of room upgrades).
// Bans and the rooms of a space are, too; the members are not: they follow the tombstone.
var carried = []string{matrix.TypePowerLevels, matrix.TypeJoinRules, matrix.TypeHistoryVisibility, matrix.TypeGuestAccess, matrix.TypeName,
	matrix.TypeTopic, matrix.TypeAvatar, matrix.TypeEncryption, matrix.TypeServerACL}

// upgrade: POST /rooms/{roomId}/upgrade.
//
// What a crash means: the new room is there from its transaction on, but nobody is told of it before the old room's
// tombstone is sent; until then the old one goes on as it was, and an upgrade that is asked for again makes another new room.
func (a *API) upgrade(c *call) (any, error) {
	old, err := c.room()
	if err != nil {
		return nil, err
	}
	var q struct {
		Version  matrix.RoomVersion `json:"new_version"`
		Creators []string           `json:"additional_creators"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Version == "" {
		return nil, missing("new_version")
	}
	if !matrix.Offered(q.Version) {
		return nil, room.ErrBadVersion
	}
	for _, u := range q.Creators {
		if _, err := userID(u); err != nil {
			return nil, err
		}
	}
	if err := a.rooms.MaySend(c.who.User, old, matrix.TypeTombstone, true); err != nil {
		return nil, err
	}
	defer a.edit(c.who.User)()
	from, err := a.rooms.StateOf(c.who.User, old, func(k matrix.StateKey) bool { return true })
	if err != nil {
		return nil, err
	}
	u := upgrading{a: a, c: c, old: old, version: q.Version, creators: q.Creators, state: map[matrix.StateKey]*matrix.Event{}}
	for _, e := range from {
		if k, ok := e.Slot(); ok {
			u.state[k] = e
		}
	}
	ctx, cancel := c.commit()
	defer cancel()
	create, levels, err := u.plan()
	if err != nil {
		return nil, err
	}
	id, err := a.rooms.Create(ctx, create)
	if err != nil {
		return nil, err
	}
	set := func(r matrix.RoomID, typ string, content any) error {
		raw, err := json.Marshal(content)
		if err != nil {
			return err
		}
		_, err = a.rooms.Send(ctx, room.NewEvent{Room: r, Sender: c.who.User, Type: typ, StateKey: new(string), Content: []byte(raw)})
		return err
	}
	if levels != nil { // those of the old room, after the rest could be set with more
		if err := set(id, matrix.TypePowerLevels, levels); err != nil {
			return nil, err
		}
	}
	if err := set(old, matrix.TypeTombstone, map[string]any{"body": "This room has been replaced", "replacement_room": id}); err != nil {
		return nil, err
	}
	if err := u.follow(id, set); err != nil {
		return nil, err
	}
	return map[string]any{"replacement_room": id}, nil
}

// upgrading is one upgrade.
type upgrading struct {
	a        *API
	c        *call
	old      matrix.RoomID
	version  matrix.RoomVersion
	creators []string
	state    map[matrix.StateKey]*matrix.Event
}

// plan makes the new room, and the power levels that it gets at last; nil: it has them from the beginning.
func (u *upgrading) plan() (create room.Create, levels map[string]any, err error) {
	content := map[string]any{}
	if e := u.state[matrix.StateKey{Type: matrix.TypeCreate}]; e != nil {
		var was map[string]jsontext.Value
		if err := json.Unmarshal(e.Content(), &was); err != nil {
			return create, nil, err
		}
		for _, k := range []string{"type", "m.federate"} {
			if v, ok := was[k]; ok {
				content[k] = v
			}
		}
	}
	predecessor := map[string]any{"room_id": u.old}
	if !u.version.RoomIDIsCreateEventID() {
		// The last event that is known; from version 12 on there is none, for the tombstone comes after the new room.
		page, err := u.a.rooms.Messages(u.c.who.User, u.old, 0, true, 1, nil)
		if err != nil {
			return create, nil, err
		}
		for _, e := range page.Events {
			predecessor["event_id"] = e.ID()
		}
	}
	content["predecessor"] = predecessor
	if u.version.PrivilegedRoomCreators() && len(u.creators) > 0 {
		content["additional_creators"] = u.creators
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return create, nil, err
	}
	create = room.Create{Creator: u.c.who.User, Version: u.version, CreationContent: []byte(raw)}
	for k, e := range u.state {
		ok := k.Key == "" && slices.Contains(carried, k.Type) && k.Type != matrix.TypePowerLevels ||
			k.Type == matrix.TypeMember && e.Membership() == matrix.MemberBan && k.Key != string(u.c.who.User) ||
			k.Type == matrix.TypeSpaceChild
		if ok {
			create.InitialState = append(create.InitialState, room.StateEvent{Type: k.Type, StateKey: k.Key, Content: e.Content()})
		}
	}
	if e := u.state[matrix.StateKey{Type: matrix.TypePowerLevels}]; e != nil {
		first, last, err := u.levels(e.Content())
		if err != nil {
			return create, nil, err
		}
		create.InitialState = append(create.InitialState, room.StateEvent{Type: matrix.TypePowerLevels, Content: []byte(first)})
		levels = last
	}
	return create, levels, nil
}

// levels are the old room's: as the new one has them at first, when its maker must be able to set all that is carried over, and
// (if that is more than they had) at last.
func (u *upgrading) levels(old []byte) (first jsontext.Value, last map[string]any, err error) {
	var l map[string]any
	if err := json.Unmarshal(old, &l); err != nil {
		return nil, nil, err
	}
	users, _ := l["users"].(map[string]any)
	if users == nil {
		users = map[string]any{}
	}
	l["users"] = users
	me := string(u.c.who.User)
	if u.version.PrivilegedRoomCreators() {
		// Creators have no entry, and only they end the room ("tombstone: 150").
		for _, c := range append([]string{me}, u.creators...) {
			delete(users, c)
		}
		events, _ := l["events"].(map[string]any)
		if events == nil {
			events = map[string]any{}
		}
		if n, ok := events[matrix.TypeTombstone].(float64); !ok || n < 150 {
			events[matrix.TypeTombstone] = 150
		}
		l["events"] = events
		first, err = json.Marshal(l)
		return first, nil, err
	}
	if e := u.state[matrix.StateKey{Type: matrix.TypeCreate}]; e != nil && e.Version().PrivilegedRoomCreators() {
		for _, c := range matrix.Creators(e) { // who stood above all levels
			users[string(c)] = 100
		}
		if events, _ := l["events"].(map[string]any); events != nil && events[matrix.TypeTombstone] != nil {
			events[matrix.TypeTombstone] = 100
		}
	}
	had, found := users[me]
	if n, ok := had.(float64); ok && n >= 100 || had == 100 {
		first, err = json.Marshal(l)
		return first, nil, err
	}
	users[me] = 100
	if first, err = json.Marshal(l); err != nil {
		return nil, nil, err
	}
	if delete(users, me); found {
		users[me] = had
	}
	return first, l, nil
}

// follow moves what names the old room to the new one. What the user has not the power for stays.
func (u *upgrading) follow(id matrix.RoomID, set func(matrix.RoomID, string, any) error) error {
	a, me := u.a, u.c.who.User
	mayNot := func(err error) error {
		if errors.Is(err, room.ErrForbidden) {
			return nil
		}
		return err
	}
	if public, err := a.rooms.IsPublished(u.old); err != nil {
		return err
	} else if public {
		if err := mayNot(a.rooms.Publish(me, id, true)); err != nil {
			return err
		}
		if err := mayNot(a.rooms.Publish(me, u.old, false)); err != nil {
			return err
		}
	}
	names, err := a.rooms.Aliases(u.old)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := mayNot(a.rooms.MoveAlias(me, name, id)); err != nil {
			return err
		}
	}
	if e := u.state[matrix.StateKey{Type: matrix.TypeCanonicalAlias}]; e != nil {
		if err := mayNot(set(id, matrix.TypeCanonicalAlias, jsontext.Value(e.Content()))); err != nil {
			return err
		}
		if err := mayNot(set(u.old, matrix.TypeCanonicalAlias, empty{})); err != nil {
			return err
		}
	}
	// "The old room: events_default and invite are raised to the greater of 50 and users_default + 1."
	if e := u.state[matrix.StateKey{Type: matrix.TypePowerLevels}]; e != nil {
		var l map[string]any
		if err := json.Unmarshal(e.Content(), &l); err != nil {
			return err
		}
		users, _ := l["users_default"].(float64)
		quiet := max(50, users+1)
		changed := false
		for _, k := range []string{"events_default", "invite"} {
			if n, _ := l[k].(float64); n < quiet {
				l[k], changed = quiet, true
			}
		}
		if changed {
			if err := mayNot(set(u.old, matrix.TypePowerLevels, l)); err != nil {
				return err
			}
		}
	}
	return a.carryOver(me, id)
}

// carryOver gives a user in a new version of a room what they said of the old one: tags, push rules, and that it is direct ("when a
// user joins the new room, the server should automatically transfer/replicate some of the user's personalized settings
// such as notifications, tags, etc."). The caller holds the user's edits.
func (a *API) carryOver(user matrix.UserID, id matrix.RoomID) error {
	ev, err := a.rooms.StateEvent(user, id, matrix.StateKey{Type: matrix.TypeCreate})
	if err != nil {
		return ignoreUnknown(ignoreNoState(err))
	}
	var q struct {
		Predecessor struct {
			Room matrix.RoomID `json:"room_id"`
		} `json:"predecessor"`
	}
	if json.Unmarshal(ev.Content(), &q) != nil || q.Predecessor.Room == "" {
		return nil // none, or nonsense of another server
	}
	old := q.Predecessor.Room
	if m, err := a.rooms.Membership(user, old); err != nil || m == "" {
		return err
	}
	if raw, err := a.accounts.Data(user, old, "m.tag"); err == nil {
		if _, err := a.accounts.Data(user, id, "m.tag"); err != nil {
			if err = ignoreMissing(err); err == nil {
				err = a.accounts.SetData(user, id, "m.tag", raw)
			}
			if err != nil {
				return err
			}
		}
	} else if ignoreMissing(err) != nil {
		return err
	}
	if err := a.carryRules(user, old, id); err != nil {
		return err
	}
	raw, err := a.accounts.Data(user, "", "m.direct")
	if err != nil {
		return ignoreMissing(err)
	}
	var direct map[string][]matrix.RoomID
	if json.Unmarshal(raw, &direct) != nil {
		return nil
	}
	changed := false
	for with, rooms := range direct {
		if slices.Contains(rooms, old) && !slices.Contains(rooms, id) {
			direct[with], changed = append(rooms, id), true
		}
	}
	if !changed {
		return nil
	}
	if raw, err = json.Marshal(direct); err != nil {
		return fmt.Errorf("writing m.direct: %w", err)
	}
	return a.accounts.SetData(user, "", "m.direct", raw)
}

// carryRules repeats for id the push rules that the user made for old: the room's own, and those that match its id, as clients
// make them to mute a room. A rule for id that is there already stays as it is.
func (a *API) carryRules(user matrix.UserID, old, id matrix.RoomID) error {
	rules, err := a.rulesOf(user)
	if err != nil {
		return err
	}
	changed := false
	for _, kind := range []string{"override", "room", "underride"} {
		list := rules.Kind(kind)
		for i := len(*list) - 1; i >= 0; i-- {
			r := (*list)[i]
			r.ID = strings.ReplaceAll(r.ID, string(old), string(id))
			if r.Default || r.ID == (*list)[i].ID || findRule(*list, r.ID) >= 0 || len(*list) >= maxPushRules {
				continue
			}
			r.Conditions = slices.Clone(r.Conditions)
			for n, c := range r.Conditions {
				if c.Key == "room_id" && c.Pattern != nil && *c.Pattern == string(old) {
					now := string(id)
					r.Conditions[n].Pattern = &now
				}
			}
			*list, changed = slices.Insert(*list, i, r), true
		}
	}
	if !changed {
		return nil
	}
	return a.accounts.SetData(user, "", dataPushRules, []byte(rules.Raw()))
}

func ignoreNoState(err error) error {
	if errors.Is(err, room.ErrNoState) {
		return nil
	}
	return err
}
