// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"sync"

	kv "tarn/store"
)

// book is the desk's database, opened when the disk has room for it: a mailbox whose disk is full starts nevertheless, and
// gives the boxes that it has. Until then every call errs with kv.ErrDiskFull, and each tries again.
type book struct {
	open func() (kv.KV, error)
	load func(kv.KV) error // called once, when it is open

	mu     sync.Mutex // guards db, also while it is opened
	db     kv.KV
	opened chan struct{} // closed with the opening
}

func newBook(open func() (kv.KV, error), load func(kv.KV) error) *book {
	return &book{open: open, load: load, opened: make(chan struct{})}
}

// get opens it if it can be.
func (b *book) get() (kv.KV, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db != nil {
		return b.db, nil
	}
	db, err := b.open()
	if err != nil {
		return nil, err
	}
	if err := b.load(db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	b.db = db
	close(b.opened)
	return db, nil
}

func (b *book) View(fn func(kv.Reader) error) error {
	db, err := b.get()
	if err != nil {
		return err
	}
	return db.View(fn)
}

func (b *book) Update(fn func(kv.Txn) error) error {
	db, err := b.get()
	if err != nil {
		return err
	}
	return db.Update(fn)
}

// run is the database's own work, until ctx ends.
func (b *book) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-b.opened:
	}
	if r, ok := b.db.(interface{ Run(context.Context) error }); ok {
		r.Run(ctx) //nolint:errcheck // it says that ctx ended
	}
}

func (b *book) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db == nil {
		return nil
	}
	return b.db.Close()
}
