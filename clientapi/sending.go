// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"sync"
	"time"

	"tarn/account"
)

// sendGrace is the longest that a /sync waits for an answer to be taken by a slow connection.
const sendGrace = 2 * time.Second

// sending knows the PUT /send requests under way, by device: a device's /sync must not show an event before the
// request that made it is answered. (matrix-js-sdk 43 hangs on that, or sends again: facts/clients.md, 4.)
type sending struct {
	mu    sync.Mutex // guards under, for nanoseconds
	under map[account.Requester]map[chan struct{}]struct{}
}

// begin notes a request before its event can get a position; done runs after its answer was written.
func (s *sending) begin(who account.Requester) (done func()) {
	ch := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.under == nil {
		s.under = map[account.Requester]map[chan struct{}]struct{}{}
	}
	if s.under[who] == nil {
		s.under[who] = map[chan struct{}]struct{}{}
	}
	s.under[who][ch] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(ch)
		if delete(s.under[who], ch); len(s.under[who]) == 0 {
			delete(s.under, who)
		}
	}
}

// settle waits for the requests that are under way now. An event with a position up to Stream.Current belongs to one
// of these or to an answered one, so call it after Current; later ones have later positions.
func (s *sending) settle(ctx context.Context, who account.Requester) {
	s.mu.Lock()
	wait := make([]chan struct{}, 0, len(s.under[who]))
	for ch := range s.under[who] {
		wait = append(wait, ch)
	}
	s.mu.Unlock()
	if len(wait) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sendGrace)
	defer cancel()
	for _, ch := range wait {
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
	}
}
