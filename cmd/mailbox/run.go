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
	"tarn/onion"
)

// running is everything of a mailbox at work.
type running struct {
	cfg     configs.Mailbox
	log     *slog.Logger
	tor     *onion.Tor
	ponds   []*pond // the first one is the mailbox that was made first
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
	for _, p := range m.ponds {
		g.Go(func() error { return p.door.Run(ctx, p.listen) })
	}
	g.Go(func() error {
		return control.Serve(ctx, filepath.Join(cfg.DataDir, socketName), map[string]control.Handler{
			"invite-code": func(_ context.Context, arg json.RawMessage) (any, error) {
				var pond int
				if err := json.Unmarshal(arg, &pond); err != nil {
					return nil, err
				}
				return m.inviteCode(pond)
			},
			"status": func(context.Context, json.RawMessage) (any, error) { return m.status() },
		})
	})
	return g.Wait()
}

// open takes the directory and opens everything; nothing runs yet.
func open(ctx context.Context, cfg configs.Mailbox, log *slog.Logger) (_ *running, err error) {
	if _, err := loadKey(cfg.DataDir); err != nil {
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
	keys, err := pondKeys(cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, p := range m.ponds {
				err = errors.Join(err, p.close())
			}
		}
	}()
	for i, key := range keys {
		p, err := openPond(cfg, i, key, m.tor, log)
		if err != nil {
			return nil, err
		}
		m.ponds = append(m.ponds, p)
	}
	for _, p := range m.ponds {
		if err := p.publish(ctx, cfg, m.tor); err != nil {
			return nil, err
		}
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
