// SPDX-License-Identifier: Apache-2.0

package room

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/matrix"
	"tarn/store"
)

// invited makes a room of a's with an invite for b under way.
func invited(t tb, c Create) (a, b *player, room matrix.RoomID, s *Snapshot) {
	a, b = play(t, 1), play(t, 2)
	c.Invite = append(c.Invite, b.user)
	room = a.create(c)
	for _, i := range a.mail(b) {
		if i.Kind == store.ItemInvite {
			_, id := split(i.Data)
			var err error
			if s, err = a.Snapshot(room, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	return a, b, room, s
}

func (p *player) take(from *player, s *Snapshot) {
	p.t.Helper()
	if err := p.IngestSnapshot(context.Background(), from.s.Server, s); err != nil {
		p.t.Fatal(err)
	}
}

func TestSnapshotIsCheckedWhole(t *testing.T) {
	a, b, room, good := invited(t, Create{Name: "Den"})
	eve := play(t, 3)
	other := a.create(Create{Name: "Other"})
	foreign, err := a.Raw(other, a.say(other, "x"))
	if err != nil {
		t.Fatal(err)
	}
	inviteAt := slices.IndexFunc(good.Events, func(raw []byte) bool {
		ev, err := matrix.Parse(good.Version, raw)
		return err == nil && ev.ID() == good.Event
	})
	var inviter matrix.EventID
	for _, raw := range good.Events {
		if ev, err := matrix.Parse(good.Version, raw); err == nil && ev.Is(matrix.TypeMember, string(a.user)) {
			inviter = ev.ID()
		}
	}
	for what, spoil := range map[string]func(*Snapshot) *player{
		"from a stranger":     func(*Snapshot) *player { return eve },
		"unknown version":     func(s *Snapshot) *player { s.Version = "99"; return a },
		"another version":     func(s *Snapshot) *player { s.Version = "11"; return a },
		"another room id":     func(s *Snapshot) *player { s.Room = other; return a },
		"no room id":          func(s *Snapshot) *player { s.Room = ""; return a },
		"no event":            func(s *Snapshot) *player { s.Event = ""; return a },
		"invite is not in it": func(s *Snapshot) *player { s.Events = slices.Delete(s.Events, inviteAt, inviteAt+1); return a },
		"no create event":     func(s *Snapshot) *player { s.Events = s.Events[1:]; return a },
		"no state":            func(s *Snapshot) *player { s.State = nil; return a },
		"state without the inviter": func(s *Snapshot) *player {
			s.State = slices.DeleteFunc(s.State, func(id matrix.EventID) bool { return id == inviter })
			return a
		},
		"state twice":              func(s *Snapshot) *player { s.State[1] = s.State[0]; return a },
		"state that is not in it":  func(s *Snapshot) *player { s.State[1] = "$" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"; return a },
		"no certificates":          func(s *Snapshot) *player { s.Certificates = nil; return a },
		"a broken certificate":     func(s *Snapshot) *player { s.Certificates[0][40] ^= 1; return a },
		"an event of another room": func(s *Snapshot) *player { s.Events = append(s.Events, foreign); return a },
		"an event that is no JSON": func(s *Snapshot) *player { s.Events = append(s.Events, []byte("{")); return a },
		"a forged event": func(s *Snapshot) *player {
			s.Events[1] = slices.Clone(s.Events[1])
			flip(s.Events[1], "signatures")
			return a
		},
		"the invite is another type": func(s *Snapshot) *player { s.Event = s.State[0]; return a },
	} {
		s := *good
		s.Events, s.State, s.Certificates = slices.Clone(good.Events), slices.Clone(good.State), slices.Clone(good.Certificates)
		for i, c := range s.Certificates {
			s.Certificates[i] = slices.Clone(c)
		}
		from := spoil(&s)
		if err := b.IngestSnapshot(context.Background(), from.s.Server, &s); !errors.Is(err, ErrBadSnapshot) && !errors.Is(err, ErrBadVersion) {
			t.Errorf("%s: %v", what, err)
		}
		if cs, _ := b.sync(b.user, 0); len(cs) != 0 {
			t.Fatalf("%s: something was kept", what)
		}
	}
	if err := eve.IngestSnapshot(context.Background(), a.s.Server, good); !errors.Is(err, ErrBadSnapshot) {
		t.Errorf("an invite for somebody elsewhere: %v", err)
	}
	if _, err := b.Heads(room); !errors.Is(err, ErrUnknownRoom) {
		t.Errorf("%v", err)
	}
	b.take(a, good)
	// The same again is nothing.
	_, at := b.sync(b.user, 0)
	b.take(a, good)
	if cs, _ := b.sync(b.user, at); len(cs) != 0 {
		t.Fatalf("%+v", cs)
	}
}

// flip changes a letter of the first signature in a raw event, which stays canonical.
func flip(raw []byte, after string) {
	i := slices.Index(raw, '{')
	s := string(raw)
	for j := range len(s) {
		if len(s)-j > len(after) && s[j:j+len(after)] == after {
			i = j
		}
	}
	for ; i < len(raw)-3; i++ {
		if string(raw[i:i+3]) == `":"` {
			i += 3
			if raw[i] == 'A' {
				raw[i] = 'B'
			} else {
				raw[i] = 'A'
			}
			return
		}
	}
}

func TestRejectedInviteAndInviteAgain(t *testing.T) {
	a, b, room, s := invited(t, Create{})
	b.take(a, s)
	_, at := b.sync(b.user, 0)
	b.member(room, b.user, b.user, matrix.MemberLeave)
	cs, at := b.sync(b.user, at)
	if c := only(t, cs); c.Membership != matrix.MemberLeave || !slices.Equal(types(c.Timeline), []string{matrix.TypeMember}) || len(c.State) != 0 {
		t.Fatalf("%+v", c)
	}
	if got := b.post(a); !slices.Equal(got, []byte{store.ItemEvent}) {
		t.Fatalf("delivered %v", got)
	}
	if m, _ := a.Membership(b.user, room); m != matrix.MemberLeave {
		t.Fatalf("for the inviter bob is in %q", m)
	}
	if _, err := b.SetMembership(context.Background(), room, b.user, b.user, matrix.MemberJoin, "", false); !errors.Is(err, ErrUnknownRoom) {
		t.Fatalf("joining without an invite: %v", err)
	}
	b.take(a, s) // delivered twice: an old invite is not a new one
	if cs, _ := b.sync(b.user, at); len(cs) != 0 {
		t.Fatalf("%+v", cs)
	}
	a.say(room, "meanwhile")
	a.member(room, a.user, b.user, matrix.MemberInvite)
	a.post(b)
	cs, at = b.sync(b.user, at)
	if c := only(t, cs); c.Membership != matrix.MemberInvite || len(c.Invite) < 4 {
		t.Fatalf("%+v", c)
	}
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	a.say(room, "hello")
	a.post(b)
	same(t, room, a, b)
	cs, _ = b.sync(b.user, at)
	if got := bodies(only(t, cs).Timeline); !slices.Equal(got, []string{"meanwhile", "hello"}) {
		t.Fatalf("%q", got)
	}
	b.judge(room)
	// And out, and in once more.
	b.member(room, b.user, b.user, matrix.MemberLeave)
	b.post(a)
	a.say(room, "unheard")
	a.member(room, a.user, b.user, matrix.MemberInvite)
	a.post(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	a.say(room, "third time")
	a.post(b)
	same(t, room, a, b)
	b.judge(room)
	ids := b.all(b.user, room, 3)
	n := len(ids)
	slices.Sort(ids)
	if n != len(slices.Compact(ids)) {
		t.Fatal("an event twice")
	}
}

func TestInviteTakenBack(t *testing.T) {
	a, b, room, s := invited(t, Create{})
	b.take(a, s)
	_, at := b.sync(b.user, 0)
	a.member(room, a.user, b.user, matrix.MemberLeave)
	if got := a.post(b); !slices.Equal(got, []byte{store.ItemInvite}) {
		t.Fatalf("delivered %v", got)
	}
	cs, _ := b.sync(b.user, at)
	if c := only(t, cs); c.Membership != matrix.MemberLeave || len(c.Timeline) != 1 {
		t.Fatalf("%+v", c)
	}
	if _, err := b.SetMembership(context.Background(), room, b.user, b.user, matrix.MemberJoin, "", false); !errors.Is(err, ErrUnknownRoom) {
		t.Fatal(err)
	}
	// Nobody but who may take it back can.
	a.member(room, a.user, b.user, matrix.MemberInvite)
	a.post(b)
	if m, _ := b.Membership(b.user, room); m != matrix.MemberInvite {
		t.Fatal(m)
	}
}

// Who declines has declined what was written before, though it comes later: the room's rules say so everywhere, and a join on it
// would count at the newcomer alone. What is written after it, by somebody who has not heard of it, counts.
func TestInviteOvertakenByADecline(t *testing.T) {
	for _, version := range []matrix.RoomVersion{"11", "12"} {
		synctest.Test(t, func(t *testing.T) { declines(t, version) })
	}
}

func declines(t *testing.T, version matrix.RoomVersion) {
	a, b, room, first := invited(t, Create{Version: version})
	second, err := a.Snapshot(room, a.member(room, a.user, b.user, matrix.MemberInvite)) // Alice again, before she hears
	if err != nil {
		t.Fatal(err)
	}
	b.take(a, first)
	time.Sleep(time.Second)
	b.member(room, b.user, b.user, matrix.MemberLeave)
	_, at := b.sync(b.user, 0)
	b.take(a, second)
	if m, _ := b.Membership(b.user, room); m != matrix.MemberLeave {
		t.Fatalf("version %s: after an invite that the decline overtook Bob is in %q", version, m)
	}
	if cs, _ := b.sync(b.user, at); len(cs) != 0 {
		t.Errorf("%+v", cs)
	}
	time.Sleep(time.Second)
	a.mail(b)
	third, err := a.Snapshot(room, a.member(room, a.user, b.user, matrix.MemberInvite)) // still without having heard
	if err != nil {
		t.Fatal(err)
	}
	b.take(a, third)
	if m, _ := b.Membership(b.user, room); m != matrix.MemberInvite {
		t.Fatalf("version %s: after an invite that was written after the decline Bob is in %q", version, m)
	}
	j := b.member(room, b.user, b.user, matrix.MemberJoin)
	for _, i := range b.mail(a) {
		t.Log(i.Kind, string(i.Data))
		b.hand(a, i)
		m, _ := a.Membership(b.user, room)
		t.Log(m, a.describe(room, j))
	}
	a.post(b)
	a.say(room, "here you are")
	a.post(b)
	same(t, room, a, b)
	if m, _ := a.Membership(b.user, room); m != matrix.MemberJoin {
		t.Fatalf("version %s: for Alice Bob is in %q", version, m)
	}
}

// Boxes overtake each other: what ended an invite may come before it, or after the next one.
func TestEndsAndInvitesInAnyOrder(t *testing.T) {
	a, b, room, first := invited(t, Create{})
	snapshot := func(m string) *Snapshot {
		s, err := a.Snapshot(room, a.member(room, a.user, b.user, m))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	all := []*Snapshot{first, snapshot(matrix.MemberLeave), snapshot(matrix.MemberInvite), snapshot(matrix.MemberBan), snapshot(matrix.MemberLeave)}
	a.mail(b)
	for _, order := range [][]int{{1, 0, 1, 4, 3, 2}, {0, 2, 1, 0, 3, 4}, {2, 0, 3, 1, 4}, {0, 3, 2, 4, 1}, {0, 3, 4, 2, 1}} {
		b := play(t, 2)
		var late []int
		take := func(i int) {
			err := b.IngestSnapshot(context.Background(), a.s.Server, all[i])
			if errors.Is(err, ErrUnknownRoom) { // tried again later
				late = append(late, i)
			} else if err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range order {
			take(i)
		}
		for _, i := range slices.Clone(late) {
			take(i)
		}
		if m, _ := b.Membership(b.user, room); m != matrix.MemberLeave {
			t.Errorf("%v: the user's membership is %s", order, m)
		}
		// What ended it is shown to nobody who was never in the room but to the user.
		if _, err := b.State(b.user, room); !errors.Is(err, ErrNotMember) {
			t.Error(err)
		}
	}
	if n := len(all[1].State); n > 4 {
		t.Errorf("the end of an invite has %d pieces of state", n)
	}
	eve := play(t, 3)
	b.take(a, first)
	if err := b.IngestSnapshot(context.Background(), eve.s.Server, all[1]); !errors.Is(err, ErrBadSnapshot) {
		t.Error(err)
	}
}

func TestSecondLocalUserInvitedWhileNobodyWasIn(t *testing.T) {
	a, b, room, s := invited(t, Create{Topic: "t"})
	carol := b.at("carol")
	a.member(room, a.user, carol, matrix.MemberInvite)
	b.take(a, s)
	a.say(room, "1")
	a.post(b) // carol's snapshot
	b.member(room, b.user, b.user, matrix.MemberJoin)
	if cs, _ := b.sync(carol, 0); only(t, cs).Membership != matrix.MemberInvite {
		t.Fatalf("%+v", cs)
	}
	b.member(room, carol, carol, matrix.MemberJoin)
	b.post(a)
	a.say(room, "2")
	a.post(b)
	same(t, room, a, b)
	b.judge(room)
	// Now the node is in the room: another invite is an event like any other.
	dave := b.at("dave")
	a.member(room, a.user, dave, matrix.MemberInvite)
	if got := a.post(b); !slices.Equal(got, []byte{store.ItemEvent}) {
		t.Fatalf("delivered %v", got)
	}
	cs, _ := b.sync(dave, 0)
	if c := only(t, cs); c.Membership != matrix.MemberInvite || len(c.Invite) < 4 {
		t.Fatalf("%+v", c)
	}
	// A snapshot for it changes nothing but brings the events.
	id := a.member(room, a.user, b.at("erin"), matrix.MemberInvite)
	a.mail(b)
	s, err := a.Snapshot(room, id)
	if err != nil {
		t.Fatal(err)
	}
	b.take(a, s)
	if m, _ := b.Membership(b.at("erin"), room); m != matrix.MemberInvite {
		t.Fatal(m)
	}
	same(t, room, a, b)
}

func TestHistoryComesWithTheInviteAsVisibilityAllows(t *testing.T) {
	for vis, want := range map[string]int{"shared": 60, "joined": 0, "invited": 0, "world_readable": 60} {
		a, b := play(t, 1), play(t, 2)
		room := a.create(Create{InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", object(map[string]string{"history_visibility": vis})}}})
		for i := range want {
			a.say(room, fmt.Sprint(i))
		}
		if want == 0 {
			a.say(room, "private")
		}
		id := a.member(room, a.user, b.user, matrix.MemberInvite)
		s, err := a.Snapshot(room, id)
		if err != nil {
			t.Fatal(err)
		}
		b.take(a, s)
		if page, err := b.Messages(b.user, room, 0, true, 100, nil); !errors.Is(err, ErrNotMember) {
			t.Fatalf("who is only invited reads %v %v", types(page.Events), err)
		}
		b.member(room, b.user, b.user, matrix.MemberJoin)
		page, err := b.Messages(b.user, room, 0, false, 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := bodies(page.Events)
		if want == 0 && len(got) != 0 || want > 0 && (len(got) < 45 || got[len(got)-1] != "59") {
			t.Fatalf("%s: %q", vis, got)
		}
		// The events come in the order in which they were written, each once.
		if !slices.IsSortedFunc(page.Events, func(x, y Entry) int { return byDepth(x.Event, y.Event) }) {
			t.Fatalf("%s: out of order", vis)
		}
		b.post(a)
		a.say(room, "hello")
		a.post(b)
		same(t, room, a, b)
		b.judge(room)
	}
}

// What is said between an invite and its acceptance waits for the newcomer without being asked for.
func TestNewcomerIsHandedWhatWasSaidSinceTheInvite(t *testing.T) {
	for vis, want := range map[string][]string{"shared": {"0", "1"}, "joined": nil} {
		a, b := play(t, 1), play(t, 2)
		room := a.create(Create{Invite: []matrix.UserID{b.user}, InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", object(map[string]string{"history_visibility": vis})}}})
		a.post(b)
		b.member(room, b.user, b.user, matrix.MemberJoin)
		a.say(room, "0")
		a.say(room, "1")
		_, at := b.sync(b.user, 0)
		b.post(a)
		items := a.mail(b)
		if len(items) != 2 {
			t.Fatalf("%s: %d items", vis, len(items))
		}
		for _, i := range items {
			_, id := split(i.Data)
			raw, err := a.RawFor(b.s.Server, room, id)
			if err != nil {
				t.Fatal(err)
			}
			if visible := bytes.Contains(raw, []byte(`"body"`)); visible != (want != nil) {
				t.Fatalf("%s: %s", vis, raw)
			}
			a.hand(b, i)
		}
		a.say(room, "after")
		a.post(b)
		same(t, room, a, b) // the graph has no holes, whatever may be read of it
		if want == nil {
			continue
		}
		cs, _ := b.sync(b.user, at)
		want = append(want, "after")
		if got := bodies(only(t, cs).Timeline); !slices.Equal(got, want) {
			t.Fatalf("%s: %q", vis, got)
		}
	}
}

// A room that is too large for an invite says so to who invites; nothing waits for ever in the outbox.
func TestAnInviteToARoomThatIsTooLargeIsRefused(t *testing.T) {
	a, b, c := play(t, 1), play(t, 2), play(t, 3)
	a.meet(b)
	room := a.create(Create{Invite: []matrix.UserID{b.user}, Public: true})
	a.post(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	much := strings.Repeat("x", 9000)
	for i := range largeRoom {
		a.set(room, "org.example.much", fmt.Sprint(i), map[string]string{"text": much + fmt.Sprint(i)})
		if i == 100 { // what is measured is what a record of it has
			s, err := a.Snapshot(room, a.member(room, a.user, a.s.User("x").ID, matrix.MemberInvite))
			if err != nil {
				t.Fatal(err)
			}
			r, err := bundle.Snapshot{Room: s.Room, Version: s.Version, Event: s.Event, Heads: s.Heads, Events: s.Events, State: s.State, Certificates: s.Certificates}.Record()
			if n := s.size(); err != nil || n < len(r.Data) || n > len(r.Data)+200 || maxHandedOver != bundle.MaxRecord {
				t.Errorf("%d bytes are taken for %d (%v)", n, len(r.Data), err)
			}
		}
	}
	a.mail(b)
	if _, err := a.SetMembership(context.Background(), room, a.user, c.user, matrix.MemberInvite, "", false); !errors.Is(err, ErrLargeRoom) {
		t.Errorf("inviting: %v", err)
	}
	if items := a.mail(c); len(items) > 0 {
		t.Errorf("%d items wait", len(items))
	}
	if m, err := a.Membership(c.user, room); err != nil || m != "" {
		t.Errorf("the user is %q (%v)", m, err)
	}
	// Those whose server is in the room are invited as ever.
	if _, err := a.SetMembership(context.Background(), room, a.user, b.at("other"), matrix.MemberInvite, "", false); err != nil {
		t.Errorf("inviting to a server that is in the room: %v", err)
	}
	if got, ok := c.asks(a, Ask{ID: AskID{1}, Kind: AskJoin, Room: room, User: c.user}); !ok || got.Kind != AnswerNo {
		t.Errorf("asking: %v %v", got.Kind, ok)
	}
}
