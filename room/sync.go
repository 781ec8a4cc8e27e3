// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/json"
	"slices"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Change is what a room has new for a user since a position.
type Change struct {
	Room            matrix.RoomID
	Membership      string // now (at upTo): join, invite, knock, leave, ban
	Newly           bool   // the user joined after since (or since is 0): State is then the whole state at the timeline's start
	Timeline        []Entry
	Limited         bool
	PrevBatch       store.Pos         // a cut for Messages: right before the timeline
	State           []*matrix.Event   // changes before the timeline's start that the timeline does not show
	Invite          []json.RawMessage // stripped state, for invite and knock
	Receipts        []Receipt
	Typing          []matrix.UserID
	TypingNew       bool
	Joined, Invited int
	Heroes          []matrix.UserID
}

// Receipt is a user's read marker.
type Receipt struct {
	User   matrix.UserID
	Event  matrix.EventID
	Type   string // m.read, m.read.private
	Thread string
	Time   time.Time
}

// SyncOptions come from the client's filter.
type SyncOptions struct {
	Device        matrix.DeviceID // whose transaction ids are shown
	TimelineLimit int             // events a room; 0 means 10
	FullState     bool
	IncludeLeave  bool
	KeepRoom      func(matrix.RoomID) bool // nil: all
	KeepTimeline  func(Entry) bool         // nil: all
	// Wish, if there, makes State that at the timeline's end instead of its start (MSC4222), as far as it is wished for
	// once the timeline is known.
	Wish func(*Change) Wish

	// LazyMembers leaves out of State the members whom the timeline does not need ("Lazy-loading room members"): those who
	// sent what it shows, whom it is about, the heroes and the user are there. All changes after since are.
	LazyMembers bool

	expand bool // the timeline goes back beyond since (slide.go)
}

// Wish says which state is wanted of a room.
type Wish struct {
	Changed func(matrix.StateKey) bool // of what changed since; nil: nothing
	All     func(matrix.StateKey) bool // of the whole state, changed or not; nil: nothing
	Also    []matrix.StateKey          // changed or not
}

// defaultTimeline is how many events a room's timeline has if nothing is said.
const defaultTimeline = 10

// Sync lists what EachChange gives.
func (r *Rooms) Sync(user matrix.UserID, since, upTo store.Pos, o SyncOptions) ([]Change, error) {
	var out []Change
	err := r.EachChange(user, since, upTo, o, func(c *Change) error {
		out = append(out, *c)
		return nil
	})
	return out, err
}

// EachChange calls fn with what changed for user after since and not after upTo (a position that Stream.Current gave): a room at
// most once, one after the other, so that what the reader makes of it need not lie in memory beside all the events. What it costs
// grows with the number of the user's rooms (a look in memory each) and with what is new. fn's error ends it.
func (r *Rooms) EachChange(user matrix.UserID, since, upTo store.Pos, o SyncOptions, fn func(*Change) error) error {
	if o.TimelineLimit <= 0 {
		o.TimelineLimit = defaultTimeline
	}
	o.TimelineLimit = min(o.TimelineLimit, maxPage)
	return r.view(func(rd snapshot) error {
		rows, err := userRows(rd, user)
		if err != nil {
			return err
		}
		for _, x := range rows {
			if !r.mayHaveNews(x, since, o) {
				continue
			}
			q, err := r.openNumber(rd, x.n)
			if err != nil {
				return err
			}
			l := q.live()
			if o.KeepRoom != nil && !o.KeepRoom(q.row.id) {
				continue
			}
			s := syncing{q: q, l: l, user: user, row: x.row, since: since, upTo: upTo, o: o}
			c, ok, err := s.change()
			if ok && err == nil {
				err = fn(&c)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// mayHaveNews is the look in memory.
func (r *Rooms) mayHaveNews(x numbered, since store.Pos, o SyncOptions) bool {
	if x.row.forgotten {
		return false
	}
	if since == 0 || x.row.place > cut(since) {
		return true
	}
	if x.row.membership != matrix.MemberJoin {
		return false // all that happened since is not theirs to see
	}
	r.mu.Lock()
	l := r.numbered[x.n]
	r.mu.Unlock()
	return l == nil || o.FullState || l.last.Load() > uint64(since) || l.receipts.Load() > uint64(since) || r.typing.changed(l.id) > since
}

// live is the room's live form, made if there was none.
func (q *reading) live() *live {
	q.r.mu.Lock()
	l := q.r.live[q.row.id]
	q.r.mu.Unlock()
	if l != nil {
		return l
	}
	l, err := q.r.get(q.row.id)
	if err != nil {
		// Only a broken database; the reader that asks will meet it too. A live form of its own does no harm.
		l = &live{n: q.n, id: q.row.id}
		l.last.Store(^uint64(0))
	}
	return l
}

// syncing is one room in one Sync.
type syncing struct {
	q           *reading
	l           *live
	user        matrix.UserID
	row         userRow
	since, upTo store.Pos
	o           SyncOptions
}

// standing is a user's membership at a place in the order.
type standing struct {
	membership string
	place      seq // since when
	event      hash
}

// standingAt reads it.
func (q *reading) standingAt(u matrix.UserID, at seq) (standing, error) {
	var out standing
	err := q.rd.ScanBack(historyPrefix(q.n, u), historyKey(q.n, u, at), func(k, v []byte) (bool, error) {
		var err error
		out.membership, out.event, err = decodeMember(v)
		out.place = seqFromKey(k)
		return false, err
	})
	return out, err
}

// standings are the user's at upTo and at since.
func (s *syncing) standings() (now, then standing, err error) {
	now = standing{s.row.membership, s.row.place, s.row.event}
	if s.row.place > cut(s.upTo) {
		// It changed after upTo: that is for the next Sync.
		if now, err = s.q.standingAt(s.user, cut(s.upTo)); err != nil {
			return now, then, err
		}
	}
	if s.since != 0 {
		then, err = s.q.standingAt(s.user, cut(s.since))
	}
	return now, then, err
}

func (s *syncing) change() (Change, bool, error) {
	now, then, err := s.standings()
	if err != nil {
		return Change{}, false, err
	}
	c := Change{Room: s.q.row.id, Membership: now.membership}
	changed := now.place > cut(s.since) || s.since == 0
	switch now.membership {
	case matrix.MemberJoin:
		return s.joined(c, now, changed)
	case matrix.MemberInvite, matrix.MemberKnock:
		if !changed && !s.o.FullState {
			return c, false, nil
		}
		c.Invite, err = s.stripped(now)
		return c, true, err
	case matrix.MemberLeave, matrix.MemberBan:
		if !changed || s.since == 0 && !s.o.IncludeLeave {
			return c, false, nil
		}
		return s.left(c, now, then)
	}
	return c, false, nil
}

// joined is a room that the user is in.
func (s *syncing) joined(c Change, now standing, changed bool) (Change, bool, error) {
	c.Newly = s.since == 0
	if !c.Newly && changed {
		// A history row is written when the membership changes only: the user joined since.
		c.Newly = true
	}
	y, err := s.eyes(now)
	if err != nil {
		return c, false, err
	}
	base := cut(s.since)
	if c.Newly {
		base = 0
	}
	if err := s.timeline(&c, y, base, cut(s.upTo), c.Newly || s.o.FullState); err != nil {
		return c, false, err
	}
	if err := s.receipts(&c); err != nil {
		return c, false, err
	}
	typing, at := s.q.r.typing.now(c.Room)
	c.Typing, c.TypingNew = typing, at > s.since && (len(typing) > 0 || !c.Newly)
	news := c.Newly || s.o.FullState || len(c.Timeline) > 0 || len(c.State) > 0 || len(c.Receipts) > 0 || c.TypingNew || c.Limited
	if !news {
		return c, false, nil
	}
	if !c.TypingNew && s.since != 0 && s.since < s.q.r.start {
		c.TypingNew = true // typing is forgotten when the process ends: whoever typed for this client does no more
	}
	return c, true, s.summary(&c)
}

// left is a room that the user left, or was put out of, since.
func (s *syncing) left(c Change, now, then standing) (Change, bool, error) {
	y, err := s.eyes(now)
	if err != nil {
		return c, false, err
	}
	base := cut(s.since)
	if then.membership != matrix.MemberJoin && y.joined > base || s.since == 0 {
		base, c.Newly = 0, true // joined and left since: the client knows nothing of it
	}
	if y.joined == 0 {
		// Never was in it: an invite that was rejected or taken back. The leave event is all there is to see.
		c.Newly = false
		entries, places, _, _, err := y.collect(now.place, now.place, true, 1, s.o.Device, nil)
		if err != nil {
			return c, false, err
		}
		c.Timeline = entries
		c.PrevBatch = now.place.token()
		if len(places) > 0 {
			c.PrevBatch = (places[0] - 1).token()
		}
		return c, true, nil
	}
	return c, true, s.timeline(&c, y, base, now.place, c.Newly || s.o.FullState)
}

// eyes looks as the user at the standing that counts.
func (s *syncing) eyes(now standing) (*eyes, error) {
	y, err := s.q.lookAs(s.user, s.row)
	if err != nil {
		return nil, err
	}
	if y.row.place != now.place && now.membership == matrix.MemberJoin {
		y.last, y.joined = 0, ^seq(0)
	}
	return y, nil
}

// timeline fills in the events after base up to end, and the state that goes before them.
func (s *syncing) timeline(c *Change, y *eyes, base, end seq, full bool) error {
	low := seq(0)
	if base != 0 {
		low = base + 1
	}
	var events []Entry
	var places []seq
	var next seq
	var err error
	if s.o.expand {
		low = 0
	}
	if s.l.last.Load() > uint64(base.pos()) || low == 0 {
		if events, places, next, c.Limited, err = y.collect(end, low, true, s.o.TimelineLimit, s.o.Device, s.o.KeepTimeline); err != nil {
			return err
		}
		slices.Reverse(events)
	}
	c.Timeline = events
	start := end
	switch {
	case len(places) > 0:
		start = places[len(places)-1] - 1
	case c.Limited:
		start = next
	}
	c.PrevBatch = start.token()
	if s.o.LazyMembers && full && c.Membership == matrix.MemberJoin {
		if err := s.summary(c); err != nil { // names the heroes
			return err
		}
	}
	if s.o.Wish != nil {
		return s.wished(c, base, end, full)
	}
	return s.state(c, base, start, end, full)
}
