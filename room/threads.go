// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/binary"
	"fmt"
	"slices"

	"tarn/matrix"
	"tarn/store"
)

// RelationQuery chooses among the events that relate to one.
type RelationQuery struct {
	Rel     string // "": any
	Type    string // of the events; "": any
	Recurse bool   // also what relates to those that do, three levels deep
	Back    bool
	From    *store.Pos // a cut; nil: from the end that Back says
	To      *store.Pos
	Limit   int
}

// RecursionDepth is how far RelationQuery.Recurse goes.
const RecursionDepth = 3

// maxRecursed bounds how many events a recursion gathers.
const maxRecursed = 1000

// Relations pages through the events that relate to one. ErrUnknownEvent if the user may not see that one.
func (r *Rooms) Relations(user matrix.UserID, room matrix.RoomID, id matrix.EventID, o RelationQuery) (Page, error) {
	var page Page
	err := r.read(room, func(q *reading) error {
		y, err := q.enter(user)
		if err != nil {
			return err
		}
		root, err := y.find(id)
		if err != nil {
			return err
		}
		first, end := o.bounds()
		var all []placed
		if o.Recurse {
			if all, err = y.recurse(root); err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(e placed) bool {
				return o.Back && (e.place > first || e.place < end) || !o.Back && (e.place < first || e.place > end) || !o.keeps(e)
			})
		} else if all, err = y.relations(root.h, o, first, end); err != nil {
			return err
		}
		sortPlaced(all, o.Back)
		limit := max(1, min(o.Limit, maxPage))
		if page.More = len(all) > limit; page.More {
			all = all[:limit]
		}
		page.Start, page.End = first.token(), end.token()
		if o.Back {
			page.Start = first.token()
		} else {
			page.Start = (first - 1).token()
		}
		for _, e := range all {
			entry, err := y.entry(e, "")
			if err != nil {
				return err
			}
			page.Events = append(page.Events, entry)
			if page.End = e.place.token(); o.Back {
				page.End = (e.place - 1).token()
			}
		}
		return nil
	})
	return page, err
}

// bounds are the first place of the page and the last one, inclusive.
func (o *RelationQuery) bounds() (first, end seq) {
	first, end = 1, ^seq(0)
	if o.Back {
		first, end = end, first
	}
	if o.From != nil {
		if first = cut(*o.From); !o.Back {
			first++
		}
	}
	if o.To != nil {
		if end = cut(*o.To); o.Back {
			end++
		}
	}
	return first, end
}

func (o *RelationQuery) keeps(e placed) bool {
	rel, _ := e.ev.Relation()
	return (o.Rel == "" || o.Rel == rel) && (o.Type == "" || o.Type == e.ev.Type())
}

// relations gathers one more than a page of each kind that is asked for.
func (y *eyes) relations(of hash, o RelationQuery, first, end seq) ([]placed, error) {
	var all []placed
	for kind := range kinds {
		if o.Rel != "" && kindOf(o.Rel) != kind {
			continue
		}
		n := 0
		err := y.children(relationPrefix(y.q.n, of, kind), &first, o.Back, func(e placed) (bool, error) {
			if o.Back && e.place < end || !o.Back && e.place > end {
				return false, nil
			}
			if o.keeps(e) {
				all = append(all, e)
				n++
			}
			return n <= max(1, min(o.Limit, maxPage)), nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// recurse gathers what relates to an event, directly or not.
func (y *eyes) recurse(root placed) ([]placed, error) {
	var all []placed
	seen := map[hash]bool{root.h: true}
	level := []placed{root}
	for range RecursionDepth {
		var next []placed
		for _, e := range level {
			if !e.related {
				continue
			}
			for kind := range kinds {
				if err := y.children(relationPrefix(y.q.n, e.h, kind), nil, true, func(c placed) (bool, error) {
					if !seen[c.h] {
						seen[c.h] = true
						next = append(next, c)
					}
					return len(all)+len(next) < maxRecursed, nil
				}); err != nil {
					return nil, err
				}
			}
		}
		all, level = append(all, next...), next
	}
	return all, nil
}

// Threads pages through a room's threads, the one with the newest event first: their roots. from is a cut; 0: from the newest.
func (r *Rooms) Threads(user matrix.UserID, room matrix.RoomID, participated bool, from store.Pos, limit int) (Page, error) {
	var page Page
	limit = max(1, min(limit, maxPage))
	err := r.read(room, func(q *reading) error {
		y, err := q.enter(user)
		if err != nil {
			return err
		}
		start := ^seq(0)
		if from != 0 {
			start = cut(from)
		}
		prefix := key(tabThreadOrder, q.n, 0)
		scanned := 0
		return q.rd.ScanBack(prefix, threadOrderKey(q.n, start), func(k, v []byte) (bool, error) {
			place := seqFromKey(k)
			if scanned++; scanned > maxScan || len(page.Events) == limit {
				page.More, page.End = true, place.token()
				return false, nil
			}
			if len(v) != len(hash{}) {
				return false, fmt.Errorf("%w: thread", errRow)
			}
			h := hash(v)
			e, err := q.held(h)
			if err != nil || e == nil || !e.shown {
				return true, err // the root is not here (yet)
			}
			if ok, err := y.sees(e); err != nil || !ok {
				return true, err
			}
			entry, err := y.entry(placed{e, h}, "")
			if err != nil {
				return false, err
			}
			if entry.Related == nil || entry.Related.Thread == nil || participated && !entry.Related.Thread.Participated {
				return true, nil
			}
			page.Events = append(page.Events, entry)
			return true, nil
		})
	})
	return page, err
}

// AtTime finds the event closest to a time by its sender's clock: the first not before it, or (back) the last not after it.
// ErrUnknownEvent: there is none that the user may see.
func (r *Rooms) AtTime(user matrix.UserID, room matrix.RoomID, ms int64, back bool) (Entry, error) {
	var out Entry
	err := r.read(room, func(q *reading) error {
		y, err := q.enter(user)
		if err != nil {
			return err
		}
		scan, from := q.rd.Scan, timeKey(q.n, ms, 0)
		if back {
			scan, from = q.rd.ScanBack, timeKey(q.n, ms, ^seq(0))
		}
		scanned, found := 0, false
		err = scan(key(tabTime, q.n, 0), from, func(k, _ []byte) (bool, error) {
			if len(k) != 21 {
				return false, fmt.Errorf("%w: time", errRow)
			}
			at := seq(binary.BigEndian.Uint64(k[13:]))
			v, err := q.rd.Get(timelineKey(q.n, at))
			if err != nil || len(v) != len(hash{}) {
				return false, fmt.Errorf("%w: time", errRow)
			}
			e, err := q.held(hash(v))
			if err != nil || e == nil {
				return true, err
			}
			ok, err := y.sees(e)
			if err != nil {
				return false, err
			}
			if ok {
				found = true
				out, err = y.entry(placed{e, hash(v)}, "")
				return false, err
			}
			scanned++
			return scanned < maxScan, nil
		})
		if err == nil && !found {
			err = ErrUnknownEvent
		}
		return err
	})
	return out, err
}
