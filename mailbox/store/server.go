// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tarn/internal/durable"
	"tarn/mailbox"
	kv "tarn/store"
)

// schema is the version of the directory's form that this program writes.
const schema = 1

// Defaults of Config.
const (
	DefaultTTL        = 14 * 24 * time.Hour
	DefaultBucket     = 10 * time.Second
	DefaultExpiryUnit = 24 * time.Hour
	DefaultQuota      = 10 << 30 // bytes
)

// Config says what a store is. A zero value is replaced by the default.
type Config struct {
	// Dir is where everything lies; made with mode 0700. Empty is allowed with Engine: then nothing is kept.
	Dir string
	// Onion is the key of the onion service: it signs the descriptor, and requests are bound to it. Required.
	Onion ed25519.PrivateKey

	TTL        time.Duration // a box is kept at least this long; whole milliseconds
	Bucket     time.Duration // of the digest; cannot change once the directory exists; whole milliseconds
	ExpiryUnit time.Duration // boxes are forgotten together, this many at a time; cannot change either
	Quota      int64         // bytes of disk for boxes
	Reserve    int64         // bytes of the file system that stay free (0: package store's default, 64 MiB)

	// Deposit says whether a box needs a token; the rest of this block counts only if it does.
	Deposit     mailbox.Deposit
	Accounts    mailbox.Accounts // ways to an account; 0: by work and by code, and by the list if there is one
	AccountList []mailbox.AccountID
	WorkBits    uint8 // of a proof of work
	Cap         int   // tokens that an account may draw of one day
	// SessionTokens is how many session tokens of one day are given, for the courier under the same onion; an account may draw
	// 16 of them. 0: none.
	SessionTokens int

	// Engine keeps the boxes; nil: Days in Dir. The server closes it.
	Engine Engine
	// Log gets faults of the machine; nil: nothing.
	Log *slog.Logger
}

// Server is one store: it does what package mailbox/front hands to it.
type Server struct {
	cfg    Config
	engine Engine
	clock  *bucketClock
	pages  *pages
	about  mailbox.Descriptor
	desk   *desk // nil: deposits are open
	unlock func() error

	deposits chan deposit

	faultMu sync.Mutex // guards the two below
	faults  int64
	faultAt time.Time
	broken  chan error // gets the first fault after which nothing can be written any more
}

func (c *Config) defaults() error {
	if len(c.Onion) != ed25519.PrivateKeySize {
		return errors.New("mailbox store: no onion key")
	}
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.TTL, DefaultTTL)
	set(&c.Bucket, DefaultBucket)
	set(&c.ExpiryUnit, DefaultExpiryUnit)
	if c.Quota == 0 {
		c.Quota = DefaultQuota
	}
	if c.Accounts == 0 {
		c.Accounts = mailbox.AccountsWork | mailbox.AccountsCode
		if len(c.AccountList) > 0 {
			c.Accounts |= mailbox.AccountsList
		}
	}
	if c.WorkBits == 0 {
		c.WorkBits = DefaultWorkBits
	}
	if c.Cap == 0 {
		c.Cap = DefaultCap
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.ExpiryUnit < time.Millisecond || c.ExpiryUnit%time.Millisecond != 0:
		return fmt.Errorf("mailbox store: an expiry unit of %v", c.ExpiryUnit)
	case c.Quota < BoxCost || c.Reserve < 0:
		return errors.New("mailbox store: an impossible quota or reserve")
	case c.Deposit > mailbox.DepositTokens || c.Cap < 1 || c.SessionTokens < 0:
		return errors.New("mailbox store: an impossible kind of deposit or cap")
	case c.Dir == "" && c.Engine == nil:
		return errors.New("mailbox store: no directory")
	}
	return nil
}

// New opens the store: it takes the directory's lock (durable.ErrLocked), finishes what a crash left undone, and
// forgets what has expired. It starts nothing but the databases' own goroutines; Close, or Run's end, ends them.
func New(cfg Config) (_ *Server, err error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, engine: cfg.Engine, unlock: func() error { return nil },
		deposits: make(chan deposit, maxDeposits), broken: make(chan error, 1),
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.openDir(); err != nil {
		return nil, err
	}
	if s.engine == nil {
		days, err := OpenDays(DaysConfig{Dir: s.path("days"), Unit: cfg.ExpiryUnit, Quota: cfg.Quota, Reserve: cfg.Reserve, Log: cfg.Log})
		if err != nil {
			return nil, err
		}
		s.engine = days // not before: a nil *Days in the interface would be closed
	}
	signing := ed25519.NewKeyFromSeed(cfg.Onion.Seed()) // replaced below unless nothing is kept
	if cfg.Dir != "" {
		if signing, err = loadSeed(s.path("signing.seed")); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	last, _, err := s.engine.Last()
	if err != nil {
		return nil, err
	}
	if s.clock, err = openClock(s.path("clock.json"), cfg.Bucket, last, now); err != nil {
		return nil, err
	}
	s.about = mailbox.Descriptor{Roles: mailbox.RoleStore, Bucket: cfg.Bucket, TTL: cfg.TTL, Signing: signing.Public().(ed25519.PublicKey)}
	if cfg.Deposit == mailbox.DepositTokens {
		if s.desk, err = openDesk(s.path("tokens"), cfg, s.hasRoom); err != nil {
			return nil, err
		}
	}
	s.pages = newPages(s.engine, s.clock, signing, s.onion(), cfg.Bucket, cfg.TTL)
	if err := s.sweep(now); errors.Is(err, kv.ErrDiskFull) || diskFull(err) {
		s.fault("forget what has expired", err) // there is something to give nevertheless, and the next sweep may have room
	} else if err != nil {
		return nil, err
	}
	return s, nil
}

// path is a file in the directory, or "" if nothing is kept.
func (s *Server) path(name string) string {
	if s.cfg.Dir == "" {
		return ""
	}
	return filepath.Join(s.cfg.Dir, name)
}

func (s *Server) onion() ed25519.PublicKey { return s.cfg.Onion.Public().(ed25519.PublicKey) }

// identity is store.json.
type identity struct {
	Schema     int   `json:"schema"`
	UnitMillis int64 `json:"expiry_unit_ms"`
	BucketMS   int64 `json:"bucket_ms"`
}

// openDir makes or checks the directory.
func (s *Server) openDir() error {
	if s.cfg.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("mailbox store: %w", err)
	}
	unlock, err := durable.Lock(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("mailbox store: %w", err)
	}
	s.unlock = unlock
	want := identity{schema, s.cfg.ExpiryUnit.Milliseconds(), s.cfg.Bucket.Milliseconds()}
	b, err := os.ReadFile(s.path("store.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if b, err = json.Marshal(want); err == nil {
			err = durable.WriteFile(s.path("store.json"), append(b, '\n'), 0o600)
		}
		if err != nil {
			return fmt.Errorf("mailbox store: %w", err)
		}
		return nil
	}
	var have identity
	if err == nil {
		err = json.Unmarshal(b, &have)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w: store.json: %w", ErrSchema, err)
	case have.Schema > schema:
		return fmt.Errorf("%w: a newer version of this program wrote it (schema %d; this one knows %d): upgrade", ErrSchema, have.Schema, schema)
	case have.Schema < 1:
		return fmt.Errorf("%w: store.json has schema %d", ErrSchema, have.Schema)
	case have != want:
		return fmt.Errorf("%w: it was made with an expiry unit of %v and buckets of %v, which cannot change (now configured: %v and %v)", ErrSchema,
			time.Duration(have.UnitMillis)*time.Millisecond, time.Duration(have.BucketMS)*time.Millisecond, s.cfg.ExpiryUnit, s.cfg.Bucket)
	}
	return nil
}

// About is the store's part of its mailbox's descriptor at that time; the token keys that it names are on the disk.
func (s *Server) About(now time.Time) (d mailbox.Descriptor, err error) {
	d = s.about
	if s.desk != nil {
		d.Deposits, err = s.desk.policy(mailbox.Epoch(now))
	}
	return d, err
}

// hasRoom tells whether tokens are given out: not any more when the last tenth of the quota is begun.
func (s *Server) hasRoom() bool {
	u := s.engine.Usage()
	return u.Bytes < u.Quota-u.Quota/reserveShare
}

// Tokens is sums about accounts and tokens; zero if deposits are open.
func (s *Server) Tokens() (TokenUsage, error) {
	if s.desk == nil {
		return TokenUsage{}, nil
	}
	return s.desk.usage(time.Now())
}

// RedeemSession tells whether a session token is good, and spends it: durably when it returns true, so that it is good once, also
// over restarts. Safe for concurrent use, while Run runs.
func (s *Server) RedeemSession(t *[mailbox.TokenSize]byte) bool {
	if s.desk == nil || s.desk.sessions == 0 {
		return false
	}
	p := &payment{token: *t}
	var ok bool
	if p.day, ok = s.desk.keys.valid(&p.token, mailbox.SessionEpoch, time.Now()); !ok {
		return false
	}
	rand.Read(p.handle[:]) // no two are one session
	if err := s.desk.spent.spend([]*payment{p}); err != nil {
		s.fault("spend a session token", err)
		return false
	}
	return p.good
}

// NewCode makes an invite code, good for one account until it expires. ErrOpen.
func (s *Server) NewCode() (mailbox.Code, time.Time, error) {
	if s.desk == nil {
		return mailbox.Code{}, time.Time{}, ErrOpen
	}
	return s.desk.newCode()
}

// Usage is how full it is: sums only.
func (s *Server) Usage() Usage { return s.engine.Usage() }

// Faults is how often the machine failed the store (disk, key files) since it was opened.
func (s *Server) Faults() int64 {
	s.faultMu.Lock()
	defer s.faultMu.Unlock()
	return s.faults
}

// Run works until ctx ends, and returns when every deposit is answered and the databases are closed. Do may be called
// only meanwhile: whoever hands requests to the store stops before it ends ctx. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(s.commitLoop)
	if s.desk != nil {
		loops.Go(func() { s.desk.run(ctx, s.fault) })
	}
	s.sweepLoop(ctx)
	close(s.deposits) // nobody is left who could send
	loops.Wait()
	return s.Close()
}

// Failed returns, with the reason, once the disk has failed in a way that only opening the databases again can mend, so that
// whoever runs the store ends it and it is started anew; nil when ctx ends before.
func (s *Server) Failed(ctx context.Context) error {
	select {
	case err := <-s.broken:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Do carries out a request that was opened. The body may lie in box. Its time depends on the disk; who answers waits
// until the constant time of an answer is over.
func (s *Server) Do(r mailbox.Request, box *[mailbox.BoxSize]byte) (mailbox.Status, []byte) {
	switch r.Op {
	case mailbox.OpNothing:
		return mailbox.StatusOK, nil
	case mailbox.OpPut:
		return putStatus(s.put(r.ID, (*[mailbox.BoxSize]byte)(r.Box), r.Token)), nil
	case mailbox.OpRegister, mailbox.OpIssue:
		if s.desk == nil {
			return mailbox.StatusRefused, nil
		}
		do := s.desk.register
		if r.Op == mailbox.OpIssue {
			do = s.desk.issue
		}
		status, err := do(r)
		if err != nil {
			s.fault("keep an account", err)
		}
		return status, nil
	case mailbox.OpGet:
		found, err := s.engine.Get(r.Get, box)
		if err != nil {
			s.fault("read a box", err)
			return mailbox.StatusBusy, nil
		}
		if s.desk != nil {
			// Looked for whatever was found: a look-up takes the same work.
			var other [mailbox.BoxSize]byte
			drawn, err := s.desk.answer(r.Get, &other)
			if err != nil {
				s.fault("read an answer to a draw", err)
				return mailbox.StatusBusy, nil
			}
			if drawn && !found {
				found, *box = true, other
			}
		}
		if !found {
			rand.Read(box[:]) // a filler: only who holds the box's key can tell
		}
		return mailbox.StatusOK, box[:]
	case mailbox.OpDigest:
		part, closed, err := s.pages.part(r.Page, time.Now())
		status, known := pageStatus(err)
		if !known {
			s.fault("read a digest", err)
		}
		if status != mailbox.StatusOK && status != mailbox.StatusNotYet {
			return status, nil
		}
		return status, mailbox.DigestBody(closed, part)
	}
	return mailbox.StatusRefused, nil
}

func putStatus(err error) mailbox.Status {
	switch {
	case err == nil:
		return mailbox.StatusOK
	case errors.Is(err, mailbox.ErrExists):
		return mailbox.StatusExists
	case errors.Is(err, mailbox.ErrFull):
		return mailbox.StatusFull
	case errors.Is(err, mailbox.ErrToken):
		return mailbox.StatusToken
	}
	return mailbox.StatusBusy
}

// Close gives back what New took, for who does not call Run.
func (s *Server) Close() error {
	var err error
	if s.engine != nil {
		err = s.engine.Close()
		s.engine = nil
	}
	if s.desk != nil {
		err = errors.Join(err, s.desk.close())
		s.desk = nil
	}
	err = errors.Join(err, s.unlock())
	s.unlock = func() error { return nil }
	return err
}
