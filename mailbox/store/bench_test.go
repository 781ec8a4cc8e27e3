// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/rand"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarn/crypto/sealed"
	"tarn/mailbox"
	kv "tarn/store"
)

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// measure runs op b.N times from many goroutines and reports processor time an operation, and operations for a second
// of it: the rate a core, whatever else the machine does.
func measure(b *testing.B, clients int, op func(i int64)) {
	b.ReportAllocs()
	b.SetParallelism(clients)
	var n atomic.Int64
	began := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			op(n.Add(1) - 1)
		}
	})
	b.StopTimer()
	used := cpu(b) - began
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/used.Seconds(), "ops/s/core")
}

// benchServer is a server on Badger with the given number of open days.
func benchServer(b *testing.B, days int) *Server {
	s := newTestServer(b, Config{Dir: b.TempDir(), Quota: 1 << 40, ExpiryUnit: 24 * time.Hour})
	for i := range days {
		putAll(b, s.engine, 1, time.Now().Add(time.Duration(i)*24*time.Hour), newTestBox())
	}
	return s
}

// dayKey is a request key that the benchmarks' own door opens with.
var dayKey = func() *sealed.PrivateKey {
	k, err := sealed.Generate()
	if err != nil {
		panic(err)
	}
	return k
}()

// requests seals n requests beforehand, so that only the mailbox's side is measured.
func requests(b *testing.B, n int, r func() mailbox.Request) []*[mailbox.UpSize]byte {
	ups := make([]*[mailbox.UpSize]byte, n)
	for i := range ups {
		ups[i] = new([mailbox.UpSize]byte)
		_, err := mailbox.SealRequest(ups[i], r(), dayKey.Public(), nil, 1)
		must(b, err)
	}
	return ups
}

func serveAll(b *testing.B, s *Server, clients int, ups []*[mailbox.UpSize]byte) {
	measure(b, clients, func(i int64) {
		var box [mailbox.BoxSize]byte
		var down [mailbox.DownSize]byte
		r, reply, err := mailbox.OpenRequest(ups[i%int64(len(ups))], dayKey, nil)
		must(b, err)
		status, body := s.Do(r, &box)
		mailbox.SealAnswer(&down, reply, status, body)
	})
}

// A deposit from the bytes of its request to those of its answer, durable: 14 days open, 256 clients at once.
func BenchmarkPutRequest(b *testing.B) {
	s := benchServer(b, 14)
	ups := requests(b, b.N, func() mailbox.Request {
		box := newTestBox()
		return mailbox.Request{Op: mailbox.OpPut, ID: box.ID, Box: box.Data[:]}
	})
	serveAll(b, s, 256, ups)
}

// A read of a box that is there.
func BenchmarkGetRequest(b *testing.B) {
	s := benchServer(b, 14)
	boxes := newBoxes(groupMax)
	putAll(b, s.engine, 1, time.Now().Add(7*24*time.Hour), boxes...)
	i := 0
	ups := requests(b, groupMax, func() mailbox.Request {
		i++
		return mailbox.Request{Op: mailbox.OpGet, Get: boxes[i-1].ID.Handle()}
	})
	serveAll(b, s, 16, ups)
}

// A read of a box that is not there.
func BenchmarkGetRequestOfNone(b *testing.B) {
	s := benchServer(b, 14)
	ups := requests(b, 256, func() mailbox.Request { return mailbox.Request{Op: mailbox.OpGet, Get: newTestBox().ID.Handle()} })
	serveAll(b, s, 16, ups)
}

// A page of 1,000 boxes, as every reader polls it.
func BenchmarkDigestRequest(b *testing.B) {
	s := benchServer(b, 1)
	bucket := mailbox.BucketAt(time.Now().Add(-time.Hour), s.cfg.Bucket)
	for range 4 {
		putAll(b, s.engine, bucket, time.Now().Add(time.Hour), newBoxes(250)...)
	}
	ups := requests(b, 16, func() mailbox.Request {
		return mailbox.Request{Op: mailbox.OpDigest, Page: mailbox.PageAddr{Index: bucket}}
	})
	serveAll(b, s, 16, ups)
}

// The raw limits beside which the figures above stand: opening a request …
func BenchmarkBareHPKEOpen(b *testing.B) {
	k, err := sealed.Generate()
	must(b, err)
	plain := make([]byte, mailbox.RequestSize)
	rand.Read(plain)
	box, _, err := k.Public().Seal(nil, plain)
	must(b, err)
	measure(b, 16, func(int64) {
		if _, _, err := k.Open(nil, box); err != nil {
			b.Error(err)
		}
	})
}

// … and writing as many boxes a transaction as the committer does at best, synced.
func BenchmarkBareBadgerPut(b *testing.B) {
	db, err := kv.OpenBadger(filepath.Join(b.TempDir(), "db"), kv.Options{Shape: kv.Blocks})
	must(b, err)
	defer closeAll(b, db)
	value := make([]byte, storedSize)
	b.ReportAllocs()
	began := cpu(b)
	for done := 0; done < b.N; done += groupMax {
		must(b, db.Update(func(x kv.Txn) error {
			for range min(groupMax, b.N-done) {
				key := newTestBox().ID
				rand.Read(value)
				if err := x.Set(key[:], value); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	used := cpu(b) - began
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkBareBadgerGet(b *testing.B) {
	db, err := kv.OpenBadger(filepath.Join(b.TempDir(), "db"), kv.Options{Shape: kv.Blocks})
	must(b, err)
	defer closeAll(b, db)
	keys := newBoxes(256)
	must(b, db.Update(func(x kv.Txn) error {
		for _, k := range keys {
			if err := x.Set(k.ID[:], k.Data[:]); err != nil {
				return err
			}
		}
		return nil
	}))
	measure(b, 16, func(i int64) {
		must(b, db.View(func(r kv.Reader) error { _, err := r.Get(keys[i%256].ID[:]); return err }))
	})
}
