// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Who hands over a thousand halves makes who hands over one wait for one of them.
func TestALinkServesPayersByTurns(t *testing.T) {
	q := newTurns()
	a, b, c := &session{}, &session{}, &hops{}
	for i := range uint32(1000) {
		q.add(a, request{epoch: i})
	}
	q.add(b, request{epoch: 1 << 20})
	q.add(c, request{epoch: 2 << 20})
	q.add(b, request{epoch: 1<<20 + 1})
	q.add(nil, request{epoch: 3 << 20}) // the courier itself
	var got []uint32
	for {
		r, ok := q.next()
		if !ok {
			break
		}
		got = append(got, r.epoch)
	}
	if want := []uint32{0, 1 << 20, 2 << 20, 3 << 20, 1, 1<<20 + 1, 2, 3}; !slices.Equal(got[:8], want) || len(got) != 1004 || got[1003] != 999 {
		t.Errorf("%d: %v…", len(got), got[:8])
	}
	if !q.empty() || len(q.lists) != 0 || len(q.order) != 0 {
		t.Error("something is left")
	}
}

// Nothing is lost, doubled or out of its payer's order, and a value in wake says so whenever something is there.
func TestTurnsKeepEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		q := newTurns()
		payers := []*session{{}, {}, {}}
		var put, got [3]uint32
		waits := 0
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			if i := rapid.IntRange(-3, 2).Draw(rt, "who"); i >= 0 {
				q.add(payers[i], request{epoch: uint32(i)<<16 | put[i]})
				put[i]++
				waits++
				continue
			}
			select {
			case <-q.wake:
			default:
				if waits > 0 {
					rt.Fatal("nobody was woken")
				}
			}
			r, ok := q.next()
			if ok != (waits > 0) || q.empty() != (waits <= 1) {
				rt.Fatalf("%v with %d", ok, waits)
			}
			if ok {
				waits--
				i := r.epoch >> 16
				if r.epoch&0xffff != got[i] {
					rt.Fatal("out of order")
				}
				got[i]++
			}
		}
	})
}

// When the common part is full, those who are there for a while have their share nevertheless, for what does not wait
// long; and all together never have more than the bound, whatever sessions come and go.
func TestAFullPoolHasShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, places = 80_000, 10
		p := newPool(most, places)
		old, young := time.Now(), time.Now().Add(shareAfter)
		time.Sleep(shareAfter)
		for p.take(1000, 1<<20, young, 0) { // who has much already
		}
		if n := p.held.Load(); n != most/4 {
			t.Fatalf("the common part is %d", n)
		}
		if p.take(1000, 0, young, 0) || p.take(1000, 0, old, shareFor+1) || p.take(1000, int(p.share)-999, old, 0) {
			t.Error("more than there is")
		}
		if !p.take(int(p.share), 0, old, shareFor) {
			t.Error("no share")
		}
	})
}

func TestPoolIsBounded(t *testing.T) {
	const most, places = 40_000, 4
	type holder struct {
		began time.Duration
		held  int
	}
	type waiting struct {
		by *holder
		n  int
		at time.Duration
	}
	rapid.Check(t, func(rt *rapid.T) {
		var now time.Duration // since long ago
		ago := func(began time.Duration) time.Time { return time.Now().Add(began - now) }
		p := newPool(most, places)
		var live [places]*holder
		for i := range live {
			live[i] = &holder{began: now}
		}
		var held []waiting
		release := func() {
			held = slices.DeleteFunc(held, func(w waiting) bool {
				over := w.at <= now
				if over {
					p.release(w.n)
					w.by.held -= w.n
				}
				return over
			})
		}
		for range rapid.IntRange(1, 300).Draw(rt, "steps") {
			i := rapid.IntRange(0, places-1).Draw(rt, "place")
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0: // another has the place; what was held waits on
				live[i] = &holder{began: now}
			case 1:
				now += time.Duration(rapid.IntRange(1, 300).Draw(rt, "s")) * time.Second
				release()
			default:
				n, wait := rapid.IntRange(1, 3000).Draw(rt, "bytes"), time.Duration(rapid.IntRange(1, 600).Draw(rt, "wait"))*time.Second
				h := live[i]
				old := now-h.began >= shareAfter
				took := p.take(n, h.held, ago(h.began), wait)
				if !took && old && wait <= shareFor && int64(h.held+n) <= p.share {
					rt.Fatal("no share")
				}
				if took {
					h.held += n
					held = append(held, waiting{h, n, now + wait})
				}
			}
			sum := 0
			for _, w := range held {
				sum += w.n
			}
			if n := p.held.Load(); n != int64(sum) || n > most {
				rt.Fatalf("%d bytes are held, of %d; it says %d", sum, most, n)
			}
		}
	})
}

// Who came first goes first; a crowd that comes later has the places that are left.
func TestAGateLetsInTheOldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, 3)
		at := func(n int) time.Time { return time.Unix(int64(n), 0) }
		if !g.enter(t.Context(), at(9)) {
			t.Fatal("an empty gate")
		}
		results := make(chan string, 10)
		come := func(ctx context.Context, n int) {
			go func() { results <- fmt.Sprintf("%d%v", n, g.enter(ctx, at(n))) }()
			synctest.Wait()
		}
		want := func(words ...string) {
			t.Helper()
			synctest.Wait()
			for _, w := range words {
				select {
				case got := <-results:
					if got != w {
						t.Errorf("%s, want %s", got, w)
					}
				default:
					t.Errorf("nothing, want %s", w)
				}
			}
			if len(results) > 0 {
				t.Errorf("and %s", <-results)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		come(t.Context(), 50)
		come(t.Context(), 60)
		come(ctx, 40)
		come(t.Context(), 70) // later than all that wait
		want("70false")
		come(t.Context(), 10)
		want("60false") // gives way
		g.leave()
		want("10true")
		cancel()
		want("40false")
		g.leave()
		want("50true")
		g.leave()
		come(t.Context(), 99)
		want("99true")
		g.leave()
		if g.free != 1 || len(g.waiting) != 0 {
			t.Errorf("%d places, %d wait", g.free, len(g.waiting))
		}
	})
}
