// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A Sample is what an observer measured of a node in some time, and the truth.
type Sample struct {
	Node     int
	Hour     int
	Features []float64
	True     bool
}

// folds is how many parts the nodes are cut into; each part is guessed by what was learnt from the others.
const folds = 5

// Attack learns to tell true samples from the rest: logistic regression, and boosted stumps for what is not linear.
// Each sample is scored by models that saw no sample of its node. A score is the sample's rank among those of its fold,
// so that folds whose models are differently sure can be counted together.
func Attack(samples []Sample, seed uint64) []Score {
	nodes := map[int]int{}
	var names []int
	for _, s := range samples {
		if _, ok := nodes[s.Node]; !ok {
			nodes[s.Node] = 0
			names = append(names, s.Node)
		}
	}
	slices.Sort(names)
	rng := rand.New(rand.NewPCG(seed, 0xf01d))
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for i, n := range names {
		nodes[n] = i % folds
	}
	var out []Score
	for fold := range folds {
		train, test := divide(samples, nodes, fold)
		if len(test) == 0 || !both(train) {
			continue
		}
		scale := standard(train)
		train, test = scale(train), scale(test)
		// A model counts by what it is worth on some nodes that it did not learn from.
		learn, check := divide(train, nodes, (fold+1)%folds)
		sum := make([]float64, len(test))
		for _, fit := range []func([]Sample) func([]float64) float64{logistic, stumps} {
			worth := 0.01
			if len(check) > 0 && both(learn) && both(check) {
				worth += max(0, AUC(apply(fit(learn), check))-0.5)
			}
			values := make([]float64, len(test))
			for i, s := range apply(fit(train), test) {
				values[i] = s.Value
			}
			for i, r := range ranks(values) {
				sum[i] += worth * worth * r
			}
		}
		sum = ranks(sum)
		for i, s := range test {
			out = append(out, Score{Value: sum[i], True: s.True, A: s.Node, B: s.Node})
		}
	}
	return out
}

func apply(model func([]float64) float64, samples []Sample) []Score {
	out := make([]Score, len(samples))
	for i, s := range samples {
		out[i] = Score{Value: model(s.Features), True: s.True, A: s.Node, B: s.Node}
	}
	return out
}

// divide takes the samples of one fold's nodes out.
func divide(samples []Sample, fold map[int]int, out int) (in, of []Sample) {
	for _, s := range samples {
		if fold[s.Node] == out {
			of = append(of, s)
		} else {
			in = append(in, s)
		}
	}
	return in, of
}

// Single scores samples by one feature alone.
func Single(samples []Sample, feature int) []Score {
	out := make([]Score, len(samples))
	for i, s := range samples {
		out[i] = Score{Value: s.Features[feature], True: s.True, A: s.Node, B: s.Node}
	}
	return out
}

func both(samples []Sample) bool {
	n := 0
	for _, s := range samples {
		if s.True {
			n++
		}
	}
	return n > 0 && n < len(samples)
}

// standard learns mean and deviation of each feature, and returns what applies them.
func standard(train []Sample) func([]Sample) []Sample {
	width := len(train[0].Features)
	mean, dev := make([]float64, width), make([]float64, width)
	for _, s := range train {
		for i, x := range s.Features {
			mean[i] += x / float64(len(train))
		}
	}
	for _, s := range train {
		for i, x := range s.Features {
			dev[i] += (x - mean[i]) * (x - mean[i]) / float64(len(train))
		}
	}
	return func(in []Sample) []Sample {
		out := make([]Sample, len(in))
		for k, s := range in {
			f := make([]float64, width)
			for i, x := range s.Features {
				if dev[i] > 1e-18 {
					f[i] = max(-8, min(8, (x-mean[i])/math.Sqrt(dev[i])))
				}
			}
			s.Features = f
			out[k] = s
		}
		return out
	}
}

// ranks are the places of the values in their order, in [0, 1]; equal values share a place.
func ranks(values []float64) []float64 {
	index := make([]int, len(values))
	for i := range index {
		index[i] = i
	}
	slices.SortFunc(index, func(a, b int) int {
		switch {
		case values[a] < values[b]:
			return -1
		case values[a] > values[b]:
			return 1
		}
		return 0
	})
	out := make([]float64, len(values))
	for i := 0; i < len(index); {
		j := i
		for j < len(index) && values[index[j]] == values[index[i]] {
			j++
		}
		for k := i; k < j; k++ {
			out[index[k]] = float64(i+j-1) / 2 / float64(max(1, len(index)-1))
		}
		i = j
	}
	return out
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// logistic is a regression with a little ridge, by accelerated gradient descent: the loss is convex, and the features
// have one scale.
func logistic(train []Sample) func([]float64) float64 {
	const (
		steps = 300
		ridge = 0.01
	)
	width := len(train[0].Features)
	w, v, grad := make([]float64, width+1), make([]float64, width+1), make([]float64, width+1)
	value := func(w, x []float64) float64 {
		z := w[width]
		for i := range x {
			z += w[i] * x[i]
		}
		return z
	}
	rate := 4 / float64(width+2)
	for step := range steps {
		copy(grad, w)
		for i := range grad {
			grad[i] *= ridge
		}
		momentum := float64(step) / float64(step+3)
		ahead := make([]float64, width+1)
		for i := range ahead {
			ahead[i] = w[i] + momentum*v[i]
		}
		for _, s := range train {
			d := sigmoid(value(ahead, s.Features))
			if s.True {
				d--
			}
			d /= float64(len(train))
			for i, x := range s.Features {
				grad[i] += d * x
			}
			grad[width] += d
		}
		for i := range w {
			next := ahead[i] - rate*grad[i]
			v[i], w[i] = next-w[i], next
		}
	}
	return func(x []float64) float64 { return value(w, x) }
}

// stump is one question to one feature, and what either answer is worth.
type stump struct {
	feature       int
	at, low, high float64
}

// stumps boosts one-question trees on the logistic loss (Newton steps, shrunk). Questions are asked at quantiles.
func stumps(train []Sample) func([]float64) float64 {
	const (
		rounds = 60
		cuts   = 15
		shrink = 0.2
		ridge  = 5.0
	)
	width := len(train[0].Features)
	ask := make([][]float64, width)
	for f := range ask {
		col := make([]float64, len(train))
		for i, s := range train {
			col[i] = s.Features[f]
		}
		slices.Sort(col)
		for c := 1; c <= cuts; c++ {
			ask[f] = append(ask[f], col[c*(len(col)-1)/(cuts+1)])
		}
		ask[f] = slices.Compact(ask[f])
	}
	var model []stump
	z := make([]float64, len(train))
	for range rounds {
		var best stump
		gain := 0.0
		var g, h float64
		grad, hess := make([]float64, len(train)), make([]float64, len(train))
		for i, s := range train {
			p := sigmoid(z[i])
			grad[i], hess[i] = -p, p*(1-p)
			if s.True {
				grad[i]++
			}
			g, h = g+grad[i], h+hess[i]
		}
		for f := range ask {
			lg, lh := make([]float64, len(ask[f])+1), make([]float64, len(ask[f])+1)
			for i, s := range train {
				k, _ := slices.BinarySearch(ask[f], s.Features[f]) // values equal to a cut lie below it
				lg[k] += grad[i]
				lh[k] += hess[i]
			}
			var sg, sh float64
			for k, at := range ask[f] {
				sg, sh = sg+lg[k], sh+lh[k]
				if v := sg*sg/(sh+ridge) + (g-sg)*(g-sg)/(h-sh+ridge) - g*g/(h+ridge); v > gain {
					gain, best = v, stump{f, at, shrink * sg / (sh + ridge), shrink * (g - sg) / (h - sh + ridge)}
				}
			}
		}
		if gain == 0 {
			break
		}
		model = append(model, best)
		for i, s := range train {
			z[i] += best.value(s.Features)
		}
	}
	return func(x []float64) (z float64) {
		for _, s := range model {
			z += s.value(x)
		}
		return z
	}
}

func (s stump) value(x []float64) float64 {
	if x[s.feature] <= s.at {
		return s.low
	}
	return s.high
}
