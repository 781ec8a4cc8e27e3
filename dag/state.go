// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"maps"
	"reflect"

	"tarn/matrix"
)

// State is what holds in a room at one point: immutable by convention, shared freely.
type State map[matrix.StateKey]matrix.EventID

// Same says whether a and b are one map: a cheap yes for equality.
func (s State) Same(o State) bool {
	return reflect.ValueOf(s).Pointer() == reflect.ValueOf(o).Pointer()
}

// Equal says whether the same holds in both.
func (s State) Equal(o State) bool {
	if len(s) != len(o) {
		return false
	}
	return s.Same(o) || maps.Equal(s, o)
}

// With is s with one piece set: a copy, or s itself if that holds already.
func (s State) With(k matrix.StateKey, id matrix.EventID) State {
	if s[k] == id {
		return s
	}
	out := make(State, len(s)+1)
	maps.Copy(out, s)
	out[k] = id
	return out
}

// distinct drops the nil and repeated states; what is resolved is a set of them.
func distinct(sets []State) []State {
	out := make([]State, 0, len(sets))
next:
	for _, s := range sets {
		if s == nil {
			continue
		}
		for _, o := range out {
			if s.Equal(o) {
				continue next
			}
		}
		out = append(out, s)
	}
	return out
}
