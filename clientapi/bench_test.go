// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/store"
)

// cpu is the processor time of this process, the benchmark's own client included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// percentiles runs f b.N times and reports p50, p99 and CPU an operation.
func percentiles(b *testing.B, f func(i int) time.Duration) {
	b.Helper()
	took := make([]time.Duration, 0, b.N)
	before := cpu()
	b.ResetTimer()
	for i := range b.N {
		took = append(took, f(i))
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func badger(b *testing.B) store.KV {
	b.Helper()
	kv, err := store.OpenBadger(b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { kv.Close() })
	return kv
}

// benchNode is a node on Badger behind a real loopback listener.
func benchNode(b *testing.B, change ...func(*Config)) (*node, string) {
	b.Helper()
	n := openNode(b, badger(b), true, change...)
	s := httptest.NewServer(n.api)
	b.Cleanup(s.Close)
	return n, s.URL
}

var keepAlive = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func call1(b testing.TB, token, method, url, body string) []byte {
	q, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+token)
	r, err := keepAlive.Do(q)
	if err != nil {
		b.Error(err)
		return nil
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		b.Errorf("%d %s %v", r.StatusCode, raw, err)
	}
	return raw
}

const message = `{"msgtype":"m.text","body":"A sentence of some ninety characters, as people write them to each other in the evening."}`

// BenchmarkSend is PUT /send over loopback on Badger, synced.
func BenchmarkSend(b *testing.B) {
	n, url := benchNode(b)
	alice := n.person("alice")
	r := alice.meet()
	percentiles(b, func(i int) time.Duration {
		start := time.Now()
		call1(b, alice.token, "PUT", fmt.Sprintf("%s/_matrix/client/v3/rooms/%s/send/m.room.message/b%d", url, esc(r), i), message)
		return time.Since(start)
	})
}

// BenchmarkSendEight is the same by eight users in one room.
func BenchmarkSendEight(b *testing.B) {
	n, url := benchNode(b)
	alice := n.person("alice")
	people := []*device{alice}
	for i := range 7 {
		people = append(people, n.person(fmt.Sprintf("u%d", i)))
	}
	r := alice.meet(people[1:]...)
	before := cpu()
	b.ResetTimer()
	next := make(chan int)
	done := make(chan struct{})
	for _, p := range people {
		go func() {
			for i := range next {
				call1(b, p.token, "PUT", fmt.Sprintf("%s/_matrix/client/v3/rooms/%s/send/m.room.message/b%d", url, esc(r), i), message)
			}
			done <- struct{}{}
		}()
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	for range people {
		<-done
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sends/s")
}

// BenchmarkRawBadgerWrite is the floor under Send: one synced row of an event's size.
func BenchmarkRawBadgerWrite(b *testing.B) {
	kv := badger(b)
	value := bytes.Repeat([]byte("x"), 700)
	percentiles(b, func(i int) time.Duration {
		start := time.Now()
		if err := kv.Update(func(t store.Txn) error { return t.Set(fmt.Appendf(nil, "k%010d", i), value) }); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	})
}

// BenchmarkRawHTTP is the other floor: a bare net/http echo over loopback.
func BenchmarkRawHTTP(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	b.Cleanup(s.Close)
	percentiles(b, func(int) time.Duration {
		start := time.Now()
		call1(b, "token", "PUT", s.URL+"/echo", message)
		return time.Since(start)
	})
}

// BenchmarkSyncWake is the time from the start of a PUT /send to the return of another user's parked /sync.
func BenchmarkSyncWake(b *testing.B) {
	w := &countingWaiter{sleeps: make(chan struct{}, 1)}
	n, url := benchNode(b, func(c *Config) { w.Waiter, c.Stream = c.Stream, w })
	alice, bob := n.person("alice"), n.person("bob")
	r := alice.meet(bob)
	since := bob.sync("")["next_batch"].(string)
	woke := make(chan time.Time)
	parked := make(chan struct{})
	go func() {
		for range parked {
			raw := call1(b, bob.token, "GET", url+"/_matrix/client/v3/sync?timeout=30000&since="+since, "")
			at := time.Now()
			_, rest, _ := bytes.Cut(raw, []byte(`"next_batch":"`))
			since = string(rest[:bytes.IndexByte(rest, '"')])
			woke <- at
		}
	}()
	defer close(parked)
	percentiles(b, func(i int) time.Duration {
		parked <- struct{}{}
		<-w.sleeps
		start := time.Now()
		call1(b, alice.token, "PUT", fmt.Sprintf("%s/_matrix/client/v3/rooms/%s/send/m.room.message/b%d", url, esc(r), i), message)
		return (<-woke).Sub(start)
	})
}

// BenchmarkInitialSync is a first /sync of 200 rooms with 20 messages shown of each.
func BenchmarkInitialSync(b *testing.B) {
	n, url := benchNode(b)
	alice, bob := n.person("alice"), n.person("bob")
	for range 200 {
		r := alice.meet(bob)
		for range 20 {
			alice.say(r, "x")
		}
	}
	var size int
	percentiles(b, func(int) time.Duration {
		start := time.Now()
		size = len(call1(b, bob.token, "GET", url+"/_matrix/client/v3/sync", ""))
		return time.Since(start)
	})
	b.ReportMetric(float64(size)/1024, "KiB")
}

// BenchmarkIdleSync is an incremental /sync with nothing new, 50 rooms.
func BenchmarkIdleSync(b *testing.B) {
	n, url := benchNode(b)
	alice := n.person("alice")
	for range 50 {
		alice.meet()
	}
	since := alice.sync("")["next_batch"].(string)
	percentiles(b, func(int) time.Duration {
		start := time.Now()
		call1(b, alice.token, "GET", url+"/_matrix/client/v3/sync?since="+since, "")
		return time.Since(start)
	})
}

// BenchmarkMessages pages through a room of 2,000 events.
func BenchmarkMessages(b *testing.B) {
	n, url := benchNode(b)
	alice := n.person("alice")
	r := alice.meet()
	for range 2000 {
		alice.say(r, "x")
	}
	events := 0
	before := cpu()
	b.ResetTimer()
	for range b.N {
		from := ""
		for {
			raw := call1(b, alice.token, "GET", url+"/_matrix/client/v3/rooms/"+esc(r)+"/messages?dir=b&limit=100"+from, "")
			events += bytes.Count(raw, []byte(`"event_id":`))
			_, rest, more := bytes.Cut(raw, []byte(`"end":"`))
			if !more {
				break
			}
			from = "&from=" + string(rest[:bytes.IndexByte(rest, '"')])
		}
	}
	b.ReportMetric(float64(events)/(cpu()-before).Seconds(), "events/cpu-s")
}
