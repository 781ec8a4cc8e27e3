// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Shape says what rows a database mostly holds; it chooses Badger's sizes.
type Shape int

const (
	// Rows is for many small rows (a node: events, state, counters, about 1 kB and less). They live in the
	// LSM tree, so that deleting really frees them by compaction; only values over 16 KiB go to the value log.
	Rows Shape = iota
	// Blocks is for big opaque values (boxes of 8 KiB): values from 1 KiB on lie in value-log files of 16 MiB,
	// the tree has little more than keys, and memory stays small however much is stored.
	Blocks
)

// Options of OpenBadger. The zero value is right for a node.
type Options struct {
	Shape Shape
	// Reserve: bytes of the file system that must stay free; an Update beyond it is ErrDiskFull. 0 means 64 MiB.
	// It must hold Badger's sparse, memory-mapped files: a page of them that finds no space kills the process (SIGBUS).
	Reserve int64
	// Opening: bytes that must be free to open a database that is there; 0: Reserve. Less than Reserve, and at least what
	// Badger's files take that it makes then (16 MiB), lets one be opened on a disk that is full for Updates, so that what it has
	// can be read, and dropped.
	Opening int64
	// Log gets Badger's warnings; nil: none. Badger names its files, never a key.
	Log *slog.Logger

	free func(dir string) (int64, error) // a test's disk; nil: the real one
}

const (
	defaultReserve = 64 << 20
	minReserve     = 16 << 20 // the sparse files of the Blocks shape: two logs, a memtable's log, a table
)

// engine is Badger's options for the shape. In short:
// the defaults take 4 GB of memory for large values, or never collect the value log; small memtables and few
// level-0 tables make compactions frequent, which is what finds deleted values.
func (o Options) engine(dir string, log *logger) badger.Options {
	b := badger.DefaultOptions(dir).
		WithLogger(log).
		WithSyncWrites(true).
		WithBypassLockGuard(true).  // durable.Lock holds the directory, with a clear error
		WithDetectConflicts(false). // Updates run one after another
		WithMetricsEnabled(false).
		WithNumVersionsToKeep(1).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithNumCompactors(2).
		WithNumMemtables(2).
		WithCompactL0OnClose(true).
		WithValueLogFileSize(16 << 20)
	switch o.Shape {
	case Blocks:
		return b.WithValueThreshold(1 << 10).WithMemTableSize(1 << 20).WithBaseTableSize(1 << 20).
			WithBaseLevelSize(1 << 20).WithNumLevelZeroTables(1).WithNumLevelZeroTablesStall(8)
	default:
		return b.WithValueThreshold(16 << 10).WithMemTableSize(2 << 20).WithBaseTableSize(2 << 20).
			WithBaseLevelSize(8 << 20).WithNumLevelZeroTables(2).WithNumLevelZeroTablesStall(8)
	}
}

// logger passes Badger's messages on, and watches for the one failure that Badger logs but does not return: a
// failed sync of the value log (value.go, valueLog.write), after which an acknowledgement would be a lie.
type logger struct {
	log        *slog.Logger
	syncFailed atomic.Bool
}

func (l *logger) Errorf(f string, a ...any) {
	if strings.Contains(f, "curlf sync") {
		l.syncFailed.Store(true)
	}
	l.say(slog.LevelWarn, f, a)
}
func (l *logger) Warningf(f string, a ...any) { l.say(slog.LevelWarn, f, a) }
func (l *logger) Infof(f string, a ...any)    { l.say(slog.LevelDebug, f, a) }
func (l *logger) Debugf(string, ...any)       {}

func (l *logger) say(level slog.Level, f string, a []any) {
	if l.log != nil {
		l.log.Log(context.Background(), level, "badger: "+strings.TrimSpace(fmt.Sprintf(f, a...)))
	}
}
