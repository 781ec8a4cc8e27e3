// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/internal/leakage"
	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/matrix"
	"tarn/onion/oniontest"
	"tarn/replicate"
	"tarn/store"
)

// torDelay is what the simulations behind the design assume, too: 0.7 s one way.
var torDelay = oniontest.Link{Dial: 500 * time.Millisecond, Delay: 550 * time.Millisecond, Jitter: 300 * time.Millisecond}

// plan is what a world is to be.
type plan struct {
	chat     *leakage.Chat
	profile  replicate.Profile
	stores   int
	couriers int
	seed     uint64
	warm     time.Duration                 // how long befriending may take
	hours    time.Duration                 // 0: all of chat's
	silent   bool                          // the same world, but nobody says a word
	watch    func(*world, *sync.WaitGroup) // begins at hour 0, ends with the last
	tokens   bool                          // the stores want them
	steady   bool                          // connections always take the same time: chance in them follows targets, which the network does not see
}

// outcome is what came of it. Its fields are exported for encoding/gob.
type outcome struct {
	Log      *leakage.Log
	Delivery []time.Duration // of each message, from send to the peer's room
	Late     int             // messages that did not arrive in their hour
	Lost     int             // things that a store did and nobody asked for
}

// player is one node.
type player struct {
	w      *world
	n      int
	id     replicate.Identity
	kv     store.KV
	rooms  *rooms
	host   *oniontest.Host
	own    []mailbox.Address
	seed   [32]byte
	engine *replicate.Engine
	stop   func()

	mu      sync.Mutex
	waiting map[matrix.EventID]chan struct{}
}

type world struct {
	t            *testing.T
	plan         plan
	net          *oniontest.Net
	rec          *recorder
	boxes        []*mailboxtest.Mailbox
	engines      []mailboxstore.Engine
	index        map[mailbox.Address]int
	couriers     []mailbox.Address
	courierIndex map[mailbox.Address]int
	players      []*player

	mu       sync.Mutex
	delivery []time.Duration
	late     int
}

// run is a world's whole life, inside of a bubble: mailboxes, nodes, contacts, and the hours.
func run(t *testing.T, p plan) outcome {
	w := &world{t: t, plan: p, net: oniontest.New(p.seed), index: map[mailbox.Address]int{}, courierIndex: map[mailbox.Address]int{}}
	w.rec = &recorder{asked: map[request][]origin{}, byHost: map[string]int{}, zero: time.Now().Add(1000 * time.Hour),
		log: leakage.Log{Nodes: p.chat.Nodes, Hours: p.chat.Hours, Readers: map[uint64]int{}}}
	defer w.net.Close()
	link := torDelay
	if p.steady {
		link.Jitter = 0
	}
	w.net.SetDefault(link)
	if p.hours == 0 {
		p.hours = time.Duration(p.chat.Hours) * time.Hour
	}
	for i := range p.stores {
		w.addMailbox(i)
	}
	for i := range p.couriers {
		w.addCourier(i)
	}
	for i := range p.chat.Nodes {
		w.addPlayer(i)
	}
	// The hours begin when befriending, and what it leaves to say, is over; in every world at the same time.
	zero := time.Now().Add(p.warm)
	w.befriend()
	if time.Now().After(zero) {
		t.Fatalf("befriending took longer than %v", p.warm)
	}
	w.rec.mu.Lock()
	w.rec.zero = zero
	w.rec.log.Ops, w.rec.log.Packets, w.rec.log.Frames = nil, nil, nil
	w.rec.mu.Unlock()
	w.net.Tap(w.rec.packet)
	time.Sleep(time.Until(zero))
	var live sync.WaitGroup
	if p.chat.Uptimes != nil {
		for _, x := range w.players {
			live.Go(func() { w.commute(x) })
		}
	}
	if p.watch != nil {
		p.watch(w, &live)
	}
	if !p.silent {
		for i := range p.chat.Conversations {
			live.Go(func() { w.converse(&p.chat.Conversations[i]) })
		}
	}
	time.Sleep(time.Until(zero.Add(p.hours)))
	live.Wait()
	out := outcome{&w.rec.log, w.delivery, w.late, w.rec.lost}
	w.stopAll()
	w.readDisks()
	out.Log.Sort()
	return out
}

func (w *world) addMailbox(i int) {
	host := w.net.Host(fmt.Sprint("mailbox", i))
	key := ed25519.NewKeyFromSeed(digest("mailbox", i))
	memory := mailboxstore.NewMemory(mailboxstore.DefaultExpiryUnit, 1<<40)
	w.engines = append(w.engines, memory)
	m := mailboxtest.New(w.t, mailboxtest.WithConfig(func(c *mailboxstore.Config) {
		c.Onion = key
		c.Engine = &engine{memory, i, w.rec}
		if w.plan.tokens {
			c.Deposit, c.WorkBits = mailbox.DepositTokens, 4
		}
	}), mailboxtest.WithFront(func(c *front.Config) { c.MaxConns = 1 << 14 }), mailboxtest.WithNetwork(func(key ed25519.PrivateKey, port int) (net.Listener, error) {
		return host.Listen(w.t.Context(), key, port)
	}, host))
	w.index[m.Address()] = i
	w.boxes = append(w.boxes, m)
}

func digest(what string, i int) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(what), uint64(i)))
	return sum[:]
}

func (w *world) addPlayer(i int) {
	key := ed25519.NewKeyFromSeed(digest("node", i))
	signing := ed25519.NewKeyFromSeed(digest("signing", i))
	cert := onionid.Certify(key, signing.Public().(ed25519.PublicKey))
	name := fmt.Sprintf("node%d", i)
	p := &player{w: w, n: i, id: replicate.Identity{Key: key, Name: cert.Server, Certificate: cert}, kv: store.OpenMemory(),
		host: w.net.Host(name), seed: [32]byte(digest(fmt.Sprint("seed", w.plan.seed), i)), waiting: map[matrix.EventID]chan struct{}{}}
	p.rooms = newRooms(cert.Server, p.kv, p.read)
	choice := rand.New(rand.NewPCG(w.plan.seed, uint64(i)))
	for _, k := range choice.Perm(w.plan.stores)[:min(ownStores, w.plan.stores)] {
		p.own = append(p.own, w.boxes[k].Address())
	}
	w.rec.byHost[name] = i
	var at []int
	for _, a := range p.own {
		at = append(at, w.index[a])
	}
	w.rec.log.Stores = append(w.rec.log.Stores, at)
	w.rec.log.Couriers = append(w.rec.log.Couriers, nil)
	w.players = append(w.players, p)
	p.start()
}

// ownStores is how many stores a node's contacts write to.
const ownStores = 3

// start runs the node's engine, anew or again.
func (p *player) start() {
	cfg := replicate.Config{KV: p.kv, Rooms: p.rooms, Identity: p.id, Stores: p.own, Profile: p.w.plan.profile, Seed: p.seed,
		Dial: func(a mailbox.Address) replicate.Mailbox {
			at, ok := p.w.index[a]
			if !ok {
				at = -1 // a courier
			}
			return &client{Client: mailbox.NewClient(a, p.host), player: p, store: at}
		}}
	if p.w.plan.couriers > 0 {
		cfg.Couriers, cfg.Session = p.w.couriers, p.session
	}
	e, err := replicate.New(cfg)
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.seed = sha256.Sum256(p.seed[:]) // a process that begins again draws another one
	p.engine = e
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	p.stop = func() {
		cancel()
		if err := <-done; err != nil {
			p.w.t.Errorf("node %d: %v", p.n, err)
		}
		p.stop = nil
	}
}

func (w *world) stopAll() {
	var all sync.WaitGroup
	for _, p := range w.players {
		if p.stop != nil {
			all.Go(p.stop)
		}
	}
	all.Wait()
}

// client is the node's side of a store in direct mode, which tells the recorder whose request it is.
type client struct {
	*mailbox.Client
	player *player
	store  int
}

func (c *client) ask(k leakage.Kind, box uint64) {
	c.player.w.rec.ask(c.player.n, -1, c.store, k, box, time.Now())
}

func (c *client) Descriptor(ctx context.Context) (mailbox.Descriptor, error) {
	c.ask(leakage.Describe, 0)
	return c.Client.Descriptor(ctx)
}

func (c *client) Put(ctx context.Context, id mailbox.BoxID, box *[mailbox.BoxSize]byte, token *[mailbox.TokenSize]byte) error {
	c.player.put(id)
	c.ask(leakage.Put, boxName(id.Handle()))
	return c.Client.Put(ctx, id, box, token)
}

func (c *client) Nothing(ctx context.Context) error {
	c.ask(leakage.Nothing, 0)
	return c.Client.Nothing(ctx)
}

func (c *client) Get(ctx context.Context, h mailbox.Handle) (*[mailbox.BoxSize]byte, error) {
	c.ask(leakage.Get, boxName(h))
	return c.Client.Get(ctx, h)
}

func (c *client) Digest(ctx context.Context, p mailbox.PageAddr) (mailbox.Page, error) {
	c.ask(leakage.Digest, 0)
	return c.Client.Digest(ctx, p)
}

// tableBoxMeta is package replicate's table of sealed boxes (rows.go there): it knows which boxes are no cover.
const tableBoxMeta = store.TableContact + 0x3

// put notes for whom a box is, if it is not cover.
func (p *player) put(id mailbox.BoxID) {
	for _, c := range p.w.plan.chat.Contacts[p.n] {
		peer := p.w.players[c]
		err := p.kv.View(func(r store.Reader) error {
			return r.Scan(store.Key(tableBoxMeta, string(peer.id.Name)), nil, func(_, v []byte) (bool, error) {
				if bytes.Contains(v, id[:]) {
					p.w.rec.isFor(boxName(id.Handle()), c)
					return false, nil
				}
				return true, nil
			})
		})
		if err != nil {
			p.w.t.Error(err)
		}
	}
}

// befriend makes all contacts, by links, as people do.
func (w *world) befriend() {
	for a, contacts := range w.plan.chat.Contacts {
		for _, b := range contacts {
			if a > b {
				continue
			}
			link, err := w.players[a].engine.Invite(w.t.Context(), 24*time.Hour)
			if err != nil {
				w.t.Fatal(err)
			}
			if _, err := w.players[b].engine.Accept(w.t.Context(), link); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	began := time.Now()
	for !w.friends() {
		time.Sleep(30 * time.Second)
		if time.Since(began) > 6*time.Hour {
			w.t.Fatal("the nodes are not contacts after six hours")
		}
	}
}

func (w *world) friends() bool {
	for a, contacts := range w.plan.chat.Contacts {
		cs, err := w.players[a].engine.Contacts()
		if err != nil {
			w.t.Fatal(err)
		}
		n := 0
		for _, c := range cs {
			if c.State == replicate.Active && c.Number != "" {
				n++
			}
		}
		if n < len(contacts) {
			return false
		}
	}
	return true
}

// read hears of every event that a node got.
func (p *player) read(id matrix.EventID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.waiting[id]; c != nil {
		close(c)
		delete(p.waiting, id)
	}
}

// expect is closed when the node has the event.
func (p *player) expect(id matrix.EventID) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan struct{})
	p.waiting[id] = c
	return c
}

func (w *world) now() time.Duration { return w.rec.since(time.Now()) }

func (w *world) until(at time.Duration) { time.Sleep(time.Until(w.rec.zero.Add(at))) }

// converse is one conversation: each side answers what it has read, unless it has become too late.
func (w *world) converse(v *leakage.Conversation) {
	w.until(v.Start)
	for i, turn := range v.Turns {
		if i > 0 {
			time.Sleep(turn.Think)
		}
		if v.Late(w.now()) {
			return
		}
		var arrived []<-chan struct{}
		var sent []time.Duration
		from, to := w.players[v.Speaker(i)], w.players[v.Listener(i)]
		for k := range turn.Messages {
			if k > 0 {
				time.Sleep(turn.Pauses[k-1])
			}
			// The event's name is known only when it is made: expect it under the sender's next number.
			id := from.rooms.next()
			arrived, sent = append(arrived, to.expect(id)), append(sent, w.now())
			from.rooms.send(w.t, to.id.Name)
		}
		end := time.After(time.Until(w.rec.zero.Add(time.Duration(v.Hour+1) * time.Hour)))
		for k, a := range arrived {
			select {
			case <-a:
				w.mu.Lock()
				w.delivery = append(w.delivery, w.now()-sent[k])
				w.mu.Unlock()
			case <-end:
				w.mu.Lock()
				w.late++
				w.mu.Unlock()
				return
			}
		}
	}
}

// commute stops and starts a node by its uptime.
func (w *world) commute(p *player) {
	up := w.plan.chat.Uptimes[p.n]
	if len(up) == 0 || up[0].From > 0 {
		p.stop()
	}
	for i, s := range up {
		if s.From > 0 {
			w.until(s.From)
			p.start()
		}
		if w.until(s.To); i < len(up)-1 || s.To < time.Duration(w.plan.chat.Hours)*time.Hour {
			p.stop()
		}
	}
}

// readDisks is the thief: what the stores keep, and in which bucket it came.
func (w *world) readDisks() {
	for i, e := range w.engines {
		zero := mailbox.BucketAt(w.rec.zero, mailboxstore.DefaultBucket)
		last, _, err := e.Last()
		if err != nil {
			w.t.Fatal(err)
		}
		for b := zero; b <= last; b++ {
			var hs []mailbox.Handle
			if err := e.Handles(b, b+1, func(h mailbox.Handle) bool { hs = append(hs, h); return true }); err != nil {
				w.t.Fatal(err)
			}
			slices.SortFunc(hs, func(a, b mailbox.Handle) int { return bytes.Compare(a[:], b[:]) })
			for _, h := range hs {
				w.rec.log.Disk = append(w.rec.log.Disk, leakage.Listed{At: time.Duration(b-zero) * mailboxstore.DefaultBucket, Store: i, Box: boxName(h)})
			}
		}
	}
}
