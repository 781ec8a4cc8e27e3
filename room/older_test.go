// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store"
)

// curious makes a player that fetches what is older.
func curious(t tb, n int, o Older) *player {
	p := play(t, n)
	p.older = o
	p.open()
	return p
}

// comes has b invited by a, and joined; everybody hears of it.
func (p *player) comes(room matrix.RoomID, b *player) {
	p.t.Helper()
	p.meet(b)
	p.member(room, p.user, b.user, matrix.MemberInvite)
	p.passes(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.passes(p)
	p.passes(b)
}

// passes is post but for questions, which are lost.
func (p *player) passes(o *player) {
	p.t.Helper()
	p.questions(o)
}

// wonders lets time pass, and gives what p then asks o for what is older.
func (p *player) wonders(o *player) (out []Ask) {
	p.t.Helper()
	for range 2 {
		time.Sleep(2 * time.Minute)
		if err := p.Tend(time.Now(), time.Minute); err != nil {
			p.t.Fatal(err)
		}
		out = append(out, p.questions(o)...)
	}
	return out
}

// tells answers a question for what is older.
func (p *player) tells(o *player, q Ask) (a Answer, ok bool) {
	p.t.Helper()
	if err := p.TakeQuestion(o.s.Server, q); err != nil {
		p.t.Fatal(err)
	}
	for _, i := range p.mail(o) {
		if i.Kind != store.ItemOlder && i.Kind != store.ItemAnswer {
			p.hand(o, i)
			continue
		}
		var err error
		if a, err = p.PackAnswer(o.s.Server, i.Data); err != nil {
			p.t.Fatal(err)
		}
		ok = true
	}
	return a, ok
}

// fetches has p ask all the others, and take their answers.
func (p *player) fetches(others ...*player) (n int) {
	p.t.Helper()
	for _, o := range others {
		for _, q := range p.wonders(o) {
			if a, ok := o.tells(p, q); ok {
				n++
				if err := p.TakeAnswer(context.Background(), o.s.Server, a); err != nil {
					p.t.Fatal(err)
				}
			}
		}
	}
	return n
}

// TestThePastComesInAnyOrder: rooms with forks, members that come and go, restarts: a client pages while it comes, and sees each event once; what comes has the places and the states that
// it has at those who were there.
func TestThePastComesInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { rapid.Check(timeless{t}, pastComes) })
}

// timeless is a test whose deadline rapid does not ask for: in a bubble nobody may.
type timeless struct{ rapid.TB }

func (p *player) isOutlier(room matrix.RoomID, id matrix.EventID) (out bool) {
	_ = p.read(room, func(q *reading) error {
		e, err := q.byID(id)
		out = err == nil && e.outlier
		return err
	})
	return out
}

func pastComes(r *rapid.T) {
	a, c := play(r, 1), play(r, 3)
	b := curious(r, 2, Older{Ahead: rapid.SampledFrom([]int{0, 100, 1000}).Draw(r, "ahead"), Most: 10_000})
	room := a.create(Create{})
	a.comes(room, c)
	n := 0
	talk := func(rounds int) {
		for range rounds {
			p := rapid.SampledFrom([]*player{a, c}).Draw(r, "who")
			switch n++; rapid.IntRange(0, 9).Draw(r, "what") {
			case 0:
				a.set(room, matrix.TypeTopic, "", map[string]any{"topic": fmt.Sprint(n)})
			case 1:
				p.set(room, matrix.TypeMember, string(p.user), map[string]any{"membership": "join", "displayname": fmt.Sprint(n)})
			case 2, 3:
				a.passes(c)
				c.passes(a)
			default:
				for range rapid.IntRange(1, 12).Draw(r, "words") {
					p.say(room, fmt.Sprint(n))
				}
			}
		}
		a.passes(c)
		c.passes(a)
		same(r, room, a, c)
	}
	talk(rapid.IntRange(0, 40).Draw(r, "before"))
	in := func() {
		a.comes(room, b)
		a.meet(c)
		b.meet(c)
		a.passes(c)
		c.passes(a)
	}
	in()
	if rapid.Bool().Draw(r, "again") {
		for range rapid.IntRange(0, 3).Draw(r, "fetched") {
			b.fetches(a, c)
		}
		b.member(room, b.user, b.user, matrix.MemberLeave)
		b.passes(a)
		b.passes(c)
		talk(rapid.IntRange(0, 40).Draw(r, "meanwhile"))
		in()
	}

	// The client pages while things happen.
	var got []matrix.EventID
	var from store.Pos
	limit := rapid.IntRange(1, 60).Draw(r, "limit")
	for steps := 0; ; steps++ {
		if steps > 3000 {
			r.Fatal("paging without end")
		}
		switch rapid.IntRange(0, 9).Draw(r, "happens") {
		case 0:
			b.open()
			b.meet(a)
		case 1:
			a.say(room, "new")
			a.passes(b)
			a.passes(c)
		case 2, 3:
			b.fetches(a, c)
		}
		page, err := b.Messages(b.user, room, from, true, limit, nil)
		if err != nil {
			r.Fatal(err)
		}
		for _, e := range page.Events {
			got = append(got, e.ID())
		}
		if !page.More {
			break
		}
		if from = page.End; page.Older && len(page.Events) == 0 {
			b.fetches(a, c)
		}
	}
	place := map[matrix.EventID]int{}
	for i, id := range got {
		if _, twice := place[id]; twice {
			r.Fatalf("%s twice", a.describe(room, id))
		}
		place[id] = i
	}
	whole := a.all(a.user, room, 1000)
	whole = whole[slices.Index(whole, got[0]):] // what was said since the client began
	if len(whole) != len(got) {
		for _, id := range whole {
			if _, ok := place[id]; !ok {
				r.Logf("missing: %s; here: %s", a.describe(room, id), b.describe(room, id))
			}
		}
		r.Fatalf("%d events, not %d", len(got), len(whole))
	}
	of := func(id matrix.EventID) (pos store.Pos, state bool) {
		e, err := b.Event(b.user, room, id)
		if err != nil {
			r.Fatal(err)
		}
		return e.Pos, e.StateKey() != nil
	}
	states := func(p *player, id matrix.EventID) (out map[matrix.StateKey]matrix.EventID, prev []matrix.EventID) {
		err := p.read(room, func(q *reading) error {
			e, err := q.byID(id)
			if err != nil {
				return err
			}
			out, err = q.state(e.before)
			prev = e.ev.PrevEvents()
			return err
		})
		if err != nil {
			r.Fatal(err)
		}
		return out, prev
	}
	for i, id := range got {
		want, prev := states(a, id)
		have, _ := states(b, id)
		if len(want) != len(have) {
			r.Errorf("%s: %d entries of state, not %d: %s", a.describe(room, id), len(have), len(want), b.describe(room, id))
		}
		for k, v := range want {
			if have[k] != v {
				r.Errorf("%s: another %v", a.describe(room, id), k)
			}
		}
		for _, p := range prev {
			if j, ok := place[p]; ok && j < i {
				// But for the state that came with the snapshot and that what came with it follows: it was shown there.
				if pos, state := of(p); state && b.isOutlier(room, p) {
					if at, _ := of(id); at != pos {
						continue
					}
				}
				r.Errorf("%s stands before its parent", a.describe(room, id))
			}
		}
	}
	for range 3 {
		for _, p := range []*player{a, b, c} {
			for _, o := range []*player{a, b, c} {
				if p != o {
					p.passes(o)
				}
			}
		}
	}
	same(r, room, a, b, c)
}

// TestThePastIsBounded: no more comes of a room's past than the node wants, and then the client is told that it is all.
func TestThePastIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := play(t, 1), curious(t, 2, Older{Ahead: 50_000, Most: 300})
		room := a.create(Create{})
		for i := range 620 {
			a.say(room, fmt.Sprint(i))
		}
		a.comes(room, b)
		n := 0
		for range 10 {
			n += b.fetches(a)
		}
		page, err := b.Messages(b.user, room, 0, true, 1000, nil)
		if err != nil || page.More || page.Older {
			t.Errorf("there is more: %v", err)
		}
		if got := len(page.Events); n != 2 || got < 300+historyEvents || got > 300+olderPage+historyEvents+10 {
			t.Errorf("%d events by %d answers", got, n)
		}
		// What its operator allows later comes later.
		b.older.Most = 50_000
		b.open()
		for range 10 {
			b.fetches(a)
		}
		if got, want := len(b.all(b.user, room, 1000)), len(a.all(a.user, room, 1000)); got != want {
			t.Errorf("%d events, not %d", got, want)
		}
	})
}

// TestWhoCanNotBeAskedEndsTheTimeline: if those who could be asked say no, more than once, the client is told that this is all; when somebody comes who has it, it goes on.
func TestWhoCanNotBeAskedEndsTheTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := play(t, 1), curious(t, 2, Older{Ahead: 100, Most: 1000}), play(t, 3)
		room := a.create(Create{})
		for i := range 200 {
			a.say(room, fmt.Sprint(i))
		}
		a.comes(room, c)
		a.comes(room, b)
		a.meet(c)
		b.meet(c)
		a.passes(c)
		refuse := func(p *player) {
			for _, q := range b.wonders(p) {
				if err := b.TakeAnswer(context.Background(), p.s.Server, Answer{ID: q.ID, Kind: AnswerNo}); err != nil {
					t.Fatal(err)
				}
			}
		}
		edge := func() Page {
			page, err := b.Messages(b.user, room, 0, true, 1000, nil)
			if err != nil {
				t.Fatal(err)
			}
			return page
		}
		for i := range 60 {
			if older := b.Older(); i < 2 {
				select {
				case <-older:
					t.Fatal("whoever waits is woken for nothing")
				default:
				}
			}
			refuse(a)
			refuse(c)
			if !edge().More {
				if i < 2 {
					t.Errorf("one no was believed")
				}
				break
			}
			if i == 59 {
				t.Fatal("the client is told for ever that there is more")
			}
		}
		for range 40 {
			b.fetches(a)
			time.Sleep(time.Hour)
		}
		if got, want := len(b.all(b.user, room, 1000)), len(a.all(a.user, room, 1000)); got != want {
			t.Errorf("%d events, not %d", got, want)
		}
	})
}
