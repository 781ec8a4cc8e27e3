// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarn/mailbox"
)

// TestEveryClosedBucketIsReadWhateverFails drives a follower with pages that come, fail, and come in parts, in any
// order, with rewinds: in the end every bucket was read, and the cursor was never ahead of one that was not.
func TestEveryClosedBucketIsReadWhateverFails(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := follower{begun: true}
		start := rapid.Uint64Range(0, 5000).Draw(t, "start")
		f.head = start
		now := start
		read := map[uint64]bool{}
		type flight struct {
			page  mailbox.PageAddr
			parts uint16
		}
		var flying []flight
		parts := map[mailbox.PageAddr]uint16{}
		settle := func(i int, ok bool) {
			fl := flying[i]
			flying = append(flying[:i], flying[i+1:]...)
			from, to, _ := fl.page.Buckets()
			f.settle(span{from, to}, ok)
			if !ok {
				return
			}
			if fl.page.Part+1 < fl.parts {
				next := fl.page
				next.Part++
				f.pending = append(f.pending, span{from, to})
				f.open = append(f.open, next)
				return
			}
			for b := from; b < to; b++ {
				read[b] = true
			}
		}
		ask := func() bool {
			p, ok := f.next(1)
			if !ok {
				return false
			}
			if from, to, ok := p.Buckets(); !ok || to > now || from > to {
				t.Fatalf("page %v is not closed at %d", p, now)
			}
			whole := p
			whole.Part = 0
			if parts[whole] == 0 {
				parts[whole] = uint16(rapid.IntRange(1, 3).Draw(t, "parts"))
			}
			if p.Part >= parts[whole] {
				t.Fatalf("part %d of %d", p.Part, parts[whole])
			}
			flying = append(flying, flight{p, parts[whole]})
			return true
		}
		check := func() {
			for b := start; b < f.cursor(); b++ {
				if !read[b] {
					t.Fatalf("the cursor is at %d, bucket %d was not read", f.cursor(), b)
				}
			}
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				now += rapid.Uint64Range(0, 200).Draw(t, "buckets")
				f.advance(now, now)
			case 2, 3, 4, 5:
				ask()
			case 6, 7:
				if len(flying) > 0 {
					settle(rapid.IntRange(0, len(flying)-1).Draw(t, "which"), true)
				}
			case 8:
				if len(flying) > 0 {
					settle(rapid.IntRange(0, len(flying)-1).Draw(t, "which"), false)
				}
			case 9:
				to := start + rapid.Uint64Range(0, now-start).Draw(t, "rewind")
				f.rewind(to)
				for b := to; b < now; b++ {
					delete(read, b) // all of it is to be read again
				}
				flying = nil
				f.pending, f.open = nil, nil
				f.rewind(to)
				for b := start; b < to; b++ { // what was under way is lost in this test
					if !read[b] {
						f.unreadAgain(span{b, b + 1})
					}
				}
			}
			check()
		}
		f.advance(now, now)
		for n := 0; ask() || len(flying) > 0; n++ {
			if len(flying) > 0 {
				settle(0, true)
			}
			if n > 100000 {
				t.Fatal("it never ends")
			}
		}
		for b := start; b < now; b++ {
			if !read[b] {
				t.Fatalf("bucket %d was never read", b)
			}
		}
	})
}

func TestAnAbsenceIsCaughtUpInFewPages(t *testing.T) {
	f := follower{begun: true, head: 100_000}
	f.advance(100_000+3*8640, 100_000+3*8640) // three days of 10 s buckets
	n := 0
	for {
		p, ok := f.next(1)
		if !ok {
			break
		}
		from, to, _ := p.Buckets()
		f.settle(span{from, to}, true)
		n++
	}
	if n > 150 {
		t.Errorf("%d pages for three days", n)
	}
	t.Logf("%d pages for three days", n)
}

func TestTheFollowerLearnsWhenBucketsClose(t *testing.T) {
	bucket := 10 * time.Second
	for _, truth := range []time.Duration{0, 3 * time.Second, 20 * time.Minute, -30 * time.Minute} {
		var f follower
		early, last := 0, 0
		for i := range 4000 {
			// The newest page that we believe closed ended slack ago.
			if f.slack < truth {
				f.notYet(f.slack, bucket)
				early++
				if i > 3000 {
					last++
				}
			} else {
				f.came(bucket)
			}
		}
		if d := f.slack - truth; d < -bucket || d > bucket {
			t.Errorf("closing %v after the end is believed to be %v", truth, f.slack)
		}
		if last > 250 {
			t.Errorf("with %v, %d of the last 1000 requests were too early", truth, last)
		}
	}
}

// A store whose clock is behind refuses pages until the node has learnt by how much. That is no sign that the node's own
// clock went back, after which it would read two weeks again; nor are pushed pages of a store whose clock is ahead.
func TestAStoreWithAWrongClockIsNotReadTwice(t *testing.T) {
	for _, skew := range []time.Duration{0, -80 * time.Minute, 80 * time.Minute} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, ns := courierWorld(t, 2, 1, Balanced())
				st := w.store(0)
				st.skew = skew
				defer w.stopAll()
				for _, n := range ns {
					n.start()
				}
				w.contact(ns[0], ns[1])
				if met := time.Since(playStart); met > 20*time.Minute {
					t.Errorf("the contact took %v", met)
				}
				time.Sleep(3 * time.Hour)
				pages := func() (n int) {
					st.mu.Lock()
					defer st.mu.Unlock()
					for _, c := range st.calls {
						if c.kind == "digest" {
							n++
						}
					}
					return n
				}
				before := pages()
				time.Sleep(time.Hour)
				// A courier reads each bucket once to push it; the rest is the nodes'.
				if own := pages() - before - 2*int(time.Hour/st.bucket); own > 100 {
					t.Errorf("%d pages were read in an hour beside what was pushed", own)
				}
				for _, n := range ns {
					n.engine.mu.Lock()
					f := n.engine.depots[st.address].follow
					n.engine.mu.Unlock()
					if ours := f.head - f.cursor(); ours > 200 {
						t.Errorf("%d buckets are unread: %v", ours, f.gaps)
					}
				}
			})
		})
	}
}
