// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A flood of connections, of which some send nothing and some a little, keeps out nobody who sends a request at the speed of a
// circuit: it begins a second after the connection, and takes two.
func TestAFloodOfConnectionsKeepsNobodyOut(t *testing.T) {
	for name, first := range map[string]int{"silent": 0, "a few bytes": 100} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const places, size, chunk, honest = 32, 10_000, 500, 100
				ctx, cancel := context.WithCancel(t.Context())
				p := newConns(places, time.Minute)
				var served atomic.Int64
				var working, most atomic.Int64
				fn := func(c net.Conn, sent func()) func() {
					most.Store(max(most.Load(), working.Add(1)))
					defer working.Add(-1)
					if _, err := io.ReadFull(c, make([]byte, size)); err != nil {
						return nil
					}
					sent()
					time.Sleep(25 * time.Millisecond)
					if _, err := c.Write([]byte{1}); err == nil {
						served.Add(1)
					}
					return nil
				}
				connect := func() net.Conn {
					here, there := net.Pipe()
					p.serve(ctx, there, fn)
					return here
				}
				var flood sync.WaitGroup
				flood.Go(func() {
					var held []net.Conn
					for ctx.Err() == nil { // a hundred a second, each held for as long as it may
						c := connect()
						if held = append(held, c); first > 0 {
							flood.Go(func() { c.Write(make([]byte, first)) })
						}
						time.Sleep(10 * time.Millisecond)
					}
					for _, c := range held {
						c.Close()
					}
				})
				time.Sleep(20 * time.Second)
				ok := 0
				for range honest {
					c := connect()
					time.Sleep(time.Second)
					sent := 0
					for ; sent < size; sent += chunk {
						if _, err := c.Write(make([]byte, chunk)); err != nil {
							break
						}
						time.Sleep(2 * time.Second * chunk / size)
					}
					if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
						ok++
					}
					c.Close()
				}
				cancel()
				flood.Wait()
				p.drain(time.Second)
				t.Logf("%d of %d honest requests were answered, of %d; at most %d were worked on", ok, honest, served.Load(), most.Load())
				if ok < honest*6/10 { // a silent one stays five seconds here, on average
					t.Errorf("%d of %d honest requests were answered", ok, honest)
				}
				if n := most.Load(); n > places {
					t.Errorf("%d at once in %d places", n, places)
				}
			})
		})
	}
}
