// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testStart = time.Unix(1_800_000_000, 0)

// testBox is a box as the mini-ends below write it.
type testBox struct {
	epoch     uint32
	index     uint64
	id        [IDSize]byte
	sealed    string
	message   int // 0: none
	eliciting bool
	head      testHead
}

// testHead is what a bundle's head carries of the ratchet, here in the clear.
type testHead struct {
	got   []Got
	floor map[uint32]uint64
	ended *Ended
	block []byte
}

// testEnd does with a Pair what package replicate does: state on disk before use, boxes kept until acknowledged.
type testEnd struct {
	pair    Pair
	unacked []*testBox
	opened  map[int]int // messages that came, and how often
	sent    int
	base    int // numbers of the messages
	owes    bool
	turns   int
}

// disk is a deep enough copy: pairs are values, boxes are not changed.
func (e *testEnd) clone(t rapid.TB) *testEnd {
	p, err := ParsePair(e.pair.Marshal())
	if err != nil {
		t.Fatalf("ParsePair: %v", err)
	}
	if !bytes.Equal(p.Marshal(), e.pair.Marshal()) || len(e.pair.Marshal()) > MaxPairSize {
		t.Fatal("another state came back")
	}
	c := *e
	c.pair, c.unacked, c.opened = p, slices.Clone(e.unacked), map[int]int{}
	for k, v := range e.opened {
		c.opened[k] = v
	}
	return &c
}

// write makes the next box, or nil if the process dies before the state is on disk.
func (e *testEnd) write(t rapid.TB, now time.Time, message, dies bool) *testBox {
	settled := !slices.ContainsFunc(e.unacked, func(b *testBox) bool { return b.epoch != e.pair.Epoch() })
	block, next, err := e.pair.Turn(now, settled)
	if err != nil {
		t.Fatalf("Turn: %v", err)
	}
	b := &testBox{eliciting: message || block != nil}
	h := testHead{floor: map[uint32]uint64{}, block: block}
	first, before, both := e.pair.Got()
	h.got = append(h.got, first)
	if both {
		h.got = append(h.got, before)
	}
	if en, ok := e.pair.Ended(); ok {
		h.ended = &en
		h.floor[en.Epoch] = en.Count
	}
	h.floor[e.pair.Epoch()] = e.pair.Index()
	for _, u := range e.unacked {
		h.floor[u.epoch] = min(h.floor[u.epoch], u.index)
	}
	slot, next := next.Next()
	b.head, b.epoch, b.index, b.id = h, slot.Epoch, slot.Index, slot.ID
	if message {
		b.message = e.base + e.sent + 1
	}
	b.sealed = string(slot.Seal(fmt.Append(nil, b.message)))
	if dies {
		return nil
	}
	e.pair = next
	if message {
		e.sent++
	}
	e.unacked = append(e.unacked, b)
	e.owes = false
	return b
}

// read opens a box that lies in the store, whatever it is.
func (e *testEnd) read(t rapid.TB, b *testBox, now time.Time, dies bool) {
	r := e.pair.Receiver(b.epoch)
	if r == nil {
		return
	}
	want := r.Expected(100)
	at := slices.IndexFunc(want, func(s Slot) bool { return s.ID == b.id })
	if at < 0 {
		return
	}
	plain, err := want[at].Open([]byte(b.sealed))
	if err != nil || string(plain) != fmt.Sprint(b.message) {
		t.Fatalf("box %d of epoch %d: %q, %v", b.index, b.epoch, plain, err)
	}
	if dies {
		return
	}
	for _, g := range b.head.got {
		e.unacked = slices.DeleteFunc(e.unacked, func(u *testBox) bool {
			j := u.index - g.Next
			return u.epoch == g.Epoch && (u.index < g.Next || j < 256 && g.Seen[j/8]>>(j%8)&1 == 1)
		})
	}
	p := e.pair
	turned := false
	if b.head.block != nil {
		q, did, err := p.Take(b.head.block, now)
		if err != nil && !errors.Is(err, ErrBlock) {
			t.Fatalf("Take: %v", err)
		}
		p, turned = q, did
	}
	did, err := p.Opened(b.epoch, b.index)
	if err != nil {
		t.Fatalf("Opened: %v", err)
	}
	if turned || did {
		e.turns++
	}
	for epoch, floor := range b.head.floor {
		if r := p.Receiver(epoch); r != nil {
			if next, _ := r.Ack(); floor > next {
				if err := p.Skip(epoch, floor); err != nil {
					t.Fatalf("Skip: %v", err)
				}
			}
		}
	}
	if en := b.head.ended; en != nil {
		p.Close(en.Epoch, en.Count)
	}
	e.pair = p
	if b.message != 0 {
		e.opened[b.message]++
	}
	e.owes = e.owes || b.eliciting
}

// TestEpochsTurnUnderAnyLossOrderAndCrash plays two ends over a store that loses, doubles and reorders, with a crash
// between any two steps; and both turn, lose nothing and use no index twice.
func TestEpochsTurnUnderAnyLossOrderAndCrash(t *testing.T) {
	total := 0
	rapid.Check(t, func(t *rapid.T) {
		now := testStart
		root := testRoot(rapid.String().Draw(t, "root"))
		first := rapid.SampledFrom([]uint32{0, 1, 1_800_000_000}).Draw(t, "epoch")
		a := &testEnd{pair: NewPair(root, first, true, now), opened: map[int]int{}, base: 0}
		b := &testEnd{pair: NewPair(root, first, false, now), opened: map[int]int{}, base: 1 << 20}
		var store []*testBox
		contents := map[[IDSize]byte]string{}
		put := func(x *testBox) {
			if x == nil {
				return
			}
			if old, ok := contents[x.id]; ok && old != x.sealed {
				t.Fatal("an id was used for two contents")
			}
			contents[x.id] = x.sealed
			store = append(store, x)
		}
		ends := []*testEnd{a, b}
		step := func(t *rapid.T) {
			i := rapid.IntRange(0, 1).Draw(t, "end")
			e := ends[i]
			now = now.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "seconds")) * time.Second)
			dies := rapid.IntRange(0, 9).Draw(t, "dies") == 0
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				put(e.write(t, now, true, dies))
			case 1:
				if e.owes {
					put(e.write(t, now, false, dies))
				}
			case 2: // rewrite
				if len(e.unacked) > 0 {
					put(e.unacked[rapid.IntRange(0, len(e.unacked)-1).Draw(t, "which")])
				}
			case 3, 4:
				if len(store) > 0 {
					e.read(t, store[rapid.IntRange(max(0, len(store)-30), len(store)-1).Draw(t, "box")], now, dies)
				}
			case 5: // restart, and the store loses what it has
				ends[i] = e.clone(t)
				if rapid.IntRange(0, 5).Draw(t, "loses") == 0 {
					store = nil
				}
			}
			if n := len(ends[i].pair.Receivers()); n > 2 {
				t.Fatalf("%d chains", n)
			}
		}
		for range rapid.IntRange(50, 400).Draw(t, "steps") {
			step(t)
		}
		// All is well again: what is unacknowledged is written until it is not.
		for range 40 {
			for i, e := range ends {
				for _, u := range e.unacked {
					put(u)
				}
				for _, x := range store {
					ends[1-i].read(t, x, now, false)
				}
				if ends[1-i].owes {
					put(ends[1-i].write(t, now, false, false))
				}
			}
		}
		for i, e := range ends {
			for n := range ends[1-i].sent {
				if e.opened[ends[1-i].base+n+1] != 1 {
					t.Fatalf("message %d came %d times", n, e.opened[ends[1-i].base+n+1])
				}
			}
			for _, u := range e.unacked {
				if u.eliciting {
					t.Fatalf("box %d of epoch %d is never acknowledged", u.index, u.epoch)
				}
			}
			total += e.turns
		}
		// The next day's conversation turns on: the two are in step.
		was := ends[0].pair.Epoch()
		for range 12 {
			now = now.Add(13 * time.Hour)
			for i, e := range ends {
				x := e.write(t, now, true, false)
				put(x)
				for _, u := range e.unacked {
					ends[1-i].read(t, u, now, false)
				}
			}
		}
		if x, y := ends[0].pair.Epoch(), ends[1].pair.Epoch(); x < was+2 || max(x, y)-min(x, y) > 1 {
			t.Fatalf("from epoch %d they came to %d and %d", was, x, y)
		}
	})
	if total == 0 {
		t.Error("no epoch turned in any play")
	}
}
