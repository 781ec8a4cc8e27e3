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
	hopAsking = 32              // descriptors that those of one link wait for
	hopDials  = 32              // a link may make the courier dial so many targets at once, and more as a session may
)

// payer bounds how many targets somebody makes the courier dial.
type payer interface {
	mayDial(now time.Time) bool
	since() time.Time // when it came
	// asks counts the descriptors that it waits for, by one more or less; false: it waits for as many as it may.
	asks(n int) bool
}

// since is when a payer came; the courier itself, which dials for those who follow a store, lets others go first.
func since(x payer) time.Time {
	if x == nil {
		return time.Now()
	}
	return x.since()
}

// hops are the layered halves of one link: other couriers hand them over.
type hops struct {
	s       *Server
	began   time.Time
	opening func(func() bool)

	mu      sync.Mutex // guards all below
	pending int
	asking  int // of those, for a descriptor that is not there yet
	held    int // bytes
	dials   bucket
}

func (h *hops) since() time.Time { return h.began }

func (h *hops) asks(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n > 0 && h.asking >= hopAsking {
		return false
	}
	h.asking += n
	return true
}

// Carry is front.Courier's.
func (s *Server) Carry(opening func(func() bool)) func(epoch uint32, box []byte, answer func([]byte)) {
	now := time.Now()
	h := &hops{s: s, began: now, opening: opening, dials: bucket{rate: 1 / sessionDialEvery.Seconds(), burst: hopDials, left: hopDials, at: now}}
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
	var p mailbox.PeeledHalf
	var err error
	h.opening(func() bool {
		p, err = mailbox.PeelHalf(key, s.self[:], epoch, box)
		return err == nil
	})
	if err != nil {
		h.leave()
		h.release(size)
		refuse(mailbox.ClearRefused)
		return
	}
	sent := sync.OnceFunc(func() { h.release(size) })
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
				if !h.take(len(out)) {
					h.leave()
					return // the sender writes again
				}
				s.after(p.Back, func() {
					h.leave()
					h.release(len(out))
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
	if h.pending >= maxHops || !h.s.hops.take(size, h.held, h.began, 0) {
		return false
	}
	h.pending++
	h.held += size
	return true
}

// take reserves what an answer needs.
func (h *hops) take(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.s.hops.take(n, h.held, h.began, 0) {
		return false
	}
	h.held += n
	return true
}

func (h *hops) release(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held -= n
	h.s.hops.release(n)
}

func (h *hops) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending--
}
