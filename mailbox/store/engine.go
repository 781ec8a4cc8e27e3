// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"time"

	"tarn/mailbox"
)

// Errors of a store.
var (
	// ErrSchema: a newer version of the program wrote this directory, or other settings that cannot change.
	ErrSchema = errors.New("mailbox store: this directory cannot be used")
	// ErrClock: the computer's clock is far behind what this store has already signed.
	ErrClock = errors.New("mailbox store: the computer's clock is behind")
	// ErrOpen: deposits at this store need no tokens, so there are no accounts.
	ErrOpen = errors.New("mailbox store: deposits are open here, nobody needs an account")
)

// Box is one box on its way into an engine.
type Box struct {
	ID   mailbox.BoxID
	Data *[mailbox.BoxSize]byte
	// Unpaid: it is not kept, but acknowledged if it is there already.
	Unpaid bool
}

// Usage is how full an engine is.
type Usage struct {
	Boxes int64 `json:"boxes"` // kept now
	Bytes int64 `json:"bytes"` // of disk that they are reckoned to need
	Quota int64 `json:"quota"` // the most that Bytes may become
	Units int   `json:"units"` // expiry units with boxes
}

// Engine keeps boxes. mailboxtest.TestEngine is the suite that every implementation passes.
// All methods may be called at once from many goroutines, but only one Put and one Expire at a time.
type Engine interface {
	// Put keeps the boxes, which become part of the digest bucket, at least until expires. When it returns nil, all
	// boxes whose errs[i] is nil are durable: they survive kill -9 and power loss. errs[i] is mailbox.ErrExists when
	// another box has that handle (also one earlier in the same call), mailbox.ErrToken when it is unpaid, mailbox.ErrFull
	// when quota or disk are full.
	// A box that is there already, identical, is nil; it keeps its expiry and its bucket.
	// Another error: nothing of the call may be acknowledged, though parts of it may be there.
	Put(bucket uint64, expires time.Time, boxes []Box, errs []error) error

	// Get copies the box with that handle, if there is one. It takes about the same work if there is not.
	Get(h mailbox.Handle, box *[mailbox.BoxSize]byte) (found bool, err error)

	// Handles calls fn for the handles of the buckets from (included) to to (not), in no certain order, until fn
	// returns false.
	Handles(from, to uint64, fn func(mailbox.Handle) bool) error

	// Last is the newest bucket that has a box; ok is false if there is no box.
	Last() (bucket uint64, ok bool, err error)

	// Expiring is the newest bucket of the boxes that Expire(now) would forget; ok is false if there is none.
	Expiring(now time.Time) (bucket uint64, ok bool, err error)

	// Expire forgets boxes whose time is over and frees what they took. It may keep a box for some time longer (up to
	// its expiry unit). After an error it can be called again.
	Expire(now time.Time) error

	// Usage is cheap.
	Usage() Usage

	// Close waits for calls under way. The engine is of no use afterwards.
	Close() error
}

// unitOf is the expiry unit in which boxes that must live until expires are forgotten: it ends at or after expires.
func unitOf(expires time.Time, unit time.Duration) uint64 {
	return uint64(max(expires.UnixNano(), 0))/uint64(unit) + 1
}

// unitOver says whether the unit has ended.
func unitOver(n uint64, unit time.Duration, now time.Time) bool {
	return uint64(max(now.UnixNano(), 0))/uint64(unit) >= n
}
