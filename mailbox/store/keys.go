// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"tarn/crypto/sealed"
	"tarn/internal/durable"
	"tarn/mailbox"
)

// requestKeys are the keys that requests are sealed to, one a day (UTC): today's and tomorrow's are published, and
// yesterday's still opens, for clocks that are late. A key is on the disk before it is published, and destroyed when
// the day after its own is over: from then on nobody can open what was recorded.
type requestKeys struct {
	dir   string // "" keeps nothing
	onion ed25519.PrivateKey
	about mailbox.Descriptor // all but the keys

	mu         sync.Mutex // guards all below
	keys       map[uint32]*sealed.PrivateKey
	published  uint32 // the day that descriptor begins with
	descriptor []byte
}

const keySuffix = ".key"

// openKeys reads the keys that are there; rotate brings them up to date.
func openKeys(dir string, onion ed25519.PrivateKey, about mailbox.Descriptor) (*requestKeys, error) {
	k := &requestKeys{dir: dir, onion: onion, about: about, keys: map[uint32]*sealed.PrivateKey{}}
	if dir == "" {
		return k, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("request keys: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("request keys: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") { // a key that a crash left half made: it was never used
			if err := shred(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("request keys: %w", err)
			}
		}
		digits, ok := strings.CutSuffix(e.Name(), keySuffix)
		epoch, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("request keys: %w", err)
		}
		key, err := sealed.ParsePrivateKey(b)
		if err != nil {
			return nil, fmt.Errorf("request key %s: %w", e.Name(), err)
		}
		k.keys[uint32(epoch)] = key
	}
	return k, nil
}

// get is the key of that day, or nil.
func (k *requestKeys) get(epoch uint32) *sealed.PrivateKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[epoch]
}

// current is the signed descriptor.
func (k *requestKeys) current() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.descriptor
}

// rotate makes the keys of today and tomorrow, publishes them, and destroys those before yesterday. Killed at any
// step: a key lies there that was not published, or one that should be gone and goes at the next start.
func (k *requestKeys) rotate(now time.Time) error {
	today := mailbox.Epoch(now)
	k.mu.Lock()
	due := k.published != today || k.descriptor == nil
	k.mu.Unlock()
	if !due {
		return nil
	}
	d := k.about
	for _, day := range []uint32{today, today + 1} {
		key, err := k.ensure(day)
		if err != nil {
			return err
		}
		d.Keys = append(d.Keys, mailbox.RequestKey{Epoch: day, Public: key.Public().Bytes()})
	}
	signed, err := mailbox.SignDescriptor(k.onion, d)
	if err != nil {
		return err
	}
	var old []uint32
	k.mu.Lock()
	k.descriptor = signed
	for day := range k.keys {
		if day+1 < today {
			old = append(old, day)
		}
	}
	k.mu.Unlock()
	for _, day := range old {
		if k.dir != "" {
			if err := shred(k.path(day)); err != nil {
				return fmt.Errorf("destroy a request key: %w", err) // tried again at the next sweep
			}
		}
		k.mu.Lock()
		delete(k.keys, day)
		k.mu.Unlock()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.published = today
	return nil
}

// ensure returns the key of that day; a new one is on the disk first.
func (k *requestKeys) ensure(day uint32) (*sealed.PrivateKey, error) {
	if key := k.get(day); key != nil {
		return key, nil
	}
	key, err := sealed.Generate()
	if err != nil {
		return nil, err
	}
	if k.dir != "" {
		if err := durable.WriteFile(k.path(day), key.Bytes(), 0o600); err != nil {
			return nil, fmt.Errorf("write request key: %w", err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[day] = key
	return key, nil
}

func (k *requestKeys) path(day uint32) string {
	return filepath.Join(k.dir, strconv.FormatUint(uint64(day), 10)+keySuffix)
}

// shred overwrites a small file, syncs that, and removes the file, durably. A file that is not there is no error.
// A crash leaves the file whole, overwritten, or gone: the caller tries again.
func shred(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, fi.Size()), 0)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(name))
}

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
