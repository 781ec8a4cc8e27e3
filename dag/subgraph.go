// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

// subgraph is the events that lie on a path of auth events between two conflicted ones, these included (room version 12,
// "Conflicted state subgraph"). Without them a conflicted event can be judged without the steps that led to it
// (MSC4297, problem B). Each event is visited once, what it leans on first.
func (r *resolver) subgraph(conflicted eventSet) (eventSet, error) {
	type visit struct {
		n    *node
		next int // of its auth events
	}
	between := eventSet{}
	done := eventSet{}
	for root := range conflicted {
		if done.has(root) {
			continue
		}
		done.add(root)
		stack := []visit{{n: root}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			auth, err := r.parents(top.n)
			if err != nil {
				return nil, err
			}
			if top.next < len(auth) {
				a := auth[top.next]
				top.next++
				if !done.has(a) {
					done.add(a)
					stack = append(stack, visit{n: a})
				}
				continue
			}
			// All below is known. It is reached from a conflicted event; does it reach one?
			reaches := conflicted.has(top.n)
			for i := 0; i < len(auth) && !reaches; i++ {
				reaches = between.has(auth[i])
			}
			if reaches {
				between.add(top.n)
			}
			stack = stack[:len(stack)-1]
		}
	}
	return between, nil
}
