// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzParsePair(f *testing.F) {
	now := testStart
	a, b := NewPair(testRoot("f"), 0, true, now), NewPair(testRoot("f"), 0, false, now)
	_, a = a.Next()
	now = now.Add(EpochLife)
	f.Add(a.Marshal())
	offer, a, err := a.Turn(now, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Marshal())
	if b, _, err = b.Take(offer, now); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Marshal())
	answer, b, err := b.Turn(now, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Marshal())
	if a, _, err = a.Take(answer, now); err != nil {
		f.Fatal(err)
	}
	f.Add(a.Marshal())
	f.Add(b.Rescued(testRoot("g"), 99, now).Marshal())
	f.Add([]byte{stateVersion, kindPair})
	f.Fuzz(func(t *testing.T, state []byte) {
		p, err := ParsePair(state)
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.Marshal(), state) {
			t.Fatal("read, but not its own bytes")
		}
		for _, r := range p.Receivers() {
			if e := r.Expected(3); len(e) > 0 && e[len(e)-1].Index < maxIndex { // after which no state is written
				if _, err := p.Opened(r.Epoch(), e[len(e)-1].Index); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := ParsePair(p.Marshal()); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzTakeBlock(f *testing.F) {
	now := testStart
	a := NewPair(testRoot("f"), 0, true, now)
	_, a = a.Next()
	offer, a, err := a.Turn(now.Add(EpochLife), true)
	if err != nil {
		f.Fatal(err)
	}
	b := NewPair(testRoot("f"), 0, false, now)
	b2, _, err := b.Take(offer, now)
	if err != nil {
		f.Fatal(err)
	}
	answer, _, err := b2.Turn(now, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(offer)
	f.Add(answer)
	f.Fuzz(func(t *testing.T, block []byte) {
		for _, p := range []Pair{a, b} {
			q, _, err := p.Take(block, now)
			if err != nil && !errors.Is(err, ErrBlock) {
				t.Fatal(err)
			}
			if _, err := ParsePair(q.Marshal()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
