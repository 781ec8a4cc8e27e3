// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"tarn/configs"
	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/front"
	"tarn/mailbox/store"
	"tarn/onion"
)

// pond is one onion of the mailbox, with an id space, a digest and keys of its own: an anonymity set. A big mailbox has
// several, so that its digest stays short; the first one, which always is, has the courier.
type pond struct {
	key     ed25519.PrivateKey
	keys    *front.Keys
	store   *store.Server   // nil: the role is off
	courier *courier.Server // nil: the role is off, or not the first pond
	door    *front.Server
	listen  net.Listener
}

// sessionTokens is how many session tokens of a day are given for each place of a session: nodes that are restarted, or change their
// minds, need more than one.
const sessionTokens = 16

// pondDir is where a pond keeps everything: the first one in the mailbox's own folder.
func pondDir(dataDir string, i int) string {
	if i == 0 {
		return dataDir
	}
	return filepath.Join(dataDir, "ponds", strconv.Itoa(i+1))
}

// pondKeys are the onion keys of all ponds. The first one's was made by init and is never made anew: that would be another
// identity. The others' are made when they are first wanted, durably.
func pondKeys(cfg configs.Mailbox) ([]ed25519.PrivateKey, error) {
	first, err := loadKey(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	keys := []ed25519.PrivateKey{first}
	for i := 1; i < cfg.Ponds; i++ {
		dir := pondDir(cfg.DataDir, i)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		seed, err := onion.LoadOrCreateSeed(filepath.Join(dir, seedName))
		if err != nil {
			return nil, err
		}
		keys = append(keys, onion.KeyFromSeed(seed))
	}
	return keys, nil
}

// openPond opens one; the quota is shared among all.
func openPond(cfg configs.Mailbox, i int, key ed25519.PrivateKey, dial mailbox.Dialer, log *slog.Logger) (_ *pond, err error) {
	p, dir := &pond{key: key}, pondDir(cfg.DataDir, i)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
			if cfg.Ponds > 1 {
				err = fmt.Errorf("pond %d: %w", i+1, err)
			}
		}
	}()
	fc := front.Config{MaxConns: cfg.MaxConnections, MaxLinks: cfg.MaxLinks, Log: log}
	if cfg.Store {
		ways, list, err := cfg.AccountWays()
		if err != nil {
			return nil, err
		}
		deposit := mailbox.DepositOpen
		if cfg.Deposit == "tokens" {
			deposit = mailbox.DepositTokens
		}
		sessions := 0
		if cfg.Courier && i == 0 && cfg.ReservedSessions > 0 { // Check: then deposits need tokens
			sessions = sessionTokens * cfg.MaxSessions
		}
		p.store, err = store.New(store.Config{
			SessionTokens: sessions,
			Deposit:       deposit, Accounts: ways, AccountList: list, WorkBits: uint8(cfg.WorkBits), Cap: cfg.TokensPerDay,
			Dir: filepath.Join(dir, "store"), Onion: key, TTL: cfg.TTL, Bucket: cfg.DigestBucket, ExpiryUnit: cfg.ExpiryUnit,
			Quota: int64(cfg.Quota) / int64(cfg.Ponds), Reserve: int64(cfg.Reserve), Log: log,
		})
		if err != nil {
			return nil, err
		}
		fc.Store = p.store
	}
	carries := cfg.Courier && i == 0
	about := func(now time.Time) (d mailbox.Descriptor, err error) {
		if p.store != nil {
			d, err = p.store.About(now)
		}
		d.Family = cfg.Family
		if carries {
			d.Roles |= mailbox.RoleCourier
		}
		return d, err
	}
	if p.keys, err = front.OpenKeys(filepath.Join(dir, "keys"), key, about); err != nil {
		return nil, err
	}
	fc.Keys = p.keys
	if carries {
		var redeem func(*[mailbox.TokenSize]byte) bool
		if p.store != nil && cfg.Deposit == "tokens" {
			redeem = p.store.RedeemSession
		}
		p.courier, err = courier.New(courier.Config{Reserved: cfg.ReservedSessions, Redeem: redeem, Dir: filepath.Join(dir, "courier"), Keys: p.keys, Dial: dial, MaxSessions: cfg.MaxSessions, Rate: float64(cfg.MaxFrames), MaxLinks: cfg.MaxLinks, MaxReplays: cfg.MaxLayers, Log: log})
		if err != nil {
			return nil, err
		}
		fc.Courier = p.courier
	}
	p.door, err = front.New(fc)
	return p, err
}

// publish makes the pond reachable.
func (p *pond) publish(ctx context.Context, cfg configs.Mailbox, tor *onion.Tor) (err error) {
	if cfg.Tor.Mode == string(onion.Off) {
		p.listen = newSilence()
		return nil
	}
	var opts []onion.ListenOption
	if cfg.PowRate > 0 {
		opts = append(opts, onion.ProofOfWork(cfg.PowRate, min(2*cfg.PowRate, 65535)))
	}
	p.listen, err = tor.Listen(ctx, p.key, mailbox.Port, opts...)
	return err
}

// close gives back what a pond has that was not run.
func (p *pond) close() (err error) {
	if p.listen != nil {
		err = p.listen.Close()
	}
	if p.store != nil {
		err = errors.Join(err, p.store.Close())
	}
	return err
}
