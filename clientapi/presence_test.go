// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"tarn/matrix"
	"tarn/store"
	"tarn/store/storetest"
)

// wakings counts the topics that are woken for what is not in the database.
type wakings struct {
	Waiter
	mu sync.Mutex
	n  int
}

func (w *wakings) Notify(topics ...string) store.Pos {
	w.mu.Lock()
	w.n += len(topics)
	w.mu.Unlock()
	return w.Waiter.Notify(topics...)
}

func (w *wakings) take() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.n
	w.n = 0
	return n
}

// TestAChangeOfPresenceCostsWhatIsNear: how many other people the node has, and how many of them are there, costs nothing.
func TestAChangeOfPresenceCostsWhatIsNear(t *testing.T) {
	type cost struct{ change, read, woke int }
	measure := func(others int) (c cost) {
		kv := storetest.Count(store.OpenMemory())
		w := &wakings{}
		n := openNode(t, kv, true, func(c *Config) { w.Waiter, c.Stream = c.Stream, w })
		alice, bob := n.person("alice"), n.person("bob")
		alice.meet(bob)
		var last *device
		for i := range others {
			d := n.person(fmt.Sprint("u", i))
			if last != nil {
				d.meet(last)
			}
			d.sync(d.sync("")["next_batch"].(string))
			last = d
		}
		since := bob.sync("", "set_presence", "offline")["next_batch"].(string)
		since = bob.sync(since, "set_presence", "offline")["next_batch"].(string)
		w.take()
		kv.Take()
		alice.do("PUT", "/presence/"+esc(alice.user)+"/status", obj{"presence": "unavailable"}).ok()
		c.change, c.woke = kv.Take().Reads(), w.take()
		o := bob.sync(since, "set_presence", "offline")
		c.read = kv.Take().Reads()
		if at(o, "presence", "events", 0, "sender") != string(alice.user) {
			t.Fatalf("bob was not told: %v", o)
		}
		return c
	}
	few, many := measure(1), measure(12)
	if few.woke != 1 || many.woke != 1 {
		t.Errorf("woken: %d, and %d among many; want 1", few.woke, many.woke)
	}
	if few.change == 0 || many.change > few.change || many.read > few.read {
		t.Errorf("rows read by the change and by who is told: %d, %d; among many %d, %d", few.change, few.read, many.change, many.read)
	}
}

// TestACrowdIsToldOfEachOtherTogether: people who come at once are a notice each to each other, and two answers, not as many as they are.
func TestACrowdIsToldOfEachOtherTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const crowd = few + 8
		n := newNode(t)
		all := []*device{n.person("first")}
		for i := range crowd - 1 {
			all = append(all, n.person(fmt.Sprint("u", i)))
		}
		all[0].meet(all[1:]...)
		since := make([]string, crowd)
		for i, d := range all {
			since[i] = d.sync("", "set_presence", "offline")["next_batch"].(string)
		}
		var mu sync.Mutex
		heard := make([]map[matrix.UserID]int, crowd)
		answers := make([]int, crowd)
		poll := func(i int) {
			for len(heard[i]) < crowd-1 {
				o := all[i].sync(since[i], "timeout", "300000", "set_presence", "offline")
				since[i] = o["next_batch"].(string)
				events := list(o, "presence", "events")
				mu.Lock()
				if len(events) > 0 {
					answers[i]++
				}
				for _, e := range events {
					heard[i][matrix.UserID(at(e, "sender").(string))]++
				}
				mu.Unlock()
			}
		}
		var done sync.WaitGroup
		for i := range all {
			heard[i] = map[matrix.UserID]int{}
			done.Go(func() { poll(i) })
		}
		synctest.Wait()
		for _, d := range all {
			done.Go(func() { d.do("PUT", "/presence/"+esc(d.user)+"/status", obj{"presence": "online"}).ok() })
		}
		done.Wait()
		for i, d := range all {
			if answers[i] > 4 {
				t.Errorf("%d answers", answers[i])
			}
			for u, times := range heard[i] {
				if times != 1 || u == d.user {
					t.Errorf("%s heard of %s %d times", d.user, u, times)
				}
			}
		}
	})
}
