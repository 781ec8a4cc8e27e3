// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Presence is in memory. To other nodes it is a clock of when somebody sits at a screen, so it goes to those alone that the operator says, and comes from those
// whose operator did (signs.go). A user is online while a client of theirs syncs, and absentAfter longer.
//
// Whoever syncs subscribes (watch): a change goes to those of the user's neighbours who do, and a /sync reads what came for it. So
// a change costs what the user's own rooms are large, and a /sync what is new, however many people the node has. Of a crowd each is
// told of each: that many notices there must be, but not that many wake-ups, so changes that come faster than a crowd can be told
// go together (few, rest).

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

// A change that wakes few users is told at once; after one that wakes more, the next wait for rest a user that it woke.
const (
	few  = 32
	rest = time.Millisecond // what it takes to answer a waiting /sync, about
)

// watchFor is how long a watch outlives the beginning of the last /sync that used it.
const watchFor = maxPoll + absentAfter

type presence struct {
	mu      sync.Mutex // also held while neighbours are woken, so that they find what they were woken for
	users   map[matrix.UserID]*present
	watches map[matrix.UserID]*watch
	last    store.Pos     // of the last change that was told
	turn    atomic.Uint64 // grows with what other nodes could be told
	others  map[matrix.ServerName]*visitors
	fresh   map[matrix.UserID]bool // whose changes were not told yet
	telling bool                   // somebody tells, or will
}

// watch is what a user's clients have to be told.
type watch struct {
	from    store.Pos // it knows all changes after this
	changed map[matrix.UserID]store.Pos
	order   []told // ascending; of a user's only the last counts
	used    time.Time
}

type told struct {
	at   store.Pos
	user matrix.UserID
}

// add notes a change.
func (w *watch) add(u matrix.UserID, at store.Pos) {
	w.changed[u] = at
	w.order = append(w.order, told{at, u})
	if len(w.order) > 2*len(w.changed)+16 {
		w.order = slices.DeleteFunc(w.order, func(t told) bool { return w.changed[t.user] != t.at })
	}
}

// since lists whose presence changed after a position.
func (w *watch) since(pos store.Pos) (out []matrix.UserID) {
	for _, t := range slices.Backward(w.order) {
		if t.at <= pos {
			break
		}
		if w.changed[t.user] == t.at {
			out = append(out, t.user)
		}
	}
	return out
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
	if a.changePresence(user, change) {
		a.tellPresence()
	}
}

// changePresence says whether there is something to tell, and nobody yet who will.
func (a *API) changePresence(user matrix.UserID, change func(*present)) bool {
	x := &a.presence
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.users[user]
	if p == nil {
		p = &present{state: offline}
		if x.users == nil {
			x.users = map[matrix.UserID]*present{}
		}
		x.users[user] = p
	}
	state, status := p.state, p.status
	change(p)
	if p.state == state && p.status == status {
		return false
	}
	if a.local(user) {
		x.turn.Add(1)
	}
	if x.fresh == nil {
		x.fresh = map[matrix.UserID]bool{}
	}
	x.fresh[user] = true
	first := !x.telling
	x.telling = true
	return first
}

// tellPresence tells what is new, until nothing is. There is one of it at a time.
func (a *API) tellPresence() {
	x := &a.presence
	for {
		x.mu.Lock()
		fresh := x.fresh
		if x.fresh = nil; len(fresh) == 0 {
			x.telling = false
			x.mu.Unlock()
			return
		}
		x.mu.Unlock()
		near := map[matrix.UserID][]matrix.UserID{}
		for u := range fresh {
			var err error
			if near[u], err = a.near(u); err != nil {
				a.warn("could not tell others who is online", err)
			}
		}
		if woke := a.wakeNear(near); woke > few {
			time.AfterFunc(time.Duration(woke)*rest, a.tellPresence)
			return
		}
	}
}

// wakeNear tells the watching among the neighbours of the users whose presence changed, and how many these are.
func (a *API) wakeNear(near map[matrix.UserID][]matrix.UserID) (woke int) {
	x := &a.presence
	x.mu.Lock()
	defer x.mu.Unlock()
	news := map[matrix.UserID][]matrix.UserID{} // by whom they are for
	var topics []string
	now := time.Now() // once: a watch that ended meanwhile would have its news and be gone
	for u, all := range near {
		for _, v := range all {
			w := x.watches[v]
			if w == nil {
				continue
			}
			if now.Sub(w.used) > watchFor {
				delete(x.watches, v)
				continue
			}
			if news[v] == nil {
				topics = append(topics, string(v))
			}
			news[v] = append(news[v], u)
		}
	}
	x.last = a.stream.Notify(topics...)
	for u := range near {
		if p := x.users[u]; p != nil { // of another node's users some are forgotten
			p.at = x.last
		}
	}
	for v, all := range news {
		for _, u := range all {
			x.watches[v].add(u, x.last)
		}
	}
	return len(topics)
}

// watching finds whose presence changed after since for a user, or nil and false if the user's watch does not reach back that far
// and something has changed. It begins one, or keeps it.
func (a *API) watching(user matrix.UserID, since store.Pos) (changed []matrix.UserID, ok bool) {
	x := &a.presence
	x.mu.Lock()
	defer x.mu.Unlock()
	w := x.watches[user]
	if w == nil {
		if x.watches == nil {
			x.watches = map[matrix.UserID]*watch{}
		}
		w = &watch{from: max(a.stream.Current(), x.last), changed: map[matrix.UserID]store.Pos{}}
		x.watches[user] = w
	}
	w.used = time.Now()
	if since < w.from && since < x.last {
		return nil, false
	}
	return w.since(since), true
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

// addPresence puts in whose presence changed up to upTo, of those who share a room with the user; in a first answer, who is there.
func (a *API) addPresence(c *call, q syncQuery, upTo store.Pos, ignored map[matrix.UserID]bool, out *syncAnswer) error {
	f := &q.filter.Presence
	if !f.keepsType("m.presence") {
		return nil
	}
	near, ok := a.watching(c.who.User, q.since)
	if !ok {
		var err error
		if near, err = a.rooms.Neighbours(c.who.User); err != nil {
			return err
		}
		others, err := a.othersNear(c.who.User)
		if err != nil {
			return err
		}
		near = append(near, others...)
	}
	a.presence.mu.Lock()
	defer a.presence.mu.Unlock()
	for _, u := range near {
		p := a.presence.users[u]
		if p == nil || p.at <= q.since || p.at > upTo || q.initial && p.state == offline || ignored[u] || !allows(f.Senders, f.NotSenders, string(u)) {
			continue
		}
		out.Presence.Events = append(out.Presence.Events, presenceEvent{"m.presence", u, p.content()})
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
