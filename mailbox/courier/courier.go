// SPDX-License-Identifier: Apache-2.0

// Package courier is the role of a mailbox that carries: a mix between nodes and stores.
//
// Problem: a store that a node speaks to itself sees which requests come together, and so guesses which boxes belong to
// one node. Somebody must stand between who knows the node's connection but not what it asks, forwards the requests of
// many nodes mixed, and whose own behaviour tells nobody who asked for what.
//
// A node holds one long session ([mailbox.Session] at its end). Each frame that it sends carries a PUT half and a GET
// half, sealed to stores; the courier holds each for as long as its sender says, and hands it over on the one link that
// it has with that store, among those of all other sessions. Exactly the frame's lag after the frame came, a frame goes
// down, whatever has happened; answers that were late go with a later one. At constant times of its own the courier
// pushes the newest digest pages of the stores that a session follows, which it reads once for all.
//
// Invariants:
//   - What goes down a session has sizes and times that do not depend on what the halves are or became: an absent box,
//     an unreachable store, an overloaded courier look the same on the wire.
//   - Sessions, their rate, their memory, links, dials and pages are bounded ([Config]); more is answered "busy".
//   - A half is forwarded once at most, also over restarts. What a killed courier held is lost, and its senders write it
//     again.
//   - Nothing about a session or a request is logged or counted one by one.
//
// A half may go through several couriers (hop.go): each peels a layer, holds what is in it, and hands it on over its link
// with the next one, and the answer comes back the same way.
//
// Data, under Config.Dir (mode 0700): N.peeled, 8 bytes of a hash for each layer that was peeled with the key of day N
// (since 1970); destroyed after that key. Limits: the courier sees which stores a session's halves are for, when its node is up, and which stores it
// follows; together with a store it can link both ends.
package courier

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// Defaults of Config.
const (
	DefaultMaxSessions = 1000
	DefaultMaxLinks    = 256
	DefaultRate        = 4.0 // the fastest named profile makes one in 3 s, the demonstration one a second
	DefaultBurst       = 30
	DefaultPushLag     = 2300 * time.Millisecond
	DefaultMaxReplays  = 4 << 20 // 64 MiB of memory; 240 sessions of a frame each 10 s
)

// Bounds of one session.
const (
	maxFrames  = 64          // up, whose answer is not due yet
	maxPending = 64          // halves without an answer
	maxHeld    = 150 << 10   // bytes of halves and answers that wait
	maxGets    = 8           // GET answers that wait for a frame; the oldest are dropped beyond that
	maxRecs    = 2 * maxGets // receipts
	perSession = 100 << 10   // what the bound of all sessions together reckons with; half of it is each one's share
	maxAsking  = 2           // descriptors that a session waits for

	// A session may ask for more frames than these bounds are made for; then they are multiplied. A frame down waits some
	// seconds for its time, and the answers that came early with it.
	boundRate = 2.0 // frames a second
	// spare is how much more than it said a session may send, on average: its times are random.
	spare = 1.5
	// plainRate is that of a session that does not say.
	plainRate = 1.0
)

// Times of sessions.
const (
	idleEvict    = 5 * time.Minute // a session without a frame for so long loses its place to a newcomer
	idleFrames   = 5               // … if that is as long as it takes for so many of its frames, on average
	idleEnd      = 2 * time.Hour   // one without a frame for so long is ended
	writeTimeout = time.Minute     // for one frame down
)

// Keys are the mailbox's: *front.Keys.
type Keys interface {
	Get(epoch uint32) *sealed.PrivateKey
	Descriptor() []byte
	Address() mailbox.Address
}

// local carries out the halves that are for this very mailbox.
type local = func(epoch uint32, box []byte, describe func(onion [32]byte) ([]byte, error)) []byte

// Config says what a courier is. A zero value is replaced by the default.
type Config struct {
	Keys Keys           // required
	Dial mailbox.Dialer // required: reaches the stores

	MaxSessions int     // at once
	Reserved    int     // of these, only for sessions with a token; none without Redeem
	Rate        float64 // frames a second, on average, that one session can be granted; who asks for more is refused
	TotalRate   float64 // that all sessions together can be granted; by default one a second for each of MaxSessions
	Burst       int     // frames that a session may send at once; for what is more than it was granted it waits
	MaxLinks    int     // links to stores at once
	// PushLag is how long after the end of its time a digest page is pushed: time enough to fetch it. Page frames leave at
	// the multiples of a session's push plus this.
	PushLag time.Duration
	// Dir is where it is kept which layers were peeled, made with mode 0700; "": nowhere, and a restart forgets it.
	Dir string
	// MaxReplays is how many layers of one day are peeled, an eighth of them at once and the others as the day goes by; each takes about 16 bytes of memory and 8 of disk for two days.
	MaxReplays int
	// MaxHeld is how many bytes of all sessions' halves and answers may wait, and how many of all links' together. By default
	// 100 kB a session.
	MaxHeld int64

	// Redeem says whether a session token is good, and spends it; nil: no session has one.
	Redeem func(token *[mailbox.TokenSize]byte) bool
	// Log gets faults of the machine; nil: nothing.
	Log *slog.Logger
}

// Server is a courier. It is run by Run.
type Server struct {
	cfg   Config
	self  [32]byte // its own onion key
	local local    // set by Attach

	ctx  context.Context // ends with Run
	stop context.CancelFunc
	wg   sync.WaitGroup // all that works for links and followers
	held *pool          // of all sessions. No lock: sessions count under their own
	hops *pool          // of all links that bring halves with layers

	// mu guards all below, for look-ups only. It may be held when a session's or a link's is taken, never the other way.
	mu       sync.Mutex
	sessions map[*session]struct{}
	tokens   int     // sessions with a token
	rate     float64 // frames a second that all sessions were granted
	links    map[[32]byte]*link
	failed   map[[32]byte]failure // targets that could not be reached lately
	follows  map[[32]byte]*follower
	known    map[[32]byte]*known

	// Dials of targets that were reached before, and of those that may not exist, for which nobody else shall wait.
	dialling, trying *gate

	replays *replays
}

// New makes a courier; it starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Keys == nil || cfg.Dial == nil {
		return nil, errors.New("courier: no keys, or no way to the stores")
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	if cfg.MaxLinks == 0 {
		cfg.MaxLinks = DefaultMaxLinks
	}
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.TotalRate == 0 {
		cfg.TotalRate = float64(cfg.MaxSessions) * plainRate
	}
	if cfg.Burst == 0 {
		cfg.Burst = DefaultBurst
	}
	if cfg.PushLag == 0 {
		cfg.PushLag = DefaultPushLag
	}
	if cfg.MaxHeld == 0 {
		cfg.MaxHeld = int64(cfg.MaxSessions) * perSession
	}
	if cfg.MaxReplays == 0 {
		cfg.MaxReplays = DefaultMaxReplays
	}
	if cfg.Redeem == nil {
		cfg.Reserved = 0
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxSessions < 1 || cfg.Reserved < 0 || cfg.Reserved > cfg.MaxSessions || cfg.Rate < 0 || cfg.TotalRate < 0 || cfg.Burst < 1 || cfg.MaxLinks < 1 ||
		cfg.PushLag < 0 || cfg.MaxHeld < 1 || cfg.MaxReplays < 1 {
		return nil, errors.New("courier: an impossible limit")
	}
	self, err := cfg.Keys.Address().Onion.Key()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, self: [32]byte(self), sessions: map[*session]struct{}{}, links: map[[32]byte]*link{}, failed: map[[32]byte]failure{},
		follows: map[[32]byte]*follower{}, known: map[[32]byte]*known{},
		dialling: newGate(maxDialling, cfg.MaxLinks+maxKnown), trying: newGate(maxTrying, maxTriers),
		held: newPool(cfg.MaxHeld, cfg.MaxSessions), hops: newPool(cfg.MaxHeld, cfg.MaxLinks),
	}
	if s.replays, err = openReplays(cfg.Dir, cfg.MaxReplays, func(day uint32) bool { return cfg.Keys.Get(day) != nil }); err != nil {
		return nil, err
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Attach is front.Courier's.
func (s *Server) Attach(local local) { s.local = local }

// Run works until ctx ends, and returns when nothing is left that works for the courier. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			s.sweep(now)
		}
	}
	s.mu.Lock()
	s.stop() // under the lock: nothing is spawned afterwards
	for x := range s.sessions {
		x.end()
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.replays.close()
	return nil
}

// sweep ends what has been idle for too long.
func (s *Server) sweep(now time.Time) {
	if err := s.replays.forget(func(day uint32) bool { return s.cfg.Keys.Get(day) != nil }); err != nil {
		s.cfg.Log.Error("courier: cannot forget the layers of a day", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.sessions {
		if x.idle(now) > idleEnd {
			x.end()
		}
	}
	for t, f := range s.failed {
		if now.Sub(f.at) > maxBackoff {
			delete(s.failed, t)
		}
	}
	s.forgetLocked(now)
}

// Status is how much a courier does: sums only.
type Status struct {
	Sessions    int   `json:"sessions"`
	MaxSessions int   `json:"max_sessions"`
	Links       int   `json:"links"`
	Held        int64 `json:"held"` // bytes of halves and answers that wait
}

// Status is cheap.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Sessions: len(s.sessions), MaxSessions: s.cfg.MaxSessions, Links: len(s.links), Held: s.held.held.Load() + s.hops.held.Load()}
}

// Hello is front.Courier's.
func (s *Server) Hello(epoch uint32, up *[mailbox.UpSize]byte, down *[mailbox.DownSize]byte, opening func(func())) (serve func(net.Conn)) {
	key := s.cfg.Keys.Get(epoch)
	if key == nil {
		mailbox.ClearAnswer(down, mailbox.ClearStale, nil)
		return nil
	}
	var h mailbox.Hello
	var reply *sealed.Reply
	var err error
	opening(func() { h, reply, err = mailbox.OpenHello(up, key, mailbox.SessionInfo(s.self[:], epoch)) })
	switch {
	case reply == nil:
		mailbox.ClearAnswer(down, mailbox.ClearRefused, nil)
		return nil
	case err != nil:
		mailbox.SealAnswer(down, reply, mailbox.StatusRefused, nil)
		return nil
	}
	layout, ok := mailbox.LayoutOf(h.Geometry)
	if !ok {
		mailbox.SealAnswer(down, reply, mailbox.StatusRefused, nil)
		return nil
	}
	rate := plainRate
	if h.Frame > 0 {
		rate = 1 / h.Frame.Seconds()
	}
	if rate > s.cfg.Rate {
		mailbox.SealAnswer(down, reply, mailbox.StatusRate, nil)
		return nil
	}
	// A token is spent when there is a place for it, as far as can be told: two that come at once for the last one both lose theirs.
	paid := h.Token != nil && s.cfg.Redeem != nil && s.hasPlace(true, rate) && s.cfg.Redeem(h.Token)
	x := s.enter(paid, rate)
	if x == nil {
		mailbox.SealAnswer(down, reply, mailbox.StatusBusy, nil)
		return nil
	}
	var salt [mailbox.SaltSize]byte
	rand.Read(salt[:])
	x.push = h.Push
	x.up, x.down = mailbox.SessionChannels(layout, reply, salt[:])
	mailbox.SealWelcome(down, reply, &salt, s.cfg.Keys.Descriptor())
	return x.serve
}

// hasPlace tells whether enter would give a session of that kind its place now.
func (s *Server) hasPlace(token bool, rate float64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.placeLocked(token, rate, time.Now())
	return ok
}

// placeLocked finds a place for a session, that of least if it is not nil; s.mu is held. A newcomer can have the place of a session
// that is idle, that of the one that is worth least; one with a token only loses it to another with a token.
func (s *Server) placeLocked(token bool, rate float64, now time.Time) (least *session, ok bool) {
	full := len(s.sessions) >= s.cfg.MaxSessions || !token && len(s.sessions)-s.tokens >= s.cfg.MaxSessions-s.cfg.Reserved
	missing := s.rate + rate - s.cfg.TotalRate // frames a second that somebody would have to give up
	if !full && missing <= 0 {
		return nil, true
	}
	var worth value
	for y := range s.sessions {
		if v, idle := y.value(now); idle && (token || !y.token) && y.granted >= missing && (least == nil || v.less(worth)) {
			least, worth = y, v
		}
	}
	return least, least != nil
}

// enter gives a session its place, and its frames; nil: there is none.
func (s *Server) enter(token bool, rate float64) *session {
	now := time.Now()
	x := newSession(s, token, rate, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil
	}
	least, ok := s.placeLocked(token, rate, now)
	if !ok {
		return nil
	}
	if least != nil {
		least.end()
		s.leaveLocked(least)
	}
	s.sessions[x] = struct{}{}
	s.rate += rate
	if token {
		s.tokens++
	}
	return x
}

func (s *Server) leaveLocked(x *session) {
	if _, in := s.sessions[x]; !in {
		return
	}
	delete(s.sessions, x)
	if s.rate -= x.granted; len(s.sessions) == 0 {
		s.rate = 0 // no rounding is carried on
	}
	if x.token {
		s.tokens--
	}
}

func addressOf(onion [32]byte) mailbox.Address {
	return mailbox.Address{Onion: onionid.FromKey(onion[:])}
}
