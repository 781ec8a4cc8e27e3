// SPDX-License-Identifier: Apache-2.0

package front_test

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
)

// slowEngine is a disk whose work shows what is done: a write takes from sync to its double.
type slowEngine struct {
	store.Engine
	sync time.Duration
}

func (e slowEngine) Put(bucket uint64, expires time.Time, boxes []store.Box, errs []error) error {
	time.Sleep(e.sync + rand.N(e.sync))
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
	name    string
	put     bool
	request func(i int) mailbox.Request
	check   func(body []byte, err error) error
}

// do makes the request directly.
func (k class) do(ctx context.Context, c *mailbox.Client, i int) error {
	r := k.request(i)
	switch r.Op {
	case mailbox.OpNothing:
		return k.check(nil, c.Nothing(ctx))
	case mailbox.OpPut:
		return k.check(nil, c.Put(ctx, r.ID, (*[mailbox.BoxSize]byte)(r.Box), &r.Token))
	case mailbox.OpGet:
		b, err := c.Get(ctx, r.Get)
		if err != nil {
			return k.check(nil, err)
		}
		return k.check(b[:], nil)
	}
	_, err := c.Digest(ctx, r.Page)
	return k.check(nil, err)
}

// half makes it for a link.
func (k class) half(c *mailbox.Client, i int) (*mailbox.Half, error) {
	if k.put {
		return c.SealPut(k.request(i), 0)
	}
	return c.SealGet(k.request(i), 0)
}

func boxID(kind byte, i int) mailbox.BoxID {
	return mailbox.BoxID{kind, byte(i >> 16), byte(i >> 8), byte(i)}
}

func newBox() (id mailbox.BoxID) {
	crand.Read(id[:])
	return id
}

var noToken [mailbox.TokenSize]byte

// classes need boxes 0 to n-1 of kind 1 to be there.
func classes(n int) []class {
	box, other := make([]byte, mailbox.BoxSize), make([]byte, mailbox.BoxSize)
	other[0] = 1
	done := func(_ []byte, err error) error { return err }
	put := func(id mailbox.BoxID, box []byte) mailbox.Request {
		return mailbox.Request{Op: mailbox.OpPut, ID: id, Box: box, Token: noToken}
	}
	return []class{
		{"nothing", true, func(int) mailbox.Request { return mailbox.Request{Op: mailbox.OpNothing} }, done},
		{"put", true, func(i int) mailbox.Request { return put(newBox(), box) }, done},
		{"put again", true, func(i int) mailbox.Request { return put(boxID(1, i%n), box) }, done},
		{"put exists", true, func(i int) mailbox.Request { return put(boxID(1, i%n), other) }, func(_ []byte, err error) error {
			if !errors.Is(err, mailbox.ErrExists) {
				return fmt.Errorf("%w, want %w", err, mailbox.ErrExists)
			}
			return nil
		}},
		{"get hit", false, func(i int) mailbox.Request { return mailbox.Request{Op: mailbox.OpGet, Get: boxID(1, i%n).Handle()} },
			func(b []byte, err error) error {
				if err == nil && !bytes.Equal(b[:mailbox.BoxSize], box) {
					err = errors.New("no hit")
				}
				return err
			}},
		{"get miss", false, func(i int) mailbox.Request { return mailbox.Request{Op: mailbox.OpGet, Get: boxID(2, i).Handle()} }, done},
		{"digest", false, func(int) mailbox.Request {
			return mailbox.Request{Op: mailbox.OpDigest, Page: mailbox.PageAt(0, time.Now().Add(-time.Minute), store.DefaultBucket)}
		}, done},
	}
}

// measure makes n requests of each class, in a random order, by workers at once, and returns their times by class.
func measure(t testing.TB, m *mailboxtest.Mailbox, n, workers int) map[string][]float64 {
	c := m.Client()
	prepare(t, c, n)
	do := func(k class, i int) (time.Duration, error) {
		began := time.Now()
		err := k.do(context.Background(), c, i)
		return time.Since(began), err
	}
	timed(t, n, workers, do) // the mailbox learns how slow its disk is
	return timed(t, n, workers, do)
}

// prepare writes the boxes that classes need.
func prepare(t testing.TB, c *mailbox.Client, n int) {
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
}

// timed has n requests of each class made, in a random order, by workers at once.
func timed(t testing.TB, n, workers int, do func(k class, i int) (time.Duration, error)) map[string][]float64 {
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
				d, err := do(o.class, o.i)
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

// By the time of an answer nobody can tell what was asked, nor what became of it: however slow the disk is, and over a
// courier's link as well.
func TestTheTimeOfAnAnswerTellsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("some thousand requests")
	}
	run := func(answer, sync time.Duration, how func(testing.TB, *mailboxtest.Mailbox, int, int) map[string][]float64) (pair string, auc float64) {
		synctest.Test(t, func(t *testing.T) {
			m := mailboxtest.New(t,
				mailboxtest.WithConfig(func(c *store.Config) {
					c.Engine = slowEngine{store.NewMemory(store.DefaultExpiryUnit, 1<<40), sync}
				}),
				mailboxtest.WithFront(func(c *front.Config) { c.AnswerTime = answer }))
			time.Sleep(5 * time.Minute)
			pair, auc = worst(how(t, m, 100, 4))
		})
		return pair, auc
	}
	for _, disk := range []time.Duration{5 * time.Millisecond, 40 * time.Millisecond, 150 * time.Millisecond} {
		if pair, auc := run(0, disk, measure); auc > 0.55 {
			t.Errorf("a disk of %v, %s: AUC %.3f", disk, pair, auc)
		}
		if pair, auc := run(0, disk, measureLink); auc > 0.55 {
			t.Errorf("over a link, a disk of %v, %s: AUC %.3f", disk, pair, auc)
		}
	}
	// The control: the same measurement without the constant time must tell them apart, else it measures nothing.
	if pair, auc := run(-1, 5*time.Millisecond, measure); auc < 0.9 {
		t.Errorf("without the constant time %s has AUC %.3f: the attack is too weak", pair, auc)
	}
	if pair, auc := run(-1, 5*time.Millisecond, measureLink); auc < 0.9 {
		t.Errorf("over a link, without the constant time %s has AUC %.3f: the attack is too weak", pair, auc)
	}
}

// measureLink is measure as a courier sees it, on one link for all workers.
func measureLink(t testing.TB, m *mailboxtest.Mailbox, n, workers int) map[string][]float64 {
	c := m.Client()
	prepare(t, c, n)
	conn, err := m.Dialer().Dial(t.Context(), string(m.Address().Onion)+":"+strconv.Itoa(mailbox.Port), "link")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var up [mailbox.UpSize]byte
	var down [mailbox.DownSize]byte
	mailbox.LinkRequest(&up)
	if _, err := conn.Write(up[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, down[:]); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	waiting, tag := map[uint32]chan []byte{}, uint32(0)
	go func() {
		for {
			a, err := mailbox.ReadLinkMessage(conn, true)
			if err != nil {
				return // the end
			}
			mu.Lock()
			waiting[a.Tag] <- a.Data
			delete(waiting, a.Tag)
			mu.Unlock()
		}
	}()
	do := func(k class, i int) (time.Duration, error) {
		h, err := k.half(c, i)
		if err != nil {
			return 0, err
		}
		r, answer := h.Take(), make(chan []byte, 1)
		mu.Lock()
		tag++
		waiting[tag] = answer
		_, err = conn.Write(mailbox.AppendLinkMessage(nil, mailbox.LinkMessage{Kind: mailbox.LinkKindOf(len(r.Box)), Tag: tag, Epoch: r.Epoch, Data: r.Box}))
		mu.Unlock()
		if err != nil {
			return 0, err
		}
		began := time.Now()
		h.Resolve(<-answer)
		took := time.Since(began)
		_, body, err := h.Wait(context.Background())
		return took, k.check(body, err)
	}
	timed(t, n, workers, do)
	return timed(t, n, workers, do)
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
