// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestWhatIsSaidToWhoIsAwayIsGathered: who comes back has few boxes to fetch, and soon has all.
func TestWhatIsSaidToWhoIsAwayIsGathered(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pairAt(t, CustomProfile(5*time.Second, 0.3))
		defer w.stopAll()
		talk(t, w, a, b, 2, time.Hour)
		quiet(w, a, b, 6*time.Hour)
		b.stop()
		const said = 300
		for i := range said {
			a.rooms.send(t, lounge, fmt.Sprint("while b is away ", i))
			time.Sleep(2 * time.Minute)
		}
		if n := a.status(b.name()).Unacked; n > 60 || n < said/packItems {
			t.Errorf("%d messages of %v wait in %d boxes", said, said*2*time.Minute, n)
		}
		back := time.Now()
		b.start()
		w.has(b, lounge, 2+said, 2*time.Hour)
		t.Logf("all of it came %v after b was back", time.Since(back))
		// From then on each word is a box again.
		quiet(w, a, b, 6*time.Hour)
		talk(t, w, a, b, 1, 5*time.Minute)
		talk(t, w, a, b, 1, 5*time.Minute)
	})
}

// TestMuchForWhoIsAwayFillsBoxes: what is enough for a box does not wait.
func TestMuchForWhoIsAwayFillsBoxes(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pairAt(t, CustomProfile(5*time.Second, 0.3))
		defer w.stopAll()
		talk(t, w, a, b, 2, time.Hour)
		quiet(w, a, b, 6*time.Hour)
		b.stop()
		a.rooms.send(t, lounge, "the first")
		time.Sleep(12 * time.Hour)
		before := a.status(b.name()).Unacked
		const said = 5 * packItems
		for i := range said {
			a.rooms.send(t, lounge, fmt.Sprint("at once ", i))
		}
		w.until(time.Hour, "full boxes", func() bool { return a.status(b.name()).Unacked >= before+4 })
		if n := a.status(b.name()).Unacked - before; n > 6 {
			t.Errorf("%d messages are in %d boxes", said, n)
		}
		b.start()
		w.has(b, lounge, 3+said, 2*time.Hour)
	})
}
