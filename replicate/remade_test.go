// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"testing"
	"time"
)

// A mailbox that is made anew under its old key may have longer buckets: the cursor on disk counts the old ones.
func TestCursorOfShorterBucketsStartsAgain(t *testing.T) {
	d := &descriptor{bucket: 10 * time.Second, ttl: time.Hour}
	closed := uint64(160_000_000)
	f := follower{saved: closed * 20}
	f.begin(closed, d)
	if f.head != closed-360+1 {
		t.Fatalf("starts at %d", f.head)
	}
	// After a clock that was two hours ahead nobody knows either what was read.
	f = follower{saved: closed + 720}
	f.begin(closed, d)
	if f.head != closed-360+1 {
		t.Fatalf("starts at %d", f.head)
	}
	// A place that is ahead by what is learnt of the store's clock is believed.
	f = follower{saved: closed + 5}
	f.begin(closed, d)
	if f.head != closed+5 {
		t.Fatalf("starts at %d", f.head)
	}
}
