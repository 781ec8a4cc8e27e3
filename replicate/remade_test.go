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
	if f.head != closed-360 {
		t.Fatalf("starts at %d", f.head)
	}
	// A clock that was set back by two hours is not that.
	f = follower{saved: closed + 720}
	f.begin(closed, d)
	if f.head != closed+720 {
		t.Fatalf("starts at %d", f.head)
	}
}
