// SPDX-License-Identifier: Apache-2.0

package room

import (
	"time"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// maxPage bounds the events of one page.
const maxPage = 1000

// Messages pages from a position: back (newest first, events before the cut from; 0: from the end) or forward (events after it).
// keep nil: all. ErrUnknownRoom; ErrNotMember for who never was in the room and may not read it.
func (r *Rooms) Messages(user matrix.UserID, room matrix.RoomID, from store.Pos, back bool, limit int, keep func(Entry) bool) (Page, error) {
	var page Page
	err := r.read(room, func(q *reading) error {
		y, err := q.enter(user)
		if err != nil {
			return err
		}
		start := cut(from)
		if back && from == 0 {
			start = ^seq(0)
		}
		if page, err = y.page(start, back, limit, keep); err == nil && back {
			err = y.wants(&page)
		}
		if back && from == 0 {
			page.Start = cut(store.Pos(q.row.last.pos())).token()
		}
		return err
	})
	return page, err
}

// wants notes that a client comes near the edge of what is here.
func (y *eyes) wants(page *Page) error {
	near := y.edge
	if !near && page.More {
		var err error
		if near, err = y.q.nearGap(cut(page.End)); err != nil {
			return err
		}
	}
	if !near {
		return nil
	}
	hope := y.q.r.wanted(y.q.n, time.Now())
	if y.edge {
		page.More, page.Older = hope, hope
	}
	return nil
}

// enter is look for who asks for more than one event: users that never were in the room may only if it is world-readable.
func (q *reading) enter(user matrix.UserID) (*eyes, error) {
	y, err := q.look(user)
	if err != nil {
		return nil, err
	}
	switch y.row.membership {
	case matrix.MemberJoin, matrix.MemberLeave, matrix.MemberBan:
		return y, nil
	}
	s, err := q.state(q.row.current)
	if err != nil {
		return nil, err
	}
	open, err := q.visibilityIn(s)
	if err != nil {
		return nil, err
	}
	if !q.row.active || open != openness(visWorld) {
		return nil, ErrNotMember
	}
	return y, nil
}

// page reads a page from a cut.
func (y *eyes) page(from seq, back bool, limit int, keep func(Entry) bool) (Page, error) {
	limit = max(1, min(limit, maxPage))
	p := Page{Start: from.token()}
	first, end := from, seq(0)
	if back {
		if y.last != 0 {
			first = min(first, y.last)
		}
	} else {
		first, end = from+1, ^seq(0)
	}
	events, _, next, more, err := y.collect(first, end, back, limit, "", keep)
	if err != nil {
		return Page{}, err
	}
	p.Events, p.More = events, more
	if !back {
		next-- // the cut before the next event to be read
	}
	p.End = next.token()
	return p, nil
}

// Event reads one. ErrUnknownEvent also if the user may not see it; ErrNotMember for who never was in the room.
func (r *Rooms) Event(user matrix.UserID, room matrix.RoomID, id matrix.EventID) (Entry, error) {
	var out Entry
	err := r.read(room, func(q *reading) error {
		y, err := q.enter(user)
		if err != nil {
			return err
		}
		e, err := y.find(id)
		if err != nil {
			return err
		}
		out, err = y.entry(e, "")
		return err
	})
	return out, err
}

// find reads an event that the user may see.
func (y *eyes) find(id matrix.EventID) (placed, error) {
	h, err := hashOf(id)
	if err != nil {
		return placed{}, ErrUnknownEvent
	}
	e, err := y.q.held(h)
	if err != nil {
		return placed{}, err
	}
	switch {
	case e == nil || e.status != dag.Accepted:
		return placed{}, ErrUnknownEvent
	case !e.shown:
		// State that came with the snapshot, from before the history here: members know it.
		if y.row.membership == matrix.MemberJoin && e.ev.StateKey() != nil {
			return placed{e, h}, nil
		}
		return placed{}, ErrUnknownEvent
	}
	ok, err := y.sees(e)
	if err != nil {
		return placed{}, err
	}
	if !ok {
		return placed{}, ErrUnknownEvent
	}
	return placed{e, h}, nil
}

// Context reads an event, and up to limit events before and after it, and the state at the last of them.
// keep chooses among those (nil: all).
func (r *Rooms) Context(user matrix.UserID, room matrix.RoomID, id matrix.EventID, limit int, keep func(Entry) bool) (before, after Page, ev Entry, state []*matrix.Event, err error) {
	err = r.read(room, func(q *reading) error {
		y, err := q.look(user)
		if err != nil {
			return err
		}
		half := max(0, limit) / 2
		if before, after, ev, err = y.around(id, half, func(n int) int { return max(0, limit) - n }, keep); err != nil {
			return err
		}
		at, err := q.nowAt(cut(after.End))
		if err != nil {
			return err
		}
		state, err = q.events(at)
		return err
	})
	return before, after, ev, state, err
}
