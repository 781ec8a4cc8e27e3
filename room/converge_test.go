// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store"
	"tarn/store/storetest"
)

// letter is an item under way.
type letter struct {
	from, to *player
	item     store.Item
}

// world is some servers, and a post that delivers late, twice, in any order, or not at all.
type world struct {
	t       tb
	players []*player
	room    matrix.RoomID
	under   []letter
	lossy   bool
	talk    bool // messages only

	links  [][]bool                              // who is whose contact; nil: all
	said   map[[2]int]map[matrix.ServerName]bool // by speaker and hearer: Peer.Sources
	mortal bool                                  // servers die now and then while they take something
}

// can tells whether a player's letters go to another.
func (w *world) can(p, o *player) bool {
	return p != o && (w.links == nil || w.links[slices.Index(w.players, p)][slices.Index(w.players, o)])
}

// collect takes the outboxes.
func (w *world) collect() {
	for _, p := range w.players {
		for _, o := range w.players {
			if w.can(p, o) {
				for _, i := range p.mail(o) {
					w.under = append(w.under, letter{p, o, i})
				}
			}
		}
	}
}

// deliver hands over one letter without answering what is asked for.
func (w *world) deliver(l letter) {
	room, id := split(l.item.Data)
	if l.item.Kind == store.ItemInvite {
		l.from.hand(l.to, l.item)
		return
	}
	raw, err := l.from.Raw(room, id)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := l.to.Ingest(context.Background(), l.from.s.Server, room, [][]byte{raw}); err != nil {
		w.t.Fatal(err)
	}
}

// kill delivers a letter to a server that dies when it writes what it is about, and begins anew.
func (w *world) kill(l letter, after bool) {
	room, id := split(l.item.Data)
	raw, err := l.from.Raw(room, id)
	if err != nil {
		w.t.Fatal(err)
	}
	kv := l.to.kv
	l.to.kv = &storetest.Mortal{KV: kv, After: after}
	l.to.open()
	w.peers()
	if _, err := l.to.Ingest(context.Background(), l.from.s.Server, room, [][]byte{raw}); err != nil && !errors.Is(err, storetest.ErrDied) {
		w.t.Fatal(err)
	}
	l.to.kv = kv
	l.to.open()
	w.peers()
}

// heal gives everybody's heads to everybody until nothing changes, as "heads" summaries do.
func (w *world) heal() {
	w.flow()
	for range 2 * len(w.players) {
		for _, p := range w.players {
			for _, o := range w.players {
				heads, err := p.Heads(w.room)
				if errors.Is(err, ErrUnknownRoom) || !w.can(p, o) {
					continue
				}
				if err != nil {
					w.t.Fatal(err)
				}
				if _, err := o.Heads(w.room); err == nil {
					p.give(o, w.room, heads...)
				}
			}
		}
	}
	w.flow()
}

// join lets everybody into a room of the first player's.
func (w *world) join(v matrix.RoomVersion) {
	a := w.players[0]
	c := Create{Creator: a.user, Version: v, PowerLevels: []byte(`{"events_default":0,"state_default":0,"ban":50,"kick":50}`)}
	for _, p := range w.players[1:] {
		c.Invite = append(c.Invite, p.user)
		for _, o := range w.players {
			if p != o {
				p.meet(o)
			}
		}
	}
	w.room = a.create(c)
	for _, p := range w.players[1:] {
		a.post(p)
		p.member(w.room, p.user, p.user, matrix.MemberJoin)
	}
	w.heal()
	same(w.t, w.room, w.players...)
}

// act does something at random; what is not allowed does not happen.
func (w *world) act(t *rapid.T, i int) {
	p := w.players[rapid.IntRange(0, len(w.players)-1).Draw(t, "who")]
	var other []matrix.UserID
	for _, o := range w.players {
		other = append(other, o.user, o.at("x"))
	}
	ctx := context.Background()
	send := func(typ string, key *string, content any) {
		_, err := p.Send(ctx, NewEvent{Room: w.room, Sender: p.user, Type: typ, StateKey: key, Content: object(content)})
		if err != nil && !errors.Is(err, ErrForbidden) && !errors.Is(err, ErrUnknownRoom) {
			t.Fatal(err)
		}
	}
	what := rapid.IntRange(0, 9).Draw(t, "what")
	if w.talk && what > 2 && what < 7 {
		what = 0
	}
	switch what {
	case 0, 1, 2:
		send(matrix.TypeMessage, nil, map[string]any{"body": fmt.Sprint(i)})
	case 3:
		send(matrix.TypeName, new(string), map[string]any{"name": fmt.Sprint(i)})
	case 4:
		send(matrix.TypeTopic, new(string), map[string]any{"topic": fmt.Sprint(i)})
	case 5:
		u := rapid.SampledFrom(other).Draw(t, "whom")
		m := rapid.SampledFrom([]string{matrix.MemberInvite, matrix.MemberBan, matrix.MemberLeave, matrix.MemberJoin}).Draw(t, "membership")
		if slices.ContainsFunc(w.players, func(o *player) bool { return o.user == u }) {
			return // the players stay
		}
		by := p.user
		if m == matrix.MemberJoin {
			by, u = p.at("x"), p.at("x")
		}
		_, err := p.SetMembership(ctx, w.room, by, u, m, "", false)
		if err != nil && !errors.Is(err, ErrForbidden) && !errors.Is(err, ErrUnknownRoom) && !errors.Is(err, ErrNotMember) {
			t.Fatal(err)
		}
	case 6:
		if p != w.players[0] {
			return
		}
		users := map[matrix.UserID]int{}
		for _, o := range w.players[1:] {
			users[o.user] = rapid.IntRange(0, 99).Draw(t, "level")
		}
		if !w.version().PrivilegedRoomCreators() {
			users[p.user] = 100
		}
		send(matrix.TypePowerLevels, new(string), map[string]any{"users": users, "state_default": rapid.IntRange(0, 60).Draw(t, "default")})
	default:
		w.collect()
		n := rapid.IntRange(0, 6).Draw(t, "letters")
		for range min(n, len(w.under)) {
			k := rapid.IntRange(0, len(w.under)-1).Draw(t, "letter")
			l := w.under[k]
			if w.mortal && rapid.IntRange(0, 9).Draw(t, "death") == 0 && l.item.Kind != store.ItemInvite {
				w.kill(l, rapid.Bool().Draw(t, "after the commit"))
				continue // it was not acknowledged
			}
			switch fate := rapid.IntRange(0, 5).Draw(t, "fate"); {
			case fate == 0 && w.lossy && l.item.Kind != store.ItemInvite:
			case fate == 1:
				w.deliver(l) // and again later
				continue
			default:
				w.deliver(l)
			}
			w.under = slices.Delete(w.under, k, k+1)
		}
	}
}

func (w *world) version() matrix.RoomVersion {
	v, err := w.players[0].Version(w.room)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// meetAgain lets everybody speak once they have heard everything, and one after all: what was soft-failed here and not there
// is joined by that (dag, "Invariants").
func (w *world) meetAgain() {
	for _, p := range w.players {
		w.heal()
		p.say(w.room, "roll call")
	}
	w.heal()
	w.players[0].say(w.room, "end")
	w.heal()
}

func TestServersConvergeWhateverThePostDoes(t *testing.T) {
	checks(t, 25, func(rt *rapid.T) {
		w := &world{t: rt, lossy: rapid.Bool().Draw(rt, "lossy")}
		for i := range 3 {
			w.players = append(w.players, play(rt, i+1))
		}
		w.join(rapid.SampledFrom([]matrix.RoomVersion{"11", "12"}).Draw(rt, "version"))
		for i := range rapid.IntRange(5, 40).Draw(rt, "steps") {
			w.act(rt, i)
		}
		w.meetAgain()
		same(rt, w.room, w.players...)
		for _, p := range w.players {
			p.judge(w.room)
		}
		// And each shows each event once.
		want := 0
		for _, p := range w.players {
			ids := p.all(p.user, w.room, 7)
			n := len(ids)
			slices.Sort(ids)
			if len(slices.Compact(ids)) != n {
				rt.Fatal("an event twice in a timeline")
			}
			want = max(want, n)
		}
	})
}

// judge checks what must hold in a server's rows for a room: the indexes say what the state says.
func (p *player) judge(room matrix.RoomID) {
	p.t.Helper()
	err := p.read(room, func(q *reading) error {
		s, err := q.state(q.row.current)
		if err != nil {
			return err
		}
		n := 0
		for k, id := range s {
			if k.Type != matrix.TypeMember {
				continue
			}
			n++
			e, err := q.byID(id)
			if err != nil {
				return err
			}
			if m, err := q.member(matrix.UserID(k.Key)); err != nil || m != e.ev.Membership() {
				p.t.Fatalf("%s is %q in the index, %q in the state (%v)", k.Key, m, e.ev.Membership(), err)
			}
			if p.local(matrix.UserID(k.Key)) {
				row, err := q.user(matrix.UserID(k.Key))
				if err != nil || row.membership != e.ev.Membership() || row.event != mustHash(id) {
					p.t.Fatalf("%s stands as %q, %q in the state (%v)", k.Key, row.membership, e.ev.Membership(), err)
				}
			}
		}
		c, err := q.count()
		if err != nil {
			return err
		}
		total := 0
		for _, x := range c.known {
			total += x
		}
		if total != n {
			p.t.Fatalf("%d members in the index, %d in the state", total, n)
		}
		t, err := q.tallyOf()
		if err != nil || t.joined != c.joined || t.invited != c.invited {
			p.t.Fatalf("counted %d joined, %d invited, not %d, %d (%v)", t.joined, t.invited, c.joined, c.invited, err)
		}
		for _, x := range t.remotes {
			if in, err := q.serverIn(x); err != nil || !in {
				p.t.Fatalf("server %s is not in its index (%v)", x, err)
			}
		}
		// Every event of the graph has its parents, and the heads are heads.
		heads := map[matrix.EventID]bool{}
		for _, h := range q.row.heads {
			heads[h.id()] = true
		}
		return q.walk(0, ^seq(0), false, func(e placed) (bool, error) {
			for _, id := range e.ev.PrevEvents() {
				if heads[id] {
					p.t.Fatalf("a head has a child")
				}
			}
			return true, nil
		})
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// Others write beside the invite, on parents that the newcomer never gets: the newcomer must not be stuck, and must
// come to the same room.
func TestNewcomerConvergesWithWhatWasWrittenBesideTheInvite(t *testing.T) {
	checks(t, 25, func(rt *rapid.T) {
		w := &world{t: rt}
		for i := range 3 {
			w.players = append(w.players, play(rt, i+1))
		}
		w.join(rapid.SampledFrom([]matrix.RoomVersion{"11", "12"}).Draw(rt, "version"))
		if w.talk = rapid.Bool().Draw(rt, "private history"); w.talk {
			// Not all of the room's states can be known then: what was said must arrive nevertheless.
			w.players[0].set(w.room, matrix.TypeHistoryVisibility, "", map[string]string{"history_visibility": "joined"})
		}
		if rapid.IntRange(0, 4).Draw(rt, "long history") == 0 {
			w.talk = true
			for i := range historyEvents + 15 {
				w.players[0].say(w.room, fmt.Sprint("old ", i))
			}
			w.heal()
		}
		for i := range rapid.IntRange(0, 20).Draw(rt, "steps before") {
			w.act(rt, i)
		}
		a, d := w.players[0], play(rt, 4)
		for _, o := range w.players {
			d.meet(o)
		}
		a.member(w.room, a.user, d.user, matrix.MemberInvite)
		for _, i := range a.mail(d) {
			if i.Kind == store.ItemInvite {
				a.hand(d, i)
			} else {
				w.under = append(w.under, letter{a, d, i})
			}
		}
		for i := range rapid.IntRange(0, 5).Draw(rt, "steps between") {
			w.act(rt, 100+i)
		}
		d.member(w.room, d.user, d.user, matrix.MemberJoin)
		w.players = append(w.players, d)
		for i := range rapid.IntRange(0, 10).Draw(rt, "steps after") {
			w.act(rt, 200+i)
		}
		w.meetAgain()
		same(rt, w.room, w.players...)
		for _, p := range w.players {
			p.judge(w.room)
		}
		if n := d.lacking(w.room); len(n) != 0 {
			rt.Fatalf("still wanted: %v", n)
		}
	})
}
