// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/binary"
	"encoding/json"
	"slices"
	"time"

	"tarn/dag"
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

// Sync lists what changed for user after since and not after upTo (a position that Stream.Current gave). A room is in it at
// most once. What it costs grows with the number of the user's rooms (a look in memory each) and with what is new.
func (r *Rooms) Sync(user matrix.UserID, since, upTo store.Pos, o SyncOptions) ([]Change, error) {
	if o.TimelineLimit <= 0 {
		o.TimelineLimit = defaultTimeline
	}
	o.TimelineLimit = min(o.TimelineLimit, maxPage)
	var out []Change
	err := r.view(func(rd snapshot) error {
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
			if err != nil {
				return err
			}
			if ok {
				out = append(out, c)
			}
		}
		return nil
	})
	return out, err
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
	y, err := s.q.look(s.user)
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

// wished fills in the state at end that the reader wishes for.
func (s *syncing) wished(c *Change, base, end seq, full bool) error {
	wish := s.o.Wish(c)
	want, err := s.q.nowAt(end)
	if err != nil {
		return err
	}
	had := uint32(0)
	if !full {
		if had, err = s.q.nowAt(base); err != nil {
			return err
		}
	}
	now, err := s.q.state(want)
	if err != nil {
		return err
	}
	out := dag.State{}
	if want != had && wish.Changed != nil {
		before, err := s.q.state(had)
		if err != nil {
			return err
		}
		for k, id := range now {
			if before[k] != id && wish.Changed(k) {
				out[k] = id
			}
		}
	}
	if wish.All != nil {
		for k, id := range now {
			if wish.All(k) {
				out[k] = id
			}
		}
	}
	for _, k := range wish.Also {
		if id, ok := now[k]; ok {
			out[k] = id
		}
	}
	c.State, err = s.q.eventsOf(out)
	return err
}

// state fills in what the client must know before the timeline, so that it ends with what holds at end.
func (s *syncing) state(c *Change, base, start, end seq, full bool) error {
	want, err := s.q.nowAt(end)
	if err != nil {
		return err
	}
	atStart, had := want, uint32(0)
	if start != end {
		if atStart, err = s.q.nowAt(start); err != nil {
			return err
		}
	}
	if !full {
		if had, err = s.q.nowAt(base); err != nil {
			return err
		}
		if had == want && had == atStart && (!s.o.LazyMembers || len(c.Timeline) == 0) {
			return nil
		}
	}
	wantState, err := s.q.state(want)
	if err != nil {
		return err
	}
	startState, err := s.q.state(atStart)
	if err != nil {
		return err
	}
	hadState, err := s.q.state(had)
	if err != nil {
		return err
	}
	inTimeline := map[matrix.StateKey]bool{}
	for _, e := range c.Timeline {
		if k, ok := e.Slot(); ok {
			inTimeline[k] = true
		}
	}
	delta := dag.State{}
	for k, id := range wantState {
		if inTimeline[k] {
			// The timeline goes on from what held at its start.
			var ok bool
			if id, ok = startState[k]; !ok {
				continue
			}
		}
		if hadState[k] != id {
			delta[k] = id
		}
	}
	if s.o.LazyMembers {
		needed := s.needed(c)
		for k := range delta {
			if full && k.Type == matrix.TypeMember && !needed[matrix.UserID(k.Key)] {
				delete(delta, k)
			}
		}
		for u := range needed {
			k := matrix.StateKey{Type: matrix.TypeMember, Key: string(u)}
			from := wantState
			if inTimeline[k] {
				from = startState
			}
			if id, ok := from[k]; ok {
				delta[k] = id
			}
		}
	}
	c.State, err = s.q.eventsOf(delta)
	return err
}

// needed are the members without whom a client cannot show the room.
func (s *syncing) needed(c *Change) map[matrix.UserID]bool {
	out := map[matrix.UserID]bool{}
	if c.Newly || s.o.FullState {
		out[s.user] = true
		for _, u := range c.Heroes {
			out[u] = true
		}
	}
	for u := range c.Needed() {
		out[u] = true
	}
	return out
}

// Needed are those who sent what the timeline shows, and whom it is about.
func (c *Change) Needed() map[matrix.UserID]bool {
	out := map[matrix.UserID]bool{}
	for _, e := range c.Timeline {
		out[e.Sender()] = true
		if e.Type() == matrix.TypeMember && e.StateKey() != nil {
			out[matrix.UserID(*e.StateKey())] = true
		}
	}
	return out
}

// strippedTypes are shown to who is invited (C-S API, "Stripped state").
var strippedTypes = []string{matrix.TypeCreate, matrix.TypeName, matrix.TypeAvatar, matrix.TypeTopic, matrix.TypeJoinRules,
	matrix.TypeCanonicalAlias, matrix.TypeEncryption}

// stripped is the stripped state of an invite or a knock: its own member event last.
func (s *syncing) stripped(now standing) ([]json.RawMessage, error) {
	own, err := s.q.held(now.event)
	if err != nil || own == nil {
		return nil, err
	}
	id := s.row.state
	if id == 0 {
		if id, err = s.q.nowAt(cut(s.upTo)); err != nil {
			return nil, err
		}
	}
	st, err := s.q.state(id)
	if err != nil {
		return nil, err
	}
	var out []json.RawMessage
	add := func(e *matrix.Event) error {
		raw, err := e.Stripped()
		out = append(out, raw)
		return err
	}
	for _, t := range strippedTypes {
		e, err := s.q.stateEvent(st, t, "")
		if err != nil {
			return nil, err
		}
		if t == matrix.TypeCreate && e == nil {
			create, err := s.q.createIn(st)
			if err != nil {
				return nil, err
			}
			if create != nil {
				e = &held{ev: create}
			}
		}
		if e != nil {
			if err := add(shown(e)); err != nil {
				return nil, err
			}
		}
	}
	if own.ev.Sender() != s.user {
		e, err := s.q.stateEvent(st, matrix.TypeMember, string(own.ev.Sender()))
		if err != nil {
			return nil, err
		}
		if e != nil {
			if err := add(shown(e)); err != nil {
				return nil, err
			}
		}
	}
	return out, add(own.ev)
}

// summary fills in the counts and, for a room without a name, some members (C-S API, "RoomSummary").
func (s *syncing) summary(c *Change) error {
	if c.Joined > 0 {
		return nil // done
	}
	t, err := s.q.tallyOf()
	if err != nil {
		return err
	}
	c.Joined, c.Invited = t.joined, t.invited
	st, err := s.q.state(s.q.row.current)
	if err != nil {
		return err
	}
	for _, typ := range []string{matrix.TypeName, matrix.TypeCanonicalAlias} {
		if st[matrix.StateKey{Type: typ}] != "" {
			return nil
		}
	}
	const most = 5
	var gone []matrix.UserID
	prefix := key(tabMember, s.q.n, 0)
	scanned := 0
	err = s.q.rd.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		u := matrix.UserID(k[len(prefix):])
		m, _, err := decodeMember(v)
		if err != nil {
			return false, err
		}
		switch {
		case u == s.user:
		case m == matrix.MemberJoin || m == matrix.MemberInvite:
			c.Heroes = append(c.Heroes, u)
		case len(gone) < most:
			gone = append(gone, u)
		}
		scanned++
		return len(c.Heroes) < most && scanned < maxScan, nil
	})
	if len(c.Heroes) == 0 {
		c.Heroes = gone
	}
	return err
}

func numberFromKey(k []byte) uint32 { return binary.BigEndian.Uint32(k[len(k)-4:]) }
