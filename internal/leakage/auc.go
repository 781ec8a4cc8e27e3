// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"math/rand/v2"
	"slices"
)

// ControlAUC is what an attack must reach on a design that leaks, to count elsewhere.
const ControlAUC = 0.9

// A Score is how sure an attacker is of one thing, and whether it is so.
type Score struct {
	Value float64
	True  bool
	// A and B are the nodes that it is about (equal, if it is one): what is resampled together.
	A, B int
}

// Estimate is an AUC with the 95 % interval of a bootstrap over nodes.
type Estimate struct {
	AUC, Low, High float64
	N              int // scores
}

// AUC is the probability that a true thing scores above one that is not (Mann-Whitney; ties count half). NaN if there
// are not both.
func AUC(scores []Score) float64 {
	ones := make([]float64, len(scores))
	for i := range ones {
		ones[i] = 1
	}
	return weighted(order(scores), ones)
}

func order(scores []Score) []Score {
	s := slices.Clone(scores)
	slices.SortFunc(s, func(a, b Score) int {
		switch {
		case a.Value < b.Value:
			return -1
		case a.Value > b.Value:
			return 1
		}
		return 0
	})
	return s
}

// weighted is the AUC of sorted scores, each of which counts as often as its weight says.
func weighted(s []Score, weight []float64) float64 {
	var below, pos, neg, sum float64
	for i := 0; i < len(s); {
		var p, n float64
		j := i
		for ; j < len(s) && s[j].Value == s[i].Value; j++ {
			if s[j].True {
				p += weight[j]
			} else {
				n += weight[j]
			}
		}
		sum += p * (below + n/2)
		below += n
		pos, neg, i = pos+p, neg+n, j
	}
	return sum / (pos * neg)
}

// Bootstrap is the AUC and where 95 % of those of resampled worlds lie: nodes are drawn with replacement, and a score
// counts as often as its nodes were drawn.
func Bootstrap(scores []Score, resamples int, seed uint64) Estimate {
	s := order(scores)
	nodes := 0
	for _, x := range s {
		nodes = max(nodes, x.A+1, x.B+1)
	}
	e := Estimate{AUC: AUC(s), N: len(s)}
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	weight := make([]float64, len(s))
	var aucs []float64
	drawn := make([]float64, nodes)
	for range resamples {
		clear(drawn)
		for range nodes {
			drawn[rng.IntN(nodes)]++
		}
		for i, x := range s {
			weight[i] = drawn[x.A]
			if x.B != x.A {
				weight[i] *= drawn[x.B]
			}
		}
		if a := weighted(s, weight); a == a { // not a NaN: both kinds were drawn
			aucs = append(aucs, a)
		}
	}
	slices.Sort(aucs)
	if n := len(aucs); n > 0 {
		e.Low, e.High = aucs[n*25/1000], aucs[min(n-1, n*975/1000)]
	}
	return e
}
