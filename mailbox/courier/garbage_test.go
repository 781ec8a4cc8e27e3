// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
)

// Garbage ends the session that it comes in, and no other; ten thousand hellos and halves of garbage leave no memory behind.
func TestGarbageIsBounded(t *testing.T) {
	n := 1_000
	if os.Getenv("TARN_FULL") != "" {
		n = 10_000
	}
	w := newWorld(t, func(c *courier.Config) { c.MaxSessions = 50 })
	w.connect()
	dial := func() io.ReadWriteCloser {
		c, err := w.mesh.Dial(t.Context(), string(w.courier.Address().Onion)+":4001", "garbage")
		must(t, err)
		return c
	}
	d, ok := w.session.Courier().Current()
	if !ok {
		t.Fatal("no descriptor")
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	hello := func() {
		c := dial()
		defer c.Close()
		var up [mailbox.UpSize]byte
		var down [mailbox.DownSize]byte
		mailbox.LinkRequest(&up)
		up[1] = byte(mailbox.KindSession)
		up[4], up[5], up[6], up[7] = byte(d.Keys[0].Epoch>>24), byte(d.Keys[0].Epoch>>16), byte(d.Keys[0].Epoch>>8), byte(d.Keys[0].Epoch)
		_, err := c.Write(up[:])
		must(t, err)
		_, err = io.ReadFull(c, down[:])
		must(t, err)
		if mailbox.Clear(down[0]) != mailbox.ClearRefused {
			t.Errorf("garbage was answered with %d", down[0])
		}
	}
	hello()
	before := heap()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range n / 50 {
				hello()
			}
		})
	}
	// Meanwhile, frames of garbage in real sessions.
	for range 50 {
		c := dial()
		s := rawHello(t, c, d)
		if s {
			junk := make([]byte, mailbox.UpFrameSize)
			rand.Read(junk)
			c.Write(junk)
			if _, err := io.ReadFull(c, junk); err == nil {
				t.Error("garbage was answered in a session")
			}
		}
		c.Close()
	}
	wg.Wait()
	// The pipes that stand for connections keep about 1.4 kB each until their deadlines are over: no mailbox's memory.
	if grown := int64(heap()) - int64(before); grown > int64(n)*2000+2<<20 {
		t.Errorf("%d bytes more are held after %d hellos", grown, n)
	}
	if s := w.courier.Courier().Status(); s.Held > 20_000 {
		t.Errorf("%+v", s)
	}
	if !w.session.Connected() {
		t.Error("an honest session broke")
	}
	_, get := w.frame(nothing, nothing, 0, 0, 2*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, _, err := get.Wait(ctx); err != nil {
		t.Errorf("an honest frame: %v", err)
	}
}

// rawHello makes a session whose frames the test writes itself.
func rawHello(t *testing.T, c io.ReadWriter, d mailbox.Descriptor) bool {
	key := publicKey(t, d.Keys[0].Public)
	onion, err := d.Onion.Key()
	must(t, err)
	var up [mailbox.UpSize]byte
	var down [mailbox.DownSize]byte
	reply, err := mailbox.SealHello(&up, mailbox.Hello{Geometry: mailbox.Geometry}, key, mailbox.SessionInfo(onion, d.Keys[0].Epoch), d.Keys[0].Epoch)
	must(t, err)
	_, err = c.Write(up[:])
	must(t, err)
	_, err = io.ReadFull(c, down[:])
	must(t, err)
	_, _, err = mailbox.OpenWelcome(&down, reply)
	if err != nil && !errors.Is(err, mailbox.ErrBusy) {
		t.Error(err)
	}
	return err == nil
}
