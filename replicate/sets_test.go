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
	"tarn/matrix"
)

// crossing is nodes whose sets of stores overlap, as those of people with some mailboxes in common do: the first one is
// everybody's contact.
func crossing(t *testing.T) (*world, []*node) {
	w, ns := courierWorld(t, 5, 6, Balanced())
	w.network(700 * time.Millisecond)
	all := slices.Clone(ns[0].own)
	for i, set := range [][]int{{0, 1, 2}, {2, 3, 4}, {1, 3, 5}, {0, 4, 5}, {0, 1, 3}} {
		ns[i].own = nil
		for _, s := range set {
			ns[i].own = append(ns[i].own, all[s])
		}
		ns[i].profile.InFlight = 1024
		ns[i].start()
	}
	for _, n := range ns[1:] {
		w.contact(ns[0], n)
		ns[0].rooms.join(roomWith(n), ns[0].name(), n.name())
		n.rooms.join(roomWith(n), ns[0].name(), n.name())
	}
	return w, ns
}

// With many sets of stores a message need not wait until its receiver's is drawn, and the targets show nothing of it.
func TestBoxesGoByOtherSetsToo(t *testing.T) {
	measures(t)
	const hours = 3
	play := func(t *testing.T, during func(w *world, ns []*node)) (frames []seenFrame) {
		synctest.Test(t, func(t *testing.T) {
			w, ns := crossing(t)
			begin := playStart.Add(4 * time.Hour)
			time.Sleep(time.Until(begin))
			during(w, ns)
			time.Sleep(time.Until(begin.Add(hours * time.Hour)))
			w.stopAll()
			for _, c := range w.couriers {
				for _, f := range c.frames {
					if f.node == ns[0].name() && f.at > 4*time.Hour && f.at < (4+hours)*time.Hour {
						f.courier = c.address
						frames = append(frames, f)
					}
				}
			}
			slices.SortFunc(frames, func(x, y seenFrame) int { return int(x.at - y.at) })
		})
		return frames
	}
	idle := play(t, func(*world, []*node) {})
	var took []time.Duration
	var promised time.Duration
	talking := play(t, func(w *world, ns []*node) {
		cs, err := ns[0].engine.Contacts()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cs {
			promised += c.ExpectedDelay / time.Duration(len(cs))
		}
		for i := range 100 {
			n := ns[1+i%4]
			had, began := len(n.rooms.bodies(roomWith(n))), time.Now()
			ns[0].rooms.send(t, roomWith(n), fmt.Sprint(i))
			for len(n.rooms.bodies(roomWith(n))) == had && time.Since(began) < time.Hour {
				time.Sleep(100 * time.Millisecond)
			}
			took = append(took, time.Since(began))
			time.Sleep(20 * time.Second)
		}
	})
	if !slices.Equal(scheduleOf(talking), scheduleOf(idle)) {
		t.Errorf("%d frames, %d when idle, or at other times, by other couriers, or with other delays", len(talking), len(idle))
	}
	put := shares(idle, talking, func(f seenFrame) mailbox.Address { return f.put })
	get := shares(idle, talking, func(f seenFrame) mailbox.Address { return f.get })
	mean, p95 := stats(took)
	t.Logf("%d messages by five sets of six stores: mean %v, p95 %v, promised %v; targets differ by %.1f (PUT) and %.1f (GET) standard errors", len(took),
		mean.Round(100*time.Millisecond), p95.Round(100*time.Millisecond), promised.Round(100*time.Millisecond), put, get)
	if put > 4 || get > 4 {
		t.Error("the targets depend on what is said")
	}
	// If it waited for its own set: 10 s times 5 and 28 s more.
	if mean > 65*time.Second || math.Abs(mean.Seconds()-promised.Seconds()) > mean.Seconds()/4 {
		t.Errorf("mean %v, promised %v", mean, promised)
	}
}

func roomWith(n *node) matrix.RoomID { return matrix.RoomID("!with-" + n.name() + ":x") }
