// SPDX-License-Identifier: Apache-2.0

package front

import (
	"crypto/rand"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// slowCourier takes a while for every hello, and counts how many it is working on.
type slowCourier struct {
	Courier
	mu        sync.Mutex
	now, most int
}

func (c *slowCourier) Attach(func(uint32, []byte, func([32]byte) ([]byte, error)) []byte) {}

func (c *slowCourier) Hello(_ uint32, _ *[mailbox.UpSize]byte, _ *[mailbox.DownSize]byte, opening func(func())) func(net.Conn) {
	opening(c.open)
	return nil
}

func (c *slowCourier) open() {
	add := func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.now += n
		c.most = max(c.most, c.now)
	}
	add(1)
	time.Sleep(time.Millisecond)
	add(-1)
}

// withSlowCourier is a test's server with it.
func withSlowCourier(t *testing.T) (*Server, *slowCourier) {
	t.Helper()
	cfg, crowd := newTestServer(t).cfg, &slowCourier{}
	cfg.Courier = crowd
	s, err := New(cfg)
	must(t, err)
	return s, crowd
}

// A crowd of hellos is worked on by half of the processors, one after another; all are answered, and who brings halves over
// a link does not wait for them.
func TestACrowdOfStrangersLeavesHalfOfTheProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, crowd := withSlowCourier(t)
		var up [mailbox.UpSize]byte
		mailbox.LinkRequest(&up)
		up[1] = byte(mailbox.KindSession)
		var all sync.WaitGroup
		const hellos = 200
		for range hellos {
			all.Go(func() {
				b := &buffers{up: up}
				s.answer(b)
			})
		}
		began := time.Now()
		s.Half(mailbox.Epoch(time.Now()), make([]byte, mailbox.SealedGetSize), nil)
		if took := time.Since(began); took != 0 {
			t.Errorf("a half waited %v", took)
		}
		all.Wait()
		places := max(1, runtime.GOMAXPROCS(0)/2)
		if crowd.most != places {
			t.Errorf("%d hellos at once, want %d", crowd.most, places)
		}
		if took := time.Since(began); took != hellos/time.Duration(places)*time.Millisecond && hellos%places == 0 {
			t.Errorf("%d hellos took %v", hellos, took)
		}
	})
}

func (c *slowCourier) Carry(opening func(func() bool)) func(uint32, []byte, func([]byte)) {
	return func(_ uint32, box []byte, answer func([]byte)) {
		opening(func() bool { c.open(); return false })
		answer(mailbox.RefuseHalf(len(box), mailbox.ClearRefused))
	}
}

// The same of a crowd that brings layers over links. Who takes no answers holds up nobody else.
func TestACrowdOfLayersLeavesHalfOfTheProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, crowd := withSlowCourier(t)
		var all sync.WaitGroup
		defer all.Wait()
		const crowded = 50
		for i := range crowded {
			here, there := net.Pipe()
			defer here.Close()
			all.Go(func() { s.serveLink(s.links.enter(time.Now()), there) })
			b := mailbox.AppendLinkMessage(nil, mailbox.LinkMessage{Kind: mailbox.LinkKindOf(mailbox.HalfSize(false, 1)), Tag: 1, Data: make([]byte, mailbox.HalfSize(false, 1))})
			all.Go(func() { here.Write(b) })
			if i > 0 { // the first reads nothing
				all.Go(func() { mailbox.ReadLinkMessage(here, true) })
			}
		}
		time.Sleep(crowded * time.Millisecond)
		synctest.Wait()
		places := max(1, runtime.GOMAXPROCS(0)/2)
		if crowd.most != places || crowd.now != 0 {
			t.Errorf("%d were peeled at once, want %d; %d are", crowd.most, places, crowd.now)
		}
	})
}

// What a stranger's bytes cost: a request of UpSize bytes that is nonsense from its first byte, and the worst, one that must
// be opened to see that it is nonsense. Beside it stand BenchmarkFrame and BenchmarkHello (mailbox/courier).
func BenchmarkStrangersBytes(b *testing.B) {
	for name, kind := range map[string]mailbox.Kind{"nonsense": 99, "sealed": mailbox.KindSealed, "link": mailbox.KindLink} {
		b.Run(name, func(b *testing.B) {
			s := newTestServer(b)
			buf := &buffers{}
			mailbox.LinkRequest(&buf.up)
			epoch := mailbox.Epoch(time.Now())
			buf.up[1] = byte(kind)
			buf.up[4], buf.up[5], buf.up[6], buf.up[7] = byte(epoch>>24), byte(epoch>>16), byte(epoch>>8), byte(epoch)
			rand.Read(buf.up[mailbox.HeaderSize:])
			b.SetBytes(mailbox.UpSize)
			began := cpu(b)
			for b.Loop() {
				s.answer(buf)
				clear(s.links.all)
			}
			used := cpu(b) - began
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N)/mailbox.UpSize, "cpu-ns/byte")
			b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}
