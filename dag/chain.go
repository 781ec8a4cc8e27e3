// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"fmt"

	"tarn/matrix"
)

// AuthChain is every event that ids' events lean on, themselves not included, in no order. For version 12 it has the
// create event, which all lean on by their room id. ErrIncomplete: one is not held.
func AuthChain(v View, ids []matrix.EventID) ([]matrix.EventID, error) {
	seen := make(map[matrix.EventID]bool, 2*len(ids))
	for _, x := range ids {
		seen[x] = true
	}
	walk := append([]matrix.EventID(nil), ids...)
	var out []matrix.EventID
	add := func(x matrix.EventID) {
		if x != "" && !seen[x] {
			seen[x] = true
			out = append(out, x)
			walk = append(walk, x)
		}
	}
	for len(walk) > 0 {
		x := walk[len(walk)-1]
		walk = walk[:len(walk)-1]
		ev, _, err := event(v, x)
		if err != nil {
			return nil, fmt.Errorf("walking an auth chain: %w", err)
		}
		for _, a := range ev.AuthEvents() {
			add(a)
		}
		if ev.Type() != matrix.TypeCreate {
			add(matrix.CreateEventID(ev.Version(), ev.Room()))
		}
	}
	return out, nil
}
