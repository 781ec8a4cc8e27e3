// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net"
	"os"
	"testing"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
	"tarn/onion"
	"tarn/onion/tornet"
)

func TestMain(m *testing.M) { os.Exit(tornet.Main(m)) }

// newTor is a tor of the private network, which ends with the test.
func newTor(t *testing.T, torrc []string) *onion.Tor {
	t.Helper()
	dir, err := os.MkdirTemp("", "courier")
	must(t, err)
	tor := onion.New(onion.Config{Mode: onion.Managed, Dir: dir, Torrc: torrc})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tor.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; os.RemoveAll(dir) })
	return tor
}

// The same over real Tor: a box goes through a courier, is listed in a page that is pushed, and comes back.
func TestABoxGoesThroughACourierOverTor(t *testing.T) {
	torrc := tornet.Shared(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	theirs, ours := newTor(t, torrc), newTor(t, torrc)
	listen := func(key ed25519.PrivateKey, port int) (net.Listener, error) { return theirs.Listen(ctx, key, port) }
	st := mailboxtest.New(t, mailboxtest.WithNetwork(listen, theirs), mailboxtest.WithConfig(func(c *store.Config) { c.Bucket = time.Second }))
	co := mailboxtest.New(t, mailboxtest.WithNetwork(listen, ours), mailboxtest.WithoutStore(), mailboxtest.WithFamily("another"),
		mailboxtest.WithCourier(theirs, func(c *courier.Config) { c.PushLag = 2 * time.Second }))
	must(t, theirs.WaitPublished(ctx, st.Address().Onion))
	must(t, theirs.WaitPublished(ctx, co.Address().Onion))
	must(t, ours.WaitReady(ctx))

	pages := make(chan []byte, 100)
	s := mailbox.NewSession(co.Address(), ours, mailbox.SessionParams{Push: time.Second, OnPage: func(_ mailbox.Address, part []byte) { pages <- part }})
	t.Cleanup(func() { s.Close() })
	began := time.Now()
	must(t, s.Connect(ctx))
	t.Logf("the session was there after %v, Tor's circuits included", time.Since(began).Round(time.Millisecond))

	c := mailbox.NewClient(st.Address(), ours) // it never dials: all goes through the courier
	send := func(put, get *mailbox.Half, lag time.Duration) {
		t.Helper()
		must(t, s.Send(ctx, &mailbox.Frame{Put: put, Get: get, Lag: lag, Follow: []mailbox.Address{st.Address()}}))
	}
	idle, err := s.Idle(0)
	must(t, err)
	ask, err := s.Ask(st.Address(), 0)
	must(t, err)
	send(idle, ask, time.Second)
	for { // a late answer goes with a later frame
		wait, stop := context.WithTimeout(ctx, 3*time.Second)
		_, body, err := ask.Wait(wait)
		stop()
		if err == nil {
			_, err = c.SetDescriptor(body)
			must(t, err)
			break
		}
		must(t, ctx.Err())
		put, err := s.Idle(0)
		must(t, err)
		get, err := s.Courier().SealGet(nothing, 0)
		must(t, err)
		send(put, get, 0)
	}
	half := func(put bool, r mailbox.Request) *mailbox.Half {
		t.Helper()
		h, err := c.SealGet(r, 200*time.Millisecond)
		if put {
			h, err = c.SealPut(r, 200*time.Millisecond)
		}
		must(t, err)
		return h
	}
	id, box := randomBox()
	put := half(true, putOf(id, box))
	began = time.Now()
	send(put, half(false, nothing), 3*time.Second)
	_, _, err = put.Wait(ctx)
	must(t, err)
	t.Logf("the receipt came after %v, with a lag of 3 s", time.Since(began).Round(time.Millisecond))
	for found := false; !found; {
		select {
		case part := <-pages:
			p, err := c.ParsePushed(part)
			must(t, err)
			for _, h := range p.Handles {
				found = found || h == id.Handle()
			}
		case <-ctx.Done():
			t.Fatal("the box was in no page that was pushed")
		}
	}
	get := half(false, getOf(id))
	send(half(true, nothing), get, 3*time.Second)
	_, body, err := get.Wait(ctx)
	must(t, err)
	if !bytes.Equal(body, box) {
		t.Error("another box came back")
	}
}
