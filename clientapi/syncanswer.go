// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"errors"
	"slices"

	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// syncAnswer is what GET /sync gives. Sections and lists that clients insist on are there even if empty.
type syncAnswer struct {
	NextBatch   string            `json:"next_batch"`
	AccountData eventList         `json:"account_data"`
	Presence    presenceList      `json:"presence"` // of this node's users
	ToDevice    rawList           `json:"to_device"`
	Rooms       syncRoomsSections `json:"rooms"`
	DeviceLists *deviceLists      `json:"device_lists,omitzero"`
	OneTime     map[string]int    `json:"device_one_time_keys_count"`
	Unused      []string          `json:"device_unused_fallback_key_types"` // there even if empty: it says that the server knows of them

	user      matrix.UserID
	newCounts bool // OneTime or Unused changed since
}

type syncRoomsSections struct {
	Join   map[matrix.RoomID]*joinedRoom  `json:"join"`
	Invite map[matrix.RoomID]*invitedRoom `json:"invite"`
	Knock  map[matrix.RoomID]*knockedRoom `json:"knock,omitempty"`
	Leave  map[matrix.RoomID]*leftRoom    `json:"leave"`
}

// dataEvent is an event without an id: account data, typing, receipts.
type dataEvent struct {
	Type    string `json:"type"`
	Content any    `json:"content"`
}

type eventList struct {
	Events []dataEvent `json:"events"`
}

type presenceList struct {
	Events []presenceEvent `json:"events"`
}

type rawList struct {
	Events []jsontext.Value `json:"events"`
}

type timeline struct {
	Events    []jsontext.Value `json:"events"`
	Limited   bool             `json:"limited"`
	PrevBatch string           `json:"prev_batch"`
}

type summary struct {
	Heroes  []matrix.UserID `json:"m.heroes,omitempty"`
	Joined  int             `json:"m.joined_member_count"`
	Invited int             `json:"m.invited_member_count"`
}

type joinedRoom struct {
	Summary     *summary  `json:"summary,omitzero"`
	State       *rawList  `json:"state,omitzero"`
	After       *rawList  `json:"state_after,omitzero"` // MSC4222: instead of State
	Unstable    *rawList  `json:"org.matrix.msc4222.state_after,omitzero"`
	Timeline    timeline  `json:"timeline"`
	Ephemeral   eventList `json:"ephemeral"` // some clients insist on it, even empty
	AccountData eventList `json:"account_data"`

	Unread  unreadCounts                    `json:"unread_notifications"`
	Threads map[matrix.EventID]unreadCounts `json:"unread_thread_notifications,omitempty"`

	counted bool
}

type leftRoom struct {
	State       *rawList  `json:"state,omitzero"`
	After       *rawList  `json:"state_after,omitzero"`
	Unstable    *rawList  `json:"org.matrix.msc4222.state_after,omitzero"`
	Timeline    timeline  `json:"timeline"`
	AccountData eventList `json:"account_data"`
}

type invitedRoom struct {
	State rawList `json:"invite_state"`
}

type knockedRoom struct {
	State rawList `json:"knock_state"`
}

func newSyncAnswer(user matrix.UserID, upTo store.Pos) *syncAnswer {
	return &syncAnswer{user: user, NextBatch: token(upTo), Rooms: syncRoomsSections{
		Join: map[matrix.RoomID]*joinedRoom{}, Invite: map[matrix.RoomID]*invitedRoom{},
		Knock: map[matrix.RoomID]*knockedRoom{}, Leave: map[matrix.RoomID]*leftRoom{},
	}}
}

func newJoinedRoom() *joinedRoom { return &joinedRoom{State: &rawList{}} }

// size is about how long the answer will be: its events, and something for each.
func (s *syncAnswer) size() (n int64) {
	add := func(lists ...[]jsontext.Value) {
		for _, l := range lists {
			for _, raw := range l {
				n += int64(len(raw)) + 1
			}
		}
	}
	state := func(lists ...*rawList) {
		for _, l := range lists {
			if l != nil {
				add(l.Events)
			}
		}
	}
	add(s.ToDevice.Events)
	for _, r := range s.Rooms.Join {
		n += 500
		add(r.Timeline.Events)
		state(r.State, r.After, r.Unstable)
	}
	for _, r := range s.Rooms.Leave {
		n += 500
		add(r.Timeline.Events)
		state(r.State, r.After, r.Unstable)
	}
	return n
}

// section is where the state goes.
func section(after string, state, stable, unstable **rawList) **rawList {
	switch after {
	case "":
		return state
	case "state_after":
		return stable
	}
	return unstable
}

// nothing says that the answer tells a client nothing new.
func (s *syncAnswer) nothing() bool {
	r := &s.Rooms
	return len(r.Join)+len(r.Invite)+len(r.Knock)+len(r.Leave)+len(s.AccountData.Events)+len(s.ToDevice.Events)+len(s.Presence.Events) == 0 &&
		s.DeviceLists == nil && !s.newCounts
}

// add puts a room's change into the one section that its membership names.
func (s *syncAnswer) add(ch *room.Change, f *syncFilter, after string) error {
	switch ch.Membership {
	case "invite":
		s.Rooms.Invite[ch.Room] = &invitedRoom{rawList{ch.Invite}}
		return nil
	case "knock":
		s.Rooms.Knock[ch.Room] = &knockedRoom{rawList{ch.Invite}}
		return nil
	}
	events, err := clientEvents(ch.Timeline, false)
	if err != nil {
		return err
	}
	state, err := stateEvents(f.Room.State.events(ch.State), false)
	if err != nil {
		return err
	}
	t := timeline{Events: events, Limited: ch.Limited, PrevBatch: token(ch.PrevBatch)}
	if ch.Membership != "join" { // leave, ban
		l := &leftRoom{Timeline: t}
		*section(after, &l.State, &l.After, &l.Unstable) = &rawList{state}
		s.Rooms.Leave[ch.Room] = l
		return nil
	}
	j := newJoinedRoom()
	j.State, j.Timeline = nil, t
	*section(after, &j.State, &j.After, &j.Unstable) = &rawList{state}
	j.Ephemeral.Events = ephemeral(ch, &f.Room.Ephemeral)
	// With a filter a change may come down to nothing; but the user's own receipt changes the counts.
	read := slices.ContainsFunc(ch.Receipts, func(r room.Receipt) bool { return r.User == s.user })
	if len(events)+len(state)+len(j.Ephemeral.Events) == 0 && !ch.Limited && !ch.Newly && !read {
		return nil
	}
	if ch.Joined > 0 {
		j.Summary = &summary{Heroes: ch.Heroes, Joined: ch.Joined, Invited: ch.Invited}
	}
	s.Rooms.Join[ch.Room] = j
	return nil
}

// ephemeral makes m.typing and m.receipt of a change.
func ephemeral(ch *room.Change, f *eventFilter) (out []dataEvent) {
	if !f.keepsRoom(ch.Room) {
		return nil
	}
	if ch.TypingNew && f.keepsType("m.typing") {
		out = append(out, dataEvent{"m.typing", map[string]any{"user_ids": ch.Typing}})
	}
	if len(ch.Receipts) > 0 && f.keepsType("m.receipt") {
		out = append(out, dataEvent{"m.receipt", receiptContent(ch.Receipts)})
	}
	return out
}

type receiptData struct {
	Time   int64  `json:"ts"`
	Thread string `json:"thread_id,omitzero"`
}

// receiptContent: event id → receipt type → user → when. A user with an unthreaded and a threaded receipt on one event
// gets one of them shown: the unthreaded, which says more.
func receiptContent(rs []room.Receipt) map[matrix.EventID]map[string]map[matrix.UserID]receiptData {
	out := map[matrix.EventID]map[string]map[matrix.UserID]receiptData{}
	for _, r := range rs {
		if out[r.Event] == nil {
			out[r.Event] = map[string]map[matrix.UserID]receiptData{}
		}
		byType := out[r.Event]
		if byType[r.Type] == nil {
			byType[r.Type] = map[matrix.UserID]receiptData{}
		}
		if old, found := byType[r.Type][r.User]; found && old.Thread == "" {
			continue
		}
		byType[r.Type][r.User] = receiptData{r.Time.UnixMilli(), r.Thread}
	}
	return out
}

// ignoreUnknown: a room of which only account data is known.
func ignoreUnknown(err error) error {
	if errors.Is(err, room.ErrUnknownRoom) || errors.Is(err, room.ErrNotMember) {
		return nil
	}
	return err
}
