// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// turnOnce2 is a turn of which only the epochs are looked at.
func turnOnce2(t *testing.T, offerer, answerer *Pair, now time.Time) {
	t.Helper()
	offer, o, err := offerer.Turn(now, true)
	if err != nil || offer == nil {
		t.Fatalf("offer: %v", err)
	}
	n, _, err := answerer.Take(offer, now)
	if err != nil {
		t.Fatal(err)
	}
	answer, n, err := n.Turn(now, true)
	if err != nil || answer == nil {
		t.Fatalf("answer: %v", err)
	}
	if o, _, err = o.Take(answer, now); err != nil || o.Epoch() != n.Newest() {
		t.Fatal(err)
	}
}

// TestAThiefReadsOneEpochMoreInATurnOnly steals an end's bytes at every step of a turn, and listens from then on: he has
// the blocks, and tries every 32 bytes as chain key, as carry, and as the seed of the offered key.
func TestAThiefReadsOneEpochMoreInATurnOnly(t *testing.T) {
	now := testStart
	a, b := NewPair(testRoot("theft"), 0, true, now), NewPair(testRoot("theft"), 0, false, now)
	_, a = a.Next()
	type loot struct {
		what  string
		state []byte
		reads uint32 // up to this epoch
	}
	var stolen []loot
	take := func(what string, p Pair, reads uint32) {
		stolen = append(stolen, loot{what: what, state: p.Marshal(), reads: reads})
	}
	var blocks [][]byte
	turn := func(offerer, answerer *Pair, e uint32) {
		now = now.Add(EpochLife)
		take(fmt.Sprintf("offerer of %d, idle", e), *offerer, e)
		take(fmt.Sprintf("answerer of %d, idle", e), *answerer, e)
		offer, next, err := offerer.Turn(now, true)
		if err != nil || offer == nil {
			t.Fatal(err)
		}
		*offerer = next
		take(fmt.Sprintf("offerer of %d, offered", e), *offerer, e+1)
		if *answerer, _, err = answerer.Take(offer, now); err != nil {
			t.Fatal(err)
		}
		take(fmt.Sprintf("answerer of %d, asked", e), *answerer, e)
		answer, next, err := answerer.Turn(now, true)
		if err != nil || answer == nil {
			t.Fatal(err)
		}
		*answerer = next
		take(fmt.Sprintf("answerer of %d, answered", e), *answerer, e+1)
		if *offerer, _, err = offerer.Take(answer, now); err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, offer, answer)
		for _, d := range []struct{ from, to *Pair }{{offerer, answerer}, {answerer, offerer}} {
			slot, next := d.from.Next()
			*d.from = next
			if _, err := d.to.Opened(slot.Epoch, slot.Index); err != nil {
				t.Fatal(err)
			}
			if en, ok := d.from.Ended(); ok {
				if err := d.to.Skip(en.Epoch, en.Count); err != nil {
					t.Fatal(err)
				}
				d.to.Close(en.Epoch, en.Count)
			}
		}
	}
	targets := map[uint32][IDSize]byte{}
	target := func(p Pair) { // some box still to come in the epoch
		for range 5 {
			_, p = p.Next()
		}
		s, _ := p.Next()
		targets[s.Epoch] = s.ID
	}
	target(a)
	turn(&a, &b, 0)
	target(a)
	turn(&b, &a, 1)
	target(a)
	for _, l := range stolen {
		var roots []Root
		names := map[[IDSize]byte]bool{}
		follow := func(k secret) {
			for range 12 {
				s := k.slot()
				names[slotOf(0, 0, &s).ID] = true
				k = k.next()
			}
		}
		for i := 0; i+32 <= len(l.state); i++ {
			follow(secret(l.state[i:]))
			s := seed(l.state[i:])
			public, err := s.public()
			if err != nil {
				continue
			}
			for j := 0; j < len(blocks); j += 2 {
				_, epoch, offered, _ := readBlock(blocks[j])
				if !bytes.Equal(offered, public) {
					continue
				}
				_, _, ct, _ := readBlock(blocks[j+1])
				ss, err := s.decapsulate(ct, epoch)
				if err != nil {
					t.Fatal(err)
				}
				for k := 0; k+32 <= len(l.state); k++ {
					carry := [32]byte(l.state[k:])
					for _, who := range []bool{true, false} {
						roots = append(roots, nextRoot(&carry, ss, epoch, who, offered, ct))
					}
				}
				for _, r := range roots {
					for _, who := range []bool{true, false} {
						follow(r.chain(epoch, who))
					}
				}
			}
		}
		for epoch, id := range targets {
			began := uint32(0)
			if strings.Contains(l.what, "of 1") {
				began = 1
			}
			want := epoch >= began && epoch <= l.reads
			if epoch < began {
				continue // forgotten, or what was skipped: TestOpenedBoxesStaySecret
			}
			if names[id] != want {
				t.Errorf("%s: he links boxes of epoch %d: %v", l.what, epoch, names[id])
			}
		}
	}
}
