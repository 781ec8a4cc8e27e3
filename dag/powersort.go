// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"cmp"
	"container/heap"

	"tarn/matrix"
)

// isPower: an event that might take away what somebody may do ("Power events").
func isPower(n *node) bool {
	switch n.slot.Type {
	case matrix.TypePowerLevels, matrix.TypeJoinRules:
		return n.slot.Key == ""
	case matrix.TypeMember:
		if string(n.ev.Sender()) == n.slot.Key {
			return false
		}
		m := n.ev.Membership()
		return m == matrix.MemberLeave || m == matrix.MemberBan
	}
	return false
}

// powerSet is the power events of the full conflicted set with what they lean on in it. The walk stays within the set,
// as in the other servers: the spec's "events in the auth chain" could be read wider.
func (r *resolver) powerSet(full eventSet) (eventSet, error) {
	power := eventSet{}
	var stack []*node
	for n := range full {
		if isPower(n) {
			stack = append(stack, n)
		}
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if power.has(n) {
			continue
		}
		power.add(n)
		auth, err := r.parents(n)
		if err != nil {
			return nil, err
		}
		for _, a := range auth {
			if full.has(a) {
				stack = append(stack, a)
			}
		}
	}
	return power, nil
}

// ranked is an event in the queue of the power order.
type ranked struct {
	n     *node
	level int64 // of its sender
}

// rankQueue is a heap: first the more powerful sender, then the earlier time, then the smaller id.
type rankQueue []ranked

func (q rankQueue) Len() int      { return len(q) }
func (q rankQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *rankQueue) Push(x any)   { *q = append(*q, x.(ranked)) }
func (q rankQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	return cmp.Or(cmp.Compare(b.level, a.level), byTime(a.n, b.n)) < 0
}

func (q *rankQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

// byTime orders by the sender's clock, then by id: the last resort, the same for everybody.
func byTime(a, b *node) int {
	return cmp.Or(cmp.Compare(a.ev.PDU().OriginServerTS, b.ev.PDU().OriginServerTS), cmp.Compare(a.id, b.id))
}

// powerOrder sorts set so that an event stands after all that it leans on, and else the more powerful sender's first
// ("Reverse topological power ordering"): Kahn's algorithm, from the oldest.
func (r *resolver) powerOrder(set eventSet) ([]*node, error) {
	waits := make(map[*node]int, len(set))
	children := make(map[*node][]*node, len(set))
	queue := &rankQueue{}
	push := func(n *node) error {
		level, err := r.senderLevel(n)
		if err == nil {
			heap.Push(queue, ranked{n, level})
		}
		return err
	}
	for n := range set {
		auth, err := r.parents(n)
		if err != nil {
			return nil, err
		}
		for _, a := range auth {
			if set.has(a) {
				waits[n]++
				children[a] = append(children[a], n)
			}
		}
		if waits[n] == 0 {
			if err := push(n); err != nil {
				return nil, err
			}
		}
	}
	out := make([]*node, 0, len(set))
	for queue.Len() > 0 {
		n := heap.Pop(queue).(ranked).n
		out = append(out, n)
		for _, c := range children[n] {
			if waits[c]--; waits[c] == 0 {
				if err := push(c); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

// senderLevel is the power of n's sender by the power levels that n itself names.
func (r *resolver) senderLevel(n *node) (int64, error) {
	levels, err := r.levelsOf(n)
	if err != nil {
		return 0, err
	}
	var id matrix.EventID
	var ev *matrix.Event
	if levels != nil {
		id, ev = levels.id, levels.ev
	}
	known := r.levels[id]
	if known == nil {
		known = matrix.NewPowerLevels(r.create, ev)
		r.levels[id] = known
	}
	return known.User(n.ev.Sender()), nil
}

// levelsOf is the power levels event among n's auth events, or nil.
func (r *resolver) levelsOf(n *node) (*node, error) {
	auth, err := r.parents(n)
	if err != nil {
		return nil, err
	}
	for _, a := range auth {
		if a.slot == (matrix.StateKey{Type: matrix.TypePowerLevels}) {
			return a, nil
		}
	}
	return nil, nil
}
