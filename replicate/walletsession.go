// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
)

// Session tokens: with one a session has a place at its courier that nobody takes who has none. A node draws a few from each of
// its couriers that gives some, once a day, each exchange on a circuit of its own, so that the courier does not know
// whose session they are for. SPEC §11.7.
//
// They are kept in memory alone: after a restart others are drawn, which the cap has room for, and none can be shown twice. When
// they are drawn depends on the day and on when sessions broke, on nothing else.
const (
	passBatch = 8              // of a draw; an account has twice that a day
	passSoon  = 2              // frames, on average, until the first draw from a courier
	passRest  = 20 * time.Hour // within which of a new day the next one comes
	passPause = 10 * time.Minute
	passMax   = 6 * time.Hour
)

// passes are the session tokens of one courier. Guarded by the engine's mutex.
type passes struct {
	day    uint32
	tokens []token.Token
	due    time.Time // of the next draw
	tries  int
}

// sessionToken takes one for a hello: of today, or of yesterday until today's are drawn.
func (e *Engine) sessionToken(a mailbox.Address) *[mailbox.TokenSize]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.passes[a]
	if p == nil || len(p.tokens) == 0 || p.day+1 < mailbox.Epoch(time.Now()) {
		return nil
	}
	t := [mailbox.TokenSize]byte(p.tokens[0])
	if p.tokens = p.tokens[1:]; len(p.tokens) == 0 {
		p.due = time.Now().Add(exponential(e.passRng, time.Hour)) // sessions break today
	}
	return &t
}

// workSessions draws them until ctx ends.
func (e *Engine) workSessions(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, a := range e.passesDue(time.Now()) {
			err := e.drawPasses(ctx, a)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				e.log.Debug("drawing session tokens", "err", err)
			}
			e.passesDrawn(a, err, time.Now())
		}
	}
}

// passesDue are the couriers that it is time to draw from.
func (e *Engine) passesDue(now time.Time) (out []mailbox.Address) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for a := range e.passes {
		if !slices.ContainsFunc(e.guards, func(g *guard) bool { return g.address == a }) {
			delete(e.passes, a)
		}
	}
	for _, g := range e.guards {
		p := e.passes[g.address]
		if p == nil {
			p = &passes{due: now.Add(exponential(e.passRng, passSoon*e.profile.Load().Frame))}
			e.passes[g.address] = p
		}
		if !p.due.After(now) {
			out = append(out, g.address)
		}
	}
	return out
}

// passesDrawn plans the next draw.
func (e *Engine) passesDrawn(a mailbox.Address, err error, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.passes[a]
	if p == nil {
		return
	}
	if err == nil || errors.Is(err, errNoPasses) || errors.Is(err, mailbox.ErrCap) {
		tomorrow := time.Unix(int64(mailbox.Epoch(now)+1)*24*60*60, 0)
		p.tries, p.due = 0, tomorrow.Add(time.Duration(e.passRng.Float64()*float64(passRest)))
		return
	}
	p.due = now.Add(exponential(e.passRng, backoff(passPause, p.tries, passMax)))
	p.tries++
}

// passTime is a random pause of that mean.
func (e *Engine) passTime(mean time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return exponential(e.passRng, mean)
}

func exponential(rng *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(rng.ExpFloat64() * float64(mean))
}

// errNoPasses: the courier gives no session tokens, or none to us.
var errNoPasses = errors.New("replicate: the courier gives no session tokens")

// drawPasses makes the exchanges of a draw, at random times.
func (e *Engine) drawPasses(ctx context.Context, a mailbox.Address) error {
	m := e.dial(a) // not the client of anything else that we do there
	t, ok := m.(teller)
	if !ok {
		return errNoPasses
	}
	p := e.profile.Load()
	pause := func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(e.passTime(p.Frame)):
			return nil
		}
	}
	try := func(fn func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, p.Timeout)
		defer cancel()
		return fn(ctx)
	}
	var d mailbox.Descriptor
	if err := try(func(ctx context.Context) (err error) { d, err = m.Descriptor(ctx); return err }); err != nil {
		return err
	}
	day := mailbox.Epoch(time.Now())
	public, ok := d.Deposits.SessionKey(day)
	if !ok {
		return errNoPasses
	}
	secret, err := e.passAccount(ctx, a, d.Deposits, func(r mailbox.Register) error {
		return errors.Join(pause(), try(func(ctx context.Context) error { return t.Register(ctx, r) }))
	})
	if err != nil {
		return err
	}
	w := &tokenDraw{day: day | mailbox.SessionEpoch, n: passBatch, secret: random32()}
	if w.blinded, err = token.Blind(&w.secret, w.n); err != nil {
		return err
	}
	i := mailbox.Issue{Account: secret, Key: *w.key(), Epoch: w.day, Blinded: w.blinded}
	if err := errors.Join(pause(), try(func(ctx context.Context) error { return t.Issue(ctx, w.id(), i) })); err != nil {
		if errors.Is(err, mailbox.ErrAccount) {
			e.passForget(a)
		}
		return err
	}
	for range 8 {
		if err := pause(); err != nil {
			return err
		}
		var box *[mailbox.BoxSize]byte
		if err := try(func(ctx context.Context) (err error) { box, err = m.Get(ctx, w.id().Handle()); return err }); err != nil {
			return err
		}
		if w.answer, err = mailbox.OpenIssued(w.key(), w.id(), box); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	outputs, err := token.Finalize(&w.secret, w.n, public[:], w.answer)
	if err != nil {
		e.log.Warn("a courier answered a draw of session tokens with something that does not hold")
		return err
	}
	seed := token.InputSeed(&w.secret, 0)
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.passes[a]; p != nil {
		p.day, p.tokens = day, nil
		for i := range w.n {
			p.tokens = append(p.tokens, token.Make(&seed, i, (*[token.OutputSize]byte)(outputs[i*token.OutputSize:])))
		}
	}
	return nil
}

// passAccount is our account with the courier's mailbox, which is made known there by work or by a code. It is one with that
// which deposits are drawn by, where that mailbox is one of our own too.
func (e *Engine) passAccount(ctx context.Context, a mailbox.Address, policy mailbox.Policy, register func(mailbox.Register) error) (mailbox.AccountSecret, error) {
	e.mu.Lock()
	p := e.purse(a)
	if p.account == nil {
		if n := (&account{secret: random32()}); e.saveAccount(p, n) {
			p.account = n
		}
	}
	acc, code := p.account, e.codes[a]
	e.mu.Unlock()
	if acc == nil {
		return mailbox.AccountSecret{}, errNoPasses
	}
	if acc.registered {
		return acc.secret, nil
	}
	r := mailbox.Register{Account: acc.secret.ID(), Proof: mailbox.ProofWork, Nonce: acc.nonce}
	next := *acc
	switch {
	case code != mailbox.Code{} && policy.Accounts&mailbox.AccountsCode != 0:
		r.Proof, r.Nonce, r.Code = mailbox.ProofCode, 0, code
	case policy.Accounts&mailbox.AccountsWork == 0:
		return acc.secret, nil // it may be on the list
	case !acc.worked && policy.WorkBits > mailbox.MaxNodeWork:
		return mailbox.AccountSecret{}, errNoPasses
	case !acc.worked:
		onion, err := a.Onion.Key()
		if err != nil {
			return mailbox.AccountSecret{}, err
		}
		limited, cancel := context.WithTimeout(ctx, workTime)
		defer cancel()
		if r.Nonce, err = e.prove(limited, onion, r.Account, policy.WorkBits); err != nil {
			return mailbox.AccountSecret{}, err
		}
		next.nonce, next.worked = r.Nonce, true
	}
	if err := register(r); err != nil {
		return mailbox.AccountSecret{}, err
	}
	next.registered = true
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.purse(a); p.account == acc && e.saveAccount(p, &next) {
		p.account = &next
	}
	return acc.secret, nil
}

// passForget says that the mailbox does not know our account.
func (e *Engine) passForget(a mailbox.Address) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.purse(a); p.account != nil {
		n := *p.account
		n.registered, n.worked = false, false
		if e.saveAccount(p, &n) {
			p.account = &n
		}
	}
}
