// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// problem is one of the two of MSC4297: two states of a room, and the event that should hold in a slot afterwards. The second state is
// one that an honest server could come to by an earlier reset: an event that all others know to be replaced.
type problem struct {
	b            *dagtest.Branch
	right, wrong dag.State
	slot         matrix.StateKey
	want         matrix.EventID // in version 12
	reset        matrix.EventID // in version 11; "": nothing
}

// Problem A: one server wrongly thinks that the join rule is still the old one. All agree that Alice, who set both,
// has left. v2 judges both rules by the state on which all agree, in which Alice may not set any: the room has none.
func problemA(t testing.TB, v matrix.RoomVersion) problem {
	b := open(t, v, nil, bob, carol)
	public := b.Holds(matrix.TypeJoinRules, "")
	invite := b.Must(alice, matrix.TypeJoinRules, key(""), `{"join_rule":"invite"}`)
	if _, err := b.Member(alice, alice, "leave"); err != nil {
		t.Fatal(err)
	}
	p := problem{b: b, right: b.Room.Current, slot: slot(matrix.TypeJoinRules, ""), want: invite.ID()}
	b.Must(carol, matrix.TypeMember, key(string(carol.ID)), `{"membership":"join","displayname":"C"}`)
	p.wrong = b.Room.Current.With(p.slot, public)
	return p
}

// Problem B: one server wrongly holds the first power levels. The ones between, by which the third were allowed,
// are in every auth chain and so in no difference; v2 judges the third without them.
func problemB(t testing.TB, v matrix.RoomVersion) problem {
	b := open(t, v, map[matrix.UserID]int{carol.ID: 100}, bob, carol, dave)
	first := b.Holds(matrix.TypePowerLevels, "")
	b.Must(carol, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{carol.ID: 100, bob.ID: 50}))
	third := b.Must(bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{carol.ID: 100, bob.ID: 50, dave.ID: 50}))
	side := b.Fork()
	b.Join(zara)
	side.Join(erin)
	side.Must(erin, matrix.TypeMember, key(string(erin.ID)), `{"membership":"join","displayname":"E"}`)
	p := problem{b: b, right: b.Room.Current, slot: slot(matrix.TypePowerLevels, ""), want: third.ID(), reset: first}
	p.wrong = side.Room.Current.With(p.slot, first)
	return p
}

var zara = dagtest.NewServer(9).User("zara")

func TestProblemsOfMSC4297(t *testing.T) {
	for name, make := range map[string]func(testing.TB, matrix.RoomVersion) problem{"A": problemA, "B": problemB} {
		eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
			p := make(t, v)
			want := p.want
			if v == "11" {
				want = p.reset // v2 is to show it
			}
			for _, sets := range [][]dag.State{{p.right, p.wrong}, {p.wrong, p.right}, {p.wrong, p.right, p.wrong}} {
				got := resolve(t, p.b, sets...)
				if got[p.slot] != want {
					t.Errorf("problem %s: %v", name, what(p.b, got))
				}
				if m := slot(matrix.TypeMember, string(alice.ID)); got[m] != p.right[m] {
					t.Errorf("problem %s: Alice's membership was none in question", name)
				}
			}
		})
	}
}

// A room with no wrong server: what two branches that follow the rules make of the same events is no reset in either version.
func TestAJoinRuleOfWhoLeftHolds(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, nil, bob, carol)
		side := b.Fork()
		rule := b.Must(alice, matrix.TypeJoinRules, key(""), `{"join_rule":"invite"}`)
		if _, err := b.Member(alice, alice, "leave"); err != nil {
			t.Fatal(err)
		}
		side.Must(carol, matrix.TypeMember, key(string(carol.ID)), `{"membership":"join","displayname":"C"}`)
		if got := resolve(t, b, b.Room.Current, side.Room.Current); got[slot(matrix.TypeJoinRules, "")] != rule.ID() {
			t.Errorf("%v", what(b, got))
		}
	})
}

// vectorLine is a line of testdata/msc4297-*.jsonl: an event with its id, each after what it leans on; at the end the states
// that are to be resolved, and what comes of them, as lists of ids.
type vectorLine struct {
	ID       matrix.EventID     `json:"id,omitempty"`
	Event    json.RawMessage    `json:"event,omitempty"`
	States   [][]matrix.EventID `json:"states,omitempty"`
	Resolved []matrix.EventID   `json:"resolved,omitempty"`
}

// The vectors stand for other implementations too: they are read without anything that made them (-update makes them anew).
func TestVectorsOfMSC4297(t *testing.T) {
	for name, make := range map[string]func(testing.TB, matrix.RoomVersion) problem{"a": problemA, "b": problemB} {
		eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
			path := filepath.Join("testdata", fmt.Sprintf("msc4297-%s-v%s.jsonl", name, v))
			if *update {
				writeVector(t, make(t, v), path)
			}
			r, view, end := (*dagtest.Room)(nil), dagtest.NewView(), vectorLine{}
			for _, l := range readLines[vectorLine](t, path) {
				if l.Event == nil {
					end = l
					continue
				}
				ev, err := matrix.Parse(v, l.Event)
				if err != nil || ev.ID() != l.ID {
					t.Fatalf("event %s: %v", l.ID, err)
				}
				if err := ev.Verify(dagtest.Keys(append(servers, dagtest.NewServer(9))...)); err != nil {
					t.Fatal(err)
				}
				// Each event is allowed where it stands: only the second state is wrong.
				if r == nil {
					r = dagtest.NewRoom(ev.Room(), v)
				}
				if in := insert(t, r, ev); in.Status != dag.Accepted {
					t.Fatalf("%s is %v: %v %v", l.ID, in.Status, in.Why, in.Missing)
				}
				view.Put(ev, dag.Accepted, nil)
			}
			if len(end.States) != 2 || len(end.Resolved) == 0 {
				t.Fatal("the vector says no states")
			}
			var sets []dag.State
			for _, ids := range end.States {
				s := dag.State{}
				for _, id := range ids {
					k, _ := view.Events[id].Event.Slot()
					s[k] = id
				}
				sets = append(sets, s)
			}
			got, err := dag.Resolve(view, v, sets)
			if err != nil || !slices.Equal(sortedState(got), end.Resolved) {
				t.Errorf("%v (%v)", what(&dagtest.Branch{View: view}, got), err)
			}
		})
	}
}

func writeVector(t *testing.T, p problem, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, ev := range *p.b.Ord {
		if _, err := fmt.Fprintf(f, `{"id":%q,"event":%s}`+"\n", ev.ID(), ev.Raw()); err != nil {
			t.Fatal(err)
		}
	}
	// What is to come of it is what the MSC says, not what Resolve does.
	want := p.right.With(p.slot, p.want)
	if p.b.Room.Version == "11" {
		want = p.right.With(p.slot, p.reset)
		if p.reset == "" {
			delete(want, p.slot)
		}
	}
	for k, id := range p.wrong { // what only the other side has comes in too
		if p.right[k] != id && k != p.slot {
			want[k] = id
		}
	}
	end := vectorLine{States: [][]matrix.EventID{sortedState(p.right), sortedState(p.wrong)}, Resolved: sortedState(want)}
	if err := json.NewEncoder(f).Encode(end); err != nil {
		t.Fatal(err)
	}
}
