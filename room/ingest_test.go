// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
	"tarn/store"
)

// pair is two servers in one room.
func pair(t tb) (a, b *player, room matrix.RoomID) {
	a, b = play(t, 1), play(t, 2)
	room = a.create(Create{Invite: []matrix.UserID{b.user}})
	a.post(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	return a, b, room
}

func (p *player) raw(room matrix.RoomID, id matrix.EventID) []byte {
	p.t.Helper()
	raw, err := p.Raw(room, id)
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

func (p *player) ingest(from *player, room matrix.RoomID, raws ...[]byte) Ingested {
	p.t.Helper()
	in, err := p.Ingest(context.Background(), from.s.Server, room, raws)
	if err != nil {
		p.t.Fatal(err)
	}
	return in
}

func TestEventsWaitForTheirParentsAcrossRestarts(t *testing.T) {
	a, b, room := pair(t)
	var raws [][]byte
	for i := range 40 {
		raws = append(raws, a.raw(room, a.say(room, fmt.Sprint(i))))
	}
	first := raws[0]
	rest := slices.Clone(raws[1:])
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	want, err := matrix.Parse("12", first)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range rest {
		if in := b.ingest(a, room, raw); len(in.Stored) != 0 || in.Bad != 0 {
			t.Fatalf("%+v", in)
		}
	}
	b.open()
	if ids := b.lacking(room); !slices.Equal(ids, []matrix.EventID{want.ID()}) {
		t.Fatalf("wanted %v, not %s", ids, want.ID())
	}
	// Again, with one more: only the one is asked for.
	if in := b.ingest(a, room, rest[:5]...); len(in.Missing[room]) != 1 || in.Missing[room][0] != want.ID() {
		t.Fatalf("%+v", in)
	}
	if in := b.ingest(a, room, first); len(in.Stored) != 40 || len(in.Missing) != 0 {
		t.Fatalf("%d stored, %+v", len(in.Stored), in.Missing)
	}
	same(t, room, a, b)
	for _, table := range []byte{tabPending, tabWaiting} {
		for k := range dump(t, b.kv) {
			if k[0] == table {
				t.Fatal("a row of a waiting event stays behind")
			}
		}
	}
	page, err := b.Messages(b.user, room, 0, false, 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range bodies(page.Events) {
		if s != fmt.Sprint(i) {
			t.Fatalf("%q at %d", s, i)
		}
	}
}

func TestWaitingEventsAreBounded(t *testing.T) {
	a, b, room := pair(t)
	c := play(t, 3)
	a.say(room, "the parent that never comes")
	var raws [][]byte
	for i := range maxPendingStranger * 2 {
		raws = append(raws, a.raw(room, a.say(room, fmt.Sprint(i))))
	}
	count := func() (n int) {
		for k := range dump(t, b.kv) {
			if k[0] == tabPending {
				n++
			}
		}
		return n
	}
	slices.Reverse(raws)
	for _, raw := range raws {
		b.ingest(c, room, raw) // delivered by a server that has nothing to do with the room
	}
	if n := count(); n != maxPendingStranger {
		t.Fatalf("%d events of a stranger wait", n)
	}
	// The shallowest stay, whatever order they came in: they will be of use first.
	have := map[int64]bool{}
	err := b.read(room, func(q *reading) error {
		all, err := q.allParked()
		for _, x := range all {
			have[x.depth] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := matrix.Parse("12", raws[len(raws)-1])
	if err != nil {
		t.Fatal(err)
	}
	for d := range int64(maxPendingStranger) {
		if !have[ev.Depth()+d] {
			t.Fatalf("depth %d was evicted: %v", ev.Depth()+d, slices.Sorted(maps.Keys(have)))
		}
	}
	if got := evict(nil, nil); got != nil {
		t.Fatal(got)
	}
}

func TestEvictionKeepsTheBoundsOfRoomAndPeers(t *testing.T) {
	var all []parked
	for i := range 6 * maxPendingPeer {
		p := parked{from: matrix.ServerName(fmt.Sprint("peer", i%5)), depth: int64(i)}
		p.h[0], p.h[1] = byte(i), byte(i>>8)
		all = append(all, p)
	}
	gone := evict(slices.Clone(all), func(s matrix.ServerName) bool { return s != "peer4" })
	per := map[matrix.ServerName]int{}
	out := map[hash]bool{}
	for _, h := range gone {
		out[h] = true
	}
	for _, p := range all {
		if !out[p.h] {
			per[p.from]++
		}
	}
	total := 0
	for s, n := range per {
		total += n
		if n > maxPendingPeer || s == "peer4" && n > maxPendingStranger {
			t.Errorf("%s keeps %d", s, n)
		}
	}
	if total > maxPending || total < maxPending/2 {
		t.Errorf("%d stay", total)
	}
	slices.Reverse(all)
	again := evict(all, func(s matrix.ServerName) bool { return s != "peer4" })
	if !slices.Equal(gone, again) {
		t.Error("the order of arrival matters")
	}
}

func TestBadEventsAreRefused(t *testing.T) {
	a, b, room := pair(t)
	other := a.create(Create{})
	c := play(t, 3) // a server that is not in the room
	b.meet(c)
	id := a.say(room, "good")
	good := a.raw(room, id)
	forged := slices.Clone(a.raw(room, a.say(room, "to be forged")))
	flip(forged, "signatures")
	alien, err := matrix.Build("12", matrix.Proto{Room: room, Sender: c.user, Type: matrix.TypeMessage, Content: body("x"),
		PrevEvents: []matrix.EventID{id}, Depth: 100, Time: time.UnixMilli(1)}, c.s.Signer)
	if err != nil {
		t.Fatal(err)
	}
	stranger := play(t, 4)
	unknown, err := matrix.Build("12", matrix.Proto{Room: room, Sender: stranger.user, Type: matrix.TypeMessage, Content: body("x"),
		PrevEvents: []matrix.EventID{id}, Depth: 100, Time: time.UnixMilli(1)}, stranger.s.Signer)
	if err != nil {
		t.Fatal(err)
	}
	b.ingest(a, room, good)
	for what, raw := range map[string][]byte{
		"nothing": nil, "no JSON": []byte("{"), "not canonical": append([]byte(" "), good...), "forged": forged,
		"another room": a.raw(other, a.say(other, "x")), "a server that is not in the room": alien.Raw(),
	} {
		before := dump(t, b.kv)
		if in := b.ingest(a, room, raw); in.Bad != 1 || len(in.Stored) != 0 || len(in.Missing) != 0 {
			t.Errorf("%s: %+v", what, in)
		}
		if !equalDumps(before, dump(t, b.kv)) {
			t.Errorf("%s: something was kept", what)
		}
	}
	if in := b.ingest(a, room, unknown.Raw()); in.Bad != 0 || !slices.Equal(in.Unknown, []matrix.ServerName{stranger.s.Server}) {
		t.Errorf("an unknown server: %+v", in)
	}
	if in := b.ingest(a, "!nowhere", good); in.Bad != 1 {
		t.Errorf("an unknown room: %+v", in)
	}
	// Rejected events of members are kept, so that their children are not asked for again, and shown to nobody.
	bad, err := matrix.Build("12", matrix.Proto{Room: room, Sender: a.user, Type: matrix.TypeName, StateKey: new(string), Content: []byte(`{}`),
		PrevEvents: []matrix.EventID{id}, Depth: 100, Time: time.UnixMilli(1)}, a.s.Signer) // without auth events
	if err != nil {
		t.Fatal(err)
	}
	if in := b.ingest(a, room, bad.Raw()); in.Bad != 0 || len(in.Stored) != 0 {
		t.Errorf("%+v", in)
	}
	if s, err := b.Status(room, bad.ID()); err != nil || s != dag.Rejected {
		t.Errorf("%v %v", s, err)
	}
	if _, err := b.Event(b.user, room, bad.ID()); !errors.Is(err, ErrUnknownEvent) {
		t.Errorf("%v", err)
	}
}

func TestSpoiltEventIsReplacedByTheWholeOne(t *testing.T) {
	a, b, room := pair(t)
	id := a.say(room, "what was written")
	ev, err := matrix.Parse("12", a.raw(room, id))
	if err != nil {
		t.Fatal(err)
	}
	b.ingest(a, room, ev.Redact().Raw())
	if e, err := b.Event(b.user, room, id); err != nil || string(e.Content()) != "{}" || e.RedactedBy != nil {
		t.Fatalf("%v %v", e, err)
	}
	b.ingest(a, room, ev.Raw())
	b.ingest(a, room, ev.Redact().Raw())
	for range 2 {
		if e, err := b.Event(b.user, room, id); err != nil || e.ContentString("body") != "what was written" {
			t.Fatalf("%v %v", e, err)
		}
		b.open()
	}
	same(t, room, a, b)
}

// Also when the two come while their parent is missing, in any order, over a restart.
func TestSpoiltEventThatWaitsIsReplacedByTheWholeOne(t *testing.T) {
	a, b, room := pair(t)
	for i, order := range []string{"spoilt parent whole", "whole spoilt parent", "spoilt whole parent", "spoilt whole spoilt parent"} {
		parent := a.say(room, "the parent")
		id := a.say(room, "what was written")
		ev, err := matrix.Parse("12", a.raw(room, id))
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range strings.Fields(order) {
			b.ingest(a, room, map[string][]byte{"parent": a.raw(room, parent), "whole": ev.Raw(), "spoilt": ev.Redact().Raw()}[what])
			if i%2 == 0 {
				b.open()
			}
		}
		if e, err := b.Event(b.user, room, id); err != nil || e.ContentString("body") != "what was written" {
			t.Errorf("%s: %v %v", order, e, err)
		}
	}
	same(t, room, a, b)
}

func TestRedactionBeforeItsEvent(t *testing.T) {
	a, b, room := pair(t)
	// The redaction and its event stand beside each other, so that the redaction can come first.
	base := a.say(room, "base")
	b.ingest(a, room, a.raw(room, base))
	br := func(typ string, content string, redacts matrix.EventID) *matrix.Event {
		var auth []matrix.EventID
		s, _ := a.current(room)
		p := matrix.Proto{Room: room, Sender: a.user, Type: typ, Content: []byte(content), Redacts: redacts, PrevEvents: []matrix.EventID{base}, Depth: 50, Time: time.UnixMilli(1)}
		auth = dag.AuthEvents("12", s, p)
		p.AuthEvents = auth
		ev, err := matrix.Build("12", p, a.s.Signer)
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	slip := br(matrix.TypeMessage, `{"body":"slip"}`, "")
	red := br(matrix.TypeRedaction, `{}`, slip.ID())
	b.ingest(a, room, red.Raw())
	b.ingest(a, room, slip.Raw())
	e, err := b.Event(b.user, room, slip.ID())
	if err != nil || string(e.Content()) != "{}" || e.RedactedBy == nil || e.RedactedBy.ID() != red.ID() {
		t.Fatalf("%+v %v", e, err)
	}
	// A redaction by who may not changes nothing: here the other server's, without the power.
	id := a.say(room, "stays")
	a.give(b, room, id)
	s, _ := b.current(room)
	p := matrix.Proto{Room: room, Sender: b.user, Type: matrix.TypeRedaction, Content: []byte(`{}`), Redacts: id, PrevEvents: []matrix.EventID{id}, Depth: 60, Time: time.UnixMilli(1)}
	p.AuthEvents = dag.AuthEvents("12", s, p)
	bad, err := matrix.Build("12", p, b.s.Signer)
	if err != nil {
		t.Fatal(err)
	}
	a.ingest(b, room, bad.Raw())
	if e, err := a.Event(a.user, room, id); err != nil || e.ContentString("body") != "stays" {
		t.Fatalf("%+v %v", e, err)
	}
}

func TestKickAndBanReachTheServer(t *testing.T) {
	a, b, room := pair(t)
	_, at := b.sync(b.user, 0)
	a.say(room, "last")
	a.member(room, a.user, b.user, matrix.MemberLeave)
	a.say(room, "not for bob")
	if got := a.post(b); !slices.Equal(got, []byte{store.ItemEvent, store.ItemEvent}) {
		t.Fatalf("delivered %v", got)
	}
	cs, at := b.sync(b.user, at)
	if c := only(t, cs); c.Membership != matrix.MemberLeave || !slices.Equal(bodies(c.Timeline), []string{"last"}) {
		t.Fatalf("%+v", c)
	}
	if _, err := b.Heads(room); !errors.Is(err, ErrUnknownRoom) {
		t.Fatal(err)
	}
	a.member(room, a.user, b.user, matrix.MemberBan)
	if got := a.mail(b); len(got) != 1 {
		t.Fatalf("delivered %v", got)
	}
	if in := b.ingest(a, room, a.raw(room, a.say(room, "x"))); in.Bad != 1 {
		t.Fatalf("%+v", in)
	}
	if rooms, _ := b.Shared(a.s.Server); len(rooms) != 0 {
		t.Fatal(rooms)
	}
	if rooms, _ := b.Joined(b.user); len(rooms) != 0 {
		t.Fatal(rooms)
	}
	if cs, _ := b.sync(b.user, at); len(cs) != 0 {
		t.Fatalf("%+v", cs)
	}
	// What was there stays, until it is forgotten.
	if got := b.all(b.user, room, 5); len(got) < 8 {
		t.Fatalf("%d events", len(got))
	}
}

// The library's random rooms, with forks, skewed clocks and refused events, in any order: the state is the one that dag
// comes to on its own.
func TestRandomRoomsComeOutAsTheGraphSays(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 7))
		version := matrix.RoomVersion("12")
		if seed%2 == 1 {
			version = "11"
		}
		servers := []dagtest.Server{dagtest.NewServer(1), dagtest.NewServer(2), dagtest.NewServer(3)}
		var users []dagtest.User
		for i, s := range servers {
			users = append(users, s.User(fmt.Sprint("u", i+1)))
		}
		rr, err := dagtest.Random(rng.IntN, version, users, 40)
		if err != nil {
			t.Fatal(err)
		}
		events := rr.Events()
		p := play(t, 9)
		for i := range servers {
			o := play(t, i+1)
			p.meet(o)
		}
		id := events[0].Room()
		// The node is in the room as an observer: there is no user of its own, so it is told so.
		l, err := p.make(id)
		if err != nil {
			t.Fatal(err)
		}
		err = p.view(func(rd snapshot) error {
			pl, err := p.beginNew(l, rd, id, version)
			if err != nil {
				return err
			}
			in, err := pl.try(events[0])
			if err != nil {
				return err
			}
			if _, err = pl.put(events[0], in); err != nil {
				return err
			}
			pl.census.locals["@observer:"+matrix.UserID(p.s.Server)] = matrix.MemberJoin
			_, err = pl.commit()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		ref := dagtest.NewRoom(id, version)
		shuffled := slices.Clone(events[1:])
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if _, err := ref.Deliver(events[0]); err != nil {
			t.Fatal(err)
		}
		for len(shuffled) > 0 {
			n := min(len(shuffled), 1+rng.IntN(5))
			var raws [][]byte
			for _, ev := range shuffled[:n] {
				raws = append(raws, ev.Raw())
				raws = append(raws, ev.Raw()) // twice
			}
			shuffled = shuffled[n:]
			in, err := p.Ingest(context.Background(), servers[0].Server, id, raws)
			if err != nil {
				t.Fatal(err)
			}
			if in.Bad != 0 {
				t.Fatalf("seed %d: %d bad", seed, in.Bad)
			}
		}
		for _, ev := range events[1:] {
			if _, err := ref.Deliver(ev); err != nil {
				t.Fatal(err)
			}
		}
		soft := false
		err = p.read(id, func(q *reading) error {
			for _, ev := range events {
				want, e := ref.Events[ev.ID()], (*held)(nil)
				if e, err = q.byID(ev.ID()); err != nil {
					return err
				}
				if e == nil {
					return fmt.Errorf("event %s is not held", ev.ID())
				}
				soft = soft || e.status == dag.SoftFailed || want.Status == dag.SoftFailed
				if (e.status == dag.Rejected) != (want.Status == dag.Rejected) {
					return fmt.Errorf("event %s is %v, not %v", ev.ID(), e.status, want.Status)
				}
				s, err := q.state(e.after)
				if err != nil {
					return err
				}
				if !s.Equal(want.After) {
					return fmt.Errorf("the state after %s is another", ev.ID())
				}
			}
			s, err := q.state(q.row.current)
			if err == nil && !soft && !s.Equal(ref.Current) {
				return errors.New("the current state is another")
			}
			return err
		})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(p.waiting(id)) != 0 {
			t.Fatalf("seed %d: events still wait", seed)
		}
	}
}

func (p *player) waiting(room matrix.RoomID) (out []parked) {
	p.t.Helper()
	err := p.read(room, func(q *reading) (err error) {
		out, err = q.allParked()
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}
