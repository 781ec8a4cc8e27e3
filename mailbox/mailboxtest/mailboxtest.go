// SPDX-License-Identifier: Apache-2.0

// Package mailboxtest is a mailbox inside a test: the real server and the real protocol over connections in memory,
// which works in a testing/synctest bubble, and whose failures the test chooses. It also has the suite that every
// engine of a store passes ([TestEngine]).
//
// Problem: what uses mailboxes must survive those that are slow, full, broken, or lie. A fake with a map would let
// wrong sizes, seals and signatures pass; here only the wire and the misbehaviour are made up.
//
// Data: none; everything ends with the test.
package mailboxtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/front"
	"tarn/mailbox/store"
)

// ErrDown is the error of a dial while Fault.Down is set, or to an onion that no mailbox of the dialer has.
var ErrDown = errors.New("mailboxtest: the onion service cannot be reached")

// Mailbox is a running mailbox: a store, a courier, or both.
type Mailbox struct {
	// Faults is how it misbehaves.
	Faults *Faults

	t      testing.TB
	o      options
	keys   *front.Keys
	engine *faulty
	dial   func(ctx context.Context, addr, isolation string) (net.Conn, error)

	mu      sync.Mutex // guards all below
	log     []Transaction
	stop    func() // of what runs; nil: killed
	courier *courier.Server

	observed bool
	seen     []Seen
}

// Transaction is what an observer of the network sees of one exchange.
type Transaction struct {
	At        time.Time // of the dial
	Isolation string
	Up, Down  int // bytes
}

// An Option changes what New makes.
type Option func(*options)

type options struct {
	cfg     store.Config
	front   front.Config
	courier *courier.Config // nil: the role is off
	noStore bool
	mesh    *Mesh
	family  string
	blind   bool
	listen  func(key ed25519.PrivateKey, port int) (net.Listener, error)
	dialer  mailbox.Dialer
}

// WithConfig lets edit change the store's configuration (TTL, bucket, quota, directory…). By default everything lies
// in memory, with the store's defaults for the rest.
func WithConfig(edit func(*store.Config)) Option { return func(o *options) { edit(&o.cfg) } }

// WithFront lets edit change the configuration of the mailbox's door (numbers of connections, times).
func WithFront(edit func(*front.Config)) Option { return func(o *options) { edit(&o.front) } }

// WithCourier switches on the role of a courier, which reaches the stores through d; edit (nil: nothing) may change its
// configuration.
func WithCourier(d mailbox.Dialer, edit func(*courier.Config)) Option {
	return func(o *options) {
		o.courier = &courier.Config{Dial: d}
		if edit != nil {
			edit(o.courier)
		}
	}
}

// WithoutStore switches off the role of a store.
func WithoutStore() Option { return func(o *options) { o.noStore = true } }

// WithMesh makes the mailbox reachable in the mesh.
func WithMesh(m *Mesh) Option { return func(o *options) { o.mesh = m } }

// WithFamily sets the operator's label.
func WithFamily(family string) Option { return func(o *options) { o.family = family } }

// Unwatched makes connections plain ones: no log, no observer, no faults but of the dial. For tests with so many of them that
// watching would cost more than they do.
func Unwatched() Option { return func(o *options) { o.blind = true } }

// WithNetwork serves the mailbox on a network, for instance a host of oniontest, instead of on pipes: listen offers
// its onion, and dialer is what Dialer returns (faults of the wire and the log still apply).
func WithNetwork(listen func(key ed25519.PrivateKey, port int) (net.Listener, error), dialer mailbox.Dialer) Option {
	return func(o *options) { o.listen, o.dialer = listen, dialer }
}

// New starts a mailbox, which ends with the test. In a bubble it must be called inside.
func New(t testing.TB, opt ...Option) *Mailbox {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := options{cfg: store.Config{Onion: key, TTL: store.DefaultTTL, ExpiryUnit: store.DefaultExpiryUnit, Quota: 1 << 40}}
	for _, f := range opt {
		f(&o)
	}
	m := &Mailbox{Faults: &Faults{}, t: t, o: o}
	if o.cfg.Engine == nil && o.cfg.Dir == "" {
		o.cfg.Engine = store.NewMemory(o.cfg.ExpiryUnit, o.cfg.Quota)
	}
	if o.cfg.Engine != nil {
		m.engine = &faulty{Engine: o.cfg.Engine, faults: m.Faults}
		m.o.cfg.Engine = m.engine
	}
	m.Start()
	t.Cleanup(m.Kill)
	if o.mesh != nil {
		o.mesh.add(m)
	}
	return m
}

// Start runs a mailbox that was killed: what was on disk (or in the engine in memory) and its keys are there, all else is
// gone.
func (m *Mailbox) Start() {
	m.t.Helper()
	o := &m.o
	about := func(time.Time) (mailbox.Descriptor, error) { return mailbox.Descriptor{}, nil }
	var redeem func(*[mailbox.TokenSize]byte) bool
	if !o.noStore {
		server, err := store.New(o.cfg)
		if err != nil {
			m.t.Fatal(err)
		}
		o.front.Store, about = server, server.About
		if o.cfg.SessionTokens > 0 {
			redeem = server.RedeemSession
		}
	}
	if m.keys == nil {
		dir := o.cfg.Dir
		if dir != "" {
			dir = filepath.Join(dir, "keys")
		}
		keys, err := front.OpenKeys(dir, o.cfg.Onion, func(now time.Time) (mailbox.Descriptor, error) {
			d, err := about(now)
			d.Family = o.family
			if o.courier != nil {
				d.Roles |= mailbox.RoleCourier
			}
			return d, err
		})
		if err != nil {
			m.t.Fatal(err)
		}
		m.keys = keys
	}
	o.front.Keys = m.keys
	var carrier *courier.Server
	if o.courier != nil {
		cfg := *o.courier
		if cfg.Redeem == nil {
			cfg.Redeem = redeem
		}
		cfg.Keys, cfg.Dial = m.keys, &carriers{cfg.Dial, m.Faults}
		var err error
		if carrier, err = courier.New(cfg); err != nil {
			m.t.Fatal(err)
		}
		o.front.Courier = carrier
	}
	door, err := front.New(o.front)
	if err != nil {
		m.t.Fatal(err)
	}
	var ln net.Listener
	if o.listen != nil {
		if ln, err = o.listen(o.cfg.Onion, mailbox.Port); err != nil {
			m.t.Fatal(err)
		}
		m.dial = o.dialer.Dial
	} else {
		p := newPipes()
		ln, m.dial = p, p.dial
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- door.Run(ctx, ln) }()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.courier = carrier
	m.stop = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("mailbox: %v", err)
		}
	}
}

// Kill ends the mailbox: its connections break, what it held in memory is gone. Dials fail until Start.
func (m *Mailbox) Kill() {
	m.mu.Lock()
	stop := m.stop
	m.stop = nil
	m.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// Courier is the courier at work; nil: the role is off.
func (m *Mailbox) Courier() *courier.Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.courier
}

// Address is the line that its operator would give to others.
func (m *Mailbox) Address() mailbox.Address { return m.keys.Address() }

// Dialer reaches this mailbox, and nothing else.
func (m *Mailbox) Dialer() mailbox.Dialer { return Dialer(m) }

// Client is a new client of this mailbox.
func (m *Mailbox) Client() *mailbox.Client { return mailbox.NewClient(m.Address(), m.Dialer()) }

// Dialer reaches these mailboxes, and nothing else.
func Dialer(ms ...*Mailbox) mailbox.Dialer {
	d := dialer{}
	for _, m := range ms {
		d[m.dialAddress()] = m
	}
	return d
}

func (m *Mailbox) dialAddress() string {
	return string(m.Address().Onion) + ":" + strconv.Itoa(mailbox.Port)
}

// Mesh is a dialer that reaches all mailboxes made WithMesh, also later ones: couriers and stores find each other in it.
type Mesh struct {
	mu sync.Mutex // guards ms
	ms dialer
}

// NewMesh is an empty mesh.
func NewMesh() *Mesh { return &Mesh{ms: dialer{}} }

func (n *Mesh) add(m *Mailbox) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ms[m.dialAddress()] = m
}

// Dial is mailbox.Dialer's.
func (n *Mesh) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	n.mu.Lock()
	m := n.ms[addr]
	n.mu.Unlock()
	if m == nil {
		return nil, ErrDown
	}
	return m.connect(ctx, addr, isolation)
}

type dialer map[string]*Mailbox

// Dial is mailbox.Dialer's.
func (d dialer) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	m := d[addr]
	if m == nil {
		return nil, ErrDown
	}
	return m.connect(ctx, addr, isolation)
}

// Transactions is every exchange so far, in the order of the dials; failed dials have no bytes.
func (m *Mailbox) Transactions() []Transaction {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Transaction(nil), m.log...)
}

// Boxes is how many boxes it keeps.
func (m *Mailbox) Boxes() int64 {
	if m.engine == nil {
		return -1
	}
	return m.engine.Usage().Boxes
}

// Forget loses every box, as a broken disk would. Only with an engine in memory.
func (m *Mailbox) Forget() { m.engine.Engine.(*store.Memory).Forget() }

// connect dials through the faults of the wire.
func (m *Mailbox) connect(ctx context.Context, addr, isolation string) (net.Conn, error) {
	m.mu.Lock()
	i := len(m.log)
	if !m.o.blind {
		m.log = append(m.log, Transaction{At: time.Now(), Isolation: isolation})
	}
	down := m.stop == nil
	m.mu.Unlock()
	if down {
		return nil, ErrDown
	}
	f := m.Faults.Get()
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch {
	case f.Down:
		return nil, ErrDown
	case f.Unreachable:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := m.dial(ctx, addr, isolation)
	if err != nil || m.o.blind {
		return c, err
	}
	return &wire{Conn: c, fault: f, spy: &spy{m: m, conn: i}, closed: make(chan struct{}), count: func(up, down int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.log[i].Up += up
		m.log[i].Down += down
	}}, nil
}
