// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// courierWorld is some nodes that share stores, each with the same two couriers.
func courierWorld(t *testing.T, nodes, stores int, p Profile) (*world, []*node) {
	w := newWorld(t, stores)
	var own []mailbox.Address
	for i := range stores {
		w.store(byte(i)).bucket = 10 * time.Second
		own = append(own, w.store(byte(i)).address)
	}
	couriers := []mailbox.Address{w.courier(0).address, w.courier(1).address}
	var out []*node
	for i := range nodes {
		n := w.node(byte(i+1), p)
		n.own, n.couriers = own, couriers
		out = append(out, n)
	}
	return w, out
}

func (w *world) network(d time.Duration) {
	for _, c := range w.couriers {
		c.set(func(c *fakeCourier) { c.net = d })
	}
}

func TestFramesDeliverAsFastAsBalancedPromises(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		p := Balanced()
		w, ns := courierWorld(t, 10, 3, p)
		w.network(700 * time.Millisecond)
		for _, n := range ns {
			n.start()
		}
		defer w.stopAll()
		for i := 0; i < len(ns); i += 2 {
			w.contact(ns[i], ns[i+1])
			ns[i].rooms.join(lounge, ns[i].name(), ns[i+1].name())
			ns[i+1].rooms.join(lounge, ns[i].name(), ns[i+1].name())
		}
		time.Sleep(10 * time.Minute)
		took := conversations(t, ns, 40)
		mean, p95 := stats(took)
		want := ns[0].engine.Traffic()
		t.Logf("mean %v, p95 %v, promised %v, counts %+v", mean.Round(100*time.Millisecond), p95.Round(100*time.Millisecond), want.ExpectedDelay, ns[0].engine.Counts())
		if mean > 40*time.Second || p95 > 70*time.Second {
			t.Errorf("mean %v, p95 %v; at most 40 s and 70 s", mean, p95)
		}
		if want.Mode != Couriers || math.Abs(want.ExpectedDelay.Seconds()-mean.Seconds()) > mean.Seconds()/4 {
			t.Errorf("%v are promised in mode %v", want.ExpectedDelay, want.Mode)
		}
	})
}

func stats(took []time.Duration) (mean, p95 time.Duration) {
	slices.Sort(took)
	var sum time.Duration
	for _, d := range took {
		sum += d
	}
	return sum / time.Duration(len(took)), took[len(took)*95/100]
}

// conversations lets each pair of nodes speak by turns, a few rounds, and tells how long each message took.
func conversations(t testing.TB, ns []*node, rounds int) (took []time.Duration) {
	for i := range rounds {
		// Every pair at a time of its own.
		var wait sync.WaitGroup
		var mu sync.Mutex
		for j := 0; j < len(ns); j += 2 {
			wait.Go(func() {
				from, to := ns[j+i%2], ns[j+1-i%2]
				time.Sleep(time.Duration(j) * 1700 * time.Millisecond)
				had, began := len(to.rooms.bodies(lounge)), time.Now()
				from.rooms.send(t, lounge, fmt.Sprint(i))
				for len(to.rooms.bodies(lounge)) == had && time.Since(began) < time.Hour {
					time.Sleep(100 * time.Millisecond)
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(began))
			})
		}
		wait.Wait()
		time.Sleep(30 * time.Second)
	}
	return took
}
