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

// only is the one change of a Sync.
func only(t *testing.T, cs []Change) Change {
	t.Helper()
	if len(cs) != 1 {
		t.Fatalf("%d rooms changed: %+v", len(cs), cs)
	}
	return cs[0]
}

func stateTypes(es []*matrix.Event) (out []string) {
	for _, e := range es {
		out = append(out, e.Type()+"|"+*e.StateKey())
	}
	return out
}

func TestLimitedTimelineComesWithTheStateBeforeIt(t *testing.T) {
	a := play(t, 1)
	room := a.create(Create{Name: "one"})
	_, at := a.sync(a.user, 0)
	a.set(room, matrix.TypeName, "", map[string]string{"name": "two"})
	a.set(room, matrix.TypeTopic, "", map[string]string{"topic": "t"})
	a.set(room, matrix.TypeName, "", map[string]string{"name": "three"})
	for i := range 5 {
		a.say(room, fmt.Sprint(i))
	}
	a.set(room, matrix.TypeName, "", map[string]string{"name": "four"})
	a.say(room, "end")
	cs, _ := a.syncWith(a.user, at, SyncOptions{TimelineLimit: 3})
	c := only(t, cs)
	if !c.Limited || c.Newly || !slices.Equal(types(c.Timeline), []string{matrix.TypeMessage, matrix.TypeName, matrix.TypeMessage}) {
		t.Fatalf("%+v", types(c.Timeline))
	}
	if got := stateTypes(c.State); !slices.Equal(got, []string{matrix.TypeName + "|", matrix.TypeTopic + "|"}) {
		t.Fatalf("state %v", got)
	}
	if got := c.State[0].ContentString("name"); got != "three" {
		t.Fatalf("the name before the timeline is %q", got)
	}
	if c.Timeline[1].PrevContent == nil || string(c.Timeline[1].PrevContent) != `{"name":"three"}` {
		t.Fatalf("prev_content %s", c.Timeline[1].PrevContent)
	}
	// PrevBatch goes on right before the timeline.
	page, err := a.Messages(a.user, room, c.PrevBatch, true, 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := page.Events[0].ContentString("body"); got != "3" || page.More {
		t.Fatalf("%q first, more %v", got, page.More)
	}
	// And all of it forward from there.
	page, err = a.Messages(a.user, room, c.PrevBatch, false, 100, nil)
	if err != nil || len(page.Events) != 3 || page.Events[0].ID() != c.Timeline[0].ID() {
		t.Fatalf("%v %v", types(page.Events), err)
	}
	// State that the filter keeps from the timeline is told nevertheless.
	cs, _ = a.syncWith(a.user, at, SyncOptions{TimelineLimit: 100, KeepTimeline: func(e Entry) bool { return e.Type() == matrix.TypeMessage }})
	c = only(t, cs)
	if len(c.Timeline) != 6 || len(c.State) != 2 || c.State[0].ContentString("name") != "four" {
		t.Fatalf("%v %v", types(c.Timeline), stateTypes(c.State))
	}
	// FullState: all of it, the timeline from since.
	_, now := a.sync(a.user, 0)
	cs, _ = a.syncWith(a.user, now, SyncOptions{FullState: true})
	if c = only(t, cs); len(c.Timeline) != 0 || len(c.State) != 8 {
		t.Fatalf("%v %v", types(c.Timeline), stateTypes(c.State))
	}
}

func TestInitialSyncOfAGroupCutAmidATransaction(t *testing.T) {
	a := play(t, 1)
	room := a.create(Create{Name: "n", Topic: "t"}) // 8 events of one position
	cs, _ := a.syncWith(a.user, 0, SyncOptions{TimelineLimit: 3})
	c := only(t, cs)
	if len(c.Timeline) != 3 || !c.Limited || len(c.State) != 5 {
		t.Fatalf("%v %v", types(c.Timeline), stateTypes(c.State))
	}
	page, err := a.Messages(a.user, room, c.PrevBatch, true, 100, nil)
	if err != nil || len(page.Events) != 5 {
		t.Fatalf("%d events before it, %v", len(page.Events), err)
	}
}

func TestRoomStandsInOneSectionAndNothingFollowsTheLeave(t *testing.T) {
	a := play(t, 1)
	bob := a.at("bob")
	room := a.create(Create{Preset: "public_chat"})
	var at store.Pos
	step := func(what, section string, timeline ...string) Change {
		t.Helper()
		var cs []Change
		cs, at = a.sync(bob, at)
		if section == "" {
			if len(cs) != 0 {
				t.Fatalf("%s: %+v", what, cs)
			}
			return Change{}
		}
		c := only(t, cs)
		if c.Membership != section {
			t.Fatalf("%s: in %q", what, c.Membership)
		}
		if len(timeline) > 0 && !slices.Equal(bodies(c.Timeline), timeline) && !slices.Equal(types(c.Timeline), timeline) {
			t.Fatalf("%s: %v %v", what, types(c.Timeline), bodies(c.Timeline))
		}
		return c
	}
	step("a stranger", "")
	a.member(room, a.user, bob, matrix.MemberInvite)
	if c := step("invited", matrix.MemberInvite); len(c.Invite) < 4 || c.Timeline != nil {
		t.Fatalf("%+v", c)
	}
	step("invited, again", "")
	a.member(room, a.user, bob, matrix.MemberLeave)
	if c := step("invite taken back", matrix.MemberLeave, matrix.TypeMember); len(c.State) != 0 {
		t.Fatal("who never was in the room learns its state")
	}
	a.member(room, bob, bob, matrix.MemberJoin)
	a.say(room, "1")
	if c := step("joined", matrix.MemberJoin); !c.Newly || c.Joined != 2 {
		t.Fatalf("%+v", c)
	}
	a.say(room, "2")
	a.member(room, a.user, bob, matrix.MemberLeave)
	a.say(room, "unheard")
	if c := step("kicked", matrix.MemberLeave, matrix.TypeMessage, matrix.TypeMember); c.Newly {
		t.Fatalf("%+v", c)
	}
	a.say(room, "unheard")
	step("away", "")
	a.member(room, a.user, bob, matrix.MemberBan)
	step("banned", matrix.MemberBan, matrix.TypeMember)
	if _, err := a.SetMembership(context.Background(), room, bob, bob, matrix.MemberJoin, "", false); !errors.Is(err, ErrForbidden) {
		t.Fatalf("a banned user joins: %v", err)
	}
	a.member(room, a.user, bob, matrix.MemberLeave)
	a.member(room, a.user, bob, matrix.MemberInvite)
	step("unbanned and invited", matrix.MemberInvite)
	a.member(room, bob, bob, matrix.MemberJoin)
	a.member(room, bob, bob, matrix.MemberLeave)
	a.say(room, "unheard")
	if c := step("came and went", matrix.MemberLeave); !c.Newly || c.Timeline[len(c.Timeline)-1].Membership() != matrix.MemberLeave {
		t.Fatalf("%+v", c)
	}
	if cs, _ := a.sync(bob, 0); len(cs) != 0 {
		t.Fatal("left rooms are in an initial sync")
	}
	cs, _ := a.syncWith(bob, 0, SyncOptions{IncludeLeave: true, TimelineLimit: 100})
	if c := only(t, cs); c.Membership != matrix.MemberLeave || c.Timeline[len(c.Timeline)-1].Membership() != matrix.MemberLeave {
		t.Fatalf("%+v", c)
	}
	// Who left reads the room as it was then.
	if _, err := a.Send(context.Background(), NewEvent{Room: room, Sender: bob, Type: matrix.TypeMessage, Content: body("x")}); !errors.Is(err, ErrForbidden) {
		t.Fatal(err)
	}
	a.set(room, matrix.TypeName, "", map[string]string{"name": "later"})
	if _, err := a.StateEvent(bob, room, matrix.StateKey{Type: matrix.TypeName}); !errors.Is(err, ErrNoState) {
		t.Fatal(err)
	}
	if err := a.Forget(bob, room); err != nil {
		t.Fatal(err)
	}
	if _, err := a.State(bob, room); !errors.Is(err, ErrNotMember) {
		t.Fatal(err)
	}
	cs, _ = a.syncWith(bob, 0, SyncOptions{IncludeLeave: true})
	if len(cs) != 0 {
		t.Fatal("a forgotten room is shown")
	}
	if err := a.Forget(a.user, room); !errors.Is(err, ErrForbidden) {
		t.Fatal(err)
	}
}

func TestSyncNeverShowsWhatCameAfterItsEnd(t *testing.T) {
	a := play(t, 1)
	bob := a.at("bob")
	room := a.create(Create{Preset: "public_chat"})
	upTo := a.stream.Current()
	a.member(room, bob, bob, matrix.MemberJoin)
	a.say(room, "late")
	if cs, err := a.Sync(bob, 0, upTo, SyncOptions{}); err != nil || len(cs) != 0 {
		t.Fatalf("%+v %v", cs, err)
	}
	cs, err := a.Sync(a.user, 0, upTo, SyncOptions{TimelineLimit: 100})
	if err != nil || slices.Contains(types(only(t, cs).Timeline), matrix.TypeMessage) || len(cs[0].Timeline) != 6 {
		t.Fatalf("%+v %v", cs, err)
	}
	mid := a.stream.Current()
	a.member(room, bob, bob, matrix.MemberLeave)
	if cs, err = a.Sync(bob, upTo, mid, SyncOptions{TimelineLimit: 100}); err != nil || only(t, cs).Membership != matrix.MemberJoin {
		t.Fatalf("%+v %v", cs, err)
	}
	if cs, err = a.Sync(bob, mid, a.stream.Current(), SyncOptions{TimelineLimit: 100}); err != nil || only(t, cs).Membership != matrix.MemberLeave || len(cs[0].Timeline) != 1 {
		t.Fatalf("%+v %v", cs, err)
	}
}

func TestHistoryVisibility(t *testing.T) {
	for vis, want := range map[string][]string{
		"world_readable": {"0 before", "1 invited", "2 joined", "3 left", "4 rejoined"},
		"shared":         {"0 before", "1 invited", "2 joined", "3 left", "4 rejoined"},
		"invited":        {"1 invited", "2 joined", "4 rejoined"},
		"joined":         {"2 joined", "4 rejoined"},
	} {
		t.Run(vis, func(t *testing.T) {
			a := play(t, 1)
			bob, eve := a.at("bob"), a.at("eve")
			room := a.create(Create{InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", object(map[string]string{"history_visibility": vis})}}})
			read := func(u matrix.UserID) []string {
				page, err := a.Messages(u, room, 0, false, 100, nil)
				if errors.Is(err, ErrNotMember) {
					return nil
				}
				if err != nil {
					t.Fatal(err)
				}
				return bodies(page.Events)
			}
			a.say(room, "0 before")
			a.member(room, a.user, bob, matrix.MemberInvite)
			a.say(room, "1 invited")
			a.member(room, bob, bob, matrix.MemberJoin)
			id := a.say(room, "2 joined")
			a.member(room, bob, bob, matrix.MemberLeave)
			left := a.say(room, "3 left")
			// While away: what they could see when they left.
			had := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return s >= "3" })
			if got := read(bob); !slices.Equal(got, had) {
				t.Fatalf("after leaving bob sees %q, not %q", got, had)
			}
			if _, err := a.Event(bob, room, left); !errors.Is(err, ErrUnknownEvent) {
				t.Fatalf("an event after leaving: %v", err)
			}
			if _, err := a.Event(bob, room, id); err != nil {
				t.Fatal(err)
			}
			a.member(room, a.user, bob, matrix.MemberInvite)
			if got := read(bob); vis != "world_readable" && len(got) != 0 {
				t.Fatalf("invited again bob sees %q", got)
			}
			a.member(room, bob, bob, matrix.MemberJoin)
			a.say(room, "4 rejoined")
			if got := read(bob); !slices.Equal(got, want) {
				t.Fatalf("bob sees %q, not %q", got, want)
			}
			if got := read(eve); vis == "world_readable" != (len(got) == 5) {
				t.Fatalf("a stranger sees %q", got)
			}
			if got := read(a.user); len(got) != 5 {
				t.Fatalf("alice sees %q", got)
			}
		})
	}
}

func TestContextPagesFitTheEvent(t *testing.T) {
	a := play(t, 1)
	room := a.create(Create{})
	var ids []matrix.EventID
	for i := range 9 {
		ids = append(ids, a.say(room, fmt.Sprint(i)))
	}
	before, after, ev, state, err := a.Context(a.user, room, ids[4], 4, nil)
	if err != nil || ev.ID() != ids[4] || len(state) != 6 {
		t.Fatal(err, len(state))
	}
	if !slices.Equal(bodies(before.Events), []string{"3", "2"}) || !slices.Equal(bodies(after.Events), []string{"5", "6"}) {
		t.Fatalf("%v %v", bodies(before.Events), bodies(after.Events))
	}
	page, err := a.Messages(a.user, room, before.End, true, 1, nil)
	if err != nil || page.Events[0].ID() != ids[1] {
		t.Fatal("the page before", err)
	}
	page, err = a.Messages(a.user, room, after.End, false, 1, nil)
	if err != nil || page.Events[0].ID() != ids[7] {
		t.Fatal("the page after", err)
	}
}

func TestRedaction(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		a := play(t, 1)
		bob := a.at("bob")
		room := a.create(Create{Version: v, Preset: "public_chat"})
		a.member(room, bob, bob, matrix.MemberJoin)
		id := a.say(room, "slip")
		if _, err := a.Send(context.Background(), NewEvent{Room: room, Sender: bob, Type: matrix.TypeRedaction, Redacts: id}); !errors.Is(err, ErrForbidden) {
			t.Fatalf("bob redacts alice's event: %v", err)
		}
		red, err := a.Send(context.Background(), NewEvent{Room: room, Sender: a.user, Type: matrix.TypeRedaction, Redacts: id})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			e, err := a.Event(bob, room, id)
			if err != nil || string(e.Content()) != "{}" || e.RedactedBy == nil || e.RedactedBy.ID() != red {
				t.Fatalf("%+v %v", e, err)
			}
			a.open() // the second time from the disk
		}
		raw, err := a.Raw(room, id)
		if err != nil {
			t.Fatal(err)
		}
		if ev, err := matrix.Parse(v, raw); err != nil || string(ev.Content()) != "{}" || ev.ID() != id {
			t.Fatal("other nodes are given what was redacted", err)
		}
	}
}

func TestTransactionIDGivesTheSameEventAndIsShownToItsDeviceOnly(t *testing.T) {
	a := play(t, 1)
	room, other := a.create(Create{}), a.create(Create{})
	send := func(room matrix.RoomID, device matrix.DeviceID, txn string) matrix.EventID {
		id, err := a.Send(context.Background(), NewEvent{Room: room, Sender: a.user, Type: matrix.TypeMessage, Content: body("x"), Device: device, Txn: txn})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := send(room, "D", "t")
	a.open()
	if send(room, "D", "t") != id {
		t.Fatal("another event for the same transaction id")
	}
	if send(room, "E", "t") == id || send(other, "D", "t") == id || send(room, "D", "u") == id {
		t.Fatal("the same event for another device, room or transaction id")
	}
	for device, want := range map[matrix.DeviceID]string{"D": "t", "E": "", "": ""} {
		cs, _ := a.syncWith(a.user, 0, SyncOptions{Device: device, TimelineLimit: 100})
		for _, c := range cs {
			for _, e := range c.Timeline {
				if e.ID() == id && e.Txn != want {
					t.Fatalf("device %q is shown %q", device, e.Txn)
				}
			}
		}
	}
}
