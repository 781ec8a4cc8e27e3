// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"tarn/store"
)

func counters(t *testing.T, kv store.KV) {
	const writers, each = 8, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				if err := kv.Update(func(x store.Txn) error {
					for _, key := range []string{"all", fmt.Sprint("own", w)} {
						var n uint64
						if v := get(t, x, key); v != "-" {
							n = binary.BigEndian.Uint64([]byte(v))
						}
						if err := x.Set([]byte(key), binary.BigEndian.AppendUint64(nil, n+1)); err != nil {
							return err
						}
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				// What was acknowledged is visible to its writer at once.
				view(t, kv, func(r store.Reader) { get(t, r, fmt.Sprint("own", w)) })
			}
		})
	}
	wg.Wait()
	view(t, kv, func(r store.Reader) {
		if n := binary.BigEndian.Uint64([]byte(get(t, r, "all"))); n != writers*each {
			t.Errorf("%d increments became %d", writers*each, n)
		}
	})
}

// phantoms: "append behind the last row" by many writers gives every row a number of its own. An engine that checks
// only the rows that were read, not the range, fails here.
func phantoms(t *testing.T, kv store.KV) {
	const writers, each = 8, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := kv.Update(func(x store.Txn) error {
					next := uint64(0)
					if err := x.ScanBack([]byte("log"), nil, func(k, _ []byte) (bool, error) {
						next = binary.BigEndian.Uint64(k[3:]) + 1
						return false, nil
					}); err != nil {
						return err
					}
					return x.Set(binary.BigEndian.AppendUint64([]byte("log"), next), fmt.Appendf(nil, "%d/%d", w, i))
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	view(t, kv, func(r store.Reader) {
		n := 0
		if err := r.Scan([]byte("log"), nil, func(_, _ []byte) (bool, error) { n++; return true, nil }); err != nil || n != writers*each {
			t.Errorf("%d appends left %d rows", writers*each, n)
		}
	})
}

// wholeReads: money moves between accounts; every snapshot has the same sum.
func wholeReads(t *testing.T, kv store.KV) {
	const accounts, start = 10, 100
	name := func(i int) string { return fmt.Sprint("acc", i) }
	for i := range accounts {
		set(t, kv, name(i), string([]byte{start}))
	}
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				view(t, kv, func(r store.Reader) {
					sum := 0
					for i := range accounts {
						sum += int(get(t, r, name(i))[0])
					}
					if sum != accounts*start {
						t.Errorf("a snapshot has %d in all, not %d", sum, accounts*start)
					}
				})
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			for i := range 40 {
				a, b := name((w+i)%accounts), name((w*3+i*7+1)%accounts)
				if a == b {
					continue
				}
				if err := kv.Update(func(x store.Txn) error {
					va, vb := get(t, x, a)[0], get(t, x, b)[0]
					if va == 0 || vb == 255 {
						return nil
					}
					if err := x.Set([]byte(a), []byte{va - 1}); err != nil {
						return err
					}
					return x.Set([]byte(b), []byte{vb + 1})
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
}

// model: any sequence of transactions leaves what a map and a sort would.
func model(t *testing.T, kv store.KV) {
	state := map[string]string{}
	alphabet := []string{"", "a", "b", "\x00", "\xff", "ab", "\xff\xff"}
	genKey := rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom(alphabet).Draw(t, "k1") + rapid.SampledFrom(alphabet).Draw(t, "k2") + rapid.SampledFrom(alphabet[1:]).Draw(t, "k3")
	})
	compare := func(rt *rapid.T, r store.Reader, m map[string]string) {
		prefix, from, back := rapid.SampledFrom(alphabet).Draw(rt, "prefix"), rapid.SampledFrom(alphabet).Draw(rt, "from"), rapid.Bool().Draw(rt, "back")
		var want []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if strings.HasPrefix(k, prefix) && (from == "" || !back && k >= from || back && k <= from) {
				want = append(want, k+"="+m[k])
			}
		}
		if back {
			slices.Reverse(want)
		}
		if got := keys(t, r, prefix, from, back); got != strings.Join(want, " ") {
			rt.Fatalf("scan %q from %q back %v: %q, want %q", prefix, from, back, got, strings.Join(want, " "))
		}
		k := genKey.Draw(rt, "read")
		w, ok := m[k]
		if !ok {
			w = "-"
		}
		if got := get(t, r, k); got != w {
			rt.Fatalf("get %q: %q, want %q", k, got, w)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		next := maps.Clone(state)
		fail := rapid.Bool().Draw(rt, "fail")
		boom := fmt.Errorf("boom")
		err := kv.Update(func(x store.Txn) error {
			for range rapid.IntRange(0, 6).Draw(rt, "ops") {
				k := genKey.Draw(rt, "key")
				if rapid.Bool().Draw(rt, "delete") {
					delete(next, k)
					if err := x.Delete([]byte(k)); err != nil {
						return err
					}
				} else {
					v := rapid.StringMatching(`[a-z]{0,3}`).Draw(rt, "value")
					next[k] = v
					if err := x.Set([]byte(k), []byte(v)); err != nil {
						return err
					}
				}
				compare(rt, x, next)
			}
			if fail {
				return boom
			}
			return nil
		})
		if fail != (err == boom) {
			rt.Fatalf("fail=%v: %v", fail, err)
		}
		if !fail {
			state = next
		}
		if err := kv.View(func(r store.Reader) error { compare(rt, r, state); return nil }); err != nil {
			rt.Fatal(err)
		}
	})
}
