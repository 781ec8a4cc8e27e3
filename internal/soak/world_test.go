// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"tarn/account"
	"tarn/clientapi"
	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/matrix"
	"tarn/onion/oniontest"
	"tarn/replicate"
	"tarn/room"
	"tarn/store"
	"tarn/store/storetest"
)

const (
	password  = "correct horse battery"
	stores    = 4
	couriers  = 3
	ownStores = 2
	degree    = 6 // contacts that a node has, about
)

// pace is the schedule of a run: economy's cover, one page a frame, and delays in proportion, so that a month costs minutes.
func pace(frame time.Duration) replicate.Profile {
	p, err := replicate.ParseProfile("economy")
	if err != nil {
		panic(err)
	}
	p.Name, p.Frame, p.Push = "soak", frame, max(frame, time.Second)
	p.AckDelay, p.SecondCopy, p.Want = 4*frame, 24*frame, 5*frame
	p.Retransmit, p.RetransmitMax = 96*frame, max(24*time.Hour, 288*frame)
	p.Heads = max(time.Hour, 96*frame)
	return p
}

// world is all of it. Its driver is one goroutine (play_test.go); what runs beside are nodes and mailboxes.
type world struct {
	t     *testing.T
	size  size
	rng   *rand.Rand // who knows whom, and when rooms begin
	fate  *rand.Rand // the troubles', which so do not depend on what people do
	net   *oniontest.Net
	boxes []*mailboxtest.Mailbox // stores, then couriers
	nodes []*node
	rooms []*gathering
	said  []*message
	texts map[string]*message
	start time.Time
	r     Result

	queue  queue
	order  int
	broken bool // a mailbox is
	last   bool // this is the last look: say more
}

// node is a homeserver with one user.
type node struct {
	w        *world
	n        int
	rng      *rand.Rand // its user's
	host     *oniontest.Host
	disk     store.KV // what survives a kill
	kv       store.KV
	cert     onionid.Certificate
	onion    ed25519.PrivateKey
	signing  ed25519.PrivateKey
	own      []mailbox.Address
	contacts []int
	stream   *store.Stream
	engine   *replicate.Engine
	api      http.Handler
	cancel   func()
	done     chan error
	starts   int
	cut      bool // from the network, while its user writes on
	busy     bool // something is happening to it
	frames   atomic.Int64

	user   matrix.UserID
	client *client
	liar   *liar // of a hostile node
}

func digest(what string, numbers ...uint64) []byte {
	b := []byte(what)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

func hostOf(i int) string { return fmt.Sprint("node", i) }

// newWorld makes mailboxes and nodes, and the graph of who knows whom: random, connected.
func newWorld(t *testing.T, s size) *world {
	w := &world{t: t, size: s, rng: rand.New(rand.NewPCG(s.seed, 0x50ac)), fate: rand.New(rand.NewPCG(s.seed, 0xfa7e)), net: oniontest.New(s.seed), texts: map[string]*message{}}
	w.r = Result{Nodes: s.nodes, Rooms: s.rooms, Days: s.days, Seed: s.seed, Frame: s.frame.Seconds()}
	for i := range stores + couriers {
		w.addMailbox(i)
	}
	for i := range s.nodes {
		w.addNode(i)
	}
	link := func(a, b int) {
		if x, y := w.nodes[a], w.nodes[b]; a != b && !slices.Contains(x.contacts, b) {
			x.contacts, y.contacts = append(x.contacts, b), append(y.contacts, a)
		}
	}
	for i := 1; i < s.nodes; i++ {
		link(i, w.rng.IntN(i)) // a tree: connected
	}
	for range s.nodes * degree * 4 {
		a, b := w.rng.IntN(s.nodes), w.rng.IntN(s.nodes)
		if s.clique || len(w.nodes[a].contacts) < degree && len(w.nodes[b].contacts) < degree {
			link(a, b)
		}
	}
	for a := range s.nodes * boolInt(s.clique) {
		for b := range a {
			link(a, b)
		}
	}
	return w
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (w *world) addMailbox(i int) {
	host := w.net.Host(fmt.Sprint("mailbox", i))
	key := ed25519.NewKeyFromSeed(digest("soak mailbox", w.size.seed, uint64(i)))
	opt := []mailboxtest.Option{
		mailboxtest.Unwatched(), mailboxtest.WithFamily(fmt.Sprint("operator ", i)),
		mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Onion, c.Bucket = key, max(10*time.Second, w.size.frame/2) }),
		mailboxtest.WithFront(func(c *front.Config) { c.MaxConns = 1 << 12 }),
		mailboxtest.WithNetwork(func(key ed25519.PrivateKey, port int) (net.Listener, error) {
			return host.Listen(context.Background(), key, port)
		}, host),
	}
	if i >= stores {
		opt = append(opt, mailboxtest.WithoutStore(), mailboxtest.WithCourier(host, func(*courier.Config) {}))
	}
	w.boxes = append(w.boxes, mailboxtest.New(w.t, opt...))
}

func (w *world) addNode(i int) {
	n := &node{w: w, n: i, rng: rand.New(rand.NewPCG(w.size.seed, 0x40de<<32+uint64(i))), host: w.net.Host(hostOf(i)), disk: store.OpenMemory(),
		onion: ed25519.NewKeyFromSeed(digest("soak node", w.size.seed, uint64(i))), signing: ed25519.NewKeyFromSeed(digest("soak signing", w.size.seed, uint64(i)))}
	n.cert = onionid.Certify(n.onion, n.signing.Public().(ed25519.PublicKey))
	for _, k := range w.rng.Perm(stores)[:ownStores] {
		n.own = append(n.own, w.boxes[k].Address())
	}
	w.nodes = append(w.nodes, n)
	n.kv = n.disk
	n.open()
	n.run()
	n.client = newClient(n)
}

func (w *world) must(err error) {
	if err != nil {
		w.t.Helper()
		w.t.Fatal(err)
	}
}

// open makes a node from what is on its disk.
func (n *node) open() {
	w := n.w
	server := n.cert.Server
	var err error
	n.stream, err = store.OpenStream(n.kv)
	w.must(err)
	accounts, err := account.Open(n.kv, n.stream, account.Options{Server: server, NoRateLimit: true})
	w.must(err)
	rooms, err := room.Open(n.kv, n.stream, room.Options{
		Signer: matrix.Signer{Server: server, KeyID: n.cert.KeyID, Key: n.signing}, Certificate: n.cert,
		EncodeReceipts: func(id matrix.RoomID, rs []room.Receipt) []byte {
			record, err := replicate.EncodeReceipts(id, rs)
			if err != nil {
				return nil
			}
			return record[1:]
		},
		Older: room.Older{Ahead: 200, Most: 10_000}, // as a node has it
	})
	w.must(err)
	if n.user == "" {
		n.user, err = accounts.Create(fmt.Sprint("u", n.n), password)
		w.must(err)
	}
	var carriers []mailbox.Address
	for _, b := range w.boxes[stores:] {
		carriers = append(carriers, b.Address())
	}
	var served replicate.Rooms = rooms
	if n.n < w.size.hostile {
		if n.liar == nil {
			n.liar = &liar{lies: map[matrix.EventID][]byte{}}
		}
		n.liar.Rooms = rooms
		served = n.liar
	}
	n.starts++ // a process that begins again draws another seed
	n.engine, err = replicate.New(replicate.Config{
		KV: n.kv, Rooms: served, Accounts: accounts, Profile: w.profile(), Identity: replicate.Identity{Key: n.onion, Name: server, Certificate: n.cert},
		Stores: n.own, Couriers: carriers, Introductions: replicate.NeededIntroductions, Log: slog.New(slog.DiscardHandler), Seed: [32]byte(digest("soak schedule", w.size.seed, uint64(n.n), uint64(n.starts))),
		Dial: func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, n.host) },
		Session: func(a mailbox.Address, p replicate.SessionParams) replicate.Courier {
			return &counting{replicate.NewSession(a, n.host, p), n}
		},
	})
	w.must(err)
	n.api = clientapi.New(clientapi.Config{Rooms: rooms, Accounts: accounts, Stream: n.stream, Server: server, NoRateLimit: true, Log: slog.New(slog.DiscardHandler)})
}

// counting counts a node's frames.
type counting struct {
	replicate.Courier
	n *node
}

// Send is a Courier's.
func (s *counting) Send(ctx context.Context, f *replicate.Frame) error {
	s.n.frames.Add(1)
	return s.Courier.Send(ctx, f)
}

// profile is a quick one while contacts are made.
func (w *world) profile() replicate.Profile {
	if w.start.IsZero() {
		return pace(min(w.size.frame, 15*time.Second))
	}
	return pace(w.size.frame)
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	engine := n.engine
	go func() { done <- engine.Run(ctx) }()
	n.cancel, n.done = cancel, done
}

func (n *node) up() bool { return n.cancel != nil }

// stop ends a node and everything that it had in memory.
func (n *node) stop() {
	if n.cancel == nil {
		return
	}
	n.cancel()
	if err := <-n.done; err != nil && n.kv == n.disk {
		n.w.t.Errorf("node %d: %v", n.n, err)
	}
	n.cancel, n.api = nil, nil
}

// resume starts it again from its disk. It dies after left further writes; negative: it does not.
func (n *node) resume(left int, after bool) {
	n.kv = n.disk
	n.open()
	if left >= 0 { // opening itself came to its end
		n.kv = &storetest.Mortal{KV: n.disk, Left: left, After: after}
		n.open()
	}
	n.run()
	n.w.r.Restarts++
}

// befriend makes all contacts, by links, as people do.
func (w *world) befriend() {
	for a, x := range w.nodes {
		for _, b := range x.contacts {
			if a > b {
				continue
			}
			link, err := x.engine.Invite(w.t.Context(), 7*24*time.Hour)
			w.must(err)
			_, err = w.nodes[b].engine.Accept(w.t.Context(), link)
			w.must(err)
		}
	}
	for end := time.Now().Add(24 * time.Hour); !w.friends(); time.Sleep(time.Minute) {
		if time.Now().After(end) {
			for _, x := range w.nodes {
				cs, _ := x.engine.Contacts()
				for _, c := range cs {
					if c.State != replicate.Active {
						w.t.Logf("node %d: %+v", x.n, c)
					}
				}
			}
			w.t.Fatal("the nodes are not contacts after a day")
		}
	}
}

func (w *world) friends() bool {
	for _, x := range w.nodes {
		cs, err := x.engine.Contacts()
		w.must(err)
		active := 0
		for _, c := range cs {
			if c.State == replicate.Active {
				active++
			}
		}
		if active < len(x.contacts) {
			return false
		}
	}
	return true
}
