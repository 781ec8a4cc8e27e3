// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dagtest

import (
	"math/rand/v2"
	"testing"

	"tarn/dag"
	"tarn/matrix"
)

// The properties of dag are worth what the rooms are that they are tried on.
func TestRandomRoomsHaveWhatMakesRoomsHard(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		var soft, rejected, forked, conflicts, lost, joined int
		for seed := range uint64(200) {
			dice := rand.New(rand.NewPCG(seed, 1))
			a, b := NewServer(1), NewServer(2)
			users := []User{a.User("a"), b.User("b"), a.User("c"), b.User("d"), b.User("e")}
			rr, err := Random(dice.IntN, v, users, 50)
			if err != nil {
				t.Fatal(err)
			}
			events := rr.Events()
			r := NewRoom(rr.Root.Room.ID, v)
			for _, i := range dice.Perm(len(events)) {
				if _, err := r.Deliver(events[i]); err != nil {
					t.Fatal(err)
				}
			}
			for _, h := range r.Events {
				switch h.Status {
				case dag.SoftFailed:
					soft++
				case dag.Rejected:
					rejected++
				}
				if len(h.Event.PrevEvents()) > 1 {
					joined++
				}
			}
			states := rr.States()
			if len(states) > 1 {
				forked++
			}
			s, err := dag.Resolve(rr.Root.View, v, states)
			if err != nil {
				t.Fatal(err)
			}
			differ := false
			for _, o := range states[1:] {
				differ = differ || !o.Equal(states[0])
			}
			if differ {
				conflicts++
			}
			for k := range states[0] {
				if s[k] == "" {
					lost++
				}
			}
		}
		t.Logf("version %s: %d soft-failed, %d rejected, %d forked, %d with conflicts, %d slots lost, %d events with several parents", v, soft, rejected, forked, conflicts, lost, joined)
		for what, n := range map[string]int{"soft-failed": soft, "rejected": rejected, "forked": forked, "conflicts": conflicts, "joined": joined} {
			if n < 50 {
				t.Errorf("version %s: %s only %d times in 200 rooms", v, what, n)
			}
		}
	}
}
