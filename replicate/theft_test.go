// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/store"
)

// thief has a node's whole database, and derives with nothing but the standard library: every 32 bytes of it may be a chain
// key or a slot's secret. (What he can do in the middle of a turn: package ratchet's TestAThiefReadsOneEpochMoreInATurnOnly.)
type thief struct {
	ids map[[16]byte]bool // all ids that he can name
}

func prf(k []byte, label string) []byte {
	m := hmac.New(sha256.New, k)
	m.Write([]byte(label))
	return m.Sum(nil)
}

// slot names the box of a slot's secret.
func (th *thief) slot(s []byte) { th.ids[[16]byte(prf(s, "tarn/1 ratchet id"))] = true }

// chain follows a chain key.
func (th *thief) chain(k []byte, n int) {
	for range n {
		th.slot(prf(k, "tarn/1 ratchet slot"))
		k = prf(k, "tarn/1 ratchet next")
	}
}

// steal tries everything that the rows of the streams hold.
func steal(t *testing.T, kv store.KV) (th *thief, windows [][]byte) {
	th = &thief{ids: map[[16]byte]bool{}}
	var raw []byte
	if err := kv.View(func(r store.Reader) error {
		for _, table := range []byte{tableStreams, tableContact, tableRecovery} {
			if err := r.Scan([]byte{table}, nil, func(_, v []byte) (bool, error) { raw = append(raw, v...); return true, nil }); err != nil {
				return err
			}
		}
		return r.Scan([]byte{tableBoxMeta}, nil, func(_, v []byte) (bool, error) {
			b, err := parseBox(append([]byte(nil), v...))
			if err == nil {
				th.ids[b.id] = true // its bytes and plaintext lie beside it
			}
			return true, err
		})
	}); err != nil {
		t.Fatal(err)
	}
	for i := 0; i+32 <= len(raw); i++ {
		windows = append(windows, raw[i:i+32])
		th.slot(raw[i : i+32])
		th.chain(raw[i:i+32], 200)
	}
	return th, windows
}

// TestAThiefOfTheWholeStateReadsWhatTheSpecificationSays is the table in THREATS.md, "Who takes a node's disk".
func TestAThiefOfTheWholeStateReadsWhatTheSpecificationSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		type seen struct {
			at    boxAt
			begun time.Time
		}
		boxes := map[mailbox.BoxID]seen{} // of both directions, as they were first written
		note := func() {
			for _, n := range []*node{a, b} {
				n.engine.mu.Lock()
				for _, c := range n.engine.contacts {
					for at, bx := range c.boxes {
						if _, ok := boxes[bx.id]; !ok {
							boxes[bx.id] = seen{at, time.Now()}
						}
					}
				}
				n.engine.mu.Unlock()
			}
		}
		n := 0
		say := func(count int) {
			for range count {
				from, to := a, b
				if n%2 == 1 {
					from, to = b, a
				}
				n++
				from.rooms.send(t, lounge, fmt.Sprint("m", n))
				for end := time.Now().Add(time.Minute); len(to.rooms.bodies(lounge)) < n; {
					if time.Now().After(end) {
						t.Fatal("a message did not arrive")
					}
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
					note()
				}
			}
		}
		say(20)
		quiet(w, a, b, time.Hour)
		x, y := a.streams(b.name()), b.streams(a.name())
		if x.Epoch() != y.Epoch() || x.Epoch() != x.Newest() || len(x.Receivers()) != 1 {
			t.Fatal("the theft falls into a turn: another seed is needed")
		}
		epoch, begin := x.Epoch(), time.Now()
		th, windows := steal(t, a.kv)
		say(110)
		quiet(w, a, b, time.Hour)
		if z := a.streams(b.name()); z.Epoch() < epoch+1 {
			t.Fatalf("only epoch %d", z.Epoch())
		}
		counts := map[string]int{}
		for id, s := range boxes {
			linked := th.ids[id]
			var class string
			want := false
			switch {
			case s.begun.Before(begin):
				class = "acknowledged before the theft"
			case s.at.epoch == epoch:
				class, want = "to come in the same epoch", true
			default:
				class = "of later epochs"
			}
			counts[class]++
			if linked != want {
				t.Errorf("a box that is %s (%v): the thief links it: %v", class, s.at, linked)
			}
		}
		for _, class := range []string{"acknowledged before the theft", "to come in the same epoch", "of later epochs"} {
			if counts[class] < 5 {
				t.Errorf("%d boxes are %s: too few to tell", counts[class], class)
			}
		}
		t.Logf("%v, %d windows", counts, len(windows))
	})
}
