// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
)

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func report(b *testing.B, used time.Duration) {
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/used.Seconds(), "ops/s/core")
}

// echo is a store that costs nothing: it answers each request with the same bytes.
type echo struct{ descriptor []byte }

// Dial is mailbox.Dialer's.
func (e *echo) Dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		var up [mailbox.UpSize]byte
		var down [mailbox.DownSize]byte
		if _, err := io.ReadFull(there, up[:]); err != nil {
			return
		}
		mailbox.ClearAnswer(&down, mailbox.ClearDescriptor, e.descriptor)
		if _, err := there.Write(down[:]); err != nil {
			return
		}
		r := bufio.NewReaderSize(there, mailbox.MaxLinkMessage)
		receipt, answer := mailbox.RefuseHalf(mailbox.SealedPutSize, mailbox.ClearSealed), mailbox.RefuseHalf(mailbox.SealedGetSize, mailbox.ClearSealed)
		answers := make(chan []byte, 1024)
		defer close(answers)
		go func() {
			for a := range answers {
				there.Write(a)
			}
		}()
		for {
			m, err := mailbox.ReadLinkMessage(r, false)
			if err != nil {
				return
			}
			data := answer
			if m.Kind.Answer() == mailbox.LinkReceipt {
				data = receipt
			}
			answers <- mailbox.AppendLinkMessage(nil, mailbox.LinkMessage{Kind: m.Kind.Answer(), Tag: m.Tag, Data: data})
		}
	}()
	return here, nil
}

// A frame through a courier, from its bytes to those of the frame down, both halves handed to a store that costs nothing
// and their answers taken back. The connections are pipes in memory, whose work is counted too; the node's sealing is not.
func BenchmarkFrame(b *testing.B) {
	st := mailboxtest.New(b)
	d, raw, err := st.Client().Fetch(b.Context())
	must(b, err)
	mesh := mailboxtest.NewMesh()
	co := mailboxtest.New(b, mailboxtest.WithMesh(mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(&echo{raw}, func(c *courier.Config) {
		c.Rate, c.Burst = 1e9, 1e9
	}))
	conn, up := rawSession(b, mesh, co)
	onion, err := d.Onion.Key()
	must(b, err)
	f := mailbox.UpFrame{
		Lag: 0, Put: mailbox.SubRequest{Target: [32]byte(onion), Box: make([]byte, mailbox.SealedPutSize)},
		Get: mailbox.SubRequest{Target: [32]byte(onion), Box: make([]byte, mailbox.SealedGetSize)},
	}
	const most = 1 << 13 // frames that are sealed beforehand: 90 MB
	frames := make([][]byte, 0, most)
	var down atomic.Int64
	go func() {
		buf := make([]byte, mailbox.DownFrameSize)
		for {
			if _, err := io.ReadFull(conn, buf); err != nil {
				return
			}
			down.Add(1)
		}
	}()
	var used time.Duration
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		b.StopTimer()
		frames = frames[:0]
		for len(frames) < min(most, b.N-done) {
			x, err := up.AppendUpFrame(nil, &f)
			must(b, err)
			frames = append(frames, x)
		}
		b.StartTimer()
		began := cpu(b)
		for i, x := range frames {
			for int64(done+i)-down.Load() > 16 { // as many under way as a session may have, and fewer than are dropped
				runtime.Gosched()
			}
			_, err := conn.Write(x)
			must(b, err)
		}
		done += len(frames)
		for down.Load() < int64(done) {
			time.Sleep(100 * time.Microsecond)
		}
		used += cpu(b) - began
	}
	report(b, used)
}

// rawSession is a session whose frames the test seals.
func rawSession(b testing.TB, d mailbox.Dialer, co *mailboxtest.Mailbox) (net.Conn, *mailbox.Channel) {
	c := mailbox.NewClient(co.Address(), d)
	desc, err := c.Descriptor(b.Context())
	must(b, err)
	onion, err := desc.Onion.Key()
	must(b, err)
	conn, err := d.Dial(b.Context(), string(co.Address().Onion)+":4001", "session")
	must(b, err)
	var up [mailbox.UpSize]byte
	var down [mailbox.DownSize]byte
	reply, err := mailbox.SealHello(&up, mailbox.Hello{Geometry: mailbox.Geometry}, publicKey(b, desc.Keys[0].Public), mailbox.SessionInfo(onion, desc.Keys[0].Epoch), desc.Keys[0].Epoch)
	must(b, err)
	_, err = conn.Write(up[:])
	must(b, err)
	_, err = io.ReadFull(conn, down[:])
	must(b, err)
	salt, _, err := mailbox.OpenWelcome(&down, reply)
	must(b, err)
	layout, _ := mailbox.LayoutOf(mailbox.Geometry)
	ch, _ := mailbox.SessionChannels(layout, reply, salt)
	return conn, ch
}

// The raw limit beside which a frame stands: opening one that goes up and sealing one that goes down.
func BenchmarkBareFrameCrypto(b *testing.B) {
	key := make([]byte, chacha20poly1305.KeySize)
	aead, err := chacha20poly1305.New(key)
	must(b, err)
	nonce := make([]byte, chacha20poly1305.NonceSize)
	up := make([]byte, mailbox.UpFrameSize-mailbox.TagSize, mailbox.UpFrameSize)
	down := make([]byte, mailbox.DownFrameSize-1-mailbox.TagSize, mailbox.DownFrameSize)
	rand.Read(up)
	box := aead.Seal(nil, nonce, up, nil)
	out, in := make([]byte, 0, mailbox.UpFrameSize), make([]byte, 0, mailbox.DownFrameSize)
	began := cpu(b)
	for b.Loop() {
		if _, err := aead.Open(out, nonce, box, nil); err != nil {
			b.Fatal(err)
		}
		aead.Seal(in, nonce, down, nil)
	}
	report(b, cpu(b)-began)
}

// The hello of a session, which costs a hybrid HPKE opening.
func BenchmarkHello(b *testing.B) {
	mesh := mailboxtest.NewMesh()
	co := mailboxtest.New(b, mailboxtest.WithMesh(mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(mesh, nil))
	d, err := co.Client().Descriptor(b.Context())
	must(b, err)
	onion, err := d.Onion.Key()
	must(b, err)
	var up [mailbox.UpSize]byte
	var down [mailbox.DownSize]byte
	epoch := d.Keys[0].Epoch
	_, err = mailbox.SealHello(&up, mailbox.Hello{Geometry: 99}, publicKey(b, d.Keys[0].Public), mailbox.SessionInfo(onion, epoch), epoch)
	must(b, err) // of an unknown geometry: opened and refused, so that no places are used up
	began := cpu(b)
	for b.Loop() {
		if co.Courier().Hello(epoch, &up, &down, func(open func()) { open() }) != nil {
			b.Fatal("taken")
		}
	}
	report(b, cpu(b)-began)
}

// What a session takes that does nothing but be there, and one that is as full as it may be.
func BenchmarkSessionMemory(b *testing.B) {
	const sessions = 500
	memory := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	for b.Loop() {
		mesh := mailboxtest.NewMesh()
		co := mailboxtest.New(b, mailboxtest.WithMesh(mesh), mailboxtest.WithoutStore(), mailboxtest.WithCourier(mesh, nil))
		rawSession(b, mesh, co)
		before := memory()
		var conns []net.Conn
		var ups []*mailbox.Channel
		for range sessions {
			c, up := rawSession(b, mesh, co)
			conns, ups = append(conns, c), append(ups, up)
		}
		b.ReportMetric(float64(memory()-before)/sessions, "B/session-idle")
		for i, c := range conns {
			for range 20 {
				x, err := ups[i].AppendUpFrame(nil, &mailbox.UpFrame{Lag: mailbox.MaxDelay,
					Put: mailbox.SubRequest{Delay: mailbox.MaxDelay, Box: make([]byte, mailbox.SealedPutSize)},
					Get: mailbox.SubRequest{Delay: mailbox.MaxDelay, Box: make([]byte, mailbox.SealedGetSize)}})
				must(b, err)
				_, err = c.Write(x)
				must(b, err)
			}
		}
		b.ReportMetric(float64(memory()-before)/sessions, "B/session-full")
		b.ReportMetric(float64(co.Courier().Status().Held)/sessions, "held-B/session")
		for _, c := range conns {
			c.Close()
		}
		co.Kill()
	}
}
