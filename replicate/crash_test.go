// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/store"
	"tarn/store/storetest"
)

// crashPlay lets two nodes meet and talk while their processes die at drawn writes, before or after the commit, and
// their store misbehaves; then everything is well again, and nothing may be lost, doubled or stuck.
func crashPlay(t *testing.T, relink bool, draw func(label string, n int) int) (epoch uint32) {
	w := newWorld(t, 1)
	p := fast()
	a, b := w.node(1, p), w.node(2, p)
	disks := map[*node]store.KV{a: a.kv, b: b.kv}
	die := func(n *node) {
		n.kv = &storetest.Mortal{KV: disks[n], Left: draw("writes until the crash", 25), After: draw("after the commit", 2) == 1}
	}
	boot := func(n *node, crash bool) {
		if n.stop != nil {
			n.stop()
		}
		n.kv = disks[n]
		if crash {
			die(n)
		}
		for try := 0; ; try++ {
			if try == 1 {
				n.kv = disks[n]
			}
			if e, err := New(Config{KV: n.kv, Rooms: n.rooms, Identity: n.id, Stores: n.own, Profile: n.profile, Seed: n.seed,
				Dial: func(a mailbox.Address) Mailbox { return &fakeClient{fakeStore: w.stores[a], node: n} }}); err == nil {
				n.engine = e
				break
			} else if !errors.Is(err, storetest.ErrDied) {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.engine.Run(ctx) }()
		n.stop = func() { cancel(); <-done; n.stop = nil }
	}
	defer w.stopAll()
	var sent [2][]string
	say := func(i int, n *node) {
		body := fmt.Sprint(i, " ", len(sent[i]))
		if relink && draw("in fragments", 4) == 0 {
			body += " " + rand32k()
		}
		if n.rooms.send(t, lounge, body) != "" {
			sent[i] = append(sent[i], body)
		}
	}
	a.rooms.join(lounge, a.name(), b.name())
	b.rooms.join(lounge, a.name(), b.name())
	boot(a, false)
	boot(b, false)
	l, err := a.engine.Invite(context.Background(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Accept(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	for range 6 + draw("rounds", 6) {
		for i, n := range []*node{a, b} {
			if draw("crashes", 3) > 0 {
				boot(n, true)
			}
			for range draw("messages", 4) {
				say(i, n)
			}
		}
		if relink && draw("a new link", 2) == 0 {
			x, y := a, b
			if draw("which way", 2) == 0 {
				x, y = b, a
			}
			if l, err := x.engine.Invite(context.Background(), 0); err == nil {
				if _, err := y.engine.Accept(context.Background(), l); err != nil && !errors.Is(err, storetest.ErrDied) {
					t.Fatal(err)
				}
			} else if !errors.Is(err, storetest.ErrDied) {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Duration(1+draw("seconds", 40)) * time.Second)
		if draw("the store loses everything", 12) == 0 {
			w.store(0).set((*fakeStore).lose)
		}
	}
	boot(a, false)
	boot(b, false)
	say(0, a)
	say(1, b)
	total := len(sent[0]) + len(sent[1])
	w.has(a, lounge, total, 6*time.Hour)
	w.has(b, lounge, total, 6*time.Hour)
	for _, n := range []*node{a, b} {
		got := n.rooms.bodies(lounge)
		for i := range sent {
			mine := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s[0] != byte('0'+i) })
			if !slices.Equal(mine, sent[i]) {
				t.Errorf("%.4s has %d of %d messages, or not in order", n.name(), len(mine), len(sent[i]))
			}
		}
	}
	quiet(w, a, b, 6*time.Hour)
	if x, y := a.status(b.name()).Number, b.status(a.name()).Number; x == "" || x != y {
		t.Errorf("numbers %q and %q", x, y)
	}
	if n := w.store(0).reused(); n != 0 {
		t.Errorf("%d indices were used for two contents", n)
	}
	p1 := a.streams(b.name())
	return p1.Epoch()
}

func TestCrashesAtAnyWriteLoseNothingAndReuseNoIndex(t *testing.T) {
	seeds := plays(12)
	if os.Getenv("TARN_FULL") != "" {
		seeds = 500
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(seed), 1))
				crashPlay(t, false, func(_ string, n int) int { return rng.IntN(n) })
			})
		})
	}
}

// The streams are replaced by new links, made by either, while items, fragments and boxes of the old ones are under way.
func TestNewLinksAndCrashesInMidFlightLoseNothing(t *testing.T) {
	seeds := 8
	if os.Getenv("TARN_FULL") != "" {
		seeds = 300
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(seed), 2))
				crashPlay(t, true, func(_ string, n int) int { return rng.IntN(n) })
			})
		})
	}
}

// rand32k is text that does not compress and takes several boxes.
func rand32k() string {
	b := make([]byte, 16<<10)
	crand.Read(b)
	return fmt.Sprintf("%x", b)
}
