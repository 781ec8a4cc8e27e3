// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarn/configs"
	"tarn/onion"
)

const (
	socketName = "control.sock"
	seedName   = "onion.seed"
)

// errNoMailbox: the directory has no identity.
var errNoMailbox = errors.New("there is no mailbox here; `mailbox init` makes one")

// loadConfig reads the configuration and makes its paths absolute.
func loadConfig(file string) (configs.Mailbox, error) {
	cfg := configs.DefaultMailbox()
	if err := configs.Load(file, &cfg); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return cfg, fmt.Errorf("%w (%w)", err, errNoMailbox)
		}
		return cfg, err
	}
	return cfg, configs.Absolute(file, &cfg.DataDir, &cfg.Tor.TorrcFile)
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
