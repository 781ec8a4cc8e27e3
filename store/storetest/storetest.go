// SPDX-License-Identifier: Apache-2.0

// Package storetest holds the conformance suite that every store.KV passes: what the code above relies on, said as
// tests, so that the twin in memory may stand for the database on the disk.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"tarn/store"
)

// Run runs the whole suite; open makes an empty store, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) store.KV) {
	for name, test := range map[string]func(*testing.T, store.KV){
		"ReadsBackWhatWasWritten":     readsBack,
		"FailedUpdateWritesNothing":   failedUpdate,
		"PanickingUpdateLetsGo":       panickingUpdate,
		"UpdateSeesItsOwnWrites":      ownWrites,
		"ViewIsASnapshot":             snapshot,
		"ViewInsideUpdateSeesNothing": viewInsideUpdate,
		"ScanAscends":                 scanAscends,
		"ScanBackDescends":            scanDescends,
		"ScanStopsAndErrs":            scanStops,
		"ScanDoesNotSeeItsWrites":     scanWhileWriting,
		"LimitsAreErrors":             limits,
		"BytesAreCopied":              copies,
		"LargeValuesAndUpdates":       large,
		"OversizeUpdateIsAtomic":      oversize,
		"CountersLoseNoIncrement":     counters,
		"NoPhantoms":                  phantoms,
		"ConcurrentReadersSeeWhole":   wholeReads,
		"ClosedIsAnError":             closed,
		"AgreesWithAModel":            model,
	} {
		t.Run(name, func(t *testing.T) {
			kv := open(t)
			test(t, kv)
			if err := kv.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

func set(t *testing.T, kv store.KV, pairs ...string) {
	t.Helper()
	err := kv.Update(func(x store.Txn) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := x.Set([]byte(pairs[i]), []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// get is the value, or "-" if there is none.
func get(t *testing.T, r store.Reader, key string) string {
	t.Helper()
	v, err := r.Get([]byte(key))
	if errors.Is(err, store.ErrNotFound) {
		return "-"
	}
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	return string(v)
}

func view(t *testing.T, kv store.KV, fn func(store.Reader)) {
	t.Helper()
	if err := kv.View(func(r store.Reader) error { fn(r); return nil }); err != nil {
		t.Fatal(err)
	}
}

func readsBack(t *testing.T, kv store.KV) {
	set(t, kv, "a", "1", "b", "", "!badger!x", "2", "\x00", "3", "\xff\xff", "4")
	set(t, kv, "a", "5")
	view(t, kv, func(r store.Reader) {
		for k, want := range map[string]string{"a": "5", "b": "", "c": "-", "!badger!x": "2", "\x00": "3", "\xff\xff": "4"} {
			if got := get(t, r, k); got != want {
				t.Errorf("%q is %q, want %q", k, got, want)
			}
		}
	})
	if err := kv.Update(func(x store.Txn) error { return errors.Join(x.Delete([]byte("a")), x.Delete([]byte("never"))) }); err != nil {
		t.Fatal(err)
	}
	view(t, kv, func(r store.Reader) {
		if got := get(t, r, "a"); got != "-" {
			t.Errorf("a deleted key has %q", got)
		}
	})
}

func failedUpdate(t *testing.T, kv store.KV) {
	set(t, kv, "a", "1", "b", "1")
	boom := errors.New("boom")
	err := kv.Update(func(x store.Txn) error {
		return errors.Join(x.Set([]byte("a"), []byte("2")), x.Delete([]byte("b")), x.Set([]byte("c"), nil), boom)
	})
	if !errors.Is(err, boom) {
		t.Fatalf("the function's error is lost: %v", err)
	}
	view(t, kv, func(r store.Reader) {
		if got := get(t, r, "a") + get(t, r, "b") + get(t, r, "c"); got != "11-" {
			t.Errorf("a failed update left %q", got)
		}
	})
}

func panickingUpdate(t *testing.T, kv store.KV) {
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		kv.Update(func(x store.Txn) error { x.Set([]byte("a"), []byte("1")); panic("in a transaction") })
	}()
	set(t, kv, "b", "1") // must not hang
	view(t, kv, func(r store.Reader) {
		if got := get(t, r, "a") + get(t, r, "b"); got != "-1" {
			t.Errorf("got %q", got)
		}
	})
}

func ownWrites(t *testing.T, kv store.KV) {
	set(t, kv, "a", "1", "b", "1", "d", "1")
	err := kv.Update(func(x store.Txn) error {
		if err := errors.Join(x.Set([]byte("a"), []byte("2")), x.Set([]byte("c"), []byte("2")), x.Delete([]byte("b")),
			x.Set([]byte("e"), []byte("2")), x.Delete([]byte("e")), x.Delete([]byte("d")), x.Set([]byte("d"), []byte("3"))); err != nil {
			return err
		}
		if got := get(t, x, "a") + get(t, x, "b") + get(t, x, "c") + get(t, x, "d") + get(t, x, "e"); got != "2-23-" {
			t.Errorf("the transaction reads %q", got)
		}
		if got := keys(t, x, "", "", false); got != "a=2 c=2 d=3" {
			t.Errorf("the transaction scans %q", got)
		}
		if got := keys(t, x, "", "", true); got != "d=3 c=2 a=2" {
			t.Errorf("the transaction scans back %q", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	view(t, kv, func(r store.Reader) {
		if got := keys(t, r, "", "", false); got != "a=2 c=2 d=3" {
			t.Errorf("committed %q", got)
		}
	})
}

func snapshot(t *testing.T, kv store.KV) {
	set(t, kv, "a", "1", "b", "1")
	view(t, kv, func(r store.Reader) {
		for i := range 50 {
			set(t, kv, "a", fmt.Sprint(i), "c", "2")
		}
		if err := kv.Update(func(x store.Txn) error { return x.Delete([]byte("b")) }); err != nil {
			t.Fatal(err)
		}
		if got := keys(t, r, "", "", false); got != "a=1 b=1" {
			t.Errorf("the snapshot moved: %q", got)
		}
		if got := get(t, r, "a") + get(t, r, "b") + get(t, r, "c"); got != "11-" {
			t.Errorf("the snapshot moved: %q", got)
		}
	})
}

func viewInsideUpdate(t *testing.T, kv store.KV) {
	set(t, kv, "a", "1")
	err := kv.Update(func(x store.Txn) error {
		if err := x.Set([]byte("a"), []byte("2")); err != nil {
			return err
		}
		return kv.View(func(r store.Reader) error {
			if got := get(t, r, "a"); got != "1" {
				t.Errorf("a view saw %q before the commit", got)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copies(t *testing.T, kv store.KV) {
	k, v := []byte("key"), []byte("value")
	if err := kv.Update(func(x store.Txn) error {
		if err := x.Set(k, v); err != nil {
			return err
		}
		copy(k, "xxx")
		copy(v, "xxxxx")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	view(t, kv, func(r store.Reader) {
		got, err := r.Get([]byte("key"))
		if err != nil || string(got) != "value" {
			t.Fatalf("%q, %v", got, err)
		}
		clear(got)
		if again := get(t, r, "key"); again != "value" {
			t.Errorf("changing what Get returned changed the row: %q", again)
		}
	})
}

func limits(t *testing.T, kv store.KV) {
	try := func(what string, key, value []byte) {
		if err := kv.Update(func(x store.Txn) error { return x.Set(key, value) }); err == nil {
			t.Errorf("%s was accepted", what)
		} else if len(key) > 0 && !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", what, err)
		}
	}
	try("an empty key", nil, []byte("x"))
	try("a key over the limit", make([]byte, store.MaxKey+1), nil)
	try("a value over the limit", []byte("k"), make([]byte, store.MaxValue+1))
	n := 0
	err := kv.Update(func(x store.Txn) error {
		v := make([]byte, store.MaxValue)
		for n = 0; ; n++ {
			if err := x.Set(fmt.Appendf(nil, "k%d", n), v); err != nil {
				return err
			}
		}
	})
	if !errors.Is(err, store.ErrTooLarge) || n != store.MaxUpdate/store.MaxValue-1 {
		t.Errorf("an update of %d times %d bytes: %v", n, store.MaxValue, err)
	}
	big := bytes.Repeat([]byte("k"), store.MaxKey)
	set(t, kv, string(big), "ok")
	view(t, kv, func(r store.Reader) {
		if got := keys(t, r, "", "", false); got != string(big)+"=ok" {
			t.Errorf("after the failures there are %d bytes of rows", len(got))
		}
	})
}

func large(t *testing.T, kv store.KV) {
	val := func(i, n int) []byte {
		return bytes.Repeat([]byte{byte(i), byte(i >> 8), 1}, n/3)
	}
	// 300 boxes in one transaction, and one value of each magnitude.
	if err := kv.Update(func(x store.Txn) error {
		for i := range 300 {
			if err := x.Set(fmt.Appendf(nil, "box%03d", i), val(i, 8300)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	sizes := []int{900, 1023, 1024, 1025, 70_000, 1 << 20, store.MaxValue}
	for i, n := range sizes {
		set(t, kv, fmt.Sprintf("size%d", i), string(val(i, n)))
	}
	view(t, kv, func(r store.Reader) {
		n := 0
		if err := r.Scan([]byte("box"), nil, func(k, v []byte) (bool, error) {
			if want := val(n, 8300); !bytes.Equal(v, want) || string(k) != fmt.Sprintf("box%03d", n) {
				t.Errorf("box %d is wrong", n)
			}
			n++
			return true, nil
		}); err != nil || n != 300 {
			t.Errorf("%d boxes, %v", n, err)
		}
		for i, size := range sizes {
			if got := get(t, r, fmt.Sprintf("size%d", i)); got != string(val(i, size)) {
				t.Errorf("the value of %d bytes came back with %d", size, len(got))
			}
		}
	})
}

// oversize: an update with more rows and bytes than an engine may take at once is still seen whole or not at all.
func oversize(t *testing.T, kv store.KV) {
	const n = 20_000
	write := func(x store.Txn, gen byte) error {
		for i := range n {
			if err := x.Set(fmt.Appendf(nil, "k%05d", i), bytes.Repeat([]byte{gen}, 200)); err != nil {
				return err
			}
		}
		return nil
	}
	count := func(r store.Reader) (rows int, gens map[byte]bool) {
		gens = map[byte]bool{}
		r.Scan([]byte("k"), nil, func(_, v []byte) (bool, error) {
			rows++
			gens[v[0]] = true
			return true, nil
		})
		return rows, gens
	}
	if err := kv.Update(func(x store.Txn) error { return write(x, 1) }); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			view(t, kv, func(r store.Reader) {
				if rows, gens := count(r); rows != n || len(gens) != 1 {
					t.Errorf("a view saw %d rows of generations %v", rows, gens)
				}
			})
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for gen := byte(2); gen < 4; gen++ {
		if err := kv.Update(func(x store.Txn) error { return write(x, gen) }); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
	if err := kv.Update(func(x store.Txn) error {
		for i := range n {
			if err := x.Delete(fmt.Appendf(nil, "k%05d", i)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	view(t, kv, func(r store.Reader) {
		if rows, _ := count(r); rows != 0 || keys(t, r, "", "", false) != "" {
			t.Errorf("%d rows are left", rows)
		}
	})
}

func closed(t *testing.T, kv store.KV) {
	running, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go kv.View(func(store.Reader) error { close(running); <-release; return nil })
	<-running
	go func() { ended <- kv.Close() }()
	// Close has begun as soon as new transactions are refused.
	for kv.View(func(store.Reader) error { return nil }) == nil {
	}
	select {
	case <-ended:
		t.Error("Close did not wait for a running view")
	default:
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := kv.Update(func(store.Txn) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Update after Close: %v", err)
	}
	if err := kv.View(func(store.Reader) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("View after Close: %v", err)
	}
	if err := kv.Close(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
}
