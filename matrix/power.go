// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// Infinite is the level of a creator from version 12 on: above every number that an event can hold.
const Infinite int64 = math.MaxInt64

// Levels without an entry in the power levels (C-S API, "m.room.power_levels").
const (
	defaultState    = 50
	defaultModerate = 50 // ban, kick, redact
	defaultNotify   = 50
	oldCreator      = 100 // the creator's, while there are no power levels; versions before 12
)

// PowerLevels is a room's power levels, read once. It says what the auth rules say, for the server's own questions
// (may this user redact, ban, notify the room); the rules themselves are checked by dag.
type PowerLevels struct {
	users         map[UserID]int64
	events        map[string]int64
	notifications map[string]int64
	creators      []UserID // of infinite power
	usersDefault  int64
	eventsDefault int64
	stateDefault  int64

	Ban    int64 // needed to ban and unban
	Kick   int64 // needed to kick
	Invite int64 // needed to invite
	Redact int64 // needed to redact others' events
}

// Creators are the users who made the room: the sender of the create event and, from version 12 on, its additional creators;
// up to version 10 the content's creator. create may be nil.
func Creators(create *Event) []UserID {
	switch {
	case create == nil:
		return nil
	case create.version.CreatorInContent():
		return []UserID{UserID(create.ContentString("creator"))}
	}
	out := []UserID{create.Sender()}
	if create.version.PrivilegedRoomCreators() {
		gjson.GetBytes(create.Content(), "additional_creators").ForEach(func(_, v gjson.Result) bool {
			if v.Type == gjson.String && !slices.Contains(out, UserID(v.Str)) {
				out = append(out, UserID(v.Str))
			}
			return true
		})
	}
	return out
}

// NewPowerLevels reads the levels that hold in a room with this create event and this m.room.power_levels event; levels
// may be nil. What is not a number in it is as if it were not there (versions before 10 also read numbers in strings).
func NewPowerLevels(create, levels *Event) *PowerLevels {
	p := &PowerLevels{
		stateDefault: defaultState, Ban: defaultModerate, Kick: defaultModerate, Redact: defaultModerate,
	}
	if create != nil && create.version.PrivilegedRoomCreators() {
		p.creators = Creators(create)
	}
	if levels == nil {
		if create != nil && p.creators == nil {
			// The sender, not content.creator: as the auth rules' library has it.
			p.users = map[UserID]int64{create.Sender(): oldCreator}
		}
		return p
	}
	strict := levels.version.ValidatePowerLevelInts()
	gjson.ParseBytes(levels.Content()).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "users":
			p.users = levelMap[UserID](v, strict)
		case "events":
			p.events = levelMap[string](v, strict)
		case "notifications":
			p.notifications = levelMap[string](v, strict)
		case "users_default":
			setLevel(&p.usersDefault, v, strict)
		case "events_default":
			setLevel(&p.eventsDefault, v, strict)
		case "state_default":
			setLevel(&p.stateDefault, v, strict)
		case "ban":
			setLevel(&p.Ban, v, strict)
		case "kick":
			setLevel(&p.Kick, v, strict)
		case "invite":
			setLevel(&p.Invite, v, strict)
		case "redact":
			setLevel(&p.Redact, v, strict)
		}
		return true
	})
	return p
}

// User is the level of u.
func (p *PowerLevels) User(u UserID) int64 {
	if slices.Contains(p.creators, u) {
		return Infinite
	}
	if n, ok := p.users[u]; ok {
		return n
	}
	return p.usersDefault
}

// Event is the level needed to send an event of type typ; state: one with a state key.
func (p *PowerLevels) Event(typ string, state bool) int64 {
	if n, ok := p.events[typ]; ok {
		return n
	}
	if state {
		return p.stateDefault
	}
	return p.eventsDefault
}

// Notification is the level needed to notify kind ("room": everybody).
func (p *PowerLevels) Notification(kind string) int64 {
	if n, ok := p.notifications[kind]; ok {
		return n
	}
	return defaultNotify
}

// levelMap reads an object of levels.
func levelMap[K ~string](v gjson.Result, strict bool) map[K]int64 {
	if !v.IsObject() {
		return nil
	}
	out := map[K]int64{}
	v.ForEach(func(k, v gjson.Result) bool {
		var n int64
		if setLevel(&n, v, strict) {
			out[K(k.String())] = n
		}
		return true
	})
	return out
}

// setLevel reads one level into to, if there is one.
func setLevel(to *int64, v gjson.Result, strict bool) bool {
	switch {
	case v.Type == gjson.Number:
		*to = v.Int()
		return true
	case strict:
		return false
	case v.Type == gjson.True:
		*to = 1
		return true
	case v.Type == gjson.False:
		*to = 0
		return true
	case v.Type == gjson.String:
		n, err := strconv.ParseInt(strings.TrimSpace(v.Str), 10, 64)
		if err != nil {
			return false
		}
		*to = n
		return true
	}
	return false
}
