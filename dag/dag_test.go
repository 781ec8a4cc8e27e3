// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

var (
	servers = []dagtest.Server{dagtest.NewServer(1), dagtest.NewServer(2), dagtest.NewServer(3)}
	alice   = servers[0].User("alice")
	bob     = servers[1].User("bob")
	carol   = servers[2].User("carol")
	dave    = servers[2].User("dave")
	erin    = servers[1].User("erin")
	key     = dagtest.Key
)

var versions = []matrix.RoomVersion{"11", "12"}

// eachVersion runs f for the versions that rooms are made in.
func eachVersion(t *testing.T, f func(t *testing.T, v matrix.RoomVersion)) {
	for _, v := range versions {
		t.Run("version "+string(v), func(t *testing.T) { f(t, v) })
	}
}

// levels is power levels with alice, the creator, at 100 where the version wants her named.
func levels(v matrix.RoomVersion, users map[matrix.UserID]int) any {
	m := map[matrix.UserID]int{}
	if !v.PrivilegedRoomCreators() {
		m[alice.ID] = 100
	}
	for u, n := range users {
		m[u] = n
	}
	return map[string]any{"users": m}
}

// open is a public room of alice with members.
func open(t testing.TB, v matrix.RoomVersion, power map[matrix.UserID]int, members ...dagtest.User) *dagtest.Branch {
	t.Helper()
	b, err := dagtest.NewBranch(v, alice, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Must(alice, matrix.TypePowerLevels, key(""), levels(v, power))
	b.Must(alice, matrix.TypeJoinRules, key(""), `{"join_rule":"public"}`)
	for _, u := range members {
		b.Join(u)
	}
	return b
}

// deliver gives a node all events of b.
func deliver(t testing.TB, b *dagtest.Branch) *dagtest.Room {
	t.Helper()
	r := dagtest.NewRoom(b.Room.ID, b.Room.Version)
	for _, ev := range *b.Ord {
		if _, err := r.Deliver(ev); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// build makes the user's next event on b without looking at the rules, changed by f.
func build(t testing.TB, b *dagtest.Branch, u dagtest.User, typ string, sk *string, content any, f func(*matrix.Proto)) *matrix.Event {
	t.Helper()
	p, err := b.Proto(u, typ, sk, content)
	if err != nil {
		t.Fatal(err)
	}
	if f != nil {
		f(&p)
	}
	ev, err := matrix.Build(b.Room.Version, p, u.Signer)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func insert(t testing.TB, r *dagtest.Room, ev *matrix.Event) dag.Insertion {
	t.Helper()
	in, err := r.Deliver(ev)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestRoomGrowsEventByEvent(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, nil, bob, carol)
		last := b.Must(bob, matrix.TypeMessage, nil, `{"body":"hi"}`)
		r := deliver(t, b)
		if !slices.Equal(r.Heads, []matrix.EventID{last.ID()}) || !r.Current.Equal(b.Room.Current) {
			t.Errorf("heads %v, current %v", r.Heads, r.Current)
		}
		for id, h := range r.Events {
			if h.Status != dag.Accepted {
				t.Errorf("%s %s", id, h.Status)
			}
		}
		in, err := dag.Insert(r.View, r.Room, last)
		if !errors.Is(err, dag.ErrHeld) {
			t.Errorf("inserted twice: %v %v", in, err)
		}
		in, err = dag.Insert(r.View, r.Room, (*b.Ord)[3])
		if !errors.Is(err, dag.ErrHeld) {
			t.Errorf("an old one inserted twice: %v %v", in, err)
		}
	})
}

func TestMissingParentsAndAuthEventsAreListed(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, nil, bob)
		ev := b.Must(bob, matrix.TypeMessage, nil, `{}`)
		r := dagtest.NewRoom(b.Room.ID, v)
		in := insert(t, r, ev)
		want := append(slices.Clone(ev.PrevEvents()), ev.AuthEvents()...)
		if v == "12" {
			want = append(want, matrix.CreateEventID(v, b.Room.ID))
		}
		slices.Sort(want)
		want = slices.Compact(want)
		got := slices.Sorted(slices.Values(in.Missing))
		if !slices.Equal(got, want) || in.Status != 0 {
			t.Errorf("missing %v, want %v; status %v", got, want, in.Status)
		}
		if len(r.Heads) != 0 {
			t.Error("heads from nothing")
		}
		// The others come, last first: all are in the end in.
		for _, e := range slices.Backward(*b.Ord) {
			insert(t, r, e)
		}
		if r.Waiting() != 0 || !slices.Equal(r.Heads, b.Room.Heads) || !r.Current.Equal(b.Room.Current) {
			t.Errorf("%d waiting, heads %v", r.Waiting(), r.Heads)
		}
	})
}

func TestEventOfAnotherRoomOrVersionIsRefused(t *testing.T) {
	b := open(t, "12", nil)
	other, err := dagtest.NewBranch("12", bob, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := deliver(t, b)
	if _, err := r.Deliver(other.Join(bob)); !errors.Is(err, dag.ErrOtherRoom) {
		t.Errorf("another room: %v", err)
	}
	old := open(t, "11", nil)
	if _, err := r.Deliver((*old.Ord)[0]); !errors.Is(err, dag.ErrOtherRoom) {
		t.Errorf("another version: %v", err)
	}
	bad := dagtest.NewRoom(b.Room.ID, "99")
	if _, err := bad.Deliver((*b.Ord)[0]); !errors.Is(err, matrix.ErrVersion) {
		t.Errorf("unknown version: %v", err)
	}
	if _, err := dag.Resolve(b.View, "99", []dag.State{{}, b.Room.Current}); !errors.Is(err, matrix.ErrVersion) {
		t.Errorf("resolving an unknown version: %v", err)
	}
}

// rejectedAs: the room takes the event as rejected, and nothing else changes.
func rejectedAs(t *testing.T, r *dagtest.Room, ev *matrix.Event, what string) {
	t.Helper()
	heads, current := slices.Clone(r.Heads), r.Current
	in := insert(t, r, ev)
	if in.Status != dag.Rejected || !errors.Is(in.Why, dag.ErrNotAllowed) {
		t.Errorf("%s: %v (%v), missing %v", what, in.Status, in.Why, in.Missing)
		return
	}
	if !slices.Equal(r.Heads, heads) || !r.Current.Same(current) || !in.After.Same(in.Before) {
		t.Errorf("%s: changed the room", what)
	}
}

func TestBadEventsAreRejected(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50, carol.ID: 50}, bob, carol)
		r := deliver(t, b)
		rejectedAs(t, r, build(t, b, dave, matrix.TypeMessage, nil, `{}`, nil), "message of a stranger")
		rejectedAs(t, r, build(t, b, bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 101}), nil), "more power than one has")
		rejectedAs(t, r, build(t, b, bob, matrix.TypeMember, key(string(alice.ID)), `{"membership":"ban"}`, nil), "ban of the mightier")
		rejectedAs(t, r, build(t, b, dave, matrix.TypeMember, key(string(erin.ID)), `{"membership":"join"}`, nil), "join in another's name")
		rejectedAs(t, r, build(t, b, bob, matrix.TypeName, key(string(carol.ID)), `{"name":"x"}`, nil), "another's state key")
		rejectedAs(t, r, build(t, b, bob, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) { p.AuthEvents = nil }), "no auth events")
		rejectedAs(t, r, build(t, b, bob, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) {
			p.AuthEvents = append(slices.Clone(p.AuthEvents), b.Holds(matrix.TypeJoinRules, ""))
		}), "an auth event too many")
		rejectedAs(t, r, build(t, b, bob, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) {
			p.AuthEvents = append(slices.Clone(p.AuthEvents), b.Holds(matrix.TypeMember, string(carol.ID)))
		}), "another's membership as auth event")
		rejectedAs(t, r, build(t, b, alice, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) { p.PrevEvents = nil }), "no parents")
		rejectedAs(t, r, build(t, b, alice, matrix.TypeMember, key(string(alice.ID)), `{"membership":"join"}`, func(p *matrix.Proto) { p.PrevEvents, p.AuthEvents = nil, nil }), "join out of nothing")

		// What leans on, or follows, a rejected event.
		bad := build(t, b, bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 100}), nil)
		rejectedAs(t, r, bad, "self-promotion")
		rejectedAs(t, r, build(t, b, bob, matrix.TypeName, key(""), `{"name":"x"}`, func(p *matrix.Proto) {
			i := slices.Index(p.AuthEvents, b.Holds(matrix.TypePowerLevels, ""))
			p.AuthEvents = slices.Clone(p.AuthEvents)
			p.AuthEvents[i] = bad.ID()
		}), "leaning on a rejected event")
		after := insert(t, r, build(t, b, bob, matrix.TypeMessage, nil, `{"n":1}`, func(p *matrix.Proto) { p.PrevEvents = []matrix.EventID{bad.ID()} }))
		if after.Status != dag.Accepted || !after.Before.Equal(b.Room.Current) || len(r.Heads) != 1 {
			t.Errorf("following a rejected event: %v %v, heads %v", after.Status, after.Why, r.Heads)
		}
	})
}

// The library dereferences nil on this event, which any member of some power can send.
func TestEventThatPanicsTheLibraryIsRejected(t *testing.T) {
	for _, v := range []matrix.RoomVersion{"6", "9", "10", "11", "12"} {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50, carol.ID: 50}, bob, carol)
		r := deliver(t, b)
		ev := build(t, b, bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 50}), nil)
		rejectedAs(t, r, ev, "version "+string(v))
		if in := r.Events[ev.ID()]; in.Status != dag.Rejected {
			t.Errorf("version %s: %v", v, in.Status)
		}
		if err := dag.Allowed(b.View, v, b.Room.Current, ev); !errors.Is(err, dag.ErrNotAllowed) {
			t.Errorf("version %s: %v", v, err)
		}
	}
}

func TestSecondCreateEventIsRejected(t *testing.T) {
	b := open(t, "11", nil, bob)
	r := deliver(t, b)
	second := build(t, b, alice, matrix.TypeCreate, key(""), `{"room_version":"11","x":1}`, func(p *matrix.Proto) { p.PrevEvents, p.AuthEvents = nil, nil })
	rejectedAs(t, r, second, "second create event")
	// As an outlier nothing speaks against it; an event that leans on it is rejected all the same.
	r = deliver(t, b)
	status, why, missing := dag.InsertOutlier(r.View, "11", second)
	if status != dag.Accepted || why != nil || missing != nil {
		t.Fatal(status, why, missing)
	}
	r.Put(second, status, nil)
	join := build(t, b, alice, matrix.TypeMember, key(string(alice.ID)), `{"membership":"join"}`, func(p *matrix.Proto) {
		p.PrevEvents, p.AuthEvents = []matrix.EventID{second.ID()}, []matrix.EventID{second.ID()}
	})
	in := insert(t, r, join)
	if !slices.Equal(in.Missing, []matrix.EventID{second.ID()}) {
		t.Errorf("a child of an outlier: %v %v", in.Status, in.Missing)
	}
	status, why, _ = dag.InsertOutlier(r.View, "11", join)
	if status != dag.Accepted {
		t.Fatal(status, why)
	}
	r.Put(join, status, nil)
	rejectedAs(t, r, build(t, b, alice, matrix.TypeTopic, key(""), `{"topic":"x"}`, func(p *matrix.Proto) {
		p.AuthEvents = []matrix.EventID{second.ID(), join.ID()}
	}), "leaning on a second create event")
}

func TestSnapshotIsCheckedByAuthEventsAlone(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, nil, bob)
		for i := range 30 {
			b.Must(alice, matrix.TypeMessage, nil, fmt.Sprintf(`{"n":%d}`, i))
		}
		invite, err := b.Member(alice, carol, "invite")
		if err != nil {
			t.Fatal(err)
		}
		var ids []matrix.EventID
		for _, id := range b.Room.Current {
			ids = append(ids, id)
		}
		chain, err := dag.AuthChain(b.View, ids)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range chain {
			if slices.Contains(ids, id) {
				t.Error("the chain has what it starts from")
			}
		}
		r := dagtest.NewRoom(b.Room.ID, v)
		// Latest first: each is missing something until its turn has come.
		waiting := append(ids, chain...)
		for len(waiting) > 0 {
			n := len(waiting)
			waiting = slices.DeleteFunc(waiting, func(id matrix.EventID) bool {
				status, why, missing := dag.InsertOutlier(r.View, v, b.View.Events[id].Event)
				if len(missing) > 0 {
					return false
				}
				if status != dag.Accepted {
					t.Fatal(status, why)
				}
				r.Put(b.View.Events[id].Event, status, nil)
				return true
			})
			if len(waiting) == n {
				t.Fatal("the snapshot does not stand by itself")
			}
		}
		// The invite is the head, its state is the snapshot; carol's join is her node's own.
		r.Put(invite, dag.Accepted, b.Room.Current)
		r.Heads, r.Current = []matrix.EventID{invite.ID()}, b.Room.Current
		join := b.Join(carol)
		in := insert(t, r, join)
		if in.Status != dag.Accepted || !in.Current.Equal(b.Room.Current) {
			t.Errorf("own join: %v %v", in.Status, in.Why)
		}
		// A forged one.
		bad := build(t, b, bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 100}), nil)
		if status, why, _ := dag.InsertOutlier(r.View, v, bad); status != dag.Rejected || !errors.Is(why, dag.ErrNotAllowed) {
			t.Errorf("forged outlier: %v %v", status, why)
		}
	})
}

func TestHistoryThatComesLateIsNoHead(t *testing.T) {
	b := open(t, "12", nil, bob)
	old := b.Must(bob, matrix.TypeMessage, nil, `{"n":1}`)
	head := b.Must(bob, matrix.TypeMessage, nil, `{"n":2}`)
	r := dagtest.NewRoom(b.Room.ID, "12")
	r.Put(head, dag.Accepted, b.Room.Current)
	r.Heads, r.Current = []matrix.EventID{head.ID()}, b.Room.Current
	for _, ev := range *b.Ord {
		if ev != head && ev != old && ev.Type() != matrix.TypeCreate {
			r.Put(ev, dag.Accepted, b.View.Events[ev.ID()].After)
		}
	}
	create := b.View.Events[matrix.CreateEventID("12", b.Room.ID)]
	r.Put(create.Event, create.Status, create.After)
	in := insert(t, r, old)
	if in.Status != dag.Accepted || !slices.Equal(r.Heads, []matrix.EventID{head.ID()}) || !r.Current.Equal(b.Room.Current) {
		t.Errorf("%v %v, heads %v", in.Status, in.Why, r.Heads)
	}
}

func TestSoftFailedEventIsNoHeadUntilItIsFollowed(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob, carol)
		side := b.Fork()
		ban, err := b.Member(alice, bob, "ban")
		if err != nil {
			t.Fatal(err)
		}
		late := side.Must(bob, matrix.TypeTopic, key(""), `{"topic":"mine"}`)
		r := deliver(t, b) // the ban first
		in := insert(t, r, late)
		if h := r.Events[late.ID()]; h.Status != dag.SoftFailed || h.After[matrix.StateKey{Type: matrix.TypeTopic}] != late.ID() {
			t.Fatalf("%v, %v", in.Status, h.Status)
		}
		if !slices.Equal(r.Heads, []matrix.EventID{ban.ID()}) || r.Current[matrix.StateKey{Type: matrix.TypeTopic}] != "" {
			t.Errorf("heads %v", r.Heads)
		}
		// Carol saw only the side line; what she writes there is fine, and brings the soft-failed event in.
		next := side.Must(carol, matrix.TypeMessage, nil, `{}`)
		in = insert(t, r, next)
		if in.Status != dag.Accepted || len(r.Heads) != 2 || !slices.Contains(r.Heads, next.ID()) || !slices.Contains(r.Heads, ban.ID()) {
			t.Errorf("%v %v, heads %v", in.Status, in.Why, r.Heads)
		}
		if r.Current[matrix.StateKey{Type: matrix.TypeTopic}] != "" {
			t.Error("the banned user's topic holds")
		}
		// One that follows only the soft-failed event of a head puts that head behind it.
		b2 := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob, carol)
		fork := b2.Fork()
		if _, err := b2.Member(alice, bob, "ban"); err != nil {
			t.Fatal(err)
		}
		soft := build(t, fork, bob, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) {
			p.PrevEvents = append(slices.Clone(p.PrevEvents), b2.Room.Heads...)
		})
		r = deliver(t, b2)
		rejectedAs(t, r, soft, "after the ban")
		follow := build(t, b2, carol, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) { p.PrevEvents = []matrix.EventID{soft.ID()} })
		in = insert(t, r, follow)
		if in.Status != dag.Accepted || !slices.Equal(r.Heads, []matrix.EventID{follow.ID()}) {
			t.Errorf("%v %v, heads %v", in.Status, in.Why, r.Heads)
		}
	})
}

func TestRestrictedJoinCountsTheAuthorisersPower(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, nil, bob)
		b.Must(alice, matrix.TypeJoinRules, key(""), `{"join_rule":"restricted","allow":[]}`)
		r := deliver(t, b)
		join := func(by matrix.UserID) *matrix.Event {
			return build(t, b, carol, matrix.TypeMember, key(string(carol.ID)), fmt.Sprintf(`{"membership":"join","join_authorised_via_users_server":%q}`, by), nil)
		}
		rejectedAs(t, r, join(dave.ID), "authorised by a stranger")
		rejectedAs(t, r, build(t, b, carol, matrix.TypeMember, key(string(carol.ID)), `{"membership":"join"}`, nil), "authorised by nobody")
		if in := insert(t, r, join(bob.ID)); in.Status != dag.Accepted {
			t.Errorf("%v %v", in.Status, in.Why)
		}
	})
}

func TestFailingViewIsAnErrorAndNoVerdict(t *testing.T) {
	b := open(t, "12", nil, bob)
	side := b.Fork()
	b.Must(alice, matrix.TypeTopic, key(""), `{"topic":"a"}`)
	side.Must(alice, matrix.TypeTopic, key(""), `{"topic":"b"}`)
	ev := build(t, b, bob, matrix.TypeMessage, nil, `{}`, func(p *matrix.Proto) {
		p.PrevEvents = append(slices.Clone(p.PrevEvents), side.Room.Heads...)
	})
	for n := range 40 {
		v := &failing{View: b.View, left: n}
		in, err := dag.Insert(v, b.Room, ev)
		if v.left >= 0 {
			if err != nil || in.Status != dag.Accepted {
				t.Fatal(in.Status, in.Why, err)
			}
			return
		}
		if !errors.Is(err, errDisk) || in.Status != 0 || len(in.Missing) > 0 {
			t.Fatalf("after %d reads: %v %v %v", n, in.Status, in.Why, err)
		}
	}
	t.Error("never enough reads")
}

var errDisk = errors.New("disk")

type failing struct {
	*dagtest.View
	left int
}

func (f *failing) Event(id matrix.EventID) (*matrix.Event, dag.Status, error) {
	if f.left--; f.left < 0 {
		return nil, 0, errDisk
	}
	return f.View.Event(id)
}

func (f *failing) StateAfter(id matrix.EventID) (dag.State, error) {
	if f.left--; f.left < 0 {
		return nil, errDisk
	}
	return f.View.StateAfter(id)
}

func TestHoleInTheAuthChainIsAnError(t *testing.T) {
	b := open(t, "12", nil, bob)
	side := b.Fork()
	b.Must(alice, matrix.TypeTopic, key(""), `{"topic":"a"}`)
	side.Must(alice, matrix.TypeTopic, key(""), `{"topic":"b"}`)
	delete(b.View.Events, b.Holds(matrix.TypePowerLevels, ""))
	if _, err := dag.Resolve(b.View, "12", []dag.State{b.Room.Current, side.Room.Current}); !errors.Is(err, dag.ErrIncomplete) {
		t.Error(err)
	}
	if _, err := dag.AuthChain(b.View, b.Room.Heads); !errors.Is(err, dag.ErrIncomplete) {
		t.Error(err)
	}
}

func TestCreateIsFound(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		b := open(t, v, nil)
		id, ok := dag.Create(b.Room.ID, v, b.Room.Current)
		if !ok || id != (*b.Ord)[0].ID() {
			t.Errorf("%s %v", id, ok)
		}
		if id, ok := dag.Create("!x", v, nil); ok {
			t.Errorf("found %s", id)
		}
	})
}
