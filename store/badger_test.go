// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"tarn/internal/durable"
)

func openTest(t testing.TB, dir string, o Options) *Badger {
	t.Helper()
	b, err := OpenBadger(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func setRow(kv KV, key, value string) error {
	return kv.Update(func(x Txn) error { return x.Set([]byte(key), []byte(value)) })
}

func getRow(t testing.TB, kv KV, key string) (value string) {
	t.Helper()
	if err := kv.View(func(r Reader) error {
		v, err := r.Get([]byte(key))
		if errors.Is(err, ErrNotFound) {
			v, err = []byte("-"), nil
		}
		value = string(v)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestSecondOpenOfADirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	_, err := OpenBadger(dir, Options{})
	if !errors.Is(err, durable.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	openTest(t, dir, Options{})
}

func TestOpenOfAFileIsAnError(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenBadger(name, Options{}); err == nil {
		t.Error("opened")
	}
}

func TestDamagedDirectoryIsAnErrorAndIsUnlocked(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	if err := setRow(b, "a", "1"); err != nil {
		t.Fatal(err)
	}
	b.Close()
	manifest := filepath.Join(dir, "MANIFEST")
	whole, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, []byte("garbage, and enough of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := OpenBadger(dir, Options{}); err == nil || errors.Is(err, durable.ErrLocked) {
			t.Fatalf("%v", err)
		}
	}
	if err := os.WriteFile(manifest, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := getRow(t, openTest(t, dir, Options{}), "a"); got != "1" {
		t.Errorf("the row is %q", got)
	}
}

func TestRowsSurviveReopening(t *testing.T) {
	for _, shape := range []Shape{Rows, Blocks} {
		dir := t.TempDir()
		want := map[string]string{}
		for round := range 4 {
			b := openTest(t, dir, Options{Shape: shape})
			for i := range 200 {
				k, v := fmt.Sprint("k", (i*7+round*50)%300), strings.Repeat(fmt.Sprint(round), 1+i*i/2)
				if i%5 == 0 {
					if err := b.Update(func(x Txn) error { return x.Delete([]byte(k)) }); err != nil {
						t.Fatal(err)
					}
					delete(want, k)
				} else {
					if err := setRow(b, k, v); err != nil {
						t.Fatal(err)
					}
					want[k] = v
				}
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
		b := openTest(t, dir, Options{Shape: shape})
		n := 0
		if err := b.View(func(r Reader) error {
			return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
				n++
				if want[string(k)] != string(v) {
					t.Errorf("row %q is wrong", k)
				}
				return true, nil
			})
		}); err != nil || n != len(want) {
			t.Errorf("%d rows of %d, %v", n, len(want), err)
		}
	}
}

func TestFullDiskRefusesAndRecovers(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 40)
	dir := t.TempDir()
	b := openTest(t, dir, Options{free: func(string) (int64, error) { return free.Load(), nil }})
	if err := setRow(b, "a", "1"); err != nil {
		t.Fatal(err)
	}
	free.Store(defaultReserve - 1)
	err := b.Update(func(x Txn) error {
		return errors.Join(x.Set([]byte("a"), []byte("2")), x.Set([]byte("b"), []byte("2")))
	})
	if !errors.Is(err, ErrDiskFull) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
	if got := getRow(t, b, "a") + getRow(t, b, "b"); got != "1-" {
		t.Errorf("half written: %q", got)
	}
	if err := b.Update(func(x Txn) error { return nil }); err != nil {
		t.Errorf("an update that writes nothing: %v", err)
	}
	b.Close()
	if _, err := OpenBadger(dir, b.opt); !errors.Is(err, ErrDiskFull) {
		t.Errorf("opening on a full disk: %v", err)
	}
	free.Store(1 << 40)
	b = openTest(t, dir, b.opt)
	if err := setRow(b, "a", "3"); err != nil {
		t.Errorf("with space again: %v", err)
	}
}

// TestReallyFullDisk fills a small file system to the end. A process that lets Badger do that dies of SIGBUS.
func TestReallyFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("needs the right to mount a small file system: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	for _, shape := range []Shape{Rows, Blocks} {
		sub := filepath.Join(dir, fmt.Sprint(shape))
		b := openTest(t, sub, Options{Shape: shape})
		acked := 0
		value := bytes.Repeat([]byte("v"), 9000)
		var err error
		for ; acked < 20_000; acked++ {
			if err = b.Update(func(x Txn) error { return x.Set(fmt.Appendf(nil, "k%06d", acked), value) }); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrDiskFull) || acked < 100 {
			t.Fatalf("after %d rows: %v", acked, err)
		}
		n := 0
		if err := b.View(func(r Reader) error {
			return r.Scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
		}); err != nil || n != acked {
			t.Errorf("%d rows of %d are there, %v", n, acked, err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("closing on a full disk: %v", err)
		}
		os.RemoveAll(sub)
	}
}

// TestFailedSyncIsNotAcknowledged: Badger logs a failed sync of its value log and goes on; we must not.
func TestFailedSyncIsNotAcknowledged(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	if err := setRow(b, "a", "1"); err != nil {
		t.Fatal(err)
	}
	b.log.Errorf("Error while curlf sync: %v\n", errors.New("input/output error"))
	for range 2 {
		if err := setRow(b, "a", "2"); !errors.Is(err, ErrBroken) {
			t.Errorf("%v", err)
		}
	}
	if got := getRow(t, b, "a"); got != "1" {
		t.Errorf("an unacknowledged write is visible: %q", got)
	}
	if err := b.Run(t.Context()); !errors.Is(err, ErrBroken) { // so that the process ends, and is started anew
		t.Errorf("Run goes on: %v", err)
	}
	b.Close()
	b = openTest(t, dir, Options{})
	if err := setRow(b, "a", "3"); err != nil || getRow(t, b, "a") != "3" {
		t.Errorf("after reopening: %v", err)
	}
}

// TestInterruptedLargeUpdateIsFinished: the stage is on the disk and a part of its rows too, as after a crash between
// the two steps of commitStaged.
func TestInterruptedLargeUpdateIsFinished(t *testing.T) {
	for _, applied := range []int{0, 3000} {
		dir := t.TempDir()
		b := openTest(t, dir, Options{})
		if err := setRow(b, "gone", "1"); err != nil {
			t.Fatal(err)
		}
		list := []*row{{key: []byte("gone"), dead: true}}
		for i := range 5000 {
			list = append(list, &row{key: fmt.Appendf(nil, "k%05d", i), value: bytes.Repeat([]byte{byte(i)}, 500)})
		}
		var packed []byte
		var entries []*row
		for _, r := range list {
			for _, e := range b.entries(r) {
				entries, packed = append(entries, e), packRow(packed, e)
			}
		}
		ts := b.done + 1
		txn := b.db.NewTransactionAt(b.done, true)
		for i := uint32(0); len(packed) > 0; i++ {
			n := min(len(packed), stageChunk)
			if err := txn.Set(stageKey(i), packed[:n]); err != nil {
				t.Fatal(err)
			}
			packed = packed[n:]
		}
		if err := b.finish(txn, ts); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < applied; i += 250 {
			ts++
			txn := b.db.NewTransactionAt(ts-1, true)
			for _, e := range entries[2*i : 2*i+500] {
				if err := putEntry(txn, e); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.finish(txn, ts); err != nil {
				t.Fatal(err)
			}
		}
		b.vault.dirty.Store(false) // a killed process forgets nothing
		b.Close()
		for range 2 {
			b = openTest(t, dir, Options{})
			n := 0
			b.View(func(r Reader) error {
				return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
					if string(k) != fmt.Sprintf("k%05d", n) || len(v) != 500 || v[0] != byte(n) {
						t.Fatalf("row %q", k)
					}
					n++
					return true, nil
				})
			})
			if n != 5000 {
				t.Errorf("%d rows of 5000", n)
			}
			stage := b.db.NewTransactionAt(b.done, false)
			if _, err := stage.Get(stageKey(0)); err == nil {
				t.Error("the stage is still there")
			}
			stage.Discard()
			if err := setRow(b, "k00000", string(bytes.Repeat([]byte{0}, 500))); err != nil {
				t.Fatal(err)
			}
			b.Close()
		}
	}
}

// TestConcurrentUpdatesShareSyncs: while one commit is with the disk, the others gather into the next.
func TestConcurrentUpdatesShareSyncs(t *testing.T) {
	b := openTest(t, t.TempDir(), Options{})
	before := b.done
	const writers, each = 16, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := setRow(b, fmt.Sprint(w, "/", i), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if commits := b.done - before; commits > writers*each/2 {
		t.Errorf("%d updates took %d commits", writers*each, commits)
	}
	if n := b.inflight.Len() + len(b.snaps) + len(b.queue); n != 0 {
		t.Errorf("%d things are left over in memory", n)
	}
}

func TestDeletedBlocksGiveTheirSpaceBack(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{Shape: Blocks})
	const n = 12_000 // of 8 KiB: 98 MB
	value := make([]byte, 8192)
	write := func(from, to int, set bool) {
		for i := from; i < to; i += 200 {
			if err := b.Update(func(x Txn) error {
				for j := i; j < min(i+200, to); j++ {
					k := fmt.Appendf(nil, "box%08d", j)
					value[0] = byte(j)
					err := x.Delete(k)
					if set {
						err = x.Set(k, value)
					}
					if err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(0, n, true)
	write(0, n*9/10, false)
	full := diskUse(t, dir)
	// A compaction tells Badger what is garbage; closing makes one.
	b.Close()
	b = openTest(t, dir, Options{Shape: Blocks})
	if err := b.Maintain(); err != nil {
		t.Fatal(err)
	}
	left, live := diskUse(t, dir), int64(n/10*8192)
	t.Logf("full %d MB, left %d MB, live %d MB", full/1e6, left/1e6, live/1e6)
	if left > 4*live {
		t.Errorf("%d MB on disk for %d MB live", left/1e6, live/1e6)
	}
	count := 0
	b.View(func(r Reader) error {
		return r.Scan(nil, nil, func(_, v []byte) (bool, error) { count++; return len(v) == 8192, nil })
	})
	if count != n/10 {
		t.Errorf("%d boxes are left of %d", count, n/10)
	}
}

// diskUse is the bytes of disk blocks under dir: Badger's files are sparse.
func diskUse(t testing.TB, dir string) (n int64) {
	t.Helper()
	if err := filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
		if err == nil {
			n += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func FuzzUnpackRows(f *testing.F) {
	f.Add(packRow(packRow(nil, &row{key: []byte("a"), value: []byte("1")}), &row{key: []byte("b"), dead: true}))
	f.Add([]byte{0, 1, 255, 255, 255, 255, 15})
	f.Add([]byte{0, 0, 0})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, src []byte) {
		list, err := unpackRows(src)
		if err != nil {
			return
		}
		var again []byte
		for _, r := range list {
			if checkRow(r.key, r.value) != nil {
				t.Fatal("a row beyond the limits")
			}
			again = packRow(again, r)
		}
		back, err := unpackRows(again)
		if err != nil || len(back) != len(list) {
			t.Fatalf("packed again: %v", err)
		}
	})
}
