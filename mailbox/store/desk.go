// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"tarn/mailbox"
	kv "tarn/store"
)

// Defaults of a store that wants tokens.
const (
	DefaultCap      = 6000
	DefaultWorkBits = 22 // about a second of one processor
)

const (
	answerTime   = time.Hour           // how long the answer to a draw waits
	maxDraws     = 4096                // answers that wait, 8 KiB each; beyond, draws are told busy
	maxWorkDraws = maxDraws / 2        // of these, of accounts by work
	maxOwnDraws  = 64                  // of these, of one account: an honest one at balanced makes 36 an hour
	maxWorkers   = 50_000              // accounts by work; beyond, one more is told full. Those of codes are as many as the operator gave codes
	forgetAfter  = 60                  // days without a draw, after which an account is forgotten
	forgetIdle   = 1                   // … if it is by work and never drew
	codeLifetime = 30 * 24 * time.Hour // of an invite code
	sessionDays  = 2                   // today's and tomorrow's session tokens can be drawn
	sessionCap   = 16                  // of one day, by an account
	overcommit   = 2                   // tokens drawn for a day, to the boxes of a day that the quota has room for: not all are spent
	reserveShare = 10                  // a tenth of the quota is for deposits alone: drawing is refused first, deposits last
)

// The rows of the desk's book.
const (
	rowAccount = 'a' // account id 32 -> proof 1, day of the newest draw, or of the registration 4, has drawn 1
	rowDrawn   = 'c' // day 4, account id 32 -> tokens drawn 4
	rowTotal   = 't' // day 4 -> tokens drawn by all 4, of them by accounts of work 4
	rowCode    = 'k' // hash of a code 32 -> Unix seconds of its end 8
	rowDraw    = 'd' // handle 8 -> draw
)

// desk is where tokens are drawn and taken: the accounts, what they have drawn, the answers that wait, the keys of the
// days and the tokens spent.
//
// Order of steps in a draw, and what being killed at each one means:
//
//  1. One Update writes the draw as it came, counted against its account: synced, it is acknowledged. Before: nothing
//     happened. After: the requester draws again, identically, and is told OK without being counted.
//  2. The worker evaluates it and replaces it by its answer. Killed before: the next start finds the draw and does it.
//  3. The answer is deleted an hour later.
type desk struct {
	onion    ed25519.PublicKey
	accounts mailbox.Accounts
	listed   map[mailbox.AccountID]bool
	bits     uint8
	cap      int
	perDay   int // tokens of one day, by all accounts
	sessions int // session tokens of one day, by all accounts; 0: none are given
	room     func() bool

	keys  *tokenKeys
	spent *spentSets
	book  *book
	wake  chan struct{}

	mu      sync.Mutex // guards what follows, for moments
	draws   map[mailbox.Handle]waiting
	places  places
	people  int
	workers int    // of these, by work
	tidied  uint32 // the day on which old accounts were last looked for
}

// openDesk opens the desk of a store in dir ("": everything in memory).
func openDesk(dir string, c Config, room func() bool) (_ *desk, err error) {
	d := &desk{
		onion: c.Onion.Public().(ed25519.PublicKey), accounts: c.Accounts, bits: c.WorkBits, cap: c.Cap, sessions: c.SessionTokens, room: room,
		listed: map[mailbox.AccountID]bool{}, wake: make(chan struct{}, 1), draws: map[mailbox.Handle]waiting{}, places: newPlaces(),
		perDay: int(overcommit * c.Quota / BoxCost / max(1, int64(c.TTL/(24*time.Hour)))),
	}
	for _, id := range c.AccountList {
		d.listed[id] = true
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	open := func(name string) (kv.KV, error) {
		if dir == "" {
			return kv.OpenMemory(), nil
		}
		b, err := kv.OpenBadger(filepath.Join(dir, name), kv.Options{Shape: kv.Blocks, Reserve: c.Reserve, Log: c.Log})
		if err != nil {
			return nil, err // not b: a nil *Badger in an interface is not nil
		}
		return b, nil
	}
	sub := func(name string) string {
		if dir == "" {
			return ""
		}
		return filepath.Join(dir, name)
	}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("tokens: %w", err)
		}
	}
	if d.keys, err = openTokenKeys(sub("keys")); err != nil {
		return nil, err
	}
	if d.spent, err = openSpent(sub("spent"), func(day uint32) bool { return d.keys.get(day) != nil }, open); err != nil {
		return nil, err
	}
	d.book = newBook(func() (kv.KV, error) { return open("book") }, d.load)
	if _, err = d.book.get(); errors.Is(err, kv.ErrDiskFull) {
		c.Log.Error("mailbox: the disk is full: no tokens are given or taken until there is space", "err", err)
	} else if err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	return d, nil
}

// load reads what is kept in memory of the book.
func (d *desk) load(book kv.KV) error {
	people, workers, draws, places := 0, 0, map[mailbox.Handle]waiting{}, newPlaces()
	err := book.View(func(r kv.Reader) error {
		err := r.Scan([]byte{rowAccount}, nil, func(_, v []byte) (bool, error) {
			if people++; byWork(v) {
				workers++
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		return r.Scan([]byte{rowDraw}, nil, func(k, v []byte) (bool, error) {
			w, err := parseDraw(v)
			if err != nil || len(k) != 1+mailbox.HandleSize {
				return false, errors.Join(errBook, err)
			}
			// Whose it is does not stand beside an answer: no account loses a place by those of before a restart, but all by
			// work together have so many less, for an hour.
			o := owner{work: true}
			draws[mailbox.Handle(k[1:])] = waiting{w.expires, o}
			places.add(o, 1)
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.people, d.workers, d.draws, d.places = people, workers, draws, places
	d.mu.Unlock()
	d.rouse()
	return nil
}

var errBook = errors.New("the book of accounts is damaged")

// policy is what the descriptor says on that day; the keys that it names are on the disk.
func (d *desk) policy(today uint32) (mailbox.Policy, error) {
	p := mailbox.Policy{Deposit: mailbox.DepositTokens, Accounts: d.accounts, Cap: uint32(d.cap), First: today}
	if d.accounts&mailbox.AccountsWork != 0 {
		p.WorkBits = d.bits
	}
	for day := today; day <= today+mailbox.TokenDays; day++ {
		k, err := d.keys.ensure(day)
		if err != nil {
			return mailbox.Policy{}, err
		}
		p.Keys = append(p.Keys, k.Public())
		if d.sessions > 0 && day < today+sessionDays {
			p.Sessions = append(p.Sessions, d.keys.get(day|mailbox.SessionEpoch).Public())
		}
	}
	return p, nil
}

// register makes an account known.
func (d *desk) register(q mailbox.Request) (mailbox.Status, error) {
	r, err := mailbox.ParseRegister(q)
	if err != nil {
		return mailbox.StatusRefused, nil
	}
	worked := r.Proof == mailbox.ProofWork && d.accounts&mailbox.AccountsWork != 0 && mailbox.Worked(d.onion, r.Account, r.Nonce, d.bits)
	hash := r.Code.Hash()
	code := append([]byte{rowCode}, hash[:]...)
	status, fresh := mailbox.StatusOK, false
	now := time.Now()
	d.mu.Lock()
	full := d.workers >= maxWorkers
	d.mu.Unlock()
	err = d.book.Update(func(x kv.Txn) error {
		status, fresh = mailbox.StatusAccount, false
		_, err := d.account(x, r.Account)
		if err == nil {
			status = mailbox.StatusOK
			return nil
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		switch {
		case worked:
		case r.Proof == mailbox.ProofCode && d.accounts&mailbox.AccountsCode != 0:
			v, err := x.Get(code)
			if errors.Is(err, kv.ErrNotFound) || err == nil && len(v) == 8 && int64(binary.BigEndian.Uint64(v)) < now.Unix() {
				return nil
			}
			if err != nil {
				return err
			}
		default:
			return nil
		}
		if full && r.Proof == mailbox.ProofWork {
			status = mailbox.StatusFull
			return nil
		}
		status, fresh = mailbox.StatusOK, true
		if r.Proof == mailbox.ProofCode {
			if err := x.Delete(code); err != nil {
				return err
			}
		}
		return x.Set(accountKey(r.Account), accountRow(r.Proof, mailbox.Epoch(now), false))
	})
	if err != nil {
		return bookStatus(err), err
	}
	if fresh {
		d.mu.Lock()
		d.people++
		if r.Proof == mailbox.ProofWork {
			d.workers++
		}
		d.mu.Unlock()
	}
	return status, nil
}

func accountKey(id mailbox.AccountID) []byte { return append([]byte{rowAccount}, id[:]...) }

const accountSize = 1 + 4 + 1

func accountRow(p mailbox.Proof, day uint32, drawn bool) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{byte(p)}, day), 0)
	if drawn {
		b[5] = 1
	}
	return b
}

func byWork(row []byte) bool { return len(row) == accountSize && row[0] == byte(mailbox.ProofWork) }

// unused tells whether the account of that row is forgotten.
func unused(row []byte, today uint32) bool {
	if len(row) != accountSize {
		return false
	}
	after := uint32(forgetAfter)
	if byWork(row) && row[5] == 0 {
		after = forgetIdle
	}
	return binary.BigEndian.Uint32(row[1:])+after < today
}

// account reads how an account was made known, 0 if it is only listed; kv.ErrNotFound if it is neither.
func (d *desk) account(r kv.Reader, id mailbox.AccountID) (proof mailbox.Proof, err error) {
	v, err := r.Get(accountKey(id))
	switch {
	case err == nil && len(v) == accountSize:
		return mailbox.Proof(v[0]), nil
	case err == nil:
		return 0, errBook
	case errors.Is(err, kv.ErrNotFound) && d.listed[id] && d.accounts&mailbox.AccountsList != 0:
		return 0, nil
	}
	return 0, err
}

// bookStatus is what a requester is told of a fault.
func bookStatus(err error) mailbox.Status {
	if errors.Is(err, kv.ErrDiskFull) || diskFull(err) {
		return mailbox.StatusFull
	}
	return mailbox.StatusBusy
}

// newCode makes an invite code, kept when newCode returns.
func (d *desk) newCode() (c mailbox.Code, expires time.Time, err error) {
	c, expires = randomCode(), time.Now().Add(codeLifetime)
	hash := c.Hash()
	err = d.book.Update(func(x kv.Txn) error {
		return x.Set(append([]byte{rowCode}, hash[:]...), binary.BigEndian.AppendUint64(nil, uint64(expires.Unix())))
	})
	return c, expires, err
}

// sweep forgets what is over: keys, spent tokens, answers, counts, codes, accounts that nobody uses.
func (d *desk) sweep(now time.Time) error {
	err := d.keys.expire(now, d.spent.drop)
	var old []mailbox.Handle
	today := mailbox.Epoch(now)
	d.mu.Lock()
	late := false
	for h, w := range d.draws {
		if late = late || w.ends.IsZero(); !w.ends.IsZero() && !w.ends.After(now) {
			old = append(old, h)
		}
	}
	tidy := d.tidied != today
	d.mu.Unlock()
	if late {
		d.rouse() // in case the worker failed before
	}
	if len(old) > 0 {
		err = errors.Join(err, d.drop(old...))
	}
	if _, err2 := d.book.get(); !tidy || errors.Is(err2, kv.ErrDiskFull) {
		return err
	}
	gone, workers := 0, 0
	err2 := d.book.Update(func(x kv.Txn) error {
		gone, workers = 0, 0
		del := func(k []byte) (bool, error) { return true, x.Delete(slices.Clone(k)) }
		for _, row := range []byte{rowDrawn, rowTotal} {
			if err := x.Scan([]byte{row}, nil, func(k, _ []byte) (bool, error) {
				if len(k) < 5 || dayOf(binary.BigEndian.Uint32(k[1:])) >= today {
					return true, nil
				}
				return del(k)
			}); err != nil {
				return err
			}
		}
		if err := x.Scan([]byte{rowCode}, nil, func(k, v []byte) (bool, error) {
			if len(v) == 8 && int64(binary.BigEndian.Uint64(v)) < now.Unix() {
				return del(k)
			}
			return true, nil
		}); err != nil {
			return err
		}
		return x.Scan([]byte{rowAccount}, nil, func(k, v []byte) (bool, error) {
			if unused(v, today) {
				if gone++; byWork(v) {
					workers++
				}
				return del(k)
			}
			return true, nil
		})
	})
	if err2 == nil {
		d.mu.Lock()
		d.tidied, d.people, d.workers = today, d.people-gone, d.workers-workers
		d.mu.Unlock()
	}
	return errors.Join(err, err2)
}

// TokenUsage is sums about tokens, for the operator.
type TokenUsage struct {
	Accounts int   `json:"accounts"`
	Drawn    int64 `json:"drawn_today"` // tokens of today, drawn on any day
	PerDay   int   `json:"per_day"`     // the most tokens of one day
	Waiting  int   `json:"waiting"`     // answers that wait to be fetched
}

func (d *desk) usage(now time.Time) (u TokenUsage, err error) {
	d.mu.Lock()
	u.Accounts, u.PerDay, u.Waiting = d.people, d.perDay, len(d.draws)
	d.mu.Unlock()
	err = d.book.View(func(r kv.Reader) error {
		all, err := numbers(r, binary.BigEndian.AppendUint32([]byte{rowTotal}, mailbox.Epoch(now)), 2)
		if err == nil {
			u.Drawn = int64(all[0])
		}
		return err
	})
	if errors.Is(err, kv.ErrDiskFull) {
		err = nil // the book is not open
	}
	return u, err
}

func (d *desk) close() error {
	var err error
	if d.book != nil {
		err = d.book.close()
	}
	if d.spent != nil {
		err = errors.Join(err, d.spent.close())
	}
	return err
}
