// SPDX-License-Identifier: Apache-2.0

package room

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarn/matrix"
)

// Whoever is in an encrypted room and no contact is a stranger there, with the contacts that know it; nobody else is.
func TestStrangersAreThoseOfEncryptedRoomsAlone(t *testing.T) {
	checks(t, 10, func(rt *rapid.T) {
		n := rapid.IntRange(3, 7).Draw(rt, "servers")
		_, links := drawLinks(rt, n)
		w := linked(rt, links, matrix.DefaultVersion)
		w.tellAll()
		look := func(when string, encrypted bool, want func(i, j int) bool) {
			rt.Helper()
			for i, p := range w.players {
				got, err := p.Strangers(encrypted)
				if err != nil {
					rt.Fatal(err)
				}
				expected := map[matrix.ServerName][]matrix.ServerName{}
				for j, o := range w.players {
					if i == j || links[i][j] || !want(i, j) {
						continue
					}
					expected[o.s.Server] = nil
					for k, c := range w.players {
						if links[i][k] && links[k][j] && want(i, k) {
							expected[o.s.Server] = append(expected[o.s.Server], c.s.Server)
						}
					}
					slices.Sort(expected[o.s.Server])
				}
				if !maps.EqualFunc(got, expected, slices.Equal) {
					rt.Fatalf("%s, %d has the strangers %v, not %v", when, i, got, expected)
				}
				for j, o := range w.players {
					for k, c := range w.players {
						if i == j || j == k || i == k {
							continue
						}
						meet, err := p.Meet(encrypted, o.s.Server, c.s.Server)
						if err != nil || meet != (want(i, j) && want(i, k)) {
							rt.Fatalf("%s, %d, %d and %d meet: %v, %v", when, i, j, k, meet, err)
						}
					}
				}
			}
		}
		all := func(int, int) bool { return true }
		look("of any room", false, all)
		look("without encryption", true, func(int, int) bool { return false })
		a := w.players[0]
		a.set(w.room, matrix.TypeEncryption, "", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
		w.flow()
		look("with encryption", true, all)
		// Who is denied meets nobody there, and knows nobody.
		denied := w.players[rapid.IntRange(1, n-1).Draw(rt, "denied")].s.Server
		a.set(w.room, matrix.TypeServerACL, "", map[string]any{"allow": []string{"*"}, "deny": []string{string(denied)}})
		w.flow()
		got, err := a.Strangers(true)
		if err != nil {
			rt.Fatal(err)
		}
		for s, by := range got {
			if s == denied || slices.Contains(by, denied) {
				rt.Fatalf("a denied server is a stranger or knows one: %v", got)
			}
		}
		if meet, err := a.Meet(true, denied); meet || err != nil {
			rt.Fatalf("a denied server is met: %v", err)
		}
		// Nobody shares a room with who left it.
		p := w.players[n-1]
		p.member(w.room, p.user, p.user, matrix.MemberLeave)
		if got, err = p.Strangers(false); err != nil || len(got) != 0 {
			rt.Fatalf("who left has the strangers %v, %v", got, err)
		}
	})
}
