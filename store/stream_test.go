// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func openStream(t testing.TB, kv KV) *Stream {
	t.Helper()
	s, err := OpenStream(kv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writeTopic(t testing.TB, s *Stream, topics ...string) Pos {
	t.Helper()
	pos, err := s.Write(func(txn Txn, pos Pos) ([]string, error) { return topics, txn.Set(Key(9, pos), nil) })
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

func TestStreamPositionsGrowOverRestarts(t *testing.T) {
	kv := OpenMemory()
	seen := map[Pos]bool{}
	last := Pos(0)
	note := func(p Pos) {
		if p <= last || seen[p] {
			t.Fatalf("position %d after %d", p, last)
		}
		seen[p], last = true, p
	}
	for range 3 {
		s := openStream(t, kv)
		if s.Current() < last {
			t.Fatalf("reopened at %d, after %d", s.Current(), last)
		}
		for i := range 2*leaseBlock + 7 {
			if i%3 == 0 {
				note(writeTopic(t, s))
			} else {
				note(s.Notify("x")) // no row of its own: only the lease keeps it from being given again
			}
			if s.Current() != last {
				t.Fatalf("current is %d after %d", s.Current(), last)
			}
		}
	}
}

func TestStreamRestartAfterNotifyOnly(t *testing.T) {
	kv := OpenMemory()
	p := openStream(t, kv).Notify("x")
	if q := writeTopic(t, openStream(t, kv)); q <= p {
		t.Fatalf("%d was handed out again as %d", p, q)
	}
}

// TestStreamLeaseCoversWhatWasHandedOut: at any moment every position handed out is below the lease on the disk.
func TestStreamLeaseCoversWhatWasHandedOut(t *testing.T) {
	kv := OpenMemory()
	s := openStream(t, kv)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range leaseBlock {
				var p Pos
				switch (i + w) % 3 {
				case 0:
					p = s.Notify("a")
				case 1:
					s.Write(func(Txn, Pos) ([]string, error) { return nil, errors.New("no") })
					continue
				default:
					p, _ = s.Write(func(Txn, Pos) ([]string, error) { return nil, nil })
				}
				var lease Pos
				kv.View(func(r Reader) error {
					v, err := r.Get(leaseKey())
					if err == nil {
						for _, b := range v {
							lease = lease<<8 | Pos(b)
						}
					}
					return nil
				})
				if p >= lease {
					t.Errorf("position %d was handed out, the lease is %d", p, lease)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestStreamFailedWriteIsSkipped(t *testing.T) {
	s := openStream(t, OpenMemory())
	boom := errors.New("boom")
	if _, err := s.Write(func(Txn, Pos) ([]string, error) { return []string{"a"}, boom }); err != boom {
		t.Fatal(err)
	}
	func() {
		defer func() { recover() }()
		s.Write(func(Txn, Pos) ([]string, error) { panic("boom") })
	}()
	p := writeTopic(t, s)
	if s.Current() != p {
		t.Errorf("current %d stays behind %d: a failed write stops the readers", s.Current(), p)
	}
}

// stalled is a KV whose Updates commit, and then return only when they are let: writers that finish in any order.
type stalled struct {
	KV
	release map[int]chan struct{}
	n       int
}

func (s *stalled) Update(fn func(Txn) error) error {
	n := 0
	err := s.KV.Update(func(x Txn) error {
		s.n++
		n = s.n
		return fn(x)
	})
	if ch := s.release[n]; ch != nil {
		<-ch
	}
	return err
}

func TestStreamCurrentWaitsForTheSlowestWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &stalled{KV: OpenMemory(), release: map[int]chan struct{}{1: make(chan struct{})}}
		s := openStream(t, kv)
		base := s.Current()
		woken := make(chan Pos, 1)
		go func() {
			p, err := s.Wait(t.Context(), "b", base)
			if err != nil {
				t.Error(err)
			}
			woken <- p
		}()
		done := make(chan Pos, 2)
		go func() { done <- writeTopic(t, s, "a") }()
		synctest.Wait()
		go func() { done <- writeTopic(t, s, "b") }()
		synctest.Wait()
		if s.Current() != base || len(woken) != 0 || len(done) != 0 {
			t.Errorf("current %d, base %d: a reader would miss the slow writer's change (woken %d, done %d)", s.Current(), base, len(woken), len(done))
		}
		close(kv.release[1])
		synctest.Wait()
		if s.Current() != base+2 || len(woken) != 1 || len(done) != 2 {
			t.Errorf("current %d, woken %d, done %d", s.Current(), len(woken), len(done))
		}
	})
}

func TestStreamWaitWakesByTopicWithoutPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStream(t, OpenMemory())
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		after := s.Current()
		got := make(chan Pos, 1)
		go func() {
			p, err := s.Wait(ctx, "alice", after)
			if err != nil {
				t.Error(err)
			}
			got <- p
		}()
		time.Sleep(10 * time.Second)
		writeTopic(t, s, "bob")
		synctest.Wait()
		if len(got) != 0 {
			t.Error("woken by another's change")
		}
		time.Sleep(5 * time.Second)
		want := writeTopic(t, s, "carol", "alice")
		if p := <-got; p != want || time.Since(begin) != 15*time.Second {
			t.Errorf("woken with %d, want %d, after %v", p, want, time.Since(begin))
		}
		// What has happened already is answered at once; what has been seen is waited for.
		if p, err := s.Wait(ctx, "alice", after); err != nil || p != want {
			t.Errorf("%d, %v", p, err)
		}
		if p, err := s.Wait(ctx, "alice", want); !errors.Is(err, context.DeadlineExceeded) || p != want || time.Since(begin) != 30*time.Second {
			t.Errorf("%d, %v after %v", p, err, time.Since(begin))
		}
	})
}

func TestStreamWaitBeforeThisProcessReturnsAtOnce(t *testing.T) {
	kv := OpenMemory()
	p := writeTopic(t, openStream(t, kv), "alice")
	s := openStream(t, kv)
	if _, err := s.Wait(t.Context(), "alice", p-1); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Wait(ctx, "alice", s.Current()); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing new, but Wait says %v", err)
	}
}

func TestStreamManyWaitersOfOneTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStream(t, OpenMemory())
		after := s.Current()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := s.Wait(t.Context(), "alice", after); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		s.Notify("alice")
		wg.Wait()
	})
}

func TestStreamTopicsAreBoundedAndNothingIsMissed(t *testing.T) {
	s := openStream(t, OpenMemory())
	first := s.Notify("first")
	for i := range 3 * maxTopics {
		s.Notify(fmt.Sprint("topic", i))
	}
	if len(s.topics) > maxTopics {
		t.Errorf("%d topics are kept", len(s.topics))
	}
	if _, err := s.Wait(t.Context(), "first", first-1); err != nil {
		t.Errorf("a forgotten change is not told: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 100 {
		s.Wait(ctx, fmt.Sprint("asked", i), s.Current())
	}
	for i := range 100 {
		if s.topics[fmt.Sprint("asked", i)] != nil {
			t.Fatal("a topic that was only asked for stays")
		}
	}
}

// TestStreamReaderMissesNothing: readers that follow Current see every write once, in order, whatever writers do.
func TestStreamReaderMissesNothing(t *testing.T) {
	kv := OpenMemory()
	s := openStream(t, kv)
	const writers, each = 4, 200
	seen, since := 0, s.Current()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				s.Write(func(txn Txn, pos Pos) ([]string, error) {
					if (i+w)%5 == 0 {
						return nil, errors.New("no")
					}
					return []string{"all"}, txn.Set(Key(9, pos), nil)
				})
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { wg.Wait(); cancel() }()
	for done := false; !done; {
		to, err := s.Wait(ctx, "all", since)
		done = err != nil
		kv.View(func(r Reader) error {
			return r.Scan(Key(9), Key(9, since+1), func(k, _ []byte) (bool, error) {
				kr := ReadKey(k)
				if Pos(kr.Uint64()) > to {
					return false, nil
				}
				seen++
				return true, nil
			})
		})
		since = to
	}
	if want := writers * each * 4 / 5; seen != want {
		t.Errorf("the reader saw %d of %d writes", seen, want)
	}
}

// checkTurns compares Next with what is in the model and was not taken: all of it, of each lane in order, each lane's first before any second.
func checkTurns(rt *rapid.T, kv KV, dest string, class byte, model []Item, taken map[string]bool) {
	want := map[uint64][]uint64{}
	n := 0
	var lanes []uint64
	for _, it := range model {
		if c, lane := turn(it.Kind, it.Data); c == class && !taken[fmt.Sprint(dest, " ", it.Seq)] {
			if len(want[lane]) == 0 {
				lanes = append(lanes, lane)
			}
			want[lane] = append(want[lane], it.Seq)
			n++
		}
	}
	after := rapid.SampledFrom(append(lanes, 0, 1, 1<<64-1)).Draw(rt, "lane before")
	limit := rapid.IntRange(0, 9).Draw(rt, "limit")
	if err := kv.View(func(r Reader) error {
		items, of, err := Next(r, dest, class, after, limit)
		if err != nil || len(items) != len(of) || len(items) > limit || limit > 0 && n > 0 && len(items) == 0 {
			rt.Fatalf("%v %v: %v", items, of, err)
		}
		got := map[uint64]int{}
		most := 0
		for i, it := range items {
			if got[of[i]] >= len(want[of[i]]) || it.Seq != want[of[i]][got[of[i]]] {
				rt.Fatalf("lane %d has %v, and gave %d as its number %d", of[i], want[of[i]], it.Seq, got[of[i]])
			}
			got[of[i]]++
			if most = max(most, got[of[i]]); most == 2 && len(got) < min(len(want), limit) {
				rt.Fatalf("a second item of a lane before the first of another: %v of %v", of, want)
			}
			if i == 0 && of[0] <= after {
				for _, l := range lanes {
					if l > after {
						rt.Fatalf("the first turn is lane %d's, after %d, and there is %d", of[0], after, l)
					}
				}
			}
		}
		return nil
	}); err != nil {
		rt.Fatal(err)
	}
}

func TestOutboxAgreesWithAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		kv := OpenMemory()
		dests := []string{"a", "b", "a\x00", "aa"}
		model := map[string][]Item{}
		last := map[string]uint64{}
		taken := map[string]bool{}
		for range rapid.IntRange(0, 20).Draw(rt, "steps") {
			d := rapid.SampledFrom(dests).Draw(rt, "dest")
			if rapid.Bool().Draw(rt, "enqueue") {
				last[d]++
				kind := rapid.SampledFrom([]byte{ItemEvent, ItemHistory, ItemRecord, ItemMessage}).Draw(rt, "kind")
				it := Item{Seq: last[d], Kind: kind, Data: []byte(rapid.StringMatching(`[a-c]{0,3}`).Draw(rt, "data"))}
				if err := kv.Update(func(x Txn) error { return Enqueue(x, d, it.Kind, it.Data) }); err != nil {
					rt.Fatal(err)
				}
				model[d] = append(model[d], it)
			} else {
				seqs := rapid.SliceOfN(rapid.Uint64Range(0, last[d]+1), 0, 4).Draw(rt, "seqs")
				if err := kv.Update(func(x Txn) error { return Dequeue(x, d, seqs...) }); err != nil {
					rt.Fatal(err)
				}
				var left []Item
				for _, it := range model[d] {
					gone := false
					for _, s := range seqs {
						gone = gone || s == it.Seq
					}
					if !gone {
						left = append(left, it)
					}
				}
				model[d] = left
			}
			if rapid.IntRange(0, 2).Draw(rt, "take") == 0 {
				seqs := rapid.SliceOfN(rapid.Uint64Range(0, last[d]+1), 0, 4).Draw(rt, "taken")
				if err := kv.Update(func(x Txn) error { return Take(x, d, seqs...) }); err != nil {
					rt.Fatal(err)
				}
				for _, it := range model[d] {
					if slices.Contains(seqs, it.Seq) {
						taken[fmt.Sprint(d, " ", it.Seq)] = true
					}
				}
			}
			if rapid.IntRange(0, 9).Draw(rt, "retake") == 0 {
				if err := kv.Update(func(x Txn) error { return Retake(x, d) }); err != nil {
					rt.Fatal(err)
				}
				for _, it := range model[d] {
					delete(taken, fmt.Sprint(d, " ", it.Seq))
				}
			}
			some := false
			for class := range byte(2) {
				checkTurns(rt, kv, d, class, model[d], taken)
				for _, it := range model[d] {
					some = some || !taken[fmt.Sprint(d, " ", it.Seq)]
				}
			}
			if err := kv.View(func(r Reader) error {
				if got, err := Untaken(r, d, 0); err != nil || got != some {
					rt.Fatalf("untaken: %v, %v", got, err)
				}
				return nil
			}); err != nil {
				rt.Fatal(err)
			}
			after, limit := rapid.Uint64Range(0, last[d]+1).Draw(rt, "after"), rapid.IntRange(0, 5).Draw(rt, "limit")
			var want []Item
			for _, it := range model[d] {
				if it.Seq > after && len(want) < limit {
					want = append(want, it)
				}
			}
			if err := kv.View(func(r Reader) error {
				got, err := Pending(r, d, after, limit)
				if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
					rt.Fatalf("pending of %q after %d: %v, %v; want %v", d, after, got, err, want)
				}
				dest, err := Destinations(r)
				n := map[string]int{}
				for d, items := range model {
					if len(items) > 0 {
						n[d] = len(items)
					}
				}
				if err != nil || fmt.Sprint(dest) != fmt.Sprint(n) {
					rt.Fatalf("destinations %v, %v; want %v", dest, err, n)
				}
				return nil
			}); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func TestOutboxItemIsThereOnlyWithItsTransaction(t *testing.T) {
	kv := OpenMemory()
	boom := errors.New("boom")
	if err := kv.Update(func(x Txn) error { return errors.Join(Enqueue(x, "a", ItemEvent, nil), boom) }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	kv.View(func(r Reader) error {
		if items, err := Pending(r, "a", 0, 10); len(items) != 0 || err != nil {
			t.Errorf("%v, %v", items, err)
		}
		return nil
	})
	if kv.Update(func(x Txn) error { return Enqueue(x, "", ItemEvent, nil) }) == nil {
		t.Error("an item for nobody was accepted")
	}
}
