// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/store"
	"tarn/store/storetest"
)

// The players of the tests: nodes with rooms that are a plain graph of events, and stores that keep boxes in a map.
// The real rooms, stores and wire take their places in real_test.go.

// fakeStore is a store without cryptography, with faults. It follows the rules of package mailbox's client.
type fakeStore struct {
	address mailbox.Address
	bucket  time.Duration
	family  string
	closing time.Duration // after its end a bucket stays open that long

	mu      sync.Mutex
	boxes   map[mailbox.BoxID][mailbox.BoxSize]byte
	handles map[mailbox.Handle]mailbox.BoxID
	digest  map[uint64][]mailbox.Handle
	calls   []call
	delay   time.Duration
	down    error                                             // every transaction
	full    bool                                              // PUT
	hide    func(mailbox.Handle) bool                         // not listed
	swap    func(mailbox.Handle, *[mailbox.BoxSize]byte)      // what GET answers
	lie     func(p *mailbox.Page)                             // what DIGEST answers
	putting func(id mailbox.BoxID, box [mailbox.BoxSize]byte) // hears each PUT
	skew    time.Duration                                     // its clock's advance
	putErr  func(id mailbox.BoxID) error                      // a PUT's answer instead
	getErr  error                                             // a GET's answer instead
	drop    func(id mailbox.BoxID) bool                       // a PUT is acknowledged and thrown away
	written map[mailbox.BoxID]map[[sha256.Size]byte]bool      // every content ever put under an id
	desk    *fakeDesk                                         // nil: deposits are open
	writers map[onionid.Name]int                              // PUTs of frames, by the node
}

// call is what somebody on the way sees: when, and which store. Kind is for the tests alone.
type call struct {
	at   time.Duration // since the play began
	kind string
}

var playStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when a bubble begins

func newFakeStore(n byte) *fakeStore {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x80 | n}, 32))
	return &fakeStore{address: mailbox.Address{Onion: onionid.FromKey(key.Public().(ed25519.PublicKey))}, bucket: time.Second, closing: 100 * time.Millisecond,
		boxes: map[mailbox.BoxID][mailbox.BoxSize]byte{}, handles: map[mailbox.Handle]mailbox.BoxID{}, digest: map[uint64][]mailbox.Handle{},
		written: map[mailbox.BoxID]map[[sha256.Size]byte]bool{}}
}

// fakeClient is one node's way to a fakeStore.
type fakeClient struct {
	*fakeStore
	node  *node
	known bool
}

func (c *fakeClient) begin(ctx context.Context, kind string) error {
	c.mu.Lock()
	if !c.known && kind != "descriptor" {
		c.mu.Unlock()
		return mailbox.ErrNoDescriptor
	}
	c.calls = append(c.calls, call{time.Since(playStart), kind})
	if c.node != nil {
		c.node.callsMu.Lock()
		c.node.calls = append(c.node.calls, call{time.Since(playStart), string(c.address.Onion)})
		c.node.callsMu.Unlock()
	}
	delay, down := c.delay, c.down
	c.mu.Unlock()
	if c.node != nil && c.node.offline.Load() {
		return errors.New("no network")
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return down
}

func (c *fakeClient) Descriptor(ctx context.Context) (mailbox.Descriptor, error) {
	if c.fakeStore == nil { // a courier that is no store, and gives no session tokens
		return mailbox.Descriptor{}, nil
	}
	if err := c.begin(ctx, "descriptor"); err != nil {
		return mailbox.Descriptor{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = true
	return c.descriptor(), nil
}

func (c *fakeClient) descriptor() mailbox.Descriptor {
	d := mailbox.Descriptor{Geometry: 1, Family: c.family, Onion: c.address.Onion, Bucket: c.bucket, TTL: 14 * 24 * time.Hour,
		Keys: []mailbox.RequestKey{{Epoch: mailbox.Epoch(time.Now())}, {Epoch: mailbox.Epoch(time.Now()) + 1}}}
	if c.desk != nil {
		d.Deposits = c.desk.policy(mailbox.Epoch(time.Now()))
	}
	return d
}

func (c *fakeClient) Nothing(ctx context.Context) error { return c.begin(ctx, "nothing") }

func (c *fakeClient) Put(ctx context.Context, id mailbox.BoxID, box *[mailbox.BoxSize]byte, token *[mailbox.TokenSize]byte) error {
	if err := c.begin(ctx, "put"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.desk != nil {
		if err := c.desk.spend(id, token); err != nil {
			return err
		}
	}
	if c.written[id] == nil {
		c.written[id] = map[[sha256.Size]byte]bool{}
	}
	c.written[id][sha256.Sum256(box[:])] = true
	if c.putErr != nil {
		if err := c.putErr(id); err != nil {
			return err
		}
	}
	if c.full {
		return mailbox.ErrFull
	}
	if c.drop != nil && c.drop(id) {
		return nil
	}
	if c.putting != nil {
		c.putting(id, *box)
	}
	if old, ok := c.boxes[id]; ok {
		if old != *box {
			return mailbox.ErrExists
		}
		return nil
	}
	c.boxes[id] = *box
	h := id.Handle()
	c.handles[h] = id
	if c.hide == nil || !c.hide(h) {
		b := mailbox.BucketAt(time.Now().Add(c.skew), c.bucket)
		c.digest[b] = append(c.digest[b], h)
	}
	return nil
}

func (c *fakeClient) Get(ctx context.Context, h mailbox.Handle) (*[mailbox.BoxSize]byte, error) {
	if err := c.begin(ctx, "get"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	box := new([mailbox.BoxSize]byte)
	rand.Read(box[:])
	if id, ok := c.handles[h]; ok {
		*box = c.boxes[id]
	}
	if c.swap != nil {
		c.swap(h, box)
	}
	if c.getErr != nil {
		return nil, c.getErr
	}
	return box, nil
}

func (c *fakeClient) Digest(ctx context.Context, p mailbox.PageAddr) (mailbox.Page, error) {
	if err := c.begin(ctx, "digest"); err != nil {
		return mailbox.Page{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	from, to, ok := p.Buckets()
	if !ok {
		return mailbox.Page{}, mailbox.ErrBadReply
	}
	closed := mailbox.BucketAt(time.Now().Add(c.skew-c.closing), c.bucket)
	if _, end := p.Times(c.bucket); time.Now().Add(c.skew).Before(end.Add(c.closing)) {
		return mailbox.Page{}, mailbox.EarlyError{Closed: closed}
	}
	var all []mailbox.Handle
	if to-from < uint64(len(c.digest)) {
		for b := from; b < to; b++ {
			all = append(all, c.digest[b]...)
		}
	} else {
		for b, hs := range c.digest {
			if b >= from && b < to {
				all = append(all, hs...)
			}
		}
	}
	slices.SortFunc(all, func(a, b mailbox.Handle) int { return bytes.Compare(a[:], b[:]) })
	const per = 20 // so that tests have pages of several parts
	page := mailbox.Page{PageAddr: p, Parts: uint16(max(1, (len(all)+per-1)/per)), Closed: closed}
	lo := min(len(all), int(p.Part)*per)
	page.Handles = all[lo:min(len(all), lo+per)]
	if c.lie != nil {
		c.lie(&page)
	}
	return page, nil
}

// set changes its faults.
func (s *fakeStore) set(f func(*fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// lose forgets every box, as a broken disk would; the digest goes on. The caller has the lock (set).
func (s *fakeStore) lose() {
	clear(s.boxes)
	clear(s.handles)
}

// reused lists ids under which two different contents were put: an index was used twice.
func (s *fakeStore) reused() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.written {
		if len(c) > 1 {
			n++
		}
	}
	return n
}

// node is one player.
type node struct {
	codes   map[mailbox.Address]mailbox.Code
	prove   prover // nil: the real one
	t       testing.TB
	w       *world
	id      Identity
	kv      store.KV
	rooms   *fakeRooms
	own     []mailbox.Address
	profile Profile
	seed    [32]byte
	engine  *Engine
	stop    func()
	offline offline
	callsMu sync.Mutex // guards calls, trace and frames
	calls   []call
	trace   []trace

	accounts Accounts
	couriers []mailbox.Address // empty: direct mode
	frames   []seenFrame       // as its engine says

	introductions Introductions
	maxIntroduced int
	patience      int
}

type trace struct {
	at    time.Duration
	kind  slotKind
	store onionid.Name
}

type offline struct {
	mu sync.Mutex
	on bool
}

func (o *offline) Load() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.on }

func (o *offline) set(on bool) {
	o.mu.Lock()
	o.on = on
	o.mu.Unlock()
}

// world is a play's stage.
type world struct {
	t      testing.TB
	stores map[mailbox.Address]*fakeStore
	nodes  []*node

	couriers map[mailbox.Address]*fakeCourier
}

func newWorld(t testing.TB, stores int) *world {
	w := &world{t: t, stores: map[mailbox.Address]*fakeStore{}, couriers: map[mailbox.Address]*fakeCourier{}}
	for i := range stores {
		s := newFakeStore(byte(i))
		w.stores[s.address] = s
	}
	return w
}

func (w *world) store(n byte) *fakeStore {
	return w.stores[newFakeStore(n).address]
}

// node makes a player that fetches from the n-th store; it is not started.
func (w *world) node(n byte, p Profile) *node {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
	signing := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n | 0x40}, 32))
	cert := onionid.Certify(key, signing.Public().(ed25519.PublicKey))
	nd := &node{t: w.t, w: w, id: Identity{key, cert.Server, cert}, kv: store.OpenMemory(), profile: p,
		own: []mailbox.Address{w.store(n % byte(len(w.stores))).address}, seed: [32]byte{n}}
	nd.rooms = newFakeRooms(cert.Server)
	nd.rooms.kv = func() store.KV { return nd.kv }
	nd.rooms.certs[cert.Server] = cert
	w.nodes = append(w.nodes, nd)
	return nd
}

func (n *node) name() onionid.Name { return n.id.Name }

// left is how many frames left it, called how many transactions it made.
func (n *node) left() int {
	n.callsMu.Lock()
	defer n.callsMu.Unlock()
	return len(n.frames)
}

func (n *node) called() int {
	n.callsMu.Lock()
	defer n.callsMu.Unlock()
	return len(n.calls)
}

// config is its engine's.
func (n *node) config() Config {
	c := Config{KV: n.kv, Rooms: n.rooms, Accounts: n.accounts, Identity: n.id, Stores: n.own, Profile: n.profile, Seed: n.seed, Codes: n.codes, Introductions: n.introductions, MaxIntroduced: n.maxIntroduced, patience: n.patience,
		Dial: func(a mailbox.Address) Mailbox { return &fakeClient{fakeStore: n.w.stores[a], node: n} }}
	if len(n.couriers) > 0 {
		c.Couriers = n.couriers
		c.Session = func(a mailbox.Address, p SessionParams) Courier {
			return &fakeSession{fakeCourier: n.w.couriers[a], node: n, params: p}
		}
	}
	return c
}

// open makes the engine.
func (n *node) open() *Engine {
	n.t.Helper()
	e, err := New(n.config())
	if err != nil {
		n.t.Fatal(err)
	}
	e.trace = func(s slot) {
		n.callsMu.Lock()
		defer n.callsMu.Unlock()
		n.trace = append(n.trace, trace{time.Since(playStart), s.kind, s.store.address.Onion})
	}
	e.traceFrame = func(f frameTrace) {
		n.callsMu.Lock()
		defer n.callsMu.Unlock()
		n.frames = append(n.frames, seenFrame{at: time.Since(playStart), node: n.name(), put: f.put, get: f.get})
	}
	n.engine = e
	return e
}

// start runs it until stop.
func (n *node) start() {
	n.t.Helper()
	e := n.open()
	if n.prove != nil {
		e.prove = n.prove
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, storetest.ErrDied) {
			n.t.Errorf("Run: %v", err)
		}
		n.stop = nil
	}
}

func (w *world) stopAll() {
	for _, n := range w.nodes {
		if n.stop != nil {
			n.stop()
		}
	}
	if len(w.couriers) > 0 {
		time.Sleep(time.Hour) // what couriers still hold comes to its end
	}
}

// contact introduces two running nodes by a link and waits until both know.
func (w *world) contact(a, b *node) {
	w.t.Helper()
	l, err := a.engine.Invite(context.Background(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := b.engine.Accept(context.Background(), l); err != nil {
		w.t.Fatal(err)
	}
	w.until(time.Hour, "the contact", func() bool {
		return a.state(b.name()) == Active && b.state(a.name()) == Active && b.status(a.name()).Number != ""
	})
}

// friends makes two nodes contacts that share a room.
func (w *world) friends(a, b *node) {
	w.t.Helper()
	w.contact(a, b)
	a.rooms.join(lounge, a.name(), b.name())
	b.rooms.join(lounge, a.name(), b.name())
}

func (n *node) status(peer onionid.Name) ContactStatus {
	n.t.Helper()
	cs, err := n.engine.Contacts()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range cs {
		if c.Name == peer {
			return c
		}
	}
	return ContactStatus{}
}

func (n *node) state(peer onionid.Name) State { return n.status(peer).State }

// until lets (fake) time pass until cond holds.
func (w *world) until(limit time.Duration, what string, cond func() bool) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for !cond() {
		if time.Since(begin) > limit {
			for _, n := range w.nodes {
				cs, _ := n.engine.Contacts()
				w.t.Logf("%.8s: %+v\ncounts %+v", n.name(), cs, n.engine.Counts())
			}
			w.t.Fatalf("%s did not come about within %v", what, limit)
		}
		time.Sleep(max(50*time.Millisecond, limit/10000))
		synctest.Wait()
	}
	return time.Since(begin)
}

// has waits until a node has n events in a room.
func (w *world) has(n *node, id matrix.RoomID, count int, limit time.Duration) {
	w.t.Helper()
	w.until(limit, fmt.Sprintf("%d events at %.8s (it has %d)", count, n.name(), len(n.rooms.bodies(id))), func() bool { return len(n.rooms.bodies(id)) >= count })
}
