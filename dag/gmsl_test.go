// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"testing"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// gomatrixserverlib is what other Go servers resolve states with. Its state resolution v2 (ResolveConflictsNew) departs from the spec in
// six ways, which are the oracle's mistakes; its authorization rules in some more. TestResolveIsTheSpecsLetter holds our Resolve to the oracle;
// here the oracle with those six mistakes and that library's rules must come to what that library says, in every room; with one mistake fewer it must
// not. So all differences between our resolution and theirs are known, and none is ours. (Its v2.1 panics on version 12 rooms:
// nothing to compare with.)
func TestAllDifferencesFromGomatrixserverlibAreKnown(t *testing.T) {
	all := mistakes{auth: true, power: true, kahn: true, mainline: true, creator: true, agreed: true}
	less := map[string]func(*mistakes){
		"a": func(m *mistakes) { m.auth = false },
		"c": func(m *mistakes) { m.power = false },
		"k": func(m *mistakes) { m.kahn = false },
		"m": func(m *mistakes) { m.mainline = false },
		"p": func(m *mistakes) { m.creator = false },
		"u": func(m *mistakes) { m.agreed = false },
	}
	rooms, right, ours := 0, 0, 0
	needed := map[string]int{}
	for _, seed := range append(seeds(30), 139) { // 139 has all six
		rr, ok := forked(t, "11", seed)
		if !ok {
			continue
		}
		rooms++
		lib := newLibrary(t, rr)
		theirs := lib.resolve(t, rr.States())
		if got := lib.oracle(all).resolve(rr.States()); !got.Equal(theirs) {
			t.Fatalf("seed %d: an unknown difference:\nthe library %v\nwith its mistakes %v", seed, what(rr.Root, theirs), what(rr.Root, got))
		}
		if lib.oracle(mistakes{}).resolve(rr.States()).Equal(theirs) {
			right++
		}
		if s, err := dag.Resolve(rr.Root.View, "11", rr.States()); err == nil && s.Equal(theirs) {
			ours++
		}
		for name, spare := range less {
			m := all
			spare(&m)
			if !lib.oracle(m).resolve(rr.States()).Equal(theirs) {
				needed[name]++
			}
		}
	}
	t.Logf("%d rooms with conflicts: the library is right by its own rules in %d, says what we say in %d; without one of its mistakes %v are not explained", rooms, right, ours, needed)
	for name := range less {
		if needed[name] == 0 {
			t.Errorf("mistake %s explains nothing", name)
		}
	}
	if right == 0 || right == rooms {
		t.Error("the library is always right, or never")
	}
}

// library is a room as gomatrixserverlib holds it.
type library struct {
	rr   *dagtest.RandomRoom
	pdus map[matrix.EventID]gmsl.PDU
}

func newLibrary(t *testing.T, rr *dagtest.RandomRoom) *library {
	t.Helper()
	l := &library{rr: rr, pdus: map[matrix.EventID]gmsl.PDU{}}
	version := gmsl.MustGetRoomVersion(gmsl.RoomVersion(rr.Root.Room.Version))
	for _, ev := range rr.Events() {
		p, err := version.NewEventFromUntrustedJSON(ev.Raw())
		if err != nil {
			t.Fatal(err)
		}
		if p.EventID() != string(ev.ID()) || p.Redacted() {
			t.Fatalf("the library reads %s as %s", ev.ID(), p.EventID())
		}
		l.pdus[ev.ID()] = p
	}
	return l
}

func userID(_ spec.RoomID, s spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(s), true)
}

// resolve asks the library.
func (l *library) resolve(t *testing.T, sets []dag.State) dag.State {
	t.Helper()
	var lists [][]gmsl.PDU
	chain := idSet{}
	for _, s := range sets {
		var list []gmsl.PDU
		for _, id := range s {
			list = append(list, l.pdus[id])
			l.oracle(mistakes{}).ancestors(id, chain)
		}
		lists = append(lists, list)
	}
	var auth []gmsl.PDU
	for id := range chain {
		auth = append(auth, l.pdus[id])
	}
	out, err := gmsl.ResolveConflictsNew(gmsl.RoomVersion(l.rr.Root.Room.Version), lists, auth, userID, func(id string) bool {
		return l.rr.Root.View.Events[matrix.EventID(id)].Status == dag.Rejected
	})
	if err != nil {
		t.Fatal(err)
	}
	s := dag.State{}
	for _, p := range out {
		s[matrix.StateKey{Type: p.Type(), Key: *p.StateKey()}] = matrix.EventID(p.EventID())
	}
	return s
}

// oracle is the spec's letter with mistakes, and the library's rules.
func (l *library) oracle(m mistakes) *oracle {
	return &oracle{
		events: l.rr.Root.View.Events, create: l.rr.Events()[0], wrong: m,
		needs: func(ev *matrix.Event) (out []matrix.StateKey) {
			for _, k := range gmsl.StateNeededForAuth([]gmsl.PDU{l.pdus[ev.ID()]}).Tuples() {
				out = append(out, matrix.StateKey{Type: k.EventType, Key: k.StateKey})
			}
			return out
		},
		allowed: func(ev *matrix.Event, s dag.State) bool {
			auth, err := gmsl.NewAuthEvents(nil)
			if err != nil {
				return false
			}
			for _, id := range s {
				if auth.AddEvent(l.pdus[id]) != nil {
					return false
				}
			}
			return gmsl.Allowed(l.pdus[ev.ID()], auth, userID) == nil
		},
	}
}
