// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// First byte of every key in Badger. It keeps user rows apart from ours and from Badger's own ("!badger!...").
const (
	spaceUser  = 'r'
	spaceStage = 's'
	spaceName  = 'k' // of a sealed user row: its wrapped key (forget.go)
)

func userKey(key []byte) []byte {
	return append(append(make([]byte, 0, len(key)+1), spaceUser), key...)
}

func nameKey(key []byte) []byte {
	return append(append(make([]byte, 0, len(key)+1), spaceName), key...)
}

// badgerReader reads Badger's rows, with the rows of over (may be nil) on top.
type badgerReader struct {
	base  *badger.Txn // read-only
	vault *vault      // nil: nothing is sealed
	over  *rows

	inline int64 // values that are smaller are not in the value log
}

func (x *badgerReader) Get(key []byte) ([]byte, error) {
	if x.over != nil && x.over.Len() > 0 {
		if r, ok := x.over.Get(&row{key: key}); ok {
			if r.dead {
				return nil, ErrNotFound
			}
			return append([]byte{}, r.value...), nil
		}
	}
	if len(key) == 0 || len(key) > MaxKey {
		return nil, ErrNotFound // no such row can have been set
	}
	item, err := x.base.Get(userKey(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("store: reading: %w", err)
	}
	// What lies in the value log is mapped memory; other values Badger has copied for this item alone.
	var v []byte
	if item.ValueSize() < x.inline {
		err = item.Value(func(own []byte) error { v = own; return nil })
	} else {
		v, err = item.ValueCopy(nil)
	}
	if err != nil {
		return nil, fmt.Errorf("store: reading a value: %w", err)
	}
	if x.vault.secret(key) {
		return x.vault.open(x.base, key, v)
	}
	return v, nil
}

func (x *badgerReader) Scan(prefix, from []byte, fn func(k, v []byte) (bool, error)) error {
	start, ok := scanStart(prefix, from)
	if !ok {
		return nil
	}
	return x.merge(prefix, from, cursor{prefix: prefix, start: start, inclusive: true}, fn)
}

func (x *badgerReader) ScanBack(prefix, from []byte, fn func(k, v []byte) (bool, error)) error {
	start, inclusive, ok := scanBackStart(prefix, from)
	if !ok {
		return nil
	}
	return x.merge(prefix, from, cursor{prefix: prefix, start: start, inclusive: inclusive, back: true}, fn)
}

// merge walks over Badger's rows and over's in the order of their keys; of two with one key, over's counts.
func (x *badgerReader) merge(prefix, from []byte, c cursor, fn func(k, v []byte) (bool, error)) error {
	c.txn, c.vault = x.base, x.vault
	c.open(x.base)
	defer c.it.Close()
	var err error
	stopped := false
	if x.over != nil && x.over.Len() > 0 {
		walk := ascend
		if c.back {
			walk = descend
		}
		walk(x.over.Clone(), prefix, from, func(r *row) bool { // a clone: fn may write
			for c.valid() {
				order := bytes.Compare(c.key(), r.key)
				if c.back {
					order = -order
				}
				if order > 0 {
					break
				}
				if order == 0 {
					c.next()
					break
				}
				var more bool
				if more, err = c.visit(fn); !more || err != nil {
					stopped = true
					return false
				}
				c.next()
			}
			if r.dead {
				return true
			}
			var more bool
			more, err = fn(r.key, r.value)
			stopped = !more || err != nil
			return !stopped
		})
	}
	for !stopped && c.valid() {
		var more bool
		more, err = c.visit(fn)
		stopped = !more || err != nil
		c.next()
	}
	return err
}

// cursor walks over Badger's rows with a prefix.
type cursor struct {
	prefix, start   []byte // start nil, back: from the end
	inclusive, back bool

	txn     *badger.Txn
	vault   *vault
	it      *badger.Iterator
	bprefix []byte
}

func (c *cursor) open(txn *badger.Txn) {
	o := badger.DefaultIteratorOptions
	o.PrefetchValues = false // it starts a goroutine a row
	o.Reverse = c.back
	c.bprefix = userKey(c.prefix)
	if !c.back {
		o.Prefix = c.bprefix // picks tables
	}
	c.it = txn.NewIterator(o)
	if c.start == nil && c.back {
		c.it.Seek([]byte{spaceUser + 1})
	} else {
		c.it.Seek(userKey(c.start))
	}
	// Backwards, what is sought may be the key just behind the range.
	for c.back && !c.inclusive && c.it.Valid() && !bytes.HasPrefix(c.it.Item().Key(), c.bprefix) && bytes.Compare(c.it.Item().Key(), c.bprefix) > 0 {
		c.it.Next()
	}
}

func (c *cursor) valid() bool { return c.it.ValidForPrefix(c.bprefix) }
func (c *cursor) key() []byte { return c.it.Item().Key()[1:] }
func (c *cursor) next()       { c.it.Next() }

func (c *cursor) visit(fn func(k, v []byte) (bool, error)) (more bool, err error) {
	item := c.it.Item()
	if e := item.Value(func(v []byte) error {
		k := item.Key()[1:]
		if c.vault.secret(k) {
			var e error
			if v, e = c.vault.open(c.txn, k, v); e != nil {
				return e
			}
		}
		more, err = fn(k, v)
		return nil
	}); e != nil {
		return false, fmt.Errorf("store: reading a value: %w", e)
	}
	return more, err
}

// badgerTxn is a running Update.
type badgerTxn struct {
	badgerReader
	changes
}

func (x *badgerTxn) Set(key, value []byte) error { return x.put(x.over, key, value, false) }
func (x *badgerTxn) Delete(key []byte) error     { return x.put(x.over, key, nil, true) }
