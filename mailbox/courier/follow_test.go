// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// nowhere is a network that reaches nothing.
type nowhere struct{}

func (nowhere) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no way there")
}

// point is some onion key.
func point(i byte) (k [32]byte) { k[0], k[31] = i, 1; return k }

// Sessions are counted where they follow, whatever becomes of the place; one that had none, or lost it, gets it when it can be had.
func TestFollowersCountTheirSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Keys: someKeys{testOnion(t)}, Dial: nowhere{}, MaxLinks: 2})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.Run(ctx); close(ended) }()
		defer func() { cancel(); <-ended }()
		var xs []*session
		for range 3 {
			xs = append(xs, newSession(s, false, 1, time.Now()))
		}
		x, y, z := xs[0], xs[1], xs[2]
		a, b, c := point(1), point(2), point(3)
		count := func(what string, t1 [32]byte, want int) {
			t.Helper()
			s.mu.Lock()
			defer s.mu.Unlock()
			have := -1
			if f := s.follows[t1]; f != nil {
				have = f.sessions
			}
			if have != want {
				t.Errorf("%s: %d sessions are counted, want %d (-1: it is not read)", what, have, want)
			}
		}
		x.follow([][32]byte{a, b}) // all places
		y.follow([][32]byte{c})    // none is left, and those have had no time yet
		count("no place", c, -1)
		time.Sleep(2 * followAgain)
		z.follow([][32]byte{c}) // one that is not reached loses its place
		count("its own place", c, 1)
		y.follow(nil) // was never counted
		count("after one left that was not counted", c, 1)
		y.follow([][32]byte{c})
		count("two", c, 2)
		lost := a
		if s.follows[a] != nil {
			lost = b
		}
		count("lost its place", lost, -1)
		time.Sleep(2 * followAgain)
		y.follow(nil)
		z.follow(nil)
		x.follow([][32]byte{a, b}) // the next frame: it is tried again
		count("the place again", lost, 1)
		x.leave()
		for _, k := range [][32]byte{a, b} {
			count("after the end", k, 0)
		}
	})
}

// someKeys are those of a mailbox that opens nothing.
type someKeys struct{ onion [32]byte }

func (someKeys) Get(uint32) *sealed.PrivateKey { return nil }
func (someKeys) Descriptor() []byte            { return nil }
func (k someKeys) Address() mailbox.Address    { return addressOf(k.onion) }

func testOnion(t *testing.T) [32]byte {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(public)
}

// An answer that was too late for its frame goes with the next that has none of its own; the newest first, for who waits for the others has asked again.
func TestLateAnswersTheNewestFirst(t *testing.T) {
	s, err := New(Config{Keys: someKeys{testOnion(t)}, Dial: nowhere{}})
	if err != nil {
		t.Fatal(err)
	}
	x := newSession(s, false, 1, time.Now())
	x.up = &mailbox.Channel{}
	for n := range uint32(6) {
		x.open[n] = struct{}{}
	}
	answered := func(frame uint32, want int) {
		t.Helper()
		got := -1
		if f := x.answers(frame); f.Get != nil {
			got = int(f.Get.Frame)
		}
		if got != want {
			t.Errorf("frame %d carries the answer to %d, not to %d", frame, got, want)
		}
	}
	answered(0, -1)
	answered(1, -1)
	for _, n := range []uint32{0, 1, 2, 4} {
		x.deliver(n, false, []byte("answer"))
	}
	answered(2, 2)
	answered(3, 1)
	answered(4, 4)
	answered(5, 0)
}
