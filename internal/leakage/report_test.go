// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/internal/leakage"
	"tarn/mailbox/front"
	"tarn/replicate"
)

// live runs a world in a bubble of its own.
func live(t *testing.T, name string, p plan) (out outcome) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { out = run(t, p) })
	})
	if out.Log == nil {
		t.FailNow()
	}
	return out
}

// hasty is a schedule for short tests: all the machinery, three times as fast.
func hasty() replicate.Profile { return replicate.CustomProfile(3*time.Second, 0.3) }

// twinTime is how long they are looked at.
const twinTime = 12 * time.Minute

// twins are two small worlds of one seed: in the one people talk.
func twins(t *testing.T) (talking, silent outcome) {
	chat := leakage.NewChat(6, 1, false, 1)
	for i := range chat.Conversations {
		c := &chat.Conversations[i]
		c.Start, c.Turns = c.Start%(2*time.Minute), c.Turns[:6]
	}
	p := plan{chat: chat, profile: hasty(), stores: 2, couriers: 3, seed: 1, warm: 12 * time.Minute, hours: twinTime, steady: true}
	talking = live(t, "talking", p)
	p.silent = true
	return talking, live(t, "silent", p)
}

// TestWorld holds the machinery of the report: what is said arrives, nothing is written down that nobody asked for, all
// packets have one size a direction, and the network sees to the nanosecond the same whether people talk or not.
func TestWorld(t *testing.T) {
	talking, silent := twins(t)
	if n := len(talking.Delivery); n < 6 || talking.Late > 0 {
		t.Errorf("%d messages arrived, %d did not", n, talking.Late)
	}
	if talking.Lost > 0 || silent.Lost > 0 {
		t.Errorf("the stores did %d and %d things that nobody asked for", talking.Lost, silent.Lost)
	}
	real := 0
	for _, o := range talking.Log.Ops {
		if _, ok := talking.Log.Readers[o.Box]; ok && o.Kind == leakage.Put && o.At > 0 {
			real++
		}
	}
	if real < 5 || len(talking.Log.Disk) < real {
		t.Errorf("%d boxes held messages, %d lie on the disks", real, len(talking.Log.Disk))
	}
	if n, why := same(talking.Log, silent.Log, twinTime); why != "" || n < 1000 {
		t.Errorf("%d packets are the same with and without conversations: %s", n, why)
	}
}

// same compares what the network saw of two worlds: every packet's time, size and direction.
func same(a, b *leakage.Log, end time.Duration) (n int, why string) {
	sort := func(l *leakage.Log) []leakage.Packet {
		ps := slices.DeleteFunc(slices.Clone(l.Packets), func(p leakage.Packet) bool { return p.At < 0 || p.At >= end })
		slices.SortFunc(ps, func(x, y leakage.Packet) int {
			switch {
			case x.Node != y.Node:
				return x.Node - y.Node
			case x.At != y.At:
				return int(max(-1, min(1, x.At-y.At)))
			case x.Up != y.Up && x.Up:
				return -1
			case x.Up != y.Up:
				return 1
			}
			return x.Size - y.Size
		})
		return ps
	}
	x, y := sort(a), sort(b)
	if len(x) != len(y) {
		why = fmt.Sprintf("%d packets and %d", len(x), len(y))
	}
	for n < min(len(x), len(y)) {
		if x[n] != y[n] {
			return n, fmt.Sprintf("%+v against %+v", x[n], y[n])
		}
		n++
	}
	return n, why
}

// TestAnswersTakeOneTime is in real time, on a machine that does other things: it only finds what is gross. The report
// measures more.
func TestAnswersTakeOneTime(t *testing.T) {
	if e, pair := tellApart(answerTimes(t, front.DefaultAnswerTime, 60)); e.Low > 0.6 {
		t.Errorf("%s: AUC %.2f", pair, e.AUC)
	}
	if e, pair := tellApart(answerTimes(t, -1, 60)); e.AUC < leakage.ControlAUC {
		t.Errorf("without a constant time only %.2f, of %s", e.AUC, pair)
	}
}
