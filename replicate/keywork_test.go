// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
)

// busyAccounts are a node's in which something changes all the time.
type busyAccounts struct {
	Accounts
	generation atomic.Uint64
}

func (b *busyAccounts) KeyGeneration() uint64 { return b.generation.Add(1) }

func (b *busyAccounts) SetContacts(map[matrix.ServerName]bool) {}

// TestComparingKeysHoldsUpNoSlot: while the worker compares, for as long as that takes, slots choose and boxes leave; and where keys change all the time
// messages leave, too.
func TestComparingKeysHoldsUpNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b := w.node(1, fast()), w.node(2, fast())
		a.accounts = &busyAccounts{}
		defer w.stopAll()
		a.start()
		b.start()
		w.friends(a, b)
		a.rooms.send(t, lounge, "one")
		w.has(b, lounge, 1, time.Minute)

		blocked, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		a.rooms.mu.Lock()
		a.rooms.sharers = func() {
			once.Do(func() { close(blocked) })
			<-release
		}
		a.rooms.mu.Unlock()
		<-blocked
		late := a.engine.counts.late.Load()
		a.rooms.send(t, lounge, "two")
		time.Sleep(time.Minute) // if a slot waited with the mutex, made-up time would stand still
		came := len(b.rooms.bodies(lounge))
		if n := a.engine.counts.late.Load() - late; came != 2 || n != 0 {
			t.Errorf("%d of 2 messages came, and %d slots had nothing chosen in time", came, n)
		}
		close(release)
	})
}
