// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"tarn/internal/durable"
)

// SeedSize is the size of an onion key's seed, in bytes: the whole identity. Who has it is the service.
const SeedSize = ed25519.SeedSize

// ErrSeed: a seed file is damaged, or others may read it. It is never overwritten: the old name would be lost.
var ErrSeed = errors.New("unusable onion seed file")

// LoadOrCreateSeed reads the 32-byte seed in the file path, or makes a new one there (mode 0600, durable before it is
// returned; a crash leaves no file or a whole one). A file of another size, or one that group or others can read, is
// ErrSeed. The caller holds the lock of the data directory: two processes creating at once would get two identities.
func LoadOrCreateSeed(path string) ([SeedSize]byte, error) {
	var seed [SeedSize]byte
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		rand.Read(seed[:])
		if err := durable.WriteFile(path, seed[:], 0o600); err != nil {
			return [SeedSize]byte{}, fmt.Errorf("write onion seed: %w", err)
		}
		return seed, nil
	}
	if err != nil {
		return seed, fmt.Errorf("read onion seed: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Size() != SeedSize {
		return seed, fmt.Errorf("%w: %s has %d bytes, want a file of %d", ErrSeed, path, fi.Size(), SeedSize)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return seed, fmt.Errorf("%w: %s can be read by others (mode %04o); if that was no leak: chmod 600", ErrSeed, path, fi.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return seed, fmt.Errorf("read onion seed: %w", err)
	}
	if copy(seed[:], b) != SeedSize || len(b) != SeedSize {
		return [SeedSize]byte{}, fmt.Errorf("%w: %s changed while it was read", ErrSeed, path)
	}
	return seed, nil
}

// KeyFromSeed is the onion key of seed (RFC 8032: the same key as any ed25519 library makes of it).
func KeyFromSeed(seed [SeedSize]byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(seed[:]) }
