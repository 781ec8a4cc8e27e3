// SPDX-License-Identifier: Apache-2.0

package room

import (
	"slices"
	"testing"
	"time"

	"tarn/matrix"
)

// TestTypingOfAnotherNode: what a node says of its own users in its rooms is shown, and of nobody else; what it leaves out has ended; of what happens here
// it is told what is in a room of its own, and nothing where it is denied.
func TestTypingOfAnotherNode(t *testing.T) {
	a, b, room := pair(t)
	alone := a.create(Create{Preset: "public_chat"})
	soon := time.Now().Add(time.Hour)
	types := func(want ...matrix.UserID) {
		t.Helper()
		if now, _ := a.Typing(room); !slices.Equal(now, want) {
			t.Errorf("%v type, not %v", now, want)
		}
		if now, _ := a.Typing(alone); len(now) > 0 {
			t.Errorf("%v type in another room", now)
		}
	}
	for _, said := range [][]Typist{
		{{room, b.user, soon}, {room, a.user, soon}, {room, b.at("other"), soon}, {alone, b.user, soon}, {"!none", b.user, soon}},
		{{room, b.user, soon}},
	} {
		if err := a.IngestTyping(b.s.Server, said); err != nil {
			t.Fatal(err)
		}
		types(b.user)
	}
	for _, said := range [][]Typist{nil, {{room, b.user, time.Now().Add(-time.Second)}}} {
		if err := a.IngestTyping(b.s.Server, said); err != nil {
			t.Fatal(err)
		}
		types()
		if err := a.IngestTyping(b.s.Server, []Typist{{room, b.user, soon}}); err != nil {
			t.Fatal(err)
		}
		types(b.user)
	}

	told := func(want ...matrix.RoomID) {
		t.Helper()
		now, err := a.Typists(b.s.Server)
		if err != nil {
			t.Fatal(err)
		}
		var got []matrix.RoomID
		for _, x := range now {
			if got = append(got, x.Room); x.User != a.user {
				t.Errorf("%s", x.User)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("told of %v, not %v", got, want)
		}
	}
	company := func(want ...matrix.UserID) {
		t.Helper()
		ours, err := a.Company(b.s.Server)
		theirs, err2 := a.CompanyOf(b.user)
		if err != nil || err2 != nil || !slices.Equal(ours, want) || !slices.Equal(theirs, want) {
			t.Errorf("%v, %v; %v, %v", ours, err, theirs, err2)
		}
		if nobody, err := a.CompanyOf(b.at("other")); err != nil || len(nobody) > 0 {
			t.Errorf("%v, %v", nobody, err)
		}
	}
	turn := a.TypingTurn()
	for _, r := range []matrix.RoomID{room, alone} {
		if err := a.SetTyping(a.user, r, true, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if told(room); a.TypingTurn() == turn {
		t.Error("nobody notices")
	}
	company(a.user)
	a.set(room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{string(b.s.Server)}})
	told()
	company()
	if err := a.IngestTyping(b.s.Server, []Typist{{room, b.user, soon}}); err != nil {
		t.Fatal(err)
	}
	if now, _ := a.Typing(room); !slices.Equal(now, []matrix.UserID{a.user}) {
		t.Errorf("%v type where the server is denied", now)
	}
}
