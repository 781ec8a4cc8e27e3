// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Link scores each pair of nodes by how much the observer's log looks as if they talk.
func Link(l *Log, o Observer, truth map[[2]int]bool) []Score {
	var of func(a, b int) float64
	switch o {
	case Network:
		of = networkPairs(l)
	case Courier:
		of = courierPairs(l, false)
	case Couriers:
		of = courierPairs(l, true)
	case Both:
		of = bothPairs(l)
	default:
		return linkBoxes(l, o)
	}
	var out []Score
	for a := range l.Nodes {
		for b := a + 1; b < l.Nodes; b++ {
			yes, ok := truth[[2]int{a, b}]
			if !ok || o == Courier && !slices.ContainsFunc(l.Couriers[a], func(c int) bool { return slices.Contains(l.Couriers[b], c) }) {
				continue // no courier has a session of both
			}
			out = append(out, Score{Value: of(a, b), True: yes, A: a, B: b})
		}
	}
	return out
}

// tracks are counts of events a bin of time, of each node, centred on its mean.
type tracks [][]float64

func newTracks(l *Log, bin time.Duration) tracks {
	t := make(tracks, l.Nodes)
	for i := range t {
		t[i] = make([]float64, int(time.Duration(l.Hours)*time.Hour/bin))
	}
	return t
}

func (t tracks) add(node int, at, bin time.Duration, x float64) {
	if i := int(at / bin); node >= 0 && node < len(t) && at >= 0 && i < len(t[node]) {
		t[node][i] += x
	}
}

func (t tracks) center() {
	for _, x := range t {
		mean := 0.0
		for _, v := range x {
			mean += v / float64(len(x))
		}
		for i := range x {
			x[i] -= mean
		}
	}
}

// follow is the correlation of x with y in the same bin and those after it, up to lags later.
func follow(x, y []float64, lags int) float64 {
	var sum, xx, yy float64
	for i := range x {
		xx += x[i] * x[i]
		yy += y[i] * y[i]
		if x[i] == 0 {
			continue
		}
		for k := 0; k <= lags && i+k < len(y); k++ {
			sum += x[i] * y[i+k]
		}
	}
	if xx == 0 || yy == 0 {
		return 0
	}
	return sum / math.Sqrt(xx*yy)
}

// networkPairs: does what comes down to the one follow what goes up from the other, and the other way round?
func networkPairs(l *Log) func(a, b int) float64 {
	const bin = 5 * time.Second
	up, down := newTracks(l, bin), newTracks(l, bin)
	for _, p := range l.Packets {
		t := down
		if p.Up {
			t = up
		}
		t.add(p.Node, p.At, bin, float64(p.Size))
	}
	up.center()
	down.center()
	return func(a, b int) float64 { return follow(up[a], down[b], 1) + follow(up[b], down[a], 1) }
}

// courierPairs: do the one's reads at a store follow the other's writes to it? One courier sees that of the sessions that
// it has itself: the score is that of the courier that sees most. All together see all.
func courierPairs(l *Log, together bool) func(a, b int) float64 {
	const bin = 10 * time.Second
	type view struct{ courier, store int }
	puts, gets := map[view]tracks{}, map[view]tracks{}
	add := func(m map[view]tracks, store int, f Frame) {
		v := view{f.Courier, store}
		if together {
			v.courier = 0
		}
		if store < 0 {
			return
		}
		if m[v] == nil {
			m[v] = newTracks(l, bin)
		}
		m[v].add(f.Node, f.At, bin, 1)
	}
	for _, f := range l.Frames {
		add(puts, f.Put, f)
		add(gets, f.Get, f)
	}
	stores := map[int][]view{} // by courier
	for v := range puts {
		if gets[v] != nil {
			puts[v].center()
			gets[v].center()
			stores[v.courier] = append(stores[v.courier], v)
		}
	}
	for _, vs := range stores {
		slices.SortFunc(vs, func(x, y view) int { return x.store - y.store })
	}
	return func(a, b int) float64 {
		best := 0.0 // who has not both sessions has no guess
		for _, vs := range stores {
			sum := 0.0
			for _, v := range vs {
				sum += follow(puts[v][a], gets[v][b], 5) + follow(puts[v][b], gets[v][a], 5)
			}
			if math.Abs(sum) > math.Abs(best) {
				best = sum
			}
		}
		return best
	}
}

// bothPairs: how often does the one read what the other wrote, hour by hour, against what decoys would make of it? The
// likelihood ratio of "they talk in some hours" and "never".
func bothPairs(l *Log) func(a, b int) float64 {
	const (
		said  = 16.0 // boxes of a pair in an hour of chat, both ways
		often = 0.05 // of hours in which two contacts talk
	)
	seen := reads(l)
	n := l.Nodes
	count := make([][]float64, l.Hours) // by hour: reads of i's boxes by j, at i*n+j
	wrote := make([][]float64, l.Hours)
	read := make([][]float64, l.Hours)
	for h := range count {
		count[h], wrote[h], read[h] = make([]float64, n*n), make([]float64, n), make([]float64, n)
	}
	for i, o := range l.Ops {
		h := int(o.At / time.Hour)
		if o.At < 0 || h >= l.Hours || o.Node < 0 || o.Node >= n {
			continue
		}
		switch o.Kind {
		case Put:
			wrote[h][o.Node]++
		case Get:
			if r := seen[i]; r.writer >= 0 && r.writer < n && r.writer != o.Node && !r.again {
				count[h][r.writer*n+o.Node]++
				read[h][o.Node]++
			}
		}
	}
	return func(a, b int) (sum float64) {
		for h := range count {
			all := 0.0
			for _, w := range wrote[h] {
				all += w
			}
			if all == 0 {
				continue
			}
			chance := (wrote[h][a]*read[h][b]+wrote[h][b]*read[h][a])/all + 0.05
			k := count[h][a*n+b] + count[h][b*n+a]
			ratio := k*math.Log1p(said/chance) - said // log of Poisson(chance+said) over Poisson(chance)
			sum += softplus(math.Log(often) + ratio)
		}
		return sum
	}
}

// softplus is log(1+exp(x)), without overflow: the mixture of the two cases but for a constant.
func softplus(x float64) float64 {
	if x > 30 {
		return x
	}
	return math.Log1p(math.Exp(x))
}

// linkBoxes is what pairs are to a store, which sees no nodes: do two boxes belong to the same stream? Drawn are boxes
// that were written within half an hour of each other: of one stream, and of two. The store knows by which couriers
// they came and went, and how they lie in time; the thief of a disk only the buckets.
func linkBoxes(l *Log, o Observer) []Score {
	const near = 30 * time.Minute
	w := l.writers()
	type kept struct {
		written
		box               uint64
		store             int
		read              time.Duration
		reader, readerVia int
	}
	var boxes []kept
	index := map[uint64]int{}
	listed := map[uint64]time.Duration{}
	for _, b := range l.Disk {
		listed[b.Box] = b.At
	}
	for _, op := range l.Ops {
		reader, real := l.Readers[op.Box]
		i, known := index[op.Box]
		switch {
		case real && !known && op.Kind == Put:
			index[op.Box] = len(boxes)
			boxes = append(boxes, kept{written: w[op.Box], box: op.Box, store: op.Store, reader: -1})
		case known && op.Kind == Get && boxes[i].reader < 0:
			boxes[i].reader, boxes[i].readerVia, boxes[i].read = reader, op.Courier, op.At // the first read, whoever's it is
		}
	}
	var out []Score
	rng := rand.New(rand.NewPCG(uint64(len(boxes)), 0xb0b))
	for i, a := range boxes {
		for _, b := range boxes[i+1:] {
			if b.at-a.at > near {
				break
			}
			if a.store != b.store || a.reader < 0 || b.reader < 0 {
				continue
			}
			yes := a.node == b.node && a.reader == b.reader
			if !yes && len(boxes) > 1000 && rng.IntN(32) > 0 {
				continue // there are many more of those
			}
			score := -math.Abs((b.at - a.at).Seconds()) / 3600
			if o == Disk {
				score = -math.Abs((listed[b.box] - listed[a.box]).Seconds()) / 3600
			} else {
				if a.courier == b.courier {
					score++
				}
				if a.readerVia == b.readerVia {
					score++
				}
				score -= math.Abs((b.read-b.at).Seconds()-(a.read-a.at).Seconds()) / 3600
			}
			if a.box>>32 == b.box>>32 {
				score += 10 // one queue or inbox
			}
			out = append(out, Score{Value: score, True: yes, A: a.node, B: b.node})
		}
	}
	return out
}
