// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"errors"
	"testing"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// nearly is a view that knows the states after some events only nearly.
type nearly struct {
	dag.View
	near map[matrix.EventID]bool
}

func (n nearly) Approximate(id matrix.EventID) (bool, error) { return n.near[id], nil }

func TestWhatANearlyKnownStateForbidsIsSoftFailed(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob, carol)
		other := b.Fork()
		exact := other.Must(carol, matrix.TypeMessage, nil, `{"n":2}`)
		near := b.Must(bob, matrix.TypeMessage, nil, `{"n":1}`)
		if err := b.Merge(other); err != nil {
			t.Fatal(err)
		}
		b.Must(alice, matrix.TypeMessage, nil, `{"n":3}`) // the head
		r := deliver(t, b)
		leave := b.Must(bob, matrix.TypeMember, key(string(bob.ID)), `{"membership":"leave"}`)
		for _, id := range []matrix.EventID{near.ID(), exact.ID()} { // he is not in the room any more
			e := r.Events[id]
			e.After = e.After.With(matrix.StateKey{Type: matrix.TypeMember, Key: string(bob.ID)}, leave.ID())
			r.Events[id] = e
			r.Put(leave, dag.Accepted, e.After)
		}
		try := func(parents ...matrix.EventID) dag.Insertion {
			t.Helper()
			ev := build(t, other, bob, matrix.TypeTopic, key(""), `{"topic":"mine"}`, func(p *matrix.Proto) { p.PrevEvents = parents })
			in, err := dag.Insert(nearly{r.View, map[matrix.EventID]bool{near.ID(): true}}, r.Room, ev)
			if err != nil {
				t.Fatal(err)
			}
			return in
		}
		if in := try(near.ID()); in.Status != dag.SoftFailed || !errors.Is(in.Why, dag.ErrNotAllowed) || !in.Approximate || in.After[matrix.StateKey{Type: matrix.TypeTopic}] == "" {
			t.Errorf("by a state that is only nearly known: %v (%v)", in.Status, in.Why)
		}
		if in := try(near.ID(), exact.ID()); in.Status != dag.SoftFailed || in.Approximate || !in.After.Same(in.Before) {
			t.Errorf("with a parent whose state is known: %v (%v)", in.Status, in.Why)
		}
		if in := try(exact.ID()); in.Status != dag.Rejected {
			t.Errorf("by the known state: %v (%v)", in.Status, in.Why)
		}
		again := build(t, other, bob, matrix.TypeMember, key(string(bob.ID)), `{"membership":"leave"}`, func(p *matrix.Proto) { p.PrevEvents = []matrix.EventID{near.ID(), exact.ID()} })
		if in, err := dag.Insert(nearly{r.View, map[matrix.EventID]bool{near.ID(): true}}, r.Room, again); err != nil || in.Status != dag.SoftFailed || in.After[matrix.StateKey{Type: matrix.TypeMember, Key: string(bob.ID)}] != again.ID() {
			t.Errorf("a leave: %v (%v) %v", in.Status, in.Why, err)
		}
		if in, err := dag.Insert(r.View, r.Room, build(t, other, bob, matrix.TypeTopic, key(""), `{"topic":"mine"}`, func(p *matrix.Proto) { p.PrevEvents = []matrix.EventID{near.ID()} })); err != nil || in.Status != dag.Rejected {
			t.Errorf("by a state that is known: %v %v", in.Status, err)
		}
	})
}

// Of an invite whose state is only nearly known nobody knows whether it lies before the removal that that state has.
func TestANearlyKnownStateKeepsADeeperRemoval(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob)
		old := b.Fork()
		parent := old.Must(bob, matrix.TypeMessage, nil, `{"n":1}`)
		b.Join(carol)
		b.Must(alice, matrix.TypeMessage, nil, `{"n":2}`)
		if _, err := b.Member(alice, carol, matrix.MemberLeave); err != nil {
			t.Fatal(err)
		}
		b.Must(alice, matrix.TypeTopic, key(""), `{"topic":"new"}`)
		if err := b.Merge(old); err != nil {
			t.Fatal(err)
		}
		r := deliver(t, b)
		at := r.Events[parent.ID()]
		at.After = r.Current
		r.Events[parent.ID()] = at
		view := nearly{r.View, map[matrix.EventID]bool{parent.ID(): true}}
		invite := func(u dagtest.User) *matrix.Event {
			return build(t, old, bob, matrix.TypeMember, key(string(u.ID)), `{"membership":"invite"}`, nil)
		}
		for ev, want := range map[*matrix.Event]bool{
			invite(carol): false,
			invite(dave):  true,
			build(t, old, bob, matrix.TypeTopic, key(""), `{"topic":"old"}`, nil): true,
		} {
			in, err := dag.Insert(view, r.Room, ev)
			slot, _ := ev.Slot()
			if err != nil || in.Status != dag.Accepted || (in.After[slot] == ev.ID()) != want {
				t.Errorf("%v: %v %v, in the state after it: %v", slot, in.Status, err, in.After[slot] == ev.ID())
			}
		}
	})
}

// Who had power once makes up a parent beside the room's head, and waits until everybody goes on without it. He gains nothing, at once or by what he leans on it.
func TestAMadeUpParentGivesNoPower(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob)
		once := b.Holds(matrix.TypePowerLevels, "")
		b.Must(alice, matrix.TypePowerLevels, key(""), levels(v, nil))
		head := b.Must(alice, matrix.TypeMessage, nil, `{"n":1}`)
		r := deliver(t, b)
		fake := matrix.EventID("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
		power := matrix.StateKey{Type: matrix.TypePowerLevels}
		near := map[matrix.EventID]bool{}
		insert := func(ev *matrix.Event) dag.Insertion {
			t.Helper()
			in, err := dag.InsertWithout(nearly{r.View, near}, r.Room, ev, r.Current)
			if err != nil || len(in.Missing) > 0 {
				t.Fatal(err, in.Missing)
			}
			near[ev.ID()] = in.Approximate
			r.Put(ev, in.Status, in.After)
			r.Heads, r.Current = in.Heads, in.Current
			return in
		}
		grab := func(parents ...matrix.EventID) *matrix.Event {
			return build(t, b, bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 50}), func(p *matrix.Proto) {
				p.PrevEvents = parents
				for i, id := range p.AuthEvents {
					if id == b.Holds(matrix.TypePowerLevels, "") {
						p.AuthEvents[i] = once
					}
				}
			})
		}
		word := func(parents ...matrix.EventID) *matrix.Event {
			return build(t, b, bob, matrix.TypeMessage, nil, `{"n":2}`, func(p *matrix.Proto) { p.PrevEvents = parents })
		}
		want := r.Current[power]
		held := func(what string) {
			t.Helper()
			if r.Current[power] != want {
				t.Errorf("%s: he has what he was not given", what)
			}
		}
		e := grab(head.ID(), fake)
		if in := insert(e); in.Status == dag.Accepted || in.After[power] != want {
			t.Errorf("beside a made up parent: %v, his powers hold after it: %v", in.Status, in.After[power] == e.ID())
		}
		insert(word(e.ID()))
		held("leaned on it")

		beside := word(r.Heads[0], fake) // a word of his that is taken, and then powers that lean on that
		insert(beside)
		e = grab(beside.ID())
		insert(e)
		insert(word(e.ID()))
		held("leaned on a word of his")

		e = grab(fake) // nothing that is known
		insert(e)
		insert(word(append([]matrix.EventID{e.ID()}, r.Heads...)...))
		held("brought together with the room's head")
	})
}
