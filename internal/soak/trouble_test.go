// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"math"
	"math/rand/v2"
	"time"

	"tarn/mailbox/mailboxtest"
)

// longest is how long a node may be away: a box is kept for 14 days.
func (w *world) longest() time.Duration { return min(14*24*time.Hour-6*time.Hour, w.days()/2) }

// upTo draws a time between least and most.
func upTo(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Float64()*float64(max(0, most-least)))
}

// absence draws how long a node is away: an hour, a night or a week are about as likely. Most nodes are up most of the time, as where people
// use them; and each month some come back after two weeks.
func (w *world) absence() time.Duration {
	return time.Duration(float64(time.Hour) * math.Pow(max(1, w.longest().Hours()), w.fate.Float64()))
}

// trouble happens to a node: never two things at once to the same.
func (w *world) trouble(n *node) {
	if !n.up() || n.cut || n.busy {
		return
	}
	n.busy = true
	free := func() { w.note("node %d: is back", n.n); n.busy = false }
	switch x := w.fate.IntN(20); {
	case x < 6: // closed and opened again
		w.note("node %d: stops", n.n)
		n.stop()
		w.after(upTo(w.fate, time.Second, 3*time.Hour), func() { n.resume(-1, false); free() })
	case x < 14: // it is killed between two writes, some time from now; it stays dead for a while
		w.note("node %d: will be killed", n.n)
		n.stop()
		n.resume(w.fate.IntN(400), w.fate.IntN(2) == 0)
		w.r.Kills++
		w.after(upTo(w.fate, time.Hour, 8*time.Hour), func() {
			n.stop()
			w.after(upTo(w.fate, 0, time.Hour), func() { n.resume(-1, false); free() })
		})
	case x < 17: // away
		w.note("node %d: goes away", n.n)
		n.stop()
		d := w.absence()
		if d >= 24*time.Hour {
			w.r.Away++
		}
		w.after(d, func() { n.resume(-1, false); free() })
	default: // cut off, while its user writes on: it comes back with a branch of its own
		w.note("node %d: is cut off", n.n)
		n.host.Down()
		n.cut = true
		w.r.Cuts++
		w.after(w.absence(), func() { n.host.Up(); n.cut = false; free() })
	}
}

// outage happens to one mailbox at a time.
func (w *world) outage() {
	if w.broken {
		return
	}
	w.broken = true
	i := w.fate.IntN(len(w.boxes))
	b := w.boxes[i]
	w.r.Outages++
	heal := func() {}
	w.note("mailbox %d: trouble", i)
	switch x := w.fate.IntN(10); {
	case x < 4:
		b.Kill()
		heal = b.Start
	case x < 6:
		b.Faults.Set(mailboxtest.Fault{Unreachable: true})
		heal = b.Faults.Clear
	case x < 7 && i < stores:
		b.Forget()
		w.r.Forgot++
	case x < 8 && i < stores:
		b.Faults.Set(mailboxtest.Fault{Full: true})
		heal = b.Faults.Clear
	case x < 9 && i < stores:
		b.Faults.Set(mailboxtest.Fault{Lose: true})
		heal = b.Faults.Clear
	default:
		b.Faults.Set(mailboxtest.Fault{DropShare: 0.3})
		heal = b.Faults.Clear
	}
	w.after(upTo(w.fate, time.Minute, min(24*time.Hour, w.days()/6)), func() { heal(); w.broken = false; w.note("mailbox %d: is well", i) })
}

// heal ends all trouble.
func (w *world) heal() {
	for _, b := range w.boxes {
		b.Faults.Clear()
		b.Kill()
		b.Start()
	}
	for _, n := range w.nodes {
		n.stop()
		if n.cut {
			n.host.Up()
			n.cut = false
		}
		n.resume(-1, false)
		w.r.Restarts--
	}
	w.queue = nil
}
