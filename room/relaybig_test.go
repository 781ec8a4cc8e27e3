// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// TestDelayOfTheLastMember measures, for a room of many servers, how long an event takes to the last of them and how many copies of it are made
// (make full). The rooms are real; the way between two nodes is a model of the profile balanced: a node puts one box into each frame
// of 10 s, a box arrives after 37 s on average, at least 15; a summary goes to each contact after Exp(1 h), and what it shows to be missing is
// asked for after 2 minutes and comes after two ways more.
func TestDelayOfTheLastMember(t *testing.T) {
	n, events := 14, 3
	if os.Getenv("TARN_FULL") != "" {
		n, events = 50, 20
	}
	rng := rand.New(rand.NewChaCha8([32]byte{1}))
	for _, shape := range []string{"clique", "random of 8", "star"} {
		links := make([][]bool, n)
		for i := range links {
			links[i] = make([]bool, n)
		}
		link := func(i, j int) { links[i][j], links[j][i] = i != j, i != j }
		for i := range n {
			switch shape {
			case "clique":
				for j := range i {
					link(i, j)
				}
			case "star":
				link(i, 0)
			default:
				for range 4 {
					link(i, rng.IntN(n))
				}
				link(i, (i+1)%n)
			}
		}
		w := crowd(t, n)
		w.links = links
		w.tellAll()
		var last, median []time.Duration
		copies := 0
		for i := range events {
			m := newMails(w, rng)
			m.say(rng.IntN(n), fmt.Sprint(i))
			all := slices.Sorted(slices.Values(m.reached))
			last, median, copies = append(last, all[n-1]), append(median, all[n/2]), copies+m.copies
		}
		slices.Sort(last)
		slices.Sort(median)
		t.Logf("%s, %d servers, %d events: %.1f copies an event; half of them have it after %v, all after %v (median), %v (worst)", shape, n, events,
			float64(copies)/float64(events), median[events/2].Round(time.Second), last[events/2].Round(time.Second), last[events-1].Round(time.Second))
		// Each rounds up the number that it gives to.
		if c := float64(copies) / float64(events); c > (fanOut+1)*float64(n) {
			t.Errorf("%s: %.1f copies an event", shape, c)
		}
		if last[events-1] > time.Hour {
			t.Errorf("%s: the last of %d servers had an event after %v", shape, n, last[events-1])
		}
	}
}

// crowd is n servers in one room, quickly made: all hear from the first one.
func crowd(t *testing.T, n int) *world {
	t.Helper()
	w := &world{t: t, said: map[[2]int]map[matrix.ServerName]bool{}}
	w.gather(n)
	a := w.players[0]
	c := Create{Creator: a.user}
	for _, p := range w.players[1:] {
		c.Invite = append(c.Invite, p.user)
	}
	w.room = a.create(c)
	for _, p := range w.players[1:] {
		a.post(p)
		p.member(w.room, p.user, p.user, matrix.MemberJoin)
		p.post(a)
	}
	heads, err := a.Heads(w.room)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range w.players[1:] {
		a.give(p, w.room, heads...)
	}
	for _, p := range w.players {
		for _, o := range w.players {
			p.mail(o) // all have it
		}
	}
	same(t, w.room, w.players...)
	return w
}

// More wrote at once than an event can have parents: everybody in the room can speak nevertheless.
func TestAMemberSpeaksThoughTheRoomHasMoreHeadsThanParentsFit(t *testing.T) {
	w := crowd(t, 26)
	if heads, err := w.players[0].Heads(w.room); err != nil || len(heads) <= matrix.MaxPrev {
		t.Fatalf("%d heads, %v", len(heads), err)
	}
	for _, p := range w.players {
		p.say(w.room, "here") // ErrForbidden, if the parents were the first that come
	}
}

// mails is the way of one event through a world, in a time of its own.
type mails struct {
	*world
	rng     *rand.Rand
	free    []time.Duration // when a node's next frame has room
	reached []time.Duration
	copies  int
	due     []mail
}

type mail struct {
	at       time.Duration
	from, to int
	heads    bool // a summary; else the event
}

func newMails(w *world, rng *rand.Rand) *mails {
	m := &mails{world: w, rng: rng, free: make([]time.Duration, len(w.players)), reached: make([]time.Duration, len(w.players))}
	for i := range m.reached {
		m.reached[i] = -1
		for j := range w.players {
			if w.links[i][j] {
				m.due = append(m.due, mail{time.Duration(rng.ExpFloat64() * float64(time.Hour)), i, j, true})
			}
		}
	}
	return m
}

func (m *mails) way() time.Duration {
	return 15*time.Second + time.Duration(m.rng.ExpFloat64()*float64(22*time.Second))
}

// say lets a node say something and follows it until everybody has it.
func (m *mails) say(by int, text string) {
	m.t.Helper()
	id := m.players[by].say(m.room, text)
	m.reached[by] = 0
	m.collect(by, 0)
	for left := len(m.players) - 1; left > 0; {
		if len(m.due) == 0 {
			m.t.Fatal("an event stays away for ever")
		}
		k := 0
		for i, x := range m.due {
			if x.at < m.due[k].at {
				k = i
			}
		}
		x := m.due[k]
		m.due = slices.Delete(m.due, k, k+1)
		switch {
		case x.heads && m.reached[x.from] >= 0 && m.reached[x.to] < 0:
			at := x.at + m.way() + 2*time.Minute + m.way() + m.way()
			m.due = append(m.due, mail{at, x.from, x.to, false})
			continue
		case x.heads:
			m.due = append(m.due, mail{x.at + time.Duration(m.rng.ExpFloat64()*float64(time.Hour)), x.from, x.to, true})
			continue
		}
		m.copies++
		from, to := m.players[x.from], m.players[x.to]
		raw, err := from.RawFor(to.s.Server, m.room, id)
		if err != nil {
			m.t.Fatal(err)
		}
		if _, err := to.Ingest(context.Background(), from.s.Server, m.room, [][]byte{raw}); err != nil {
			m.t.Fatal(err)
		}
		if m.reached[x.to] < 0 {
			m.reached[x.to] = x.at
			left--
			m.collect(x.to, x.at)
		}
	}
	for _, p := range m.players { // what is still on its way changes nothing
		for _, o := range m.players {
			m.copies += len(p.mail(o))
		}
	}
	for _, x := range m.due {
		if !x.heads {
			m.copies++
		}
	}
}

// collect puts what a node passes on into its frames, one a frame.
func (m *mails) collect(by int, now time.Duration) {
	var to []int
	for j, o := range m.players {
		for _, i := range m.players[by].mail(o) {
			if i.Kind == store.ItemEvent {
				to = append(to, j)
			}
		}
	}
	m.rng.Shuffle(len(to), func(i, j int) { to[i], to[j] = to[j], to[i] })
	for _, j := range to {
		m.free[by] = max(m.free[by], now) + time.Duration(m.rng.ExpFloat64()*float64(10*time.Second))
		m.due = append(m.due, mail{m.free[by] + m.way(), by, j, false})
	}
}
