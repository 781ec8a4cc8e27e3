// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"tarn/matrix"
	"tarn/store"
)

func (p *player) content(room matrix.RoomID, typ, key string) map[string]any {
	p.t.Helper()
	ev, err := p.StateEvent(p.user, room, matrix.StateKey{Type: typ, Key: key})
	if errors.Is(err, ErrNoState) {
		return nil
	}
	if err != nil {
		p.t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(ev.Content(), &c); err != nil {
		p.t.Fatal(err)
	}
	return c
}

func TestPresets(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"11", "12"} {
		for _, x := range []struct{ preset, rule, guests string }{
			{"private_chat", "invite", "can_join"}, {"trusted_private_chat", "invite", "can_join"}, {"public_chat", "public", "forbidden"},
		} {
			a, b := play(t, 1), play(t, 2)
			room := a.create(Create{Version: v, Preset: x.preset, Invite: []matrix.UserID{b.user}, Direct: true})
			if c := a.content(room, matrix.TypeJoinRules, ""); c["join_rule"] != x.rule {
				t.Errorf("%s: %v", x.preset, c)
			}
			if c := a.content(room, matrix.TypeGuestAccess, ""); c["guest_access"] != x.guests {
				t.Errorf("%s: %v", x.preset, c)
			}
			if c := a.content(room, matrix.TypeHistoryVisibility, ""); c["history_visibility"] != "shared" {
				t.Errorf("%s: %v", x.preset, c)
			}
			if c := a.content(room, matrix.TypeMember, string(b.user)); c["is_direct"] != true {
				t.Errorf("%s: %v", x.preset, c)
			}
			create, levels := a.content(room, matrix.TypeCreate, ""), a.content(room, matrix.TypePowerLevels, "")
			users := levels["users"].(map[string]any)
			trusted := x.preset == "trusted_private_chat"
			switch v {
			case "12":
				more, _ := create["additional_creators"].([]any)
				if len(users) != 0 || (len(more) == 1) != trusted || !strings.HasPrefix(string(room), "!") || strings.Contains(string(room), ":") {
					t.Errorf("%s %s: %v %v", v, x.preset, users, create)
				}
				if len(create[matrix.NonceKey].(string)) < 22 {
					t.Errorf("no nonce: the room id can be searched")
				}
			default:
				if users[string(a.user)] != 100.0 || (users[string(b.user)] == 100.0) != trusted {
					t.Errorf("%s %s: %v", v, x.preset, users)
				}
			}
			// A trusted invitee may do what the creator may.
			a.post(b)
			b.member(room, b.user, b.user, matrix.MemberJoin)
			_, err := b.Send(context.Background(), NewEvent{Room: room, Sender: b.user, Type: matrix.TypeName, StateKey: new(string), Content: []byte(`{"name":"x"}`)})
			if trusted != (err == nil) {
				t.Errorf("%s %s: %v", v, x.preset, err)
			}
		}
	}
}

func TestCreateTakesInitialStateAndOverrides(t *testing.T) {
	a := play(t, 1)
	room := a.create(Create{
		Name: "N", Topic: "T", CreationContent: []byte(`{"m.federate":true,"type":"m.space"}`),
		InitialState: []StateEvent{
			{matrix.TypeJoinRules, "", []byte(`{"join_rule":"knock"}`)}, {matrix.TypeEncryption, "", []byte(`{"algorithm":"m.megolm.v1.aes-sha2"}`)},
			{matrix.TypeName, "", []byte(`{"name":"not this"}`)},
		},
		PowerLevels: []byte(`{"events_default":5,"users_default":7}`),
	})
	for k, want := range map[string][2]string{
		matrix.TypeName: {"name", "N"}, matrix.TypeTopic: {"topic", "T"}, matrix.TypeJoinRules: {"join_rule", "knock"},
		matrix.TypeEncryption: {"algorithm", "m.megolm.v1.aes-sha2"}, matrix.TypeCreate: {"type", "m.space"},
	} {
		if c := a.content(room, k, ""); c[want[0]] != want[1] {
			t.Errorf("%s: %v", k, c)
		}
	}
	if c := a.content(room, matrix.TypePowerLevels, ""); c["events_default"] != 5.0 || c["users_default"] != 7.0 || c["state_default"] != 50.0 {
		t.Errorf("%v", c)
	}
	ctx := context.Background()
	for what, x := range map[string]struct {
		c    Create
		want error
	}{
		"old version":       {Create{Version: "5"}, ErrBadVersion},
		"version 10":        {Create{Version: "10"}, ErrBadVersion}, // is read, but not offered
		"preset":            {Create{Preset: "x"}, ErrBadEvent},
		"creation content":  {Create{CreationContent: []byte(`[]`)}, ErrBadEvent},
		"override":          {Create{PowerLevels: []byte(`"x"`)}, ErrBadEvent},
		"state":             {Create{InitialState: []StateEvent{{matrix.TypeTopic, "", []byte(`[`)}}}, ErrBadEvent},
		"second create":     {Create{InitialState: []StateEvent{{matrix.TypeCreate, "", []byte(`{"room_version":"12"}`)}}}, ErrBadEvent},
		"alias":             {Create{Alias: "a:b"}, ErrBadEvent},
		"large state":       {Create{Topic: strings.Repeat("x", 70_000)}, ErrTooLarge},
		"another's creator": {Create{Creator: "@x:elsewhere"}, ErrForbidden},
		"invites itself":    {Create{Invite: []matrix.UserID{a.user}}, ErrForbidden},
		"no user":           {Create{Invite: []matrix.UserID{"bob"}}, ErrBadEvent},
	} {
		if x.c.Creator == "" {
			x.c.Creator = a.user
		}
		if _, err := a.Create(ctx, x.c); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if rooms, err := a.Joined(a.user); err != nil || len(rooms) != 1 {
		t.Fatalf("rooms that could not be made: %v %v", rooms, err)
	}
}

func TestMemberEventsHaveTheProfile(t *testing.T) {
	a := play(t, 1)
	a.o.Profile = func(u matrix.UserID) (string, string) { return "Name of " + string(u), "mxc://x/y" }
	room := a.create(Create{})
	if c := a.content(room, matrix.TypeMember, string(a.user)); c["displayname"] != "Name of "+string(a.user) || c["avatar_url"] != "mxc://x/y" {
		t.Fatalf("%v", c)
	}
}

func TestRestrictedJoinAndKnock(t *testing.T) {
	a := play(t, 1)
	bob, eve := a.at("bob"), a.at("eve")
	club := a.create(Create{Preset: "public_chat"})
	a.member(club, bob, bob, matrix.MemberJoin)
	room := a.create(Create{InitialState: []StateEvent{{matrix.TypeJoinRules, "",
		fmt.Appendf(nil, `{"join_rule":"knock_restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club)}}})
	ctx := context.Background()
	if _, err := a.SetMembership(ctx, room, eve, eve, matrix.MemberJoin, "", false); !errors.Is(err, ErrForbidden) {
		t.Fatalf("%v", err)
	}
	a.member(room, bob, bob, matrix.MemberJoin)
	if c := a.content(room, matrix.TypeMember, string(bob)); c["join_authorised_via_users_server"] != string(a.user) {
		t.Fatalf("%v", c)
	}
	a.member(room, eve, eve, matrix.MemberKnock)
	cs, _ := a.sync(eve, 0)
	if c := only(t, cs); c.Membership != matrix.MemberKnock || len(c.Invite) < 3 {
		t.Fatalf("%+v", c)
	}
	a.member(room, a.user, eve, matrix.MemberInvite)
	a.member(room, eve, eve, matrix.MemberJoin)
	a.judge(room)
}

func TestInvitesGoToServersThatAreNotIn(t *testing.T) {
	a, b := play(t, 1), play(t, 2)
	room := a.create(Create{})
	a.member(room, a.user, b.user, matrix.MemberInvite)
	a.say(room, "not for bob's server yet")
	if got := a.mail(b); len(got) != 1 || got[0].Kind != store.ItemInvite {
		t.Fatalf("%+v", got)
	}
	if id, err := a.SetMembership(context.Background(), room, a.user, a.user, matrix.MemberJoin, "", false); err != nil || id == "" {
		t.Fatalf("joining twice: %q %v", id, err)
	}
	for what, err := range map[string]error{
		"no user": second(a.SetMembership(context.Background(), room, a.user, "bob", matrix.MemberInvite, "", false)),
		"no such": second(a.SetMembership(context.Background(), room, a.user, b.user, "dancing", "", false)),
	} {
		if !errors.Is(err, ErrBadEvent) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := a.SetMembership(context.Background(), "!nowhere", a.user, a.user, matrix.MemberJoin, "", false); !errors.Is(err, ErrUnknownRoom) {
		t.Error(err)
	}
	if _, err := a.SetMembership(context.Background(), room, a.at("x"), a.at("x"), matrix.MemberLeave, "", false); !errors.Is(err, ErrNotMember) {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

// What the history's visibility keeps from a server it gets redacted: it needs the event's place.
func TestRawForHidesWhatVisibilityHides(t *testing.T) {
	a, b := play(t, 1), play(t, 2)
	room := a.create(Create{InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", []byte(`{"history_visibility":"joined"}`)}}})
	before := a.say(room, "secret")
	a.member(room, a.user, b.user, matrix.MemberInvite)
	between := a.say(room, "secret")
	if _, err := a.RawFor(b.s.Server, room, between); !errors.Is(err, ErrUnknownEvent) {
		t.Fatalf("a server that is only invited: %v", err)
	}
	a.post(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	after := a.say(room, "open")
	for id, want := range map[matrix.EventID]bool{before: false, between: false, after: true} {
		raw, err := a.RawFor(b.s.Server, room, id)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := matrix.Parse("12", raw)
		if err != nil || ev.ID() != id || strings.Contains(string(raw), "secret") || want != strings.Contains(string(raw), "open") {
			t.Fatalf("%s %v", raw, err)
		}
	}
	a.post(b)
	same(t, room, a, b)
	page, err := b.Messages(b.user, room, 0, false, 100, nil)
	if err != nil || len(bodies(page.Events)) != 1 {
		t.Fatalf("%v %v", types(page.Events), err)
	}
}

// A ban stands on what its server has and the banned one's may lack: that it is given too, or the ban would wait there for ever.
func TestWhoIsRemovedIsGivenWhatTheRemovalStandsOn(t *testing.T) {
	for _, end := range []string{matrix.MemberBan, matrix.MemberLeave} {
		a, b := play(t, 1), play(t, 2)
		room := a.create(Create{InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", []byte(`{"history_visibility":"joined"}`)}}})
		a.member(room, a.user, b.user, matrix.MemberInvite)
		a.post(b)
		beside := a.say(room, "secret") // b has not joined yet, as a sees it
		b.member(room, b.user, b.user, matrix.MemberJoin)
		b.post(a)
		ban := a.member(room, a.user, b.user, end)
		after := a.say(room, "secret")
		in := b.ingest(a, room, a.raw(room, ban))
		for tries := 0; len(in.Missing[room]) > 0 && tries < 5; tries++ {
			var raws [][]byte
			for _, id := range in.Missing[room] {
				raw, err := a.RawFor(b.s.Server, room, id)
				if err != nil || strings.Contains(string(raw), "secret") {
					t.Fatalf("%s: %s %v", end, raw, err)
				}
				raws = append(raws, raw)
			}
			in = b.ingest(a, room, raws...)
		}
		if m, err := b.Membership(b.user, room); err != nil || m != end {
			t.Errorf("%s: it is %q, %v", end, m, err)
		}
		if raw, err := a.RawFor(b.s.Server, room, beside); err != nil || strings.Contains(string(raw), "secret") {
			t.Errorf("%s: before: %s %v", end, raw, err)
		}
		if raw, err := a.RawFor(b.s.Server, room, after); !errors.Is(err, ErrUnknownEvent) {
			t.Errorf("%s: after: %s %v", end, raw, err)
		}
	}
}
