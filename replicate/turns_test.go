// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"encoding/binary"
	"testing"
	"time"

	"tarn/mailbox"
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
