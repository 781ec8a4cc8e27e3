// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"tarn/configs"
	"tarn/onion"
)

const (
	configName = "mailbox.toml"
	socketName = "control.sock"
	seedName   = "onion.seed"
)

// errNoMailbox: the directory has no identity.
var errNoMailbox = errors.New("there is no mailbox here; `mailbox init` makes one")

// defaultConfig is the configuration file unless the command line says otherwise.
func defaultConfig() string {
	dir := "tarn-mailbox"
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		dir = filepath.Join(d, dir)
	} else if home, err := os.UserHomeDir(); err == nil {
		dir = filepath.Join(home, ".local", "share", dir)
	}
	return filepath.Join(dir, configName)
}

// loadConfig reads the configuration and makes its paths absolute.
func loadConfig(file string) (configs.Mailbox, error) {
	cfg := configs.DefaultMailbox()
	if err := configs.Load(file, &cfg); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return cfg, fmt.Errorf("%w (%w)", err, errNoMailbox)
		}
		return cfg, err
	}
	base, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return cfg, err
	}
	for _, p := range []*string{&cfg.DataDir, &cfg.Tor.TorrcFile} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	return cfg, nil
}

// loadKey reads the onion key of a mailbox that was made before; it never makes one, which would be another identity.
func loadKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, seedName)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, errNoMailbox)
	}
	seed, err := onion.LoadOrCreateSeed(path)
	if err != nil {
		return nil, err
	}
	return onion.KeyFromSeed(seed), nil
}

// torConfig is package onion's form of ours.
func torConfig(cfg configs.Mailbox, log *slog.Logger) (onion.Config, error) {
	torrc, err := cfg.Tor.Torrc()
	if err != nil {
		return onion.Config{}, err
	}
	tc := onion.Config{
		Mode: onion.Mode(cfg.Tor.Mode), Dir: filepath.Join(cfg.DataDir, "tor"), TorPath: cfg.Tor.Program,
		SocksAddr: cfg.Tor.Socks, Torrc: torrc, Bridges: cfg.Tor.Bridges, Log: log,
	}
	if path, ok := strings.CutPrefix(cfg.Tor.Control, "unix:"); ok {
		tc.ControlSocket = path
	} else {
		tc.ControlAddr = cfg.Tor.Control
	}
	return tc, nil
}

func newLog(e env, level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: l}))
}
