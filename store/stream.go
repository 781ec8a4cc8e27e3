// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Pos is a place in the node's one stream of changes that /sync follows: room events, account data, receipts.
// Positions only grow; gaps mean nothing. The first is 1; 0 is before everything.
type Pos uint64

const (
	// leaseBlock is how many positions one row on the disk reserves. A process that starts goes on behind the
	// reserved ones, so a position that was handed out for something that has no row (Notify) is never given again.
	leaseBlock = 4096
	// maxTopics bounds the memory of topics that changed; beyond it all are forgotten, which wakes some waiters
	// for nothing once.
	maxTopics = 10_000
)

// metaLease is the row that holds the first position that is not reserved (8 bytes, big-endian).
const metaLease = 1

func leaseKey() []byte { return Key(TableMeta, byte(metaLease)) }

// Stream hands out positions so that a reader never misses one: Current is a position below which
// everything is committed, though writers commit in any order. It also wakes who waits for a topic.
// It starts no goroutine and uses no clock.
type Stream struct {
	kv KV

	mu      sync.Mutex       // guards what follows, for moments
	next    Pos              // the next position to hand out
	leased  Pos              // positions below it are reserved on the disk
	open    map[Pos]struct{} // handed out, not yet committed or given up
	held    []change         // committed, but something below is still open; ascending
	current Pos              // everything up to it is committed
	moved   chan struct{}    // closed when current moves; nil if nobody waits for that
	base    Pos              // of changes up to it, last does not know
	topics  map[string]*topic
}

type change struct {
	pos    Pos
	topics []string
}

// topic is what is known of one topic: its newest visible change, and who waits for the next.
type topic struct {
	last    Pos
	waiters int
	wake    chan struct{} // closed at the next change; nil if nobody waits
}

// OpenStream goes on after every position that was ever handed out (leases of blocks are on disk). It writes nothing.
func OpenStream(kv KV) (*Stream, error) {
	s := &Stream{kv: kv, next: 1, open: map[Pos]struct{}{}, topics: map[string]*topic{}}
	err := kv.View(func(r Reader) error {
		v, err := r.Get(leaseKey())
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case err != nil:
			return err
		case len(v) != 8 || binary.BigEndian.Uint64(v) == 0:
			return errors.New("the row of the lease is damaged")
		}
		s.next = Pos(binary.BigEndian.Uint64(v))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opening the stream: %w", err)
	}
	s.leased = s.next
	s.current = s.next - 1
	s.base = s.current
	return s, nil
}

// Write runs kv.Update(fn(txn, pos)) with a position of its own, and after the commit makes the position visible and
// wakes the waiters of the topics that fn returned (user ids). On error the position is skipped. When Write
// returns nil, Current() >= its position. Positions follow the order of the commits.
func (s *Stream) Write(fn func(txn Txn, pos Pos) (topics []string, err error)) (Pos, error) {
	var pos, leased Pos
	var topics []string
	committed := false
	// The position is taken inside the Update, so that it follows the order of the commits, and is given back
	// however the Update ends: one that stayed open would stop every reader.
	defer func() {
		if pos != 0 && !committed {
			s.settle(pos, 0, nil)
		}
	}()
	err := s.kv.Update(func(txn Txn) error {
		if pos != 0 { // a KV may run fn again
			s.settle(pos, 0, nil)
			pos = 0
		}
		pos, leased = s.take()
		if leased != 0 {
			// In the same transaction: no position at or above the lease is ever committed without its lease.
			if err := txn.Set(leaseKey(), AppendUint64(nil, uint64(leased))); err != nil {
				return err
			}
		}
		var err error
		topics, err = fn(txn, pos)
		return err
	})
	if err != nil {
		return 0, err
	}
	committed = true
	s.settle(pos, leased, topics)
	s.visible(pos)
	return pos, nil
}

// take hands out a position; if it is not reserved on the disk, leased is what the caller must write.
func (s *Stream) take() (pos, leased Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pos = s.next
	s.next++
	s.open[pos] = struct{}{}
	if pos >= s.leased {
		leased = pos + leaseBlock
	}
	return pos, leased
}

// settle ends an open position: committed with topics, or given up (no topics).
func (s *Stream) settle(pos, leased Pos, topics []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leased = max(s.leased, leased)
	delete(s.open, pos)
	if len(topics) > 0 {
		i := len(s.held)
		for i > 0 && s.held[i-1].pos > pos {
			i--
		}
		s.held = append(s.held, change{})
		copy(s.held[i+1:], s.held[i:])
		s.held[i] = change{pos, topics}
	}
	s.advance()
}

// advance moves current up to the first open position and wakes whose changes became visible. s.mu is held.
func (s *Stream) advance() {
	to := s.next - 1
	for p := range s.open {
		to = min(to, p-1)
	}
	if to <= s.current {
		return
	}
	s.current = to
	n := 0
	for _, c := range s.held {
		if c.pos > to {
			break
		}
		n++
		for _, name := range c.topics {
			s.wake(name, c.pos)
		}
	}
	s.held = s.held[n:]
	if len(s.held) == 0 {
		s.held = nil
	}
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// wake notes a visible change of a topic. s.mu is held.
func (s *Stream) wake(name string, pos Pos) {
	t := s.topics[name]
	if t == nil {
		if len(s.topics) >= maxTopics {
			s.forget()
		}
		t = &topic{}
		s.topics[name] = t
	}
	t.last = max(t.last, pos)
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}

// forget drops the topics that nobody waits for; who asks for changes up to now is told "perhaps".
func (s *Stream) forget() {
	for name, t := range s.topics {
		if t.waiters == 0 {
			delete(s.topics, name)
		}
	}
	s.base = s.current
}

// visible waits until current has reached pos. What is open below pos was committed before pos and is settled in a moment.
func (s *Stream) visible(pos Pos) {
	for {
		s.mu.Lock()
		if s.current >= pos {
			s.mu.Unlock()
			return
		}
		if s.moved == nil {
			s.moved = make(chan struct{})
		}
		moved := s.moved
		s.mu.Unlock()
		<-moved
	}
}

// Current is the newest position with nothing uncommitted below it.
func (s *Stream) Current() Pos {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Wait returns once a visible change of the topic has a position > after (at once if there was one since this
// process began or if that is not known), or with ctx's error. It returns Current. No polling; an idle waiter costs nothing.
func (s *Stream) Wait(ctx context.Context, name string, after Pos) (Pos, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		t := s.topics[name]
		if t != nil && t.last > after || after < s.base {
			return s.current, nil
		}
		if err := ctx.Err(); err != nil {
			return s.current, err
		}
		if t == nil {
			if len(s.topics) >= maxTopics {
				s.forget()
				if after < s.base {
					return s.current, nil
				}
			}
			t = &topic{}
			s.topics[name] = t
		}
		if t.wake == nil {
			t.wake = make(chan struct{})
		}
		wake := t.wake
		t.waiters++
		s.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if t.waiters--; t.waiters == 0 && t.last == 0 && s.topics[name] == t {
			delete(s.topics, name) // a name that only was asked for leaves nothing behind
		}
	}
}

// Notify wakes a topic for a change that has no place on disk (typing), and gives its position. Not to be called
// inside an Update: once in 4,096 positions it must reserve new ones on the disk. Should that fail, the
// position is given nevertheless; the next Write reserves it, or reports the error.
func (s *Stream) Notify(topics ...string) Pos {
	var pos, leased Pos
	s.mu.Lock()
	reserved := s.next < s.leased
	s.mu.Unlock()
	if !reserved {
		// Taken inside the Update, as in Write: leases are written in the order of their positions.
		err := s.kv.Update(func(txn Txn) error {
			if pos == 0 {
				pos, leased = s.take()
			}
			if leased == 0 {
				return nil
			}
			return txn.Set(leaseKey(), AppendUint64(nil, uint64(leased)))
		})
		if err != nil {
			leased = 0
		}
	}
	if pos == 0 {
		pos, _ = s.take()
	}
	s.settle(pos, leased, topics)
	return pos
}
