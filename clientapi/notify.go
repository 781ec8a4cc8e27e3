// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"net/http"
	"slices"

	"tarn/matrix"
	"tarn/push"
	"tarn/room"
	"tarn/store"
)

// unreadCounts is both the object in /sync.
type unreadCounts struct {
	Notifications int `json:"notification_count"`
	Highlights    int `json:"highlight_count"`
}

// judging is a user's rules, read when they are first wanted.
type judging struct {
	a     *API
	user  matrix.UserID
	judge *push.Judge
	mute  map[matrix.UserID]bool // ignored users: their events are no notifications
}

func (j *judging) load() error {
	if j.judge != nil {
		return nil
	}
	rules, err := j.a.rulesOf(j.user)
	if err != nil {
		return err
	}
	if j.mute, err = j.a.ignored(j.user); err != nil {
		return err
	}
	j.judge = push.NewJudge(j.user, rules, &j.a.texts)
	return nil
}

func (j *judging) outcome(e *matrix.Event, facts func() (room.PushFacts, error)) (push.Outcome, error) {
	if err := j.load(); err != nil {
		return push.Outcome{}, err
	}
	if j.mute[e.Sender()] {
		return push.Outcome{}, nil
	}
	return j.judge.Judge(e, func() (push.Facts, error) {
		f, err := facts()
		return push.Facts{Members: f.Members, DisplayName: f.DisplayName, Power: f.Power, Threads: j.thread}, err
	})
}

// thread is push.Facts.Threads.
func (j *judging) thread(r matrix.RoomID, root matrix.EventID) (push.Following, error) {
	if has, err := j.a.accounts.HasThreads(j.user); err != nil || !has {
		return push.NeverAsked, err
	}
	t, err := j.a.accounts.Thread(j.user, r, root)
	if ignoreMissing(err) != nil {
		return push.NeverAsked, err
	}
	if t.Subscribed {
		return push.Subscribed, nil
	}
	return push.Unsubscribed, nil
}

// decide is a room.Judge.
func (j *judging) decide(e *matrix.Event, facts func() (room.PushFacts, error)) (notify, highlight bool, err error) {
	o, err := j.outcome(e, facts)
	return o.Notify, o.Highlight, err
}

// dataIgnored is the account data that lists whom a user does not want to hear (C-S API, "Ignoring Users").
const dataIgnored = "m.ignored_user_list"

func (a *API) ignored(user matrix.UserID) (map[matrix.UserID]bool, error) {
	raw, err := a.accounts.Data(user, "", dataIgnored)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var q struct {
		Users map[matrix.UserID]jsontext.Value `json:"ignored_users"`
	}
	_ = json.Unmarshal(raw, &q) // a client may have written anything there
	out := make(map[matrix.UserID]bool, len(q.Users))
	for u := range q.Users {
		out[u] = u != user
	}
	return out, nil
}

// dataInvites is the account data by which a user lets nobody invite them (C-S API, "Invite permission").
const dataInvites = "m.invite_permission_config"

// closed says whether the user takes no invites.
func (a *API) closed(user matrix.UserID) (bool, error) {
	raw, err := a.accounts.Data(user, "", dataInvites)
	if err != nil {
		return false, ignoreMissing(err)
	}
	var q struct {
		Default string `json:"default_action"`
	}
	_ = json.Unmarshal(raw, &q) // a client may have written anything there
	return q.Default == "block", nil
}

// mayInvite refuses invites of this node's users who take none. Of another node's its own node decides.
func (a *API) mayInvite(users ...matrix.UserID) error {
	for _, u := range users {
		if !a.local(u) {
			continue
		}
		no, err := a.closed(u)
		if err != nil {
			return err
		}
		if no {
			return &Error{Status: http.StatusForbidden, Code: matrix.ErrcodeInviteBlocked, Text: "this user takes no invites"}
		}
	}
	return nil
}

// unheard says whether an event is not to be shown: "Servers must still send state events sent by ignored users to clients."
func unheard(ignored map[matrix.UserID]bool, e *matrix.Event) bool {
	return ignored[e.Sender()] && e.StateKey() == nil
}

// heard leaves out what is not to be shown: a page may have fewer events than it could.
func (a *API) heard(c *call, events []room.Entry) ([]room.Entry, error) {
	ignored, err := a.ignored(c.who.User)
	if err != nil || len(ignored) == 0 {
		return events, err
	}
	return slices.DeleteFunc(events, func(e room.Entry) bool { return unheard(ignored, e.Event) }), nil
}

// hush takes what ignored users did out of a change; all: it is an invite of one, which is not shown at all.
func hush(ignored map[matrix.UserID]bool, ch *room.Change) (all bool) {
	if n := len(ch.Invite); ch.Membership == matrix.MemberInvite && n > 0 {
		var own struct { // the last is the user's own member event
			Sender matrix.UserID `json:"sender"`
		}
		if json.Unmarshal(ch.Invite[n-1], &own) == nil && ignored[own.Sender] {
			return true
		}
	}
	ch.Receipts = slices.DeleteFunc(ch.Receipts, func(r room.Receipt) bool { return ignored[r.User] })
	ch.Typing = slices.DeleteFunc(ch.Typing, func(u matrix.UserID) bool { return ignored[u] })
	return false
}

// hush is hush for sliding sync: what was written, without the rest.
func (s *slide) hush(ch *room.Change) error {
	if err := s.judge.load(); err != nil {
		return err
	}
	ch.Timeline = slices.DeleteFunc(ch.Timeline, func(e room.Entry) bool { return unheard(s.judge.mute, e.Event) })
	return nil
}

// unwanted says whether an invite is not to be shown.
func (s *slide) unwanted(x *room.Standing) (bool, error) {
	if x.Membership != matrix.MemberInvite {
		return false, nil
	}
	if err := s.judge.load(); err != nil || s.judge.mute[x.By] {
		return true, err
	}
	if s.noInvites == nil {
		no, err := s.a.closed(s.c.who.User)
		if err != nil {
			return true, err
		}
		s.noInvites = &no
	}
	return *s.noInvites, nil
}

// counting puts the unread counts into a /sync answer (C-S API, "Receiving notifications").
type counting struct {
	judging
	upTo      store.Pos
	perThread bool // the filter's unread_thread_notifications: each thread has its own
}

// room counts in one room, if it is among those of the answer and was not counted yet.
func (x *counting) room(id matrix.RoomID, out *syncAnswer) error {
	r := out.Rooms.Join[id]
	if r == nil || r.counted {
		return nil
	}
	r.counted = true
	c, err := x.a.rooms.Unread(x.user, id, x.upTo, x.decide)
	if err != nil {
		return ignoreUnknown(err)
	}
	if !x.perThread {
		r.Unread = unreadCounts(c.All())
		return nil
	}
	r.Unread = unreadCounts(c.Main)
	for thread, n := range c.Threads {
		if r.Threads == nil {
			r.Threads = map[matrix.EventID]unreadCounts{}
		}
		r.Threads[thread] = unreadCounts(n)
	}
	return nil
}

type notification struct {
	Actions []any          `json:"actions"`
	Event   jsontext.Value `json:"event"`
	Read    bool           `json:"read"`
	Room    matrix.RoomID  `json:"room_id"`
	Time    int64          `json:"ts"`
}

// notifications: GET /notifications?from=&limit=&only=highlight.
func (a *API) notifications(c *call) (any, error) {
	limit, err := c.queryInt("limit", 20)
	if err != nil {
		return nil, err
	}
	var from store.Pos
	if s := c.query("from"); s != "" {
		if from, err = parseToken(s); err != nil {
			return nil, err
		}
	}
	only := c.query("only")
	if only != "" && only != "highlight" {
		return nil, invalid("only must be highlight")
	}
	j := &judging{a: a, user: c.who.User}
	actions := map[matrix.EventID][]any{}
	list, next, err := a.rooms.Notifications(c.who.User, from, int(min(max(limit, 1), 100)), only != "",
		func(e *matrix.Event, facts func() (room.PushFacts, error)) (bool, bool, error) {
			o, err := j.outcome(e, facts)
			if o.Notify {
				actions[e.ID()] = o.Actions
			}
			return o.Notify, o.Highlight, err
		})
	if err != nil {
		return nil, err
	}
	out := struct {
		Next string         `json:"next_token,omitzero"`
		List []notification `json:"notifications"`
	}{List: []notification{}}
	if next != 0 {
		out.Next = token(next)
	}
	for _, n := range list {
		raw, err := clientEvents([]room.Entry{n.Entry}, true)
		if err != nil {
			return nil, err
		}
		out.List = append(out.List, notification{actions[n.ID()], raw[0], n.Read, n.Room(), n.Time().UnixMilli()})
	}
	return out, nil
}
