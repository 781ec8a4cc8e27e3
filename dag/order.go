// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"cmp"
	"container/heap"

	"tarn/matrix"
)

// Order sorts events so that each stands after those of them that it follows or leans on; among those that could stand
// next, the earlier by its sender's clock, then the smaller id. The same events give the same order on every node, whatever
// order they come in. For what is shown of history that came out of order, and for snapshots, which are inserted in it.
// An event given twice is in it once. A loop, which hashes make impossible, would be left out.
func Order(events []*matrix.Event) []*matrix.Event {
	byID := make(map[matrix.EventID]*matrix.Event, len(events))
	for _, ev := range events {
		byID[ev.ID()] = ev
	}
	waits := make(map[*matrix.Event]int, len(byID))
	children := make(map[*matrix.Event][]*matrix.Event, len(byID))
	queue := make(timeQueue, 0, len(byID))
	for _, ev := range byID {
		after := func(id matrix.EventID) {
			if p := byID[id]; p != nil && p != ev {
				waits[ev]++ // one that is both parent and auth event counts twice, here and below
				children[p] = append(children[p], ev)
			}
		}
		for _, id := range ev.PrevEvents() {
			after(id)
		}
		for _, id := range ev.AuthEvents() {
			after(id)
		}
		if ev.Type() != matrix.TypeCreate {
			after(matrix.CreateEventID(ev.Version(), ev.Room()))
		}
		if waits[ev] == 0 {
			queue = append(queue, ev)
		}
	}
	heap.Init(&queue)
	out := make([]*matrix.Event, 0, len(byID))
	for queue.Len() > 0 {
		ev := heap.Pop(&queue).(*matrix.Event)
		out = append(out, ev)
		for _, c := range children[ev] {
			if waits[c]--; waits[c] == 0 {
				heap.Push(&queue, c)
			}
		}
	}
	return out
}

// timeQueue is a heap of events by time and id.
type timeQueue []*matrix.Event

func (q timeQueue) Len() int      { return len(q) }
func (q timeQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *timeQueue) Push(x any)   { *q = append(*q, x.(*matrix.Event)) }
func (q timeQueue) Less(i, j int) bool {
	return cmp.Or(q[i].Time().Compare(q[j].Time()), cmp.Compare(q[i].ID(), q[j].ID())) < 0
}

func (q *timeQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}
