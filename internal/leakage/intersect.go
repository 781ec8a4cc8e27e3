// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"math"
	"slices"
	"time"
)

// The intersection attack: who writes is up. If it is known that some boxes come from one writer (a queue has one; an
// inbox, or what one reader fetched, has several), the nodes that were away when one of them was written are out, and
// day by day few are left. The network sees who is up when, and so does a courier of its own sessions; the store knows
// when boxes are written.
//
// Where the store has no name for readers, their own comings and goings give them away: boxes wait while their reader
// is away, so who reads old boxes right after coming up was away when they were written.

// Intersection is what that attack finds.
type Intersection struct {
	Scores []Score // of pairs: who talked, against who are no contacts
	// Left is how many nodes look at least as much like the writer as a true writer does: the median. Half of the nodes
	// if the attack finds nothing.
	Left float64
	// Deposits are what the median reader's guess builds on.
	Deposits float64
}

const (
	// settle is how long after coming up old reads are laid to a node.
	settle = 30 * time.Minute
	// waited is how old a box is that lay there while its reader was away.
	waited = 15 * time.Minute
	// slip is how often the attacker allows himself to be wrong about who wrote, or that he was up.
	slip = 0.05
)

// deposit is a box that was written, and who may read it.
type deposit struct {
	at      time.Duration
	group   uint32 // boxes that one reader gets; of one writer, too, if the design has queues
	readers []int
}

// Intersect makes the attack. writers is how many a group has, as the attacker knows of the design: 1 for a queue,
// Degree for an inbox or a reader.
func Intersect(l *Log, c *Chat, writers int) Intersection {
	share := make([]float64, l.Nodes)
	for n, u := range c.Uptimes {
		for _, s := range u {
			share[n] += (s.To - s.From).Hours() / float64(l.Hours)
		}
		share[n] = min(0.98, max(0.02, share[n]))
	}
	// People have habits: what counts is who is up beyond what is usual for him at that time of day.
	usual := func(n int, at time.Duration) float64 {
		days, up := 2.0, 2*share[n]
		for t := at % (24 * time.Hour); t < time.Duration(l.Hours)*time.Hour; t += 24 * time.Hour {
			if days++; c.Uptimes[n].Up(t) {
				up++
			}
		}
		return up / days
	}
	q := (1 - slip) / float64(writers)
	groups := map[uint32][]float64{} // scores of all nodes as its writer
	reader := map[uint32]int{}
	laid := map[uint32]float64{}
	var order []uint32
	last := map[uint32]time.Duration{}
	for _, d := range l.deposits(c) {
		for _, j := range d.readers {
			g := d.group
			if len(d.readers) > 1 || len(l.Names) == 0 {
				g = uint32(j)
			}
			if groups[g] == nil {
				groups[g] = make([]float64, l.Nodes)
				order = append(order, g)
				reader[g] = j
			} else if writers == 1 && d.at-last[g] < time.Hour {
				continue // one sitting: who is up goes on being up
			}
			last[g] = d.at
			weight := 1 / float64(len(d.readers))
			laid[g] += weight
			for i := range l.Nodes {
				p := usual(i, d.at)
				ratio := 1 - q // away: another writer's
				if c.Uptimes[i].Up(d.at) {
					ratio = q/p + 1 - q
				}
				groups[g][i] += weight * math.Log(ratio)
			}
		}
	}
	slices.Sort(order)
	best := make([]float64, l.Nodes*l.Nodes) // of i as a writer to j, at i*n+j
	for i := range best {
		best[i] = math.Inf(-1)
	}
	var counts []float64
	for _, g := range order {
		counts = append(counts, laid[g])
		for i, s := range groups[g] {
			at := &best[i*l.Nodes+reader[g]]
			*at = max(*at, s)
		}
	}
	talked := map[[2]int]bool{}
	for _, v := range c.Conversations {
		talked[[2]int{v.A, v.B}], talked[[2]int{v.B, v.A}] = true, true
	}
	var out Intersection
	truth := c.Pairs()
	var left []float64
	for a := range l.Nodes {
		for b := range l.Nodes {
			if a == b {
				continue
			}
			if yes, ok := truth[[2]int{a, b}]; ok && a < b {
				v := 0.0
				for _, x := range []float64{best[a*l.Nodes+b], best[b*l.Nodes+a]} {
					if !math.IsInf(x, -1) {
						v += x
					}
				}
				out.Scores = append(out.Scores, Score{Value: v, True: yes, A: a, B: b})
			}
			if talked[[2]int{a, b}] && !math.IsInf(best[a*l.Nodes+b], -1) {
				n := 0.0
				for i := range l.Nodes {
					if i != a && i != b {
						switch x, y := best[i*l.Nodes+b], best[a*l.Nodes+b]; {
						case x > y:
							n++
						case x == y:
							n += 0.5
						}
					}
				}
				left = append(left, n+1)
			}
		}
	}
	out.Left, out.Deposits = median(left), median(counts)
	return out
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	slices.Sort(x)
	return x[len(x)/2]
}

// deposits are the writes that the store can lay to a reader.
func (l *Log) deposits(c *Chat) (out []deposit) {
	if len(l.Names) > 0 {
		for _, o := range l.Ops {
			if n, ok := l.Names[uint32(o.Box>>32)]; ok && o.Kind == Put {
				out = append(out, deposit{o.At, uint32(o.Box >> 32), []int{n}})
			}
		}
		return out
	}
	seen := reads(l)
	w := l.writers()
	for k, o := range l.Ops {
		r, ok := seen[k]
		if !ok || r.absent || r.again || r.age < waited || w[o.Box].at < 0 {
			continue
		}
		d := deposit{at: w[o.Box].at}
		for n, u := range c.Uptimes {
			if !slices.Contains(l.Stores[n], o.Store) || u.Up(d.at) {
				continue
			}
			for _, s := range u {
				if o.At >= s.From && o.At < s.From+settle {
					d.readers = append(d.readers, n)
				}
			}
		}
		if len(d.readers) > 0 {
			out = append(out, d)
		}
	}
	return out
}
