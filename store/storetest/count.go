// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"sync"

	"tarn/store"
)

// Counter is a KV that counts what is asked of the one under it: a machine's speed changes from day to day, the number of
// rows that a request reads does not.
type Counter struct {
	store.KV

	mu sync.Mutex // guards n, for nanoseconds
	n  Work
}

// Work is what was asked of a KV.
type Work struct {
	Gets, Scans, Rows int // rows looked up; scans begun; rows that they gave
	Sets, Deletes     int // rows written
	Read, Written     int // bytes of keys and values
	Updates           int
}

// Reads is everything that was read, in rows: a scan that finds nothing costs one as well.
func (w Work) Reads() int { return w.Gets + w.Scans + w.Rows }

// Writes is everything that was written, in rows.
func (w Work) Writes() int { return w.Sets + w.Deletes }

// Count puts a counter before kv.
func Count(kv store.KV) *Counter { return &Counter{KV: kv} }

// Take gives what was asked since the last Take.
func (c *Counter) Take() Work {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = Work{}
	return n
}

func (c *Counter) add(change func(*Work)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.n)
}

// View implements store.KV.
func (c *Counter) View(fn func(store.Reader) error) error {
	return c.KV.View(func(r store.Reader) error { return fn(&countedReader{r, c}) })
}

// Update implements store.KV.
func (c *Counter) Update(fn func(store.Txn) error) error {
	c.add(func(w *Work) { w.Updates++ })
	return c.KV.Update(func(x store.Txn) error { return fn(&countedTxn{countedReader{x, c}, x}) })
}

type countedReader struct {
	r store.Reader
	c *Counter
}

// Get implements store.Reader.
func (x *countedReader) Get(k []byte) ([]byte, error) {
	v, err := x.r.Get(k)
	x.c.add(func(w *Work) { w.Gets++; w.Read += len(k) + len(v) })
	return v, err
}

func (x *countedReader) visit(fn func(k, v []byte) (bool, error)) func(k, v []byte) (bool, error) {
	x.c.add(func(w *Work) { w.Scans++ })
	return func(k, v []byte) (bool, error) {
		x.c.add(func(w *Work) { w.Rows++; w.Read += len(k) + len(v) })
		return fn(k, v)
	}
}

// Scan implements store.Reader.
func (x *countedReader) Scan(prefix, from []byte, fn func(k, v []byte) (bool, error)) error {
	return x.r.Scan(prefix, from, x.visit(fn))
}

// ScanBack implements store.Reader.
func (x *countedReader) ScanBack(prefix, from []byte, fn func(k, v []byte) (bool, error)) error {
	return x.r.ScanBack(prefix, from, x.visit(fn))
}

type countedTxn struct {
	countedReader
	x store.Txn
}

// Set implements store.Txn.
func (x *countedTxn) Set(k, v []byte) error {
	x.c.add(func(w *Work) { w.Sets++; w.Written += len(k) + len(v) })
	return x.x.Set(k, v)
}

// Delete implements store.Txn.
func (x *countedTxn) Delete(k []byte) error {
	x.c.add(func(w *Work) { w.Deletes++; w.Written += len(k) })
	return x.x.Delete(k)
}
