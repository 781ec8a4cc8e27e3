// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	maintainEvery = time.Minute
	discardRatio  = 0.5 // a value-log file is rewritten when half of it is known to be garbage
)

// Run collects garbage in the value log once a minute, and forgets at once and every hour what was deleted from sealed
// tables, until ctx ends, and returns ctx's error. Without it deleted big values keep their place on the disk.
// When a write failed in the middle it returns ErrBroken at once: nothing can be written until the database is opened again, so
// who runs it must end, to be started anew.
func (b *Badger) Run(ctx context.Context) error {
	tick := time.NewTicker(maintainEvery)
	defer tick.Stop()
	var forgot time.Time
	for {
		b.releaseKeys()
		if time.Since(forgot) >= forgetEvery {
			forgot = time.Now()
			if err := b.Forget(); errors.Is(err, ErrClosed) {
				return err
			} else if err != nil {
				b.log.Warningf("%v", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.broken:
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.failed
		case <-tick.C:
			if err := b.Maintain(); errors.Is(err, ErrClosed) {
				return err
			} else if err != nil {
				b.log.Warningf("collecting garbage: %v", err)
			}
		}
	}
}

// Maintain rewrites the value-log files of which at least half is known to be garbage, and removes them. Badger
// knows of garbage only what compactions have seen: what was deleted a moment ago is found later.
func (b *Badger) Maintain() error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	for {
		if err := b.room(int(b.opt.engine(b.dir, b.log).ValueLogFileSize)); err != nil {
			return err // a rewrite first takes space
		}
		switch err := b.db.RunValueLogGC(discardRatio); {
		case errors.Is(err, badger.ErrNoRewrite), errors.Is(err, badger.ErrRejected):
			return nil
		case err != nil:
			return err
		}
	}
}
