// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"tarn/dag/dagtest"
	"tarn/matrix"
	"tarn/store"
)

// cpu is the process's CPU time so far: wall times of a busy machine say little.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perOp reports CPU time an operation.
func perOp(b *testing.B, fn func()) {
	b.ReportAllocs()
	start := cpu()
	b.ResetTimer()
	fn()
	b.StopTimer()
	b.ReportMetric(float64(cpu()-start)/float64(b.N)/1000, "cpu-us/op")
}

func badger(b testing.TB) (store.KV, string) {
	dir := filepath.Join(b.TempDir(), "db")
	kv, err := store.OpenBadger(dir, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { kv.Close() })
	return kv, dir
}

// engines runs a benchmark on both stores.
func engines(b *testing.B, fn func(*testing.B, store.KV)) {
	b.Run("memory", func(b *testing.B) { fn(b, store.OpenMemory()) })
	b.Run("badger", func(b *testing.B) {
		kv, _ := badger(b)
		fn(b, kv)
	})
}

func BenchmarkSend(b *testing.B) {
	engines(b, func(b *testing.B, kv store.KV) {
		a := playOn(b, 1, kv)
		room := a.create(Create{})
		perOp(b, func() {
			for i := range b.N {
				_, err := a.Send(context.Background(), NewEvent{Room: room, Sender: a.user, Type: matrix.TypeMessage, Content: body("forty characters of a message, or so, ok"), Device: "DEVICE", Txn: fmt.Sprint("m", i)})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// 32 senders in one room share transactions.
func BenchmarkSendTogether(b *testing.B) {
	engines(b, func(b *testing.B, kv store.KV) {
		a := playOn(b, 1, kv)
		room := a.create(Create{})
		perOp(b, func() {
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					a.say(room, "forty characters of a message, or so, ok")
				}
			})
		})
	})
}

// In a room of 1,000 members on as many servers, with 100 local ones.
func BenchmarkSendLargeRoom(b *testing.B) {
	a := play(b, 1)
	room := a.crowd(1000)
	perOp(b, func() {
		for range b.N {
			a.say(room, "forty characters of a message, or so, ok")
		}
	})
}

func BenchmarkStateEventLargeRoom(b *testing.B) {
	a := play(b, 1)
	room := a.crowd(1000)
	perOp(b, func() {
		for i := range b.N {
			a.set(room, matrix.TypeTopic, "", map[string]string{"topic": fmt.Sprint(i)})
		}
	})
}

// crowd makes a public room with n local members.
func (p *player) crowd(n int) matrix.RoomID {
	p.t.Helper()
	room := p.create(Create{Preset: "public_chat"})
	for i := range n {
		u := p.at(fmt.Sprint("m", i))
		p.member(room, u, u, matrix.MemberJoin)
	}
	return room
}

// A bare synced write of a row of an event's size, beside BenchmarkSend/badger.
func BenchmarkBareBadgerWrite(b *testing.B) {
	kv, _ := badger(b)
	v := make([]byte, 900)
	perOp(b, func() {
		for i := range b.N {
			if err := kv.Update(func(txn store.Txn) error { return txn.Set(store.Key(1, uint64(i)), v) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkIngest(b *testing.B) {
	engines(b, func(b *testing.B, kv store.KV) {
		a, o := play(b, 1), playOn(b, 2, kv)
		room := a.create(Create{Invite: []matrix.UserID{o.user}})
		a.post(o)
		o.member(room, o.user, o.user, matrix.MemberJoin)
		o.post(a)
		raws := make([][]byte, b.N)
		for i := range raws {
			raws[i] = a.raw(room, a.say(room, "forty characters of a message, or so, ok"))
		}
		perOp(b, func() {
			for chunk := range slices.Chunk(raws, 100) {
				if in := o.ingest(a, room, chunk...); len(in.Stored) != len(chunk) {
					b.Fatalf("%+v", in)
				}
			}
		})
	})
}

// What the Matrix library's parse and verify cost alone, for comparison with BenchmarkIngest.
func BenchmarkBareVerify(b *testing.B) {
	a := play(b, 1)
	room := a.create(Create{})
	raw := a.raw(room, a.say(room, "forty characters of a message, or so, ok"))
	keys := dagtest.Keys(a.s)
	perOp(b, func() {
		for range b.N {
			ev, err := matrix.Parse("12", raw)
			if err != nil {
				b.Fatal(err)
			}
			if err := ev.Verify(keys); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Pages of 100 through a room of 10,000 events, from a cold cache each time; an op is an event.
func BenchmarkMessages(b *testing.B) {
	engines(b, func(b *testing.B, kv store.KV) {
		a := playOn(b, 1, kv)
		room := a.create(Create{})
		a.fill(room, 10_000)
		a.open()
		perOp(b, func() {
			var from store.Pos
			for n := 0; n < b.N; {
				page, err := a.Messages(a.user, room, from, true, 100, nil)
				if err != nil {
					b.Fatal(err)
				}
				n += len(page.Events)
				from = page.End
				if !page.More {
					from = 0
					a.open()
				}
			}
		})
	})
}

// fill sends n messages, many at once.
func (p *player) fill(room matrix.RoomID, n int) {
	p.t.Helper()
	errs := make(chan error, 16)
	for w := range 16 {
		go func() {
			var err error
			for i := w; i < n && err == nil; i += 16 {
				_, err = p.Send(context.Background(), NewEvent{Room: room, Sender: p.user, Type: matrix.TypeMessage, Content: body("forty characters of a message, or so, ok"), Device: "DEVICEIDXX", Txn: fmt.Sprint("m1700000000000.", i)})
			}
			errs <- err
		}()
	}
	for range 16 {
		if err := <-errs; err != nil {
			p.t.Fatal(err)
		}
	}
}

// An incremental Sync with one message in one of 200 rooms, after a wake-up by it.
func BenchmarkSyncWake(b *testing.B) {
	engines(b, func(b *testing.B, kv store.KV) {
		a := playOn(b, 1, kv)
		bob := a.at("bob")
		var rooms []matrix.RoomID
		for range 200 {
			room := a.create(Create{Preset: "public_chat"})
			a.member(room, bob, bob, matrix.MemberJoin)
			rooms = append(rooms, room)
		}
		_, at := a.sync(bob, 0)
		var took []time.Duration
		var inSync time.Duration
		perOp(b, func() {
			for i := range b.N {
				ready, done := make(chan struct{}), make(chan time.Time)
				go func() {
					close(ready)
					upTo, err := a.stream.Wait(context.Background(), string(bob), at)
					if err != nil {
						b.Error(err)
					}
					start := cpu()
					cs, err := a.Sync(bob, at, upTo, SyncOptions{})
					if err != nil || len(cs) != 1 || len(cs[0].Timeline) != 1 {
						b.Errorf("%+v %v", cs, err)
					}
					at = upTo
					inSync += cpu() - start
					done <- time.Now()
				}()
				<-ready
				start := time.Now()
				a.say(rooms[i%len(rooms)], "x")
				took = append(took, (<-done).Sub(start))
			}
		})
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		b.ReportMetric(float64(inSync.Microseconds())/float64(b.N), "sync-cpu-us")
	})
}

func BenchmarkInitialSync(b *testing.B) {
	a := play(b, 1)
	for range 16 {
		room := a.create(Create{Preset: "public_chat"})
		for i := range 20 {
			a.say(room, fmt.Sprint(i))
		}
	}
	perOp(b, func() {
		for range b.N {
			if cs, err := a.Sync(a.user, 0, a.stream.Current(), SyncOptions{TimelineLimit: 10}); err != nil || len(cs) != 16 {
				b.Fatal(err)
			}
		}
	})
}

// What an event takes on disk, all told (rows, indexes, the store's own), after the store was closed.
func TestDiskOfAnEvent(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 10 MB")
	}
	kv, dir := badger(t)
	a := playOn(t, 1, kv)
	room := a.create(Create{})
	size := func() (n int64) {
		if err := kv.Close(); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			i, err := d.Info()
			n += i.Size()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if kv, err = store.OpenBadger(dir, store.Options{}); err != nil {
			t.Fatal(err)
		}
		a.kv = kv
		a.open()
		return n
	}
	before := size()
	const events = 10_000
	a.fill(room, events)
	per := float64(size()-before) / events
	kv.Close()
	t.Logf("%.0f bytes of disk an event", per)
	if per > 2000 {
		t.Errorf("more than 2,000 bytes")
	}
}

// 32 senders, each in a room of their own, share the store's syncs.
func BenchmarkSendApart(b *testing.B) {
	engines(b, func(b *testing.B, kv store.KV) {
		a := playOn(b, 1, kv)
		rooms := make([]matrix.RoomID, 32)
		for i := range rooms {
			rooms[i] = a.create(Create{})
		}
		perOp(b, func() {
			done := make(chan error)
			for w, room := range rooms {
				go func() {
					var err error
					for i := w; i < b.N && err == nil; i += len(rooms) {
						_, err = a.Send(context.Background(), NewEvent{Room: room, Sender: a.user, Type: matrix.TypeMessage, Content: body("forty characters of a message, or so, ok"), Device: "DEVICE", Txn: fmt.Sprint("m", i)})
					}
					done <- err
				}()
			}
			for range rooms {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}
