// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/ratchet"
	"tarn/mailbox"
	"tarn/store"
)

// watched runs one pair of contacts for an hour and returns what an observer of the first node sees.
func watched(t *testing.T, p Profile, during func(w *world, a, b *node)) (tr []trace, calls []call) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.node(1, p), w.node(2, p)
		a.start()
		b.start()
		w.friends(a, b)
		// From here on the set of known stores is the same in every play.
		begin := playStart.Add(2 * time.Hour)
		time.Sleep(time.Until(begin))
		during(w, a, b)
		time.Sleep(time.Until(begin.Add(time.Hour)))
		w.stopAll()
		tr = slices.DeleteFunc(a.trace, func(x trace) bool { return x.at < 2*time.Hour })
		calls = slices.DeleteFunc(a.calls, func(x call) bool { return x.at < 2*time.Hour })
	})
	return tr, calls
}

func TestConversationAndErrorsDoNotChangeWhenAndWhereConnectionsGo(t *testing.T) {
	p := CustomProfile(2*time.Second, 0.3)
	p.InFlight = 256
	idle, idleCalls := watched(t, p, func(*world, *node, *node) {})
	if len(idle) < 3000 {
		t.Fatalf("only %d slots in an hour", len(idle))
	}
	plays := map[string]func(*world, *node, *node){
		"conversation": func(w *world, a, b *node) {
			for i := range 60 {
				a.rooms.send(t, lounge, fmt.Sprint("a", i))
				b.rooms.send(t, lounge, fmt.Sprint("b", i))
				time.Sleep(7 * time.Second)
			}
			if n := len(b.rooms.bodies(lounge)); n < 100 {
				t.Errorf("the conversation did not take place: %d events arrived", n)
			}
		},
		"the store is down": func(w *world, a, b *node) {
			w.store(1).set(func(s *fakeStore) { s.down = mailbox.ErrBusy })
			for i := range 60 {
				a.rooms.send(t, lounge, fmt.Sprint("a", i))
				time.Sleep(7 * time.Second)
			}
		},
		"no network": func(w *world, a, b *node) {
			a.offline.set(true)
			a.rooms.send(t, lounge, "x")
			time.Sleep(10 * time.Minute)
			a.offline.set(false)
		},
	}
	for name, play := range plays {
		t.Run(name, func(t *testing.T) {
			got, calls := watched(t, p, play)
			if !slices.Equal(got, idle) {
				t.Errorf("%d slots, %d when idle, or others", len(got), len(idle))
			}
			if !slices.Equal(calls, idleCalls) {
				t.Errorf("%d connections, %d when idle, or at other times or places", len(calls), len(idleCalls))
			}
		})
	}
	if len(idleCalls) != len(idle) {
		t.Errorf("%d slots made %d connections", len(idle), len(idleCalls))
	}
}

func TestSlowTransactionsDoNotShiftTheSchedule(t *testing.T) {
	p := CustomProfile(2*time.Second, 0.3)
	p.InFlight = 1024
	idle, _ := watched(t, p, func(*world, *node, *node) {})
	slow, _ := watched(t, p, func(w *world, _, _ *node) {
		for _, s := range w.stores {
			s.set(func(s *fakeStore) { s.delay = 20 * time.Second })
		}
	})
	if !slices.Equal(idle, slow) {
		t.Error("the schedule depends on how long a store takes")
	}
}

func TestTooManyInFlightAreDroppedNotDelayed(t *testing.T) {
	p := CustomProfile(2*time.Second, 0.3)
	p.InFlight = 1024
	all, _ := watched(t, p, func(*world, *node, *node) {})
	p.InFlight = 8
	got, _ := watched(t, p, func(w *world, _, _ *node) {
		for _, s := range w.stores {
			s.set(func(s *fakeStore) { s.delay = 20 * time.Second })
		}
	})
	if len(got) >= len(all) || len(got) == 0 {
		t.Fatalf("%d slots with slow stores, %d without", len(got), len(all))
	}
	times := map[trace]bool{}
	for _, x := range all {
		times[x] = true
	}
	for _, x := range got {
		if !times[x] {
			t.Fatalf("slot %v is at another time than without slow stores", x)
		}
	}
}

func TestSlotsArePoisson(t *testing.T) {
	p := CustomProfile(2*time.Second, 0.3)
	all, _ := watched(t, p, func(*world, *node, *node) {})
	for _, kind := range []slotKind{slotPut, slotGet} {
		var gaps []float64
		last := time.Duration(-1)
		stores := map[any]int{}
		at := []time.Duration{}
		for _, x := range all {
			if x.kind == kind {
				at = append(at, x.at)
				stores[x.store]++
			}
		}
		slices.Sort(at)
		for _, x := range at {
			if last >= 0 {
				gaps = append(gaps, (x - last).Seconds())
			}
			last = x
		}
		var sum, sq float64
		for _, g := range gaps {
			sum += g
			sq += g * g
		}
		mean := sum / float64(len(gaps))
		cv := math.Sqrt(sq/float64(len(gaps))-mean*mean) / mean
		if mean < 1.8 || mean > 2.2 || cv < 0.85 || cv > 1.15 {
			t.Errorf("%v: mean gap %.2f s, coefficient of variation %.2f; want 2 and 1", kind, mean, cv)
		}
		if kind == slotPut && len(stores) != 2 {
			t.Errorf("PUT slots went to %d stores of 2", len(stores))
		}
	}
}

func TestASleptOverTickIsNotMadeUpFor(t *testing.T) {
	// A schedule that could not run for a day must not burst: the process begins anew from now. In a bubble nothing
	// can be late, so the rule is tested where it stands.
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		n := w.node(1, CustomProfile(time.Second, 0))
		n.start()
		time.Sleep(10 * time.Second)
		n.stop()
		before := len(n.trace)
		time.Sleep(24 * time.Hour)
		n.start()
		time.Sleep(10 * time.Second)
		n.stop()
		if after := len(n.trace) - before; after > 4*before+30 {
			t.Errorf("%d slots in the ten seconds after a day off, %d in the ten before", after, before)
		}
	})
}

func TestProfilesAreValidAndTellTheirCost(t *testing.T) {
	for _, p := range Profiles() {
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		q, err := ParseProfile(p.Name)
		if err != nil || q != p {
			t.Errorf("%s is not found by its name", p.Name)
		}
		// The table of DESIGN §5, in MB; TestRealCouriersDeliverInTimeAndConstantBytes measures what a frame and a push are.
		want := map[string]float64{"instant": 577, "balanced": 173, "economy": 29, "paranoid": 220}[p.Name]
		if got := float64(p.BytesPerDay(Couriers)) / 1e6; math.Abs(got-want) > 0.05*want {
			t.Errorf("%s: %.1f MB a day with couriers, want %.0f", p.Name, got, want)
		}
		t.Logf("%-9s expected delay %v, %d MB a day", p.Name, p.ExpectedDelay(Direct, 1, 10*time.Second).Round(time.Second), p.BytesPerDay(Direct)/1e6)
	}
	if _, err := ParseProfile("turbo"); err == nil {
		t.Error("an unknown profile was found")
	}
	bad := Balanced()
	for name, edit := range map[string]func(*Profile){
		"frame 0":    func(p *Profile) { p.Frame = 0 },
		"cover 2":    func(p *Profile) { p.CoverPut = 2 },
		"cover NaN":  func(p *Profile) { p.CoverPut = math.NaN() },
		"no digests": func(p *Profile) { p.Digests = 0 },
		"in flight":  func(p *Profile) { p.InFlight = 0 },
		"no heads":   func(p *Profile) { p.Heads = 0 },
		"backoff":    func(p *Profile) { p.RetransmitMax = 1 },
	} {
		q := bad
		edit(&q)
		if q.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestDeliveryTakesAboutWhatTheProfilePromises(t *testing.T) {
	for _, name := range []string{"instant", "balanced", "economy"} {
		p, err := ParseProfile(name)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			w.store(0).bucket = 10 * time.Second
			w.store(0).delay = time.Second
			a, b := w.node(1, p), w.node(2, p)
			a.start()
			b.start()
			defer w.stopAll()
			w.friends(a, b)
			var took []time.Duration
			for i := range 60 {
				a.rooms.send(t, lounge, fmt.Sprint(i))
				took = append(took, w.until(4*time.Hour, "delivery", func() bool { return len(b.rooms.bodies(lounge)) > i }))
			}
			slices.Sort(took)
			var sum time.Duration
			for _, d := range took {
				sum += d
			}
			mean := sum / time.Duration(len(took))
			want := p.ExpectedDelay(Direct, 1, 10*time.Second)
			t.Logf("%s: mean %v, p95 %v, promised %v", name, mean.Round(time.Second), took[len(took)*95/100].Round(time.Second), want.Round(time.Second))
			if mean > 2*want || mean < want/3 {
				t.Errorf("%s: mean %v, promised %v", name, mean, want)
			}
		})
	}
}

// slowKV is a disk that takes its time.
type slowKV struct {
	store.KV
	delay time.Duration
}

func (s slowKV) Update(fn func(store.Txn) error) error {
	time.Sleep(s.delay)
	return s.KV.Update(fn)
}

func TestASlowDiskMakesSlotsIdleNotLateAndMessagesStillCross(t *testing.T) {
	// In real time: what waits for a mutex would stop a bubble's clock.
	w := newWorld(t, 1)
	p := CustomProfile(40*time.Millisecond, 0.3)
	p.AckDelay = time.Hour
	w.store(0).bucket, w.store(0).closing = 100*time.Millisecond, 0
	a, b := w.node(1, p), w.node(2, p)
	root := ratchet.Root{1}
	for _, n := range []*node{a, b} {
		peer := w.nodes[0]
		if n == a {
			peer = w.nodes[1]
		}
		n.rooms.join(lounge, a.name(), b.name())
		c := newContact(peer.name(), contactRow{state: contactActive, initiator: n == a, stores: n.own, told: n.own})
		if err := n.open().begin(c, root, time.Now(), func(store.Txn) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	a.kv = slowKV{a.kv, 50 * time.Millisecond} // five times the lead
	var mu sync.Mutex
	worst := time.Duration(0)
	e := a.open()
	e.trace = func(s slot) {
		mu.Lock()
		defer mu.Unlock()
		worst = max(worst, time.Since(s.at))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	b.start()
	for i := range 3 {
		a.rooms.send(t, lounge, fmt.Sprint(i))
	}
	deadline := time.Now().Add(time.Minute)
	for len(b.rooms.bodies(lounge)) < 3 || e.Counts().Late == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 3 messages, %d slots went idle because of the disk", len(b.rooms.bodies(lounge)), e.Counts().Late)
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.stop()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d slots went idle, the latest began %v after its time", e.Counts().Late, worst)
}
