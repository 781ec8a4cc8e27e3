// SPDX-License-Identifier: Apache-2.0

package front

import (
	"sync"
	"time"

	"tarn/mailbox"
)

// Bounds of the time of answers.
const (
	paceSteps  = 6   // AnswerTime, and five times its double: 25 ms to 800 ms
	paceMemory = 256 // requests of a kind that are looked back at
	// paceShare is how many requests of a kind have one that may take longer than the time of answers: one in so many, and
	// one more.
	paceShare = 128
	// paceAge is how long they are looked back at: what was slow once is no reason to be slow for as long as it takes until 256
	// more of a rare kind have come.
	paceAge = 10 * time.Minute
)

// pace is the time that every answer takes. A fixed one tells a write from a read as soon as the disk is slower than it,
// so this one follows the machine: it is the least power of two of AnswerTime in which nearly all of the last requests of
// every kind, of the last minutes, were done. What it is tells how slow the machine is, not what anybody asked; what is later than it leaves at
// one of its multiples.
type pace struct {
	least time.Duration // negative: answers do not wait

	mu    sync.Mutex // guards all below
	step  int        // the time is least << step
	kinds map[mailbox.Op]*lately
}

// lately is how long the last requests of a kind took.
type lately struct {
	first, n int                   // the oldest of n, around the ring
	took     [paceMemory]uint8     // the step in which each was done; paceSteps: in none
	at       [paceMemory]time.Time // when
	in       [paceSteps + 1]int
}

// class is the kind that a request counts as: what writes and syncs a row is one, as rare kinds among them tell little of
// themselves.
func class(op mailbox.Op) mailbox.Op {
	if op == mailbox.OpRegister || op == mailbox.OpIssue {
		return mailbox.OpPut
	}
	return op
}

func newPace(least time.Duration) pace {
	return pace{least: least, kinds: map[mailbox.Op]*lately{}}
}

// wait is how long the answer to a request that came then, and is ready now, has to wait.
func (p *pace) wait(came time.Time, op mailbox.Op) time.Duration {
	if p.least <= 0 {
		return 0
	}
	took := max(time.Since(came), 0)
	each := p.least << p.learn(op, took)
	return max(each, (took+each-1)/each*each) - took
}

// learn notes how long a request took, and returns the step that the time of answers is at from now on.
func (p *pace) learn(op mailbox.Op, took time.Duration) int {
	step := 0
	for step < paceSteps && took > p.least<<step {
		step++
	}
	now, op := time.Now(), class(op)
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.kinds[op]
	if k == nil {
		k = &lately{}
		p.kinds[op] = k // there are few kinds: op was parsed
	}
	k.add(uint8(step), now)
	p.step = 0
	for _, k := range p.kinds {
		k.forget(now.Add(-paceAge))
		p.step = max(p.step, k.step())
	}
	return p.step
}

func (k *lately) add(step uint8, now time.Time) {
	if k.n == paceMemory {
		k.drop()
	}
	i := (k.first + k.n) % paceMemory
	k.took[i], k.at[i] = step, now
	k.in[step]++
	k.n++
}

// drop forgets the oldest.
func (k *lately) drop() {
	k.in[k.took[k.first]]--
	k.first = (k.first + 1) % paceMemory
	k.n--
}

func (k *lately) forget(before time.Time) {
	for k.n > 0 && k.at[k.first].Before(before) {
		k.drop()
	}
}

// step is the least in which all but a few were done; the last one if there is none.
func (k *lately) step() int {
	later, may := 0, 1+k.n/paceShare
	for s := paceSteps; s > 0; s-- {
		if later += k.in[s]; later > may {
			return min(s, paceSteps-1)
		}
	}
	return 0
}
