// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"tarn/internal/durable"
)

// loadSeed reads a 32-byte seed, or makes it, durably.
func loadSeed(name string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, ed25519.SeedSize)
		rand.Read(b)
		err = durable.WriteFile(name, b, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if len(b) != ed25519.SeedSize {
		return nil, fmt.Errorf("signing key: %s has %d bytes, want %d", name, len(b), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(b), nil
}
