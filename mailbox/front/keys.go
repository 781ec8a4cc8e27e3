// SPDX-License-Identifier: Apache-2.0

package front

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
	"tarn/internal/durable"
	"tarn/mailbox"
)

// Keys are the identity of a mailbox at work: its onion key, and the keys that requests are sealed to, one a day (UTC):
// today's and tomorrow's are published, and yesterday's still opens, for clocks that are late. A key is on the disk
// before it is published, and destroyed when the day after its own is over: from then on nobody can open what was
// recorded. Both roles of a mailbox use the same keys. Safe for concurrent use.
type Keys struct {
	dir   string // "" keeps nothing
	onion ed25519.PrivateKey
	about func(now time.Time) (mailbox.Descriptor, error)

	rotating sync.Mutex // one Rotate at a time

	mu         sync.Mutex // guards all below
	keys       map[uint32]*sealed.PrivateKey
	published  uint32 // the day that descriptor begins with
	descriptor []byte
}

const keySuffix = ".key"

// OpenKeys reads the keys that are in dir ("": nothing is kept) and brings them up to date. about is asked once a day for
// what the descriptor says beside the request keys.
func OpenKeys(dir string, onion ed25519.PrivateKey, about func(now time.Time) (mailbox.Descriptor, error)) (*Keys, error) {
	if len(onion) != ed25519.PrivateKeySize {
		return nil, errors.New("request keys: no onion key")
	}
	k := &Keys{dir: dir, onion: onion, about: about, keys: map[uint32]*sealed.PrivateKey{}}
	if err := k.read(); err != nil {
		return nil, fmt.Errorf("request keys: %w", err)
	}
	return k, k.Rotate(time.Now())
}

func (k *Keys) read() error {
	if k.dir == "" {
		return nil
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") { // a key that a crash left half made: it was never used
			if err := durable.Shred(filepath.Join(k.dir, e.Name())); err != nil {
				return err
			}
		}
		digits, ok := strings.CutSuffix(e.Name(), keySuffix)
		epoch, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(k.dir, e.Name()))
		if err != nil {
			return err
		}
		key, err := sealed.ParsePrivateKey(b)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
		k.keys[uint32(epoch)] = key
	}
	return nil
}

// Onion is the public onion key.
func (k *Keys) Onion() ed25519.PublicKey { return k.onion.Public().(ed25519.PublicKey) }

// Address is what others are told.
func (k *Keys) Address() mailbox.Address { return AddressOf(k.onion) }

// AddressOf is the address of the mailbox with that onion key: what others are told.
func AddressOf(onion ed25519.PrivateKey) mailbox.Address {
	return mailbox.Address{Onion: onionid.FromKey(onion.Public().(ed25519.PublicKey))}
}

// Get is the key of that day, or nil.
func (k *Keys) Get(epoch uint32) *sealed.PrivateKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[epoch]
}

// Descriptor is the signed one of today; it is not to be changed.
func (k *Keys) Descriptor() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.descriptor
}

// Rotate makes the keys of today and tomorrow, publishes them, and destroys those before yesterday. Killed at any
// step: a key lies there that was not published, or one that should be gone and goes at the next start.
func (k *Keys) Rotate(now time.Time) error {
	k.rotating.Lock()
	defer k.rotating.Unlock()
	today := mailbox.Epoch(now)
	k.mu.Lock()
	due := k.published != today || k.descriptor == nil
	k.mu.Unlock()
	if !due {
		return nil
	}
	d, err := k.about(now)
	if err != nil {
		return fmt.Errorf("make a descriptor: %w", err)
	}
	d.Keys = nil
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
			if err := durable.Shred(k.path(day)); err != nil {
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
func (k *Keys) ensure(day uint32) (*sealed.PrivateKey, error) {
	if key := k.Get(day); key != nil {
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

func (k *Keys) path(day uint32) string {
	return filepath.Join(k.dir, strconv.FormatUint(uint64(day), 10)+keySuffix)
}
