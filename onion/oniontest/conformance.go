// SPDX-License-Identifier: Apache-2.0

package oniontest

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/onion"
)

// A Case is one thing that every onion.Network does. Run gets two hosts that can reach each other.
type Case struct {
	Name string
	Run  func(t testing.TB, client, server onion.Network)
}

// patience is how long a case waits for what should come: real Tor on a busy machine.
const patience = 90 * time.Second

// brief is how long a case waits for what should not come.
const brief = 2 * time.Second

// Conformance is the suite that the twin and the real Tor both pass: it is why tests on the twin mean something.
func Conformance() []Case {
	return []Case{
		{"anything but an onion and a port is refused at once", notOnion},
		{"an onion never published is not found", notFound},
		{"bytes arrive whole and in order both ways", transfer},
		{"close is seen as EOF after the bytes under way", eof},
		{"read deadlines end a read, and the connection lives on", readDeadline},
		{"many connections at once, each with its own isolation", many},
		{"the end of the context ends a hanging dial", hanging},
		{"an onion has several ports, and refuses others", ports},
		{"a port is taken once, and options must agree", inUse},
		{"closing a listener ends Accept and a further Close errs", closeListener},
		{"a service can be opened again under its name", again},
		{"client authorisation lets in only who has the key", clientAuth},
		{"impossible services are refused", impossible},
	}
}

// Key is a fresh onion key.
func Key(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// NameOf is the onion name of key.
func NameOf(key ed25519.PrivateKey) onionid.Name {
	return onionid.FromKey(key.Public().(ed25519.PublicKey))
}

// Dial dials with retries on what is worth one, and fails the test after 90 seconds.
func Dial(t testing.TB, n onion.Network, addr, isolation string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := dial(ctx, n, addr, isolation)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	return c
}

// dial tries until ctx ends. A single try gets 30 seconds: a circuit that fails silently is replaced by then.
func dial(ctx context.Context, n onion.Network, addr, isolation string) (net.Conn, error) {
	for {
		once, cancel := context.WithTimeout(ctx, 30*time.Second)
		c, err := n.Dial(once, addr, isolation)
		cancel()
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		retry := errors.Is(err, onion.ErrDescNotFound) || errors.Is(err, onion.ErrIntroFailed) || errors.Is(err, onion.ErrRendFailed) ||
			errors.Is(err, onion.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded)
		if !retry {
			return nil, err
		}
		if serr := sleep(ctx, 500*time.Millisecond); serr != nil {
			return nil, err
		}
	}
}

// Listen offers a fresh or given key on port, waits until it is published, and closes it with the test.
func Listen(t testing.TB, n onion.Network, key ed25519.PrivateKey, port int, opt ...onion.ListenOption) net.Listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := n.Listen(ctx, key, port, opt...)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	if err := n.WaitPublished(ctx, NameOf(key)); err != nil {
		t.Fatalf("wait until published: %v", err)
	}
	return l
}

// Serve hands each connection of l to handle, and closes it after; it ends with l.
func Serve(l net.Listener, handle func(net.Conn)) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); handle(c) }()
		}
	}()
}

func echo(c net.Conn) { io.Copy(c, c) }

func notOnion(t testing.TB, client, _ onion.Network) {
	good := string(NameOf(Key(t)))
	flipped := []byte(good)
	flipped[10] ^= 1
	if flipped[10] < 'a' || flipped[10] > 'z' {
		flipped[10] = 'a' + (good[10]-'a'+1)%26
	}
	for _, addr := range []string{
		"", ":", ":80", "example.com:80", "localhost:80", "127.0.0.1:80", "[::1]:80", "unix:/tmp/x:80", "80",
		good, good + ":", good + ":0", good + ":65536", good + ":080", good + ":+80", good + ":80 ", " " + good + ":80",
		good + ":http", good + ":80:80", good + ".:80", "www." + good + ":80", strings.ToUpper(good) + ":80",
		strings.TrimSuffix(good, ".onion") + ":80", strings.TrimSuffix(good, ".onion") + ".exit:80", string(flipped) + ":80",
		"expyuzz4wqqyqhjn.onion:80", good + "\x00:80", good + ":80\r\n", strings.Repeat("a", 1<<20) + ".onion:80",
	} {
		start := time.Now()
		c, err := client.Dial(t.Context(), addr, "x")
		if err == nil {
			c.Close()
			t.Errorf("dial %.80q: connected", addr)
		} else if !errors.Is(err, onion.ErrNotOnion) {
			t.Errorf("dial %.80q: %v, want ErrNotOnion", addr, err)
		} else if addr != "" && strings.Contains(err.Error(), addr) && len(addr) > 2 {
			t.Errorf("dial %.80q: the error quotes the address: %.100v", addr, err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("dial %.80q took %v: something was tried", addr, d)
		}
	}
}

func notFound(t testing.TB, client, _ onion.Network) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, onion.Address(NameOf(Key(t)), 80), "x")
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, onion.ErrDescNotFound) {
		t.Fatalf("got %v, want ErrDescNotFound", err)
	}
}

func transfer(t testing.TB, client, server onion.Network) {
	l := Listen(t, server, Key(t), 80)
	Serve(l, echo)
	c := Dial(t, client, l.Addr().String(), "x")
	defer c.Close()
	if got := c.RemoteAddr().String(); got != l.Addr().String() {
		t.Errorf("remote address %q, want %q", got, l.Addr())
	}
	c.SetDeadline(time.Now().Add(patience))
	sent := make([]byte, 1<<20) // several windows: the echo must be read while we write
	rand.Read(sent)
	errc := make(chan error, 1)
	go func() { _, err := c.Write(sent); errc <- err }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read: %v", err)
	}
	if err := <-errc; err != nil {
		t.Fatalf("write: %v", err)
	}
	if !bytes.Equal(sent, got) {
		t.Fatal("the echo differs")
	}
}

func eof(t testing.TB, client, server onion.Network) {
	l := Listen(t, server, Key(t), 80)
	Serve(l, func(c net.Conn) { c.Write([]byte("last words")) })
	c := Dial(t, client, l.Addr().String(), "x")
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	if err != nil || string(b) != "last words" {
		t.Fatalf("read %q, %v", b, err)
	}
}

func readDeadline(t testing.TB, client, server onion.Network) {
	l := Listen(t, server, Key(t), 80)
	Serve(l, echo)
	c := Dial(t, client, l.Addr().String(), "x")
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v, want os.ErrDeadlineExceeded", err)
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("read after the deadline was moved: %v", err)
	}
}

func many(t testing.TB, client, server onion.Network) {
	l := Listen(t, server, Key(t), 80)
	Serve(l, echo)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c, err := dial(ctx, client, l.Addr().String(), fmt.Sprint("purpose ", i))
			if err != nil {
				t.Errorf("dial %d: %v", i, err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			var b, got [8]byte
			for k := range uint64(5) {
				binary.BigEndian.PutUint64(b[:], uint64(i)<<32|k)
				if _, err := c.Write(b[:]); err != nil {
					t.Errorf("write %d: %v", i, err)
				}
				if _, err := io.ReadFull(c, got[:]); err != nil || got != b {
					t.Errorf("echo %d: %x, want %x (%v)", i, got, b, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// hanging: a service whose program is gone, but whose descriptor is known, answers nothing.
func hanging(t testing.TB, client, server onion.Network) {
	l := Listen(t, server, Key(t), 80)
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), brief)
	defer cancel()
	start := time.Now()
	c, err := client.Dial(ctx, l.Addr().String(), "x")
	if err == nil {
		c.Close()
		t.Fatal("connected to a closed service")
	}
	if d := time.Since(start); d > brief+10*time.Second {
		t.Fatalf("the dial ended %v after its context: %v", d-brief, err)
	}
}

func ports(t testing.TB, client, server onion.Network) {
	key := Key(t)
	l1 := Listen(t, server, key, 80)
	l2 := Listen(t, server, key, 4001)
	Serve(l1, func(c net.Conn) { c.Write([]byte("one")) })
	Serve(l2, func(c net.Conn) { c.Write([]byte("two")) })
	for l, want := range map[net.Listener]string{l1: "one", l2: "two"} {
		c := Dial(t, client, l.Addr().String(), "x")
		c.SetDeadline(time.Now().Add(patience))
		if b, err := io.ReadAll(c); err != nil || string(b) != want {
			t.Errorf("read %q, %v, want %q", b, err, want)
		}
		c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if c, err := dial(ctx, client, onion.Address(NameOf(key), 81), "x"); !errors.Is(err, onion.ErrRefused) {
		if err == nil {
			c.Close()
		}
		t.Errorf("port 81: %v, want ErrRefused", err)
	}
}

func inUse(t testing.TB, _, server onion.Network) {
	key := Key(t)
	l, err := server.Listen(t.Context(), key, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := server.Listen(t.Context(), key, 80); !errors.Is(err, onion.ErrInUse) {
		t.Errorf("second Listen: %v, want ErrInUse", err)
	}
	if _, err := server.Listen(t.Context(), key, 81, onion.ProofOfWork(10, 100)); !errors.Is(err, onion.ErrInUse) {
		t.Errorf("Listen with other options: %v, want ErrInUse", err)
	}
}

func closeListener(t testing.TB, _, server onion.Network) {
	key := Key(t)
	l, err := server.Listen(t.Context(), key, 80)
	if err != nil {
		t.Fatal(err)
	}
	errc := make(chan error, 1)
	go func() { _, err := l.Accept(); errc <- err }()
	if err := l.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-errc; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v, want net.ErrClosed", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v, want net.ErrClosed", err)
	}
	if err := server.WaitPublished(t.Context(), NameOf(key)); !errors.Is(err, onion.ErrNoService) {
		t.Errorf("wait for a closed service: %v, want ErrNoService", err)
	}
}

func again(t testing.TB, client, server onion.Network) {
	key := Key(t)
	for i := range 2 {
		l := Listen(t, server, key, 80)
		Serve(l, func(c net.Conn) { c.Write([]byte{byte(i)}) })
		c := Dial(t, client, l.Addr().String(), fmt.Sprint(i))
		c.SetDeadline(time.Now().Add(patience))
		if b, err := io.ReadAll(c); err != nil || len(b) != 1 || b[0] != byte(i) {
			t.Fatalf("opening %d: read %v, %v", i, b, err)
		}
		c.Close()
		l.Close()
	}
}

func clientAuth(t testing.TB, client, server onion.Network) {
	type keyring interface {
		AddClientKey(onionid.Name, *ecdh.PrivateKey) error
	}
	right, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := Key(t)
	l := Listen(t, server, key, 80, onion.ClientAuth(right.PublicKey()))
	Serve(l, echo)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var c net.Conn
	for { // the descriptor may not yet be at the directory that is asked
		c, err = client.Dial(ctx, l.Addr().String(), "x")
		if !errors.Is(err, onion.ErrDescNotFound) || sleep(ctx, 500*time.Millisecond) != nil {
			break
		}
	}
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, onion.ErrNeedAuth) {
		t.Fatalf("without a key: %v, want ErrNeedAuth", err)
	}
	if err := client.(keyring).AddClientKey(NameOf(key), right); err != nil {
		t.Fatal(err)
	}
	Dial(t, client, l.Addr().String(), "x").Close()
}

func impossible(t testing.TB, _, server onion.Network) {
	key := Key(t)
	p256, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, f := range map[string]func() (net.Listener, error){
		"port 0":         func() (net.Listener, error) { return server.Listen(t.Context(), key, 0) },
		"port 65536":     func() (net.Listener, error) { return server.Listen(t.Context(), key, 65536) },
		"no key":         func() (net.Listener, error) { return server.Listen(t.Context(), nil, 80) },
		"short key":      func() (net.Listener, error) { return server.Listen(t.Context(), key[:32], 80) },
		"auth by nobody": func() (net.Listener, error) { return server.Listen(t.Context(), key, 80, onion.ClientAuth()) },
		"auth with P-256": func() (net.Listener, error) {
			return server.Listen(t.Context(), key, 80, onion.ClientAuth(p256.PublicKey()))
		},
		"PoW rate 0":    func() (net.Listener, error) { return server.Listen(t.Context(), key, 80, onion.ProofOfWork(0, 1)) },
		"ended context": func() (net.Listener, error) { return server.Listen(ended, key, 80) },
	} {
		if l, err := f(); err == nil {
			l.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
