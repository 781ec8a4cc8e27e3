// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// benchWriters spreads b.N calls of put over n goroutines.
func benchWriters(b *testing.B, n int, put func(i int64) error) {
	var next atomic.Int64
	b.ResetTimer()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := put(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
}

func shapes() map[string]struct {
	shape Shape
	size  int
} {
	return map[string]struct {
		shape Shape
		size  int
	}{"Rows1KiB": {Rows, 1 << 10}, "Blocks8KiB": {Blocks, 8 << 10}}
}

// BenchmarkUpdate: one synced row an update.
func BenchmarkUpdate(b *testing.B) {
	for name, s := range shapes() {
		value := make([]byte, s.size)
		rand.Read(value)
		for _, writers := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/writers=%d", name, writers), func(b *testing.B) {
				kv := openTest(b, b.TempDir(), Options{Shape: s.shape})
				benchWriters(b, writers, func(i int64) error {
					return kv.Update(func(x Txn) error { return x.Set(Key(9, uint64(i)), value) })
				})
			})
			// The raw limit: Badger with the same options, its own transactions and syncs.
			b.Run(fmt.Sprintf("bare/%s/writers=%d", name, writers), func(b *testing.B) {
				db, err := badger.Open(Options{Shape: s.shape}.engine(b.TempDir(), &logger{}))
				if err != nil {
					b.Fatal(err)
				}
				defer db.Close()
				benchWriters(b, writers, func(i int64) error {
					return db.Update(func(x *badger.Txn) error { return x.Set(Key(9, uint64(i)), value) })
				})
			})
		}
	}
}

// BenchmarkBatch: 256 boxes an update, as the mailbox groups deposits.
func BenchmarkBatch(b *testing.B) {
	kv := openTest(b, b.TempDir(), Options{Shape: Blocks})
	value := make([]byte, 8300)
	rand.Read(value)
	n := uint64(0)
	for b.Loop() {
		if err := kv.Update(func(x Txn) error {
			for range 256 {
				n++
				if err := x.Set(Key(9, n), value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "boxes/s")
}

func BenchmarkGet(b *testing.B) {
	for name, s := range shapes() {
		b.Run(name, func(b *testing.B) {
			kv := openTest(b, b.TempDir(), Options{Shape: s.shape})
			const rows = 20_000
			fill(b, kv, rows, s.size)
			i := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				i = (i*7 + 13) % rows
				if err := kv.View(func(r Reader) error { _, err := r.Get(Key(9, i)); return err }); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/absent", func(b *testing.B) {
			kv := openTest(b, b.TempDir(), Options{Shape: s.shape})
			fill(b, kv, 20_000, s.size)
			i := uint64(0)
			for b.Loop() {
				i++
				kv.View(func(r Reader) error { _, err := r.Get(Key(8, i)); return err })
			}
		})
	}
}

func BenchmarkScan(b *testing.B) {
	kv := openTest(b, b.TempDir(), Options{})
	fill(b, kv, 20_000, 300)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := kv.View(func(r Reader) error {
			return r.Scan(Key(9), Key(9, uint64(5000)), func(_, _ []byte) (bool, error) { n++; return n < 100, nil })
		}); err != nil || n != 100 {
			b.Fatal(n, err)
		}
	}
}

func fill(tb testing.TB, kv KV, rows, size int) {
	tb.Helper()
	value := make([]byte, size)
	rand.Read(value)
	for i := 0; i < rows; i += 500 {
		if err := kv.Update(func(x Txn) error {
			for j := range 500 {
				if err := x.Set(Key(9, uint64(i+j)), value); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkMemoryUpdate(b *testing.B) {
	kv := OpenMemory()
	i := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		i++
		if err := kv.Update(func(x Txn) error { return x.Set(Key(9, i), []byte("value")) }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStreamWrite(b *testing.B) {
	s := openStream(b, OpenMemory())
	for b.Loop() {
		writeTopic(b, s, "alice")
	}
}
