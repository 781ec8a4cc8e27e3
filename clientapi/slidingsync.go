// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"maps"
	"time"

	"tarn/clientapi/sliding"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// slideAnswer is what POST /sync of simplified sliding sync gives (MSC4186, at its unstable path).
type slideAnswer struct {
	Pos        string                       `json:"pos"`
	Txn        string                       `json:"txn_id,omitzero"`
	Lists      map[string]slideCount        `json:"lists"`
	Rooms      map[matrix.RoomID]*slideRoom `json:"rooms"`
	Extensions slideExtensions              `json:"extensions"`

	newCounts bool // of the lists, or of the device's keys
}

type slideCount struct {
	Count int `json:"count"`
}

type slideRoom struct {
	Name     string           `json:"name,omitzero"`
	Avatar   string           `json:"avatar,omitzero"`
	Heroes   []room.Hero      `json:"heroes,omitempty"`
	DM       bool             `json:"is_dm,omitzero"`
	Initial  bool             `json:"initial,omitzero"`
	Expanded bool             `json:"unstable_expanded_timeline,omitzero"`
	Required []jsontext.Value `json:"required_state,omitempty"`
	Timeline []jsontext.Value `json:"timeline,omitempty"`
	Invite   []jsontext.Value `json:"invite_state,omitempty"`
	Prev     string           `json:"prev_batch,omitzero"`
	Limited  bool             `json:"limited"`
	Live     int              `json:"num_live"`
	Joined   *int             `json:"joined_count,omitzero"`
	Invited  *int             `json:"invited_count,omitzero"`
	Bump     store.Pos        `json:"bump_stamp"`
	Unread   int              `json:"notification_count"`
	Loud     int              `json:"highlight_count"`
}

type slideExtensions struct {
	ToDevice *slideToDevice   `json:"to_device,omitzero"`
	E2EE     *slideE2EE       `json:"e2ee,omitzero"`
	Data     *slideData       `json:"account_data,omitzero"`
	Receipts *slideEvents     `json:"receipts,omitzero"`
	Typing   *slideEvents     `json:"typing,omitzero"`
	Threads  *followedThreads `json:"io.element.msc4308.thread_subscriptions,omitzero"` // nil: nothing changed
}

type slideToDevice struct {
	Next   string           `json:"next_batch"`
	Events []jsontext.Value `json:"events"`
}

type slideE2EE struct {
	Lists   *deviceLists   `json:"device_lists,omitzero"`
	OneTime map[string]int `json:"device_one_time_keys_count"`
	Unused  []string       `json:"device_unused_fallback_key_types"`
}

type slideData struct {
	Global []dataEvent                   `json:"global"`
	Rooms  map[matrix.RoomID][]dataEvent `json:"rooms"`
}

type slideEvents struct {
	Rooms map[matrix.RoomID]dataEvent `json:"rooms"`
}

func (s *slideAnswer) nothing() bool {
	x := &s.Extensions
	return !s.newCounts && len(s.Rooms) == 0 && (x.ToDevice == nil || len(x.ToDevice.Events) == 0) && (x.E2EE == nil || x.E2EE.Lists == nil) &&
		(x.Data == nil || len(x.Data.Global)+len(x.Data.Rooms) == 0) && (x.Receipts == nil || len(x.Receipts.Rooms) == 0) &&
		(x.Typing == nil || len(x.Typing.Rooms) == 0) && x.Threads == nil
}

// slidingSync: POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync. It waits as /sync does, and like it leaves
// nothing out: Current is read before the database.
func (a *API) slidingSync(c *call) (any, error) {
	var q sliding.Request
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if err := q.Check(); err != nil {
		return nil, err
	}
	ms, err := c.queryInt("timeout", 0)
	if err != nil {
		return nil, err
	}
	inbox := store.Pos(0)
	if s := q.Extensions.ToDevice.Since; s != "" && q.Extensions.ToDevice.Enabled {
		if inbox, err = parseToken(s); err != nil {
			return nil, err
		}
		if inbox > a.stream.Current() { // from after a backup was restored
			inbox = 0
		}
		if err := a.accounts.AckInbox(c.who.User, c.who.Device, inbox); err != nil {
			return nil, err
		}
	}
	turn, err := a.conns.Begin(sliding.Key{User: c.who.User, Device: c.who.Device, Conn: q.Conn}, c.query("pos"))
	if err != nil {
		return nil, err
	}
	defer turn.Break()
	state, err := c.syncPresence()
	if err != nil {
		return nil, err
	}
	defer a.here(c.who.User, state)()
	ctx, cancel := c.drain()
	defer cancel()
	ctx, cancelTimeout := context.WithTimeout(ctx, time.Duration(min(max(ms, 0), maxPoll.Milliseconds()))*time.Millisecond)
	defer cancelTimeout()
	go func() { // ends with the request
		select {
		case <-turn.Over():
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		upTo := max(a.stream.Current(), turn.State.Since)
		s := slide{a: a, c: c, q: &q, judge: &judging{a: a, user: c.who.User}, was: turn.State, upTo: upTo, inbox: inbox}
		if err := s.run(); err != nil {
			return nil, err
		}
		if turn.State.Since == 0 || !s.out.nothing() || ctx.Err() != nil {
			a.sending.settle(c.r.Context(), c.who)
			s.out.Pos, s.out.Txn = turn.End(s.now), q.Txn
			return s.out, nil
		}
		if _, err := a.stream.Wait(ctx, string(c.who.User), upTo); err != nil && ctx.Err() == nil {
			return nil, err
		}
		// The session may have ended meanwhile.
		if err := a.still(c); err != nil {
			return nil, err
		}
	}
}

// slide is one look for an answer.
type slide struct {
	a     *API
	c     *call
	q     *sliding.Request
	was   sliding.State // what the client has
	upTo  store.Pos
	inbox store.Pos

	judge     *judging
	direct    map[matrix.RoomID]bool
	standings map[matrix.RoomID]*room.Standing
	shown     map[matrix.RoomID]*sliding.Shown
	out       *slideAnswer
	now       sliding.State // what the client has with the answer
	timelines map[matrix.RoomID]map[matrix.EventID]bool
	noInvites *bool // whether the user takes none; nil: not looked up yet
}

func (s *slide) run() error {
	s.out = &slideAnswer{Lists: map[string]slideCount{}, Rooms: map[matrix.RoomID]*slideRoom{}}
	s.now = sliding.State{Since: s.upTo, Rooms: maps.Clone(s.was.Rooms)}
	if s.now.Rooms == nil {
		s.now.Rooms = map[matrix.RoomID]sliding.Sent{}
	}
	s.timelines = map[matrix.RoomID]map[matrix.EventID]bool{}
	if err := s.plan(); err != nil {
		return err
	}
	for id, x := range s.shown {
		if err := s.room(id, x); err != nil {
			return err
		}
	}
	for _, f := range []func() error{s.toDevice, s.encryption, s.data, s.receipts, s.typing, s.threads} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// plan finds out which rooms are to be shown.
func (s *slide) plan() error {
	user := s.c.who.User
	all, err := s.a.rooms.Standings(user)
	if err != nil {
		return err
	}
	if s.direct, err = s.a.directRooms(user); err != nil {
		return err
	}
	filtered := spacesAndTags{a: s.a, user: user}
	s.standings = make(map[matrix.RoomID]*room.Standing, len(all))
	listed := make([]sliding.Listed, 0, len(all))
	for i := range all {
		x := &all[i]
		if no, err := s.unwanted(x); err != nil {
			return err
		} else if no {
			continue
		}
		s.standings[x.Room] = x
		switch x.Membership {
		case matrix.MemberLeave:
			if !x.Kicked {
				continue
			}
		case "":
			continue
		}
		listed = append(listed, sliding.Listed{Room: x.Room, Bump: uint64(x.Bump), Facts: sliding.Facts{
			DM: s.direct[x.Room], Encrypted: x.Encrypted, Tombstoned: x.Tombstoned, Type: x.Type, Invite: x.Membership == matrix.MemberInvite,
			InSpace: func(space matrix.RoomID) bool { return filtered.inSpace(x.Room, space) },
			Tagged:  func(tag string) bool { return filtered.tagged(x.Room, tag) },
		}})
	}
	var counts map[string]int
	s.shown, counts = s.q.Plan(user, listed, func(id matrix.RoomID) bool { return s.standings[id] != nil })
	if filtered.err != nil {
		return filtered.err
	}
	s.now.Counts = counts
	for name, n := range counts {
		s.out.Lists[name] = slideCount{n}
	}
	s.out.newCounts = s.was.Since != 0 && !maps.Equal(counts, s.was.Counts)
	// What the client has of a room that it left it is told once, whether it looks there or not.
	for id, sent := range s.was.Rooms {
		x := s.standings[id]
		switch {
		case x == nil:
			delete(s.now.Rooms, id)
		case x.Membership == matrix.MemberLeave || x.Membership == matrix.MemberBan:
			if s.shown[id] == nil && x.At > sent.Pos {
				s.shown[id] = &sliding.Shown{Wants: sent.Wants, Limit: sent.Limit}
			}
		}
	}
	return nil
}

// room puts in a room's news.
func (s *slide) room(id matrix.RoomID, x *sliding.Shown) error {
	st, had := s.standings[id], s.now.Rooms[id]
	expand := had.Pos != 0 && x.Limit > had.Limit
	more := had.Pos != 0 && !x.Wants.Same(had.Wants)
	if had.Pos != 0 && st.Last <= had.Pos && !expand && !more {
		return nil
	}
	var lazily []matrix.UserID
	slice, ok, err := s.a.rooms.Slide(s.c.who.User, id, room.SlideOptions{
		Since: had.Pos, UpTo: s.upTo, Device: s.c.who.Device, TimelineLimit: x.Limit, Expand: expand,
		State: func(ch *room.Change) room.Wish {
			if ch.Newly {
				had.Members = nil
			}
			var w room.Wish
			w, lazily = wishOf(x.Wants, had, ch, more)
			return w
		},
	})
	if err != nil {
		return err
	}
	if !ok {
		if had.Pos != 0 {
			had.Wants, had.Limit, had.Pos = x.Wants, max(x.Limit, had.Limit), s.upTo
			s.now.Rooms[id] = had
		}
		return nil
	}
	if err := s.hush(&slice.Change); err != nil {
		return err
	}
	r := &slideRoom{Name: slice.Name, Avatar: slice.Avatar, Heroes: slice.Members, DM: s.direct[id], Initial: slice.Newly, Expanded: expand && !slice.Newly,
		Limited: slice.Limited, Bump: st.Bump}
	for _, raw := range slice.Invite {
		r.Invite = append(r.Invite, jsontext.Value(raw))
	}
	if len(slice.Invite) == 0 {
		r.Prev = token(slice.PrevBatch)
		if r.Timeline, err = clientEvents(slice.Timeline, false); err != nil {
			return err
		}
		if r.Required, err = stateEvents(slice.State, false); err != nil {
			return err
		}
	}
	seen := map[matrix.EventID]bool{}
	for _, e := range slice.Timeline {
		seen[e.ID()] = true
		if s.was.Since != 0 && e.Pos > s.was.Since {
			r.Live++
		}
	}
	s.timelines[id] = seen
	if slice.Membership == matrix.MemberJoin {
		r.Joined, r.Invited = &slice.Joined, &slice.Invited
		n, err := s.a.rooms.Unread(s.c.who.User, id, s.upTo, s.judge.decide)
		if err != nil {
			return err
		}
		r.Unread, r.Loud = n.All().Notifications, n.All().Highlights
	}
	s.out.Rooms[id] = r
	if slice.Membership == matrix.MemberLeave && !st.Kicked {
		delete(s.now.Rooms, id)
		return nil
	}
	had.Pos, had.Wants, had.Limit = s.upTo, x.Wants, max(x.Limit, had.Limit)
	s.now.Rooms[id] = had.With(lazily)
	return nil
}

// wishOf is the state to be given of a room: what is required and changed, all that is newly required, and the members
// that the timeline needs and the client does not have.
func wishOf(wants sliding.Wants, had sliding.Sent, ch *room.Change, more bool) (w room.Wish, lazily []matrix.UserID) {
	needed := map[matrix.UserID]bool{}
	if wants.Lazy {
		for _, e := range ch.Timeline {
			needed[e.Sender()] = true
			if e.Type() == matrix.TypeMember && e.StateKey() != nil {
				needed[matrix.UserID(*e.StateKey())] = true
			}
		}
	}
	w.Changed = func(k matrix.StateKey) bool {
		if wants.Has(k) {
			return true
		}
		if !wants.Lazy || k.Type != matrix.TypeMember {
			return false
		}
		// After a gap the client cannot know who came and went in it.
		return needed[matrix.UserID(k.Key)] || had.Members[matrix.UserID(k.Key)] || ch.Limited && !ch.Newly
	}
	if more && !ch.Newly {
		w.All = func(k matrix.StateKey) bool { return wants.Has(k) && !had.Wants.Has(k) }
	}
	for u := range needed {
		k := matrix.StateKey{Type: matrix.TypeMember, Key: string(u)}
		if !had.Members[u] && !wants.Has(k) {
			w.Also = append(w.Also, k)
			lazily = append(lazily, u)
		}
	}
	return w, lazily
}

// directRooms are those of the user's m.direct.
func (a *API) directRooms(user matrix.UserID) (map[matrix.RoomID]bool, error) {
	raw, err := a.accounts.Data(user, "", "m.direct")
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var byUser map[string][]matrix.RoomID
	_ = json.Unmarshal(raw, &byUser) // a client may have written anything there
	out := map[matrix.RoomID]bool{}
	for _, rooms := range byUser {
		for _, r := range rooms {
			out[r] = true
		}
	}
	return out, nil
}

// spacesAndTags looks up what only some filters ask for, each once.
type spacesAndTags struct {
	a      *API
	user   matrix.UserID
	spaces map[matrix.RoomID]map[matrix.RoomID]bool
	tags   map[matrix.RoomID]map[string]jsontext.Value
	err    error
}

func (x *spacesAndTags) inSpace(id, space matrix.RoomID) bool {
	children, found := x.spaces[space]
	if !found {
		children = map[matrix.RoomID]bool{}
		events, err := x.a.rooms.StateOf(x.user, space, func(k matrix.StateKey) bool { return k.Type == matrix.TypeSpaceChild })
		if ignoreUnknown(err) != nil {
			x.err = err
		}
		for _, e := range events {
			if child, ok := spaceChild(e); ok {
				children[child] = true
			}
		}
		if x.spaces == nil {
			x.spaces = map[matrix.RoomID]map[matrix.RoomID]bool{}
		}
		x.spaces[space] = children
	}
	return children[id]
}

func (x *spacesAndTags) tagged(id matrix.RoomID, tag string) bool {
	tags, found := x.tags[id]
	if !found {
		raw, err := x.a.accounts.Data(x.user, id, "m.tag")
		if err = ignoreMissing(err); err != nil {
			x.err = err
		}
		var q struct {
			Tags map[string]jsontext.Value `json:"tags"`
		}
		_ = json.Unmarshal(raw, &q)
		if tags = q.Tags; x.tags == nil {
			x.tags = map[matrix.RoomID]map[string]jsontext.Value{}
		}
		x.tags[id] = tags
	}
	_, found = tags[tag]
	return found
}

// spaceChild is the room of an m.space.child event that counts: one with a via (C-S API, "m.space.child").
func spaceChild(e *matrix.Event) (matrix.RoomID, bool) {
	var q struct {
		Via []string `json:"via"`
	}
	if e.StateKey() == nil || json.Unmarshal(e.Content(), &q) != nil || len(q.Via) == 0 {
		return "", false
	}
	id, err := roomID(*e.StateKey())
	return id, err == nil
}
