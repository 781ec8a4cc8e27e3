// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"tarn/mailbox"
)

// errNotSent: the job's slot passed before it was ready, or the engine stops. Nothing left the node.
var errNotSent = errors.New("replicate: not sent")

// job is what one slot carries: exactly one transaction with the slot's store.
type job struct {
	// do makes the transaction. It runs without the engine's lock.
	do func(context.Context, Mailbox) error
	// done hears how it ended, under the engine's lock; nil: nobody cares. errNotSent says that do did not run.
	done func(error)
	// after runs last, without the lock; it may use the database. nil: nothing.
	after func(error)
	store *depot
	// deposit: it asks the store to keep a box, and so tells whether the store has space.
	deposit bool
}

// finish records the outcome.
func (j job) finish(e *Engine, err error) {
	e.mu.Lock()
	if j.store != nil && !errors.Is(err, errNotSent) {
		j.store.outcome(err, j.deposit, time.Now())
	}
	if j.done != nil {
		j.done(err)
	}
	e.mu.Unlock()
	if j.after != nil {
		j.after(err)
	}
}

// prepare chooses the slot's job; what must be durable before it leaves is durable when prepare returns.
func (e *Engine) prepare(s slot) job {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if d := s.store.descriptor; d == nil || !d.covers(now) {
		return job{store: s.store, do: func(ctx context.Context, m Mailbox) error { return e.fetchDescriptor(ctx, m, s.store) }}
	}
	j := e.choose(s, now)
	j.store = s.store
	return j
}

// choose finds the job of a slot at a store whose descriptor is known.
func (e *Engine) choose(s slot, now time.Time) job {
	var j job
	var ok bool
	switch s.kind {
	case slotPut:
		j, ok = e.choosePut(s, now)
	case slotGet:
		j, ok = e.chooseGet(s.store, now)
	case slotDigest:
		j, ok = e.chooseDigest(s.store, now)
	}
	if !ok {
		return e.idle(s)
	}
	return j
}

// fetchDescriptor reads a store's descriptor and keeps what the engine needs of it.
func (e *Engine) fetchDescriptor(ctx context.Context, m Mailbox, st *depot) error {
	d, err := m.Descriptor(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	st.setDescriptor(d, now)
	e.hearDescriptor(st, d)
	if err := e.beginDigest(st, now); err != nil {
		st.descriptor = nil // nothing is done at this store before
		return fmt.Errorf("keep a digest cursor: %w", err)
	}
	return nil
}

// idle is the job of a slot that has nothing to do. It reads no mutable state but the decoys, and never the disk.
func (e *Engine) idle(s slot) job {
	j := job{store: s.store}
	if s.store.bucket.Load() == 0 {
		// No descriptor yet: anything else would make no transaction, and that the slot was late would show.
		j.do = func(ctx context.Context, m Mailbox) error { _, err := m.Descriptor(ctx); return err }
		return j
	}
	switch s.kind {
	case slotPut:
		if !s.cover {
			j.do = func(ctx context.Context, m Mailbox) error { return m.Nothing(ctx) }
			return j
		}
		var id mailbox.BoxID
		box := new([mailbox.BoxSize]byte)
		rand.Read(id[:])
		rand.Read(box[:])
		j.deposit = true
		j.do = func(ctx context.Context, m Mailbox) error { return m.Put(ctx, id, box, nil) }
	case slotGet:
		var h mailbox.Handle
		rand.Read(h[:])
		j.do = func(ctx context.Context, m Mailbox) error { _, err := m.Get(ctx, h); return err }
	default:
		// The newest page is as good as any: what it lists is read again when the cursor comes to it.
		j.do = func(ctx context.Context, m Mailbox) error {
			bucket := 10 * time.Second
			if b := s.store.bucket.Load(); b > 0 {
				bucket = time.Duration(b)
			}
			n := mailbox.BucketAt(time.Now(), bucket)
			_, err := m.Digest(ctx, mailbox.PageAddr{Index: max(n, 2) - 2})
			if errors.Is(err, mailbox.ErrNotYet) || errors.Is(err, mailbox.ErrGone) {
				return nil
			}
			return err
		}
	}
	return j
}
