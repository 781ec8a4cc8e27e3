// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/store"
	"tarn/store/storetest"
)

// Random schedules: two nodes talk while everything between and under them fails by lot. What is drawn for one play
// stands in schedulePlay; what must hold at its end is checked there too: both sides have every message once and in
// order, nothing waits, and no index ever sealed two contents.

// schedules is how many plays a run makes: a few in CI, `make schedules` for 100,000.
func schedules(t *testing.T) (first, count int) {
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			return otherwise
		}
		return n
	}
	return number("TARN_FIRST", 0), number("TARN_SCHEDULES", plays(40))
}

func TestRandomSchedulesLoseNothingDoubleNothingAndReuseNoIndex(t *testing.T) {
	first, count := schedules(t)
	var sum played
	for seed := first; seed < first+count && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("TARN_FIRST=%d TARN_SCHEDULES=1 plays it again", seed)
				}
			}()
			schedulePlay(t, rand.New(rand.NewPCG(uint64(seed), 7)), &sum)
		})
	}
	t.Logf("%d plays: %+v", count, sum)
	if count >= 40 && (sum.Crashes == 0 || sum.Drops == 0 || sum.Silences == 0 || sum.Skews == 0 || sum.Breaks == 0 || sum.Direct == 0 || sum.Absences == 0) {
		t.Error("something never happened")
	}
}

// played is what happened in all plays.
type played struct {
	Messages, Crashes, Drops, Losses, Silences, Skews, Breaks, Direct, Absences int
}

// stage is one play's players and faults.
type stage struct {
	t     *testing.T
	rng   *rand.Rand
	w     *world
	nodes []*node
	disks []store.KV
	sent  [][]string
	sum   *played
	met   bool // the nodes were contacts before the trouble began
}

// boot (re)starts a node, which dies at a drawn write if crash: as if it was killed there.
func (s *stage) boot(i int, crash bool) {
	n := s.nodes[i]
	if n.stop != nil {
		n.stop()
	}
	n.kv = s.disks[i]
	if crash {
		n.kv = &storetest.Mortal{KV: n.kv, Left: s.rng.IntN(20), After: s.rng.IntN(2) == 1}
		s.sum.Crashes++
	}
	e, err := New(n.config())
	if errors.Is(err, storetest.ErrDied) {
		n.kv = s.disks[i]
		e, err = New(n.config())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	n.engine = e
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	n.stop = func() { cancel(); <-done; n.stop = nil }
}

// say sends a message if the node's disk still takes it.
func (s *stage) say(i int) {
	body := fmt.Sprint(i, " ", len(s.sent[i]))
	if s.rng.IntN(12) == 0 {
		body += " " + rand32k()
	}
	if s.nodes[i].rooms.send(s.t, lounge, body) != "" {
		s.sent[i] = append(s.sent[i], body)
		s.sum.Messages++
	}
}

// chance is true once in n.
func (s *stage) chance(n int) bool { return s.rng.IntN(n) == 0 }

// trouble draws what fails in the next round.
func (s *stage) trouble() {
	for _, st := range s.w.stores {
		st.set(func(f *fakeStore) {
			f.down, f.full, f.swap, f.hide, f.delay = nil, false, nil, nil, 0
			switch s.rng.IntN(14) {
			case 0:
				f.down = errors.New("dead")
				s.sum.Silences++
			case 1:
				f.full = true
			case 2:
				f.swap = func(_ mailbox.Handle, b *[mailbox.BoxSize]byte) { b[99] ^= 1 }
			case 3:
				if s.met { // a hidden answer to a link is not looked for: there are new links
					f.hide = func(mailbox.Handle) bool { return true }
				}
			case 4:
				f.lose()
				s.sum.Losses++
			case 5:
				f.delay = time.Duration(s.rng.IntN(10)) * time.Second
			}
		})
	}
	for _, c := range s.w.couriers {
		c.set(func(f *fakeCourier) {
			f.down, f.drop, f.net = nil, nil, time.Duration(s.rng.IntN(3000))*time.Millisecond
			switch s.rng.IntN(6) {
			case 0:
				f.down = errors.New("dead")
				f.broken++
				s.sum.Breaks++
			case 1:
				f.broken++ // killed and started again
				s.sum.Breaks++
			case 2:
				share, rng := 1+s.rng.IntN(100), rand.New(rand.NewPCG(s.rng.Uint64(), 1))
				var mu sync.Mutex // frames of several nodes ask at once
				f.drop = func(bool, mailbox.Address) bool {
					mu.Lock()
					defer mu.Unlock()
					return rng.IntN(100) < share
				}
				s.sum.Drops++
			}
		})
	}
	for i, n := range s.nodes {
		n.offline.set(s.chance(6))
		if s.chance(3) {
			s.boot(i, s.chance(2))
		}
	}
}

// well ends all trouble; clocks stay wrong.
func (s *stage) well() {
	for _, st := range s.w.stores {
		st.set(func(f *fakeStore) { f.down, f.full, f.swap, f.hide, f.delay = nil, false, nil, nil, 0 })
	}
	for _, c := range s.w.couriers {
		c.set(func(f *fakeCourier) { f.down, f.drop, f.net = nil, nil, 100*time.Millisecond })
	}
	for i, n := range s.nodes {
		n.offline.set(false)
		s.boot(i, false)
	}
}

func schedulePlay(t *testing.T, rng *rand.Rand, sum *played) {
	p := CustomProfile(3*time.Second, 0.3)
	s := &stage{t: t, rng: rng, sum: sum, sent: make([][]string, 2)}
	s.w = newWorld(t, 1+rng.IntN(3))
	var own []mailbox.Address
	for i := range len(s.w.stores) {
		st := s.w.store(byte(i))
		own = append(own, st.address)
		if s.chance(4) {
			st.skew = time.Duration(rng.IntN(4*3600)-2*3600) * time.Second
			sum.Skews++
		}
	}
	var couriers []mailbox.Address
	if rng.IntN(4) > 0 {
		for i := range 1 + rng.IntN(2) {
			couriers = append(couriers, s.w.courier(byte(i)).address)
		}
	} else {
		sum.Direct++
	}
	for i := range 2 {
		n := s.w.node(byte(i+1), p)
		n.own, n.couriers = own, couriers
		s.nodes, s.disks = append(s.nodes, n), append(s.disks, n.kv)
	}
	a, b := s.nodes[0], s.nodes[1]
	a.rooms.join(lounge, a.name(), b.name())
	b.rooms.join(lounge, a.name(), b.name())
	defer s.w.stopAll()
	s.boot(0, false)
	s.boot(1, false)
	l, err := a.engine.Invite(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Accept(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	if rng.IntN(3) > 0 { // else the trouble begins at once
		s.w.until(3*time.Hour, "the contact", func() bool {
			return a.state(b.name()) == Active && b.state(a.name()) == Active && a.status(b.name()).Number != ""
		})
		s.met = true
	}
	for range 2 + rng.IntN(3) {
		s.trouble()
		for i := range s.nodes {
			for range rng.IntN(4) {
				s.say(i)
			}
		}
		time.Sleep(time.Duration(1+rng.IntN(20)) * time.Second)
	}
	if s.met && s.chance(20) {
		// One is away for two weeks; the other has said something and is switched on now and then.
		sum.Absences++
		away := rng.IntN(2)
		s.nodes[away].stop()
		for range 3 {
			s.boot(1-away, false)
			s.say(1 - away)
			time.Sleep(20 * time.Second)
			s.nodes[1-away].stop()
			time.Sleep(14 * 24 * time.Hour / 3)
		}
	}
	s.well()
	s.say(0)
	s.say(1)
	s.check()
}

// check waits until everything is delivered and acknowledged.
func (s *stage) check() {
	total := len(s.sent[0]) + len(s.sent[1])
	for _, n := range s.nodes {
		s.w.has(n, lounge, total, 12*time.Hour)
	}
	for _, n := range s.nodes {
		got := n.rooms.bodies(lounge)
		for i := range s.sent {
			mine := slices.DeleteFunc(slices.Clone(got), func(x string) bool { return x[0] != byte('0'+i) })
			if !slices.Equal(mine, s.sent[i]) {
				s.t.Errorf("%.4s has %d of %d messages, or not in order", n.name(), len(mine), len(s.sent[i]))
			}
		}
		if len(got) != total {
			s.t.Errorf("%.4s has %d messages, %d were sent", n.name(), len(got), total)
		}
	}
	quiet(s.w, s.nodes[0], s.nodes[1], 12*time.Hour)
	s.noIndexTwice()
}

// noIndexTwice looks at all stores together: a box may lie in two, and must be the same in both.
func (s *stage) noIndexTwice() {
	first := map[mailbox.BoxID][32]byte{}
	for _, st := range s.w.stores {
		st.mu.Lock()
		for id, contents := range st.written {
			for sum := range contents {
				if old, ok := first[id]; ok && old != sum {
					s.t.Error("an index was used for two contents")
				}
				first[id] = sum
			}
		}
		st.mu.Unlock()
	}
}
