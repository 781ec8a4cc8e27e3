// SPDX-License-Identifier: Apache-2.0

package front_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
)

// slowEngine is a disk whose work shows what is done.
type slowEngine struct{ store.Engine }

func (e slowEngine) Put(bucket uint64, expires time.Time, boxes []store.Box, errs []error) error {
	time.Sleep(6*time.Millisecond + rand.N(6*time.Millisecond))
	return e.Engine.Put(bucket, expires, boxes, errs)
}

func (e slowEngine) Get(h mailbox.Handle, box *[mailbox.BoxSize]byte) (bool, error) {
	found, err := e.Engine.Get(h, box)
	if found {
		time.Sleep(time.Millisecond + rand.N(time.Millisecond))
	} else {
		time.Sleep(rand.N(time.Millisecond))
	}
	return found, err
}

// class is a kind of request that an observer of the wire shall not be able to tell by the time of its answer.
type class struct {
	name string
	do   func(ctx context.Context, c *mailbox.Client, i int) error
}

func boxID(kind byte, i int) mailbox.BoxID {
	return mailbox.BoxID{kind, byte(i >> 16), byte(i >> 8), byte(i)}
}

var noToken [mailbox.TokenSize]byte

// classes need boxes 0 to n-1 of kind 1 to be there.
func classes(n int) []class {
	expect := func(err, want error) error {
		if !errors.Is(err, want) {
			return fmt.Errorf("%w, want %w", err, want)
		}
		return nil
	}
	var box, other [mailbox.BoxSize]byte
	other[0] = 1
	return []class{
		{"nothing", func(ctx context.Context, c *mailbox.Client, i int) error { return c.Nothing(ctx) }},
		{"get hit", func(ctx context.Context, c *mailbox.Client, i int) error {
			b, err := c.Get(ctx, boxID(1, i%n).Handle())
			if err == nil && *b != box {
				err = errors.New("no hit")
			}
			return err
		}},
		{"get miss", func(ctx context.Context, c *mailbox.Client, i int) error {
			_, err := c.Get(ctx, boxID(2, i).Handle())
			return err
		}},
		{"put", func(ctx context.Context, c *mailbox.Client, i int) error {
			return c.Put(ctx, boxID(3, i), &box, &noToken)
		}},
		{"put again", func(ctx context.Context, c *mailbox.Client, i int) error {
			return c.Put(ctx, boxID(1, i%n), &box, &noToken)
		}},
		{"put exists", func(ctx context.Context, c *mailbox.Client, i int) error {
			return expect(c.Put(ctx, boxID(1, i%n), &other, &noToken), mailbox.ErrExists)
		}},
		{"digest", func(ctx context.Context, c *mailbox.Client, i int) error {
			_, err := c.Digest(ctx, mailbox.PageAt(0, time.Now().Add(-time.Minute), store.DefaultBucket))
			return err
		}},
	}
}

// measure makes n requests of each class, in a random order, by workers at once, and returns their times by class.
func measure(t testing.TB, m *mailboxtest.Mailbox, n, workers int) map[string][]float64 {
	c := m.Client()
	ctx := context.Background()
	if _, err := c.Descriptor(ctx); err != nil {
		t.Fatal(err)
	}
	var box [mailbox.BoxSize]byte
	for i := range n {
		if err := c.Put(ctx, boxID(1, i), &box, &noToken); err != nil {
			t.Fatal(err)
		}
	}
	type one struct {
		class
		i int
	}
	var all []one
	for _, k := range classes(n) {
		for i := range n {
			all = append(all, one{k, i})
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	work := make(chan one)
	var mu sync.Mutex
	took := map[string][]float64{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for o := range work {
				began := time.Now()
				err := o.do(ctx, c, o.i)
				d := time.Since(began)
				mu.Lock()
				took[o.name] = append(took[o.name], d.Seconds())
				mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", o.name, err)
				}
			}
		})
	}
	for _, o := range all {
		work <- o
	}
	close(work)
	wg.Wait()
	return took
}

// worst is the pair of classes that are told apart best by one answer's time, and its AUC: 0.5 is a guess, 1 is certain.
func worst(took map[string][]float64) (pair string, auc float64) {
	for a, x := range took {
		for b, y := range took {
			if u := mannWhitney(x, y); a != b && u > auc {
				pair, auc = a+" after "+b, u
			}
		}
	}
	return pair, auc
}

// mannWhitney is the probability that one of x is above one of y, ties counting half.
func mannWhitney(x, y []float64) float64 {
	y = slices.Sorted(slices.Values(y))
	sum := 0.0
	for _, v := range x {
		below, _ := slices.BinarySearch(y, v)
		upTo, _ := slices.BinarySearchFunc(y, v, func(e, t float64) int {
			if e <= t {
				return -1
			}
			return 1
		})
		sum += float64(below+upTo) / 2
	}
	return sum / float64(len(x)*len(y))
}

// By the time of an answer nobody can tell what was asked, nor what became of it.
func TestTheTimeOfAnAnswerTellsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand requests")
	}
	run := func(answer time.Duration) (pair string, auc float64) {
		synctest.Test(t, func(t *testing.T) {
			m := mailboxtest.New(t,
				mailboxtest.WithConfig(func(c *store.Config) {
					c.Engine = slowEngine{store.NewMemory(store.DefaultExpiryUnit, 1<<40)}
				}),
				mailboxtest.WithFront(func(c *front.Config) { c.AnswerTime = answer }))
			time.Sleep(5 * time.Minute)
			pair, auc = worst(measure(t, m, 60, 4))
		})
		return pair, auc
	}
	if pair, auc := run(0); auc > 0.55 {
		t.Errorf("%s: AUC %.3f", pair, auc)
	}
	// The control: the same measurement without the constant time must tell them apart, else it measures nothing.
	if pair, auc := run(-1); auc < 0.9 {
		t.Errorf("without the constant time %s has AUC %.3f: the attack is too weak", pair, auc)
	}
}

// BenchmarkAnswerTimes is the same with a real disk and real time. It reports the worst pair's AUC with and without the
// constant time; a shared machine adds noise of its own to both.
func BenchmarkAnswerTimes(b *testing.B) {
	for name, answer := range map[string]time.Duration{"constant": front.DefaultAnswerTime, "bare": -1} {
		b.Run(name, func(b *testing.B) {
			m := mailboxtest.New(b, mailboxtest.WithConfig(func(c *store.Config) { c.Dir = b.TempDir() }),
				mailboxtest.WithFront(func(c *front.Config) { c.AnswerTime = answer }))
			for b.Loop() {
				pair, auc := worst(measure(b, m, 150, 2))
				b.ReportMetric(auc, "auc")
				b.Logf("%s: %s", name, pair)
			}
		})
	}
}
