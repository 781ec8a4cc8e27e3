// SPDX-License-Identifier: Apache-2.0

package room

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarn/matrix"
)

// Whoever is in an encrypted room, or in one with few contacts, and no contact is a stranger there, with the contacts that know it; nobody else is.
func TestStrangersAreThoseOfEncryptedRoomsAndOfThin(t *testing.T) {
	checks(t, 10, func(rt *rapid.T) {
		n := rapid.IntRange(3, 7).Draw(rt, "servers")
		_, links := drawLinks(rt, n)
		w := linked(rt, links, matrix.DefaultVersion)
		w.tellAll()
		look := func(when string, any, encrypted bool) {
			rt.Helper()
			for i, p := range w.players {
				got, lack, err := p.Strangers(any)
				if err != nil {
					rt.Fatal(err)
				}
				contacts := 0
				for j := range links[i] {
					if i != j && links[i][j] {
						contacts++
					}
				}
				thin := !any && !encrypted && contacts < EnoughContacts && contacts < n-1
				lacks := 0
				if thin {
					lacks = EnoughContacts - contacts
				}
				if lack[w.room] != lacks {
					rt.Fatalf("%s, %d lacks %d of its %d contacts", when, i, lack[w.room], contacts)
				}
				want := any || encrypted || thin
				expected := map[matrix.ServerName][]matrix.ServerName{}
				for j, o := range w.players {
					if i == j || links[i][j] || !want {
						continue
					}
					expected[o.s.Server] = nil
					for k, c := range w.players {
						if k != i && k != j && links[i][k] && links[k][j] {
							expected[o.s.Server] = append(expected[o.s.Server], c.s.Server)
						}
					}
					slices.Sort(expected[o.s.Server])
				}
				if !maps.EqualFunc(got, expected, func(s *Stranger, by []matrix.ServerName) bool {
					return slices.Equal(s.By, by) && thin == slices.Equal(s.Thin, []matrix.RoomID{w.room})
				}) {
					rt.Fatalf("%s, %d has the strangers %v, not %v", when, i, got, expected)
				}
				for j, o := range w.players {
					for k, c := range w.players {
						if i == j || j == k || i == k {
							continue
						}
						meet, err := p.Meet(!any, o.s.Server, c.s.Server)
						if err != nil || meet != (any || encrypted) {
							rt.Fatalf("%s, %d, %d and %d meet: %v, %v", when, i, j, k, meet, err)
						}
					}
				}
			}
		}
		look("of any room", true, false)
		look("without encryption", false, false)
		a := w.players[0]
		a.set(w.room, matrix.TypeEncryption, "", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
		w.flow()
		look("with encryption", false, true)
		// Who is denied meets nobody there, and knows nobody.
		denied := w.players[rapid.IntRange(1, n-1).Draw(rt, "denied")].s.Server
		a.set(w.room, matrix.TypeServerACL, "", map[string]any{"allow": []string{"*"}, "deny": []string{string(denied)}})
		w.flow()
		got, _, err := a.Strangers(false)
		if err != nil {
			rt.Fatal(err)
		}
		for s, x := range got {
			if s == denied || slices.Contains(x.By, denied) {
				rt.Fatalf("a denied server is a stranger or knows one: %v", x)
			}
		}
		if meet, err := a.Meet(true, denied); meet || err != nil {
			rt.Fatalf("a denied server is met: %v", err)
		}
		// Nobody shares a room with who left it.
		p := w.players[n-1]
		p.member(w.room, p.user, p.user, matrix.MemberLeave)
		if got, _, err = p.Strangers(true); err != nil || len(got) != 0 {
			rt.Fatalf("who left has the strangers %v, %v", got, err)
		}
	})
}

// TestCompanionsAreThoseOfRoomsAndInvites: who invited is one until it is declined, and who was invited, until then and while both are in the room.
func TestCompanionsAreThoseOfRoomsAndInvites(t *testing.T) {
	a, b, room, s := invited(t, Create{})
	look := func(when string, want bool) {
		t.Helper()
		for p, o := range map[*player]*player{a: b, b: a} {
			got, err := p.Companions()
			if err != nil || got[o.s.Server] != want {
				t.Errorf("%s: %v, %v", when, got, err)
			}
		}
	}
	b.take(a, s)
	look("invited", true)
	b.member(room, b.user, b.user, matrix.MemberLeave)
	b.post(a)
	look("declined", false)
	a.member(room, a.user, b.user, matrix.MemberInvite)
	a.post(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	look("joined", true)
	a.member(room, a.user, a.user, matrix.MemberLeave)
	a.post(b)
	look("left", false)
}
