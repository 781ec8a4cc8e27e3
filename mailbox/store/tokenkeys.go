// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/rand"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"tarn/crypto/token"
	"tarn/internal/durable"
	"tarn/mailbox"
)

// tokenKeys are the keys that tokens are made and recognised with, one a day. A key is on the disk before it is
// published; it is destroyed SkewTolerance after the day after its own, and the tokens spent under it are forgotten
// after that: never before, or one could be spent again.
type tokenKeys struct {
	dir string // "" keeps nothing

	checking chan struct{} // places of those whose elements or tokens are being looked at: anybody can send some

	mu   sync.Mutex            // guards keys
	keys map[uint32]*token.Key // by day; those of session tokens by day | mailbox.SessionEpoch, from the same seed
}

const tokenKeySuffix = ".key"

func openTokenKeys(dir string) (*tokenKeys, error) {
	t := &tokenKeys{dir: dir, keys: map[uint32]*token.Key{}, checking: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	if dir == "" {
		return t, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if strings.HasSuffix(name, ".tmp") { // left by a crash: nobody was told of it
			if err := durable.Shred(name); err != nil {
				return nil, fmt.Errorf("token keys: %w", err)
			}
		}
		digits, ok := strings.CutSuffix(e.Name(), tokenKeySuffix)
		day, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			continue
		}
		b, err := os.ReadFile(name)
		if err == nil && len(b) != token.SeedSize {
			err = fmt.Errorf("%s has %d bytes, want %d", name, len(b), token.SeedSize)
		}
		if err == nil {
			err = t.add(uint32(day), (*[token.SeedSize]byte)(b))
		}
		if err != nil {
			return nil, fmt.Errorf("token keys: %w", err)
		}
	}
	return t, nil
}

func (t *tokenKeys) path(day uint32) string {
	return filepath.Join(t.dir, strconv.FormatUint(uint64(day), 10)+tokenKeySuffix)
}

// add derives both keys of a day.
func (t *tokenKeys) add(day uint32, seed *[token.SeedSize]byte) error {
	k, err := token.NewKey(seed)
	if err != nil {
		return err
	}
	s, err := token.NewSessionKey(seed)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys[day], t.keys[day|mailbox.SessionEpoch] = k, s
	return nil
}

// get is the key of that day, or nil.
func (t *tokenKeys) get(day uint32) *token.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys[day]
}

// drawable is the key of that day if tokens of it can be drawn now, or nil: those of today and later (and of yesterday
// for a requester whose clock is late); session tokens only of a day whose key is published.
func (t *tokenKeys) drawable(epoch uint32, now time.Time) *token.Key {
	day, last := dayOf(epoch), uint32(math.MaxUint32)
	if isSession(epoch) {
		last = mailbox.Epoch(now.Add(mailbox.SkewTolerance)) + sessionDays - 1
	}
	if day < mailbox.Epoch(now.Add(-mailbox.SkewTolerance)) || day > last {
		return nil
	}
	return t.get(epoch)
}

// dayOf is the day of an epoch of tokens, isSession tells whether they are session tokens.
func dayOf(epoch uint32) uint32   { return epoch &^ mailbox.SessionEpoch }
func isSession(epoch uint32) bool { return epoch&mailbox.SessionEpoch != 0 }

// ensure returns the key of that day; a new one is on the disk first.
func (t *tokenKeys) ensure(day uint32) (*token.Key, error) {
	if k := t.get(day); k != nil {
		return k, nil
	}
	var seed [token.SeedSize]byte
	rand.Read(seed[:])
	if t.dir != "" {
		if err := durable.WriteFile(t.path(day), seed[:], 0o600); err != nil {
			return nil, fmt.Errorf("write a token key: %w", err)
		}
	}
	if err := t.add(day, &seed); err != nil {
		return nil, err
	}
	return t.get(day), nil
}

// accepted are the days whose tokens are good at now: today and yesterday, and tomorrow for clocks that are ahead.
func accepted(now time.Time) []uint32 {
	today := mailbox.Epoch(now)
	days := []uint32{today, today - 1}
	if t := mailbox.Epoch(now.Add(mailbox.SkewTolerance)); t != today {
		days = append(days, t)
	}
	return days
}

// valid is the day of a token; ok is false if no accepted key of that kind (0 or mailbox.SessionEpoch) made it. All keys are tried,
// whatever is found.
func (t *tokenKeys) valid(tok *token.Token, kind uint32, now time.Time) (day uint32, ok bool) {
	t.checking <- struct{}{}
	defer func() { <-t.checking }()
	for _, d := range accepted(now) {
		if k := t.get(d | kind); k != nil && k.Valid(tok) {
			day, ok = d, true
		}
	}
	return day, ok
}

// elements checks what is to be evaluated.
func (t *tokenKeys) elements(blinded []byte) error {
	t.checking <- struct{}{}
	defer func() { <-t.checking }()
	return token.Check(blinded)
}

// expire destroys the keys whose time is over, and has the spent tokens of each forgotten afterwards.
func (t *tokenKeys) expire(now time.Time, drop func(below uint32) error) error {
	first := mailbox.Epoch(now.Add(-mailbox.SkewTolerance)) - 1
	var old []uint32
	t.mu.Lock()
	for day := range t.keys {
		if !isSession(day) && day < first {
			old = append(old, day)
		}
	}
	t.mu.Unlock()
	for _, day := range old {
		if t.dir != "" {
			if err := durable.Shred(t.path(day)); err != nil {
				return fmt.Errorf("destroy a token key: %w", err) // tried again at the next sweep
			}
		}
		t.mu.Lock()
		delete(t.keys, day)
		delete(t.keys, day|mailbox.SessionEpoch)
		t.mu.Unlock()
	}
	return drop(first)
}
