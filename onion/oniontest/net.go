// SPDX-License-Identifier: Apache-2.0

// Package oniontest is the Tor network in memory, for tests of everything above package onion.
//
// Problem: a conversation over days, with outages, needs thousands of connections and fake time; real Tor gives a few
// a second in real time. [Net] behaves like it where it matters (a suite, [Conformance], runs on both): names are onion
// names, a dial to a service that is down hangs until the context ends, an onion never published errs at once,
// publication takes a while. And it does on purpose what Tor does by accident: delays, failed and hanging dials,
// partitions, hosts that go down. A tap sees what a wire-tapper of that link would see: sizes and times.
//
// Invariants: only channels, mutexes and package time, so it works in a testing/synctest bubble (create the Net inside);
// no goroutine a connection or a host; all chance comes from the seed: the n-th dial of host a to host b meets the same
// fate in every run, however the goroutines are scheduled.
package oniontest

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"tarn/crypto/onionid"
	"tarn/onion"
)

// A Link says how connections from one host to another fare. The zero Link is perfect and immediate.
type Link struct {
	Dial   time.Duration // how long a dial takes, beside 2×Delay; Tor: about 1 s
	Delay  time.Duration // one way, each write
	Jitter time.Duration // up to this much more, uniformly; order within a connection stays
	Loss   float64       // share of dials that fail (onion.ErrRendFailed), 0..1
	Hang   float64       // share of dials that hang until the context ends, 0..1
}

// giveUp is when tor itself ends a hanging dial (SocksTimeout).
const giveUp = 2 * time.Minute

// Net is a set of hosts that reach each other's onions. All methods may be called from many goroutines at once.
type Net struct {
	seed uint64

	mu       sync.Mutex // guards all below, held only for look-ups, never while anybody waits
	hosts    map[string]*Host
	def      Link
	links    map[pair]*link
	group    map[string]int // partition: hosts of different groups do not meet; nil: none
	publish  time.Duration
	services map[onionid.Name]*service // by the last published descriptor
	conns    map[*flow]struct{}        // connections that not both sides have closed
	targets  map[string]target         // addresses that were right
	taps     []func(Event)
	lastConn uint64
}

type pair struct{ from, to string }

type link struct {
	Link
	own     bool   // set by SetLink; otherwise the default's
	dials   uint64 // draws so far
	traffic Traffic
}

// Traffic is what has gone from one host to another so far; bytes count when they are written.
type Traffic struct {
	Dials, Failed uint64 // dials begun, and those that ended in an error
	Up, Down      uint64 // bytes from the dialler, and to it
}

// New is an empty network; equal seeds give equal fates.
func New(seed uint64) *Net {
	return &Net{
		seed:     seed,
		hosts:    map[string]*Host{},
		links:    map[pair]*link{},
		services: map[onionid.Name]*service{},
		conns:    map[*flow]struct{}{},
		targets:  map[string]target{},
	}
}

// Host is the host called name, made when first asked for. Its name appears in links and taps only.
func (n *Net) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &Host{net: n, name: name, services: map[onionid.Name]*service{}, clientKeys: map[onionid.Name][32]byte{}}
		n.hosts[name] = h
	}
	return h
}

// SetDefault sets the link between hosts for which SetLink was not called. Open connections take over the new delays.
func (n *Net) SetDefault(l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.def = l
	for _, k := range n.links {
		if !k.own {
			k.Link = l
		}
	}
}

// SetLink sets the link of connections that from dials to to (both directions of their bytes).
func (n *Net) SetLink(from, to string, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.link(pair{from, to})
	k.Link, k.own = l, true
}

// SetPublishDelay sets how long services published from now on stay unknown; Tor: seconds to a minute.
func (n *Net) SetPublishDelay(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.publish = d
}

// Partition lets hosts meet only within their group; hosts in no group make up one more. Connections across break,
// new dials across hang. It replaces an earlier partition.
func (n *Net) Partition(groups ...[]string) {
	n.mu.Lock()
	n.group = map[string]int{}
	for i, g := range groups {
		for _, name := range g {
			n.group[name] = i + 1
		}
	}
	broken := n.cutLocked(func(f *flow) bool { return !n.meetLocked(f.link.from, f.link.to) })
	n.mu.Unlock()
	reset(broken)
}

// Heal ends the partition.
func (n *Net) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.group = nil
}

// Traffic is what from has dialled to to so far.
func (n *Net) Traffic(from, to string) Traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.link(pair{from, to}).traffic
}

// Open is the number of connections that not both sides have closed: 0 when nothing leaks.
func (n *Net) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// link is the link of p; n.mu is held.
func (n *Net) link(p pair) *link {
	k := n.links[p]
	if k == nil {
		k = &link{Link: n.def}
		n.links[p] = k
	}
	return k
}

func (n *Net) meetLocked(a, b string) bool { return n.group == nil || n.group[a] == n.group[b] }

// cutLocked forgets the connections that which chooses, and returns them for reset (outside the lock).
func (n *Net) cutLocked(which func(*flow) bool) []*flow {
	var cut []*flow
	for f := range n.conns {
		if which(f) {
			delete(n.conns, f)
			cut = append(cut, f)
		}
	}
	return cut
}

// Close breaks all connections. A test in a synctest bubble whose links have a delay defers it: fake time stops at the
// end of the test function, so what is under way then would never arrive, and its reader would wait for ever.
func (n *Net) Close() {
	n.mu.Lock()
	broken := n.cutLocked(func(*flow) bool { return true })
	n.mu.Unlock()
	reset(broken)
}

func reset(flows []*flow) {
	for _, f := range flows {
		f.up.fail(errReset)
		f.down.fail(errReset)
		f.ended()
	}
}

// rng is the source of chance for the k-th dial on p: a stream of its own, so that goroutines cannot mix up the order.
func (n *Net) rng(p pair, k uint64) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q %d", p.from, p.to, k)
	return rand.New(rand.NewPCG(n.seed, h.Sum64()))
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var _ onion.Network = (*Host)(nil)
