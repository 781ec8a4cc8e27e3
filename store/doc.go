// SPDX-License-Identifier: Apache-2.0

// Package store keeps rows: an ordered key-value store with atomic, durable transactions, and what every part of a
// node needs on top of it (a key encoding, the stream of changes, the outbox, the schema version, backups).
//
// Problem: a node that answers 200 must not forget what it answered, even if it is killed in the same
// microsecond; two writers must not overwrite each other; and the tests of everything above must run in fake time
// without a disk. Badger, the engine, loses none of this but has traps: its conflict check does not see rows that
// appear in a scanned range, it syncs once per transaction however many wait, it drops the error of a value-log
// sync, and it dies of SIGBUS on a full disk. This package is the one place that imports Badger and deals with them.
//
// Invariants:
//   - Updates are serialisable: their functions run one after another. Their syncs are shared.
//   - When Update returns nil its writes, and all that it read, are on the disk. Else nothing of it is visible.
//   - A View never waits for a writer or for the disk's sync; it sees durable rows only.
//   - OpenBadger and OpenMemory behave alike: store/storetest is run on both.
//
// Data: one directory for each database, held by a lock file (LOCK); inside, Badger's files. User rows have the
// prefix "r" in Badger, an Update too large for one Badger transaction passes through rows with the prefix "s" (commit.go).
// The values of the tables of contacts are sealed; the keys to them are in rows with the prefix "k" and in forget/N.key, and
// are made anew every hour, so that nobody reads what was deleted there before (forget.go).
//
// Limits: an Update's rows are held in memory until it is committed (MaxUpdate). Values deleted from other tables, and all
// row keys, stay on the disk until compaction and Maintain.
package store
