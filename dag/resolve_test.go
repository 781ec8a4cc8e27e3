// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

func slot(typ, key string) matrix.StateKey { return matrix.StateKey{Type: typ, Key: key} }

func resolve(t testing.TB, b *dagtest.Branch, sets ...dag.State) dag.State {
	t.Helper()
	s, err := dag.Resolve(b.View, b.Room.Version, sets)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// what names the slots of a state, for messages.
func what(b *dagtest.Branch, s dag.State) map[string]string {
	out := map[string]string{}
	for k, id := range s {
		out[k.Type+"/"+k.Key] = string(b.View.Events[id].Event.Content())
	}
	return out
}

// The room's moderator, whose clock is slow, is demoted and banned while he promotes a friend and renames the room.
func TestDemotionAndBanWinOverWhatTheModeratorDidMeanwhile(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob, carol, dave)
		his := b.Fork()
		demotion := b.Must(alice, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 0}))
		ban, err := b.Member(alice, bob, "ban")
		if err != nil {
			t.Fatal(err)
		}
		topic := b.Must(alice, matrix.TypeTopic, key(""), `{"topic":"hers"}`)

		his.Now = his.Now.Add(-time.Hour)
		his.Must(bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 50, carol.ID: 50}))
		if _, err := his.Member(bob, dave, "ban"); err != nil {
			t.Fatal(err)
		}
		his.Must(bob, matrix.TypeTopic, key(""), `{"topic":"his"}`)
		his.Must(bob, matrix.TypeName, key(""), `{"name":"his"}`)

		want := maps.Clone(b.Room.Current)
		got := resolve(t, b, b.Room.Current, his.Room.Current)
		if !got.Equal(want) {
			t.Errorf("%v\nwant %v", what(b, got), what(b, want))
		}
		if got[slot(matrix.TypePowerLevels, "")] != demotion.ID() || got[slot(matrix.TypeMember, string(bob.ID))] != ban.ID() ||
			got[slot(matrix.TypeTopic, "")] != topic.ID() || got[slot(matrix.TypeName, "")] != "" {
			t.Errorf("%v", what(b, got))
		}
	})
}

// A state with one event fewer than the others is a conflict in that slot, even if nobody has another event there.
func TestSlotThatOneBranchLacksIsJudged(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob)
		his := b.Fork()
		name := his.Must(bob, matrix.TypeName, key(""), `{"name":"his"}`)
		before := b.Room.Current
		if got := resolve(t, b, before, his.Room.Current); got[slot(matrix.TypeName, "")] != name.ID() {
			t.Errorf("an allowed name is lost: %v", what(b, got))
		}
		if _, err := b.Member(alice, bob, "ban"); err != nil {
			t.Fatal(err)
		}
		if got := resolve(t, b, b.Room.Current, his.Room.Current); got[slot(matrix.TypeName, "")] != "" {
			t.Errorf("a banned user's name holds: %v", what(b, got))
		}
	})
}

// The later of two equal rights wins by the clock, then by id; the newer power levels come later than both.
func TestTopicsAreOrderedByMainlineThenTime(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50, carol.ID: 50}, bob, carol)
		side := b.Fork()
		side.Now = side.Now.Add(time.Minute)
		b.Must(bob, matrix.TypeTopic, key(""), `{"topic":"early"}`)
		late := side.Must(carol, matrix.TypeTopic, key(""), `{"topic":"late"}`)
		if got := resolve(t, b, b.Room.Current, side.Room.Current); got[slot(matrix.TypeTopic, "")] != late.ID() {
			t.Errorf("by time: %v", what(b, got))
		}
		b.Must(alice, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 51, carol.ID: 50}))
		b.Now = b.Now.Add(-time.Hour)
		newer := b.Must(bob, matrix.TypeTopic, key(""), `{"topic":"newer power"}`)
		if got := resolve(t, b, b.Room.Current, side.Room.Current); got[slot(matrix.TypeTopic, "")] != newer.ID() {
			t.Errorf("by mainline: %v", what(b, got))
		}
	})
}

func TestEqualStatesAreNotReadAtAll(t *testing.T) {
	b := open(t, "12", nil, bob, carol)
	b.View.Reads = 0
	one := b.Room.Current
	if got := resolve(t, b, one, maps.Clone(one), one, nil); !got.Same(one) {
		t.Error("another map")
	}
	if b.View.Reads != 0 {
		t.Errorf("%d reads", b.View.Reads)
	}
	if got := resolve(t, b); got == nil || len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestForkInALargeRoomReadsLittleOfIt(t *testing.T) {
	b := open(t, "12", map[matrix.UserID]int{bob.ID: 50}, bob).Unchecked()
	for i := range 1000 {
		b.Join(servers[0].User(fmt.Sprint("u", i)))
	}
	side := b.Fork()
	b.Must(bob, matrix.TypeTopic, key(""), `{"topic":"a"}`)
	side.Must(alice, matrix.TypeTopic, key(""), `{"topic":"b"}`)
	b.View.Reads = 0
	resolve(t, b, b.Room.Current, side.Room.Current)
	if b.View.Reads > 1100 {
		t.Errorf("%d reads", b.View.Reads)
	}
	t.Logf("%d reads", b.View.Reads)
}

func TestOrderPutsEachEventAfterWhatItFollows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rr, err := dagtest.Random(dice(t), "12", crowd, 40)
		if err != nil {
			t.Fatal(err)
		}
		events := rr.Events()
		got := dag.Order(rapid.Permutation(append(slices.Clone(events), events[0])).Draw(t, "order"))
		if len(got) != len(events) || !slices.Equal(got, dag.Order(events)) {
			t.Fatalf("%d of %d events, or another order", len(got), len(events))
		}
		at := map[matrix.EventID]int{}
		for i, ev := range got {
			for _, id := range append(slices.Clone(ev.PrevEvents()), ev.AuthEvents()...) {
				if _, ok := at[id]; !ok {
					t.Fatal("before what it follows")
				}
			}
			at[ev.ID()] = i
		}
		r := dagtest.NewRoom(rr.Root.Room.ID, "12")
		for _, ev := range got {
			if in, err := r.Deliver(ev); err != nil || len(in.Missing) > 0 {
				t.Fatal(in.Missing, err)
			}
		}
	})
}
