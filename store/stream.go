// SPDX-License-Identifier: Apache-2.0

package store

import "context"

// Pos is a place in the node's one stream of changes that /sync follows: room events, account data, receipts.
// Positions only grow; gaps mean nothing.
type Pos uint64

// Stream hands out positions so that a reader never misses one: Current is a position below which
// everything is committed, though writers commit in any order. It also wakes who waits for a topic.
type Stream struct{}

// OpenStream goes on after every position that was ever handed out (leases of blocks are on disk).
func OpenStream(kv KV) (*Stream, error) { panic("unwritten") }

// Write reserves a position, runs kv.Update(fn(txn, pos)), and after the commit makes the position visible and
// wakes the waiters of the topics that fn returned (user ids). On error the position is skipped.
func (s *Stream) Write(fn func(txn Txn, pos Pos) (topics []string, err error)) (Pos, error) {
	panic("unwritten")
}

// Current is the newest position with nothing uncommitted below it.
func (s *Stream) Current() Pos { panic("unwritten") }

// Wait returns once a visible change of the topic has a position > after (at once if there was one since this
// process began or if that is not known), or with ctx's error. It returns Current. No polling; an idle waiter costs nothing.
func (s *Stream) Wait(ctx context.Context, topic string, after Pos) (Pos, error) { panic("unwritten") }

// Notify wakes a topic for a change that has no place on disk (typing).
func (s *Stream) Notify(topics ...string) Pos { panic("unwritten") }
