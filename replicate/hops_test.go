// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

func paranoid(t testing.TB) Profile {
	t.Helper()
	p, err := ParseProfile("paranoid")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParanoidDeliversThroughThreeCouriersInTimeAndConstantBytes(t *testing.T) {
	measures(t)
	if testing.Short() {
		t.Skip("hours of three layers")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newRealWorld(t, 2, 5, 700*time.Millisecond)
		defer w.end()
		var ns []*node
		for i := range 4 {
			ns = append(ns, w.add(byte(i+1), paranoid(t)))
		}
		for i := 0; i < len(ns); i += 2 {
			w.contact(ns[i], ns[i+1])
			ns[i].rooms.join(lounge, ns[i].name(), ns[i+1].name())
			ns[i+1].rooms.join(lounge, ns[i].name(), ns[i+1].name())
		}
		time.Sleep(30 * time.Minute)
		for _, n := range ns {
			if tr := n.engine.Traffic(); tr.Hops != 3 || tr.Notice != "" {
				t.Errorf("traffic goes through %d couriers: %q", tr.Hops, tr.Notice)
			}
		}
		w.far.mu.Lock()
		before, direct, began := w.far.up["session"]+w.far.down["session"], w.far.up["mailbox"], time.Now()
		w.far.mu.Unlock()
		took := conversations(w.t, ns, 16)
		w.far.mu.Lock()
		bytes, elapsed := w.far.up["session"]+w.far.down["session"]-before, time.Since(began)
		if n := w.far.up["mailbox"] - direct; n != 0 {
			t.Errorf("%d bytes went to mailboxes directly", n)
		}
		w.far.mu.Unlock()
		day := float64(bytes) / float64(len(ns)) * float64(24*time.Hour) / float64(elapsed)
		want := ns[0].engine.Traffic()
		mean, p95 := stats(took)
		t.Logf("%d deliveries: mean %v, p95 %v, promised %v; %.1f MB a day and node, promised %.1f", len(took), mean.Round(100*time.Millisecond),
			p95.Round(100*time.Millisecond), want.ExpectedDelay, day/1e6, float64(want.BytesPerDay)/1e6)
		if mean > 240*time.Second || p95 > 345*time.Second { // simulated: 226 and 338
			t.Errorf("mean %v, p95 %v", mean, p95)
		}
		if math.Abs(day-float64(want.BytesPerDay)) > 0.08*day || math.Abs(float64(want.BytesPerDay)-220e6) > 0.05*220e6 {
			t.Errorf("%.1f MB a day, promised %.1f", day/1e6, float64(want.BytesPerDay)/1e6)
		}
	})
}

func TestTooFewCouriersForTheProfileAreSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRealWorld(t, 1, 2, 10*time.Millisecond)
		defer w.end()
		p := paranoid(t)
		p.Lag, p.Mix = 3*time.Second, 200*time.Millisecond
		a, b := w.add(1, p), w.add(2, p)
		w.contact(a, b)
		tr := a.engine.Traffic()
		if tr.Hops != 1 || tr.Mode != Couriers || tr.Notice == "" {
			t.Errorf("through %d couriers (%v): %q", tr.Hops, tr.Mode, tr.Notice)
		}
	})
}

// A courier on the way that is gone is left for another one; nothing is lost.
func TestACourierOnTheWayThatDiesIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRealWorld(t, 1, 6, 10*time.Millisecond)
		defer w.end()
		p := paranoid(t)
		p.Lag, p.Mix = 3*time.Second, 200*time.Millisecond
		a, b := w.add(1, p), w.add(2, p)
		w.friends(a, b)
		route := func() (out []mailbox.Address) {
			a.engine.mu.Lock()
			defer a.engine.mu.Unlock()
			for _, g := range a.engine.guards {
				for _, h := range a.engine.routeOf(g, time.Now()) {
					out = append(out, h.address)
				}
			}
			return out
		}
		before := route()
		if len(before) != 4 {
			t.Fatalf("%d couriers on the ways", len(before))
		}
		guards := func() (out []mailbox.Address) {
			for _, c := range a.engine.Traffic().Couriers {
				out = append(out, c.Address)
			}
			return out
		}
		used := guards()
		for _, c := range w.couriers {
			if c.Address() == before[0] {
				c.Kill()
			}
		}
		for i := range 3 {
			a.rooms.send(t, lounge, fmt.Sprint("in trouble ", i))
			time.Sleep(20 * time.Minute)
		}
		w.has(b, lounge, 3, 3*time.Hour)
		if now := route(); slices.Contains(now, before[0]) {
			t.Error("it is still on the way")
		}
		if !slices.Equal(used, guards()) {
			for _, g := range a.engine.retired {
				t.Logf("%v left: %s", g.address, g.cause)
			}
			t.Error("the session's couriers were changed for it")
		}
	})
}

// The way of a half is the same as long as the courier, whatever happens between; another courier has another one.
func TestTheWayStays(t *testing.T) {
	w := newWorld(t, 1)
	n := w.node(1, fast())
	e := n.open()
	for i := range byte(8) {
		e.couriers = append(e.couriers, newFakeStore(60+i).address)
	}
	for a := range map[mailbox.Address]bool{e.couriers[0]: true} {
		e.hops[a] = &hop{address: a}
	}
	e.dial = func(a mailbox.Address) Mailbox { return mailbox.NewClient(a, nil) }
	now := time.Now()
	ways := map[string]int{}
	for i := range 50 {
		g := &guard{address: e.couriers[i%2], since: now.Add(time.Duration(i/2) * time.Hour)}
		first := e.routeOf(g, now)
		if len(first) != mailbox.MaxLayers || !slices.Equal(first, e.routeOf(g, now.Add(1000*time.Hour))) {
			t.Fatal("the way changed by itself")
		}
		for _, h := range first {
			if h.address == g.address {
				t.Fatal("it goes through the session's courier twice")
			}
			ways[string(h.address.Onion)]++
		}
	}
	if len(ways) < 6 {
		t.Errorf("only %d couriers are ever on the way", len(ways))
	}
	// Never two of one operator, though there is no choice.
	for _, a := range e.couriers {
		e.hopOf(a).family = "one"
	}
	if r := e.routeOf(&guard{address: e.couriers[0]}, now); r != nil {
		t.Error("both couriers on the way are one operator's")
	}
}
