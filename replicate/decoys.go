// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"time"

	"tarn/mailbox"
)

// decoys are handles that the digest showed lately, with their time, for the GETs of idle slots.
type decoys struct {
	seen      []decoy // ascending in time, nearly
	perBucket float64 // handles, averaged
}

type decoy struct {
	handle mailbox.Handle
	at     time.Time
}

// maxDecoys bounds what is kept of a store: 32 KiB.
const maxDecoys = 1024

func (d *decoys) add(p mailbox.Page, begin, end time.Time, rng *rand.Rand) {
	span := float64(mailbox.LevelSpan(p.Level))
	d.perBucket += (float64(len(p.Handles))*float64(p.Parts)/span - d.perBucket) / 16
	hs := p.Handles
	if len(hs) > maxDecoys/4 {
		hs = slices.Clone(hs)
		rng.Shuffle(len(hs), func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
		hs = hs[:maxDecoys/4]
	}
	for _, h := range hs {
		d.seen = append(d.seen, decoy{h, begin.Add(time.Duration(rng.Float64() * float64(end.Sub(begin))))})
	}
	slices.SortStableFunc(d.seen, func(a, b decoy) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return bytes.Compare(a.handle[:], b.handle[:])
	})
	if n := len(d.seen) - maxDecoys; n > 0 {
		d.seen = slices.Delete(d.seen, 0, n)
	}
}

// pick takes the handle that is nearest to a time; false: none is known. It is not taken again: who reads one box twice
// shows that it was no box for it.
func (d *decoys) pick(at time.Time, rng *rand.Rand) (mailbox.Handle, bool) {
	if len(d.seen) == 0 {
		return mailbox.Handle{}, false
	}
	i, _ := slices.BinarySearchFunc(d.seen, at, func(x decoy, t time.Time) int { return x.at.Compare(t) })
	if i == len(d.seen) || i > 0 && rng.IntN(2) == 0 {
		i--
	}
	h := d.seen[i].handle
	d.seen = slices.Delete(d.seen, i, i+1)
	return h, true
}

// ages are how old boxes were when they were really read, lately: decoys are drawn from them, because to who sees both
// ends, anything else tells decoys and reads apart (facts: uniform ages give 0.92).
type ages struct {
	last [256]time.Duration
	n    int
}

// fewAges is from how many on they are used.
const fewAges = 16

func (a *ages) add(age time.Duration) {
	a.last[a.n%len(a.last)] = max(age, 0)
	a.n++
}

// draw is an age. While few are known it is what it would be: a part of the bucket, until it is known here, until a GET.
func (a *ages) draw(bucket, listing, wait time.Duration, rng *rand.Rand) time.Duration {
	if a.n >= fewAges {
		return a.last[rng.IntN(min(a.n, len(a.last)))]
	}
	return time.Duration(rng.Float64()*float64(bucket) + rng.ExpFloat64()*float64(listing) + rng.ExpFloat64()*float64(wait))
}
