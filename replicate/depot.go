// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"

	"tarn/mailbox"
)

// Mailbox is one store as the engine uses it: *mailbox.Client, or a test's. Each call is one transaction, of one size
// up and one size down. Safe for concurrent use. A call without a valid descriptor errs with mailbox.ErrNoDescriptor.
type Mailbox interface {
	Descriptor(ctx context.Context) (mailbox.Descriptor, error)
	Put(ctx context.Context, id mailbox.BoxID, box *[mailbox.BoxSize]byte, token *[mailbox.TokenSize]byte) error
	Nothing(ctx context.Context) error
	Get(ctx context.Context, h mailbox.Handle) (*[mailbox.BoxSize]byte, error)
	Digest(ctx context.Context, p mailbox.PageAddr) (mailbox.Page, error)
}

var _ Mailbox = (*mailbox.Client)(nil)

// depot is a store that the node knows: its own, where contacts drop boxes, or one of a contact's. Guarded by the
// engine's mutex but for bucket and client.
type depot struct {
	address    mailbox.Address
	client     Mailbox
	sealer     Sealer // nil: direct mode alone
	own        bool   // we read it: it is one of ours, or was
	courier    bool   // it says that it is a courier too
	family     string // of its operator, as it says; "" is a family of its own
	health     health
	askAfter   time.Time // when its descriptor may be asked for through a courier again,
	asked      int       // after so many times without one
	descriptor *descriptor
	bucket     atomic.Int64 // nanoseconds; 0 until a descriptor was read
	tokens     atomic.Bool  // a deposit needs one

	follow follower                 // own stores: how far the digest was read
	todo   map[mailbox.Handle]*todo // own stores: boxes listed for us
	decoys decoys                   // handles seen lately
	heard  heard                    // what it told us, for comparing with contacts
	// Boxes that were found unlisted, and when; and when it was certain that it had not listed one.
	unlisted map[mailbox.Handle]time.Time
	hid      time.Time

	lastOK, lastFail time.Time
	lastErr          error
	full             bool // by the newest deposit
}

// descriptor is what the engine keeps of one.
type descriptor struct {
	bucket, ttl time.Duration
	epochs      []uint32
	policy      mailbox.Policy // what a deposit needs
}

// covers tells whether it has a key for the day of now.
func (d *descriptor) covers(now time.Time) bool {
	today := mailbox.Epoch(now)
	for _, e := range d.epochs {
		if e == today {
			return true
		}
	}
	return false
}

// operator is the family, if it has one.
func (d *depot) operator() string { return d.family }

// seal makes a half for the store.
func (d *depot) seal(put bool, r mailbox.Request, delay time.Duration) (Half, error) {
	switch {
	case d.sealer == nil:
		return nil, mailbox.ErrNoDescriptor
	case put:
		return d.sealer.SealPut(r, delay)
	}
	return d.sealer.SealGet(r, delay)
}

// knows tells whether requests can be sealed for the store.
func (d *depot) knows(now time.Time) bool {
	return d.sealer != nil && d.descriptor != nil && d.descriptor.covers(now)
}

func (d *depot) setDescriptor(m mailbox.Descriptor, now time.Time) {
	n := &descriptor{bucket: m.Bucket, ttl: m.TTL, policy: m.Deposits}
	for _, k := range m.Keys {
		n.epochs = append(n.epochs, k.Epoch)
	}
	if !n.covers(now) {
		// The clocks disagree by a day and more, or the store is behind with its keys: use what it has until the day
		// changes, the client knows its tolerance.
		n.epochs = append(n.epochs, mailbox.Epoch(now))
	}
	if old := d.bucket.Load(); old != 0 && old != int64(m.Bucket) {
		d.follow = follower{saved: math.MaxUint64} // another count of buckets: everything it has is looked at again
	}
	d.descriptor = n
	d.courier, d.family = rolesOf(m)
	d.askAfter, d.asked = now.Add(renewAhead/4), 0
	d.tokens.Store(n.policy.Deposit == mailbox.DepositTokens)
	d.bucket.Store(int64(m.Bucket))
}

// outcome notes how a transaction with the store ended. Only a deposit tells whether the store is full.
func (d *depot) outcome(err error, deposit bool, now time.Time) {
	if deposit && (err == nil || errors.Is(err, mailbox.ErrFull)) {
		d.full = err != nil
	}
	switch {
	case err == nil, errors.Is(err, mailbox.ErrExists), errors.Is(err, mailbox.ErrNotYet), errors.Is(err, mailbox.ErrGone),
		errors.Is(err, mailbox.ErrTooMany), errors.Is(err, mailbox.ErrAccount), errors.Is(err, mailbox.ErrCap), errors.Is(err, errNoToken):
		d.lastOK, d.lastErr = now, nil
		if d.health.upSince.IsZero() {
			d.health.upSince = now
		}
	case errors.Is(err, errCourier):
	default:
		d.lastFail, d.lastErr = now, err
		if !errors.Is(err, mailbox.ErrBusy) && !errors.Is(err, mailbox.ErrFull) {
			d.health.upSince = time.Time{}
		}
		// What we know of the store may be old: it has other keys, or another program. The next slot asks.
		for _, stale := range []error{mailbox.ErrNoDescriptor, mailbox.ErrRefused, mailbox.ErrBadReply} {
			if errors.Is(err, stale) {
				d.descriptor, d.askAfter = nil, time.Time{}
			}
		}
	}
}

// words is the last error as a person can act on it; "" if the last transaction went well and the store is not full.
func (d *depot) words() string {
	switch err := d.lastErr; {
	case d.heard.lie != nil:
		return "The mailbox was caught telling different nodes different things (the proof is kept). It lies, or was made anew under its old key: use another one."
	case !d.hid.IsZero() && time.Since(d.hid) < hidFor:
		return "The mailbox had the answer to a link of ours and did not list it. It was found nevertheless, late: the mailbox hides boxes, or its disk is damaged. Use another one."
	case err == nil && !d.full:
		return ""
	case err == nil, errors.Is(err, mailbox.ErrFull):
		return "The mailbox is full: ask its operator for more space, or use another mailbox."
	case errors.Is(err, mailbox.ErrBusy):
		return "The mailbox is busy; the next slots try again."
	case errors.Is(err, mailbox.ErrToken):
		return "The mailbox did not take a token: check both computers' clocks if this stays."
	case errors.Is(err, mailbox.ErrRefused):
		return "The mailbox does not understand our requests: one of the two programs is of another version."
	case errors.Is(err, mailbox.ErrBadReply), errors.Is(err, mailbox.ErrPage), errors.Is(err, mailbox.ErrDescriptor):
		return "The mailbox answers something that is not an answer: its program may be broken or of another version."
	case errors.Is(err, mailbox.ErrNoDescriptor):
		return "The mailbox has not given its keys of today yet; check both computers' clocks if this stays."
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errUnanswered):
		return "The mailbox does not answer in time."
	default:
		return "The mailbox cannot be reached; it may be switched off, or Tor is not up here."
	}
}
