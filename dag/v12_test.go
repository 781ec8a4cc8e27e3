// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/sjson"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

// founders is a public room of alice's whose create event names bob too, with the rest as members.
func founders(t *testing.T, v matrix.RoomVersion, levels string, members ...dagtest.User) *dagtest.Branch {
	t.Helper()
	b, err := dagtest.NewBranch(v, alice, map[string]any{"additional_creators": []matrix.UserID{bob.ID}})
	if err != nil {
		t.Fatal(err)
	}
	b.Must(alice, matrix.TypePowerLevels, key(""), levels)
	b.Must(alice, matrix.TypeJoinRules, key(""), `{"join_rule":"public"}`)
	for _, u := range append([]dagtest.User{bob}, members...) {
		b.Join(u)
	}
	return b
}

// What version 12 changed in who may do what (MSC4289), and that version 11 did not.
func TestPowerOfCreators(t *testing.T) {
	carol100 := func(v matrix.RoomVersion) string {
		users := map[matrix.UserID]int{carol.ID: 100, dave.ID: 50}
		if v == "11" {
			users[alice.ID] = 100
		}
		raw, err := json.Marshal(map[string]any{"users": users, "events": map[string]int{"m.room.name": 101, "m.room.avatar": 1<<53 - 1}})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	users := func(more string, v matrix.RoomVersion) string {
		if v == "11" {
			more = strings.TrimPrefix(more+`,"`+string(alice.ID)+`":100`, ",")
		}
		return `{"events":{"m.room.avatar":9007199254740991,"m.room.name":101},"users":{` + more + `}}`
	}
	quote := func(u dagtest.User, n string) string { return `"` + string(u.ID) + `":` + n }
	for _, x := range []struct {
		name     string
		by       dagtest.User
		typ, key string
		content  func(v matrix.RoomVersion) string
		in11     bool
		in12     bool
	}{
		{"what wants 101, by the creator", alice, matrix.TypeName, "", same11(`{"name":"x"}`), false, true},
		{"what wants the greatest number, by the creator", alice, matrix.TypeAvatar, "", same11(`{}`), false, true},
		{"what wants the greatest number, by the additional creator", bob, matrix.TypeAvatar, "", same11(`{}`), false, true},
		{"what wants 101, by an admin", carol, matrix.TypeName, "", same11(`{"name":"x"}`), false, false},
		{"a topic, by the additional creator, who has no entry", bob, matrix.TypeTopic, "", same11(`{"topic":"x"}`), false, true},
		{"an admin bans the creator", carol, matrix.TypeMember, string(alice.ID), same11(`{"membership":"ban"}`), false, false},
		{"an admin kicks the additional creator", carol, matrix.TypeMember, string(bob.ID), same11(`{"membership":"leave"}`), true, false},
		{"a creator bans an admin", alice, matrix.TypeMember, string(carol.ID), same11(`{"membership":"ban"}`), false, true},
		{"the additional creator bans an admin", bob, matrix.TypeMember, string(carol.ID), same11(`{"membership":"ban"}`), false, true},
		{"the creator kicks the additional creator", alice, matrix.TypeMember, string(bob.ID), same11(`{"membership":"leave"}`), true, false},
		{"the additional creator kicks the creator", bob, matrix.TypeMember, string(alice.ID), same11(`{"membership":"leave"}`), false, false},
		{"an admin is demoted by the creator", alice, matrix.TypePowerLevels, "", func(v matrix.RoomVersion) string { return users(quote(dave, "50"), v) }, false, true},
		{"an admin is demoted by the additional creator", bob, matrix.TypePowerLevels, "", func(v matrix.RoomVersion) string { return users(quote(dave, "50"), v) }, false, true},
		{"the creator gives 200", alice, matrix.TypePowerLevels, "", func(v matrix.RoomVersion) string { return users(quote(carol, "200")+","+quote(dave, "50"), v) }, false, true},
		{"an admin gives 200", carol, matrix.TypePowerLevels, "", func(v matrix.RoomVersion) string { return users(quote(carol, "200")+","+quote(dave, "50"), v) }, false, false},
		{"the creator writes the additional creator in", alice, matrix.TypePowerLevels, "", func(v matrix.RoomVersion) string {
			return users(quote(bob, "50")+","+quote(carol, "100")+","+quote(dave, "50"), v)
		}, true, false},
		{"an admin writes the creator in", carol, matrix.TypePowerLevels, "", func(v matrix.RoomVersion) string {
			if v == "12" {
				return users(quote(alice, "0")+","+quote(carol, "100")+","+quote(dave, "50"), v)
			}
			return `{"users":{` + quote(carol, "100") + "," + quote(dave, "50") + `}}`
		}, false, false},
		{"power that is no whole number", alice, matrix.TypePowerLevels, "", func(v matrix.RoomVersion) string { return users(quote(carol, `"100"`)+","+quote(dave, "50"), v) }, false, false},
	} {
		eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
			b := founders(t, v, carol100(v), carol, dave)
			r := deliver(t, b)
			ev := build(t, b, x.by, x.typ, key(x.key), x.content(v), nil)
			in := insert(t, r, ev)
			want := x.in11
			if v == "12" {
				want = x.in12
			}
			if (in.Status == dag.Accepted) != want || in.Status == dag.SoftFailed {
				t.Errorf("%s: %v (%v)", x.name, in.Status, in.Why)
			}
		})
	}
}

// same11 is content that is the same in both versions.
func same11(content string) func(matrix.RoomVersion) string {
	return func(matrix.RoomVersion) string { return content }
}

// Creators that are no list of user ids make no room in version 12; version 11 does not know the key.
func TestCreatorsMustBeUsers(t *testing.T) {
	for content, good := range map[string]bool{
		`[]`:                         true,
		`["` + string(bob.ID) + `"]`: true,
		`["` + string(bob.ID) + `","` + string(bob.ID) + `"]`: true,
		`"` + string(bob.ID) + `"`:                            false,
		`{}`:                                                  false,
		`[1]`:                                                 false,
		`["bob"]`:                                             false,
		`["@bob"]`:                                            false,
		`["` + string(bob.ID) + `",null]`:                     false,
	} {
		eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
			p := matrix.Proto{
				Room: "!r:" + matrix.RoomID(alice.Signer.Server), Sender: alice.ID, Type: matrix.TypeCreate, StateKey: key(""), Time: dagtest.Start,
				Content: []byte(`{"room_version":"` + string(v) + `","additional_creators":` + content + `}`),
			}
			if v == "12" {
				p.Room = ""
			}
			ev, err := matrix.Build(v, p, alice.Signer)
			if err != nil {
				t.Fatal(err)
			}
			in := insert(t, dagtest.NewRoom(ev.Room(), v), ev)
			if want := good || v == "11"; (in.Status == dag.Accepted) != want {
				t.Errorf("%s: %v (%v)", content, in.Status, in.Why)
			}
		})
	}
}

// The room is its create event, which nobody names (MSC4291).
func TestRoomIsItsCreateEvent(t *testing.T) {
	b := open(t, "12", nil, bob)
	create := (*b.Ord)[0]
	if "$"+strings.TrimPrefix(string(b.Room.ID), "!") != string(create.ID()) || len(b.Room.ID) != 44 {
		t.Errorf("room %s of create event %s", b.Room.ID, create.ID())
	}
	for _, ev := range *b.Ord {
		if slices.Contains(ev.AuthEvents(), create.ID()) {
			t.Error("our own events name the create event")
		}
	}
	r := deliver(t, b)
	rejectedAs(t, r, build(t, b, bob, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) {
		p.AuthEvents = append(slices.Clone(p.AuthEvents), create.ID())
	}), "an event that names the create event")

	// Version 11 wants it named.
	old := open(t, "11", nil, bob)
	rejectedAs(t, deliver(t, old), build(t, old, bob, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) {
		p.AuthEvents = slices.DeleteFunc(slices.Clone(p.AuthEvents), func(id matrix.EventID) bool { return id == (*old.Ord)[0].ID() })
	}), "an event that does not")

	// A create event that says a room is none, whoever reads it; one in version 11 that says none, neither.
	with, err := sjson.SetBytes(slices.Clone(create.Raw()), "room_id", string(b.Room.ID))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := matrix.Parse("12", with); err == nil {
		t.Error("a create event with a room id")
	}
	without, err := sjson.DeleteBytes(slices.Clone((*old.Ord)[0].Raw()), "room_id")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := matrix.Parse("11", without); err == nil {
		t.Error("a version 11 create event without a room id")
	}

	// The id of a room whose create event is another event of it, or is not held.
	name := b.Must(alice, matrix.TypeName, key(""), `{"name":"x"}`)
	foreign := *b
	foreign.Room.ID = matrix.RoomID("!" + strings.TrimPrefix(string(name.ID()), "$"))
	ev := build(t, &foreign, bob, matrix.TypeMessage, nil, `{}`, nil)
	if _, err := deliver(t, b).Deliver(ev); !errors.Is(err, dag.ErrOtherRoom) {
		t.Errorf("of a room that is a name: %v", err)
	}
	r = dagtest.NewRoom(foreign.Room.ID, "12")
	for _, h := range deliver(t, b).Events {
		r.Put(h.Event, h.Status, h.After)
	}
	if in := insert(t, r, ev); in.Status != dag.Rejected || !errors.Is(in.Why, dag.ErrNotAllowed) {
		t.Errorf("in a room that is a name: %v %v %v", in.Status, in.Why, in.Missing)
	}
	// A second create event: another room, whoever signs it.
	second := build(t, b, alice, matrix.TypeCreate, key(""), `{"room_version":"12","x":1}`, func(p *matrix.Proto) { p.Room, p.PrevEvents, p.AuthEvents = "", nil, nil })
	if _, err := deliver(t, b).Deliver(second); !errors.Is(err, dag.ErrOtherRoom) {
		t.Errorf("a second create event: %v", err)
	}
	// A create event that follows something starts nothing.
	follows := build(t, b, alice, matrix.TypeCreate, key(""), `{"room_version":"12","x":1}`, func(p *matrix.Proto) { p.Room, p.AuthEvents = "", nil })
	if in := insert(t, dagtest.NewRoom(follows.Room(), "12"), follows); in.Status != dag.Rejected {
		t.Errorf("a create event with parents: %v", in.Status)
	}
}

// An auth event of another room is no auth event (MSC4307), though a view should have it.
func TestAuthEventsAreOfTheRoom(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 0}, bob)
		other, err := dagtest.NewBranch(v, bob, nil)
		if err != nil {
			t.Fatal(err)
		}
		if v == "11" { // its ids are their makers' choice
			if other.Room.ID == b.Room.ID {
				t.Fatal("one room")
			}
		}
		levels := other.Must(bob, matrix.TypePowerLevels, key(""), `{"users":{}}`)
		r := deliver(t, b)
		ev := build(t, b, bob, matrix.TypeTopic, key(""), `{"topic":"x"}`, func(p *matrix.Proto) {
			i := slices.Index(p.AuthEvents, b.Holds(matrix.TypePowerLevels, ""))
			p.AuthEvents = slices.Clone(p.AuthEvents)
			p.AuthEvents[i] = levels.ID()
		})
		if in := insert(t, r, ev); !slices.Equal(in.Missing, []matrix.EventID{levels.ID()}) {
			t.Errorf("a foreign auth event: %v %v %v", in.Status, in.Why, in.Missing)
		}
		r = deliver(t, b)
		r.Put(levels, dag.Accepted, nil)
		rejectedAs(t, r, ev, "a foreign auth event that is held")
	})
}
