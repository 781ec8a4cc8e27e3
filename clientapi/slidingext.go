// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"errors"
	"slices"

	"tarn/account"
	"tarn/matrix"
	"tarn/push"
	"tarn/room"
)

// The extensions of sliding sync (MSC3884, MSC3885, MSC3959, MSC3960, MSC3961, as MSC4186 took them over).

// toDevice: its own token, next_batch, tells what the client has; AckInbox has forgotten that already.
func (s *slide) toDevice() error {
	x := &s.q.Extensions.ToDevice
	if !x.Enabled {
		return nil
	}
	limit := maxToDevice
	if x.Limit > 0 {
		limit = int(min(x.Limit, maxToDevice))
	}
	who := s.c.who
	events, last, more, err := s.a.accounts.Inbox(who.User, who.Device, s.inbox, s.upTo, limit, maxToDeviceBytes)
	if err != nil {
		return err
	}
	out := &slideToDevice{Next: token(s.upTo), Events: make([]jsontext.Value, 0, len(events))}
	if more {
		out.Next = token(last)
	}
	for _, e := range events {
		out.Events = append(out.Events, jsontext.Value(e))
	}
	s.out.Extensions.ToDevice = out
	return nil
}

// encryption: whose devices changed since pos, and the device's own key counts.
func (s *slide) encryption() error {
	if !s.q.Extensions.E2EE.Enabled {
		return nil
	}
	counts, err := s.a.accounts.KeyCounts(s.c.who.User, s.c.who.Device)
	if err != nil {
		return err
	}
	out := &slideE2EE{OneTime: counts.OneTime, Unused: counts.Unused}
	s.out.Extensions.E2EE = out
	if s.was.Since == 0 {
		return nil
	}
	s.out.newCounts = s.out.newCounts || counts.Pos > s.was.Since && counts.Pos <= s.upTo
	lists, err := s.a.deviceLists(s.c.who.User, s.was.Since, s.upTo)
	if err == nil && len(lists.Changed)+len(lists.Left) > 0 {
		out.Lists = &lists
	}
	return err
}

// data is account data: the global since pos, and of each room what the connection was not told.
func (s *slide) data() error {
	x := &s.q.Extensions.AccountData
	if !x.Enabled {
		return nil
	}
	user := s.c.who.User
	out := &slideData{Global: []dataEvent{}, Rooms: map[matrix.RoomID][]dataEvent{}}
	s.out.Extensions.Data = out
	from := s.was.Since
	for id, shown := range s.shown {
		if sent, ok := s.now.Rooms[id]; ok && x.Covers(id, shown) {
			from = min(from, sent.Data)
		}
	}
	list, err := s.a.accounts.DataSince(user, from, s.upTo)
	if err != nil {
		return err
	}
	rules := false
	for _, d := range list {
		ev := dataEvent{Type: d.Type, Content: d.Content}
		if d.Room == "" {
			if d.Pos > s.was.Since {
				out.Global = append(out.Global, ev)
				rules = rules || d.Type == dataPushRules
			}
			continue
		}
		shown := s.shown[d.Room]
		if sent, ok := s.now.Rooms[d.Room]; ok && shown != nil && x.Covers(d.Room, shown) && d.Pos > sent.Data {
			out.Rooms[d.Room] = append(out.Rooms[d.Room], ev)
		}
	}
	if s.was.Since == 0 && !rules {
		out.Global = append(out.Global, dataEvent{Type: dataPushRules, Content: push.Default(user).Raw()})
	}
	for id, shown := range s.shown {
		if sent, ok := s.now.Rooms[id]; ok && x.Covers(id, shown) {
			sent.Data = s.upTo
			s.now.Rooms[id] = sent
		}
	}
	return nil
}

// receipts: of a room that the connection hears of for the first time those on the events that it shows, and the user's own.
func (s *slide) receipts() error {
	x := &s.q.Extensions.Receipts
	if !x.Enabled {
		return nil
	}
	user := s.c.who.User
	out := &slideEvents{map[matrix.RoomID]dataEvent{}}
	s.out.Extensions.Receipts = out
	for id, shown := range s.shown {
		sent, ok := s.now.Rooms[id]
		if !ok || !x.Covers(id, shown) || s.standings[id].Membership != matrix.MemberJoin {
			continue
		}
		first := sent.Receipts == 0
		if s.standings[id].Last <= sent.Receipts {
			continue
		}
		list, err := s.a.rooms.Receipts(user, id, sent.Receipts, s.upTo)
		if err != nil {
			return err
		}
		if err := s.judge.load(); err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(r room.Receipt) bool { return s.judge.mute[r.User] })
		if first {
			kept := make([]room.Receipt, 0, len(list))
			for _, r := range list {
				if r.User == user || s.timelines[id][r.Event] {
					kept = append(kept, r)
				}
			}
			list = kept
		}
		if len(list) > 0 {
			out.Rooms[id] = dataEvent{"m.receipt", receiptContent(list)}
		}
		sent.Receipts = s.upTo
		s.now.Rooms[id] = sent
	}
	return nil
}

// typing: who types, in rooms where that changed.
func (s *slide) typing() error {
	x := &s.q.Extensions.Typing
	if !x.Enabled {
		return nil
	}
	out := &slideEvents{map[matrix.RoomID]dataEvent{}}
	s.out.Extensions.Typing = out
	for id, shown := range s.shown {
		sent, ok := s.now.Rooms[id]
		if !ok || !x.Covers(id, shown) || s.standings[id].Membership != matrix.MemberJoin {
			continue
		}
		users, at := s.a.rooms.Typing(id)
		if at <= sent.Typing {
			continue
		}
		if err := s.judge.load(); err != nil {
			return err
		}
		users = slices.DeleteFunc(slices.Clone(users), func(u matrix.UserID) bool { return s.judge.mute[u] })
		if len(users) > 0 || sent.Typing != 0 {
			out.Rooms[id] = dataEvent{"m.typing", map[string]any{"user_ids": append([]matrix.UserID{}, users...)}}
		}
		sent.Typing = at
		s.now.Rooms[id] = sent
	}
	return nil
}

// ignoreMissing: account data that nobody ever set.
func ignoreMissing(err error) error {
	if errors.Is(err, account.ErrNotFound) {
		return nil
	}
	return err
}
