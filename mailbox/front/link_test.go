// SPDX-License-Identifier: Apache-2.0

package front

import (
	"crypto/rand"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// Who holds all links and brings garbage of the right length, or next to nothing, keeps out no courier: a newcomer has the place
// of one that brought least, and that is none which brings what can be opened.
func TestLinksThatBringNothingKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 8
		plain := newTestServer(t)
		cfg := plain.cfg
		cfg.MaxLinks = most
		s, err := New(cfg)
		must(t, err)
		key, info, epoch := s.cfg.Keys.Get(mailbox.Epoch(time.Now())).Public(), mailbox.RequestInfo(s.cfg.Keys.Onion(), mailbox.Epoch(time.Now())), mailbox.Epoch(time.Now())
		var all sync.WaitGroup
		defer all.Wait()
		// link connects and brings a half each time until it is ended; nil: it got no place.
		link := func(half func() []byte, each time.Duration) (conn net.Conn, ended chan struct{}) {
			b := &buffers{}
			mailbox.LinkRequest(&b.up)
			serve := s.answer(b)
			if serve == nil {
				return nil, nil
			}
			here, there := net.Pipe()
			ended = make(chan struct{})
			all.Go(func() { serve(there) })
			all.Go(func() { io.Copy(io.Discard, here) })
			all.Go(func() {
				defer close(ended)
				for tag := uint32(0); ; tag++ {
					m := mailbox.AppendLinkMessage(nil, mailbox.LinkMessage{Kind: mailbox.LinkGet, Tag: tag, Epoch: epoch, Data: half()})
					if _, err := here.Write(m); err != nil {
						return
					}
					time.Sleep(each)
				}
			})
			return here, ended
		}
		garbage := func() []byte { b := make([]byte, mailbox.SealedGetSize); rand.Read(b); return b }
		good := func() []byte {
			b, _, err := mailbox.SealHalf(false, mailbox.Request{Op: mailbox.OpNothing}, key, info)
			if err != nil {
				panic(err)
			}
			return b
		}
		honest, lost := link(good, 20*time.Second)
		defer honest.Close()
		var hostile []net.Conn
		for i := range most - 1 {
			half, each := garbage, 20*time.Second // often
			if i%2 == 0 {
				half, each = good, time.Minute // or something, seldom
			}
			c, _ := link(half, each)
			hostile = append(hostile, c)
		}
		defer func() {
			for _, c := range hostile {
				c.Close()
			}
		}()
		for i := range 6 {
			time.Sleep(3 * time.Minute)
			c, ended := link(good, 20*time.Second)
			if c == nil {
				t.Errorf("newcomer %d has no place", i)
				break
			}
			time.Sleep(30 * time.Second)
			for range most { // a crowd that comes after it, and is gone again
				if h, _ := link(garbage, 5*time.Second); h != nil {
					hostile = append(hostile, h)
				}
			}
			time.Sleep(20 * time.Second)
			select {
			case <-ended:
				t.Errorf("newcomer %d lost its place", i)
			case <-lost:
				t.Errorf("the honest link lost its place to newcomer %d or its crowd", i)
			default:
			}
			c.Close()
		}
	})
}
