// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
)

// far is a network on which what is written takes a time to arrive, however much is on its way.
type far struct {
	mailbox.Dialer
	way time.Duration
}

func (f far) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	c, err := f.Dialer.Dial(ctx, addr, isolation)
	if err != nil {
		return nil, err
	}
	d := &farConn{Conn: c, way: f.way, out: make(chan parcel, 1000), closed: make(chan struct{})}
	go d.carry()
	return d, nil
}

type parcel struct {
	b  []byte
	at time.Time
}

type farConn struct {
	net.Conn
	way    time.Duration
	out    chan parcel
	closed chan struct{}
}

func (c *farConn) Write(b []byte) (int, error) {
	c.out <- parcel{append([]byte(nil), b...), time.Now().Add(c.way)}
	return len(b), nil
}

func (c *farConn) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return c.Conn.Close()
}

func (c *farConn) carry() {
	for {
		select {
		case p := <-c.out:
			select {
			case <-time.After(time.Until(p.at)):
			case <-c.closed:
				return
			}
			if _, err := c.Conn.Write(p.b); err != nil {
				return
			}
		case <-c.closed:
			return
		}
	}
}

// A courier keeps up with a store that lists its boxes more often than a question goes there and back.
func TestPagesOfAFarStoreComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bucket, way = 250 * time.Millisecond, 600 * time.Millisecond
		w := newWorldOf(t, bucket, func(c *courier.Config) { c.Dial = far{c.Dial, way} })
		w.connect()
		w.frame(nothing, nothing, 0, 0, time.Second, w.store.Address())
		time.Sleep(10 * time.Second)
		w.mu.Lock()
		first := len(w.pages)
		w.mu.Unlock()
		before := first
		const span = time.Minute
		var sum, most time.Duration
		for began := time.Now(); time.Since(began) < span; time.Sleep(10 * time.Millisecond) {
			w.mu.Lock()
			for _, p := range w.pages[before:] {
				_, end := p.Times(bucket)
				sum, most = sum+time.Since(end), max(most, time.Since(end))
				before++
			}
			w.mu.Unlock()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		pushed := map[uint64]int{}
		for _, p := range w.pages {
			if pushed[p.Index]++; pushed[p.Index] > 1 {
				t.Errorf("page %d was pushed twice", p.Index)
			}
		}
		seen := before - first
		mean := sum / time.Duration(seen)
		t.Logf("%d pages, pushed %v after their end, at most %v", seen, mean, most)
		if want := int(span/bucket) - 2; seen < want {
			t.Errorf("%d pages of %d were pushed", seen, want)
		}
		if limit := 2*way + 2*bucket; most > limit {
			t.Errorf("a page was pushed %v after its end, not within %v", most, limit)
		}
	})
}
