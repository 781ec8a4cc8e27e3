// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/mailbox"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func openTestClock(t testing.TB, file string, last uint64, now time.Time) *bucketClock {
	t.Helper()
	c, err := openClock(file, 10*time.Second, last, now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closedAt(t testing.TB, c *bucketClock, now time.Time) uint64 {
	t.Helper()
	n, err := c.closed(now)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBucketStaysOpenWhileADepositIsCommitted(t *testing.T) {
	c := openTestClock(t, "", 0, noon)
	b := c.begin(noon)
	if n := closedAt(t, c, noon.Add(time.Minute)); n != b {
		t.Errorf("closed below %d, though %d is being written", n, b)
	}
	c.end()
	if n := closedAt(t, c, noon.Add(time.Minute)); n != b+6 {
		t.Errorf("closed below %d, want %d", n, b+6)
	}
}

func TestClosedBucketStaysClosedWhenTheClockGoesBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock.json")
	c := openTestClock(t, file, 0, noon)
	n := closedAt(t, c, noon)
	back := noon.Add(-5 * time.Minute)
	if b := c.begin(back); b < n {
		t.Errorf("a deposit into bucket %d, closed below %d", b, n)
	}
	c.end()
	if m := closedAt(t, c, back); m != n {
		t.Errorf("closed below %d, was %d", m, n)
	}
	c = openTestClock(t, file, 0, back) // as after kill -9: nothing was written at the end
	if b := c.begin(back); b < n {
		t.Errorf("after a restart, a deposit into bucket %d, closed below %d", b, n)
	}
}

func TestClockFarBehindIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock.json")
	closedAt(t, openTestClock(t, file, 0, noon), noon)
	if _, err := openClock(file, 10*time.Second, 0, noon.Add(-time.Hour)); !errors.Is(err, ErrClock) {
		t.Errorf("an hour behind the digests: %v", err)
	}
	if _, err := openClock("", 10*time.Second, mailbox.BucketAt(noon, 10*time.Second), noon.Add(-time.Hour)); !errors.Is(err, ErrClock) {
		t.Errorf("an hour behind the boxes: %v", err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openClock(file, 10*time.Second, 0, noon); err == nil {
		t.Error("a damaged file is no error")
	}
}

func TestNoDepositComesIntoAClosedBucketWhateverTheClockDoes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock.json")
	rapid.Check(t, func(rt *rapid.T) {
		os.Remove(file)
		now := noon
		c := openTestClock(t, file, 0, now)
		var closed, last uint64
		flying := false
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(-50, 80).Draw(rt, "seconds")) * time.Second)
			if now.Before(noon.Add(-time.Minute)) {
				now = noon
			}
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0:
				if flying {
					c.end()
				} else if last = c.begin(now); last < closed {
					rt.Fatalf("bucket %d, closed below %d", last, closed)
				}
				flying = !flying
			case 1, 2:
				n, err := c.closed(now)
				if err != nil {
					rt.Fatal(err)
				}
				if n < closed {
					rt.Fatalf("closed below %d, was %d", n, closed)
				}
				if flying && n > last {
					rt.Fatalf("closed below %d while %d is being written", n, last)
				}
				closed = n
			case 3:
				var err error
				if c, err = openClock(file, 10*time.Second, last, now); errors.Is(err, ErrClock) {
					now = noon.Add(2 * time.Hour)
					c, err = openClock(file, 10*time.Second, last, now)
				}
				if err != nil {
					rt.Fatal(err)
				}
				flying = false
			}
		}
	})
}

func TestForgottenPagesStayForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock.json")
	c := openTestClock(t, file, 0, noon)
	b := mailbox.BucketAt(noon, 10*time.Second)
	if c.forgotten(b, time.Hour, noon.Add(59*time.Minute)) {
		t.Error("gone before its time")
	}
	if !c.forgotten(b, time.Hour, noon.Add(time.Hour)) {
		t.Error("there after its time")
	}
	if err := c.forget(b + 1); err != nil {
		t.Fatal(err)
	}
	c = openTestClock(t, file, 0, noon)
	if !c.forgotten(b, 1000*time.Hour, noon) || c.forgotten(b+1, 1000*time.Hour, noon) {
		t.Error("a longer TTL brings a forgotten page back")
	}
}
