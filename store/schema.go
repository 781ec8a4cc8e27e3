// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The key schema of a node: one prefix byte a table. Each table has one owner, who documents its rows beside the
// code that writes them. A change of any row's form raises Version and needs a migration.
const (
	TableMeta    = 0x01 // store: stream lease, schema version, owner
	TableOutbox  = 0x02 // store: items for other nodes
	TableRoom    = 0x10 // room: 0x10..0x2f
	TableAccount = 0x30 // account: 0x30..0x4f
	TableContact = 0x50 // replicate: 0x50..0x6f
	TableMedia   = 0x70 // media: 0x70..0x7f
	TableRelay   = 0x80 // replicate, more of it: 0x80..0x8f
)

// Version is the newest schema version that this program writes.
const Version = 1

// ErrNewer: the database was written by a newer version of the program, which this one could only damage.
var ErrNewer = errors.New("store: the data was written by a newer version of this program; install that version again, or restore a backup")

// metaVersion is the row that holds the schema version (8 bytes, big-endian).
const metaVersion = 2

// ErrOwner: the database was made under another name: its folder, or the key files beside it, were mixed up.
var ErrOwner = errors.New("store: the data belong to another identity than the keys beside them")

// metaOwner is the row that holds whose data these are (Own).
const metaOwner = 3

// Own says under which name the rows are written, durably at the first time; under any other it is ErrOwner.
func Own(kv KV, name string) error {
	return kv.Update(func(txn Txn) error {
		key := Key(TableMeta, byte(metaOwner))
		switch v, err := txn.Get(key); {
		case errors.Is(err, ErrNotFound):
			return txn.Set(key, []byte(name))
		case err != nil:
			return err
		case string(v) != name:
			return ErrOwner
		}
		return nil
	})
}

// Migration brings the rows from schema version From to From+1, in one transaction (so at most MaxUpdate bytes of writes).
type Migration struct {
	From uint64
	Run  func(Txn) error
}

// migrations of a node's database, one for every version below Version.
var migrations []Migration

// OpenNode opens the database of a node: OpenBadger, then Upgrade to Version.
func OpenNode(dir string, opt Options) (*Badger, error) {
	b, err := OpenBadger(dir, opt)
	if err != nil {
		return nil, err
	}
	if err := Upgrade(b, Version, migrations); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Upgrade brings kv to schema version to: an empty store just gets the version, an older one is migrated step by step,
// each step in one transaction with its new version (a crash between two steps leaves a whole older version), and
// a newer one is ErrNewer and stays untouched.
func Upgrade(kv KV, to uint64, steps []Migration) error {
	for {
		done := false
		err := kv.Update(func(txn Txn) error {
			key := Key(TableMeta, byte(metaVersion))
			v, err := txn.Get(key)
			var have uint64
			switch {
			case errors.Is(err, ErrNotFound):
				empty := true
				if err := txn.Scan(nil, nil, func(_, _ []byte) (bool, error) { empty = false; return false, nil }); err != nil {
					return err
				}
				if !empty {
					return errors.New("store: the database has rows but no schema version: it is not one of ours, or damaged")
				}
				done = true
				return txn.Set(key, AppendUint64(nil, to))
			case err != nil:
				return err
			case len(v) != 8:
				return errors.New("store: the schema version is damaged")
			}
			if have = binary.BigEndian.Uint64(v); have > to {
				return fmt.Errorf("%w (version %d, this program knows %d)", ErrNewer, have, to)
			}
			if have == to {
				done = true
				return nil
			}
			for _, m := range steps {
				if m.From == have {
					if err := m.Run(txn); err != nil {
						return fmt.Errorf("migrating the data from version %d: %w", have, err)
					}
					return txn.Set(key, AppendUint64(nil, have+1))
				}
			}
			return fmt.Errorf("store: there is no way from version %d of the data to %d", have, to)
		})
		if err != nil || done {
			return err
		}
	}
}
