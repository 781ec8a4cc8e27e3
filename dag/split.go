// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import "tarn/matrix"

// split parts the states ("Unconflicted state map and conflicted state set"): what every one of them has, the same in each,
// and the events of all other slots. A slot that one state lacks is conflicted, also when the others agree on it.
func (r *resolver) split(sets []State) (agreed State, conflicted eventSet, err error) {
	agreed, conflicted = make(State, len(sets[0])), eventSet{}
	conflict := func(k matrix.StateKey) error {
		for _, s := range sets {
			if id, ok := s[k]; ok {
				n, err := r.load(id)
				if err != nil {
					return err
				}
				conflicted.add(n)
			}
		}
		return nil
	}
	for k, first := range sets[0] {
		same := true
		for _, s := range sets[1:] {
			if s[k] != first { // ids are never empty
				same = false
				break
			}
		}
		if same {
			agreed[k] = first
		} else if err := conflict(k); err != nil {
			return nil, nil, err
		}
	}
	for _, s := range sets[1:] {
		for k := range s {
			if _, seen := sets[0][k]; !seen {
				if err := conflict(k); err != nil {
					return nil, nil, err
				}
			}
		}
	}
	return agreed, conflicted, nil
}
