// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// watchedFrames runs a pair for some hours and returns what the couriers see of the first node.
func watchedFrames(t *testing.T, hours int, during func(w *world, a, b *node)) (frames []seenFrame) {
	synctest.Test(t, func(t *testing.T) {
		p := Balanced()
		p.InFlight = 1024
		w, ns := courierWorld(t, 2, 3, p)
		w.network(700 * time.Millisecond)
		a, b := ns[0], ns[1]
		a.start()
		b.start()
		w.friends(a, b)
		begin := playStart.Add(2 * time.Hour)
		time.Sleep(time.Until(begin))
		during(w, a, b)
		time.Sleep(time.Until(begin.Add(time.Duration(hours) * time.Hour)))
		w.stopAll()
		for _, c := range w.couriers {
			for _, f := range c.frames {
				if f.node == a.name() && f.at > 2*time.Hour && f.at < time.Duration(2+hours)*time.Hour {
					f.courier = c.address
					frames = append(frames, f)
				}
			}
		}
		slices.SortFunc(frames, func(x, y seenFrame) int { return int(x.at - y.at) })
	})
	return frames
}

// schedule is what must not depend on content at all; the targets' must not in distribution.
func scheduleOf(fs []seenFrame) (out []seenFrame) {
	for _, f := range fs {
		f.put, f.get = mailbox.Address{}, mailbox.Address{}
		out = append(out, f)
	}
	return out
}

// shares counts targets and compares two distributions: the largest difference of shares, in standard errors.
func shares(a, b []seenFrame, of func(seenFrame) mailbox.Address) float64 {
	count := func(fs []seenFrame) map[mailbox.Address]float64 {
		m := map[mailbox.Address]float64{}
		for _, f := range fs {
			m[of(f)]++
		}
		return m
	}
	x, y, worst := count(a), count(b), 0.0
	for k := range x {
		p, q := x[k]/float64(len(a)), y[k]/float64(len(b))
		m := (x[k] + y[k]) / float64(len(a)+len(b))
		se := math.Sqrt(m * (1 - m) * (1/float64(len(a)) + 1/float64(len(b))))
		worst = max(worst, math.Abs(p-q)/max(se, 1e-9))
	}
	for k := range y {
		if _, ok := x[k]; !ok && y[k] > 5 {
			worst = math.Inf(1)
		}
	}
	return worst
}

func TestFramesDoNotDependOnContent(t *testing.T) {
	const hours = 4
	idle := watchedFrames(t, hours, func(*world, *node, *node) {})
	if len(idle) < hours*300 {
		t.Fatalf("only %d frames in %d hours", len(idle), hours)
	}
	couriers := map[mailbox.Address]int{}
	for _, f := range idle {
		couriers[f.courier]++
	}
	if len(couriers) != 2 {
		t.Errorf("frames went to %d couriers", len(couriers))
	}
	plays := map[string]func(*world, *node, *node){
		"conversation": func(w *world, a, b *node) {
			for i := range 300 {
				a.rooms.send(t, lounge, fmt.Sprint("a", i))
				b.rooms.send(t, lounge, fmt.Sprint("b", i))
				time.Sleep(45 * time.Second)
			}
			if n := len(b.rooms.bodies(lounge)); n < 500 {
				t.Errorf("the conversation did not take place: %d events", n)
			}
		},
		"a store that does not answer": func(w *world, a, b *node) {
			w.store(1).set(func(s *fakeStore) { s.down = errSilent })
			for i := range 100 {
				a.rooms.send(t, lounge, fmt.Sprint("a", i))
				time.Sleep(time.Minute)
			}
		},
		"a flood": func(w *world, a, b *node) {
			for i := range 2000 {
				b.rooms.send(t, lounge, fmt.Sprint("b", i, make([]byte, 3000)))
			}
		},
	}
	for name, play := range plays {
		t.Run(name, func(t *testing.T) {
			idle := idle
			if name == "a store that does not answer" { // that may show; what is said then may not
				idle = watchedFrames(t, hours, func(w *world, _, _ *node) { w.store(1).set(func(s *fakeStore) { s.down = errSilent }) })
			}
			got := watchedFrames(t, hours, play)
			if !slices.Equal(scheduleOf(got), scheduleOf(idle)) {
				t.Errorf("%d frames, %d when idle, or at other times, by other couriers, or with other delays", len(got), len(idle))
			}
			put := shares(idle, got, func(f seenFrame) mailbox.Address { return f.put })
			get := shares(idle, got, func(f seenFrame) mailbox.Address { return f.get })
			t.Logf("targets differ by %.1f (PUT) and %.1f (GET) standard errors", put, get)
			if put > 4 || get > 4 {
				t.Error("the targets depend on what is said")
			}
		})
	}
	// The positive control: the comparison does see what it is to see.
	cut := slices.Clone(idle)
	for i := range cut {
		if i%10 == 0 {
			cut[i].put = cut[0].put
		}
	}
	if shares(idle, cut, func(f seenFrame) mailbox.Address { return f.put }) < 2 {
		t.Error("a tenth of other targets is not seen")
	}
}

func TestACourierThatDiesIsReplacedByTheOtherAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ns := courierWorld(t, 2, 3, Balanced())
		w.network(700 * time.Millisecond)
		defer w.stopAll()
		a, b := ns[0], ns[1]
		a.start()
		b.start()
		w.friends(a, b)
		talk(t, w, a, b, 3, time.Hour)
		dead := w.courier(0)
		dead.set(func(c *fakeCourier) { c.down = errors.New("switched off"); c.broken++ })
		before, sent := w.courier(1).carried(), a.left()
		talk(t, w, b, a, 6, time.Hour)
		if n := a.left() - sent; n == 0 || w.courier(1).carried() == before {
			t.Errorf("%d frames left while one courier was down", n)
		}
		if m := a.engine.Traffic(); m.Mode != Couriers {
			t.Errorf("the mode is %v", m.Mode)
		}
		calls := a.called()
		dead.set(func(c *fakeCourier) { c.down = nil })
		had := dead.carried()
		w.until(2*time.Hour, "frames by the courier that came back", func() bool { return dead.carried() > had+3 })
		talk(t, w, a, b, 9, time.Hour)
		if a.called() != calls {
			t.Error("something was asked directly")
		}
	})
}

func TestWithoutCouriersTheNodeSpeaksDirectlyAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ns := courierWorld(t, 2, 1, Balanced())
		w.network(700 * time.Millisecond)
		defer w.stopAll()
		a, b := ns[0], ns[1]
		a.start()
		b.start()
		w.friends(a, b)
		talk(t, w, a, b, 2, time.Hour)
		for _, c := range w.couriers {
			c.set(func(c *fakeCourier) { c.down = errors.New("switched off"); c.broken++ })
		}
		calls := a.called()
		time.Sleep(directAfter - 5*time.Minute)
		if a.called() != calls {
			t.Error("a lost session makes the node speak directly at once")
		}
		talk(t, w, b, a, 4, 2*time.Hour)
		tr := a.engine.Traffic()
		if tr.Mode != Direct || tr.Notice == "" || a.called() == calls {
			t.Errorf("mode %v, %q", tr.Mode, tr.Notice)
		}
		for _, c := range w.couriers {
			c.set(func(c *fakeCourier) { c.down = nil })
		}
		w.until(2*time.Hour, "frames again", func() bool { return a.engine.Traffic().Mode == Couriers })
	})
}

func TestGuardsAreKeptOverRestartsAndReplacedForCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ns := courierWorld(t, 1, 2, Balanced())
		defer w.stopAll()
		n := ns[0]
		for i := 2; i < 8; i++ {
			n.couriers = append(n.couriers, w.courier(byte(i)).address)
		}
		chosen := func() (out []mailbox.Address) {
			for _, c := range n.engine.Traffic().Couriers {
				out = append(out, c.Address)
			}
			return out
		}
		n.start()
		w.until(time.Hour, "two couriers", func() bool {
			tr := n.engine.Traffic()
			return len(tr.Couriers) == 2 && tr.Couriers[0].Connected && tr.Couriers[1].Connected
		})
		first := chosen()
		for i := range 3 {
			n.stop()
			n.seed[31] = byte(i + 1)
			n.start()
			time.Sleep(time.Hour)
			if got := chosen(); !slices.Equal(got, first) {
				t.Fatalf("after restart %d the couriers are others", i)
			}
		}
		// One that is away for an hour is kept, one that is away for a day is not.
		w.couriers[first[0]].set(func(c *fakeCourier) { c.down = errors.New("off"); c.broken++ })
		time.Sleep(2 * time.Hour)
		if !slices.Equal(chosen(), first) {
			t.Error("a courier was replaced after two hours")
		}
		time.Sleep(22 * time.Hour)
		now := chosen()
		if slices.Contains(now, first[0]) || !slices.Contains(now, first[1]) || len(now) != 2 {
			t.Errorf("after a day the couriers are %v, were %v", now, first)
		}
		// And after its time is over each is.
		n.engine.mu.Lock()
		n.engine.chooseCouriers(time.Now().Add(59 * 24 * time.Hour))
		n.engine.mu.Unlock()
		if !slices.Contains(chosen(), first[1]) {
			t.Error("a courier was replaced before 60 days")
		}
		n.engine.mu.Lock()
		n.engine.chooseCouriers(time.Now().Add(91 * 24 * time.Hour))
		n.engine.mu.Unlock()
		if slices.Contains(chosen(), first[1]) || len(chosen()) != 2 {
			t.Error("a courier was kept for more than 90 days")
		}
	})
}

func TestCourierAndStoreOfOneOperatorAreNotUsedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Balanced()
		w, ns := courierWorld(t, 2, 3, p)
		defer w.stopAll()
		w.courier(0).family = "acme"
		w.store(0).family = "acme"
		for _, n := range ns {
			n.start()
		}
		w.contact(ns[0], ns[1])
		for _, n := range ns {
			n.rooms.join(lounge, ns[0].name(), ns[1].name())
		}
		time.Sleep(20 * time.Minute)
		c := w.courier(0)
		c.set(func(c *fakeCourier) { c.frames = nil })
		talk(t, w, ns[0], ns[1], 20, 2*time.Hour)
		time.Sleep(2 * time.Hour)
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.frames) < 100 {
			t.Fatalf("%d frames", len(c.frames))
		}
		for _, f := range c.frames {
			if f.put == w.store(0).address || f.get == w.store(0).address {
				t.Fatal("a courier carries for a store of its own operator")
			}
		}
	})
}
