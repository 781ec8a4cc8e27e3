// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"sync"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Presence is in memory and of this node's users only: to other nodes it would be a clock of when somebody sits at a screen. A user is
// online while a client of theirs syncs, and absentAfter longer.

// absentAfter is how long after the last /sync a user goes offline: clients ask again at once, a reconnecting one within this.
const absentAfter = time.Minute

// maxStatus is the longest status message, in bytes.
const maxStatus = 1 << 10

// Presence states (C-S API, "Presence").
const (
	online      = "online"
	unavailable = "unavailable"
	offline     = "offline"
)

type presence struct {
	mu    sync.Mutex // also held while neighbours are woken, so that they find what they were woken for
	users map[matrix.UserID]*present
}

type present struct {
	state, status string
	active        time.Time // when the user last did something
	syncs         int       // under way
	timer         *time.Timer
	at            store.Pos // of the last change that others see
}

// presenceContent is that of m.presence.
type presenceContent struct {
	State  string `json:"presence"`
	Status string `json:"status_msg,omitzero"`
	Ago    *int64 `json:"last_active_ago,omitzero"` // ms
	Now    bool   `json:"currently_active,omitzero"`
}

func (p *present) content() presenceContent {
	c := presenceContent{State: p.state, Status: p.status, Now: p.state == online}
	if !p.active.IsZero() {
		ago := time.Since(p.active).Milliseconds()
		c.Ago = &ago
	}
	return c
}

// setPresence changes what change says, and tells who shares a room with the user if they can see it.
func (a *API) setPresence(user matrix.UserID, change func(*present)) {
	a.presence.mu.Lock()
	defer a.presence.mu.Unlock()
	p := a.presence.users[user]
	if p == nil {
		p = &present{state: offline}
		if a.presence.users == nil {
			a.presence.users = map[matrix.UserID]*present{}
		}
		a.presence.users[user] = p
	}
	state, status := p.state, p.status
	change(p)
	if p.state == state && p.status == status {
		return
	}
	near, err := a.rooms.Neighbours(user)
	if err != nil {
		a.log.Warn("could not tell others who is online", "err", err)
	}
	topics := make([]string, 0, len(near))
	for _, u := range near {
		topics = append(topics, string(u))
	}
	p.at = a.stream.Notify(topics...)
}

// here notes a /sync of the user until gone is called. state is its set_presence; offline leaves no mark.
func (a *API) here(user matrix.UserID, state string) (gone func()) {
	if state == offline {
		return func() {}
	}
	a.setPresence(user, func(p *present) {
		p.syncs++
		p.state = state
		if state == online {
			p.active = time.Now()
		}
	})
	return func() {
		a.presence.mu.Lock()
		defer a.presence.mu.Unlock()
		p := a.presence.users[user]
		if p.syncs--; p.syncs > 0 {
			return
		}
		if p.timer != nil {
			p.timer.Stop()
		}
		p.timer = time.AfterFunc(absentAfter, func() {
			a.setPresence(user, func(p *present) {
				if p.syncs == 0 {
					p.state = offline
				}
			})
		})
	}
}

// syncPresence reads set_presence of /sync ("One of: [offline online unavailable]"; none: online).
func (c *call) syncPresence() (string, error) {
	switch s := c.query("set_presence"); s {
	case "", online:
		return online, nil
	case offline, unavailable:
		return s, nil
	}
	return "", invalid("set_presence must be offline, online or unavailable")
}

// addPresence puts in whose presence changed, of those who share a room with the user; in a first answer, who is there.
func (a *API) addPresence(c *call, q syncQuery, ignored map[matrix.UserID]bool, out *syncAnswer) error {
	a.presence.mu.Lock()
	now := map[matrix.UserID]presenceContent{}
	for u, p := range a.presence.users {
		if u != c.who.User && !ignored[u] && p.at > q.since && (!q.initial || p.state != offline) {
			now[u] = p.content()
		}
	}
	a.presence.mu.Unlock()
	f := &q.filter.Presence
	if len(now) == 0 || !f.keepsType("m.presence") {
		return nil
	}
	near, err := a.rooms.Neighbours(c.who.User)
	if err != nil {
		return err
	}
	for _, u := range near {
		if p, ok := now[u]; ok && allows(f.Senders, f.NotSenders, string(u)) {
			out.Presence.Events = append(out.Presence.Events, presenceEvent{"m.presence", u, p})
		}
	}
	return nil
}

type presenceEvent struct {
	Type    string          `json:"type"`
	Sender  matrix.UserID   `json:"sender"`
	Content presenceContent `json:"content"`
}

// presenceOf: GET /presence/{userId}/status.
func (a *API) presenceOf(c *call) (any, error) {
	who, err := userID(c.path("user"))
	if err != nil {
		return nil, err
	}
	if who != c.who.User {
		ok, err := a.rooms.Shares(c.who.User, who)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, forbidden("you share no room with this user")
		}
	}
	a.presence.mu.Lock()
	defer a.presence.mu.Unlock()
	p := a.presence.users[who]
	if p == nil {
		return nil, notFound("nothing is known of this user's presence")
	}
	return p.content(), nil
}

// putPresence: PUT /presence/{userId}/status.
func (a *API) putPresence(c *call) (any, error) {
	if err := c.self(); err != nil {
		return nil, err
	}
	var q struct {
		State  string `json:"presence"`
		Status string `json:"status_msg"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	switch q.State {
	case online, offline, unavailable:
	case "":
		return nil, missing("presence")
	default:
		return nil, invalid("presence must be online, offline or unavailable")
	}
	if len(q.Status) > maxStatus {
		return nil, invalid("status_msg is longer than %d bytes", maxStatus)
	}
	a.setPresence(c.who.User, func(p *present) {
		p.state, p.status = q.State, q.Status
		if q.State == online {
			p.active = time.Now()
		}
	})
	return empty{}, nil
}
