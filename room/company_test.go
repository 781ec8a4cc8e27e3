// SPDX-License-Identifier: Apache-2.0

package room

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPeopleWhoTalkAtOnceShareSyncs: each of eight waits for one sync, not for that of the others and then its own; one alone
// waits for nobody, and those whose company has gone wait for it once. The room's lock is a channel here: fake time does not pass
// while somebody waits for a mutex.
func TestPeopleWhoTalkAtOnceShareSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			sync1 = time.Millisecond
			think = 200 * time.Microsecond // between an answer and the same client's next message
			each  = 50
		)
		var q queue
		lock := make(chan struct{}, 1)
		syncs := 0
		send := func() {
			s := &sending{}
			q.push(s)
			lock <- struct{}{}
			defer func() { <-lock }()
			for !s.done {
				all, begun := q.take(), time.Now()
				time.Sleep(sync1)
				syncs++
				for _, s := range all {
					s.done = true
				}
				q.sent(len(all), time.Since(begun))
			}
		}
		for _, people := range []int{1, 8, 2, 70, 1} {
			syncs = 0
			begun := time.Now()
			var all sync.WaitGroup
			for range people {
				all.Go(func() {
					for range each {
						send()
						time.Sleep(think)
					}
				})
			}
			all.Wait()
			took := time.Since(begun)
			rounds := (people + maxTogether - 1) / maxTogether // of those who do not fit into one
			if syncs > rounds*(each+3) || took > time.Duration(rounds*(each+3))*(sync1+think) {
				t.Errorf("%d people with %d messages each: %d syncs in %v", people, each, syncs, took)
			}
		}
	})
}
