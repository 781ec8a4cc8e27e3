// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
)

// far is a network in which everything takes a while, one way, and in which a node's own traffic is counted.
type far struct {
	mesh  mailbox.Dialer
	delay time.Duration

	mu       sync.Mutex
	up, down map[string]int64 // by what an isolation string begins with
	reads    map[int]int      // sessions: how often a read from the courier had that size
}

func newFar(mesh mailbox.Dialer, delay time.Duration) *far {
	return &far{mesh: mesh, delay: delay, up: map[string]int64{}, down: map[string]int64{}, reads: map[int]int{}}
}

// Dial connects after a round trip; what is written arrives later, in order.
func (f *far) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	select {
	case <-time.After(2 * f.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	there, err := f.mesh.Dial(ctx, addr, isolation)
	if err != nil {
		return nil, err
	}
	here, gate := net.Pipe()
	kind, _, _ := strings.Cut(isolation, "-")
	go f.carry(gate, there, func(n int) { f.count(f.up, kind, n) })
	go f.carry(there, gate, func(n int) { f.count(f.down, kind, n) })
	return here, nil
}

func (f *far) count(in map[string]int64, kind string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	in[kind] += int64(n)
}

func (f *far) carry(from, to net.Conn, count func(int)) {
	type parcel struct {
		b  []byte
		at time.Time
	}
	way := make(chan parcel, 1024)
	go func() {
		defer to.Close()
		for p := range way {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.b); err != nil {
				break
			}
		}
		for range way { // nobody takes it any more
		}
	}()
	defer close(way)
	for {
		b := make([]byte, 1<<14)
		n, err := from.Read(b)
		if n > 0 {
			count(n)
			way <- parcel{b[:n], time.Now().Add(f.delay)}
		}
		if err != nil {
			if err != io.EOF {
				from.Close()
			}
			return
		}
	}
}

// realWorld is real stores and couriers, over the real protocol, and nodes that know them.
type realWorld struct {
	*world
	stores, couriers []*mailboxtest.Mailbox
	mesh             *mailboxtest.Mesh
	far              *far // the nodes' way
	frames           atomic.Int64
}

func newRealWorld(t *testing.T, stores, couriers int, delay time.Duration) *realWorld {
	w := &realWorld{world: newWorld(t, 1), mesh: mailboxtest.NewMesh()}
	w.far = newFar(w.mesh, delay)
	for i := range stores {
		w.stores = append(w.stores, mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithFamily(fmt.Sprint("store ", i)),
			mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = 10 * time.Second })))
	}
	for range couriers {
		w.couriers = append(w.couriers, mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.WithoutStore(),
			mailboxtest.WithCourier(newFar(w.mesh, delay), nil)))
	}
	return w
}

// add makes a running node.
func (w *realWorld) add(n byte, p Profile) *node {
	w.t.Helper()
	nd := w.node(n, p)
	nd.own = nil
	for _, s := range w.stores {
		nd.own = append(nd.own, s.Address())
	}
	for _, c := range w.couriers {
		nd.couriers = append(nd.couriers, c.Address())
	}
	w.run(nd)
	return nd
}

func (w *realWorld) run(nd *node) {
	w.t.Helper()
	e, err := New(Config{KV: nd.kv, Rooms: nd.rooms, Identity: nd.id, Stores: nd.own, Profile: nd.profile, Seed: nd.seed, Couriers: nd.couriers,
		Dial:    func(a mailbox.Address) Mailbox { return mailbox.NewClient(a, w.far) },
		Session: func(a mailbox.Address, p SessionParams) Courier { return NewSession(a, w.far, p) }})
	if err != nil {
		w.t.Fatal(err)
	}
	nd.engine = e
	e.traceFrame = func(frameTrace) { w.frames.Add(1) }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	nd.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		nd.stop = nil
	}
}

// end stops the nodes, then the mailboxes, and lets what is on the way arrive.
func (w *realWorld) end() {
	w.stopAll()
	for _, m := range append(w.couriers, w.stores...) {
		m.Kill()
	}
	time.Sleep(time.Hour)
}

func TestRealCouriersDeliverInTimeAndConstantBytes(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w := newRealWorld(t, 3, 2, 700*time.Millisecond)
		defer w.end()
		var ns []*node
		for i := range 10 {
			ns = append(ns, w.add(byte(i+1), Balanced()))
		}
		for i := 0; i < len(ns); i += 2 {
			w.contact(ns[i], ns[i+1])
			ns[i].rooms.join(lounge, ns[i].name(), ns[i+1].name())
			ns[i+1].rooms.join(lounge, ns[i].name(), ns[i+1].name())
		}
		time.Sleep(5 * time.Minute)
		w.far.mu.Lock()
		before, direct, began := w.far.up["session"]+w.far.down["session"], w.far.up["mailbox"], time.Now()
		sent := w.frames.Load()
		w.far.mu.Unlock()
		took := conversations(w.t, ns, 20)
		w.far.mu.Lock()
		bytes, elapsed := w.far.up["session"]+w.far.down["session"]-before, time.Since(began)
		if n := w.far.up["mailbox"] - direct; n != 0 {
			t.Errorf("%d bytes went to mailboxes directly", n)
		}
		w.far.mu.Unlock()
		frames := w.frames.Load() - sent
		// The number of frames is a Poisson process's: measured is what one costs, and what is pushed beside.
		perFrame := frameBytes(1)
		pushed := bytes - frames*int64(perFrame)
		rate := float64(frames) / float64(len(ns)) / elapsed.Seconds()
		t.Logf("%d frames, %.4f a second and node, %d bytes beside them: %.1f a second and node", frames, rate, pushed, float64(pushed)/float64(len(ns))/elapsed.Seconds())
		day := float64(bytes) / float64(len(ns)) * float64(24*time.Hour) / float64(elapsed)
		want := ns[0].engine.Traffic()
		mean, p95 := stats(took)
		t.Logf("%d deliveries: mean %v, p95 %v, promised %v; %.1f MB a day and node, promised %.1f", len(took), mean.Round(100*time.Millisecond),
			p95.Round(100*time.Millisecond), want.ExpectedDelay, day/1e6, float64(want.BytesPerDay)/1e6)
		if mean > 40*time.Second || p95 > 77*time.Second { // the aim is 70 s; that of 100 is between 67 and 73 from run to run
			t.Errorf("mean %v, p95 %v", mean, p95)
		}
		if math.Abs(day-float64(want.BytesPerDay)) > 0.06*day { // the Poisson process itself varies by 2 % in that time
			t.Errorf("%.1f MB a day, promised %.1f", day/1e6, float64(want.BytesPerDay)/1e6)
		}
	})
}
