// SPDX-License-Identifier: Apache-2.0

package front

import (
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// The time of answers follows the slowest kind of request, and comes back when the machine is fast again.
func TestTheTimeOfAnswersFollowsTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(DefaultAnswerTime)
		answer := func(op mailbox.Op, work time.Duration) time.Duration {
			came := time.Now()
			time.Sleep(work)
			time.Sleep(p.wait(came, op))
			return time.Since(came)
		}
		each := DefaultAnswerTime
		for i := range 300 {
			if got := answer(mailbox.OpGet, time.Millisecond); got != each {
				t.Fatalf("answer %d took %v", i, got)
			}
			if got := answer(mailbox.OpPut, 24*time.Millisecond); got != each {
				t.Fatalf("write %d took %v", i, got)
			}
		}
		// A stall now and then is its own affair, and shows in multiples only.
		if got := answer(mailbox.OpPut, 130*time.Millisecond); got != 6*each {
			t.Errorf("a stall took %v", got)
		}
		if got := answer(mailbox.OpGet, time.Millisecond); got != each {
			t.Errorf("after one stall an answer takes %v", got)
		}
		// A disk that became slow is everybody's.
		for range 4 {
			answer(mailbox.OpPut, 130*time.Millisecond)
		}
		for _, op := range []mailbox.Op{mailbox.OpPut, mailbox.OpGet, mailbox.OpNothing} {
			if got := answer(op, time.Millisecond); got != 8*each {
				t.Errorf("operation %d took %v, want %v", op, got, 8*each)
			}
		}
		// Nothing is slower than the slowest step, nor waits for what is.
		for range 10 {
			answer(mailbox.OpPut, time.Minute)
		}
		if got := answer(mailbox.OpGet, 0); got != each<<(paceSteps-1) {
			t.Errorf("an answer takes %v", got)
		}
		for range paceMemory + 1 {
			answer(mailbox.OpPut, time.Millisecond)
		}
		if got := answer(mailbox.OpGet, 0); got != each {
			t.Errorf("the disk is fast again, and an answer takes %v", got)
		}
		// Two slow requests of a rare kind are not felt for ever, though no more of that kind come.
		for range 2 {
			answer(mailbox.OpDigest, time.Second)
		}
		if got := answer(mailbox.OpGet, 0); got != each<<(paceSteps-1) {
			t.Errorf("a rare kind is slow, and an answer takes %v", got)
		}
		time.Sleep(paceAge)
		if got := answer(mailbox.OpGet, 0); got != each {
			t.Errorf("a rare kind was slow long ago, and an answer takes %v", got)
		}
		// Nor, when they are of a kind that is like a deposit, after some deposits.
		for range 2 {
			answer(mailbox.OpRegister, time.Second)
		}
		for range paceMemory {
			answer(mailbox.OpPut, time.Millisecond)
		}
		if got := answer(mailbox.OpGet, 0); got != each {
			t.Errorf("after a slow registration and many deposits an answer takes %v", got)
		}
		q := newPace(-1)
		if q.wait(time.Now().Add(-time.Second), mailbox.OpPut) != 0 {
			t.Error("without a time of answers one waits")
		}
	})
}
