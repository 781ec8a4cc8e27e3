// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/store"
)

// gather makes a room of the first node's, into which each other one is invited by a contact that is in it.
func gather(t *testing.T, nodes []*watcher, by ...int) string {
	t.Helper()
	room := nodes[0].creates(object{"preset": "private_chat", "name": "Den"})
	for i, w := range nodes[1:] {
		nodes[by[i]].does(room, "invite", w)
		w.becomes(room, "invite")
		w.does(room, "join", nil)
		for _, o := range nodes[:i+1] {
			o.knows(room, w.user, "join")
		}
	}
	return room
}

// queued is how many items a node ever queued for the others.
func queued(nodes []*watcher) (n uint64) {
	for _, w := range nodes {
		w.view(func(r store.Reader) error {
			return r.Scan(store.Key(store.TableOutbox, byte(1)), nil, func(_, v []byte) (bool, error) {
				n += binary.BigEndian.Uint64(v)
				return true, nil
			})
		})
	}
	return n
}

// Four nodes in a row: each hears what each says, though only neighbours are contacts; soon, for nobody waits to be asked; and
// one that is stopped in between passes on what it has taken when it is back.
func TestWhatIsSaidIsPassedOnAlongARowOfContacts(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"ann", "ben", "cid", "dot"}, [2]int{0, 1}, [2]int{1, 2}, [2]int{2, 3})
		room := gather(t, nodes, 0, 1, 2)
		time.Sleep(time.Minute) // all that was to be told is told
		hear := func(from int, text string, limit time.Duration) {
			t.Helper()
			began := time.Now()
			nodes[from].says(room, text)
			for _, w := range nodes {
				w.until(text, func() bool { return slices.Contains(w.texts[room], text) })
			}
			if d := time.Since(began); d > limit {
				t.Errorf("%q took %v", text, d)
			}
		}
		// Three hops of 0.5 s on average; a box that is lost to a slot that is not ready comes by its second copy.
		hear(0, "from one end", 12*time.Second)
		hear(3, "from the other", 12*time.Second)
		hear(1, "from the middle", 12*time.Second)

		before := queued(nodes)
		hear(0, "counted", 12*time.Second)
		if n := queued(nodes) - before; n != 3 {
			t.Errorf("%d copies of a message along a row of four, not 3", n)
		}

		nodes[0].says(room, "while ben is stopped")
		for len(nodes[0].boxes(nodes[1].node)) == 0 {
			time.Sleep(50 * time.Millisecond)
		}
		nodes[1].stop()
		nodes[2].says(room, "beside it")
		time.Sleep(10 * time.Second)
		nodes[1].rebuild()
		nodes[1].start()
		for _, w := range nodes {
			w.until("both", func() bool {
				return slices.Contains(w.texts[room], "while ben is stopped") && slices.Contains(w.texts[room], "beside it")
			})
		}
		// Power at the end of the row: who is put out there hears of it, and what is said then reaches only the others.
		nodes[2].until("dot", func() bool { return nodes[2].standing[room] == "join" })
		nodes[0].does(room, "kick", nodes[3])
		nodes[3].becomes(room, "leave")
		hear2 := "without dot"
		nodes[1].says(room, hear2)
		for _, w := range nodes[:3] {
			w.until(hear2, func() bool { return slices.Contains(w.texts[room], hear2) })
		}
		nodes[3].look(10 * time.Second)
		if slices.Contains(nodes[3].texts[room], hear2) {
			t.Error("who was put out hears on")
		}
	})
}

// Four nodes that are all contacts: once they have said so, nobody passes on what the others get from its author.
func TestContactsDoNotPassOnWhatTheyAllGet(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"ann", "ben", "cid", "dot"})
		room := gather(t, nodes, 0, 0, 0)
		time.Sleep(2 * time.Minute)
		before := queued(nodes)
		for i := range 8 {
			w := nodes[i%4]
			w.says(room, fmt.Sprint("word ", i))
			for _, o := range nodes {
				o.until("the word", func() bool { return slices.Contains(o.texts[room], fmt.Sprint("word ", i)) })
			}
		}
		if n := queued(nodes) - before; n != 8*3 {
			t.Errorf("%d copies of 8 messages between four nodes, not 24", n)
		}
	})
}
