// SPDX-License-Identifier: Apache-2.0

package oniontest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"tarn/onion"
)

func TestTwinConforms(t *testing.T) {
	for _, link := range []Link{{}, {Dial: time.Second, Delay: 200 * time.Millisecond, Jitter: 100 * time.Millisecond}} {
		for _, c := range Conformance() {
			if link.Delay > 0 && c.Name == "anything but an onion and a port is refused at once" {
				continue
			}
			t.Run(fmt.Sprintf("delay %v/%s", link.Delay, c.Name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := New(1)
					defer n.Close()
					n.SetDefault(link)
					n.SetPublishDelay(3 * time.Second)
					c.Run(t, n.Host("client"), n.Host("server"))
				})
			})
		}
	}
}

func TestDelayIsWhatTheLinkSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		n.SetDefault(Link{Dial: time.Second, Delay: 250 * time.Millisecond})
		l := Listen(t, n.Host("b"), Key(t), 80)
		Serve(l, echo)
		start := time.Now()
		c := Dial(t, n.Host("a"), l.Addr().String(), "x")
		defer c.Close()
		if d := time.Since(start); d != 1500*time.Millisecond {
			t.Errorf("dial took %v, want 1.5s", d)
		}
		start = time.Now()
		c.Write([]byte("x"))
		io.ReadFull(c, make([]byte, 1))
		if d := time.Since(start); d != 500*time.Millisecond {
			t.Errorf("round trip took %v, want 500ms", d)
		}
	})
}

func TestWriterWaitsForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		l := Listen(t, n.Host("b"), Key(t), 80)
		c := Dial(t, n.Host("a"), l.Addr().String(), "x")
		defer c.Close()
		c.SetWriteDeadline(time.Now().Add(time.Minute))
		done, err := c.Write(make([]byte, 10*window))
		if done != window || !errors.Is(err, context.DeadlineExceeded) && err == nil {
			t.Errorf("wrote %d (%v) without a reader, want %d and an error", done, err, window)
		}
	})
}

func TestPartitionBreaksAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		l := Listen(t, n.Host("b"), Key(t), 80)
		Serve(l, echo)
		other := Listen(t, n.Host("c"), Key(t), 80)
		Serve(other, echo)
		addr := l.Addr().String()
		c := Dial(t, n.Host("a"), addr, "x")
		n.Partition([]string{"a"}, []string{"b"})
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection survived")
		}
		if n.Open() != 0 {
			t.Errorf("%d connections open, want 0", n.Open())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := n.Host("a").Dial(ctx, addr, "x"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 30*time.Second {
			t.Errorf("dial across: %v after %v, want a hang until the context ends", err, time.Since(start))
		}
		start = time.Now()
		if _, err := n.Host("a").Dial(t.Context(), addr, "x"); !errors.Is(err, onion.ErrUnreachable) || time.Since(start) != giveUp {
			t.Errorf("dial across without a deadline: %v after %v", err, time.Since(start))
		}
		n.Heal()
		Dial(t, n.Host("a"), addr, "x").Close()
		Dial(t, n.Host("a"), other.Addr().String(), "x").Close()
	})
}

func TestHostDownAndUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		n.SetPublishDelay(20 * time.Second)
		b := n.Host("b")
		l := Listen(t, b, Key(t), 80)
		Serve(l, echo)
		c := Dial(t, n.Host("a"), l.Addr().String(), "x")
		b.Down()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection survived")
		}
		if _, err := b.Dial(t.Context(), l.Addr().String(), "x"); !errors.Is(err, onion.ErrNotReady) {
			t.Errorf("dial from a host that is down: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host("a").Dial(ctx, l.Addr().String(), "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial to a host that is down: %v, want a hang", err)
		}
		b.Up()
		start := time.Now()
		Dial(t, n.Host("a"), l.Addr().String(), "x").Close()
		if d := time.Since(start); d < 20*time.Second {
			t.Errorf("found after %v, before it was published again", d)
		}
	})
}

// fates plays 200 dials on three links at once and tells which fail.
func fates(t *testing.T, seed uint64) string {
	out := ""
	synctest.Test(t, func(t *testing.T) {
		n := New(seed)
		defer n.Close()
		n.SetDefault(Link{Loss: 0.2, Hang: 0.1, Dial: time.Second, Jitter: time.Second})
		l := Listen(t, n.Host("b"), Key(t), 80)
		Serve(l, echo)
		results := make([]string, 3)
		done := make(chan struct{})
		for i := range results {
			go func() {
				for range 200 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					start := time.Now()
					c, err := n.Host(fmt.Sprint("a", i)).Dial(ctx, l.Addr().String(), "x")
					cancel()
					if err == nil {
						c.Close()
					}
					results[i] += fmt.Sprint(time.Since(start), err, "\n")
				}
				done <- struct{}{}
			}()
		}
		for range results {
			<-done
		}
		out = fmt.Sprint(results)
		if tr := n.Traffic("a0", "b"); tr.Dials != 200 || tr.Failed < 30 || tr.Failed > 90 {
			t.Errorf("%d of %d dials failed, want about 56 of 200", tr.Failed, tr.Dials)
		}
	})
	return out
}

func TestSameSeedSameFate(t *testing.T) {
	a, b, c := fates(t, 7), fates(t, 7), fates(t, 8)
	if a != b {
		t.Error("one seed, two fates")
	}
	if a == c {
		t.Error("two seeds, one fate")
	}
}

func TestTapSeesSizesTimesAndIsolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		rec := n.Record()
		l := Listen(t, n.Host("b"), Key(t), 80)
		Serve(l, func(c net.Conn) { io.ReadFull(c, make([]byte, 100)); c.Write(make([]byte, 7)) })
		for i := range 3 {
			c := Dial(t, n.Host("a"), l.Addr().String(), fmt.Sprint("p", i))
			time.Sleep(time.Second)
			c.Write(make([]byte, 100))
			io.ReadAll(c)
			c.Close()
		}
		synctest.Wait()
		flows := rec.Flows()
		if len(flows) != 3 {
			t.Fatalf("%d flows, want 3", len(flows))
		}
		for i, f := range flows {
			if f.Up != 100 || f.Down != 7 || f.From != "a" || f.To != "b" || f.Isolation != fmt.Sprint("p", i) || f.Addr != l.Addr().String() {
				t.Errorf("flow %d: %v %+v", i, f, f)
			}
			if f.Closed.IsZero() || len(f.Writes) != 2 || f.Writes[0].Time.Sub(f.Opened) != time.Second {
				t.Errorf("flow %d: %+v", i, f)
			}
		}
		if tr := n.Traffic("a", "b"); tr != (Traffic{Dials: 3, Up: 300, Down: 21}) {
			t.Errorf("traffic %+v", tr)
		}
	})
}

func TestHTTPOverTheTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		n.SetDefault(Link{Dial: time.Second, Delay: 100 * time.Millisecond})
		l := Listen(t, n.Host("b"), Key(t), 80)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })}
		go srv.Serve(l)
		defer srv.Close()
		hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return n.Host("a").Dial(ctx, addr, "x")
		}}}
		defer hc.CloseIdleConnections()
		resp, err := hc.Get("http://" + l.Addr().String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	})
}

// What one poll costs is in BenchmarkPoll; here: that nobody is lost in the crowd, and nothing is left of it.
func TestHundredHostsPollForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		defer n.Close()
		n.SetDefault(Link{Dial: time.Second, Delay: 100 * time.Millisecond})
		l := Listen(t, n.Host("mailbox"), Key(t), 80)
		Serve(l, func(c net.Conn) { io.ReadFull(c, make([]byte, 1000)); c.Write(make([]byte, 1000)) })
		const hosts, polls = 100, 60
		done := make(chan int)
		for i := range hosts {
			go func() {
				ok := 0
				for range polls {
					if poll(t.Context(), n.Host(fmt.Sprint("node", i)), l.Addr().String()) == nil {
						ok++
					}
					time.Sleep(10 * time.Second)
				}
				done <- ok
			}()
		}
		for range hosts {
			if ok := <-done; ok != polls {
				t.Errorf("%d of %d polls answered", ok, polls)
			}
		}
		synctest.Wait()
		if n.Open() != 0 {
			t.Errorf("%d connections left open", n.Open())
		}
	})
}

func poll(ctx context.Context, h *Host, addr string) error {
	c, err := h.Dial(ctx, addr, "x")
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 1000)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1000))
	return err
}

func BenchmarkPoll(b *testing.B) {
	n := New(1)
	l := Listen(b, n.Host("b"), Key(b), 80)
	Serve(l, func(c net.Conn) { io.ReadFull(c, make([]byte, 1000)); c.Write(make([]byte, 1000)) })
	h := n.Host("a")
	b.ReportAllocs()
	for b.Loop() {
		if err := poll(b.Context(), h, l.Addr().String()); err != nil {
			b.Fatal(err)
		}
	}
}
