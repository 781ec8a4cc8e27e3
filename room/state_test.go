// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// States come back as they were written, through chains of differences, from a cold cache, and no chain is long.
func TestStatesAreReadBackThroughTheirChains(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := play(rt, 1)
		room := a.create(Create{})
		l, err := a.get(room)
		if err != nil {
			rt.Fatal(err)
		}
		want := map[uint32]dag.State{}
		id := func() matrix.EventID { return mustID(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "id")) }
		for range rapid.IntRange(1, 4).Draw(rt, "plans") {
			_, err := a.write(l, func(p *plan) error {
				near := p.row.current
				s := maps.Clone(p.current)
				for range rapid.IntRange(1, 60).Draw(rt, "states") {
					s = maps.Clone(s)
					k := matrix.StateKey{Type: rapid.SampledFrom([]string{"m.room.topic", "x", matrix.TypeJoinRules}).Draw(rt, "type"), Key: fmt.Sprint(rapid.IntRange(0, 50).Draw(rt, "key"))}
					if rapid.IntRange(0, 5).Draw(rt, "gone") == 0 {
						delete(s, k)
					} else {
						s[k] = id()
					}
					n, err := p.idOf(s, near)
					if err != nil {
						return err
					}
					want[n] = maps.Clone(s)
					if rapid.IntRange(0, 9).Draw(rt, "jump") > 0 {
						near = n
					}
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "cold") {
				a.open()
				if l, err = a.get(room); err != nil {
					rt.Fatal(err)
				}
			}
		}
		a.open()
		err = a.read(room, func(q *reading) error {
			for n, s := range want {
				c, err := q.chained(n)
				if err != nil {
					return err
				}
				if !c.state.Equal(s) {
					rt.Fatalf("state %d has %d entries, not %d", n, len(c.state), len(s))
				}
				if c.depth > 33 {
					rt.Fatalf("a chain of %d", c.depth)
				}
			}
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func mustID(b []byte) matrix.EventID { return hash(b).id() }

func TestTokensCutWhereTheySay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		pos := store.Pos(rapid.Uint64Range(1, 1<<40).Draw(rt, "pos"))
		sub := rapid.IntRange(0, maxSub).Draw(rt, "sub")
		s := seqOf(pos, sub)
		if s.pos() != pos || cut(s.token()) != s {
			rt.Fatalf("%x: %x", s, cut(s.token()))
		}
		if cut(pos) != seqOf(pos, maxSub) {
			rt.Fatal("a stream position does not cut after everything of it")
		}
	})
}

// The rows can be garbage: an error, never a panic.
func FuzzRows(f *testing.F) {
	a := play(f, 1)
	room := a.create(Create{Topic: "t"})
	for k, v := range dump(f, a.kv) {
		f.Add(k[0], []byte(v))
	}
	_ = room
	f.Fuzz(func(t *testing.T, table byte, v []byte) {
		switch table {
		case tabRoom:
			if r, err := decodeRoom(v); err == nil {
				_ = r.encode()
			}
		case tabEvent:
			_, _ = decodeHeld("12", mustID(make([]byte, 32)), v)
		case tabState:
			if s, err := decodeState(v); err == nil {
				_ = s.encode()
			}
		case tabUser:
			_, _ = decodeUser(v)
		case tabMember, tabHistory:
			_, _, _ = decodeMember(v)
		case tabPending:
			_, _, _, _, _ = decodePending(v)
		}
	})
}
