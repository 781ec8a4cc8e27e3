// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"tarn/matrix"
	"tarn/store"
)

func TestCreatedRoomIsSyncedAndTalkedIn(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		t.Run(string(v), func(t *testing.T) {
			a := play(t, 1)
			room := a.create(Create{Version: v, Name: "Den", Topic: "t", Alias: "den"})
			changes, at := a.sync(a.user, 0)
			if len(changes) != 1 {
				t.Fatalf("%d rooms", len(changes))
			}
			c := changes[0]
			want := []string{matrix.TypeCreate, matrix.TypeMember, matrix.TypePowerLevels, matrix.TypeCanonicalAlias, matrix.TypeJoinRules,
				matrix.TypeHistoryVisibility, matrix.TypeGuestAccess, matrix.TypeName, matrix.TypeTopic}
			if !slices.Equal(types(c.Timeline), want) {
				t.Fatalf("timeline %v", types(c.Timeline))
			}
			if c.Membership != matrix.MemberJoin || !c.Newly || c.Limited || len(c.State) != 0 || c.Joined != 1 {
				t.Fatalf("%+v", c)
			}
			for i := range 5 {
				a.say(room, fmt.Sprint(i))
			}
			changes, at2 := a.sync(a.user, at)
			if len(changes) != 1 || !slices.Equal(bodies(changes[0].Timeline), []string{"0", "1", "2", "3", "4"}) || changes[0].Newly || len(changes[0].State) != 0 {
				t.Fatalf("%+v", changes)
			}
			if changes, _ = a.sync(a.user, at2); len(changes) != 0 {
				t.Fatalf("something new: %+v", changes)
			}
			for n := 1; n < 17; n++ {
				ids := a.all(a.user, room, n)
				if len(ids) != 14 {
					t.Fatalf("pages of %d: %d events", n, len(ids))
				}
				slices.Sort(ids)
				if len(slices.Compact(ids)) != 14 {
					t.Fatalf("pages of %d: doubles", n)
				}
			}
			if r, err := a.ResolveAlias("#den:" + string(a.s.Server)); err != nil || r != room {
				t.Fatal(r, err)
			}
			if _, err := a.Create(context.Background(), Create{Creator: a.user, Alias: "den"}); !errors.Is(err, ErrAliasInUse) {
				t.Fatal(err)
			}
			// A new process finds it all.
			a.open()
			if n := len(a.all(a.user, room, 3)); n != 14 {
				t.Fatalf("%d events after a restart", n)
			}
			a.say(room, "again")
		})
	}
}

func TestInviteCrossesOfflineAndBothTalk(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		t.Run(string(v), func(t *testing.T) {
			a, b := play(t, 1), play(t, 2)
			room := a.create(Create{Version: v, Name: "Den", Invite: []matrix.UserID{b.user}, Direct: true})
			a.say(room, "before")
			if got := a.post(b); !slices.Equal(got, []byte{store.ItemInvite}) {
				t.Fatalf("delivered %v", got)
			}
			changes, at := b.sync(b.user, 0)
			if len(changes) != 1 || changes[0].Membership != matrix.MemberInvite || len(changes[0].Invite) < 5 || len(changes[0].Timeline) != 0 {
				t.Fatalf("%+v", changes)
			}
			b.member(room, b.user, b.user, matrix.MemberJoin)
			changes, at = b.sync(b.user, at)
			if len(changes) != 1 || changes[0].Membership != matrix.MemberJoin || !changes[0].Newly {
				t.Fatalf("%+v", changes)
			}
			b.say(room, "hello")
			b.post(a)
			a.say(room, "welcome")
			a.post(b)
			same(t, room, a, b)
			changes, _ = b.sync(b.user, at)
			if got := bodies(changes[0].Timeline); !slices.Equal(got, []string{"hello", "before", "welcome"}) {
				t.Fatalf("%q", got)
			}
			if s, _ := a.Shared(b.s.Server); !slices.Equal(s, []matrix.RoomID{room}) {
				t.Fatal(s)
			}
			if s, _ := b.Shared(a.s.Server); !slices.Equal(s, []matrix.RoomID{room}) {
				t.Fatal(s)
			}
			// Bob leaves: the event goes to Alice's node, and nothing after it comes to his.
			b.member(room, b.user, b.user, matrix.MemberLeave)
			b.post(a)
			a.say(room, "alone")
			if got := a.post(b); len(got) != 0 {
				t.Fatalf("delivered %v", got)
			}
			if m, _ := a.Membership(b.user, room); m != matrix.MemberLeave {
				t.Fatal(m)
			}
		})
	}
}
