// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/store"
)

// Drawing tokens with our own stores. What is drawn follows from the profile and from how many contacts there are, in
// classes; never from what is said: a store sees an account's draws.
const (
	drawSize = 2 * token.Chunk // tokens of one draw

	// Frames from one draw to the next, once there is a little for each day: who draws on has slots left to speak and read.
	drawPace = 10

	capPause     = 6 * time.Hour    // after a store said that a day's tokens are drawn: its operator may allow more
	accountPause = time.Hour        // after a store refused the account, or is full
	answerFirst  = 2                // frames until the answer to a draw is looked for
	drawLife     = 50 * time.Minute // then the answer is gone, and the same draw is asked for again

	workTime = 10 * time.Minute // for one proof of work
)

// account is our account with a store.
type account struct {
	secret     mailbox.AccountSecret
	nonce      uint64 // of the proof of work
	worked     bool
	registered bool
}

func (a *account) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.raw(a.secret[:])
	w.flag(a.worked)
	w.uvarint(a.nonce)
	w.flag(a.registered)
	return w.b
}

func parseAccount(b []byte) (*account, error) {
	r := reader{b: b}
	r.version()
	a := &account{secret: r.key32(), worked: r.flag(), nonce: r.uvarint(), registered: r.flag()}
	return a, r.end()
}

// tokenDraw is a draw that is under way; all of it follows from its secret. It is on the disk before it is asked for.
type tokenDraw struct {
	day    uint32
	n      int
	secret [token.SecretSize]byte

	// Not on the disk: after a restart the identical draw is asked for again.
	blinded []byte
	asked   time.Time // the store has it since; zero: not yet
	answer  []byte
	due     time.Time
	tries   int
	busy    bool
}

func (w *tokenDraw) marshal() []byte {
	x := writer{}
	x.u8(rowVersion)
	x.uvarint(uint64(w.day))
	x.uvarint(uint64(w.n))
	x.raw(w.secret[:])
	return x.b
}

func parseDraw(b []byte) (*tokenDraw, error) {
	r := reader{b: b}
	r.version()
	day, n := r.uvarint(), r.uvarint()
	w := &tokenDraw{day: uint32(day), n: int(n), secret: r.key32()}
	if day > math.MaxUint32 || n < 1 || n > token.MaxBatch {
		r.bad = true
	}
	return w, r.end()
}

// id and key of the box that the answer waits in. SPEC §11.3 wants them random, and for one draw.
func (w *tokenDraw) id() (id mailbox.BoxID) {
	copy(id[:], hmacOf(w.secret[:], "tarn/1 token answer id"))
	return id
}

func (w *tokenDraw) key() *[32]byte {
	return (*[32]byte)(hmacOf(w.secret[:], "tarn/1 token answer key"))
}

func hmacOf(key []byte, label string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(label))
	return m.Sum(nil)
}

func addressOfOnion(s string) mailbox.Address { return mailbox.Address{Onion: onionid.Name(s)} }

func (e *Engine) loadDraws(r store.Reader) error {
	if err := scan(r, tablePurse, func(k *store.KeyReader, v []byte) (err error) {
		p := e.purse(addressOfOnion(k.String()))
		p.account, err = parseAccount(v)
		return errors.Join(err, k.Err())
	}); err != nil {
		return err
	}
	if err := scan(r, tableDrawn, func(k *store.KeyReader, v []byte) error {
		p, day := e.purse(addressOfOnion(k.String())), k.Uint64()
		n, size := binary.Uvarint(v)
		if size <= 0 || k.Err() != nil {
			return errors.Join(ErrRow, k.Err())
		}
		p.drawn[uint32(day)] = int(n)
		return nil
	}); err != nil {
		return err
	}
	return scan(r, tableDraw, func(k *store.KeyReader, v []byte) (err error) {
		p := e.purse(addressOfOnion(k.String()))
		p.draw, err = parseDraw(v)
		return errors.Join(err, k.Err())
	})
}

// classOf is for how many contacts tokens are drawn: a store shall not count them.
func classOf(contacts int) int {
	for _, n := range []int{4, 16, 64} {
		if contacts <= n {
			return n
		}
	}
	return (contacts + 127) / 128 * 128
}

// target is how many chunks of a day are drawn. Our own boxes are written while we are up, so theirs are drawn for today
// and tomorrow; contacts write while we are away, and find some where they were left.
func (e *Engine) target(day, today uint32, limit int) int {
	p := e.profile.Load()
	contacts := classOf(len(e.contacts))
	n := contacts
	if day <= today+leaveAhead {
		n += contacts // left for them
	}
	if day <= today+1 {
		ticks := float64(24*time.Hour) / float64(p.Frame)
		own := ticks * (p.CoverPut + 0.1) / float64(max(1, len(e.own)))
		n += contacts + int(math.Ceil(min(own, 1e6)/token.Chunk))
	}
	return min(n, limit/token.Chunk)
}

// nextDraw is the day to draw for now and how many chunks; false: there is enough, for the moment. First a little of each
// day, at once today's and tomorrow's, with which a first contact can be made, then the rest at a pace.
func (e *Engine) nextDraw(p *purse, policy mailbox.Policy, now time.Time) (day uint32, chunks int, ok bool) {
	today := mailbox.Epoch(now)
	for _, full := range []bool{false, true} {
		for day := today; day <= today+mailbox.TokenDays; day++ {
			want := e.target(day, today, int(policy.Cap))
			if !full {
				want = min(want, drawSize/token.Chunk)
			}
			if _, there := policy.Key(day); there && !p.capped[day].After(now) && p.drawn[day] < want {
				if (full || day > today+1) && p.nextDraw.After(now) {
					return 0, 0, false
				}
				return day, min(want-p.drawn[day], drawSize/token.Chunk), true
			}
		}
	}
	return 0, 0, false
}

// drawStep is what there is to do for a store of ours without its network: nil: nothing. The caller holds mu; what is
// returned runs without.
func (e *Engine) drawStep(d *depot, now time.Time) func(context.Context) bool {
	p, policy := e.purse(d.address), d.descriptor.policy
	switch {
	case p.account == nil:
		a := &account{secret: random32()}
		if !e.saveAccount(p, a) {
			return nil
		}
		p.account = a
		return func(context.Context) bool { return true }
	case p.working:
		return nil
	case e.mustWork(p, policy) && !e.tooMuchWork(p, policy) && !p.pause.After(now):
		onion, err := d.address.Onion.Key()
		if err != nil {
			return nil
		}
		p.working = true
		return func(ctx context.Context) bool {
			e.proofs.Go(func() { e.proveWork(ctx, p, onion, policy.WorkBits) })
			return true
		}
	case p.draw == nil:
		day, chunks, ok := e.nextDraw(p, policy, now)
		if !ok || p.pause.After(now) {
			return nil
		}
		w := &tokenDraw{day: day, n: chunks * token.Chunk, secret: random32(), due: now}
		if err := e.kv.Update(func(txn store.Txn) error {
			return txn.Set(store.Key(tableDraw, string(p.address.Onion)), w.marshal())
		}); err != nil {
			e.warn("keeping a draw of tokens", err)
			return nil
		}
		p.draw, p.nextDraw = w, now.Add(e.jitter(drawPace*e.profile.Load().Frame))
		return func(context.Context) bool { return true }
	case p.draw.day < mailbox.Epoch(now):
		return func(context.Context) bool { return e.endDraw(p, p.draw, nil) } // it came too late
	case p.draw.blinded == nil:
		w := p.draw
		return func(context.Context) bool {
			b, err := token.Blind(&w.secret, w.n)
			if err != nil {
				e.log.Error("blinding tokens", "err", err)
				return e.endDraw(p, w, nil)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			w.blinded = b
			return true
		}
	case p.draw.answer != nil:
		w := p.draw
		public, ok := policy.Key(w.day)
		if !ok {
			return nil
		}
		return func(context.Context) bool {
			outputs, err := token.Finalize(&w.secret, w.n, public[:], w.answer)
			if err != nil {
				// The store used another key than it published: an attempt to know our tokens again, or a fault.
				e.log.Warn("a mailbox answered a draw of tokens with something that does not hold")
				e.log.Debug("a draw of tokens", "err", err)
				e.mu.Lock()
				p.trouble = "The mailbox made tokens with another key than the one it publishes: it may be trying to recognise you. None of them is used."
				p.pause = time.Now().Add(e.jitter(accountPause))
				e.mu.Unlock()
				return e.endDraw(p, w, nil)
			}
			return e.endDraw(p, w, outputs)
		}
	}
	return nil
}

// prover finds a proof of work, as mailbox.Work does.
type prover func(ctx context.Context, onion []byte, id mailbox.AccountID, bits uint8) (nonce uint64, err error)

// mustWork tells whether there is nothing but work to get an account by, unless it is on the store's list. The caller holds mu.
func (e *Engine) mustWork(p *purse, policy mailbox.Policy) bool {
	return p.account != nil && !p.account.registered && !p.account.worked && e.codes[p.address] == (mailbox.Code{}) && policy.Accounts&mailbox.AccountsWork != 0
}

// tooMuchWork tells whether that work is more than we do: what a store asks for is its own to say, and 2^40 hashes would hold a
// processor for days.
func (e *Engine) tooMuchWork(p *purse, policy mailbox.Policy) bool {
	return e.mustWork(p, policy) && policy.WorkBits > mailbox.MaxNodeWork
}

// proveWork makes a proof of work for the account, beside all else: nothing waits for it but that account.
func (e *Engine) proveWork(ctx context.Context, p *purse, onion []byte, bits uint8) {
	e.mu.Lock()
	a := *p.account
	e.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	nonce, err := e.prove(limited, onion, a.secret.ID(), bits)
	e.mu.Lock()
	defer e.mu.Unlock()
	p.working = false
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		p.pause = time.Now().Add(accountPause)
		p.trouble = "The work that the mailbox asks for an account takes this computer too long; it is tried again every hour. An invite code of its operator needs none."
	case p.account.secret == a.secret && !p.account.worked:
		a.nonce, a.worked = nonce, true
		if e.saveAccount(p, &a) {
			p.account = &a
		}
	}
	e.wakeWallet()
}

func (e *Engine) saveAccount(p *purse, a *account) bool {
	err := e.kv.Update(func(txn store.Txn) error {
		return txn.Set(store.Key(tablePurse, string(p.address.Onion)), a.marshal())
	})
	if err != nil {
		e.warn("keeping an account with a mailbox", err)
	}
	return err == nil
}

// endDraw keeps the chunks of a draw, or none, and forgets the draw, in ONE Update: a crash before it asks for the same
// draw again, after it there are the tokens.
func (e *Engine) endDraw(p *purse, w *tokenDraw, outputs []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.draw != w {
		return true
	}
	var fresh []*chunk
	drawn := p.drawn[w.day]
	err := e.kv.Update(func(txn store.Txn) error {
		fresh = fresh[:0]
		for i := 0; i*token.Chunk < len(outputs)/token.OutputSize; i++ {
			part := outputs[i*token.Chunk*token.OutputSize:]
			part = part[:min(len(part), token.Chunk*token.OutputSize)]
			c := &chunk{serial: randomSerial(), day: w.day, n: len(part) / token.OutputSize}
			if err := txn.Set(chunkKey(tableChunk, p.address, c), chunkRow(c, token.InputSeed(&w.secret, i), part)); err != nil {
				return err
			}
			fresh = append(fresh, c)
		}
		return errors.Join(
			txn.Set(store.Key(tableDrawn, string(p.address.Onion), uint64(w.day)), binary.AppendUvarint(nil, uint64(drawn+len(fresh)))),
			txn.Delete(store.Key(tableDraw, string(p.address.Onion))))
	})
	if err != nil {
		e.warn("keeping tokens", err)
		return false
	}
	p.draw = nil
	p.drawn[w.day] += len(fresh)
	p.chunks[w.day] = append(p.chunks[w.day], fresh...)
	if len(fresh) > 0 {
		p.trouble, p.tries = "", 0
	}
	return true
}
