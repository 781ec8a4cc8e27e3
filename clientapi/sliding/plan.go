// SPDX-License-Identifier: Apache-2.0

package sliding

import (
	"slices"
	"strings"

	"tarn/matrix"
)

// Marks of required_state.
const (
	any_ = "*"
	me   = "$ME"
	lazy = "$LAZY"
)

// Wants is the state that is wanted of a room: the union of what each list and subscription says of it.
type Wants struct {
	sets []set
	// Lazy: members as they are needed to show the timeline.
	Lazy bool
}

// set is one required_state: pairs; with "*", "*" the pairs of a type narrow what is wanted of that type.
type set struct {
	pairs map[matrix.StateKey]bool
	types map[string]bool // those named
	key   string          // the same for equal sets
}

func newSet(required [][]string, user matrix.UserID) (s set, isLazy bool) {
	s = set{pairs: map[matrix.StateKey]bool{}, types: map[string]bool{}}
	var names []string
	for _, p := range required {
		k := matrix.StateKey{Type: p[0], Key: p[1]}
		s.types[k.Type] = true
		switch {
		case k.Key == lazy && (k.Type == matrix.TypeMember || k.Type == any_):
			isLazy = true
			continue
		case k.Key == me:
			k.Key = string(user)
		}
		if !s.pairs[k] {
			s.pairs[k] = true
			names = append(names, k.Type+"\x00"+k.Key)
		}
	}
	slices.Sort(names)
	for t := range s.types {
		names = append(names, t) // a type that is named with $LAZY only narrows, too
	}
	slices.Sort(names)
	s.key = strings.Join(names, "\x01")
	return s, isLazy
}

func (s *set) has(k matrix.StateKey) bool {
	if s.pairs[k] || s.pairs[matrix.StateKey{Type: k.Type, Key: any_}] {
		return true
	}
	if s.types[k.Type] && s.pairs[matrix.StateKey{Type: any_, Key: any_}] {
		return false
	}
	return s.pairs[matrix.StateKey{Type: any_, Key: any_}] || s.pairs[matrix.StateKey{Type: any_, Key: k.Key}]
}

// Has tells whether a piece of state is wanted, lazy members aside.
func (w Wants) Has(k matrix.StateKey) bool {
	for i := range w.sets {
		if w.sets[i].has(k) {
			return true
		}
	}
	return false
}

// Same tells whether two want the same, as they were written.
func (w Wants) Same(o Wants) bool {
	return w.Lazy == o.Lazy && slices.EqualFunc(w.sets, o.sets, func(a, b set) bool { return a.key == b.key })
}

func (w *Wants) add(s set, isLazy bool) {
	w.Lazy = w.Lazy || isLazy
	i, found := slices.BinarySearchFunc(w.sets, s.key, func(a set, key string) int { return strings.Compare(a.key, key) })
	if !found {
		w.sets = slices.Insert(w.sets, i, s)
	}
}

// Shown is how much of a room is wanted, and who wants it.
type Shown struct {
	Wants      Wants
	Limit      int
	Lists      []string // whose windows it is in
	Subscribed bool
}

// Listed is a room that may be in lists.
type Listed struct {
	Room  matrix.RoomID
	Bump  uint64
	Facts Facts
}

// Plan says which of a user's rooms are to be shown, and how many each list has. rooms may be sorted anew. subscribed says
// of which rooms a subscription is heeded: those that the user may read.
func (q *Request) Plan(user matrix.UserID, rooms []Listed, subscribed func(matrix.RoomID) bool) (shown map[matrix.RoomID]*Shown, counts map[string]int) {
	slices.SortFunc(rooms, func(a, b Listed) int {
		switch {
		case a.Bump > b.Bump:
			return -1
		case a.Bump < b.Bump:
			return 1
		}
		return strings.Compare(string(a.Room), string(b.Room))
	})
	shown, counts = map[matrix.RoomID]*Shown{}, map[string]int{}
	add := func(id matrix.RoomID, s set, isLazy bool, limit int64) *Shown {
		x := shown[id]
		if x == nil {
			x = &Shown{}
			shown[id] = x
		}
		x.Wants.add(s, isLazy)
		x.Limit = max(x.Limit, int(min(limit, MaxTimeline)))
		return x
	}
	names := make([]string, 0, len(q.Lists))
	for name := range q.Lists {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l := q.Lists[name]
		var passed []matrix.RoomID
		for _, r := range rooms {
			if l.Filters.Keeps(r.Facts) {
				passed = append(passed, r.Room)
			}
		}
		counts[name] = len(passed)
		s, isLazy := newSet(l.Required, user)
		for _, id := range l.Window(passed) {
			x := add(id, s, isLazy, l.Limit)
			x.Lists = append(x.Lists, name)
		}
	}
	for id, r := range q.Subscriptions {
		if subscribed(id) {
			s, isLazy := newSet(r.Required, user)
			add(id, s, isLazy, r.Limit).Subscribed = true
		}
	}
	return shown, counts
}

// Covers tells whether the extension is to tell of a room.
func (e *RoomExtension) Covers(id matrix.RoomID, x *Shown) bool {
	if !e.Enabled {
		return false
	}
	if len(x.Lists) > 0 && (e.Lists == nil || slices.Contains(*e.Lists, any_) ||
		slices.ContainsFunc(x.Lists, func(l string) bool { return slices.Contains(*e.Lists, l) })) {
		return true
	}
	return x.Subscribed && (e.Rooms == nil || slices.Contains(*e.Rooms, any_) || slices.Contains(*e.Rooms, id))
}
