// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/gjson"

	"tarn/matrix"
	"tarn/store"
)

// Unread counts are made when somebody asks, never when an event is written: a send costs the same whatever lies unread and
// however many members are away. What a user's /sync has judged is remembered in memory, so each event is judged once a user and
// process; a receipt just drops what it covers.

// maxUnread is how many events of a room are judged at once, the newest: counts of who was away for longer end there. Clients
// show "99+".
const maxUnread = 1000

// unreadCache bounds what is remembered, in bytes as estimated.
const (
	unreadCache = 8 << 20
	unreadCost  = 200 // of a user in a room
	markCost    = 16  // of a notification
)

// mainThread names, in receipts, what belongs to no thread.
const mainThread = "main"

// PushFacts are what push rules ask of a room: as it is now.
type PushFacts struct {
	Members     int
	DisplayName string // the user's own in the room
	Power       *matrix.PowerLevels
}

// Judge decides whether an event is a notification for the user, and a highlighted one. facts may be asked, any number of times.
type Judge func(e *matrix.Event, facts func() (PushFacts, error)) (notify, highlight bool, err error)

// Count of unread notifications.
type Count struct{ Notifications, Highlights int }

// Counts of a room: what belongs to no thread, and each thread that has any.
type Counts struct {
	Main    Count
	Threads map[matrix.EventID]Count
}

// All is main and threads together.
func (c Counts) All() Count {
	sum := c.Main
	for _, t := range c.Threads {
		sum.Notifications += t.Notifications
		sum.Highlights += t.Highlights
	}
	return sum
}

type unreadKey struct {
	n    uint32
	user matrix.UserID
}

// unread is what is known of a user's unread events in a room.
type unread struct {
	mu      sync.Mutex // held while events are judged
	counted seq        // up to here
	marks   []kept     // ascending
	threads []string   // that marks name by their number here; mainThread is the first
}

// kept is a mark in few bytes: a thousand members of a busy room have a thousand each.
type kept struct {
	place     seq
	thread    uint16 // maxUnread and the bound of what is judged at once keep it small
	highlight bool
}

// keep adds notifications.
func (u *unread) keep(fresh []mark) {
	if len(u.marks) == 0 {
		u.threads = append(u.threads[:0], mainThread)
	}
	for _, m := range fresh {
		i := slices.Index(u.threads, m.thread)
		if i < 0 && len(u.threads) < maxThreads {
			i = len(u.threads)
			u.threads = append(u.threads, m.thread)
		}
		u.marks = append(u.marks, kept{m.place, uint16(max(i, 0)), m.highlight})
	}
}

func (u *unread) mark(k kept) mark { return mark{k.place, u.threads[k.thread], k.highlight} }

// maxThreads bounds the threads of one room that are counted apart; what is in others counts with the room.
const maxThreads = 1000

// mark is a notification.
type mark struct {
	place     seq
	thread    string // its root's id, or mainThread
	highlight bool
}

// Unread counts user's notifications in a room up to upTo that no receipt of theirs covers (C-S API, "Receiving notifications"). Of who is
// not joined there are none.
func (r *Rooms) Unread(user matrix.UserID, room matrix.RoomID, upTo store.Pos, judge Judge) (out Counts, err error) {
	err = r.read(room, func(q *reading) error {
		s, err := q.seenBy(user)
		if err != nil || !s.joined {
			return err
		}
		k, end := unreadKey{q.n, user}, cut(upTo)
		u, ok := r.unread.get(k)
		if !ok {
			u = &unread{}
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.counted < end {
			if err := q.judgeNew(u, s, end, judge); err != nil {
				return err
			}
		}
		u.marks = slices.DeleteFunc(u.marks, func(m kept) bool { return s.read(u.mark(m)) })
		r.unread.put(k, u, unreadCost+markCost*cap(u.marks)+64*len(u.threads))
		for _, m := range u.marks {
			if m.place <= end {
				out.add(u.mark(m))
			}
		}
		return nil
	})
	return out, err
}

func (c *Counts) add(m mark) {
	t := c.Main
	if m.thread != mainThread {
		t = c.Threads[matrix.EventID(m.thread)]
	}
	t.Notifications++
	if m.highlight {
		t.Highlights++
	}
	if m.thread == mainThread {
		c.Main = t
		return
	}
	if c.Threads == nil {
		c.Threads = map[matrix.EventID]Count{}
	}
	c.Threads[matrix.EventID(m.thread)] = t
}

// judgeNew judges what came after u.counted, up to end. The caller holds u.mu. What the user says reads what is before it in its
// thread ("when the user updates their read receipt (either by using the API or by sending an event) ..."); state does not,
// for a new picture of oneself is state in each room.
func (q *reading) judgeNew(u *unread, s seen, end seq, judge Judge) error {
	low := max(u.counted, s.from, s.places[""])
	var fresh []mark
	said := map[string]seq{} // by thread: the user's newest event
	if low < end {
		looked := 0
		err := q.walk(end, low+1, true, func(e placed) (bool, error) {
			looked++
			if e.ev.Sender() == s.user {
				if e.ev.StateKey() != nil {
					return looked < maxUnread, nil
				}
				thread, err := q.threadOf(e.ev)
				said[thread] = max(said[thread], e.place)
				return looked < maxUnread, err
			}
			m, notify, err := q.judgeOne(e, s, judge)
			if err == nil && notify && m.place > said[m.thread] {
				fresh = append(fresh, m)
			}
			return looked < maxUnread, err
		})
		if err != nil {
			return err
		}
	}
	u.marks = slices.DeleteFunc(u.marks, func(m kept) bool { return m.place < said[u.mark(m).thread] })
	slices.Reverse(fresh)
	u.keep(fresh)
	u.counted = end
	return nil
}

func (q *reading) judgeOne(e placed, s seen, judge Judge) (m mark, notify bool, err error) {
	if e.redacted || e.ev.Sender() == s.user {
		return m, false, nil
	}
	notify, m.highlight, err = judge(e.ev, func() (PushFacts, error) { return s.facts.of(q, s.user) })
	if err != nil || !notify {
		return m, false, err
	}
	m.place = e.place
	m.thread, err = q.threadOf(e.ev)
	return m, true, err
}

// threadOf is the root of the thread that an event belongs to (C-S API, "Threading": also what relates to an event in a thread, over
// at most three steps).
func (q *reading) threadOf(e *matrix.Event) (string, error) {
	for range 3 {
		rel := gjson.GetBytes(e.Content(), `m\.relates_to`)
		to := rel.Get("event_id").Str
		switch rel.Get("rel_type").Str {
		case "":
			return mainThread, nil
		case "m.thread":
			if _, err := hashOf(matrix.EventID(to)); err != nil {
				return mainThread, nil
			}
			return to, nil
		}
		next, err := q.byID(matrix.EventID(to))
		if next == nil || err != nil {
			return mainThread, err
		}
		e = next.ev
	}
	return mainThread, nil
}

// seen is up to where a user has read a room.
type seen struct {
	user   matrix.UserID
	joined bool
	from   seq            // since when the user is in the room
	places map[string]seq // by thread; "": whatever the thread
	facts  *factsOnce
}

// read says whether a receipt covers a notification.
func (s seen) read(m mark) bool {
	return m.place <= max(s.from, s.places[""], s.places[m.thread])
}

// seenBy reads it: a few rows, as many as the user has receipts in the room.
func (q *reading) seenBy(user matrix.UserID) (seen, error) {
	s := seen{user: user, places: map[string]seq{}, facts: &factsOnce{}}
	row, err := q.user(user)
	if err != nil || row.membership != matrix.MemberJoin {
		return s, err
	}
	s.joined, s.from = true, row.place
	prefix := append(append(key(tabReceipt, q.n, len(user)+1), user...), 0)
	var all []Receipt
	err = q.rd.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
		typ, thread, ok := strings.Cut(string(k[len(prefix):]), "\x00")
		if !ok {
			return false, fmt.Errorf("%w: receipt", errRow)
		}
		all = append(all, Receipt{User: user, Type: typ, Thread: thread})
		return true, nil
	})
	if err != nil {
		return s, err
	}
	for _, rc := range all {
		rc, _, err := q.receipt(rc)
		if err != nil {
			return s, err
		}
		at, err := q.placeOf(rc.Event)
		if err != nil {
			return s, err
		}
		s.places[rc.Thread] = max(s.places[rc.Thread], at)
	}
	return s, nil
}

// factsOnce reads a room's facts when they are first asked for.
type factsOnce struct {
	done bool
	f    PushFacts
}

func (x *factsOnce) of(q *reading, user matrix.UserID) (PushFacts, error) {
	if x.done {
		return x.f, nil
	}
	t, err := q.tallyOf()
	if err != nil {
		return x.f, err
	}
	st, err := q.state(q.row.current)
	if err != nil {
		return x.f, err
	}
	if x.f.Power, err = q.powerIn(st); err != nil {
		return x.f, err
	}
	own, err := q.stateEvent(st, matrix.TypeMember, string(user))
	if err != nil {
		return x.f, err
	}
	if own != nil {
		x.f.DisplayName = own.ev.ContentString("displayname")
	}
	x.f.Members, x.done = t.joined, true
	return x.f, nil
}

// Notified is an event that was a notification.
type Notified struct {
	Entry
	Read      bool
	Highlight bool
}

// Notifications lists the notifications in all rooms that user is in, newest first, before a cut that next gave (0: the
// newest). It looks at maxScan events at most, so a page may have fewer than limit and go on: next 0 is the end.
func (r *Rooms) Notifications(user matrix.UserID, before store.Pos, limit int, loud bool, judge Judge) (out []Notified, next store.Pos, err error) {
	limit = max(1, min(limit, maxPage))
	err = r.view(func(rd snapshot) error {
		rows, err := userRows(rd, user)
		if err != nil {
			return err
		}
		from := cut(before)
		if before == 0 {
			from = ^seq(0)
		}
		var rooms []*cursor
		for _, x := range rows {
			if x.row.membership != matrix.MemberJoin || x.row.forgotten {
				continue
			}
			q, err := r.openNumber(rd, x.n)
			if err != nil {
				return err
			}
			if q.row.last <= x.row.place {
				continue
			}
			c := &cursor{q: q, next: from, low: x.row.place + 1}
			if err := c.fill(); err != nil {
				return err
			}
			rooms = append(rooms, c)
		}
		for range maxScan {
			c := newest(rooms)
			if c == nil {
				next = 0
				return nil
			}
			e := c.events[0]
			if len(out) == limit {
				next = e.place.token()
				return nil
			}
			next = (e.place - 1).token()
			if c.events = c.events[1:]; len(c.events) == 0 {
				if err := c.fill(); err != nil {
					return err
				}
			}
			if c.seen == nil {
				s, err := c.q.seenBy(user)
				if err != nil {
					return err
				}
				c.seen = &s
			}
			m, notify, err := c.q.judgeOne(e, *c.seen, judge)
			if err != nil {
				return err
			}
			if notify && (m.highlight || !loud) {
				out = append(out, Notified{Entry{Event: e.ev, Pos: e.place.pos()}, c.seen.read(m), m.highlight})
			}
		}
		return nil
	})
	return out, next, err
}

// cursor reads a room's timeline backwards.
type cursor struct {
	q         *reading
	seen      *seen
	next, low seq
	events    []placed
}

// fill reads some more; none: the end.
func (c *cursor) fill() error {
	c.events = nil
	if c.next < c.low {
		return nil
	}
	return c.q.walk(c.next, c.low, true, func(e placed) (bool, error) {
		c.events, c.next = append(c.events, e), e.place-1
		return len(c.events) < 8, nil
	})
}

// newest is the cursor with the newest event; nil: all are at their end.
func newest(rooms []*cursor) (out *cursor) {
	for _, c := range rooms {
		if len(c.events) > 0 && (out == nil || c.events[0].place > out.events[0].place) {
			out = c
		}
	}
	return out
}
