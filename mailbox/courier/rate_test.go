// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
)

func (w *world) fast(frame time.Duration) *mailbox.Session {
	s := mailbox.NewSession(w.courier.Address(), w.mesh, mailbox.SessionParams{Frame: frame})
	w.t.Cleanup(func() { s.Close() })
	return s
}

// A session says how many frames it makes: it is granted those, or told that they are too many; and all together get no
// more than the courier has.
func TestASessionGetsTheFramesItAskedForOrIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *courier.Config) { c.Rate, c.TotalRate = 10, 25 })
		if err := w.fast(99 * time.Millisecond).Connect(t.Context()); !errors.Is(err, mailbox.ErrRate) {
			t.Errorf("more than ten a second: %v", err)
		}
		a, b := w.fast(100*time.Millisecond), w.fast(100*time.Millisecond)
		must(t, a.Connect(t.Context()))
		must(t, b.Connect(t.Context()))
		if err := w.fast(100 * time.Millisecond).Connect(t.Context()); !errors.Is(err, mailbox.ErrBusy) {
			t.Errorf("thirty of 25 a second: %v", err)
		}
		must(t, w.fast(10*time.Second).Connect(t.Context()))
		a.Close()
		time.Sleep(time.Second)
		must(t, w.fast(100*time.Millisecond).Connect(t.Context())) // its place is free again
		// One that is idle loses its frames, too, to who needs them.
		if err := w.fast(200 * time.Millisecond).Connect(t.Context()); !errors.Is(err, mailbox.ErrBusy) {
			t.Errorf("25.1 of 25 a second: %v", err)
		}
		time.Sleep(6 * time.Minute)
		must(t, w.fast(200*time.Millisecond).Connect(t.Context()))
	})
}

// A session of ten frames a second, with a lag that has twenty of them under way, is neither held up nor loses an answer.
func TestAFastSessionLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *courier.Config) { c.Rate = 10 })
		w.session = w.fast(100 * time.Millisecond)
		w.connect()
		rng := rand.New(rand.NewPCG(1, 2))
		var halves []*mailbox.Half
		began, due := time.Now(), time.Duration(0)
		const n = 3000
		for range n {
			due += time.Duration(rng.ExpFloat64() * float64(100*time.Millisecond))
			time.Sleep(time.Until(began.Add(due)))
			p, err := w.client.SealPut(nothing, 20*time.Millisecond)
			must(t, err)
			g, err := w.client.SealGet(nothing, 20*time.Millisecond)
			must(t, err)
			must(t, w.session.Send(t.Context(), &mailbox.Frame{Put: p, Get: g, Lag: 2 * time.Second}))
			if late := time.Since(began.Add(due)); late > time.Second {
				t.Fatalf("a frame was held up for %v", late)
			}
			halves = append(halves, p, g)
		}
		for i, h := range halves {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, _, err := h.Wait(ctx); err != nil {
				t.Fatalf("half %d: %v", i, err)
			}
			cancel()
		}
	})
}

// Pages of three busy stores that do not fit together go down in turns; none is left out for long while they fit on
// average.
func TestPagesOfBusyStoresTakeTurns(t *testing.T) {
	run := func(t *testing.T, boxes int) (share []float64) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			stores := []*mailboxtest.Mailbox{w.store}
			for range 2 {
				stores = append(stores, mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithConfig(func(c *store.Config) { c.Bucket = 10 * time.Second })))
			}
			var mu sync.Mutex // guards got
			got := make(map[mailbox.Address]map[uint64]bool)
			clients := map[mailbox.Address]*mailbox.Client{}
			for _, s := range stores {
				got[s.Address()], clients[s.Address()] = map[uint64]bool{}, s.Client()
				_, err := clients[s.Address()].Descriptor(t.Context())
				must(t, err)
			}
			s := mailbox.NewSession(w.courier.Address(), w.mesh, mailbox.SessionParams{Push: 10 * time.Second, OnPage: func(a mailbox.Address, part []byte) {
				p, err := clients[a].ParsePushed(part)
				mu.Lock()
				defer mu.Unlock()
				if err != nil || got[a][p.Index] {
					t.Errorf("page %d, a second time or spoiled: %v", p.Index, err)
				}
				got[a][p.Index] = true
			}})
			t.Cleanup(func() { s.Close() })
			w.session = s
			w.connect()
			w.frame(nothing, nothing, 0, 0, time.Second, stores[0].Address(), stores[1].Address(), stores[2].Address())
			time.Sleep(time.Minute)
			rng := rand.New(rand.NewPCG(5, 6))
			first := mailbox.BucketAt(time.Now(), 10*time.Second) + 2
			const buckets = 12
			for range buckets + 5 {
				time.Sleep(10 * time.Second)
				var all sync.WaitGroup
				for _, s := range stores {
					// Poisson, as boxes of many nodes come.
					for x := rng.ExpFloat64(); x < float64(boxes); x += rng.ExpFloat64() {
						all.Go(func() {
							id, box := randomBox()
							if err := clients[s.Address()].Put(t.Context(), id, (*[mailbox.BoxSize]byte)(box), nil); err != nil {
								t.Error(err)
							}
						})
					}
				}
				all.Wait()
			}
			time.Sleep(time.Minute)
			mu.Lock()
			defer mu.Unlock()
			for _, s := range stores {
				n := 0.0
				for i := first; i < first+buckets; i++ {
					if got[s.Address()][i] {
						n++
					}
				}
				share = append(share, n/buckets)
			}
		})
		return share
	}
	// 47 boxes a store fit exactly; what is more than they are in one bucket goes with the next frame.
	for _, c := range []struct {
		boxes int
		least float64
	}{{43, 0.8}, {70, 0.35}} {
		share := run(t, c.boxes)
		t.Logf("%d boxes a store and bucket: %.2f of the pages were pushed", c.boxes, share)
		low, high := 1.0, 0.0
		for _, x := range share {
			low, high = math.Min(low, x), math.Max(high, x)
		}
		if low < c.least || high-low > 0.34 {
			t.Errorf("%d boxes: pages pushed by store: %.2f", c.boxes, share)
		}
	}
}
