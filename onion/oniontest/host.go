// SPDX-License-Identifier: Apache-2.0

package oniontest

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"tarn/crypto/onionid"
	"tarn/onion"
)

// Host is one computer with its tor: an onion.Network. Get it by [Net.Host].
type Host struct {
	net  *Net
	name string

	// guarded by net.mu
	down       bool
	services   map[onionid.Name]*service
	clientKeys map[onionid.Name][32]byte // public halves of the keys for services with client authorisation
}

// service is an onion that a host listens for, from its first port to the close of the last.
type service struct {
	host      *Host
	config    onion.ListenConfig
	ports     map[int]*listener
	published time.Time // when the world gets to know it
}

// Down cuts the host off: its connections break, its dials are refused with onion.ErrNotReady, dials to it hang.
func (h *Host) Down() {
	h.net.mu.Lock()
	h.down = true
	broken := h.net.cutLocked(func(f *flow) bool { return f.link.from == h.name || f.link.to == h.name })
	h.net.mu.Unlock()
	reset(broken)
}

// Up ends Down; services still listened for are published again.
func (h *Host) Up() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if !h.down {
		return
	}
	h.down = false
	for name, s := range h.services {
		s.published = time.Now().Add(h.net.publish)
		h.net.services[name] = s
	}
}

// AddClientKey is [onion.Tor.AddClientKey].
func (h *Host) AddClientKey(name onionid.Name, key *ecdh.PrivateKey) error {
	if key == nil || key.Curve() != ecdh.X25519() {
		return errors.New("client authorisation: not an x25519 key")
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.clientKeys[name] = [32]byte(key.PublicKey().Bytes())
	return nil
}

// Listen is [onion.Network].
func (h *Host) Listen(ctx context.Context, key ed25519.PrivateKey, port int, opt ...onion.ListenOption) (net.Listener, error) {
	config, err := onion.NewListenConfig(opt...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(ctx.Err(), onion.CheckListen(key, port)); err != nil {
		return nil, err
	}
	name := onionid.FromKey(key.Public().(ed25519.PublicKey))
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	s := h.services[name]
	if s == nil {
		s = &service{host: h, config: config, ports: map[int]*listener{}}
		h.services[name] = s
	} else if s.ports[port] != nil || !s.config.Equal(config) {
		return nil, onion.ErrInUse
	}
	l := &listener{service: s, name: name, port: port}
	l.cond.L = &l.mu
	s.ports[port] = l
	s.published = time.Now().Add(n.publish)
	n.services[name] = s // the newest descriptor wins, also over that of another host with the same key
	return l, nil
}

// WaitPublished is [onion.Network].
func (h *Host) WaitPublished(ctx context.Context, name onionid.Name) error {
	for {
		h.net.mu.Lock()
		s := h.services[name]
		down := h.down
		var wait time.Duration
		if s != nil {
			wait = time.Until(s.published)
		}
		h.net.mu.Unlock()
		switch {
		case s == nil:
			return onion.ErrNoService
		case down:
			wait = time.Second // nobody tells when it is up again, and tests know fake time
		case wait <= 0:
			return nil
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// Dial is [onion.Network].
func (h *Host) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	n := h.net
	name, port, err := n.parse(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	if h.down {
		n.mu.Unlock()
		return nil, onion.ErrNotReady
	}
	p := pair{from: h.name}
	s := n.services[name]
	if s != nil {
		p.to = s.host.name
	}
	k := n.link(p)
	k.dials++
	k.traffic.Dials++
	rng := n.rng(p, k.dials)
	n.mu.Unlock()

	c, err := h.dial(ctx, s, name, port, p, rng, isolation)
	if err != nil {
		n.mu.Lock()
		k.traffic.Failed++
		n.mu.Unlock()
		n.tap(Event{Kind: Fail, From: p.from, To: p.to, Addr: addr, Isolation: isolation, Time: time.Now()})
		return nil, fmt.Errorf("dial: %w", err)
	}
	return c, nil
}

// target is an address taken apart.
type target struct {
	name onionid.Name
	port int
}

// parse is onion.ParseAddress, remembering what was right: the check of the key in a name is 80 % of a poll's cost.
func (n *Net) parse(addr string) (onionid.Name, int, error) {
	n.mu.Lock()
	t, ok := n.targets[addr]
	n.mu.Unlock()
	if ok {
		return t.name, t.port, nil
	}
	name, port, err := onion.ParseAddress(addr)
	if err == nil {
		n.mu.Lock()
		n.targets[addr] = target{name, port}
		n.mu.Unlock()
	}
	return name, port, err
}

// dial plays one dial of the pair p: the time it takes, chance, then what the service is by then.
func (h *Host) dial(ctx context.Context, s *service, name onionid.Name, port int, p pair, rng *rand.Rand, isolation string) (net.Conn, error) {
	n := h.net
	n.mu.Lock()
	link := n.link(p).Link
	n.mu.Unlock()
	lost, hangs := rng.Float64() < link.Loss, rng.Float64() < link.Hang // always both draws: the next ones stay put
	if err := sleep(ctx, link.Dial+2*link.Delay+draw(rng, link.Jitter)); err != nil {
		return nil, err
	}
	hang := func() error {
		if err := sleep(ctx, giveUp); err != nil {
			return err
		}
		return onion.ErrUnreachable
	}
	if hangs {
		return nil, hang()
	}

	n.mu.Lock()
	if h.down {
		n.mu.Unlock()
		return nil, onion.ErrNotReady
	}
	if s != n.services[name] && n.services[name] != nil && n.services[name].host.name == p.to {
		s = n.services[name] // restarted meanwhile on the same host
	}
	switch {
	case s == nil || time.Now().Before(s.published):
		n.mu.Unlock()
		return nil, onion.ErrDescNotFound
	case len(s.config.ClientKeys) > 0 && !slices.Contains(s.config.ClientKeys, h.clientKeys[name]):
		n.mu.Unlock()
		return nil, onion.ErrNeedAuth // the descriptor cannot be read, whether its service is up or not
	case s.host.down || !n.meetLocked(p.from, p.to) || len(s.ports) == 0:
		n.mu.Unlock() // the descriptor is still there, but nobody answers: what Tor does is to wait
		return nil, hang()
	case lost:
		n.mu.Unlock()
		return nil, onion.ErrRendFailed
	}
	l := s.ports[port]
	if l == nil {
		n.mu.Unlock()
		return nil, onion.ErrRefused
	}
	f := n.openLocked(p, onion.Address(name, port), isolation, rng)
	n.mu.Unlock()
	n.tap(Event{Kind: Open, flow: f, Time: time.Now()})

	if !l.put(f.server()) {
		f.close()
		f.close()
		return nil, onion.ErrRefused
	}
	return f.client(), nil
}

func draw(rng *rand.Rand, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return time.Duration(rng.Int64N(int64(most) + 1))
}

// backlog is how many connections wait for Accept before more are refused, as on a socket.
const backlog = 1024

type listener struct {
	service *service
	name    onionid.Name
	port    int

	mu     sync.Mutex
	cond   sync.Cond
	queue  []net.Conn
	closed bool
}

func (l *listener) put(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.queue) >= backlog {
		return false
	}
	l.queue = append(l.queue, c)
	l.cond.Signal()
	return true
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.cond.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "onion", Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

// Addr implements net.Listener: an onion.Addr.
func (l *listener) Addr() net.Addr { return onion.Addr(onion.Address(l.name, l.port)) }

// Close implements net.Listener. The descriptor of a closed service stays known, as in Tor: dials to it hang.
func (l *listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	waiting := l.queue
	l.queue = nil
	l.cond.Broadcast()
	l.mu.Unlock()
	for _, c := range waiting {
		c.Close()
	}
	h := l.service.host
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	delete(l.service.ports, l.port)
	if len(l.service.ports) == 0 && h.services[l.name] == l.service {
		delete(h.services, l.name)
	}
	return nil
}
