// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"tarn/crypto/token"
	"tarn/mailbox"
	kv "tarn/store"
)

// spentSets remember which tokens were spent, on which handle: a database for each day of keys, deleted whole once the
// key is destroyed. One is made when the first token of its day comes.
type spentSets struct {
	dir  string // "" keeps nothing
	open func(name string) (kv.KV, error)

	mu   sync.Mutex // guards sets, also while one is opened or deleted
	sets map[uint32]kv.KV
}

// openSpent opens the sets of the days that has says there is a key of, and deletes the others: a crash came between the
// key's end and theirs.
func openSpent(dir string, has func(day uint32) bool, open func(name string) (kv.KV, error)) (_ *spentSets, err error) {
	s := &spentSets{dir: dir, open: open, sets: map[uint32]kv.KV{}}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spent tokens: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("spent tokens: %w", err)
	}
	for _, e := range entries {
		day, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || !e.IsDir() {
			continue
		}
		if !has(uint32(day)) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, errors.Join(fmt.Errorf("spent tokens: %w", err), s.close())
			}
			continue
		}
		// On a full disk it is opened by the first deposit that there is room for.
		if _, err := s.set(uint32(day)); err != nil && !errors.Is(err, kv.ErrDiskFull) {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// set is the database of that day.
func (s *spentSets) set(day uint32) (kv.KV, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if db := s.sets[day]; db != nil {
		return db, nil
	}
	db, err := s.open(filepath.Join("spent", strconv.FormatUint(uint64(day), 10)))
	if err != nil {
		return nil, fmt.Errorf("spent tokens: %w", err)
	}
	s.sets[day] = db
	return db, nil
}

// payment is a valid token that a deposit shows.
type payment struct {
	day    uint32
	token  token.Token
	handle mailbox.Handle
	fresh  bool // by this spend
	good   bool // it pays for the handle
}

// spentKey is the row of a token: half of a hash, for two tokens of different people do not meet in it by chance.
func (p *payment) spentKey() []byte {
	h := sha256.Sum256(p.token[:])
	return h[:16]
}

// spend marks the tokens as spent on their handles, durably when it returns nil. One that is spent on the handle
// already is good; one that is spent on another is not.
func (s *spentSets) spend(ps []*payment) error {
	return s.each(ps, func(x kv.Txn, p *payment) error {
		key := p.spentKey()
		v, err := x.Get(key)
		switch {
		case err == nil:
			p.fresh, p.good = false, bytes.Equal(v, p.handle[:])
			return nil
		case errors.Is(err, kv.ErrNotFound):
			p.fresh, p.good = true, true
			return x.Set(key, p.handle[:])
		}
		return err
	})
}

// giveBack undoes a spend whose box was not kept.
func (s *spentSets) giveBack(ps []*payment) error {
	return s.each(ps, func(x kv.Txn, p *payment) error { return x.Delete(p.spentKey()) })
}

// each runs fn on the payments, an Update for each day.
func (s *spentSets) each(ps []*payment, fn func(kv.Txn, *payment) error) error {
	days := map[uint32][]*payment{}
	for _, p := range ps {
		days[p.day] = append(days[p.day], p)
	}
	for day, ps := range days {
		db, err := s.set(day)
		if err != nil {
			return err
		}
		err = db.Update(func(x kv.Txn) error {
			for _, p := range ps {
				if err := fn(x, p); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// drop forgets the sets of days before below, whose keys are destroyed.
func (s *spentSets) drop(below uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for day, db := range s.sets {
		if day >= below {
			continue
		}
		errs = append(errs, db.Close())
		delete(s.sets, day)
		if s.dir != "" {
			errs = append(errs, os.RemoveAll(filepath.Join(s.dir, strconv.FormatUint(uint64(day), 10))))
		}
	}
	return errors.Join(errs...)
}

func (s *spentSets) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, db := range s.sets {
		errs = append(errs, db.Close())
	}
	clear(s.sets)
	return errors.Join(errs...)
}

func randomCode() (c mailbox.Code) {
	rand.Read(c[:])
	return c
}
