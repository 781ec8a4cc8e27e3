// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
)

// Limits of both engines. They keep one transaction's memory bounded.
const (
	MaxKey    = 4 << 10  // bytes of a key; at least 1
	MaxValue  = 8 << 20  // bytes of a value
	MaxUpdate = 64 << 20 // bytes of all keys and values that one Update sets (with 32 bytes a row)
	rowCost   = 32       // bytes a row costs beside its key and value
)

var (
	// ErrNotFound: there is no such key.
	ErrNotFound = errors.New("store: key not found")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store: closed")
	// ErrTooLarge: a key, a value or all writes of an Update together exceed MaxKey, MaxValue or MaxUpdate.
	ErrTooLarge = errors.New("store: too large")
	// ErrDiskFull: the disk has less free space than the store keeps in reserve; nothing was written. Later Updates work again once there is space.
	ErrDiskFull = errors.New("store: the disk is full")
	// ErrBroken: an earlier write failed in the middle; the store reads but does not write until it is opened again.
	ErrBroken = errors.New("store: a write to the disk failed; open the database again")
)

// Reader reads one consistent snapshot. It is used by one goroutine, until the function it was given to returns.
type Reader interface {
	// Get returns a copy of the value, or ErrNotFound.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for the keys with the prefix, ascending, beginning at the first key >= from (nil: at the
	// prefix), until fn returns false. k and v are valid during the call only, and not to be changed. fn may write:
	// what it writes is not seen by this Scan. fn's error is returned as it is.
	Scan(prefix, from []byte, fn func(k, v []byte) (more bool, err error)) error
	// ScanBack is Scan descending, beginning at the last key <= from (nil: at the prefix's end).
	ScanBack(prefix, from []byte, fn func(k, v []byte) (more bool, err error)) error
}

// Txn reads and writes; it sees its own writes. Key and value are copied.
type Txn interface {
	Reader
	// Set writes a row; ErrTooLarge beyond the limits.
	Set(key, value []byte) error
	// Delete removes a row, if it is there.
	Delete(key []byte) error
}

// KV is an ordered key-value store with serialisable transactions: Badger on disk, or its twin in memory.
type KV interface {
	// View runs fn on a snapshot of the durable rows. Any number may run at once, also beside and inside an Update.
	View(fn func(Reader) error) error
	// Update runs fn and commits its writes atomically; when it returns nil they are on the disk (synced) and
	// survive kill -9 and power loss. If fn errs nothing is written and the error returned as it is. The functions
	// of concurrent Updates run one after another (keep long work, such as verifying signatures, outside), and
	// commits that wait for the disk share its sync. An Update inside fn waits for ever: do not.
	Update(fn func(Txn) error) error
	// Close waits for running transactions; later ones get ErrClosed.
	Close() error
}

// checkRow says whether a row is within the limits.
func checkRow(key, value []byte) error {
	switch {
	case len(key) == 0:
		return errors.New("store: empty key")
	case len(key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes, at most %d", ErrTooLarge, len(key), MaxKey)
	case len(value) > MaxValue:
		return fmt.Errorf("%w: value of %d bytes, at most %d", ErrTooLarge, len(value), MaxValue)
	}
	return nil
}

// scanStart is the key a Scan begins at, or ok=false if from lies behind all keys with the prefix.
func scanStart(prefix, from []byte) (start []byte, ok bool) {
	if bytes.Compare(from, prefix) <= 0 {
		return prefix, true
	}
	return from, bytes.HasPrefix(from, prefix)
}

// scanBackStart is where a ScanBack begins: at the last key <= start, or < start if it is exclusive; a nil start is
// the end of everything. ok=false: from lies before all keys with the prefix.
func scanBackStart(prefix, from []byte) (start []byte, inclusive, ok bool) {
	switch {
	case from != nil && bytes.Compare(from, prefix) < 0:
		return nil, false, false
	case from != nil && bytes.HasPrefix(from, prefix):
		return from, true, true
	default:
		return after(prefix), false, true
	}
}
