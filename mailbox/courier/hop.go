// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"errors"
	"sync"
	"time"

	"tarn/crypto/layered"
	"tarn/mailbox"
)

// Bounds of what comes over one link.
const (
	maxHops   = 1024            // layered halves without an answer
	layerTime = 3 * time.Minute // for each layer the answer to a half may take that much longer
	hopDials  = 32              // a link may make the courier dial so many targets at once, and more as a session may
)

// payer bounds how many targets somebody makes the courier dial.
type payer interface{ mayDial(now time.Time) bool }

// hops are the layered halves of one link: other couriers hand them over.
type hops struct {
	s *Server

	mu      sync.Mutex // guards all below
	pending int
	dials   bucket
}

// Carry is front.Courier's.
func (s *Server) Carry() func(epoch uint32, box []byte, answer func([]byte)) {
	h := &hops{s: s, dials: bucket{rate: 1 / sessionDialEvery.Seconds(), burst: hopDials, left: hopDials, at: time.Now()}}
	return h.carry
}

func (h *hops) mayDial(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dials.try(now)
}

// carry peels a half, holds what is in it, hands it on, holds the answer, and gives it back under a layer of its own.
// Both delays are the sender's. The steps, and what being killed at each one means: nothing is lost but what waits in
// memory, which its sender writes again; and a layer that had an effect is never peeled a second time (replay.go).
func (h *hops) carry(epoch uint32, box []byte, answer func([]byte)) {
	s, size, came := h.s, len(box), time.Now()
	refuse := func(c mailbox.Clear) { answer(mailbox.RefuseHalf(size, c)) }
	key := s.cfg.Keys.Get(epoch)
	if key == nil {
		refuse(mailbox.ClearStale)
		return
	}
	if !h.admit(size) {
		refuse(mailbox.ClearBusy)
		return
	}
	p, err := mailbox.PeelHalf(key, s.self[:], epoch, box)
	if err != nil {
		h.leave()
		s.release(size)
		refuse(mailbox.ClearRefused)
		return
	}
	sent := sync.OnceFunc(func() { s.release(size) })
	err = s.replays.mark(epoch, layered.ID(box), func(ok bool) {
		if !ok {
			h.leave()
			sent()
			refuse(mailbox.ClearBusy)
			return
		}
		s.after(p.Delay-time.Since(came), func() {
			s.forward(h, p.Target, p.Epoch, p.Box, sent, func(inner []byte) {
				sent()
				out := p.Answer(inner)
				if !s.take(len(out)) {
					h.leave()
					return // the sender writes again
				}
				s.after(p.Back, func() {
					h.leave()
					s.release(len(out))
					answer(out)
				})
			})
		})
	})
	if err != nil {
		h.leave()
		sent()
		if errors.Is(err, errReplay) {
			refuse(mailbox.ClearRefused)
		} else {
			refuse(mailbox.ClearBusy)
		}
	}
}

// admit reserves what a half of that size needs.
func (h *hops) admit(size int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending >= maxHops || !h.s.take(size) {
		return false
	}
	h.pending++
	return true
}

func (h *hops) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending--
}
