// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	kv "tarn/store"
)

// Grouping of deposits: one sync for all that come within groupWait, or for groupMax of them.
const (
	groupWait = 5 * time.Millisecond
	groupMax  = 256 // boxes: 2 MiB

	maxDeposits = 1024            // that wait for a commit; their bytes are their callers'
	putTime     = 5 * time.Second // for a place among them, when more come at once
)

// deposit is a box that waits for its commit; done gets its one result.
type deposit struct {
	box  Box
	paid *payment // nil: with no token that is good
	done chan error
}

// put hands a box to the committer and waits until it is durable or refused. The caller owns data until it returns.
func (s *Server) put(id mailbox.BoxID, data *[mailbox.BoxSize]byte, tok token.Token) error {
	d := deposit{box: Box{ID: id, Data: data}, done: make(chan error, 1)}
	if s.desk != nil {
		if day, ok := s.desk.keys.valid(&tok, 0, time.Now()); ok {
			d.paid = &payment{day: day, token: tok, handle: id.Handle()}
		}
	}
	select {
	case s.deposits <- d:
		return <-d.done
	default:
	}
	timer := time.NewTimer(putTime)
	defer timer.Stop()
	select {
	case s.deposits <- d:
		return <-d.done
	case <-timer.C:
		return mailbox.ErrBusy // the disk is stuck, or does not follow
	}
}

// commitLoop is the one writer. It ends when the deposits' channel is closed and all that it held is answered.
func (s *Server) commitLoop() {
	group := make([]deposit, 0, groupMax)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for d := range s.deposits {
		group = append(group[:0], d)
		timer.Reset(groupWait)
		for open := true; open && len(group) < groupMax; {
			select {
			case d, ok := <-s.deposits:
				if open = ok; ok {
					group = append(group, d)
				}
			case <-timer.C:
				open = false
			}
		}
		s.commit(group)
	}
}

// commit writes a group. Order of steps, and what being killed at each one means:
//
//  1. The bucket is chosen and held open: nothing is written, nobody has an answer.
//  2. The tokens are marked as spent, each on its handle, and synced. Killed here, a token is spent and its box is not
//     there; the sender, who has no answer, writes the same box with the same token, which is good for that handle.
//  3. The engine syncs the boxes and their digest rows: they are there, unacknowledged; the sender writes them again
//     and is told OK, because they are identical.
//  4. Tokens of boxes that were not kept (another box has the handle, the disk is full) are given back. Killed before:
//     such a token is good for that handle only.
//  5. The bucket may close and the answers go out: everything is on the disk.
//
// So no box is kept without its token, and no token is lost to a box that was not kept.
func (s *Server) commit(group []deposit) {
	// Sorted, so that neither the order in the files nor the places in the value log tell who came first.
	slices.SortFunc(group, func(a, b deposit) int { return bytes.Compare(a.box.ID[:], b.box.ID[:]) })
	boxes, errs := make([]Box, len(group)), make([]error, len(group))
	for i, d := range group {
		boxes[i] = d.box
	}
	if err := s.spend(group, boxes); err != nil {
		s.fault("spend tokens", err)
		for _, d := range group {
			d.done <- spendError(err)
		}
		return
	}
	now := time.Now()
	bucket := s.clock.begin(now)
	if start, _ := (mailbox.PageAddr{Index: bucket}).Times(s.cfg.Bucket); start.After(now) {
		now = start // the clock went back: the promise counts from what the digest says
	}
	err := s.engine.Put(bucket, now.Add(s.cfg.TTL), boxes, errs)
	s.clock.end()
	if err != nil {
		s.fault("store boxes", err)
	} else {
		s.giveBack(group, errs)
	}
	for i, d := range group {
		if err != nil {
			errs[i] = mailbox.ErrBusy
		}
		d.done <- errs[i]
	}
}

// spend marks the group's tokens as spent, and the boxes without a good one as unpaid.
func (s *Server) spend(group []deposit, boxes []Box) error {
	if s.desk == nil {
		return nil
	}
	var ps []*payment
	for _, d := range group {
		if d.paid != nil {
			ps = append(ps, d.paid)
		}
	}
	if err := s.desk.spent.spend(ps); err != nil {
		return err
	}
	for i, d := range group {
		boxes[i].Unpaid = d.paid == nil || !d.paid.good
	}
	return nil
}

func spendError(err error) error {
	if errors.Is(err, kv.ErrDiskFull) || diskFull(err) {
		return mailbox.ErrFull
	}
	return mailbox.ErrBusy
}

// giveBack undoes the spending of tokens whose boxes were refused. If it fails, they are good for their handles only.
func (s *Server) giveBack(group []deposit, errs []error) {
	var ps []*payment
	for i, d := range group {
		if d.paid != nil && d.paid.fresh && errs[i] != nil {
			ps = append(ps, d.paid)
		}
	}
	if len(ps) == 0 {
		return
	}
	if err := s.desk.spent.giveBack(ps); err != nil {
		s.fault("give tokens back", err)
	}
}

// fault logs a failure of the machine (disk, key files), at most one line a second for each process.
func (s *Server) fault(what string, err error) {
	if errors.Is(err, kv.ErrBroken) {
		select {
		case s.broken <- fmt.Errorf("mailbox store: cannot %s: %w", what, err):
		default:
		}
	}
	s.faultMu.Lock()
	defer s.faultMu.Unlock()
	s.faults++
	if now := time.Now(); now.Sub(s.faultAt) >= time.Second {
		s.faultAt = now
		s.cfg.Log.Error("mailbox: cannot "+what, "err", err, "faults", s.faults)
	}
}

// sweepLoop forgets what has expired, until ctx ends.
func (s *Server) sweepLoop(ctx context.Context) {
	every := min(max(s.cfg.ExpiryUnit/4, 50*time.Millisecond), time.Minute)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := s.sweep(now); err != nil {
				s.fault("forget what has expired", err)
			}
		}
	}
}

// sweep does what is due at now. First the pages of those boxes are declared gone, durably, then the boxes go: a
// crash between the two leaves boxes that no page lists, for the next sweep.
func (s *Server) sweep(now time.Time) error {
	var err error
	if s.desk != nil {
		err = s.desk.sweep(now)
	}
	last, ok, err2 := s.engine.Expiring(now)
	if err = errors.Join(err, err2); err2 != nil || !ok {
		return err
	}
	if err2 := s.clock.forget(last + 1); err2 != nil {
		return errors.Join(err, err2)
	}
	return errors.Join(err, s.engine.Expire(now))
}
