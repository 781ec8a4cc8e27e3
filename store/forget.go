// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/crypto/chacha20poly1305"

	"tarn/internal/durable"
)

// Forgetting. What is deleted or written over stays in Badger's files until compactions have come by all of its copies:
// for hours to months. For a ratchet's keys that is too long: they must be gone when they are not needed any more. So the
// values of the tables of contacts are sealed, each under a key of its own; these keys lie in rows beside (spaceName),
// wrapped under the newest generation's key, which lies in a small file of its own, DIR/forget/N.key. Forget makes a new
// generation, wraps the keys of all rows that there are under it, and destroys the old one's file. With it goes all that
// was deleted or written over before, wherever Badger has it still. (Row keys are not sealed: nothing that must be
// forgotten may stand in them.)
//
// The steps of Forget, and a crash after each: (1) the new generation's file is made and synced: it is found at the next
// opening, and is the newest. (2) All rows' keys are wrapped anew, in some transactions: those of both generations open,
// the next Forget goes on. (3) The old files are overwritten and removed: done.

const (
	forgetEvery = time.Hour
	forgetBatch = 500 // rows of one transaction

	wrappedSize = 4 + chacha20poly1305.NonceSizeX + chacha20poly1305.KeySize + chacha20poly1305.Overhead
)

// errForgotten: a row's key cannot be unwrapped. The files in DIR/forget are as needed as the others.
var errForgotten = errors.New("store: a sealed row does not open: a file in the folder \"forget\" is missing, or the database is damaged")

// secret tells whether the row's value is to be sealed.
func (v *vault) secret(key []byte) bool {
	return v != nil && len(key) > 0 && key[0] >= TableContact && key[0] < TableMedia
}

// vault seals values and opens them.
type vault struct {
	dir   string
	dirty atomic.Bool // something was sealed since the last Forget

	mu     sync.RWMutex // guards all below
	keys   map[uint32]cipher.AEAD
	newest uint32
	files  map[uint32]bool   // generations whose file is there
	ended  map[uint32]uint64 // and those whose file is gone: until no transaction reads a state before this one
}

func openVault(dir string) (*vault, error) {
	v := &vault{dir: dir, keys: map[uint32]cipher.AEAD{}, files: map[uint32]bool{}, ended: map[uint32]uint64{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".key")
		gen, err := strconv.ParseUint(name, 10, 32)
		if !ok || err != nil {
			continue // what a crash left of a file that was never used
		}
		k, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if v.files[uint32(gen)] = true; len(k) != chacha20poly1305.KeySize {
			return nil, fmt.Errorf("%s has %d bytes, not %d", filepath.Join(dir, e.Name()), len(k), chacha20poly1305.KeySize)
		}
		if v.keys[uint32(gen)], err = chacha20poly1305.NewX(k); err != nil {
			return nil, err
		}
		v.newest = max(v.newest, uint32(gen))
	}
	if v.newest == 0 {
		return v, v.renew()
	}
	v.dirty.Store(true) // perhaps: a killed process forgot nothing
	return v, nil
}

func (v *vault) file(gen uint32) string {
	return filepath.Join(v.dir, strconv.FormatUint(uint64(gen), 10)+".key")
}

// renew makes the next generation; what is sealed from now on is sealed under it.
func (v *vault) renew() error {
	var k [chacha20poly1305.KeySize]byte
	rand.Read(k[:])
	v.mu.Lock()
	defer v.mu.Unlock()
	gen := v.newest + 1
	if err := durable.WriteFile(v.file(gen), k[:], 0o600); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(v.dir)); err != nil {
		return err
	}
	a, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		return err
	}
	v.keys[gen], v.files[gen], v.newest = a, true, gen
	return nil
}

// destroy removes the files of the generations before the newest, which the state at ts does not need any more.
func (v *vault) destroy(ts uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for gen := range v.files {
		if gen == v.newest {
			continue
		}
		if err := durable.Shred(v.file(gen)); err != nil {
			return err
		}
		delete(v.files, gen)
		v.ended[gen] = ts
	}
	return nil
}

// release drops the keys that no running transaction can need; oldest is what the one reads that began first.
func (v *vault) release(oldest uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for gen, ts := range v.ended {
		if oldest >= ts {
			delete(v.ended, gen)
			delete(v.keys, gen)
		}
	}
}

// seal closes a row's value, and gives the wrapped key for the row beside.
func (v *vault) seal(key, value []byte) (wrapped, sealed []byte) {
	var k [chacha20poly1305.KeySize]byte
	rand.Read(k[:])
	a, err := chacha20poly1305.New(k[:])
	if err != nil {
		panic(err) // the size is right
	}
	v.dirty.Store(true)
	return v.wrap(key, k[:]), a.Seal(nil, make([]byte, a.NonceSize()), value, key)
}

// wrap is generation 4 ‖ nonce 24 ‖ the sealed key of the row with that key.
func (v *vault) wrap(key, k []byte) []byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	w := binary.BigEndian.AppendUint32(make([]byte, 0, wrappedSize), v.newest)
	w = w[:4+chacha20poly1305.NonceSizeX]
	rand.Read(w[4:])
	return v.keys[v.newest].Seal(w, w[4:], k, key)
}

func (v *vault) unwrap(key, wrapped []byte) (k []byte, gen uint32, err error) {
	if len(wrapped) != wrappedSize {
		return nil, 0, errForgotten
	}
	gen = binary.BigEndian.Uint32(wrapped)
	v.mu.RLock()
	a := v.keys[gen]
	v.mu.RUnlock()
	if a == nil {
		return nil, gen, errForgotten
	}
	if k, err = a.Open(nil, wrapped[4:4+chacha20poly1305.NonceSizeX], wrapped[4+chacha20poly1305.NonceSizeX:], key); err != nil {
		return nil, gen, errForgotten
	}
	return k, gen, nil
}

// open is the value of a row, as txn reads it.
func (v *vault) open(txn *badger.Txn, key, sealed []byte) ([]byte, error) {
	item, err := txn.Get(nameKey(key))
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errForgotten, err)
	}
	var value []byte
	err = item.Value(func(wrapped []byte) error {
		k, _, err := v.unwrap(key, wrapped)
		if err != nil {
			return err
		}
		a, err := chacha20poly1305.New(k)
		if err != nil {
			return err
		}
		if value, err = a.Open([]byte{}, make([]byte, a.NonceSize()), sealed, key); err != nil {
			return errForgotten
		}
		return nil
	})
	return value, err
}

// Forget makes what was deleted or written over in sealed tables unreadable, for whoever gets the directory from now on.
// It may run beside transactions. Close does it too; Run does it every hour.
func (b *Badger) Forget() error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	v := b.vault
	if v == nil || !v.dirty.Swap(false) {
		return nil
	}
	err := b.forget()
	if err != nil {
		v.dirty.Store(true) // another time
	}
	return err
}

func (b *Badger) forget() error {
	b.forgetting.Lock()
	defer b.forgetting.Unlock()
	if err := b.room(forgetBatch * (MaxKey + wrappedSize)); err != nil {
		return err
	}
	if err := b.vault.renew(); err != nil {
		return fmt.Errorf("store: forgetting: %w", err)
	}
	var from []byte
	for more := true; more; {
		// Between two commits, so that no row changes meanwhile; one that was sealed before renew is durable by now.
		var failed error
		p := &pending{done: make(chan outcome, 2)}
		p.work = func(ts uint64) (uint64, error) {
			var err error
			ts, from, more, failed, err = b.rewrap(ts, from)
			return ts, err
		}
		b.mu.Lock()
		b.queueLocked(p)
		b.mu.Unlock()
		if err := errors.Join(b.await(p), failed); err != nil {
			return fmt.Errorf("store: forgetting: %w", err)
		}
	}
	b.mu.Lock()
	ts := b.done
	b.mu.Unlock()
	if err := b.vault.destroy(ts); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: forgetting: %w", err)
	}
	b.releaseKeys()
	return nil
}

// rewrap wraps the keys of some rows from there on anew. failed: nothing was written; err: it is not known what was.
func (b *Badger) rewrap(ts uint64, from []byte) (done uint64, next []byte, more bool, failed, err error) {
	v := b.vault
	txn := b.db.NewTransactionAt(ts, true)
	defer txn.Discard()
	o := badger.DefaultIteratorOptions
	o.PrefetchValues = false
	o.Prefix = []byte{spaceName}
	n, seen, size := 0, 0, int64(0)
	failed = func() error {
		it := txn.NewIterator(o)
		defer it.Close()
		if from == nil {
			from = o.Prefix
		}
		for it.Seek(from); it.Valid(); it.Next() {
			name := it.Item().KeyCopy(nil)
			size += int64(len(name)) + wrappedSize + 32
			if n == forgetBatch || size > b.maxBytes/2 && n > 0 || seen == 20*forgetBatch { // others want to commit
				next, more = name, true
				return nil
			}
			seen++
			if err := it.Item().Value(func(wrapped []byte) error {
				k, gen, err := v.unwrap(name[1:], wrapped)
				if err != nil || gen == v.newest { // newest changes in Forget only
					return err
				}
				if n++; n == 1 {
					size = 0 // what was passed over takes nothing
				}
				return txn.Set(name, v.wrap(name[1:], k))
			}); err != nil {
				return err
			}
		}
		return nil
	}()
	if failed != nil || n == 0 {
		return ts, next, more, failed, nil
	}
	return ts + 1, next, more, nil, b.finish(txn, ts+1)
}

// releaseKeys drops what no transaction can need any more.
func (b *Badger) releaseKeys() {
	b.mu.Lock()
	oldest := b.done
	for s := range b.snaps {
		oldest = min(oldest, s)
	}
	b.mu.Unlock()
	if b.vault != nil {
		b.vault.release(oldest)
	}
}
