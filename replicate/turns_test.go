// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/store"
)

// A contact that left a thousand boxes has one turn in two, not the first thousand: who left one later has the next.
func TestWhoLeavesManyBoxesDoesNotHaveAllTurns(t *testing.T) {
	e := &Engine{expected: map[mailbox.Handle]ref{}}
	st := &depot{todo: map[mailbox.Handle]*todo{}}
	now := time.Now()
	leave := func(c *contact, from, n uint64, listed time.Time) {
		for i := from; i < from+n; i++ {
			var h mailbox.Handle
			binary.BigEndian.PutUint64(h[:], i<<8|uint64(c.name[0]))
			r := ref{contact: c, at: boxAt{index: i}}
			e.expected[h] = r
			st.todo[h] = &todo{handle: h, ref: r, listed: listed}
		}
	}
	many, few := newContact("many", contactRow{}), newContact("few", contactRow{})
	leave(many, 0, 1000, now.Add(-time.Hour))
	next := uint64(0)
	read := func() *contact {
		t.Helper()
		now = now.Add(2 * time.Second)
		if _, ok := e.chooseRead([]*depot{st}, now); !ok {
			t.Fatal("nothing to read")
		}
		for h, d := range st.todo {
			if d.busy {
				if d.contact == many && d.at.index != next {
					t.Fatalf("box %d was read, not %d", d.at.index, next)
				}
				if d.contact == many {
					next++
				}
				delete(st.todo, h)
				return d.contact
			}
		}
		t.Fatal("nothing is being read")
		return nil
	}
	for range 10 {
		if read() != many {
			t.Fatal("a box that nobody left")
		}
	}
	for i := range uint64(20) {
		leave(few, i, 1, now.Add(-time.Second))
		if a, b := read(), read(); a != few && b != few {
			t.Fatalf("message %d waits longer than for one box of the other's", i)
		}
	}
}

// A contact whose records take a second each does not have the worker for itself, however many of them there are; and what comes
// meanwhile, before the place where its turn ended, is not forgotten.
func TestRecordsThatCostMuchHoldUpNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.stopAll()
		a, slow, quick := w.node(1, fast()), w.node(2, fast()), w.node(3, fast())
		for _, n := range []*node{a, slow, quick} {
			n.start()
		}
		w.friends(a, slow)
		w.friends(a, quick)
		slow.stop()
		quick.stop()
		time.Sleep(time.Minute)
		var mu sync.Mutex
		taken := map[matrix.ServerName]int{}
		a.rooms.mu.Lock()
		a.rooms.costs = func(from matrix.ServerName) {
			mu.Lock()
			taken[from]++
			mu.Unlock()
			if from == slow.name() {
				time.Sleep(time.Second)
			}
		}
		a.rooms.mu.Unlock()
		put := func(n *node, i uint64) {
			t.Helper()
			rec, err := bundle.Events{Room: lounge, Version: "12", Raw: [][]byte{[]byte(fmt.Sprintf(`{"i":%d}`, i))}}.Record()
			if err != nil {
				t.Fatal(err)
			}
			e := a.engine
			e.mu.Lock()
			defer e.mu.Unlock()
			err = e.kv.Update(func(txn store.Txn) error {
				return txn.Set(store.Key(tableInbox, string(n.name()), 1<<40+i), (&inboxRow{received: time.Now(), kind: rec.Type, data: rec.Data}).marshal())
			})
			if err != nil {
				t.Fatal(err)
			}
			e.contacts[n.name()].inbox++
			e.wakeInbox()
		}
		count := func(n *node) int {
			mu.Lock()
			defer mu.Unlock()
			return taken[n.name()]
		}
		for i := range uint64(200) {
			put(slow, 10+i)
		}
		time.Sleep(3500 * time.Millisecond)
		put(quick, 1)
		put(slow, 1)                        // it was lost, and comes late
		time.Sleep(2600 * time.Millisecond) // the record that is being taken, and one more turn of the slow one
		if n := count(quick); n != 1 {
			t.Errorf("%d records of the quick contact were taken within two turns of the other", n)
		}
		if n := count(slow); n > 8 {
			t.Errorf("%d of the slow one", n)
		}
		time.Sleep(5 * time.Minute)
		if n := count(slow); n != 201 {
			t.Errorf("%d records of the slow contact were taken in the end, of 201", n)
		}
	})
}
