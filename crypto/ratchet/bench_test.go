// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

const benchPayload = 8192 // mailbox.PayloadSize

// BenchmarkBareAEAD is the raw limit of the two below: seal and open of a box's payload.
func BenchmarkBareAEAD(b *testing.B) {
	b.SetBytes(benchPayload)
	plain, key, nonce := make([]byte, benchPayload), make([]byte, 32), make([]byte, 12)
	for b.Loop() {
		a, err := chacha20poly1305.New(key)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := a.Open(nil, nonce, a.Seal(nil, nonce, plain, nil), nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSealOpen is a box's whole way: next slot, seal, expect, open, done, and both states marshalled.
func BenchmarkSealOpen(b *testing.B) {
	b.SetBytes(benchPayload)
	plain := make([]byte, benchPayload)
	s, r := NewSender(testRoot("b"), 0, true), NewReceiver(testRoot("b"), 0, false)
	for b.Loop() {
		var slot Slot
		slot, s = s.Next()
		s.marshal()
		box := slot.Seal(plain)
		if _, err := r.Expected(1)[0].Open(box); err != nil {
			b.Fatal(err)
		}
		if err := r.Done(slot.Index); err != nil {
			b.Fatal(err)
		}
		r.marshal()
	}
}

// BenchmarkOpenGarbage is what a filler costs.
func BenchmarkOpenGarbage(b *testing.B) {
	b.SetBytes(benchPayload)
	r := NewReceiver(testRoot("b"), 0, false)
	slot, box := r.Expected(1)[0], make([]byte, benchPayload+Overhead)
	for b.Loop() {
		if _, err := slot.Open(box); err == nil {
			b.Fatal("opened")
		}
	}
}

func BenchmarkExpectedFirst(b *testing.B) {
	for b.Loop() {
		r := NewReceiver(testRoot("b"), 0, false)
		r.Expected(Window)
	}
}

func BenchmarkExpectedAfterDone(b *testing.B) {
	r := NewReceiver(testRoot("b"), 0, false)
	for b.Loop() {
		if err := r.Done(r.Expected(Window)[0].Index); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTurn is a whole turn: both ends, both blocks.
func BenchmarkTurn(b *testing.B) {
	for b.Loop() {
		now := testStart
		x, y := NewPair(testRoot("b"), 0, true, now), NewPair(testRoot("b"), 0, false, now)
		_, x = x.Next()
		offer, x, err := x.Turn(now.Add(EpochLife), true)
		if err != nil {
			b.Fatal(err)
		}
		if y, _, err = y.Take(offer, now); err != nil {
			b.Fatal(err)
		}
		answer, _, err := y.Turn(now, true)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err = x.Take(answer, now); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBareKEM is the raw limit of a turn: one key, one encapsulation, one decapsulation.
func BenchmarkBareKEM(b *testing.B) {
	for b.Loop() {
		k, err := newSeed()
		if err != nil {
			b.Fatal(err)
		}
		public, err := k.public()
		if err != nil {
			b.Fatal(err)
		}
		ct, _, err := encapsulate(public, 1)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := k.decapsulate(ct, 1); err != nil {
			b.Fatal(err)
		}
	}
}
