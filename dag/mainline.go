// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"cmp"
	"math"
	"slices"
)

// mainlineOrder sorts the events of full that are not in power by the mainline of the power levels event levels (nil: none):
// from it to the power levels that it leans on, and so on to the first. An event that leans on an older place of the line,
// or on none, comes first; then the earlier time, then the smaller id ("Mainline ordering").
func (r *resolver) mainlineOrder(levels *node, full, power eventSet) ([]*node, error) {
	place := map[*node]int{} // in the line, 0 the newest; later also of the power levels beside it
	for n, i := levels, 0; n != nil; i++ {
		place[n] = i
		var err error
		if n, err = r.levelsOf(n); err != nil {
			return nil, err
		}
	}
	type placed struct {
		n  *node
		at int
	}
	rest := make([]placed, 0, len(full)-len(power))
	for n := range full {
		if power.has(n) {
			continue
		}
		at, err := r.placeOf(n, place)
		if err != nil {
			return nil, err
		}
		rest = append(rest, placed{n, at})
	}
	slices.SortFunc(rest, func(a, b placed) int {
		return cmp.Or(cmp.Compare(b.at, a.at), byTime(a.n, b.n))
	})
	out := make([]*node, len(rest))
	for i, p := range rest {
		out[i] = p.n
	}
	return out, nil
}

// placeOf is the place of the nearest power levels of the line among those that n leans on; MaxInt: none. What it passes
// is remembered in place, so that each is walked once. n itself does not count.
func (r *resolver) placeOf(n *node, place map[*node]int) (int, error) {
	at := math.MaxInt
	var passed []*node
	for {
		levels, err := r.levelsOf(n)
		if err != nil {
			return 0, err
		}
		if levels == nil {
			break
		}
		if i, ok := place[levels]; ok {
			at = i
			break
		}
		passed = append(passed, levels)
		n = levels
	}
	for _, p := range passed {
		place[p] = at
	}
	return at, nil
}
