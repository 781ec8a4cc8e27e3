// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/store"
)

// The wallet: the tokens that stores want for boxes (SPEC §11.2 to §11.5). Tokens come in chunks, which are drawn
// by our account with a store of our own (walletdraw.go), or given by a contact for its stores (walletgive.go). A chunk is
// spent here alone or given away whole, never both.
//
// The rule that matters: no token is shown with two boxes. So the row that says how far a chunk is used is on the disk
// before a token below that mark is shown; a crash loses what was marked and not shown (reserveStep at most), and a
// token that was shown is remembered with its box for the day, so that the identical rewrite shows the same.
const (
	reserveStep = 16 // tokens that one write to the disk marks as used
	keepForReal = token.Chunk
)

// errNoToken: the store wants a token and we have none: nothing was written.
var errNoToken = errors.New("replicate: no token for the mailbox")

// chunk is up to token.Chunk tokens of one day at one store. Guarded by the engine's mutex.
type chunk struct {
	serial uint64
	day    uint32
	n      int
	used   int  // on the disk: tokens below are not to be shown (any more)
	next   int  // the next to be shown; next <= used
	given  bool // by a contact, not drawn by us: it is not handed on
	held   bool // for the contact that follows a link of ours
	left   bool // found in a box that a contact left for us: its tokens have their times
}

// loaded is a chunk's secret part, in memory while it is spent from.
type loaded struct {
	serial  uint64
	seed    [32]byte
	outputs []byte
}

// shown is a token that was put with a box.
type shown struct {
	day   uint32
	token token.Token
}

// purse is what we have for one store. Guarded by the engine's mutex.
type purse struct {
	address mailbox.Address
	chunks  map[uint32][]*chunk
	current loaded

	// Of an account of our own.
	account *account
	working bool           // a proof of work is being made
	drawn   map[uint32]int // chunks, by day
	draw    *tokenDraw
	capped  map[uint32]time.Time // the store gives no more of that day; it is asked again then
	pause   time.Time            // nothing is asked before
	// What is not urgent is not drawn before.
	nextDraw time.Time
	tries    int
	trouble  string // why there are no tokens, for a person

	mu    sync.Mutex // guards what follows: a job's call takes from it without the engine's lock
	shown map[mailbox.BoxID]shown
	back  []shown // taken and not shown
}

func (e *Engine) purse(a mailbox.Address) *purse {
	p := e.purses[a]
	if p == nil {
		p = &purse{address: a, chunks: map[uint32][]*chunk{}, drawn: map[uint32]int{}, capped: map[uint32]time.Time{}, shown: map[mailbox.BoxID]shown{}}
		e.purses[a] = p
	}
	return p
}

func chunkKey(table byte, a mailbox.Address, c *chunk) []byte {
	return store.Key(table, string(a.Onion), uint64(c.day), c.serial)
}

// chunkRow is a row of tableChunk.
func chunkRow(c *chunk, seed [32]byte, outputs []byte) []byte {
	w := writer{}
	w.u8(rowVersion)
	w.flag(c.given)
	w.flag(c.held)
	w.flag(c.left)
	w.raw(seed[:])
	w.bytes(outputs)
	return w.b
}

func parseChunk(b []byte) (c chunk, seed [32]byte, outputs []byte, err error) {
	r := reader{b: b}
	r.version()
	c.given, c.held, c.left, seed = r.flag(), r.flag(), r.flag(), r.key32()
	outputs = r.bytes(token.Chunk * token.OutputSize)
	if c.n = len(outputs) / token.OutputSize; c.n == 0 || len(outputs)%token.OutputSize != 0 {
		r.bad = true
	}
	return c, seed, outputs, r.end()
}

// loadWallet reads all rows. The caller holds mu, or is New.
func (e *Engine) loadWallet(r store.Reader) error {
	if err := scan(r, tableChunk, func(k *store.KeyReader, v []byte) error {
		name, day, serial := k.String(), k.Uint64(), k.Uint64()
		c, _, _, err := parseChunk(v)
		if err != nil || k.Err() != nil {
			return errors.Join(ErrRow, err, k.Err())
		}
		p := e.purse(addressOfOnion(name))
		c.day, c.serial = uint32(day), serial
		p.chunks[c.day] = append(p.chunks[c.day], &c)
		return nil
	}); err != nil {
		return err
	}
	if err := scan(r, tableUsed, func(k *store.KeyReader, v []byte) error {
		p, day, serial := e.purse(addressOfOnion(k.String())), k.Uint64(), k.Uint64()
		used, n := binary.Uvarint(v)
		if n <= 0 || used > token.Chunk || k.Err() != nil {
			return errors.Join(ErrRow, k.Err())
		}
		for _, c := range p.chunks[uint32(day)] {
			if c.serial == serial {
				c.used, c.next = int(used), int(used) // what was marked may have been shown
			}
		}
		return nil
	}); err != nil {
		return err
	}
	switch v, err := r.Get(store.Key(tableErased)); {
	case err == nil:
		at, n := binary.Uvarint(v)
		if n <= 0 || at > maxUnix {
			return ErrRow
		}
		e.erased = time.Unix(int64(at), 0)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	return e.loadDraws(r)
}

// wantsTokens tells whether a box at the store needs one.
func (d *depot) wantsTokens() bool {
	return d.descriptor != nil && d.descriptor.policy.Deposit == mailbox.DepositTokens
}

// left is how many tokens of today there are to spend now.
func (p *purse) left(now time.Time) (n int) {
	for _, c := range p.chunks[mailbox.Epoch(now)] {
		if !c.held {
			n += max(0, c.end(now)-c.next)
		}
	}
	return n
}

// spend is a token of today, marked as used on the disk. Cover leaves a chunk for what people say. The caller holds mu.
func (e *Engine) spend(p *purse, now time.Time, cover bool) (shown, bool) {
	day := mailbox.Epoch(now)
	p.mu.Lock()
	for n := len(p.back); n > 0; n = len(p.back) {
		s := p.back[n-1]
		p.back = p.back[:n-1]
		if s.day == day {
			p.mu.Unlock()
			return s, true
		}
	}
	p.mu.Unlock()
	if cover && p.left(now) <= keepForReal {
		return shown{}, false
	}
	var c *chunk
	for _, x := range p.chunks[day] {
		if x.next < x.end(now) && !x.held && (c == nil || x.given && !c.given || x.given == c.given && x.next > c.next) {
			c = x // those of contacts first, and those that are begun
		}
	}
	if c == nil {
		return shown{}, false
	}
	if p.current.serial != c.serial || p.current.outputs == nil {
		var row []byte
		err := e.kv.View(func(r store.Reader) (err error) {
			row, err = r.Get(chunkKey(tableChunk, p.address, c))
			return err
		})
		if err == nil {
			_, p.current.seed, p.current.outputs, err = parseChunk(row)
		}
		if err != nil {
			e.warn("reading tokens", err)
			p.current.outputs = nil
			return shown{}, false
		}
		p.current.serial = c.serial
	}
	if c.next == c.used {
		used := min(c.used+reserveStep, c.end(now))
		if err := e.kv.Update(func(txn store.Txn) error {
			return txn.Set(chunkKey(tableUsed, p.address, c), binary.AppendUvarint(nil, uint64(used)))
		}); err != nil {
			e.warn("marking tokens as used", err)
			return shown{}, false
		}
		c.used = used
	}
	i := c.next
	c.next++
	seed := p.current.seed
	return shown{day, token.Make(&seed, i, (*[token.OutputSize]byte)(p.current.outputs[i*token.OutputSize:]))}, true
}

// pay gives a job that writes a box the token for it; without one it writes nothing. The caller holds mu.
func (e *Engine) pay(j job, now time.Time) job {
	if !j.deposit || j.store == nil || !j.store.wantsTokens() {
		return j
	}
	p := e.purse(j.store.address)
	s, ok := e.spend(p, now, j.cover)
	do := j.do
	if !ok {
		j.deposit = false
		if j.cover {
			j.done = nil
			j.do = func(ctx context.Context, m Mailbox) error { return m.Nothing(ctx) }
			return j
		}
		j.do = func(ctx context.Context, m Mailbox) error {
			if err := m.Nothing(ctx); err != nil {
				return err
			}
			return errNoToken
		}
		return j
	}
	pays := &payer{purse: p, shown: s}
	j.do = func(ctx context.Context, m Mailbox) error {
		pays.Mailbox = m
		return do(ctx, pays)
	}
	after := j.after
	j.after = func(err error) {
		pays.giveBack()
		if after != nil {
			after(err)
		}
	}
	return j
}

// payer is a Mailbox whose puts show a token: the same one for the same box, all day.
type payer struct {
	Mailbox
	purse *purse
	shown shown
	used  bool
}

// Put is a Mailbox's.
func (y *payer) Put(ctx context.Context, id mailbox.BoxID, box *[mailbox.BoxSize]byte, _ *[mailbox.TokenSize]byte) error {
	y.purse.mu.Lock()
	s, ok := y.purse.shown[id]
	if !ok || s.day != y.shown.day {
		s, y.used = y.shown, true
		y.purse.shown[id] = s
	}
	y.purse.mu.Unlock()
	err := y.Mailbox.Put(ctx, id, box, (*[mailbox.TokenSize]byte)(&s.token))
	if errors.Is(err, mailbox.ErrToken) { // the store does not take it: the next time another one
		y.purse.mu.Lock()
		delete(y.purse.shown, id)
		y.purse.mu.Unlock()
	}
	return err
}

// giveBack returns a token that was not shown.
func (y *payer) giveBack() {
	y.purse.mu.Lock()
	defer y.purse.mu.Unlock()
	if !y.used {
		y.used = true
		y.purse.back = append(y.purse.back, y.shown)
	}
}

// forgetTokens drops what is of days that are over. The caller holds mu.
func (e *Engine) forgetTokens(now time.Time) error {
	today := mailbox.Epoch(now)
	old := func(day uint32) bool { return day < today }
	var keys [][]byte
	for _, p := range e.purses {
		for day, cs := range p.chunks {
			for _, c := range cs {
				if old(day) {
					keys = append(keys, chunkKey(tableChunk, p.address, c), chunkKey(tableUsed, p.address, c))
				}
			}
		}
		for day := range p.drawn {
			if old(day) {
				keys = append(keys, store.Key(tableDrawn, string(p.address.Onion), uint64(day)))
			}
		}
	}
	for _, c := range e.contacts {
		for k := range c.tokens {
			if old(k.day) {
				keys = append(keys, c.tokensKey(k))
			}
		}
		for k := range c.left {
			if old(k.day) {
				keys = append(keys, c.leftKey(k))
			}
		}
	}
	for some := keys; len(some) > 0; some = some[min(len(some), 500):] {
		if err := e.kv.Update(func(txn store.Txn) error {
			for _, k := range some[:min(len(some), 500)] {
				if err := txn.Delete(k); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for _, p := range e.purses {
		for day := range p.chunks {
			if old(day) {
				delete(p.chunks, day)
			}
		}
		for day := range p.drawn {
			if old(day) {
				delete(p.drawn, day)
			}
		}
		for day := range p.capped {
			if old(day) {
				delete(p.capped, day)
			}
		}
		p.mu.Lock()
		for id, s := range p.shown {
			if old(s.day) {
				delete(p.shown, id)
			}
		}
		p.mu.Unlock()
	}
	for _, c := range e.contacts {
		for k := range c.tokens {
			if old(k.day) {
				delete(c.tokens, k)
			}
		}
		for k := range c.left {
			if old(k.day) {
				delete(c.left, k)
			}
		}
	}
	return nil
}

// workWallet does what takes a processor's time, and hands tokens out, until ctx ends. It sends nothing: that is the
// schedule's.
func (e *Engine) workWallet(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	defer e.proofs.Wait()
	for {
		for e.walletStep(ctx) {
			if ctx.Err() != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-e.walletWake:
		case <-tick.C:
		}
	}
}

func (e *Engine) wakeWallet() {
	select {
	case e.walletWake <- struct{}{}:
	default:
	}
}

// walletStep does one thing; false: there is nothing to do now.
func (e *Engine) walletStep(ctx context.Context) bool {
	e.mu.Lock()
	now := time.Now()
	if day := mailbox.Epoch(now); e.walletDay != day {
		if err := e.forgetTokens(now); err != nil {
			e.mu.Unlock()
			e.warn("forgetting old tokens", err)
			return false
		}
		e.walletDay = day
	}
	for _, d := range e.depots {
		if !d.own || !d.wantsTokens() {
			continue
		}
		if work := e.drawStep(d, now); work != nil {
			e.mu.Unlock()
			return work(ctx)
		}
	}
	e.seekStep(now)
	more := e.linkStep(now) || e.giveStep(now)
	e.mu.Unlock()
	return more
}

func randomSerial() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// canPay tells whether a box could be left at the store now. The caller holds mu.
func (e *Engine) canPay(d *depot, now time.Time) bool {
	return !d.wantsTokens() || e.purse(d.address).left(now) > 0
}

// eraseWallet throws away all tokens, of a database that was restored from a backup: they may have been shown with boxes since, or
// given to a contact, and a store that sees one with two boxes knows that both are of one node. Contacts' come again from
// where they leave them (walletleft.go), ours are drawn anew: with a new account where a proof of work makes one, for the old one
// has drawn of these days already; the others draw what their cap has left. As only tokens of the day are spent, those of later days
// were not shown: what comes again of them, in boxes of before, is taken. Of the day itself only what is left for us (end, of a chunk) is.
func (e *Engine) eraseWallet(txn store.Txn, now time.Time) error {
	for _, table := range []byte{tableTokenBox, tableChunk, tableUsed, tableDrawn, tableDraw, tableTokens, tableLeft} {
		if err := txn.Scan([]byte{table}, nil, func(k, _ []byte) (bool, error) {
			return true, txn.Delete(slices.Clone(k))
		}); err != nil {
			return err
		}
	}
	if err := txn.Set(store.Key(tableErased), binary.AppendUvarint(nil, uint64(now.Unix()))); err != nil {
		return err
	}
	for a, p := range e.purses {
		if p.account != nil && p.account.worked {
			if err := txn.Delete(store.Key(tablePurse, string(a.Onion))); err != nil {
				return err
			}
		}
	}
	return nil
}

// walletErased does the same in memory, once that is durable.
func (e *Engine) walletErased(now time.Time) {
	e.erased = now
	old := e.purses
	e.purses, e.linkPurses = map[mailbox.Address]*purse{}, map[[32]byte]*linkPurse{}
	for a, p := range old {
		if p.account != nil && !p.account.worked {
			e.purse(a).account = p.account
		}
	}
	for _, c := range e.contacts {
		clear(c.tokens)
		clear(c.left)
	}
}
