// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarn/store"
)

// bare measures the machine: a synced write of an event's size with the node's own store, and an echo over HTTP.
func bare(t testing.TB, r *report) {
	dir, err := os.MkdirTemp("", "tl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	kv, err := store.OpenBadger(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	value := make([]byte, 700)
	rand.Read(value)
	var row atomic.Uint64
	took, _ := flood(t, 1, 1000, func() error {
		return kv.Update(func(txn store.Txn) error { return txn.Set(store.Key(1, row.Add(1)), value) })
	})
	r.put("bare: synced write of 700 bytes, 1 writer: p50", ms(quantile(took, 0.5)))
	r.put("bare: synced write of 700 bytes, 1 writer: p99", ms(quantile(took, 0.99)))
	took, wall := flood(t, writers, 8000, func() error {
		return kv.Update(func(txn store.Txn) error { return txn.Set(store.Key(1, row.Add(1)), value) })
	})
	r.put("bare: synced writes of 700 bytes, 32 writers", float64(len(took))/wall.Seconds())

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.Copy(w, q.Body) }))
	defer s.Close()
	c := &client{n: &node{t: t, url: s.URL, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true}}}, token: "token"}
	echo := func() error {
		_, err := c.do(context.Background(), "PUT", "/echo", text(""))
		return err
	}
	took, _ = flood(t, 1, 2000, echo)
	r.put("bare: HTTP echo, 1 client: p50", ms(quantile(took, 0.5)))
	r.put("bare: HTTP echo, 1 client: p99", ms(quantile(took, 0.99)))
	took, wall = flood(t, writers, 10_000, echo)
	r.put("bare: HTTP echoes, 32 clients", float64(len(took))/wall.Seconds())
}

// flood does something n times, at so many a time.
func flood(t testing.TB, at, n int, do func() error) (took []time.Duration, wall time.Duration) {
	var left atomic.Int64
	left.Store(int64(n))
	each := make([][]time.Duration, at)
	begun := time.Now()
	if err := together(make([]*client, at), func(i int, _ *client) error {
		for left.Add(-1) >= 0 {
			at := time.Now()
			if err := do(); err != nil {
				return err
			}
			each[i] = append(each[i], time.Since(at))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return slices.Concat(each...), time.Since(begun)
}

// foreign is the processor time that others than we and the children that have ended used since the machine began: all
// there was (proc(5), stat: user, nice, system), less ours.
func foreign() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var ticks int64
	for _, f := range strings.Fields(line)[1:4] {
		v, _ := strconv.ParseInt(f, 10, 64) // the kernel writes numbers
		ticks += v
	}
	total := time.Duration(ticks) * 10 * time.Millisecond
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			total -= time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return total
}
