// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// header is what a courier sees of a half.
func header(t *testing.T, h Half, courier mailbox.Address) (target mailbox.Address, delay time.Duration) {
	f, ok := h.(*fakeHalf)
	if !ok {
		t.Fatalf("a half of kind %T", h)
	}
	if f.client == nil {
		return courier, f.delay
	}
	return f.client.address, f.delay
}

// A half that was not ready in time is replaced by an idle one that a courier cannot tell from it: for each draw of the
// schedule the same delay, and targets of the same distribution.
func TestALateHalfLooksLikeAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Balanced()
		w, ns := courierWorld(t, 2, 3, p)
		a, b := ns[0], ns[1]
		a.start()
		b.start()
		defer w.stopAll()
		w.contact(a, b)
		a.rooms.join(lounge, a.name(), b.name())
		b.rooms.join(lounge, a.name(), b.name())
		time.Sleep(time.Hour)
		for i := range 600 {
			a.rooms.send(t, lounge, fmt.Sprint(i, " ", string(make([]byte, 8000))))
			b.rooms.send(t, lounge, fmt.Sprint(i))
		}
		time.Sleep(3 * time.Minute)
		e := a.engine
		s := schedule{rand.New(rand.NewChaCha8([32]byte{7}))}
		var busy, idle []seenFrame
		for range 1500 {
			f, ok := e.placeFrame(s.frame())
			if !ok {
				t.Fatal("no session is up")
			}
			put, get := newHalf(&f, true, f.putWay(&p)), newHalf(&f, false, f.getWay(&p))
			jp, jg := e.prepareFrame(&f, put, get)
			isReal := jp.deposit && !jp.cover
			var one seenFrame
			for h, j := range map[*half]job{put: jp, get: jg} {
				go j.do(context.Background(), h) //nolint:errcheck // it ends with errNotSent
				target, delay := header(t, <-h.ready, f.guard.address)
				if target != h.target {
					t.Fatalf("a half for %v that says %v", target, h.target)
				}
				if h == put {
					one.put, one.putDelay = target, delay
				} else {
					one.get, one.getDelay = target, delay
				}
				h.leave(errNotSent)
				synctest.Wait()
				if h == put {
					j.finish(e, nil) // else it were the same box each time
				} else {
					j.finish(e, errNotSent)
				}
			}
			if isReal {
				busy = append(busy, one)
			}
			var late seenFrame
			h, seen := f.idlePut(f.putWay(&p))
			if late.put, late.putDelay = header(t, h, f.guard.address); late.put != seen {
				t.Fatal("the trace of an idle PUT is another")
			}
			h, seen = f.idleGet(f.getWay(&p))
			if late.get, late.getDelay = header(t, h, f.guard.address); late.get != seen {
				t.Fatal("the trace of an idle GET is another")
			}
			idle = append(idle, late)
			if late.putDelay != one.putDelay || late.getDelay != one.getDelay {
				t.Fatalf("delays of %v and %v, late ones of %v and %v", one.putDelay, one.getDelay, late.putDelay, late.getDelay)
			}
			if late.putDelay == 0 || late.getDelay == 0 {
				t.Fatal("a delay of nothing")
			}
		}
		put := shares(busy, idle, func(f seenFrame) mailbox.Address { return f.put })
		get := shares(busy, idle, func(f seenFrame) mailbox.Address { return f.get })
		t.Logf("%d real boxes; targets differ by %.1f (PUT) and %.1f (GET) standard errors", len(busy), put, get)
		if put > 4 || get > 4 {
			t.Error("late halves have other targets")
		}
		if len(busy) < 150 {
			t.Errorf("only %d halves were busy", len(busy))
		}
	})
}

// Real boxes take the place of cover: who talks writes as many boxes as who does not.
func TestCoverMakesRoomForRealBoxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hours = 12
		p := Balanced()
		w, ns := courierWorld(t, 4, 3, p)
		for _, n := range ns {
			n.start()
		}
		defer w.stopAll()
		for _, pair := range [][2]*node{{ns[0], ns[1]}, {ns[2], ns[3]}} {
			w.contact(pair[0], pair[1])
			pair[0].rooms.join(lounge, pair[0].name(), pair[1].name())
			pair[1].rooms.join(lounge, pair[0].name(), pair[1].name())
		}
		time.Sleep(2 * time.Hour)
		written := func(n *node) (boxes int) {
			for _, s := range w.stores {
				s.mu.Lock()
				boxes += s.writers[n.name()]
				s.mu.Unlock()
			}
			return boxes
		}
		var before, opened [4]int
		for i, n := range ns {
			before[i], opened[i] = written(n), int(n.engine.Counts().Opened)
		}
		for i := range hours * 30 { // one box in two minutes, each way; cover is one in 33 seconds
			ns[0].rooms.send(t, lounge, fmt.Sprint("a", i))
			time.Sleep(time.Minute)
			ns[1].rooms.send(t, lounge, fmt.Sprint("b", i))
			time.Sleep(time.Minute)
		}
		talk := written(ns[0]) + written(ns[1]) - before[0] - before[1]
		quiet := written(ns[2]) + written(ns[3]) - before[2] - before[3]
		real := int(ns[0].engine.Counts().Opened) - opened[0]
		t.Logf("in %d hours two nodes that talk (%d boxes one way) wrote %d boxes, two that do not %d", hours, real, talk, quiet)
		if real < hours*25 {
			t.Errorf("only %d boxes came", real)
		}
		// Without making room it would be 0.7 * 720 more: a fifth. Chance (4 nodes, 2,600 boxes each pair): 2 %.
		if d := float64(talk-quiet) / float64(quiet); d > 0.08 || d < -0.08 {
			t.Errorf("%.0f %% more boxes", 100*d)
		}
	})
}

// A node whose couriers take fewer frames than its profile makes says so, and goes on when the profile is slower.
func TestACourierThatTakesFewerFramesIsSaidTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, ns := courierWorld(t, 1, 2, CustomProfile(100*time.Millisecond, 0.3))
		for _, c := range w.couriers {
			c.set(func(c *fakeCourier) { c.least = time.Second })
		}
		n := ns[0]
		n.start()
		defer w.stopAll()
		time.Sleep(10 * time.Minute)
		tr := n.engine.Traffic()
		for _, c := range tr.Couriers {
			if c.Connected || c.Problem == "" || c.Problem != "It takes fewer frames a second than the profile makes: choose a slower profile, or another courier." {
				t.Errorf("connected %v, %q", c.Connected, c.Problem)
			}
		}
		time.Sleep(directAfter)
		if tr = n.engine.Traffic(); tr.Mode != Direct || tr.Notice == "" || len(tr.Couriers) == 0 {
			t.Errorf("mode %v, %q", tr.Mode, tr.Notice)
		}
		if err := n.engine.SetProfile(CustomProfile(2*time.Second, 0.3)); err != nil {
			t.Fatal(err)
		}
		w.until(time.Hour, "frames", func() bool {
			tr = n.engine.Traffic()
			return tr.Mode == Couriers && len(tr.Couriers) == 2 && tr.Couriers[0].Connected && tr.Couriers[1].Connected
		})
		if tr.Couriers[0].Problem != "" || tr.Notice != "" {
			t.Errorf("%q, %q", tr.Couriers[0].Problem, tr.Notice)
		}
		// Faster again: the sessions that are there stay until there are better ones, and the node says what is wrong.
		if err := n.engine.SetProfile(CustomProfile(100*time.Millisecond, 0.3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if tr = n.engine.Traffic(); tr.Couriers[0].Problem == "" || tr.Mode != Couriers {
			t.Errorf("mode %v, %q", tr.Mode, tr.Couriers[0].Problem)
		}
	})
}
