// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"tarn/internal/durable"
)

// Badger is a KV on disk. It runs Badger in "managed" mode: we give the timestamps, so that a View reads the newest
// durable state without waiting for a sync that is under way, and one Badger commit can carry many Updates.
type Badger struct {
	db   *badger.DB
	dir  string
	opt  Options
	log  *logger
	lock func() error // unlocks the directory
	gate gate

	vault      *vault     // seals what must be forgotten (forget.go); nil: nothing
	forgetting sync.Mutex // held while Forget works

	// limits of one Badger transaction (bytes and entries), and the size from which values go to the value log.
	maxBytes, maxRows, threshold int64

	// writer is held while the function of an Update runs, and while its writes are queued: the queue has the
	// order in which the functions ran.
	writer sync.Mutex

	mu       sync.Mutex     // guards what follows, for moments: never while the disk works
	done     uint64         // timestamp of the newest durable commit: what a View reads
	snaps    map[uint64]int // running transactions by the timestamp they read
	inflight *rows          // rows of Updates that are queued or being committed; later Updates must see them
	queue    []*pending
	busy     bool  // some Update is committing the queue's head
	failed   error // sticky: a commit failed in the middle

	broken chan struct{} // closed when failed is set
}

var _ KV = (*Badger)(nil)

// OpenBadger opens or makes the database in dir (made with mode 0700). A directory that another process has open
// is durable.ErrLocked. It starts Badger's own goroutines; Close ends them.
func OpenBadger(dir string, opt Options) (*Badger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	unlock, err := durable.Lock(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	if opt.Reserve == 0 {
		opt.Reserve = defaultReserve
	}
	opt.Reserve = max(opt.Reserve, minReserve)
	if opt.Opening > 0 {
		opt.Opening = max(opt.Opening, minReserve)
	}
	if opt.free == nil {
		opt.free = freeBytes
	}
	b := &Badger{dir: dir, opt: opt, log: &logger{log: opt.Log}, lock: unlock, snaps: map[uint64]int{}, inflight: newRows(), broken: make(chan struct{})}
	// Replaying its logs, Badger writes tables: on a full disk that would be the SIGBUS.
	if err := b.roomFor(cmp.Or(opt.Opening, opt.Reserve), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database in %s: %w", dir, err), unlock())
	}
	if err := removeUnborn(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database in %s: %w", dir, err), unlock())
	}
	eng := opt.engine(dir, b.log)
	if b.db, err = badger.OpenManaged(eng); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database in %s: %w", dir, err), unlock())
	}
	// A tenth is left for what Badger adds to each row.
	b.maxBytes, b.maxRows, b.threshold = b.db.MaxBatchSize()*9/10, b.db.MaxBatchCount()*9/10, eng.ValueThreshold
	if opt.Shape == Rows {
		if b.vault, err = openVault(filepath.Join(dir, "forget")); err != nil {
			return nil, errors.Join(fmt.Errorf("opening the database in %s: %w", dir, err), b.db.Close(), unlock())
		}
	}
	b.done = b.db.MaxVersion()
	b.db.SetDiscardTs(b.done)
	if err := b.unstage(); err != nil {
		return nil, errors.Join(fmt.Errorf("finishing an interrupted transaction in %s: %w", dir, err), b.db.Close(), unlock())
	}
	return b, nil
}

// removeUnborn removes Badger's log files of no length. Badger makes a log and then gives it its size; a process killed
// between the two leaves an empty file, which held nothing yet, and on which Badger's next opening fails ("Create a new
// file": openMemTables takes z.NewFile for an error, v4.9.6).
func removeUnborn(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".mem") && !strings.HasSuffix(e.Name(), ".vlog") {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		if fi.Size() == 0 {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close waits for running transactions, forgets what was deleted, and flushes; the directory is free afterwards.
func (b *Badger) Close() error {
	if err := b.Forget(); err != nil && !errors.Is(err, ErrClosed) {
		b.log.Warningf("what was deleted in the last hour is forgotten at the next start: %v", err)
	}
	if err := b.gate.close(); err != nil {
		return err
	}
	return errors.Join(b.db.Close(), b.lock())
}

// Size is the number of bytes on disk: tables, and value log. It is brought up to date about once a minute.
func (b *Badger) Size() (tables, valueLog int64) { return b.db.Size() }

// View reads the newest durable commit.
func (b *Badger) View(fn func(Reader) error) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	ts, _ := b.begin(false)
	defer b.end(ts)
	txn := b.db.NewTransactionAt(ts, false)
	defer txn.Discard()
	return fn(&badgerReader{base: txn, vault: b.vault, inline: b.inline()})
}

// inline is a size from below which values lie beside their keys for sure: Badger tells the size of one in the value log to
// some bytes only.
func (b *Badger) inline() int64 { return b.threshold / 2 }

// begin pins the durable state that a transaction reads; over is a private copy of what lies on top of it.
func (b *Badger) begin(write bool) (ts uint64, over *rows) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.snaps[b.done]++
	if write {
		over = b.inflight.Clone()
	}
	return b.done, over
}

// end lets go of begin's pin: compaction may drop what nobody reads.
func (b *Badger) end(ts uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.snaps[ts]--; b.snaps[ts] == 0 {
		delete(b.snaps, ts)
	}
}

// Update runs fn on top of all Updates before it, durable or not, and returns when its writes, and all before it,
// are durable. If fn errs, or writes nothing, it still waits for the writes it may have read: an answer
// made from them ("that box exists") must not be forgotten either.
func (b *Badger) Update(fn func(Txn) error) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	p, fnErr, err := b.run(fn)
	if err != nil {
		return err
	}
	if p != nil {
		if err := b.await(p); err != nil {
			return err
		}
	}
	return fnErr
}

// run runs fn under the writer lock and queues what it wrote; p is nil if there is nothing to wait for.
func (b *Badger) run(fn func(Txn) error) (p *pending, fnErr, err error) {
	b.writer.Lock()
	defer b.writer.Unlock() // also if fn panics
	b.mu.Lock()
	err = b.failed
	b.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	ts, over := b.begin(true)
	defer b.end(ts)
	txn := b.db.NewTransactionAt(ts, false)
	defer txn.Discard()
	dirty := over.Len() > 0
	x := &badgerTxn{badgerReader: badgerReader{base: txn, vault: b.vault, over: over, inline: b.inline()}}
	if fnErr = fn(x); fnErr != nil {
		x.changes = changes{}
	}
	if len(x.mine) == 0 && !dirty {
		return nil, fnErr, nil
	}
	// A full disk is found before the rows become visible to anybody, so that one refusal harms no other Update.
	if len(x.mine) > 0 {
		if err := b.room(x.size); err != nil {
			return nil, nil, err
		}
	}
	return b.enqueue(x.changes), fnErr, nil
}
