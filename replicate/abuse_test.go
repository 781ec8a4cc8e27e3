// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/matrix"
)

// abuse is how much of everything there is. In fake time the processor is free, so what attackers send costs the test, and
// not the honest nodes: here it shows whether they take places, turns, queues or memory of others. What they cost the
// processor is measured in real time (mailbox/courier: TestFramesUnderAFloodOfHellos, and the benchmarks there and in front).
type abuse struct {
	messages int           // of each honest node, one each 4 s
	boxes    int           // that the malicious contact leaves, ten a second
	draws    int           // batches of 250 tokens of the malicious account
	sessions int           // that are tried at each courier, which has places for as many
	eager    int           // of those so many send a frame a second and more, the others one in ten seconds
	garbage  time.Duration // between two connections with garbage, at each mailbox
}

func abuseSize() abuse {
	if os.Getenv("TARN_FULL") != "" {
		return abuse{messages: 40, boxes: 1500, draws: 5, sessions: 5000, eager: 250, garbage: 10 * time.Millisecond}
	}
	return abuse{messages: 25, boxes: 600, draws: 2, sessions: 500, eager: 25, garbage: 100 * time.Millisecond}
}

// attack is somebody who may be there, and does what he may, and more.
type attack struct {
	name   string
	tokens bool // the stores want tokens, of the attacker too
	// begin lets it go on until ctx ends. It says afterwards what it did, or fails the test if that was nothing.
	begin func(*abuseWorld, context.Context) (did func() string)
}

var attacks = []attack{
	{"a malicious contact", false, (*abuseWorld).contactFloods},
	{"a malicious account", true, (*abuseWorld).accountFloods},
	{"many sessions", false, (*abuseWorld).sessionsFlood},
	{"garbage", false, (*abuseWorld).garbageFlood},
}

// Nobody of these delays honest people to twice as long, or fills a mailbox's memory.
func TestAbuseLeavesHonestDeliveryAlone(t *testing.T) {
	measures(t)
	size := abuseSize()
	var table strings.Builder
	line := func(name string, o abuseOutcome) time.Duration {
		mean, p95 := stats(o.took)
		_, victim := stats(o.victim)
		fmt.Fprintf(&table, "\n%-20s delivered %4d  mean %5.1f s  p95 %5.1f s  to the victim %5.1f s  last %5.0f s  heap %+7.1f MB in the middle, %+7.1f MB at the end, %+7.1f MB after it  %5.1f s of a processor  %s", name,
			len(o.took), mean.Seconds(), p95.Seconds(), victim.Seconds(), o.took[len(o.took)-1].Seconds(), mb(o.heap[0]), mb(o.heap[1]), mb(o.heap[2]), o.cpu.Seconds(), o.did)
		return max(p95, victim)
	}
	alone := abused(t, size, false, nil)
	line("nobody", alone)
	_, quiet := stats(alone.took)
	for _, a := range attacks {
		var out abuseOutcome
		if !t.Run(a.name, func(t *testing.T) { out = abused(t, size, a.tokens, a.begin) }) || len(out.took) == 0 {
			continue // it failed, or was not to be run
		}
		p95 := line(a.name, out)
		if out.lost > 0 || p95 > 2*quiet {
			t.Errorf("%s: p95 %v, without it %v; %d messages did not come within an hour", a.name, p95, quiet, out.lost)
		}
		// What there is in the middle may be there: bounds are full then. It must not go on growing, nor stay. (A mailbox's
		// boxes stay in these, which are in memory.)
		if grown := out.heap[1] - out.heap[0]; grown > max(out.heap[0]/2, 30<<20) {
			t.Errorf("%s: the heap grows by another %.1f MB in the second half", a.name, mb(grown))
		}
		if left := out.heap[2]; left > 30<<20+int64(size.boxes+250*size.draws)*2*mailbox.BoxSize {
			t.Errorf("%s: %.1f MB are still held when all is over", a.name, mb(left))
		}
	}
	t.Log(table.String())
}

func mb(n int64) float64 { return float64(n) / 1e6 }

// abuseOutcome is one life of the world.
type abuseOutcome struct {
	took   []time.Duration
	victim []time.Duration // of those: to the first node, whom the malicious contact and account are after
	lost   int
	heap   [3]int64 // beyond that before the attack: in its middle, at its end, and when all of it is over
	did    string
	cpu    time.Duration
}

type abuseWorld struct {
	*realWorld
	size   abuse
	nodes  []*node
	direct *mailbox.Client // attackers' way to the first store
}

// slowly is a network in which an onion that nobody has is looked for during half a minute, as in Tor.
type slowly struct{ mailbox.Dialer }

func (s slowly) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	c, err := s.Dialer.Dial(ctx, addr, isolation)
	if errors.Is(err, mailboxtest.ErrDown) {
		select {
		case <-time.After(30 * time.Second):
		case <-ctx.Done():
		}
	}
	return c, err
}

// abused is a world's life: two pairs of honest nodes get to know each other, then speak for a while, during which the
// attack goes on.
func abused(t *testing.T, size abuse, tokens bool, begin func(*abuseWorld, context.Context) func() string) (out abuseOutcome) {
	began := cpuTime(t)
	defer func() { out.cpu = cpuTime(t) - began }()
	synctest.Test(t, func(t *testing.T) {
		w := newAbuseWorld(t, size, tokens)
		defer w.end()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		before := heap()
		did := func() string { return "" }
		if begin != nil {
			did = begin(w, ctx)
		}
		time.Sleep(20 * time.Second)
		w.converse(&out, func() int64 { return heap() - before })
		stop()
		out.did = did()
		w.stopAll()
		time.Sleep(15 * time.Minute)
		out.heap[2] = heap() - before
	})
	if len(out.took) == 0 {
		t.Fatal("nothing was delivered")
	}
	return out
}

func newAbuseWorld(t *testing.T, size abuse, tokens bool) *abuseWorld {
	w := &abuseWorld{realWorld: &realWorld{world: newWorld(t, 1), mesh: mailboxtest.NewMesh()}, size: size}
	const delay = 300 * time.Millisecond
	w.far = newFar(w.mesh, delay)
	for i := range 3 {
		opts := []mailboxtest.Option{mailboxtest.WithMesh(w.mesh), mailboxtest.Unwatched(), mailboxtest.WithFamily(fmt.Sprint("store ", i)),
			mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = 10 * time.Second })}
		if tokens && i == 0 { // the one that is flooded; drawing costs the test most of all
			opts = append(opts, mailboxtest.WithTokens(), mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Cap = 250 * max(1, size.draws-1) }))
		}
		w.stores = append(w.stores, mailboxtest.New(t, opts...))
	}
	for range 2 {
		w.couriers = append(w.couriers, mailboxtest.New(t, mailboxtest.WithMesh(w.mesh), mailboxtest.Unwatched(), mailboxtest.WithoutStore(),
			mailboxtest.WithCourier(slowly{newFar(w.mesh, delay)}, func(c *courier.Config) { c.MaxSessions = size.sessions })))
	}
	for i := range byte(4) {
		w.nodes = append(w.nodes, w.add(i+1, CustomProfile(2*time.Second, 0.3)))
	}
	for i := 0; i < len(w.nodes); i += 2 {
		a, b := w.nodes[i], w.nodes[i+1]
		w.contact(a, b)
		a.rooms.join(lounge, a.name(), b.name())
		b.rooms.join(lounge, a.name(), b.name())
	}
	w.direct = mailbox.NewClient(w.stores[0].Address(), w.mesh)
	if _, err := w.direct.Descriptor(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !tokens {
		time.Sleep(6 * time.Minute) // sessions that are there for so long have a share of their courier's memory
	}
	return w
}

// converse lets the honest nodes speak, and looks at the heap in the middle and at the end.
func (w *abuseWorld) converse(out *abuseOutcome, heap func() int64) {
	var mu sync.Mutex
	var all sync.WaitGroup
	const pause = 4 * time.Second
	for i, from := range w.nodes {
		to := w.nodes[i^1]
		all.Go(func() {
			time.Sleep(time.Duration(i) * 900 * time.Millisecond)
			for n := range w.size.messages {
				began, id := time.Now(), from.rooms.send(w.t, lounge, fmt.Sprint(i, n))
				all.Go(func() {
					for !to.rooms.knows(lounge, id) && time.Since(began) < time.Hour {
						time.Sleep(100 * time.Millisecond)
					}
					mu.Lock()
					defer mu.Unlock()
					if took := time.Since(began); took < time.Hour {
						out.took = append(out.took, took)
						if to == w.nodes[0] {
							out.victim = append(out.victim, took)
						}
					} else {
						out.lost++
					}
				})
				time.Sleep(pause)
			}
		})
	}
	for i := range 2 {
		time.Sleep(time.Duration(w.size.messages) * pause / 2)
		out.heap[i] = heap()
	}
	all.Wait()
}

// knows tells whether the room has the event.
func (f *fakeRooms) knows(id matrix.RoomID, ev matrix.EventID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events[id][ev] != nil
}

func cpuTime(t *testing.T) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
