// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"errors"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// dice rolls rapid's numbers.
func dice(t *rapid.T) dagtest.Dice {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "dice") }
}

// checks is rapid.Check, 2,000 times in `make full`.
func checks(t *testing.T, prop func(*rapid.T)) {
	t.Helper()
	if os.Getenv("TARN_FULL") != "" {
		asked := flag.Lookup("rapid.checks").Value.String()
		if err := flag.Set("rapid.checks", "2000"); err != nil {
			t.Fatal(err)
		}
		defer flag.Set("rapid.checks", asked)
	}
	rapid.Check(t, prop)
}

var crowd = []dagtest.User{alice, bob, carol, dave, erin}

func TestResolveDoesNotDependOnTheOrderOfStates(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		checks(t, func(t *rapid.T) {
			rr, err := dagtest.Random(dice(t), v, crowd, rapid.IntRange(5, 60).Draw(t, "steps"))
			if err != nil {
				t.Fatal(err)
			}
			states := rr.States()
			want, err := dag.Resolve(rr.Root.View, v, states)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				mixed := rapid.Permutation(append(slices.Clone(states), states[0], nil)).Draw(t, "order")
				got, err := dag.Resolve(rr.Root.View, v, mixed)
				if err != nil || !got.Equal(want) {
					t.Fatalf("resolved to %v and %v (%v)", want, got, err)
				}
			}
			// What all agree on stays.
			for k, id := range states[0] {
				agreed := true
				for _, s := range states {
					agreed = agreed && s[k] == id
				}
				if agreed && want[k] != id {
					t.Fatalf("lost %v on which all agreed", k)
				}
			}
		})
	})
}

func TestNodesConvergeWhateverOrderEventsComeIn(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		checks(t, func(t *rapid.T) {
			rr, err := dagtest.Random(dice(t), v, crowd, rapid.IntRange(5, 60).Draw(t, "steps"))
			if err != nil {
				t.Fatal(err)
			}
			events := rr.Events()
			// One event that follows all ends, by somebody who may.
			end := rr.Branches[0].Fork()
			for _, o := range rr.Branches[1:] {
				if err := end.Merge(o); err != nil {
					t.Fatal(err)
				}
			}
			var merge *matrix.Event
			for _, u := range crowd {
				if ev, err := end.Send(u, matrix.TypeMessage, nil, `{"body":"all"}`); err == nil {
					merge = ev
					break
				}
			}
			a, soft := play(t, rr.Root.Room, events)
			b, soft2 := play(t, rr.Root.Room, rapid.Permutation(append(slices.Clone(events), events[:len(events)/2]...)).Draw(t, "order"))
			for id, h := range a.Events {
				o := b.Events[id]
				if (h.Status == dag.Rejected) != (o.Status == dag.Rejected) || !h.After.Equal(o.After) {
					t.Fatalf("%s is %v here and %v there", id, h.Status, o.Status)
				}
				if made, ok := rr.Root.View.Events[id]; ok && (made.Status == dag.Rejected) != (h.Status == dag.Rejected) {
					t.Fatalf("%s made as %v, taken as %v", id, made.Status, h.Status)
				}
			}
			if soft+soft2 == 0 {
				same(t, a, b)
			}
			if merge != nil {
				for _, r := range []*dagtest.Room{a, b} {
					if in, err := r.Deliver(merge); err != nil || in.Status == dag.Rejected || len(in.Missing) > 0 {
						t.Fatal(in.Status, in.Why, in.Missing, err)
					}
				}
				if a.Events[merge.ID()].Status == dag.Accepted && b.Events[merge.ID()].Status == dag.Accepted {
					same(t, a, b)
					if len(a.Heads) != 1 {
						t.Fatalf("heads after an event that follows all: %v", a.Heads)
					}
				}
			}
		})
	})
}

// play delivers events to a new node; how many it soft-failed.
func play(t *rapid.T, of dag.Room, events []*matrix.Event) (*dagtest.Room, int) {
	r := dagtest.NewRoom(of.ID, of.Version)
	for _, ev := range events {
		if _, err := r.Deliver(ev); err != nil {
			t.Fatal(err)
		}
	}
	soft := 0
	for _, h := range r.Events {
		if h.Status == dag.SoftFailed {
			soft++
		}
	}
	for _, ev := range events {
		if _, ok := r.Events[ev.ID()]; !ok {
			t.Fatalf("%s never got in", ev.ID())
		}
	}
	for _, h := range r.Heads {
		for _, x := range r.Events {
			if x.Status == dag.Accepted && slices.Contains(x.Event.PrevEvents(), h) {
				t.Fatalf("head %s has an accepted child", h)
			}
		}
	}
	sets := make([]dag.State, len(r.Heads))
	for i, h := range r.Heads {
		sets[i] = r.Events[h].After
	}
	if s, err := dag.Resolve(r.View, of.Version, sets); err != nil || !s.Equal(r.Current) {
		t.Fatalf("current state is not that of the heads (%v)", err)
	}
	return r, soft
}

func same(t *rapid.T, a, b *dagtest.Room) {
	if !slices.Equal(slices.Sorted(slices.Values(a.Heads)), slices.Sorted(slices.Values(b.Heads))) {
		t.Fatalf("heads %v and %v", a.Heads, b.Heads)
	}
	if !a.Current.Equal(b.Current) {
		t.Fatalf("states %v and %v", a.Current, b.Current)
	}
}

func FuzzInsert(f *testing.F) {
	f.Add(uint8(1), matrix.TypePowerLevels, "", true, `{"users":{},"ban":1}`)
	f.Add(uint8(1), matrix.TypePowerLevels, "", true, `{"users":[],"notifications":{"room":"50"}}`)
	f.Add(uint8(2), matrix.TypeMember, string(bob.ID), true, `{"membership":"ban","join_authorised_via_users_server":"@a:b"}`)
	f.Add(uint8(3), matrix.TypeMember, string(dave.ID), true, `{"membership":"invite","third_party_invite":{"signed":{"mxid":"x","token":"y"}}}`)
	f.Add(uint8(0), "m.room.third_party_invite", "t", true, `{}`)
	f.Add(uint8(0), matrix.TypeRedaction, "", false, `{"redacts":1}`)
	f.Add(uint8(0), matrix.TypeCreate, "", true, `{"room_version":"12","additional_creators":[1]}`)
	f.Fuzz(func(t *testing.T, who uint8, typ, sk string, state bool, content string) {
		for _, v := range []matrix.RoomVersion{"8", "11", "12"} {
			b := open(t, v, map[matrix.UserID]int{bob.ID: 50, carol.ID: 50}, bob, carol)
			var k *string
			if state {
				k = &sk
			}
			u := crowd[int(who)%len(crowd)]
			p, err := b.Proto(u, typ, k, content)
			if err != nil {
				return
			}
			ev, err := matrix.Build(v, p, u.Signer)
			if err != nil {
				return
			}
			r := deliver(t, b)
			in, err := r.Deliver(ev)
			if err != nil && !errors.Is(err, dag.ErrOtherRoom) {
				t.Fatal(err)
			}
			if in.Status == dag.Rejected && in.Why != nil && strings.Contains(in.Why.Error(), "no answer") && typ != matrix.TypePowerLevels {
				t.Logf("the library panics: %v", in.Why)
			}
			if in.Status == dag.Accepted {
				// What was accepted must go through state resolution as well.
				side := b.Fork()
				b.Put(ev)
				side.Must(alice, matrix.TypePowerLevels, key(""), levels(v, nil))
				if _, err := dag.Resolve(b.View, v, []dag.State{b.Room.Current, side.Room.Current}); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
