// SPDX-License-Identifier: Apache-2.0

package room

import (
	"slices"

	"tarn/matrix"
	"tarn/store"
)

// What sliding sync (MSC4186) needs of the rooms: a user's rooms with what lists are sorted and filtered by, and one
// room's news at a time, for each has a position of its own. The windows are clientapi's.

// Standing is a room of a user, as lists show it.
type Standing struct {
	Room       matrix.RoomID
	Membership string
	At         store.Pos     // of the change to it
	Kicked     bool          // left, by somebody else's doing
	By         matrix.UserID // who invited them, of an invite
	Bump       store.Pos     // of the newest event that lists are sorted by; at least At
	Last       store.Pos     // the room has nothing newer for this user
	Facts
}

// Facts of a room's state that lists filter by.
type Facts struct {
	Encrypted  bool
	Tombstoned bool
	Type       string // of the create event: "" or m.space
}

// stateFacts are the facts of the state of an id.
type stateFacts struct {
	state uint32
	Facts
}

// bumps tells whether an event brings its room to the top of a list (MSC4186, "bump event types").
func bumps(e *matrix.Event) bool {
	switch e.Type() {
	case matrix.TypeCreate, matrix.TypeMessage, matrix.TypeEncrypted, "m.sticker", "m.call.invite", "m.call.notify",
		"m.poll.start", "org.matrix.msc3381.poll.start", "m.beacon_info", "org.matrix.msc3672.beacon_info":
		return true
	}
	return false
}

// Standings lists the user's rooms, forgotten ones left out, in no order. It reads a row a room, and of rooms whose state
// changed since it last looked some of the state.
func (r *Rooms) Standings(user matrix.UserID) ([]Standing, error) {
	var out []Standing
	err := r.view(func(rd snapshot) error {
		rows, err := userRows(rd, user)
		if err != nil {
			return err
		}
		for _, x := range rows {
			if x.row.forgotten {
				continue
			}
			s, err := r.standingOf(rd, user, x)
			if err != nil {
				return err
			}
			out = append(out, s)
		}
		return nil
	})
	return out, err
}

func (r *Rooms) standingOf(rd snapshot, user matrix.UserID, x numbered) (Standing, error) {
	q, err := r.openNumber(rd, x.n)
	if err != nil {
		return Standing{}, err
	}
	l := q.live()
	s := Standing{Room: q.row.id, Membership: x.row.membership, At: x.row.place.pos(), Bump: x.row.place.pos(), Last: x.row.place.pos()}
	state := q.row.current
	switch s.Membership {
	case matrix.MemberJoin:
		s.Bump = max(s.Bump, seq(l.bump.Load()).pos())
		s.Last = max(s.Last, store.Pos(l.last.Load()), store.Pos(l.receipts.Load()), r.typing.changed(s.Room))
	case matrix.MemberInvite, matrix.MemberKnock:
		if x.row.state != 0 {
			state = x.row.state
		}
		if s.Membership == matrix.MemberInvite {
			e, err := q.held(x.row.event)
			if err != nil {
				return s, err
			}
			if e != nil {
				s.By = e.ev.Sender()
			}
		}
	case matrix.MemberLeave, matrix.MemberBan:
		e, err := q.held(x.row.event)
		if err != nil {
			return s, err
		}
		s.Kicked = e != nil && e.ev.Sender() != user
		if !s.Kicked {
			return s, nil // in no list
		}
		if state, err = q.nowAt(x.row.place); err != nil {
			return s, err
		}
	}
	s.Facts, err = q.factsOf(l, state)
	return s, err
}

// factsOf reads the facts of a state; those of the last one asked for are kept.
func (q *reading) factsOf(l *live, id uint32) (Facts, error) {
	if f := l.facts.Load(); f != nil && f.state == id {
		return f.Facts, nil
	}
	st, err := q.state(id)
	if err != nil {
		return Facts{}, err
	}
	f := &stateFacts{state: id}
	f.Encrypted = st[matrix.StateKey{Type: matrix.TypeEncryption}] != ""
	f.Tombstoned = st[matrix.StateKey{Type: matrix.TypeTombstone}] != ""
	create, err := q.createIn(st)
	if err != nil {
		return Facts{}, err
	}
	if create != nil {
		f.Type = create.ContentString("type")
	}
	l.facts.Store(f)
	return f.Facts, nil
}

// SlideOptions say what Slide is to give.
type SlideOptions struct {
	Since         store.Pos // what the client has of the room; 0: nothing
	UpTo          store.Pos
	Device        matrix.DeviceID // whose transaction ids are shown
	TimelineLimit int             // events; 0: no timeline
	Expand        bool            // give the whole timeline to the limit, though the client has some of it
	State         func(*Change) Wish
}

// Slice is a room's news for sliding sync. State is that at the timeline's end.
type Slice struct {
	Change
	Name, Avatar string // as the room's state says; "" if it does not
	Members      []Hero // those of Heroes, who stand for a room without a name
}

// Hero is a member as the room shows them.
type Hero struct {
	User   matrix.UserID `json:"user_id"`
	Name   string        `json:"displayname,omitempty"`
	Avatar string        `json:"avatar_url,omitempty"`
}

// Slide gives one room's news for a user; false: there are none up to o.UpTo, or the room is not the user's.
func (r *Rooms) Slide(user matrix.UserID, room matrix.RoomID, o SlideOptions) (out Slice, ok bool, err error) {
	err = r.read(room, func(q *reading) error {
		row, err := q.user(user)
		if err != nil || row.membership == "" || row.forgotten {
			return err
		}
		s := syncing{q: q, l: q.live(), user: user, row: row, since: o.Since, upTo: o.UpTo, o: SyncOptions{
			Device: o.Device, TimelineLimit: min(o.TimelineLimit, maxPage), Wish: o.State, expand: o.Expand,
		}}
		out, ok, err = s.slide()
		return err
	})
	return out, ok, err
}

func (s *syncing) slide() (out Slice, ok bool, err error) {
	now, then, err := s.standings()
	if err != nil {
		return out, false, err
	}
	out.Change = Change{Room: s.q.row.id, Membership: now.membership}
	c := &out.Change
	changed := now.place > cut(s.since) || s.since == 0
	end := cut(s.upTo)
	switch now.membership {
	case matrix.MemberInvite, matrix.MemberKnock:
		if !changed {
			return out, false, nil
		}
		c.Newly = true
		if c.Invite, err = s.stripped(now); err != nil {
			return out, false, err
		}
		return out, true, s.face(&out, s.row.state)
	case matrix.MemberJoin:
		c.Newly = changed
	case matrix.MemberLeave, matrix.MemberBan:
		if !changed {
			return out, false, nil
		}
		end, c.Newly = now.place, then.membership != matrix.MemberJoin
	default:
		return out, false, nil
	}
	y, err := s.eyes(now)
	if err != nil {
		return out, false, err
	}
	base := cut(s.since)
	if c.Newly {
		base = 0
	}
	if now.membership != matrix.MemberJoin && y.joined == 0 {
		// Never was in it: an invite that was rejected or taken back. That event is all there is to see.
		c.Timeline, _, _, _, err = y.collect(now.place, now.place, true, 1, s.o.Device, nil)
		return out, true, err
	}
	if s.o.TimelineLimit == 0 {
		c.PrevBatch = end.token()
		err = s.wished(c, base, end, c.Newly)
		c.Limited = err == nil && s.l.last.Load() > uint64(base.pos())
	} else {
		err = s.timeline(c, y, base, end, c.Newly)
	}
	if err != nil {
		return out, false, err
	}
	if !c.Newly && len(c.Timeline) == 0 && len(c.State) == 0 && !c.Limited {
		return out, false, nil
	}
	if now.membership != matrix.MemberJoin {
		return out, true, nil
	}
	if err := s.summary(c); err != nil {
		return out, false, err
	}
	return out, true, s.face(&out, s.q.row.current)
}

// face fills in what stands for the room in a list.
func (s *syncing) face(out *Slice, id uint32) error {
	if id == 0 {
		id = s.q.row.current
	}
	st, err := s.q.state(id)
	if err != nil {
		return err
	}
	if out.Name, err = s.q.textIn(st, matrix.TypeName, "name"); err != nil {
		return err
	}
	if out.Avatar, err = s.q.textIn(st, matrix.TypeAvatar, "url"); err != nil {
		return err
	}
	for _, u := range out.Heroes {
		h := Hero{User: u}
		e, err := s.q.stateEvent(st, matrix.TypeMember, string(u))
		if err != nil {
			return err
		}
		if e != nil {
			h.Name, h.Avatar = textOf(e.ev, "displayname"), textOf(e.ev, "avatar_url")
		}
		out.Members = append(out.Members, h)
	}
	return nil
}

// Receipts lists the room's receipts of (since, upTo] that user may see: all but others' private ones.
func (r *Rooms) Receipts(user matrix.UserID, room matrix.RoomID, since, upTo store.Pos) ([]Receipt, error) {
	var c Change
	err := r.read(room, func(q *reading) error {
		s := syncing{q: q, l: q.live(), user: user, since: since, upTo: upTo}
		return s.receipts(&c)
	})
	return c.Receipts, err
}

// Typing lists who types in a room, sorted, and when that last changed; 0: not since the process began.
func (r *Rooms) Typing(room matrix.RoomID) ([]matrix.UserID, store.Pos) {
	users, at := r.typing.now(room)
	return slices.Clip(users), at
}
