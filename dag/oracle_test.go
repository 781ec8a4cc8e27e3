// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// oracle is state resolution a second time, as near to the letter of the spec as Go can be put ("Room version 2" and "12", State
// resolution): sets as sets, no event spared, nothing remembered. It is slow, and shares nothing with package dag but the events.
// With wrong it errs as gomatrixserverlib does (gmsl_test.go).
type oracle struct {
	v21     bool
	events  map[matrix.EventID]dagtest.Held
	create  *matrix.Event
	needs   func(*matrix.Event) []matrix.StateKey // of the state, to judge an event by
	allowed func(*matrix.Event, dag.State) bool
	wrong   mistakes
}

// mistakes are gomatrixserverlib's.
type mistakes struct {
	auth     bool // a: where the state has nothing, the event itself is put in place of its auth event
	power    bool // c: power events bring along what they lean on among the conflicted events, not the auth difference
	kahn     bool // k: the order of power events is made from its end, and events counted twice drop out of it
	mainline bool // m: no place in the mainline is the oldest place, and a tie goes to who is fewer steps from it
	creator  bool // p: a creator without power levels has 0, not 100
	agreed   bool // u: of the auth difference, what all states hold is left out
}

func (o *oracle) ev(id matrix.EventID) *matrix.Event { return o.events[id].Event }

func (o *oracle) slot(id matrix.EventID) matrix.StateKey {
	k, _ := o.ev(id).Slot()
	return k
}

type idSet map[matrix.EventID]bool

func (o *oracle) ancestors(of matrix.EventID, into idSet) {
	for _, a := range o.ev(of).AuthEvents() {
		if !into[a] {
			into[a] = true
			o.ancestors(a, into)
		}
	}
}

func (o *oracle) resolve(sets []dag.State) dag.State {
	// The unconflicted state map, and the conflicted state set.
	agreed, conflicted, slots := dag.State{}, idSet{}, map[matrix.StateKey]bool{}
	for _, s := range sets {
		for k := range s {
			slots[k] = true
		}
	}
	for k := range slots {
		same := true
		for _, s := range sets {
			same = same && s[k] == sets[0][k]
		}
		for _, s := range sets {
			switch {
			case same:
				agreed[k] = s[k]
			case s[k] != "":
				conflicted[s[k]] = true
			}
		}
	}
	// The auth difference.
	in := map[matrix.EventID]int{}
	for _, s := range sets {
		chain := idSet{}
		for _, id := range s {
			o.ancestors(id, chain)
		}
		for id := range chain {
			in[id]++
		}
	}
	difference := idSet{}
	for id, n := range in {
		if n < len(sets) {
			difference[id] = true
		}
	}
	full := maps.Clone(conflicted)
	maps.Copy(full, difference)
	if o.v21 { // the conflicted state subgraph
		for from := range conflicted {
			below := idSet{}
			o.ancestors(from, below)
			for x := range below {
				reach := idSet{x: true}
				o.ancestors(x, reach)
				for to := range reach {
					if conflicted[to] {
						full[x] = true
					}
				}
			}
		}
	}

	if o.wrong.agreed {
		for _, id := range agreed {
			delete(full, id)
		}
	}

	// 1 and 2.
	state := dag.State{}
	if !o.v21 {
		state = maps.Clone(agreed)
	}
	among := full
	if o.wrong.power {
		among = conflicted
	}
	// Each as often as the other library comes by it; only its order makes something of that.
	var power []matrix.EventID
	visited := idSet{}
	var bring func(id matrix.EventID)
	bring = func(id matrix.EventID) {
		power = append(power, id)
		for _, a := range o.ev(id).AuthEvents() {
			if !visited[a] && among[a] {
				bring(a)
			}
			visited[a] = true
		}
	}
	for id := range full {
		if o.isPower(id) {
			bring(id)
			if conflicted[id] && difference[id] {
				power = append(power, id)
			}
		}
	}
	pulled := idSet{}
	for _, id := range power {
		pulled[id] = true
	}
	if o.wrong.kahn {
		o.apply(state, o.wrongOrder(power))
	} else {
		o.apply(state, o.powerOrder(pulled))
	}

	// 3 and 4.
	line := map[matrix.EventID]int{} // 0 the newest
	for at, id := 0, state[matrix.StateKey{Type: matrix.TypePowerLevels}]; id != ""; at, id = at+1, o.levelsOf(id) {
		line[id] = at
	}
	type place struct {
		id        matrix.EventID
		at, steps int
	}
	var rest []place
	for id := range full {
		if pulled[id] {
			continue
		}
		p := place{id: id, at: math.MaxInt}
		for l := o.levelsOf(id); l != ""; l = o.levelsOf(l) {
			if at, ok := line[l]; ok {
				p.at = at
				break
			}
			p.steps++
		}
		if o.wrong.mainline {
			if p.at == math.MaxInt {
				p.at = max(0, len(line)-1)
			}
		} else {
			p.steps = 0
		}
		rest = append(rest, p)
	}
	slices.SortFunc(rest, func(a, b place) int {
		return cmp.Or(cmp.Compare(b.at, a.at), cmp.Compare(a.steps, b.steps), o.byTime(a.id, b.id))
	})
	order := make([]matrix.EventID, len(rest))
	for i, p := range rest {
		order[i] = p.id
	}
	o.apply(state, order)

	// 5.
	maps.Copy(state, agreed)
	return state
}

func (o *oracle) isPower(id matrix.EventID) bool {
	k, ev := o.slot(id), o.ev(id)
	switch k.Type {
	case matrix.TypePowerLevels, matrix.TypeJoinRules:
		return k.Key == ""
	case matrix.TypeMember:
		return k.Key != string(ev.Sender()) && (ev.Membership() == matrix.MemberLeave || ev.Membership() == matrix.MemberBan)
	}
	return false
}

// levelsOf is the power levels event among an event's auth events.
func (o *oracle) levelsOf(id matrix.EventID) matrix.EventID {
	for _, a := range o.ev(id).AuthEvents() {
		if o.slot(a) == (matrix.StateKey{Type: matrix.TypePowerLevels}) {
			return a
		}
	}
	return ""
}

// level is the power of an event's sender, as its auth events say.
func (o *oracle) level(id matrix.EventID) int {
	sender := o.ev(id).Sender()
	if o.v21 && slices.Contains(matrix.Creators(o.create), sender) {
		return math.MaxInt
	}
	levels := o.levelsOf(id)
	if levels == "" {
		if !o.v21 && sender == o.create.Sender() && !o.wrong.creator {
			return 100
		}
		return 0
	}
	var content struct {
		Users   map[matrix.UserID]int
		Default int `json:"users_default"`
	}
	if err := json.Unmarshal(o.ev(levels).Content(), &content); err != nil {
		panic(err) // tests' own
	}
	if n, ok := content.Users[sender]; ok {
		return n
	}
	return content.Default
}

func (o *oracle) byTime(a, b matrix.EventID) int {
	return cmp.Or(o.ev(a).Time().Compare(o.ev(b).Time()), cmp.Compare(a, b))
}

func (o *oracle) byPower(a, b matrix.EventID) int {
	return cmp.Or(cmp.Compare(o.level(b), o.level(a)), o.byTime(a, b))
}

// powerOrder is the lexicographically smallest topological order: again and again the least of those that wait for nothing.
func (o *oracle) powerOrder(set idSet) (out []matrix.EventID) {
	left := maps.Clone(set)
	for len(left) > 0 {
		var ready []matrix.EventID
		for id := range left {
			if !slices.ContainsFunc(o.ev(id).AuthEvents(), func(a matrix.EventID) bool { return left[a] }) {
				ready = append(ready, id)
			}
		}
		next := slices.MinFunc(ready, o.byPower)
		out = append(out, next)
		delete(left, next)
	}
	return out
}

// wrongOrder is gomatrixserverlib's kahnsAlgorithmUsingAuthEvents: from the end, the least of those on which nothing
// waits; what is in the list twice counts twice as waiting, and what is then never free goes to the front, in no topological order.
func (o *oracle) wrongOrder(list []matrix.EventID) (out []matrix.EventID) {
	left, waiting := idSet{}, map[matrix.EventID]int{}
	for _, id := range list {
		left[id] = true
		for _, a := range o.ev(id).AuthEvents() {
			waiting[a]++
		}
	}
	var free []matrix.EventID
	take := func(id matrix.EventID) {
		if left[id] && waiting[id] == 0 {
			delete(left, id)
			free = append(free, id)
		}
	}
	for _, id := range slices.Collect(maps.Keys(left)) {
		take(id)
	}
	for len(free) > 0 {
		slices.SortFunc(free, o.byPower)
		last := free[len(free)-1]
		free = free[:len(free)-1]
		out = append(out, last)
		for _, a := range o.ev(last).AuthEvents() {
			waiting[a]--
			take(a)
		}
	}
	slices.Reverse(out)
	return append(slices.SortedFunc(maps.Keys(left), o.byPower), out...)
}

// apply is the iterative auth checks.
func (o *oracle) apply(state dag.State, order []matrix.EventID) {
	for _, id := range order {
		ev, auth := o.ev(id), dag.State{}
		needs := o.needs(ev)
		own := func(k matrix.StateKey) matrix.EventID {
			for _, a := range ev.AuthEvents() {
				if o.slot(a) == k && o.events[a].Status != dag.Rejected {
					return a
				}
			}
			return ""
		}
		for _, k := range needs {
			switch {
			case state[k] != "":
				auth[k] = state[k]
			case own(k) != "" && o.wrong.auth:
				auth[o.slot(id)] = id
			case own(k) != "":
				auth[k] = own(k)
			}
		}
		if o.allowed(ev, auth) {
			state[o.slot(id)] = id
		}
	}
}

// seeds are those of the rooms that are tried: a few, or with TARN_FULL as many as the issue asks for.
func seeds(few int) (out []uint64) {
	if os.Getenv("TARN_FULL") != "" {
		few = 2000
	}
	for seed := range uint64(few) {
		out = append(out, seed)
	}
	return out
}

// forked is the random room of a seed, with at least two different states at its ends.
func forked(t *testing.T, v matrix.RoomVersion, seed uint64) (*dagtest.RandomRoom, bool) {
	t.Helper()
	dice := rand.New(rand.NewPCG(seed, 7))
	rr, err := dagtest.Random(dice.IntN, v, crowd, 20+dice.IntN(60))
	if err != nil {
		t.Fatal(err)
	}
	states := rr.States()
	return rr, slices.ContainsFunc(states, func(s dag.State) bool { return !s.Equal(states[0]) })
}

func TestResolveIsTheSpecsLetter(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		rooms, changed := 0, 0
		for _, seed := range seeds(40) {
			rr, ok := forked(t, v, seed)
			if !ok {
				continue
			}
			rooms++
			view := rr.Root.View
			o := &oracle{
				v21: v == "12", events: view.Events, create: rr.Events()[0],
				needs: func(ev *matrix.Event) (out []matrix.StateKey) {
					for _, k := range ev.PDU().AuthEventSelection(v) {
						out = append(out, matrix.StateKey{Type: k.Type, Key: k.StateKey})
					}
					return out
				},
				allowed: func(ev *matrix.Event, s dag.State) bool { return dag.Allowed(view, v, s, ev) == nil },
			}
			want := o.resolve(rr.States())
			got, err := dag.Resolve(view, v, rr.States())
			if err != nil || !got.Equal(want) {
				t.Fatalf("seed %d: %v (%v)\nthe letter says %v", seed, what(rr.Root, got), err, what(rr.Root, want))
			}
			if !slices.ContainsFunc(rr.States(), want.Equal) {
				changed++
			}
		}
		t.Logf("version %s: %d rooms with conflicts, %d with a state that no branch had", v, rooms, changed)
		if changed*10 < rooms {
			t.Errorf("only %d of %d rooms come to a state that no branch had", changed, rooms)
		}
	})
}
