// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever the asker believed, and however wrong its clock is, within some answers it knows to a bucket's length when the
// store's buckets close; and what it knows is never contradicted by an answer.
func TestSlackFindsAStoresClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bucket := time.Duration(rapid.Int64Range(50, 60_000).Draw(t, "bucket ms")) * time.Millisecond
		truth := time.Duration(rapid.Int64Range(int64(-2*time.Hour), int64(2*time.Hour)).Draw(t, "slack"))
		estimate := time.Duration(rapid.Int64Range(int64(-2*time.Hour), int64(2*time.Hour)).Draw(t, "estimate"))
		now := time.Unix(1_800_000_000, 0)
		for range 3 {
			asked := now.Add(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "pause")))
			took := time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "took"))
			at := asked.Add(time.Duration(rapid.Float64Range(0, 1).Draw(t, "when") * float64(took)))
			now = asked.Add(took)
			estimate = Slack(estimate, bucket, BucketAt(at.Add(-truth), bucket), asked, now)
			if d := estimate - truth; d > bucket+took || d < -bucket-took {
				t.Fatalf("it is %v and believed to be %v", truth, estimate)
			}
		}
	})
	for _, closed := range []uint64{0, 1<<64 - 1, 1 << 62} {
		if got := Slack(time.Second, 10*time.Second, closed, time.Unix(1e9, 0), time.Unix(1e9, 0)); got != time.Second && got != -SkewTolerance {
			t.Errorf("of %d buckets: %v", closed, got)
		}
	}
	if err := error(EarlyError{7}); !errors.Is(err, ErrNotYet) {
		t.Error("it is no ErrNotYet")
	}
}
