// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
	"pgregory.net/rapid"
)

func testRoot(s string) Root { return sha256.Sum256([]byte(s)) }

// mustDone marks index as opened.
func mustDone(t testing.TB, r *Receiver, index uint64) {
	t.Helper()
	if err := r.Done(index); err != nil {
		t.Fatalf("Done(%d): %v", index, err)
	}
}

// reparse sends a receiver through its bytes.
func reparse(t rapid.TB, r Receiver) Receiver {
	t.Helper()
	b := r.marshal()
	got, err := parseReceiver(b)
	if err != nil {
		t.Fatalf("parseReceiver: %v", err)
	}
	if !bytes.Equal(got.marshal(), b) || len(b) > maxReceiverSize {
		t.Fatalf("another state came back (%d bytes)", len(b))
	}
	return got
}

func TestEachEndOpensWhatTheOtherSeals(t *testing.T) {
	root := testRoot("x")
	for _, initiator := range []bool{true, false} {
		s, r := NewSender(root, 3, initiator), NewReceiver(root, 3, !initiator)
		own := NewReceiver(root, 3, initiator)
		slot, s2 := s.Next()
		box := slot.Seal([]byte("hello"))
		if len(box) != 5+Overhead || s2.Index() != 1 || s2.Epoch() != 3 || r.Epoch() != 3 {
			t.Fatalf("%d bytes, index %d", len(box), s2.Index())
		}
		got, err := r.Expected(1)[0].Open(box)
		if err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		if own.Expected(1)[0].ID == slot.ID {
			t.Fatal("both directions have the same ids")
		}
		if other := NewReceiver(root, 4, !initiator); other.Expected(1)[0].ID == slot.ID {
			t.Fatal("two epochs have the same ids")
		}
	}
}

func TestOnlyTheVeryBoxOpens(t *testing.T) {
	s := NewSender(testRoot("x"), 1, true)
	r := NewReceiver(testRoot("x"), 1, false)
	slot, _ := s.Next()
	plain := bytes.Repeat([]byte("p"), 100)
	box := slot.Seal(plain)
	want := r.Expected(2)
	for i := range box {
		b := bytes.Clone(box)
		b[i] ^= 0x10
		if got, err := want[0].Open(b); !errors.Is(err, ErrOpen) || got != nil {
			t.Fatalf("flipped byte %d: %v", i, err)
		}
	}
	for what, b := range map[string][]byte{"nothing": nil, "short": box[:Overhead-1], "cut": box[:len(box)-1], "longer": append(bytes.Clone(box), 0), "zeros": make([]byte, len(box))} {
		if _, err := want[0].Open(b); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := want[1].Open(box); !errors.Is(err, ErrOpen) {
		t.Errorf("the next index's key: %v", err)
	}
	forged := want[0]
	forged.Index++ // the key alone is not enough: the index is authenticated
	if _, err := forged.Open(box); !errors.Is(err, ErrOpen) {
		t.Errorf("another index: %v", err)
	}
	if got, err := want[0].Open(box); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("positive control: %v", err)
	}
}

// TestAnyLossAndOrderKeepsTheEndsInStep plays a stream against a model: the set of indices that were opened.
func TestAnyLossAndOrderKeepsTheEndsInStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		root := testRoot(rapid.String().Draw(t, "root"))
		s, r := NewSender(root, 9, true), NewReceiver(root, 9, false)
		boxes := map[uint64][]byte{} // in the store
		slots := map[uint64]Slot{}
		done := map[uint64]bool{}
		low := func() uint64 {
			i := uint64(0)
			for done[i] {
				i++
			}
			return i
		}
		open := func(t *rapid.T, i uint64) {
			exp := r.Expected(int(min(i-min(i, low())+1, Window))) // all that can be at or below i
			at, found := slices.BinarySearchFunc(exp, i, func(s Slot, i uint64) int { return int(int64(s.Index) - int64(i)) })
			if within := i < low()+Window; found != (within && !done[i]) {
				t.Fatalf("index %d: expected %v, done %v, lowest missing %d", i, found, done[i], low())
			}
			if !found {
				if err := r.Done(i); !errors.Is(err, ErrIndex) {
					t.Fatalf("Done(%d): %v", i, err)
				}
				return
			}
			if exp[at] != slots[i] {
				t.Fatalf("the ends disagree about slot %d", i)
			}
			got, err := exp[at].Open(boxes[i])
			if err != nil || string(got) != fmt.Sprint(i) {
				t.Fatalf("box %d: %q, %v", i, got, err)
			}
			if err := r.Done(i); err != nil {
				t.Fatalf("Done(%d): %v", i, err)
			}
			done[i] = true
		}
		send := func(n int) {
			for range n {
				var slot Slot
				slot, s = s.Next()
				boxes[slot.Index], slots[slot.Index] = slot.Seal(fmt.Append(nil, slot.Index)), slot
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) { send(rapid.IntRange(1, 5).Draw(t, "n")) },
			"send many": func(t *rapid.T) {
				if s.Index() < 3*Window {
					send(rapid.IntRange(1, 700).Draw(t, "n"))
				}
			},
			"open any": func(t *rapid.T) {
				if s.Index() > 0 {
					open(t, rapid.Uint64Range(0, s.Index()-1).Draw(t, "i"))
				}
			},
			"open the next few": func(t *rapid.T) {
				for _, e := range r.Expected(rapid.IntRange(1, 6).Draw(t, "n")) {
					if e.Index < s.Index() {
						open(t, e.Index)
					}
				}
			},
			"look": func(t *rapid.T) {
				n := rapid.IntRange(0, 300).Draw(t, "n")
				if got := r.Expected(n); len(got) != n {
					t.Fatalf("Expected(%d) gives %d", n, len(got))
				}
			},
			"receiver restarts": func(t *rapid.T) { r = reparse(t, r) },
			"sender restarts": func(t *rapid.T) {
				b := s.marshal()
				s2, err := parseSender(b)
				if err != nil || s2 != s || len(b) != senderSize {
					t.Fatalf("%d bytes, %v", len(b), err)
				}
				s = s2
			},
			"receiver's transaction fails": func(t *rapid.T) {
				before := r
				bytesBefore := r.marshal()
				exp := r.Expected(20)
				for _, k := range rapid.SliceOfN(rapid.IntRange(0, 19), 1, 4).Draw(t, "done") {
					_ = r.Done(exp[k].Index)
					r.Expected(rapid.IntRange(0, 30).Draw(t, "look"))
				}
				if rapid.Bool().Draw(t, "skip") {
					_ = r.Skip(exp[0].Index + rapid.Uint64Range(0, 40).Draw(t, "by"))
					r.Expected(25)
				}
				// What the attempt did shows neither in the state nor in what it expects.
				r = before
				again, err := parseReceiver(bytesBefore)
				if err != nil || !bytes.Equal(r.marshal(), bytesBefore) || !slices.Equal(r.Expected(60), again.Expected(60)) {
					t.Fatal("the copy was changed")
				}
			},
			"": func(t *rapid.T) {
				next, seen := r.Ack()
				if next != low() {
					t.Fatalf("ack says %d, the lowest missing is %d", next, low())
				}
				for j := range uint64(256) {
					if got := seen[j/8]>>(j%8)&1 == 1; got != done[next+j] {
						t.Fatalf("ack says %v of %d", got, next+j)
					}
				}
			},
		})
		// Everything that lies in the store is found in the end, and each once.
		for range 2 {
			for _, i := range slices.Sorted(maps.Keys(boxes)) {
				if !done[i] {
					open(t, i)
				}
			}
		}
		if next, _ := r.Ack(); next != s.Index() {
			t.Fatalf("%d of %d were opened", next, s.Index())
		}
	})
}

// TestCrashesNeverReuseAnIndex follows the discipline that Next demands, with a crash between any two steps.
func TestCrashesNeverReuseAnIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		root := testRoot("crash")
		disk := NewSender(root, 0, true).marshal()
		left := map[[IDSize]byte]string{} // boxes that left, by id
		for n := range rapid.IntRange(1, 60).Draw(t, "steps") {
			s, err := parseSender(disk)
			if err != nil {
				t.Fatal(err)
			}
			slot, after := s.Next()
			box := slot.Seal(fmt.Appendf(nil, "message %d", n))
			crash := rapid.IntRange(0, 2).Draw(t, "crash")
			if crash == 0 {
				continue // before the state is on disk: the box has not left either
			}
			disk = after.marshal()
			if crash == 1 {
				continue // before the box leaves: the index is lost, which the receiver bears
			}
			if old, used := left[slot.ID]; used && old != string(box) {
				t.Fatal("an id, so a key, was used for two boxes")
			}
			left[slot.ID] = string(box)
		}
	})
}

// TestOpenedBoxesStaySecret plays the thief who takes the receiver's bytes and tries every 32 bytes in them, and what
// they derive, as chain key, slot secret and key.
func TestOpenedBoxesStaySecret(t *testing.T) {
	root := testRoot("fs")
	s, r := NewSender(root, 0, true), NewReceiver(root, 0, false)
	var slots []Slot
	for range 16 {
		var slot Slot
		slot, s = s.Next()
		slots = append(slots, slot)
	}
	steals := func(state []byte, slot Slot) bool {
		// every 32 bytes of the state, taken for the box's key, for its slot's secret, and for a chain key before it
		box := slot.Seal([]byte("secret"))
		opens := func(key [32]byte) bool {
			a, err := chacha20poly1305.New(key[:])
			if err != nil {
				t.Fatal(err)
			}
			_, err = a.Open(nil, make([]byte, chacha20poly1305.NonceSize), box, slot.associated())
			return err == nil
		}
		ofSlot := func(s secret) bool { return opens(Slot{seed: s}.key()) }
		for i := 0; i+32 <= len(state); i++ {
			m := secret(state[i:])
			if opens(m) || ofSlot(m) {
				return true
			}
			for range 16 {
				if ofSlot(m.slot()) {
					return true
				}
				m = m.next()
			}
		}
		return false
	}
	open := []int{0, 1, 2, 7, 10, 3, 12}
	for _, i := range open {
		mustDone(t, &r, uint64(i))
	}
	if err := r.Skip(6); err != nil { // 4 and 5 are given up
		t.Fatal(err)
	}
	state := r.marshal()
	for _, i := range append(open, 4, 5) {
		if steals(state, slots[i]) {
			t.Errorf("box %d can be opened with the state after it", i)
		}
	}
	for _, i := range []int{6, 8, 9, 11, 13, 15} {
		if !steals(state, slots[i]) {
			t.Fatalf("positive control: the thief is too weak for box %d, which is still to come", i)
		}
	}
	// The sender's state opens nothing that left; nor does it hold the root.
	state = s.marshal()
	for i, slot := range slots {
		if steals(state, slot) {
			t.Errorf("the sender's state opens box %d", i)
		}
	}
	if bytes.Contains(state, root[:]) {
		t.Error("the sender's state holds the root")
	}
}

func TestWindowBoundsTheState(t *testing.T) {
	r := NewReceiver(testRoot("w"), 0, true)
	if err := r.Done(Window); !errors.Is(err, ErrIndex) {
		t.Fatalf("beyond the window: %v", err)
	}
	if err := r.Done(1 << 63); !errors.Is(err, ErrIndex) {
		t.Fatalf("far beyond: %v", err)
	}
	mustDone(t, &r, Window-1)
	if n := len(r.marshal()); n != maxReceiverSize {
		t.Fatalf("%d bytes, not %d", n, maxReceiverSize)
	}
	if got := r.Expected(1 << 30); len(got) != Window-1 {
		t.Fatalf("%d are expected", len(got))
	}
	if got := r.Expected(-1); len(got) != 0 {
		t.Fatalf("%d are expected", len(got))
	}
	if err := r.Done(Window); !errors.Is(err, ErrIndex) {
		t.Fatalf("the window moved: %v", err)
	}
	mustDone(t, &r, 0)
	mustDone(t, &r, Window)
	r = reparse(t, r)
	if err := r.Done(Window); !errors.Is(err, ErrIndex) {
		t.Fatalf("done twice: %v", err)
	}
}

func TestSkipFreesAStreamThatLostABox(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, r := NewSender(testRoot("s"), 0, true), NewReceiver(testRoot("s"), 0, false)
		var slots []Slot
		for range 200 {
			var slot Slot
			slot, s = s.Next()
			slots = append(slots, slot)
		}
		done := map[uint64]bool{}
		for _, i := range rapid.SliceOfDistinct(rapid.Uint64Range(0, 150), rapid.ID).Draw(t, "done") {
			if err := r.Done(i); err != nil {
				t.Fatal(err)
			}
			done[i] = true
			r.Expected(rapid.IntRange(0, 50).Draw(t, "look"))
		}
		below := rapid.Uint64Range(0, 190).Draw(t, "below")
		if err := r.Skip(below); err != nil {
			t.Fatal(err)
		}
		var want []Slot
		for i := range uint64(200) {
			if i >= below && !done[i] {
				want = append(want, slots[i])
			}
		}
		if got := r.Expected(len(want)); !slices.Equal(got, want) {
			t.Fatalf("after Skip(%d) others are expected", below)
		}
		if r2 := reparse(t, r); !slices.Equal(r2.Expected(len(want)), want) {
			t.Fatal("not after a restart")
		}
	})
	r := NewReceiver(testRoot("s"), 0, false)
	if err := r.Skip(Window + 1); !errors.Is(err, ErrIndex) {
		t.Fatalf("Skip beyond the window: %v", err)
	}
	if err := r.Skip(Window); err != nil {
		t.Fatal(err)
	}
	if next, _ := r.Ack(); next != Window {
		t.Fatalf("next is %d", next)
	}
}

func TestLogsDoNotShowSecrets(t *testing.T) {
	root := testRoot("log")
	s, r := NewSender(root, 0, true), NewReceiver(root, 0, true)
	slot, _ := s.Next()
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "root", root, "s", s, "r", r, "slot", slot)
	fmt.Fprintf(&out, "%v %+v %v %v %v", root, s, r, slot, []Slot{slot})
	for _, want := range []string{"[root]", "[sender]", "[receiver]", "[slot]"} {
		if strings.Count(out.String(), want) < 2 {
			t.Errorf("no %s in %s", want, out.String())
		}
	}
	if out.Len() > 400 {
		t.Errorf("more than marks: %s", out.String())
	}
}

func FuzzParseSender(f *testing.F) {
	_, s := NewSender(testRoot("f"), 1, true).Next()
	f.Add(s.marshal())
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, senderSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSender(b)
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.marshal(), b) {
			t.Fatal("read, but not its own bytes")
		}
		if slot, s2 := s.Next(); s2.Index() != slot.Index+1 {
			t.Fatal("no step")
		}
	})
}

func FuzzParseReceiver(f *testing.F) {
	r := NewReceiver(testRoot("f"), 1, true)
	f.Add(r.marshal())
	mustDone(f, &r, 5)
	mustDone(f, &r, 2)
	f.Add(r.marshal())
	b := r.marshal()
	b[len(b)-missedSize] = 0xff
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReceiver(b)
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(r.marshal(), b) {
			t.Fatal("read, but not its own bytes")
		}
		exp := r.Expected(Window)
		if len(exp) == 0 || len(exp) > 2*Window {
			t.Fatalf("%d expected", len(exp))
		}
		if err := r.Done(exp[len(exp)-1].Index); err != nil {
			t.Fatal(err)
		}
		reparse(t, r)
	})
}

func TestCopiesAreIndependent(t *testing.T) {
	a := NewReceiver(testRoot("copy"), 0, false)
	fresh := a.Expected(40)
	a = reparse(t, a)
	for n := range 20 {
		a := a
		a.Expected(n) // a cache that ends at n, perhaps with room behind it
		b := a
		mustDone(t, &b, uint64(n))
		got := b.Expected(1 + n + 5)
		if !slices.Equal(a.Expected(n+7), fresh[:n+7]) {
			t.Fatalf("Done(%d) on a copy shows in the original", n)
		}
		if !slices.Equal(b.Expected(len(got)), got) || got[n].Index != uint64(n+1) {
			t.Fatalf("looking at the original shows in the copy, after Done(%d)", n)
		}
	}
}
