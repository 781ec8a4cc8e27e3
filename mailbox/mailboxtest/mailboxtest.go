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
	"tarn/mailbox/front"
	"tarn/mailbox/store"
)

// ErrDown is the error of a dial while Fault.Down is set, or to an onion that no mailbox of the dialer has.
var ErrDown = errors.New("mailboxtest: the onion service cannot be reached")

// Mailbox is a running store.
type Mailbox struct {
	// Faults is how it misbehaves.
	Faults *Faults

	keys   *front.Keys
	engine *faulty
	dial   func(ctx context.Context, addr, isolation string) (net.Conn, error)

	mu  sync.Mutex // guards log
	log []Transaction
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
	cfg    store.Config
	front  front.Config
	family string
	listen func(key ed25519.PrivateKey, port int) (net.Listener, error)
	dialer mailbox.Dialer
}

// WithConfig lets edit change the store's configuration (TTL, bucket, quota, directory…). By default everything lies
// in memory, with the store's defaults for the rest.
func WithConfig(edit func(*store.Config)) Option { return func(o *options) { edit(&o.cfg) } }

// WithFront lets edit change the configuration of the mailbox's door (numbers of connections, times).
func WithFront(edit func(*front.Config)) Option { return func(o *options) { edit(&o.front) } }

// WithFamily sets the operator's label.
func WithFamily(family string) Option { return func(o *options) { o.family = family } }

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
	m := &Mailbox{Faults: &Faults{}}
	if o.cfg.Engine == nil && o.cfg.Dir == "" {
		o.cfg.Engine = store.NewMemory(o.cfg.ExpiryUnit, o.cfg.Quota)
	}
	if o.cfg.Engine != nil {
		m.engine = &faulty{Engine: o.cfg.Engine, faults: m.Faults}
		o.cfg.Engine = m.engine
	}
	server, err := store.New(o.cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir := o.cfg.Dir
	if dir != "" {
		dir = filepath.Join(dir, "keys")
	}
	m.keys, err = front.OpenKeys(dir, o.cfg.Onion, func(now time.Time) (mailbox.Descriptor, error) {
		d, err := server.About(now)
		d.Family = o.family
		return d, err
	})
	if err != nil {
		t.Fatal(err)
	}
	o.front.Keys, o.front.Store = m.keys, server
	door, err := front.New(o.front)
	if err != nil {
		t.Fatal(err)
	}
	var ln net.Listener
	if o.listen != nil {
		if ln, err = o.listen(o.cfg.Onion, mailbox.Port); err != nil {
			t.Fatal(err)
		}
		m.dial = o.dialer.Dial
	} else {
		p := newPipes()
		ln, m.dial = p, p.dial
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- door.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("mailbox: %v", err)
		}
	})
	return m
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
		d[string(m.Address().Onion)+":"+strconv.Itoa(mailbox.Port)] = m
	}
	return d
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
	m.log = append(m.log, Transaction{At: time.Now(), Isolation: isolation})
	m.mu.Unlock()
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
	if err != nil {
		return nil, err
	}
	return &wire{Conn: c, fault: f, closed: make(chan struct{}), count: func(up, down int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.log[i].Up += up
		m.log[i].Down += down
	}}, nil
}
