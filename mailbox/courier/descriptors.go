// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"context"
	"errors"
	"time"

	"tarn/mailbox"
)

// maxKnown is how many mailboxes' descriptors are kept.
const maxKnown = 1024

// known is a mailbox's descriptor as it signed it.
type known struct {
	raw     []byte
	day     uint32 // it was fetched
	reached bool   // ever
	used    time.Time
	busy    chan struct{} // closed when the fetch that is under way ends; nil: none
}

// learn keeps a descriptor that came from its mailbox.
func (s *Server) learn(target [32]byte, raw []byte) error {
	if _, err := mailbox.ParseDescriptor(addressOf(target), raw); err != nil {
		return err
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[target]
	if k == nil {
		if len(s.known) >= maxKnown {
			s.forgetLocked(now)
		}
		k = &known{}
		s.known[target] = k
	}
	k.raw, k.day, k.reached, k.used = append([]byte(nil), raw...), mailbox.Epoch(now), true, now
	return nil
}

// forget makes the next describe fetch.
func (s *Server) forget(target [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.known[target]; k != nil {
		k.raw = nil
	}
}

// forgetLocked drops descriptors that nobody asks for; s.mu is held.
func (s *Server) forgetLocked(now time.Time) {
	limit := 24 * time.Hour
	for len(s.known) >= maxKnown || limit == 24*time.Hour {
		for t, k := range s.known {
			if k.busy == nil && now.Sub(k.used) > limit {
				delete(s.known, t)
			}
		}
		if limit == 0 {
			return
		}
		limit /= 8
		if limit < time.Minute {
			limit = 0
		}
	}
}

var errDescriptor = errors.New("courier: no descriptor")

// describe is the descriptor of a mailbox, signed, of today: from the cache, or fetched once for all who ask. x pays for
// the dial; nil: the courier itself.
func (s *Server) describe(x payer, target [32]byte) ([]byte, error) {
	for {
		now := time.Now()
		s.mu.Lock()
		k := s.known[target]
		if k != nil && k.raw != nil && k.day == mailbox.Epoch(now) {
			k.used = now
			defer s.mu.Unlock()
			return k.raw, nil
		}
		if k != nil && k.busy != nil {
			busy := k.busy
			s.mu.Unlock()
			select {
			case <-busy:
				s.mu.Lock()
				ok := k.raw != nil && k.day == mailbox.Epoch(now)
				s.mu.Unlock()
				if !ok {
					return nil, errDescriptor
				}
				continue
			case <-s.ctx.Done():
				return nil, s.ctx.Err()
			}
		}
		if f, failed := s.failed[target]; failed && now.Sub(f.at) < f.wait || x != nil && !x.mayDial(now) {
			s.mu.Unlock()
			return nil, errDescriptor
		}
		if k == nil {
			if len(s.known) >= maxKnown {
				s.forgetLocked(now)
			}
			k = &known{}
			s.known[target] = k
		}
		k.used, k.busy = now, make(chan struct{})
		proven := k.reached
		s.mu.Unlock()

		_, raw, err := s.fetch(target, proven, since(x))
		if err == nil {
			err = s.learn(target, raw)
		}
		s.mu.Lock()
		close(k.busy)
		k.busy = nil
		s.mu.Unlock()
		if err != nil {
			return nil, errDescriptor
		}
	}
}

// fetch asks the mailbox itself, on a circuit of its own.
func (s *Server) fetch(target [32]byte, proven bool, since time.Time) (mailbox.Descriptor, []byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
	defer cancel()
	leave := s.passTo(ctx, proven, since)
	if leave == nil {
		return mailbox.Descriptor{}, nil, errCrowded
	}
	defer leave()
	return mailbox.NewClient(addressOf(target), s.cfg.Dial).Fetch(ctx)
}
