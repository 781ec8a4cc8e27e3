// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"tarn/crypto/token"
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
	maxAccounts  = 100_000             // and beyond, registrations are told full
	forgetAfter  = 60                  // days without a draw, after which an account is forgotten
	codeLifetime = 30 * 24 * time.Hour // of an invite code
	overcommit   = 2                   // tokens drawn for a day, to the boxes of a day that the quota has room for: not all are spent
	reserveShare = 10                  // a tenth of the quota is for deposits alone: drawing is refused first, deposits last
)

// The rows of the desk's book.
const (
	rowAccount = 'a' // account id 32 -> proof 1, day of the newest draw 4
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
	room     func() bool

	keys  *tokenKeys
	spent *spentSets
	book  kv.KV
	wake  chan struct{}

	mu     sync.Mutex                   // guards what follows, for moments
	draws  map[mailbox.Handle]time.Time // when the answer goes; zero: it is not there yet
	people int
	tidied uint32 // the day on which old accounts were last looked for
}

// openDesk opens the desk of a store in dir ("": everything in memory).
func openDesk(dir string, c Config, room func() bool) (_ *desk, err error) {
	d := &desk{
		onion: c.Onion.Public().(ed25519.PublicKey), accounts: c.Accounts, bits: c.WorkBits, cap: c.Cap, room: room,
		listed: map[mailbox.AccountID]bool{}, wake: make(chan struct{}, 1), draws: map[mailbox.Handle]time.Time{},
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
	if d.book, err = open("book"); err != nil {
		return nil, fmt.Errorf("tokens: %w", err)
	}
	return d, d.book.View(func(r kv.Reader) error {
		err := r.Scan([]byte{rowAccount}, nil, func(k, v []byte) (bool, error) { d.people++; return true, nil })
		if err != nil {
			return err
		}
		return r.Scan([]byte{rowDraw}, nil, func(k, v []byte) (bool, error) {
			w, err := parseDraw(v)
			if err != nil || len(k) != 1+mailbox.HandleSize {
				return false, errors.Join(errBook, err)
			}
			d.draws[mailbox.Handle(k[1:])] = w.expires
			return true, nil
		})
	})
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
	full := d.people >= maxAccounts
	d.mu.Unlock()
	err = d.book.Update(func(x kv.Txn) error {
		status, fresh = mailbox.StatusAccount, false
		_, _, err := d.account(x, r.Account)
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
		if full {
			status = mailbox.StatusFull
			return nil
		}
		status, fresh = mailbox.StatusOK, true
		if r.Proof == mailbox.ProofCode {
			if err := x.Delete(code); err != nil {
				return err
			}
		}
		return x.Set(accountKey(r.Account), accountRow(r.Proof, mailbox.Epoch(now)))
	})
	if err != nil {
		return bookStatus(err), err
	}
	if fresh {
		d.mu.Lock()
		d.people++
		d.mu.Unlock()
	}
	return status, nil
}

func accountKey(id mailbox.AccountID) []byte { return append([]byte{rowAccount}, id[:]...) }

func accountRow(p mailbox.Proof, day uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(p)}, day)
}

// account reads an account; kv.ErrNotFound if it is neither registered nor listed.
func (d *desk) account(r kv.Reader, id mailbox.AccountID) (proof mailbox.Proof, day uint32, err error) {
	v, err := r.Get(accountKey(id))
	switch {
	case err == nil && len(v) == 5:
		return mailbox.Proof(v[0]), binary.BigEndian.Uint32(v[1:]), nil
	case err == nil:
		return 0, 0, errBook
	case errors.Is(err, kv.ErrNotFound) && d.listed[id] && d.accounts&mailbox.AccountsList != 0:
		return 0, 0, nil
	}
	return 0, 0, err
}

// bookStatus is what a requester is told of a fault.
func bookStatus(err error) mailbox.Status {
	if errors.Is(err, kv.ErrDiskFull) || diskFull(err) {
		return mailbox.StatusFull
	}
	return mailbox.StatusBusy
}

// draw is a row of rowDraw.
type draw struct {
	hash    [32]byte  // of the request's id and box: the identical one is told OK
	expires time.Time // zero: it waits for the worker
	request []byte    // then: id 16, the request's box without the zeros at its end
	answer  []byte    // else: the box
}

func (w draw) marshal() []byte {
	b := append([]byte(nil), w.hash[:]...)
	if w.expires.IsZero() {
		return append(binary.BigEndian.AppendUint64(b, 0), w.request...)
	}
	return append(binary.BigEndian.AppendUint64(b, uint64(w.expires.Unix())), w.answer...)
}

func parseDraw(v []byte) (w draw, err error) {
	if len(v) < 40 {
		return w, errBook
	}
	w.hash = [32]byte(v)
	secs := binary.BigEndian.Uint64(v[32:])
	if secs == 0 {
		if w.request = v[40:]; len(w.request) <= mailbox.IDSize || len(w.request) > mailbox.IDSize+mailbox.BoxSize {
			return w, errBook
		}
		return w, nil
	}
	if w.expires, w.answer = time.Unix(int64(secs), 0), v[40:]; len(w.answer) != mailbox.BoxSize {
		return w, errBook
	}
	return w, nil
}

func drawKey(h mailbox.Handle) []byte { return append([]byte{rowDraw}, h[:]...) }

// issue takes a draw in.
func (d *desk) issue(q mailbox.Request) (mailbox.Status, error) {
	i, err := mailbox.ParseIssue(q)
	if err != nil || d.keys.drawable(i.Epoch, time.Now()) == nil || token.Check(i.Blinded) != nil {
		return mailbox.StatusRefused, nil
	}
	n := len(i.Blinded) / token.ElementSize
	id, handle := i.Account.ID(), q.ID.Handle()
	w := draw{hash: sha256.Sum256(slices.Concat(q.ID[:], q.Box)), request: slices.Concat(q.ID[:], trimZeros(q.Box))}
	room := d.room()
	d.mu.Lock()
	busy := len(d.draws) >= maxDraws
	d.mu.Unlock()
	day := binary.BigEndian.AppendUint32(nil, i.Epoch)
	drawn, total := append(append([]byte{rowDrawn}, day...), id[:]...), append([]byte{rowTotal}, day...)
	status, fresh := mailbox.StatusOK, false
	err = d.book.Update(func(x kv.Txn) error {
		status, fresh = mailbox.StatusOK, false
		old, err := x.Get(drawKey(handle))
		if err == nil {
			if have, err := parseDraw(old); err != nil || have.hash != w.hash {
				status = mailbox.StatusExists
				return err
			}
			return nil
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		proof, _, err := d.account(x, id)
		if errors.Is(err, kv.ErrNotFound) {
			status = mailbox.StatusAccount
			return nil
		}
		if err != nil {
			return err
		}
		own, err := numbers(x, drawn, 1)
		if err != nil {
			return err
		}
		all, err := numbers(x, total, 2)
		if err != nil {
			return err
		}
		switch {
		case int(own[0])+n > d.cap:
			status = mailbox.StatusCap
			return nil
		case !room, int(all[0])+n > d.perDay, proof == mailbox.ProofWork && int(all[1])+n > d.perDay/2:
			// Accounts of work have half of a day's tokens together: who can make many shuts out none of the others.
			status = mailbox.StatusFull
			return nil
		case busy:
			status = mailbox.StatusBusy
			return nil
		}
		fresh = true
		own[0] += uint32(n)
		all[0] += uint32(n)
		if proof == mailbox.ProofWork {
			all[1] += uint32(n)
		}
		if proof != 0 {
			err = x.Set(accountKey(id), accountRow(proof, mailbox.Epoch(time.Now())))
		}
		return errors.Join(err, x.Set(drawn, numberRow(own)), x.Set(total, numberRow(all)), x.Set(drawKey(handle), w.marshal()))
	})
	if err != nil {
		return bookStatus(err), err
	}
	if fresh {
		d.mu.Lock()
		d.draws[handle] = time.Time{}
		d.mu.Unlock()
		d.rouse()
	}
	return status, nil
}

func trimZeros(b []byte) []byte {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return b[:n]
}

// numbers reads n numbers of 4 bytes; zeros if there is no row.
func numbers(r kv.Reader, key []byte, n int) ([]uint32, error) {
	v, err := r.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return make([]uint32, n), nil
	}
	if err != nil || len(v) != 4*n {
		return nil, errors.Join(errBook, err)
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint32(v[4*i:])
	}
	return out, nil
}

func numberRow(ns []uint32) (b []byte) {
	for _, n := range ns {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// answer copies the answer to a draw, if it is there.
func (d *desk) answer(h mailbox.Handle, box *[mailbox.BoxSize]byte) (found bool, err error) {
	err = d.book.View(func(r kv.Reader) error {
		v, err := r.Get(drawKey(h))
		if errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		w, err := parseDraw(v)
		if err == nil && w.answer != nil && time.Now().Before(w.expires) {
			found = true
			copy(box[:], w.answer)
		}
		return err
	})
	return found, err
}

func (d *desk) rouse() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run evaluates the draws that wait, one after another, until ctx ends.
func (d *desk) run(ctx context.Context, fault func(string, error)) {
	if b, ok := d.book.(interface{ Run(context.Context) error }); ok {
		var tidy sync.WaitGroup
		tidy.Go(func() { b.Run(ctx) }) //nolint:errcheck // it says that ctx ended
		defer tidy.Wait()
	}
	d.rouse()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		}
		d.mu.Lock()
		var due []mailbox.Handle
		for h, ready := range d.draws {
			if ready.IsZero() {
				due = append(due, h)
			}
		}
		d.mu.Unlock()
		for _, h := range due {
			if ctx.Err() != nil {
				return
			}
			if err := d.evaluate(h); err != nil {
				fault("answer a draw of tokens", err)
			}
		}
	}
}

// evaluate turns a draw into its answer. A draw whose key is gone meanwhile, or that is damaged, is dropped.
func (d *desk) evaluate(h mailbox.Handle) error {
	var w draw
	err := d.book.View(func(r kv.Reader) error {
		v, err := r.Get(drawKey(h))
		if err != nil {
			return err
		}
		w, err = parseDraw(v)
		return err
	})
	if err != nil {
		return err
	}
	if w.answer != nil {
		d.ready(h, w.expires)
		return nil
	}
	q := mailbox.Request{Op: mailbox.OpIssue, ID: mailbox.BoxID(w.request), Box: make([]byte, mailbox.BoxSize)}
	copy(q.Box, w.request[mailbox.IDSize:])
	i, err := mailbox.ParseIssue(q)
	var box *[mailbox.BoxSize]byte
	if err == nil {
		if k := d.keys.get(i.Epoch); k == nil {
			err = errors.New("its key is gone")
		} else {
			var answer []byte
			if answer, err = k.Evaluate(i.Blinded); err == nil {
				box, err = mailbox.SealIssued(&i.Key, q.ID, answer)
			}
		}
	}
	if err != nil {
		return errors.Join(err, d.drop(h))
	}
	w.expires, w.answer = time.Now().Add(answerTime), box[:]
	if err := d.book.Update(func(x kv.Txn) error { return x.Set(drawKey(h), w.marshal()) }); err != nil {
		return err // it stays, for the next time the worker is woken
	}
	d.ready(h, w.expires)
	return nil
}

func (d *desk) ready(h mailbox.Handle, expires time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draws[h] = expires
}

func (d *desk) drop(hs ...mailbox.Handle) error {
	err := d.book.Update(func(x kv.Txn) error {
		for _, h := range hs {
			if err := x.Delete(drawKey(h)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, h := range hs {
			delete(d.draws, h)
		}
	}
	return err
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
	waiting := false
	for h, end := range d.draws {
		if waiting = waiting || end.IsZero(); !end.IsZero() && !end.After(now) {
			old = append(old, h)
		}
	}
	tidy := d.tidied != today
	d.mu.Unlock()
	if waiting {
		d.rouse() // in case the worker failed before
	}
	if len(old) > 0 {
		err = errors.Join(err, d.drop(old...))
	}
	if !tidy {
		return err
	}
	gone := 0
	err2 := d.book.Update(func(x kv.Txn) error {
		gone = 0
		del := func(k []byte) (bool, error) { return true, x.Delete(slices.Clone(k)) }
		for _, row := range []byte{rowDrawn, rowTotal} {
			if err := x.Scan([]byte{row}, nil, func(k, _ []byte) (bool, error) {
				if len(k) < 5 || binary.BigEndian.Uint32(k[1:]) >= today {
					return false, nil // the days ascend
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
			if len(v) == 5 && binary.BigEndian.Uint32(v[1:])+forgetAfter < today {
				gone++
				return del(k)
			}
			return true, nil
		})
	})
	if err2 == nil {
		d.mu.Lock()
		d.tidied, d.people = today, d.people-gone
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
	return u, err
}

func (d *desk) close() error {
	var err error
	if d.book != nil {
		err = d.book.Close()
	}
	if d.spent != nil {
		err = errors.Join(err, d.spent.close())
	}
	return err
}
