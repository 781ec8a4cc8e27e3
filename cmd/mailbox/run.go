// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/configs"
	"tarn/internal/cli"
	"tarn/internal/control"
	"tarn/internal/durable"
	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/mailbox/store"
	"tarn/onion"
)

// running is everything of a mailbox at work.
type running struct {
	cfg     configs.Mailbox
	log     *slog.Logger
	tor     *onion.Tor
	store   *store.Server
	keys    *front.Keys
	door    *front.Server
	listen  net.Listener
	unlock  func() error
	started time.Time
}

// cmdRun runs the mailbox until a signal.
func cmdRun(ctx context.Context, e cli.Env, args []string) (err error) {
	f := program.Flags(e, "run")
	if err := f.NoWords(args); err != nil {
		return err
	}
	cfg, err := loadConfig(f.Config)
	if err != nil {
		return err
	}
	m, err := open(ctx, cfg, configs.Log(e.Err, cfg.LogLevel))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.unlock()) }()
	fmt.Fprintln(e.Err, "The mailbox runs. `mailbox address` prints the line to give to others, `mailbox status` how it is.")
	if cfg.Tor.Mode == string(onion.Off) {
		fmt.Fprintln(e.Err, "Tor is off in the configuration: nobody can reach this mailbox.")
	} else {
		go m.sayTor(ctx, e)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.runTor(ctx) })
	g.Go(func() error { return m.door.Run(ctx, m.listen) })
	g.Go(func() error {
		return control.Serve(ctx, filepath.Join(cfg.DataDir, socketName), map[string]control.Handler{
			"invite-code": func(context.Context, json.RawMessage) (any, error) { return m.inviteCode() },
			"status":      func(context.Context, json.RawMessage) (any, error) { return m.status() },
		})
	})
	return g.Wait()
}

// open takes the directory and opens everything; nothing runs yet.
func open(ctx context.Context, cfg configs.Mailbox, log *slog.Logger) (_ *running, err error) {
	key, err := loadKey(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	m := &running{cfg: cfg, log: log, started: time.Now()}
	if m.unlock, err = durable.Lock(cfg.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.unlock()
		}
	}()
	tc, err := cfg.Tor.Onion(filepath.Join(cfg.DataDir, "tor"), log)
	if err != nil {
		return nil, err
	}
	m.tor = onion.New(tc)
	ways, list, err := cfg.AccountWays()
	if err != nil {
		return nil, err
	}
	deposit := mailbox.DepositOpen
	if cfg.Deposit == "tokens" {
		deposit = mailbox.DepositTokens
	}
	m.store, err = store.New(store.Config{
		Deposit: deposit, Accounts: ways, AccountList: list, WorkBits: uint8(cfg.WorkBits), Cap: cfg.TokensPerDay,
		Dir: filepath.Join(cfg.DataDir, "store"), Onion: key, TTL: cfg.TTL, Bucket: cfg.DigestBucket, ExpiryUnit: cfg.ExpiryUnit,
		Quota: int64(cfg.Quota), Reserve: int64(cfg.Reserve), Log: log,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.store.Close())
		}
	}()
	if m.keys, err = front.OpenKeys(filepath.Join(cfg.DataDir, "keys"), key, m.store.About); err != nil {
		return nil, err
	}
	if m.door, err = front.New(front.Config{Keys: m.keys, Store: m.store, MaxConns: cfg.MaxConnections, Log: log}); err != nil {
		return nil, err
	}
	var opts []onion.ListenOption
	if cfg.PowRate > 0 {
		opts = append(opts, onion.ProofOfWork(cfg.PowRate, min(2*cfg.PowRate, 65535)))
	}
	if cfg.Tor.Mode == string(onion.Off) {
		m.listen = newSilence()
	} else if m.listen, err = m.tor.Listen(ctx, key, mailbox.Port, opts...); err != nil {
		return nil, err
	}
	return m, nil
}

// runTor keeps tor until ctx ends; a Tor that is off has nothing to do.
func (m *running) runTor(ctx context.Context) error {
	if m.cfg.Tor.Mode == string(onion.Off) {
		<-ctx.Done()
		return nil
	}
	return m.tor.Run(ctx)
}

// sayTor tells the person at the terminal how the connection to Tor comes along, a line a change.
func (m *running) sayTor(ctx context.Context, e cli.Env) {
	said := ""
	m.tor.Follow(ctx, func(st onion.Status) {
		s := torStatus(st)
		line := strings.TrimSuffix(s.Summary, ".")
		if s.Published {
			line += "; the mailbox is published"
		}
		if line = strings.TrimSuffix(line+". "+s.Advice, " "); line != said {
			fmt.Fprintln(e.Err, line)
			said = line
		}
	})
}

// silence is the listener of a mailbox without a network: nobody comes.
type silence struct {
	closed chan struct{}
	once   sync.Once
}

func newSilence() *silence { return &silence{closed: make(chan struct{})} }

func (s *silence) Accept() (net.Conn, error) {
	<-s.closed
	return nil, net.ErrClosed
}

func (s *silence) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *silence) Addr() net.Addr { return onion.Addr("off") }
