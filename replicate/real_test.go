// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/store"
)

// realNode is a player whose store is a real mailbox, over the real protocol.
func realNode(t *testing.T, w *world, n byte, box *mailboxtest.Mailbox, p Profile) *node {
	t.Helper()
	nd := w.node(n, p)
	nd.own = []mailbox.Address{box.Address()}
	startReal(t, nd, box)
	return nd
}

// startReal runs the node on real mailboxes.
func startReal(t *testing.T, nd *node, boxes ...*mailboxtest.Mailbox) {
	t.Helper()
	e, err := New(Config{KV: nd.kv, Rooms: nd.rooms, Identity: nd.id, Stores: nd.own, Profile: nd.profile, Seed: nd.seed, Codes: nd.codes,
		Dial: func(a mailbox.Address) Mailbox { return mailbox.NewClient(a, mailboxtest.Dialer(boxes...)) }})
	if err != nil {
		t.Fatal(err)
	}
	nd.engine = e
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	nd.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		nd.stop = nil
	}
}

func realPair(t *testing.T) (*mailboxtest.Mailbox, *world, *node, *node) {
	box := mailboxtest.New(t, mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = time.Second }))
	w := newWorld(t, 1)
	p := fast()
	p.Heads = 20 * time.Second // and so are the longest pauses before an unlisted box is looked for
	a, b := realNode(t, w, 1, box, p), realNode(t, w, 2, box, p)
	w.friends(a, b)
	return box, w, a, b
}

func TestOnARealMailboxEveryTransactionHasOneSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, w, a, b := realPair(t)
		talk(t, w, a, b, 20, 10*time.Minute)
		talk(t, w, b, a, 20, 10*time.Minute)
		quiet(w, a, b, time.Hour)
		end := time.Now()
		w.stopAll()
		seen := map[string]bool{}
		for _, x := range box.Transactions() {
			if end.Sub(x.At) < time.Second {
				continue // it was cut
			}
			if x.Up != mailbox.UpSize || x.Down != mailbox.DownSize {
				t.Fatalf("a transaction of %d bytes up, %d down", x.Up, x.Down)
			}
			if seen[x.Isolation] {
				t.Fatal("two transactions share a circuit")
			}
			seen[x.Isolation] = true
		}
	})
}

func TestFaultsOfARealMailboxHeal(t *testing.T) {
	faults := map[string]mailboxtest.Fault{
		"down":          {Down: true},
		"unreachable":   {Unreachable: true},
		"garbage":       {Garbage: true},
		"cut":           {Cut: true},
		"hang":          {Hang: true},
		"busy":          {Busy: true},
		"full":          {Full: true},
		"replace":       {Replace: true},
		"lose":          {Lose: true},
		"hide handles":  {HideHandles: true},
		"extra handles": {ExtraHandles: true},
		"slow":          {Delay: 10 * time.Second},
	}
	names := slices.Sorted(maps.Keys(faults))
	for _, name := range names[:plays(len(names))] {
		fault := faults[name]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				box, w, a, b := realPair(t)
				defer w.stopAll()
				box.Faults.Set(fault)
				var want []string
				for i := range 4 {
					want = append(want, fmt.Sprint("in trouble ", i))
					a.rooms.send(t, lounge, want[i])
					time.Sleep(20 * time.Second)
				}
				if fault.Garbage || fault.Down {
					if s := a.engine.Stores(); len(s) != 1 || s[0].Problem == "" {
						t.Errorf("the trouble does not show: %+v", s)
					}
				}
				box.Faults.Clear()
				w.has(b, lounge, 4, 2*time.Hour)
				if got := b.rooms.bodies(lounge); !slices.Equal(got, want) {
					t.Errorf("got %v", got)
				}
				quiet(w, a, b, 4*time.Hour)
			})
		})
	}
}

func TestTwoEnginesOnBadgerTalkAndRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("Badger in a bubble")
	}
	dir := t.TempDir()
	open := func(name string) store.KV {
		kv, err := store.OpenBadger(dir+"/"+name, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return kv
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b := w.node(1, fast()), w.node(2, fast())
		a.kv, b.kv = open("a"), open("b")
		a.start()
		b.start()
		w.friends(a, b)
		talk(t, w, a, b, 10, 10*time.Minute)
		w.stopAll()
		for _, n := range []*node{a, b} {
			if err := n.kv.Close(); err != nil {
				t.Fatal(err)
			}
		}
		a.kv, b.kv = open("a"), open("b")
		a.start()
		b.start()
		talk(t, w, b, a, 10, 10*time.Minute)
		quiet(w, a, b, time.Hour)
		w.stopAll()
		for _, n := range []*node{a, b} {
			if err := n.kv.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
