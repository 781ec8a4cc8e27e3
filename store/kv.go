// SPDX-License-Identifier: Apache-2.0

package store

import "errors"

// ErrNotFound: there is no such key.
var ErrNotFound = errors.New("store: key not found")

// Reader reads one consistent snapshot.
type Reader interface {
	// Get returns a copy of the value, or ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for the keys with the prefix, ascending, beginning at the first key >= from (nil: at the
	// prefix), until fn returns false. k and v are valid during the call only.
	Scan(prefix, from []byte, fn func(k, v []byte) (more bool, err error)) error
	// ScanBack is Scan descending, beginning at the last key <= from (nil: at the prefix's end).
	ScanBack(prefix, from []byte, fn func(k, v []byte) (more bool, err error)) error
}

// Txn reads and writes; it sees its own writes.
type Txn interface {
	Reader
	Set(key, value []byte) error
	Delete(key []byte) error
}

// KV is an ordered key-value store with serialisable transactions: Badger on disk, or its twin in memory.
type KV interface {
	// View runs fn on a snapshot. Any number may run at once.
	View(fn func(Reader) error) error
	// Update runs fn and commits its writes atomically; when it returns nil they are on the disk (synced) and
	// survive kill -9 and power loss. If fn errs nothing is written. fn may be run again after a conflict with a
	// concurrent Update: it must have no effect but its writes.
	Update(fn func(Txn) error) error
	// Close waits for running transactions.
	Close() error
}
