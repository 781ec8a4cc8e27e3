// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"tarn/crypto/token"
	"tarn/internal/leakage"
	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
)

// stopwatch dials and notes how long the answer to each connection's request took.
type stopwatch struct {
	mailbox.Dialer
	took chan time.Duration
}

func (s stopwatch) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	c, err := s.Dialer.Dial(ctx, addr, isolation)
	return &timed{Conn: c, took: s.took}, err
}

type timed struct {
	net.Conn
	asked time.Time
	took  chan time.Duration
}

func (c *timed) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.asked = time.Now()
	return n, err
}

func (c *timed) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.asked.IsZero() {
		c.took <- time.Since(c.asked)
		c.asked = time.Time{}
	}
	return n, err
}

// answerTimes measures the answers of a real store, with its database on a disk and a real clock: what each kind of
// request takes, in an order drawn by lot, some at a time.
func answerTimes(t *testing.T, answerTime time.Duration, each int) map[string][]float64 {
	m := mailboxtest.New(t, mailboxtest.WithTokens(), mailboxtest.WithConfig(func(c *mailboxstore.Config) {
		c.Dir, c.Bucket = t.TempDir(), time.Second
	}), mailboxtest.WithFront(func(c *front.Config) { c.AnswerTime = answerTime }))
	fresh := func() (id mailbox.BoxID, box *[mailbox.BoxSize]byte) {
		box = new([mailbox.BoxSize]byte)
		rand.Read(id[:])
		rand.Read(box[:])
		return id, box
	}
	ctx := t.Context()
	setup := m.Client()
	if _, err := setup.Descriptor(ctx); err != nil {
		t.Fatal(err)
	}
	const first = 1 + 64 + 1 // tokens of the boxes that are there, and one to spare
	account := mailboxtest.Account(t, setup)
	paid := make(chan *[mailbox.TokenSize]byte, first+each)
	for left := first + each; left > 0; left -= token.MaxBatch {
		var secret [32]byte
		rand.Read(secret[:])
		for _, tok := range mailboxtest.Draw(t, setup, account, mailbox.Epoch(time.Now()), secret, min(left, token.MaxBatch)) {
			paid <- (*[mailbox.TokenSize]byte)(&tok)
		}
	}
	there, content := fresh()
	var known []mailbox.Handle
	spent := <-paid
	if err := setup.Put(ctx, there, content, spent); err != nil {
		t.Fatal(err)
	}
	for range 64 {
		id, box := fresh()
		if err := setup.Put(ctx, id, box, <-paid); err != nil {
			t.Fatal(err)
		}
		known = append(known, id.Handle())
	}
	page := mailbox.PageAddr{Index: mailbox.BucketAt(time.Now(), time.Second)}
	for { // until the page is closed
		if _, err := setup.Digest(ctx, page); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	requests := map[string]func(c *mailbox.Client) error{
		"put":       func(c *mailbox.Client) error { id, box := fresh(); return c.Put(ctx, id, box, <-paid) },
		"put again": func(c *mailbox.Client) error { return c.Put(ctx, there, content, spent) },
		"put unpaid": func(c *mailbox.Client) error {
			id, box := fresh()
			return ignore(c.Put(ctx, id, box, nil), mailbox.ErrToken)
		},
		"put with a bad token": func(c *mailbox.Client) error {
			id, box := fresh()
			bad := *spent
			bad[95] ^= 1
			return ignore(c.Put(ctx, id, box, &bad), mailbox.ErrToken)
		},
		"put with a spent token": func(c *mailbox.Client) error {
			id, box := fresh()
			return ignore(c.Put(ctx, id, box, spent), mailbox.ErrToken)
		},
		"put nothing": func(c *mailbox.Client) error { return c.Nothing(ctx) },
		"get there":   func(c *mailbox.Client) error { _, err := c.Get(ctx, known[mathrand.IntN(len(known))]); return err },
		"get absent":  func(c *mailbox.Client) error { id, _ := fresh(); _, err := c.Get(ctx, id.Handle()); return err },
		"digest":      func(c *mailbox.Client) error { _, err := c.Digest(ctx, page); return err },
		"put another": func(c *mailbox.Client) error {
			_, box := fresh()
			return ignore(c.Put(ctx, there, box, nil), mailbox.ErrExists)
		},
		"descriptor": func(c *mailbox.Client) error { _, err := c.Descriptor(ctx); return err },
		"digest early": func(c *mailbox.Client) error {
			_, err := c.Digest(ctx, mailbox.PageAddr{Index: page.Index + 1e6})
			return ignore(err, mailbox.ErrNotYet)
		},
	}
	var order []string
	for name := range requests {
		for range each {
			order = append(order, name)
		}
	}
	mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	work := make(chan string)
	times := map[string][]float64{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		s := stopwatch{m.Dialer(), make(chan time.Duration, 2)}
		c := mailbox.NewClient(m.Address(), s)
		if _, err := c.Descriptor(ctx); err != nil {
			t.Fatal(err)
		}
		<-s.took
		all.Go(func() {
			for name := range work {
				if err := requests[name](c); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				took := (<-s.took).Seconds()
				mu.Lock()
				times[name] = append(times[name], took)
				mu.Unlock()
			}
		})
	}
	for _, name := range order {
		work <- name
	}
	close(work)
	all.Wait()
	return times
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return fmt.Errorf("not %w: %w", expected, err)
}

// tellApart is how well one kind of request is told from another by the time of its answer: of the pair of kinds that
// the first half of the measurements sets apart most, by the second half.
func tellApart(times map[string][]float64) (worst leakage.Estimate, pair string) {
	compare := func(a, b string, from, to float64) []leakage.Score {
		var s []leakage.Score
		for k, name := range []string{a, b} {
			x := times[name]
			for i, v := range x[int(from*float64(len(x))):int(to*float64(len(x)))] {
				s = append(s, leakage.Score{Value: v, True: k == 0, A: 2*i + k, B: 2*i + k})
			}
		}
		return s
	}
	most, one, other := 0.0, "", ""
	for a := range times {
		for b := range times {
			if a != b {
				if auc := leakage.AUC(compare(a, b, 0, 0.5)); auc > most {
					most, one, other = auc, a, b
				}
			}
		}
	}
	return leakage.Bootstrap(compare(one, other, 0.5, 1), 500, 1), one + " or " + other
}
