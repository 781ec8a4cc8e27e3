// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/crypto/chacha20poly1305"
)

// The write path. An Update's rows are first put into inflight and the queue (in memory; a crash there loses an
// Update that nobody was told of). One of the waiting Updates commits: it takes as many from the queue as fit one
// Badger transaction and writes them with one sync, then tells them, then hands over to the next.
// Badger writes big values into the value log and syncs it, then rows and the mark of the transaction's end into
// the memtable's log and syncs that. A crash before the mark is complete: the group never was (the replay drops it;
// values stay in the value log as garbage). A crash after it: the group is there, all of it.

// pending is an Update that waits for the disk.
type pending struct {
	rows map[*row]struct{}
	work func(ts uint64) (uint64, error) // instead of rows: alone, on top of that state; the state afterwards
	size int
	done chan outcome // one outcome, or first "lead"
}

type outcome struct {
	lead bool // the receiver commits the queue's head, then receives again
	err  error
}

// enqueue makes the rows visible to the next Updates and queues them. The caller holds b.writer.
func (b *Badger) enqueue(c changes) *pending {
	p := &pending{rows: c.mine, size: c.size, done: make(chan outcome, 2)}
	b.mu.Lock()
	defer b.mu.Unlock()
	for r := range c.mine {
		b.inflight.ReplaceOrInsert(r)
	}
	b.queueLocked(p)
	return p
}

// queueLocked queues p; b.mu is held.
func (b *Badger) queueLocked(p *pending) {
	b.queue = append(b.queue, p)
	if !b.busy {
		b.busy = true
		p.done <- outcome{lead: true}
	}
}

// await returns when p is durable or has failed; on the way it may have to commit for others.
func (b *Badger) await(p *pending) error {
	for {
		o := <-p.done
		if !o.lead {
			return o.err
		}
		b.commitHead()
	}
}

// commitHead commits one group from the queue's head, which holds at least the caller's Update.
func (b *Badger) commitHead() {
	// Those whom the last commit woke are about to write again: let them in, rather than sync for one alone.
	runtime.Gosched()
	b.mu.Lock()
	n, size, count := 0, int64(0), int64(0)
	for _, p := range b.queue {
		s, c := b.cost(p)
		if n > 0 && (p.work != nil || b.queue[0].work != nil || size+s > b.maxBytes || count+c > b.maxRows) {
			break
		}
		n, size, count = n+1, size+s, count+c
	}
	group := b.queue[:n:n]
	b.queue = append([]*pending(nil), b.queue[n:]...)
	ts, err := b.done, b.failed
	b.mu.Unlock()

	if err == nil {
		if work := group[0].work; work != nil {
			ts, err = work(ts)
		} else if size > b.maxBytes || count > b.maxRows {
			ts, err = b.commitStaged(ts, group[0])
		} else if count > 0 {
			ts++
			err = b.commit(ts, group)
		}
	}
	if err != nil && !errors.Is(err, ErrBroken) {
		// What Badger has written of it is unknown, and later groups were made on top of it: nothing is written any more.
		err = fmt.Errorf("%w: %w", ErrBroken, err)
	}

	b.mu.Lock()
	if err != nil {
		// Those still queued may stand on this group: they will fail in their turn, for failed is set.
		if b.failed == nil {
			close(b.broken)
		}
		b.failed = err
	} else {
		b.done = ts
		oldest := ts
		for s := range b.snaps {
			oldest = min(oldest, s)
		}
		b.db.SetDiscardTs(oldest)
	}
	for _, p := range group {
		for r := range p.rows {
			// A later Update may have replaced the row by its own, which must stay.
			if top, ok := b.inflight.Get(r); ok && top == r {
				b.inflight.Delete(r)
			}
		}
	}
	if len(b.queue) > 0 {
		b.queue[0].done <- outcome{lead: true}
	} else {
		b.busy = false
	}
	b.mu.Unlock()
	for _, p := range group {
		p.done <- outcome{err: err}
	}
}

// cost estimates what p takes of a Badger transaction's limits, as Badger counts (Entry.estimateSize, Txn.checkSize).
func (b *Badger) cost(p *pending) (size, count int64) {
	for r := range p.rows {
		size += b.rowCost(r)
		count++
		if b.vault.secret(r.key) {
			size += int64(len(r.key)) + wrappedSize + 2*chacha20poly1305.Overhead + 21
			count++
		}
	}
	return size, count
}

func (b *Badger) rowCost(r *row) int64 {
	const entry = 2 + 10 + 8 + 1 // flags, version, timestamp, our prefix
	if n := int64(len(r.value)); n < b.threshold {
		return int64(len(r.key)) + n + entry
	}
	return int64(len(r.key)) + 12 + entry // a pointer into the value log
}

// commit writes a group as one Badger transaction with timestamp ts.
func (b *Badger) commit(ts uint64, group []*pending) error {
	txn := b.db.NewTransactionAt(ts-1, true)
	defer txn.Discard()
	for _, p := range group { // in order: of two rows with one key the later stays
		for r := range p.rows {
			for _, e := range b.entries(r) {
				if err := putEntry(txn, e); err != nil {
					return err
				}
			}
		}
	}
	return b.finish(txn, ts)
}

// entries is what Badger gets of a row: rows of its own key space.
func (b *Badger) entries(r *row) []*row {
	switch {
	case !b.vault.secret(r.key):
		return []*row{{userKey(r.key), r.value, r.dead}}
	case r.dead:
		return []*row{{key: userKey(r.key), dead: true}, {key: nameKey(r.key), dead: true}}
	}
	wrapped, sealed := b.vault.seal(r.key, r.value)
	return []*row{{key: userKey(r.key), value: sealed}, {key: nameKey(r.key), value: wrapped}}
}

func putEntry(txn *badger.Txn, e *row) error {
	if e.dead {
		return txn.Delete(e.key)
	}
	return txn.Set(e.key, e.value)
}

// finish commits and checks for the sync error that Badger only logs.
func (b *Badger) finish(txn *badger.Txn, ts uint64) error {
	if err := txn.CommitAt(ts, nil); err != nil {
		return err
	}
	if b.log.syncFailed.Load() {
		return errors.New("syncing the value log failed")
	}
	return nil
}

// An Update that is too large for one Badger transaction goes through the stage: (1) all its rows, packed, as chunks
// in rows of the stage, in one transaction: the chunks are big values, of which a transaction takes many. After a
// crash before this is durable the Update never was. (2) The rows themselves in several transactions, the last of
// which also deletes the stage. After a crash in between, OpenBadger finds the stage and does (2) again from the
// start. Views read the timestamp before (1) until all is done.

const stageChunk = 1 << 20 // bytes of a chunk: far above any ValueThreshold, so that a chunk costs a transaction only a pointer

func stageKey(i uint32) []byte { return binary.BigEndian.AppendUint32([]byte{spaceStage}, i) }

// commitStaged returns the timestamp of its last transaction.
func (b *Badger) commitStaged(ts uint64, p *pending) (uint64, error) {
	var packed []byte
	list := make([]*row, 0, len(p.rows))
	for r := range p.rows {
		for _, e := range b.entries(r) {
			list = append(list, e)
			packed = packRow(packed, e)
		}
	}
	ts++
	txn := b.db.NewTransactionAt(ts-1, true)
	defer txn.Discard()
	for i := uint32(0); len(packed) > 0; i++ {
		n := min(len(packed), stageChunk)
		if err := txn.Set(stageKey(i), packed[:n]); err != nil {
			return 0, err
		}
		packed = packed[n:]
	}
	if err := b.finish(txn, ts); err != nil {
		return 0, err
	}
	return b.applyStage(ts, list)
}

// applyStage writes the rows and deletes the stage.
func (b *Badger) applyStage(ts uint64, list []*row) (uint64, error) {
	for {
		ts++
		txn := b.db.NewTransactionAt(ts-1, true)
		size, count := int64(0), int64(0)
		for len(list) > 0 && size < b.maxBytes-b.threshold-MaxKey && count < b.maxRows-MaxUpdate/stageChunk-2 {
			if err := putEntry(txn, list[0]); err != nil {
				txn.Discard()
				return 0, err
			}
			size, count = size+b.rowCost(list[0]), count+1
			list = list[1:]
		}
		if len(list) == 0 {
			for i := range uint32(MaxUpdate/stageChunk + 1) {
				if err := txn.Delete(stageKey(i)); err != nil {
					txn.Discard()
					return 0, err
				}
			}
		}
		if err := b.finish(txn, ts); err != nil {
			return 0, err
		}
		if len(list) == 0 {
			return ts, nil
		}
	}
}

// unstage finishes, when the database is opened, an Update that a crash interrupted in step (2).
func (b *Badger) unstage() error {
	txn := b.db.NewTransactionAt(b.done, false)
	defer txn.Discard()
	var packed []byte
	for i := uint32(0); ; i++ {
		item, err := txn.Get(stageKey(i))
		if errors.Is(err, badger.ErrKeyNotFound) {
			break
		}
		if err == nil {
			err = item.Value(func(v []byte) error { packed = append(packed, v...); return nil })
		}
		if err != nil {
			return err
		}
	}
	if len(packed) == 0 {
		return nil
	}
	list, err := unpackRows(packed)
	if err != nil {
		return err
	}
	if b.done, err = b.applyStage(b.done, list); err != nil {
		return err
	}
	b.db.SetDiscardTs(b.done)
	return nil
}

// packRow appends a row: dead (1 byte), key length and value length (uvarints), key, value.
func packRow(dst []byte, r *row) []byte {
	flag := byte(0)
	if r.dead {
		flag = 1
	}
	dst = append(dst, flag)
	dst = binary.AppendUvarint(dst, uint64(len(r.key)))
	dst = binary.AppendUvarint(dst, uint64(len(r.value)))
	return append(append(dst, r.key...), r.value...)
}

var errPacked = errors.New("store: packed rows are damaged")

// unpackRows reads what packRow wrote; the rows point into src.
func unpackRows(src []byte) ([]*row, error) {
	var list []*row
	for len(src) > 0 {
		dead := src[0]
		src = src[1:]
		k, n := binary.Uvarint(src)
		if n <= 0 || dead > 1 {
			return nil, errPacked
		}
		src = src[n:]
		v, n := binary.Uvarint(src)
		if n <= 0 || k == 0 || k > MaxKey+1 || v > MaxValue+chacha20poly1305.Overhead || uint64(len(src)-n) < k+v {
			return nil, errPacked
		}
		src = src[n:]
		list = append(list, &row{key: src[:k:k], value: src[k : k+v : k+v], dead: dead == 1})
		src = src[k+v:]
	}
	return list, nil
}

// room says whether size more bytes of rows fit the disk; ErrDiskFull if not. Rows may be written twice (the stage, or value and table).
func (b *Badger) room(size int) error { return b.roomFor(b.opt.Reserve, size) }

func (b *Badger) roomFor(reserve int64, size int) error {
	free, err := b.opt.free(b.dir)
	if err != nil {
		return fmt.Errorf("store: asking for free space: %w", err)
	}
	if need := reserve + 3*int64(size); free < need {
		return fmt.Errorf("%w: %d MiB free in %s, %d MiB needed", ErrDiskFull, free>>20, b.dir, (need+1<<20-1)>>20)
	}
	return nil
}

// freeBytes is what an unprivileged user may still write to dir's file system.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}
