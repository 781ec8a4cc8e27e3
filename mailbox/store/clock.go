// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"tarn/internal/durable"
	"tarn/mailbox"
)

// maxBehind is how far the computer's clock may be behind the newest closed bucket at start: a correction by NTP is
// waited for, a wrong clock is an error, because new boxes would be listed only when it has caught up.
const maxBehind = 10 * time.Minute

// bucketClock decides which bucket a deposit belongs to and which buckets are closed. Its word is kept: a bucket
// below floor never gets a box again, whatever the computer's clock does, and floor is on the disk before anybody is
// told that a bucket is closed. If the process is killed between the two, a bucket is closed that nobody read: no harm.
type bucketClock struct {
	bucket time.Duration
	file   string // "" keeps nothing (tests with the engine in memory)

	mu     sync.Mutex // guards all below, never while the disk is written
	floor  uint64     // buckets below are closed
	gone   uint64     // boxes of buckets below may have been forgotten
	flying bool       // a deposit is being committed
	into   uint64     // into this bucket

	saveMu sync.Mutex // one save at a time
	saved  clockState // guarded by saveMu
}

type clockState struct {
	Floor uint64 `json:"floor"`
	Gone  uint64 `json:"gone"`
}

// openClock reads the state; last is the newest bucket that the engine has a box of (0: none).
func openClock(file string, bucket time.Duration, last uint64, now time.Time) (*bucketClock, error) {
	c := &bucketClock{bucket: bucket, file: file}
	if file != "" {
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &c.saved)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the state of buckets: %w", err)
		}
	}
	c.floor, c.gone = max(c.saved.Floor, last), c.saved.Gone
	_, ahead := mailbox.PageAddr{Index: max(c.floor, 1) - 1}.Times(bucket)
	if behind := ahead.Sub(now); behind > maxBehind {
		return nil, fmt.Errorf("%w: it says %s, but digests are signed up to %s; check its date and time", ErrClock, now.UTC().Format(time.RFC3339), ahead.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// begin is the bucket of the deposits that are committed now; end must follow. One at a time.
func (c *bucketClock) begin(now time.Time) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying, c.into = true, max(mailbox.BucketAt(now, c.bucket), c.floor)
	return c.into
}

// end says that the commit is durable, or failed.
func (c *bucketClock) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flying = false
}

// closed is a bucket below which all are closed, durably. The bucket of a commit under way stays open until it ends.
func (c *bucketClock) closed(now time.Time) (uint64, error) {
	c.mu.Lock()
	n := mailbox.BucketAt(now, c.bucket)
	if c.flying {
		n = min(n, c.into)
	}
	c.floor = max(c.floor, n)
	floor := c.floor
	c.mu.Unlock()
	return floor, c.save()
}

// forget raises gone, durably: pages that begin below are not served any more.
func (c *bucketClock) forget(below uint64) error {
	c.mu.Lock()
	c.gone = max(c.gone, below)
	c.mu.Unlock()
	return c.save()
}

// forgotten says whether boxes of the bucket may be missing: they are older than ttl, or were forgotten.
func (c *bucketClock) forgotten(bucket uint64, ttl time.Duration, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bucket < c.gone || bucket <= mailbox.BucketAt(now.Add(-ttl), c.bucket)
}

// save writes floor and gone if the disk has not got them yet: at most once a bucket that somebody asks for.
func (c *bucketClock) save() error {
	c.saveMu.Lock()
	defer c.saveMu.Unlock()
	c.mu.Lock()
	s := clockState{c.floor, c.gone}
	c.mu.Unlock()
	if s == c.saved || c.file == "" {
		return nil
	}
	b, err := json.Marshal(s)
	if err == nil {
		err = durable.WriteFile(c.file, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the state of buckets: %w", err)
	}
	c.saved = s
	return nil
}
