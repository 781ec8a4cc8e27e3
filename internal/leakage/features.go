// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"math"
	"slices"
	"time"
)

// Observer is who watches.
type Observer string

// The observers of one node's hours.
const (
	Network Observer = "network"
	Courier Observer = "courier alone"
	Store   Observer = "store alone"
	Both    Observer = "courier and store collude"
	Disk    Observer = "stolen mailbox disk"
	// Couriers see more together than one does: only pairs are looked for.
	Couriers Observer = "all couriers together"
)

// young is how old a box may be when it is read for the first time, to look like one that was waited for.
const young = 5 * time.Minute

// bins is how many parts an hour is cut into to see whether traffic comes in bouts.
const bins = 12

// Series is what can be said of events in one hour: how many, how their gaps are, whether they come in bouts.
func Series(times []time.Duration, begin time.Duration) []float64 {
	var gap, square, least, most, serial float64
	gaps := make([]float64, 0, len(times))
	for i := 1; i < len(times); i++ {
		gaps = append(gaps, (times[i] - times[i-1]).Seconds())
	}
	least = 3600
	for _, g := range gaps {
		gap += g / float64(len(gaps))
		least, most = min(least, g), max(most, g)
	}
	for _, g := range gaps {
		square += (g - gap) * (g - gap) / float64(len(gaps))
	}
	for i := 1; i < len(gaps) && square > 0; i++ {
		serial += (gaps[i] - gap) * (gaps[i-1] - gap) / square / float64(len(gaps))
	}
	var count [bins]float64
	for _, t := range times {
		count[min(bins-1, max(0, int((t-begin)*bins/time.Hour)))]++
	}
	mean := float64(len(times)) / bins
	var spread, bouts float64
	for i, c := range count {
		spread += (c - mean) * (c - mean)
		if i > 0 {
			bouts += (c - mean) * (count[i-1] - mean)
		}
	}
	dispersion, lag := 0.0, 0.0
	if mean > 0 && spread > 0 {
		dispersion, lag = spread/mean/bins, bouts/spread
	}
	return []float64{float64(len(times)), gap, math.Sqrt(square), least, most, serial, dispersion, lag, slices.Max(count[:])}
}

// hourly hands the events of each node's hours out: of returns the node (-1: nobody's) and time of the i-th.
func hourly[T any](l *Log, events []T, of func(T) (int, time.Duration)) [][][]T {
	out := make([][][]T, l.Nodes)
	for i := range out {
		out[i] = make([][]T, l.Hours)
	}
	for _, e := range events {
		n, at := of(e)
		if h := int(at / time.Hour); n >= 0 && n < l.Nodes && at >= 0 && h < l.Hours {
			out[n][h] = append(out[n][h], e)
		}
	}
	return out
}

// Activity is what the observer measured of each node in each hour; chatting is the truth. Hours in which a node was
// not up all the time are left out.
func Activity(l *Log, o Observer, chatting [][]bool, uptimes []Uptime) []Sample {
	var of func(node, hour int) []float64
	switch o {
	case Network:
		of = networkFeatures(l)
	case Courier:
		of = courierFeatures(l)
	case Store:
		of = storeFeatures(l)
	case Disk:
		of = diskFeatures(l)
	case Both:
		of = bothFeatures(l)
	}
	var out []Sample
	for n := range l.Nodes {
		for h := range l.Hours {
			from := time.Duration(h) * time.Hour
			if uptimes != nil && !upAll(uptimes[n], from, from+time.Hour) {
				continue
			}
			out = append(out, Sample{Node: n, Hour: h, Features: of(n, h), True: chatting[n][h]})
		}
	}
	return out
}

func upAll(u Uptime, from, to time.Duration) bool {
	for _, s := range u {
		if s.From <= from && to <= s.To {
			return true
		}
	}
	return false
}

func pick[T any](in []T, which func(T) bool, at func(T) time.Duration) (out []time.Duration) {
	for _, x := range in {
		if which(x) {
			out = append(out, at(x))
		}
	}
	return out
}

// networkFeatures: times and sizes, either way.
func networkFeatures(l *Log) func(int, int) []float64 {
	of := hourly(l, l.Packets, func(p Packet) (int, time.Duration) { return p.Node, p.At })
	return func(n, h int) (f []float64) {
		begin := time.Duration(h) * time.Hour
		for _, up := range []bool{true, false} {
			f = append(f, Series(pick(of[n][h], func(p Packet) bool { return p.Up == up }, func(p Packet) time.Duration { return p.At }), begin)...)
			var sum, square, most float64
			for _, p := range of[n][h] {
				if p.Up == up {
					sum, square, most = sum+float64(p.Size), square+float64(p.Size)*float64(p.Size), max(most, float64(p.Size))
				}
			}
			f = append(f, sum, square, most)
		}
		return f
	}
}

// courierFeatures: the frames of the node's session with one of its couriers, their targets, and the delays that it is
// asked for.
func courierFeatures(l *Log) func(int, int) []float64 {
	of := hourly(l, l.Frames, func(f Frame) (int, time.Duration) {
		if f.Courier != l.anyCourier(f.Node) {
			return -1, 0
		}
		return f.Node, f.At
	})
	return func(n, h int) []float64 {
		fs := of[n][h]
		f := Series(pick(fs, func(Frame) bool { return true }, func(f Frame) time.Duration { return f.At }), time.Duration(h)*time.Hour)
		puts, gets := map[int]float64{}, map[int]float64{}
		var putDelay, getDelay, putRuns, getRuns, follows float64
		for i, x := range fs {
			puts[x.Put]++
			gets[x.Get]++
			putDelay += x.PutDelay.Seconds()
			getDelay += x.GetDelay.Seconds()
			if i > 0 && fs[i-1].Put == x.Put {
				putRuns++
			}
			if i > 0 && fs[i-1].Get == x.Get {
				getRuns++
			}
			if x.Put == x.Get {
				follows++
			}
		}
		k := max(1, float64(len(fs)))
		return append(f, peak(puts)/k, peak(gets)/k, float64(len(puts)), float64(len(gets)), putDelay/k, getDelay/k, putRuns/k, getRuns/k, follows/k)
	}
}

func peak(m map[int]float64) (most float64) {
	for _, v := range m {
		most = max(most, v)
	}
	return most
}

// storeFeatures: what the node's first store does for the couriers that the node uses (in direct mode: for everybody).
// The store does not know which couriers a node uses; here it is told. A store by itself sees a handle that was read
// before, one that is not there, and how old a box is when it is read.
func storeFeatures(l *Log) func(int, int) []float64 {
	seen := reads(l)
	return func(n, h int) (f []float64) {
		begin := time.Duration(h) * time.Hour
		var puts, gets []time.Duration
		var nothing, fresh, again, absent, age, late, digest float64
		from, to := l.hour(h)
		for i := from; i < to; i++ {
			o := l.Ops[i]
			if !l.mayBe(o, n) {
				continue
			}
			switch o.Kind {
			case Put:
				puts = append(puts, o.At)
			case Nothing:
				nothing++
			case Digest:
				digest++
			case Get:
				gets = append(gets, o.At)
				switch r := seen[i]; {
				case r.absent:
					absent++
				case r.again:
					again++
				case r.age > young:
					late++
				default:
					fresh++
					age += math.Log1p(r.age.Seconds())
				}
			}
		}
		f = append(Series(puts, begin), Series(gets, begin)...)
		return append(f, nothing, fresh, again, absent, age/max(1, fresh), late, digest)
	}
}

// mayBe tells whether, for all that the node's first store knows, a request may concern the node.
func (l *Log) mayBe(o Op, node int) bool {
	if len(l.Names) > 0 {
		n, ok := l.Names[uint32(o.Box>>32)]
		return ok && n == node
	}
	return o.Store == l.Stores[node][0] && (len(l.Couriers[node]) == 0 || slices.Contains(l.Couriers[node], o.Courier))
}

// hour is the range of Ops of an hour.
func (l *Log) hour(h int) (from, to int) {
	at := func(t time.Duration) int {
		i, _ := slices.BinarySearchFunc(l.Ops, t, func(o Op, t time.Duration) int { return int(min(1, max(-1, o.At-t))) })
		return i
	}
	return at(time.Duration(h) * time.Hour), at(time.Duration(h+1) * time.Hour)
}

// read is what can be said of one Get.
type read struct {
	absent, again bool
	age           time.Duration
	writer        int // who wrote the box; -1: nobody
}

// reads is by the index of the Op.
func reads(l *Log) map[int]read {
	w := l.writers()
	before := map[uint64]bool{}
	out := map[int]read{}
	for i, o := range l.Ops {
		if o.Kind != Get {
			continue
		}
		by, ok := w[o.Box]
		switch {
		case !ok || by.at > o.At:
			out[i] = read{absent: true, writer: -1}
		default:
			out[i] = read{again: before[o.Box], age: o.At - by.at, writer: by.node}
		}
		before[o.Box] = true
	}
	return out
}

// anyCourier stands where it is not known which courier brought a request.
func (l *Log) anyCourier(node int) int {
	if len(l.Couriers[node]) == 0 {
		return -1
	}
	return l.Couriers[node][0]
}

// diskFeatures: the boxes that were written at the node's first store.
func diskFeatures(l *Log) func(int, int) []float64 {
	return func(n, h int) []float64 {
		begin := time.Duration(h) * time.Hour
		var times []time.Duration
		i, _ := slices.BinarySearchFunc(l.Disk, begin, func(b Listed, t time.Duration) int { return int(min(1, max(-1, b.At-t))) })
		for ; i < len(l.Disk) && l.Disk[i].At < begin+time.Hour; i++ {
			if b := l.Disk[i]; l.mayBe(Op{Store: b.Store, Box: b.Box, Courier: l.anyCourier(n)}, n) {
				times = append(times, l.Disk[i].At)
			}
		}
		return Series(times, begin)
	}
}

// Single features of Both, in the order of its features.
const (
	BothPuts = iota
	BothGets
	BothFresh
	bothSingles
)

// BothNames are what the report calls them.
var BothNames = [bothSingles]string{"puts an hour", "gets an hour", "fresh gets an hour"}

// bothFeatures: a node's own requests, opened; whose boxes it reads, and who reads its.
func bothFeatures(l *Log) func(int, int) []float64 {
	seen := reads(l)
	type hour struct {
		puts, gets                                            []time.Duration
		nothing, fresh, again, absent, age, late, own, digest float64
		from, by                                              map[int]float64
	}
	hours := make([]hour, l.Nodes*l.Hours)
	at := func(n int, t time.Duration) *hour {
		h := int(t / time.Hour)
		if n < 0 || n >= l.Nodes || t < 0 || h >= l.Hours {
			return &hour{from: map[int]float64{}, by: map[int]float64{}}
		}
		x := &hours[n*l.Hours+h]
		if x.from == nil {
			x.from, x.by = map[int]float64{}, map[int]float64{}
		}
		return x
	}
	for i, o := range l.Ops {
		x := at(o.Node, o.At)
		switch o.Kind {
		case Put:
			x.puts = append(x.puts, o.At)
		case Nothing:
			x.nothing++
		case Digest:
			x.digest++
		case Get:
			x.gets = append(x.gets, o.At)
			r := seen[i]
			switch {
			case r.absent:
				x.absent++
			case r.again:
				x.again++
			case r.age > young:
				x.late++
			default:
				x.fresh++
				x.age += math.Log1p(r.age.Seconds())
			}
			if r.writer == o.Node {
				x.own++
			} else if r.writer >= 0 {
				x.from[r.writer]++
				at(r.writer, o.At).by[o.Node]++
			}
		}
	}
	return func(n, h int) []float64 {
		begin := time.Duration(h) * time.Hour
		x := at(n, begin)
		mutual := 0.0
		for p, k := range x.from {
			mutual = max(mutual, min(k, x.by[p]))
		}
		f := []float64{float64(len(x.puts)), float64(len(x.gets)), x.fresh, x.nothing, x.again, x.absent, x.age / max(1, x.fresh), x.late, x.own,
			x.digest, peak(x.from), peak(x.by), pairs(x.from), pairs(x.by), mutual}
		f = append(f, Series(x.puts, begin)[1:]...)
		return append(f, Series(x.gets, begin)[1:]...)
	}
}

// pairs counts pairs of reads that have the same other end.
func pairs(m map[int]float64) (sum float64) {
	for _, k := range m {
		sum += k * (k - 1) / 2
	}
	return sum
}
