// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/matrix"
	"tarn/onion"
	"tarn/onion/tornet"
	"tarn/replicate"
	"tarn/store"
)

func TestMain(m *testing.M) { os.Exit(tornet.Main(m)) }

// capture stands between a node and its tor, where its provider's wire would begin if tor added nothing: it hears every
// byte of every connection.
type capture struct {
	ln  net.Listener
	tor string // its SOCKS socket

	mu    sync.Mutex
	conns []*captured
}

// captured is one connection: what went each way, SOCKS handshake and all, in pieces as they were written.
type captured struct{ up, down []int }

// SOCKS's own bytes, either way: a greeting, a user with a password, an onion's name with a port.
const (
	socksUp   = 3 + (3 + 32 + 1) + (4 + 1 + 62 + 2)
	socksDown = 2 + 2 + (4 + 16 + 2) // tor answers with an IPv6 address of zeros
)

func startCapture(t *testing.T, dir, tor string) *capture {
	ln, err := net.Listen("unix", filepath.Join(dir, "capture"))
	if err != nil {
		t.Fatal(err)
	}
	c := &capture{ln: ln, tor: tor}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go c.serve(conn)
		}
	}()
	t.Cleanup(func() { ln.Close() })
	return c
}

func (c *capture) serve(node net.Conn) {
	defer node.Close()
	tor, err := net.Dial("unix", c.tor)
	if err != nil {
		return
	}
	defer tor.Close()
	x := &captured{}
	c.mu.Lock()
	c.conns = append(c.conns, x)
	c.mu.Unlock()
	done := make(chan struct{}, 2)
	pass := func(to, from net.Conn, note *[]int) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 1<<17)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				c.mu.Lock()
				*note = append(*note, n)
				c.mu.Unlock()
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go pass(tor, node, &x.up)
	go pass(node, tor, &x.down)
	<-done
}

// sizes says what was on the wire: connections with one exchange, those with more (sessions), the frames and pages of
// these, and the sizes that are none of the constants.
func (c *capture) sizes() (exchanges, sessions, frames, pages int, odd []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.conns {
		up, down := total(x.up)-socksUp, total(x.down)-socksDown
		if up <= 0 || down <= 0 {
			continue // it did not come about
		}
		k := up / mailbox.UpSize
		a, b := split(down, k)
		switch {
		case up%mailbox.UpSize != 0 || a < 0:
			odd = append(odd, fmt.Sprintf("%d up, %d down", up, down))
		case k == 1:
			exchanges++
		default:
			sessions, frames, pages = sessions+1, frames+k-1, pages+b
		}
	}
	return exchanges, sessions, frames, pages, odd
}

// split finds a and b so that down is a answers and b pages; a is at most k. -1: there are none.
func split(down, k int) (a, b int) {
	for a := k; a >= 0; a-- {
		if rest := down - a*mailbox.DownSize; rest >= 0 && rest%mailbox.PageFrameSize == 0 {
			return a, rest / mailbox.PageFrameSize
		}
	}
	return -1, -1
}

func total(xs []int) (sum int) {
	for _, x := range xs {
		sum += x
	}
	return sum
}

// startTor runs a tor whose sockets lie in dir.
func startTor(t *testing.T, dir string, torrc []string) (control, socks string) {
	t.Helper()
	program, err := exec.LookPath("tor")
	if err != nil {
		t.Skip(tornet.ErrMissing)
	}
	control, socks = filepath.Join(dir, "control"), filepath.Join(dir, "socks")
	lines := append([]string{"DataDirectory " + filepath.Join(dir, "data"), "ControlSocket " + control, "SocksPort unix:" + socks + " OnionTrafficOnly ExtendedErrors",
		"CookieAuthentication 1"}, torrc...)
	file := filepath.Join(dir, "torrc")
	var text []byte
	for _, l := range lines {
		text = append(append(text, l...), '\n')
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--defaults-torrc", os.DevNull, "-f", file)
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	return control, socks
}

func runTor(t *testing.T, cfg onion.Config) *onion.Tor {
	t.Helper()
	tor := onion.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tor.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("tor: %v", err)
		}
	})
	ready, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	if err := tor.WaitReady(ready); err != nil {
		t.Fatalf("%v; %+v", err, tor.Status())
	}
	return tor
}

// captureTalk lets two nodes become contacts and talk over real tor processes, and returns what was heard between the
// first one and its tor: through a courier, or directly.
func captureTalk(t *testing.T, through bool) *capture {
	torrc := tornet.Shared(t)
	dir, err := os.MkdirTemp("", "tarn") // a short path: unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	control, socks := startTor(t, dir, torrc)
	heard := startCapture(t, dir, socks)
	mine := runTor(t, onion.Config{Mode: onion.Attach, ControlSocket: control, SocksAddr: "unix:" + filepath.Join(dir, "capture")})
	other := runTor(t, onion.Config{Dir: t.TempDir(), Torrc: torrc})
	box := mailboxtest.New(t, mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = time.Second }),
		mailboxtest.WithNetwork(func(key ed25519.PrivateKey, port int) (net.Listener, error) {
			return other.Listen(t.Context(), key, port)
		}, other))
	if err := other.WaitPublished(t.Context(), box.Address().Onion); err != nil {
		t.Fatal(err)
	}
	carrier := mailboxtest.New(t, mailboxtest.WithoutStore(), mailboxtest.WithCourier(other, func(c *courier.Config) { c.Rate, c.Burst = 20, 200 }), // hastier than people are
		mailboxtest.WithNetwork(func(key ed25519.PrivateKey, port int) (net.Listener, error) {
			return other.Listen(t.Context(), key, port)
		}, other))
	if err := other.WaitPublished(t.Context(), carrier.Address().Onion); err != nil {
		t.Fatal(err)
	}
	var couriers []mailbox.Address
	if through {
		couriers = append(couriers, carrier.Address())
	}
	arrived := make(chan matrix.EventID, 100)
	node := func(name string, tor *onion.Tor) (*replicate.Engine, *rooms, onionid.Name, func()) {
		key, signing := ed25519.NewKeyFromSeed(digest(name, 0)), ed25519.NewKeyFromSeed(digest(name, 1))
		cert := onionid.Certify(key, signing.Public().(ed25519.PublicKey))
		kv := store.OpenMemory()
		rs := newRooms(cert.Server, kv, func(id matrix.EventID) { arrived <- id })
		e, err := replicate.New(replicate.Config{KV: kv, Rooms: rs, Identity: replicate.Identity{Key: key, Name: cert.Server, Certificate: cert},
			Stores: []mailbox.Address{box.Address()}, Profile: replicate.CustomProfile(600*time.Millisecond, 0.3), Seed: sha256.Sum256([]byte(name)),
			Couriers: couriers,
			Dial:     func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, tor) },
			Session: func(a mailbox.Address, p replicate.SessionParams) replicate.Courier {
				return replicate.NewSession(a, tor, p)
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		stop := sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		t.Cleanup(stop)
		return e, rs, cert.Server, stop
	}
	a, aRooms, aName, stop := node("alice", mine)
	b, bRooms, bName, _ := node("bob", other)
	link, err := a.Invite(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Accept(t.Context(), link); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(3 * time.Minute)
	for {
		ca, err1 := a.Contacts()
		cb, err2 := b.Contacts()
		if err1 == nil && err2 == nil && len(ca) == 1 && len(cb) == 1 && ca[0].State == replicate.Active && cb[0].State == replicate.Active {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no contacts over tor: %+v %+v", ca, cb)
		}
		time.Sleep(200 * time.Millisecond) // two engines' states: nothing tells
	}
	for range 3 {
		for _, x := range []struct {
			from *rooms
			to   onionid.Name
		}{{aRooms, bName}, {bRooms, aName}} {
			x.from.send(t, x.to)
			select {
			case <-arrived:
			case <-time.After(4 * time.Minute):
				ca, _ := a.Contacts()
				cb, _ := b.Contacts()
				t.Fatalf("a message does not arrive over tor: %+v %+v; %+v %+v", ca, cb, a.Counts(), b.Counts())
			}
		}
	}
	stop()
	return heard
}

func TestRealTorSeesOneSize(t *testing.T) {
	if os.Getenv("TARN_FULL") == "" {
		t.Skip("a minute over a private Tor network; `make full` and `make leakage` do it")
	}
	for _, courier := range []bool{false, true} {
		t.Run(fmt.Sprint("courier ", courier), func(t *testing.T) {
			exchanges, sessions, frames, pages, odd := captureTalk(t, courier).sizes()
			t.Logf("%d exchanges, %d sessions with %d frames and %d pages", exchanges, sessions, frames, pages)
			if len(odd) > 0 {
				t.Errorf("other sizes than the constants: %v", odd)
			}
			if !courier && exchanges < 20 || courier && (sessions == 0 || frames < 20 || pages < 5) {
				t.Error("too little was heard")
			}
		})
	}
}
