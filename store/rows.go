// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"fmt"

	"github.com/google/btree"
)

// row is one key with its value, or with the news that it is gone. Once its transaction has ended it never changes.
type row struct {
	key, value []byte
	dead       bool // deleted: hides the row below it
}

// rows is an ordered set of rows. Clone is O(1) (copy on write).
type rows = btree.BTreeG[*row]

// rowsDegree: nodes of 31..63 pointers; small enough that copying the path for a write after a Clone is cheap.
const rowsDegree = 32

func newRows() *rows {
	return btree.NewG(rowsDegree, func(a, b *row) bool { return bytes.Compare(a.key, b.key) < 0 })
}

// ascend calls fn for the rows with the prefix from the first key >= from on, the dead too.
func ascend(t *rows, prefix, from []byte, fn func(*row) bool) {
	start, ok := scanStart(prefix, from)
	if !ok {
		return
	}
	t.AscendGreaterOrEqual(&row{key: start}, func(r *row) bool { return bytes.HasPrefix(r.key, prefix) && fn(r) })
}

// descend is ascend downwards, from the last key <= from on.
func descend(t *rows, prefix, from []byte, fn func(*row) bool) {
	start, inclusive, ok := scanBackStart(prefix, from)
	if !ok {
		return
	}
	visit := func(r *row) bool {
		if !inclusive && start != nil && bytes.Equal(r.key, start) {
			return true // the key just behind the prefix's range
		}
		return bytes.HasPrefix(r.key, prefix) && fn(r)
	}
	if start == nil {
		t.Descend(visit)
		return
	}
	t.DescendLessOrEqual(&row{key: start}, visit)
}

// changes are the writes of one running Update.
type changes struct {
	mine map[*row]struct{}
	size int // bytes, by MaxUpdate's measure
}

// put writes a row into tree t on top of what is there. Rows are replaced, not changed: a Scan may be at them.
func (c *changes) put(t *rows, key, value []byte, dead bool) error {
	if err := checkRow(key, value); err != nil {
		return err
	}
	cost := len(key) + len(value) + rowCost
	r := &row{key: bytes.Clone(key), value: bytes.Clone(value), dead: dead}
	old, _ := t.Get(r)
	_, again := c.mine[old]
	if again {
		cost -= len(old.key) + len(old.value) + rowCost
	}
	if c.size+cost > MaxUpdate {
		return fmt.Errorf("%w: more than %d bytes in one transaction", ErrTooLarge, MaxUpdate)
	}
	if c.mine == nil {
		c.mine = map[*row]struct{}{}
	}
	if again {
		delete(c.mine, old)
	}
	c.mine[r] = struct{}{}
	c.size += cost
	t.ReplaceOrInsert(r)
	return nil
}
