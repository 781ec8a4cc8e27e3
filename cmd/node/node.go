// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tarn/account"
	"tarn/clientapi"
	"tarn/configs"
	"tarn/internal/control"
	"tarn/internal/durable"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/media"
	"tarn/onion"
	"tarn/replicate"
	"tarn/room"
	"tarn/store"
)

// diskReserve is how many bytes of the disk must stay free: with less nothing is written (store.Options).
const diskReserve = 64 << 20

// node is everything that one data directory holds, opened.
type node struct {
	cfg      configs.Node
	id       identity
	log      *slog.Logger
	started  time.Time
	unlock   func() error
	kv       *store.Badger
	stream   *store.Stream
	accounts *account.Accounts
	rooms    *room.Rooms
	media    *media.Store
	api      *clientapi.API
	engine   *replicate.Engine
	tor      *onion.Tor
}

// openMade opens a node that was made before. A lost database is errNoDatabase: open would make an empty one.
func openMade(cfg configs.Node, logTo io.Writer) (*node, error) {
	if _, err := loadIdentity(cfg.DataDir); err != nil {
		return nil, err
	}
	db := filepath.Join(cfg.DataDir, "db")
	files, err := os.ReadDir(db)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w", db, errNoDatabase)
	}
	return open(cfg, logTo)
}

// open takes the directory's lock, opens the database and puts the packages together; nothing runs yet.
func open(cfg configs.Node, logTo io.Writer) (_ *node, err error) {
	n := &node{cfg: cfg, started: time.Now()}
	n.log = configs.Log(logTo, cfg.LogLevel)
	if n.id, err = loadIdentity(cfg.DataDir); err != nil {
		return nil, err
	}
	if n.unlock, err = durable.Lock(cfg.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.kv, err = store.OpenNode(filepath.Join(cfg.DataDir, "db"), store.Options{Log: n.log, Reserve: diskReserve}); err != nil {
		return nil, err
	}
	if err = store.Own(n.kv, string(n.id.name)); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.DataDir, err)
	}
	if n.stream, err = store.OpenStream(n.kv); err != nil {
		return nil, err
	}
	if n.accounts, err = account.Open(n.kv, n.stream, account.Options{Server: n.id.name, NoRateLimit: cfg.Client.NoRateLimit}); err != nil {
		return nil, err
	}
	if n.rooms, err = room.Open(n.kv, n.stream, room.Options{
		Signer: n.id.signer, Certificate: n.id.certificate, Profile: n.localProfile, Exists: n.exists, EncodeReceipts: encodeReceipts,
		Older: room.Older{Ahead: cfg.History.Ahead, Most: cfg.History.Most},
	}); err != nil {
		return nil, err
	}
	remoteMax := int64(cfg.Media.RemoteMax)
	if remoteMax == 0 {
		p, err := schedule(cfg.Profile)
		if err != nil {
			return nil, err
		}
		remoteMax = p.MediaLimit(int64(cfg.Media.MaxUpload))
	}
	if n.media, err = media.Open(filepath.Join(cfg.DataDir, "media"), n.kv, media.Options{
		MaxUpload: int64(cfg.Media.MaxUpload), Quota: int64(cfg.Media.Quota), Reserve: diskReserve,
		RemoteMax: remoteMax, RemoteQuota: int64(cfg.Media.RemoteQuota)}); err != nil {
		return nil, err
	}
	n.api = clientapi.New(clientapi.Config{
		Rooms: n.rooms, Accounts: n.accounts, Stream: n.stream, Media: n.media, OpenMedia: cfg.Client.OpenMedia,
		Reaches: func(s matrix.ServerName) bool { return n.engine.Reaches(s) }, Server: n.id.name, BaseURL: cfg.Client.URL(),
		OpenRegistration: cfg.Client.OpenRegistration, NoRateLimit: cfg.Client.NoRateLimit, Log: n.log,
	})
	tc, err := cfg.Tor.Onion(filepath.Join(cfg.DataDir, "tor"), n.log)
	if err != nil {
		return nil, err
	}
	n.tor = onion.New(tc)
	return n, n.openEngine()
}

func (n *node) openEngine() (err error) {
	c := replicate.Config{
		KV: n.kv, Rooms: n.rooms, Accounts: n.accounts, Files: n.media, Signs: n.api, Log: n.log,
		Identity: replicate.Identity{Key: n.id.onion, Name: n.id.name, Certificate: n.id.certificate},
		Dial:     func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, n.tor) },
		Session: func(a mailbox.Address, p replicate.SessionParams) replicate.Courier {
			return replicate.NewSession(a, n.tor, p)
		},
	}
	if c.Profile, err = schedule(n.cfg.Profile); err != nil {
		return err
	}
	rand.Read(c.Seed[:])
	for _, l := range []struct {
		lines []string
		to    *[]mailbox.Address
	}{{n.cfg.Mailboxes, &c.Stores}, {n.cfg.Couriers, &c.Couriers}} {
		for _, line := range l.lines {
			a, err := mailbox.ParseAddress(line)
			if err != nil {
				return err
			}
			*l.to = append(*l.to, a)
		}
	}
	if c.Codes, err = n.cfg.Codes(); err != nil {
		return err
	}
	if c.Introductions, err = replicate.ParseIntroductions(n.cfg.Introductions); err != nil {
		return err
	}
	c.MaxIntroduced = n.cfg.MaxIntroduced
	n.engine, err = replicate.New(c)
	return err
}

// schedule makes the engine's profile of the configuration's.
func schedule(p configs.Profile) (replicate.Profile, error) {
	if p.Name != "custom" {
		return replicate.ParseProfile(p.Name)
	}
	custom := replicate.CustomProfile(p.Frame, p.CoverPut)
	custom.Mix, custom.Lag, custom.Push = p.Mix, p.Lag, p.Push
	custom.Digests, custom.AckDelay, custom.Retransmit = p.Digests, p.AckDelay, p.Rewrite
	custom.RetransmitMax = max(custom.RetransmitMax, p.Rewrite)
	return custom, custom.Validate()
}

// localProfile is a local user's for the member events that room makes.
func (n *node) localProfile(user matrix.UserID) (name, avatar string) {
	p, err := n.accounts.Profile(user)
	if err != nil {
		return "", ""
	}
	return p.DisplayName, p.AvatarURL
}

// exists tells whether an invite's target is a user here. A database that cannot tell refuses nobody.
func (n *node) exists(user matrix.UserID) bool {
	ok, err := n.accounts.Exists(user)
	return ok || err != nil
}

// run serves until ctx ends or a part fails. The Client-Server API does not wait for Tor.
func (n *node) run(ctx context.Context) error {
	addr, err := n.cfg.Client.Address()
	if err != nil {
		return err
	}
	listen := addr.String()
	if strings.HasPrefix(n.cfg.Client.Listen, ":") {
		listen = n.cfg.Client.Listen // of IPv4 and IPv6, what there is
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("Client-Server API: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.api.Serve(ctx, l) })
	g.Go(func() error { return control.Serve(ctx, filepath.Join(n.cfg.DataDir, socketName), n.methods()) })
	g.Go(func() error { return n.tor.Run(ctx) })
	g.Go(func() error { return n.engine.Run(ctx) })
	g.Go(func() error { return n.kv.Run(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // the signal that ended us is no error
}

func (n *node) close() error {
	var errs []error
	if n.kv != nil {
		errs = append(errs, n.kv.Close())
	}
	if n.unlock != nil {
		errs = append(errs, n.unlock())
	}
	return errors.Join(errs...)
}
