// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Errors of this package beside ErrLink, ErrProfile and ErrRow.
var (
	ErrConfig    = errors.New("replicate: impossible configuration")
	ErrNoStore   = errors.New("replicate: the node has no mailbox of its own; add one first")
	ErrExpired   = errors.New("replicate: the link has expired; ask for a new one")
	ErrOwnLink   = errors.New("replicate: this link was made by this node; give it to the other one")
	ErrFollowed  = errors.New("replicate: this link was accepted before; see the contacts")
	ErrNoContact = errors.New("replicate: no contact has that name")
	ErrTooMany   = errors.New("replicate: too many open links; wait until some are used or expire")
)

// Rooms is what the engine needs of *room.Rooms: where items come from and where received records go. Safe for
// concurrent use; what returns nil is durable.
type Rooms interface {
	RawFor(server matrix.ServerName, room matrix.RoomID, id matrix.EventID) ([]byte, error)
	Lacks(room matrix.RoomID, id matrix.EventID) (bool, error)
	Heads(room matrix.RoomID) ([]matrix.EventID, error)
	Shared(server matrix.ServerName) ([]matrix.RoomID, error)
	Snapshot(room matrix.RoomID, event matrix.EventID) (*room.Snapshot, error)
	Ingest(ctx context.Context, from matrix.ServerName, room matrix.RoomID, events [][]byte) (room.Ingested, error)
	IngestSnapshot(ctx context.Context, from matrix.ServerName, s *room.Snapshot) error
	// Without takes events that wait for what nobody gives.
	Without(ctx context.Context, room matrix.RoomID, ids []matrix.EventID) (room.Ingested, error)
	// What a contact asks, what it answers, and what it is answered (asking.go); Tend follows what is asked.
	TakeQuestion(from matrix.ServerName, q room.Ask) error
	TakeAnswer(ctx context.Context, from matrix.ServerName, a room.Answer) error
	PackAnswer(to matrix.ServerName, item []byte) (room.Answer, error)
	Tend(now time.Time, pace time.Duration) error
	// Sharers are the local users in a room with joined or invited users of server; Memberships grows with any change of that.
	Sharers(server matrix.ServerName) ([]matrix.UserID, error)
	Memberships() uint64
	// SetPeers says who the contacts are and whose events they get from themselves; Fellows are the servers in the rooms shared with server.
	SetPeers(peers map[matrix.ServerName]room.Peer)
	Fellows(server matrix.ServerName) ([]matrix.ServerName, error)
	// Strangers are the servers in rooms with us that are no contacts and wanted as such; lack is how many each thin room lacks. Meet tells whether
	// there is a room, or an encrypted one, with members of all these servers.
	Strangers(all bool) (strangers map[matrix.ServerName]*room.Stranger, lack map[matrix.RoomID]int, err error)
	Meet(encrypted bool, servers ...matrix.ServerName) (bool, error)
	// Companions are the servers that share a room with us, or an invite or knock is between us.
	Companions() (map[matrix.ServerName]bool, error)
	IngestReceipts(from matrix.ServerName, room matrix.RoomID, rs []room.Receipt) error
	AddCertificate(c onionid.Certificate) error
	Certificate(server matrix.ServerName) (onionid.Certificate, bool, error)
}

var _ Rooms = (*room.Rooms)(nil)

// Identity is who the node is.
type Identity struct {
	Key         ed25519.PrivateKey // of the onion: signs first contacts, nothing else here
	Name        onionid.Name
	Certificate onionid.Certificate // of the event-signing key, by Key
}

// Config of an engine.
type Config struct {
	KV       store.KV
	Rooms    Rooms
	Accounts Accounts // nil: no keys and no to-device messages cross
	Files    Files    // nil: no files cross
	Signs    Signs    // nil: nobody is told who is here
	Identity Identity
	Stores   []mailbox.Address             // own mailboxes, where contacts drop boxes for us: at most 8
	Dial     func(mailbox.Address) Mailbox // makes a client for a store; it connects only when called
	Couriers []mailbox.Address             // mailboxes that may be our couriers, beside those stores that are couriers too
	// Session makes a session with a courier; it connects only when told to. nil: no couriers, direct mode always. Then
	// what Dial makes must be a Sealer too, or a *mailbox.Client.
	Session func(mailbox.Address, SessionParams) Courier
	Codes   map[mailbox.Address]mailbox.Code // invite codes for accounts with own mailboxes
	// Introductions says when contacts of contacts become contacts; MaxIntroduced bounds them, 0: DefaultIntroduced.
	Introductions Introductions
	MaxIntroduced int
	patience      int // tests: frames, instead of patienceFrames
	Profile       Profile
	Seed          [32]byte // of the schedule's ChaCha8; drawn from crypto/rand by main, fixed in tests
	Log           *slog.Logger
}

// Engine is one node's replication. Safe for concurrent use.
type Engine struct {
	kv       store.KV
	rooms    Rooms
	accounts Accounts
	files    Files
	signs    Signs
	self     Identity
	log      *slog.Logger
	dial     func(mailbox.Address) Mailbox

	couriers   []mailbox.Address
	newSession func(mailbox.Address, SessionParams) Courier
	began      time.Time

	profile    atomic.Pointer[Profile]
	routes     atomic.Pointer[routes]
	clock      *rand.Rand       // the schedule's alone
	trace      func(slot)       // tests: hears every transaction at its beginning
	traceFrame func(frameTrace) // tests: hears every frame as it leaves
	counts     counts
	active     atomic.Int64
	slots      sync.WaitGroup
	wake       chan struct{} // the inbox has something new
	keyWake    chan struct{} // contacts' keys are to be compared

	maxWaiting int // tests make it small

	introductions  Introductions
	maxIntroduced  int
	unneededLooked time.Time // of workIntroductions alone: when it was looked which introduced contacts are of no use
	patienceFrames int

	// mu guards everything below, and the order of this package's writes to its own tables. It is held over an Update
	// (a disk sync), never over the network or package room's Ingest.
	mu         sync.Mutex
	rng        *rand.Rand // for choices of content
	own        []mailbox.Address
	depots     map[mailbox.Address]*depot
	hops       map[mailbox.Address]*hop // couriers on the way
	contacts   map[onionid.Name]*contact
	invites    map[[32]byte]*invite
	accepts    map[[32]byte]*accept
	strangers  map[onionid.Name]*stranger // servers in rooms with us that are no contacts
	shunned    map[onionid.Name]bool      // servers that a person forgot
	expected   map[mailbox.Handle]ref     // the boxes that we wait for
	retries    map[string]*retry          // inbox rows that could not be worked off yet
	draining   []mailbox.Address          // were our own: read, and not offered any more
	loops      map[mailbox.Handle]*loop
	ages       ages
	owed       int       // real boxes that cover is to make up for
	guards     []*guard  // our couriers, sorted
	retired    []*guard  // replaced for cause
	mode       Mode      // of the last tick
	usable     time.Time // a courier was, last
	replaced   time.Time // a courier was, for cause, last
	stopping   bool
	purses     map[mailbox.Address]*purse
	linkPurses map[[32]byte]*linkPurse
	wakes      atomic.Int64                     // of the inbox's worker
	codes      map[mailbox.Address]mailbox.Code // invite codes for accounts, until one was refused

	proofs     sync.WaitGroup              // proofs of work that are being made
	prove      prover                      // mailbox.Work
	walletWake chan struct{}               // there may be something to do for workWallet
	walletDay  uint32                      // on which old tokens were last forgotten; guarded by mu
	passRng    *rand.Rand                  // for the times of their draws alone; guarded by mu
	peering    uint64                      // grows with each setPeers
	signing    uint64                      // grows with each SetSigns
	passes     map[mailbox.Address]*passes // session tokens of our couriers; guarded by mu
	erased     time.Time                   // when the wallet was thrown away: what is given again of days up to that one's may have been shown; guarded by mu
}

// routes are the stores that slots go to, sorted, so that a seed gives the same ones again.
type routes struct {
	own         []*depot // where others leave boxes for us, those of before included
	read, write []*depot // direct mode
	seek        []*depot // where payloads of links are looked for
	sets        []storeSet
}

// storeSet are the stores of one receiver or of several: where a PUT goes is drawn among the sets, so that it does not
// depend on whom there is something for.
type storeSet struct {
	key    string // the onions
	own    bool
	stores []*depot
}

// setKey names a set of stores.
func setKey(set []mailbox.Address) string {
	names := make([]string, 0, len(set))
	for _, a := range set {
		names = append(names, string(a.Onion))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " ")
}

// counts are aggregates for status and tests: sums over all contacts, since the node began.
type counts struct {
	dropped, late            atomic.Int64 // slots
	garbage                  atomic.Int64 // GET answers that were no box of ours
	malformed                atomic.Int64 // authentic boxes or records that do not parse
	refused                  atomic.Int64 // records that package room refused for good
	exists, resealed, unsent atomic.Int64
	rewrites, opened         atomic.Int64
}

// New reads the engine's rows; it starts nothing and needs no network.
func New(c Config) (*Engine, error) {
	if err := c.Profile.Validate(); err != nil {
		return nil, err
	}
	switch {
	case c.KV == nil || c.Rooms == nil || c.Dial == nil:
		return nil, fmt.Errorf("%w: KV, Rooms and Dial are needed", ErrConfig)
	case len(c.Identity.Key) != ed25519.PrivateKeySize || onionid.FromKey(c.Identity.Key.Public().(ed25519.PublicKey)) != c.Identity.Name:
		return nil, fmt.Errorf("%w: the onion key is not the name's", ErrConfig)
	case c.Introductions > AllIntroductions || c.MaxIntroduced < 0:
		return nil, fmt.Errorf("%w: introductions", ErrConfig)
	case len(c.Stores) > maxStores:
		return nil, fmt.Errorf("%w: %d mailboxes, at most %d", ErrConfig, len(c.Stores), maxStores)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	content := sha256.Sum256(append([]byte("tarn/1 content choices"), c.Seed[:]...))
	draws := sha256.Sum256(append([]byte("tarn/1 session token times"), c.Seed[:]...))
	e := &Engine{
		kv: c.KV, rooms: c.Rooms, accounts: c.Accounts, files: c.Files, signs: c.Signs, self: c.Identity, log: c.Log, dial: c.Dial,
		clock: rand.New(rand.NewChaCha8(c.Seed)), rng: rand.New(rand.NewChaCha8(content)),
		wake: make(chan struct{}, 1), keyWake: make(chan struct{}, 1), maxWaiting: maxWaiting,
		depots:    map[mailbox.Address]*depot{},
		hops:      map[mailbox.Address]*hop{},
		contacts:  map[onionid.Name]*contact{},
		invites:   map[[32]byte]*invite{},
		accepts:   map[[32]byte]*accept{},
		strangers: map[onionid.Name]*stranger{}, shunned: map[onionid.Name]bool{}, introductions: c.Introductions, maxIntroduced: cmp.Or(c.MaxIntroduced, DefaultIntroduced), patienceFrames: cmp.Or(c.patience, patienceFrames),
		expected: map[mailbox.Handle]ref{},
		retries:  map[string]*retry{},
		loops:    map[mailbox.Handle]*loop{},
		couriers: slices.Clone(c.Couriers), newSession: c.Session,
		purses: map[mailbox.Address]*purse{}, linkPurses: map[[32]byte]*linkPurse{}, codes: maps.Clone(c.Codes), passes: map[mailbox.Address]*passes{}, passRng: rand.New(rand.NewChaCha8(draws)), walletWake: make(chan struct{}, 1), prove: mailbox.Work,
	}
	p := c.Profile
	e.profile.Store(&p)
	for _, a := range c.Stores {
		if _, err := a.Onion.Key(); err != nil {
			return nil, fmt.Errorf("%w: mailbox address: %w", ErrConfig, err)
		}
		if !slices.Contains(e.own, a) {
			e.own = append(e.own, a)
		}
	}
	if err := e.load(); err != nil {
		return nil, fmt.Errorf("replicate: read the contacts: %w", err)
	}
	return e, nil
}

// Run keeps the schedule until ctx ends; then it waits for the transactions under way.
func (e *Engine) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { e.workInbox(ctx) })
	work.Go(func() { e.workWallet(ctx) })
	work.Go(func() { e.workKeys(ctx) })
	work.Go(func() { e.workSources(ctx) })
	work.Go(func() { e.workSigns(ctx) })
	work.Go(func() { e.workIntroductions(ctx) })
	work.Go(func() { e.workSessions(ctx) })
	work.Go(func() { e.tendQuestions(ctx) })
	e.mu.Lock()
	e.began, e.stopping = time.Now(), false
	if len(e.guards) > 0 {
		e.usable = e.began // they were before: no direct request until they had their time
	}
	e.mu.Unlock()
	e.runSchedule(ctx)
	work.Wait()
	e.closeSessions()
	e.slots.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.saveCursors(); err != nil {
		return fmt.Errorf("replicate: save the digest cursors: %w", err)
	}
	return nil
}

// SetProfile changes the schedule from the next tick on. It is not kept on disk: the configuration is the caller's.
func (e *Engine) SetProfile(p Profile) error {
	if err := p.Validate(); err != nil {
		return err
	}
	e.profile.Store(&p)
	return nil
}

// reroute computes the known stores anew. The caller holds mu (or is New).
func (e *Engine) reroute() {
	var r routes
	seen := map[*depot]byte{}
	add := func(set *[]*depot, bit byte, a mailbox.Address) {
		d := e.depots[a]
		if d == nil {
			c := e.dial(a)
			d = &depot{address: a, client: c, sealer: sealerOf(c), todo: map[mailbox.Handle]*todo{}, own: slices.Contains(e.own, a) || slices.Contains(e.draining, a)}
			e.depots[a] = d
		}
		if seen[d]&bit == 0 {
			seen[d] |= bit
			*set = append(*set, d)
		}
	}
	addSet := func(of []mailbox.Address, own bool) {
		key := setKey(of)
		if len(of) == 0 || slices.ContainsFunc(r.sets, func(s storeSet) bool { return s.key == key }) {
			return
		}
		s := storeSet{key: key, own: own}
		for _, a := range of {
			if d := e.depots[a]; !slices.Contains(s.stores, d) {
				s.stores = append(s.stores, d)
			}
		}
		r.sets = append(r.sets, s)
	}
	for _, a := range e.own {
		add(&r.own, 1, a)
		add(&r.read, 2, a)
		add(&r.write, 4, a)
	}
	addSet(e.own, true)
	for _, a := range e.draining {
		add(&r.own, 1, a)
		add(&r.read, 2, a)
	}
	for _, c := range e.contacts {
		for _, a := range c.stores {
			add(&r.write, 4, a)
		}
		addSet(c.stores, false)
		for _, a := range c.stores {
			if d := e.depots[a]; c.sought && !slices.Contains(r.own, d) { // tokens are there, perhaps
				add(&r.read, 2, a)
				add(&r.seek, 8, a)
			}
		}
	}
	for _, a := range e.accepts {
		if a.state == acceptSeeking || a.state == acceptReplying { // the payload is there, and tokens
			add(&r.read, 2, a.link.Store)
			if d := e.depots[a.link.Store]; !slices.Contains(r.own, d) {
				add(&r.seek, 8, a.link.Store)
			}
		}
		if a.state != acceptFailed {
			add(&r.write, 4, a.link.Store)
			addSet([]mailbox.Address{a.link.Store}, false)
		}
	}
	for a, d := range e.depots {
		if seen[d] == 0 {
			delete(e.depots, a)
		}
	}
	byOnion := func(set []*depot) {
		slices.SortFunc(set, func(a, b *depot) int { return cmp.Compare(a.address.Onion, b.address.Onion) })
	}
	for _, set := range [][]*depot{r.own, r.read, r.write, r.seek} {
		byOnion(set)
	}
	for _, s := range r.sets {
		byOnion(s.stores)
	}
	slices.SortFunc(r.sets, func(a, b storeSet) int { return cmp.Compare(a.key, b.key) })
	e.routes.Store(&r)
}

// exp is an exponential delay for content (never for a slot's time). The caller holds mu.
func (e *Engine) exp(mean time.Duration) time.Duration {
	return time.Duration(e.rng.ExpFloat64() * float64(mean))
}

// warn says that something went wrong. Why is for the debug level: errors may name servers.
func (e *Engine) warn(what string, err error) {
	e.log.Warn(what)
	e.log.Debug(what, "err", err)
}
