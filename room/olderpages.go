// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"slices"

	"tarn/dag"
	"tarn/matrix"
)

// maxLeaned bounds the bytes of what an answer's events and states lean on.
const maxLeaned = 2 << 20

// knows says whether an event's states are known: those of a snapshot's are not, until what is before it has come.
func (e *held) knows() bool { return e != nil && (!e.outlier || e.told) }

// mayHaveOlder says whether a contact may ask for the past of the room, and there is any of what it asks for.
func (q *reading) mayHaveOlder(server matrix.ServerName, missing []matrix.EventID) error {
	if !q.row.active {
		return ErrUnknownRoom
	}
	if denied, err := q.denied(server); denied || err != nil {
		return cmp.Or(err, ErrUnknownRoom)
	}
	if in, err := q.serverIn(server); !in || err != nil {
		return cmp.Or(err, ErrUnknownRoom)
	}
	for _, id := range missing {
		if e, err := q.byID(id); e.knows() || err != nil {
			return err
		}
	}
	return ErrUnknownEvent
}

// older answers: the deepest events that are asked for and before them, each as the asker may have it; the states before them; what that leans on.
func (q *reading) older(server matrix.ServerName, item *answerItem) (*OlderPage, error) {
	if err := q.mayHaveOlder(server, item.Missing); err != nil {
		return nil, err
	}
	taken, err := q.before(item.Missing, min(item.Most, olderPage))
	if err != nil {
		return nil, err
	}
	out := &OlderPage{}
	events := make([]*matrix.Event, 0, len(taken))
	for _, e := range taken {
		events = append(events, e.ev)
	}
	events = dag.Order(events)
	ids := make([]matrix.EventID, 0, len(events)) // whose auth chains are needed
	all := make([]*matrix.Event, 0, len(events))  // as given
	var first dag.State
	for _, ev := range events {
		e := taken[ev.ID()]
		given := shown(e)
		may, err := q.mayHave(server, e)
		if err != nil {
			return nil, err
		}
		if !may {
			given = e.ev.Redact()
		}
		out.Events, all, ids = append(out.Events, given.Raw()), append(all, given), append(ids, ev.ID())
		if e.status != dag.Accepted {
			out.Unshown = append(out.Unshown, ev.ID())
		}
		if !slices.ContainsFunc(ev.PrevEvents(), func(id matrix.EventID) bool { return taken[id] == nil }) {
			continue
		}
		state, err := q.state(e.before)
		if err != nil {
			return nil, err
		}
		s := OlderState{Event: ev.ID()}
		for k, id := range state {
			if first[k] != id {
				s.Come, ids = append(s.Come, id), append(ids, id)
			}
		}
		for k, id := range first {
			if state[k] == "" {
				s.Gone = append(s.Gone, id)
			}
		}
		slices.Sort(s.Come)
		slices.Sort(s.Gone)
		if first == nil {
			first = state
		}
		out.States = append(out.States, s)
	}
	leaned, err := q.leanedOnBy(ids, taken, item.Have)
	if err != nil {
		return nil, err
	}
	for _, ev := range leaned {
		out.Leaned = append(out.Leaned, ev.Raw())
	}
	out.Certificates, err = q.certificatesOf(slices.Concat(all, leaned))
	return out, err
}

// before walks from missing towards the room's beginning, the deepest first, as far as the states are known.
func (q *reading) before(missing []matrix.EventID, most int) (map[matrix.EventID]*held, error) {
	taken := map[matrix.EventID]*held{}
	seen := map[matrix.EventID]bool{}
	var queue deepest
	add := func(ids []matrix.EventID) error {
		for _, id := range ids {
			if seen[id] {
				continue
			}
			seen[id] = true
			e, err := q.byID(id)
			if err != nil {
				return err
			}
			if e.knows() {
				heap.Push(&queue, e)
			}
		}
		return nil
	}
	err := add(missing)
	for size := 0; err == nil && len(queue) > 0 && len(taken) < most && size < olderBytes; {
		e := heap.Pop(&queue).(*held)
		taken[e.ev.ID()] = e
		size += len(e.ev.Raw())
		err = add(e.ev.PrevEvents())
	}
	return taken, err
}

// deepest is a heap of events, the deepest first.
type deepest []*held

func (d deepest) Len() int           { return len(d) }
func (d deepest) Less(i, j int) bool { return byDepth(d[j].ev, d[i].ev) < 0 }
func (d deepest) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deepest) Push(x any)        { *d = append(*d, x.(*held)) }

func (d *deepest) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	*d = (*d)[:last]
	return x
}

// leanedOnBy are ids and their auth chains, without the events that are given anyway, and without what is in the states after have, and
// their auth chains: of those only what all of them agree on is surely at the asker.
func (q *reading) leanedOnBy(ids []matrix.EventID, given map[matrix.EventID]*held, have []matrix.EventID) ([]*matrix.Event, error) {
	var agreed map[matrix.EventID]bool
	for _, id := range have {
		e, err := q.byID(id)
		if err != nil {
			return nil, err
		}
		if !e.knows() {
			continue
		}
		s, err := q.state(e.after)
		if err != nil {
			return nil, err
		}
		of := map[matrix.EventID]bool{}
		for _, x := range s {
			of[x] = true
		}
		if agreed == nil {
			agreed = of
		}
		maps.DeleteFunc(agreed, func(x matrix.EventID, _ bool) bool { return !of[x] })
	}
	roots := slices.Collect(maps.Keys(agreed))
	chain, err := dag.AuthChain(q, roots)
	if err != nil {
		return nil, err
	}
	there := map[matrix.EventID]bool{}
	for _, id := range slices.Concat(roots, chain) {
		there[id] = true
	}
	if chain, err = dag.AuthChain(q, ids); err != nil {
		return nil, err
	}
	var out []*matrix.Event
	size := 0
	for _, id := range slices.Concat(ids, chain) {
		if there[id] || given[id] != nil {
			continue
		}
		there[id] = true
		e, err := q.byID(id)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, fmt.Errorf("%w: an auth event is missing", errRow)
		}
		ev := shown(e)
		out = append(out, ev)
		if size += len(ev.Raw()); size > maxLeaned {
			return nil, ErrTooLarge
		}
	}
	slices.SortFunc(out, byDepth)
	return out, nil
}
