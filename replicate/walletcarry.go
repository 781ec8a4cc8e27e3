// SPDX-License-Identifier: Apache-2.0

package replicate

// How registrations and draws travel: in slots of the schedule, as any request does. What they are is in walletdraw.go.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tarn/mailbox"
	"tarn/store"
)

// teller is a Mailbox that takes registrations and draws: *mailbox.Client, and a frame's PUT half.
type teller interface {
	Register(ctx context.Context, r mailbox.Register) error
	Issue(ctx context.Context, id mailbox.BoxID, i mailbox.Issue) error
}

var _ teller = (*mailbox.Client)(nil)

var errNoTeller = fmt.Errorf("%w: it takes no registrations", mailbox.ErrRefused)

// tokensDue tells whether there is something to write at a store of ours for the sake of tokens. The caller holds mu.
func (e *Engine) tokensDue(d *depot, now time.Time) bool {
	if !d.own || !d.wantsTokens() {
		return false
	}
	p := e.purse(d.address)
	if p.account == nil || p.pause.After(now) {
		return false
	}
	w := p.draw
	return e.mustRegister(p) || w != nil && w.blinded != nil && w.asked.IsZero() && !w.busy && !w.due.After(now)
}

// mustRegister tells whether the account is not known yet, and we have something to show for it.
func (e *Engine) mustRegister(p *purse) bool {
	return !p.account.registered && (p.account.worked || e.codes[p.address] != (mailbox.Code{}))
}

// putTokens is a registration or a draw, when tokensDue. The caller holds mu.
func (e *Engine) putTokens(d *depot, now time.Time) job {
	p := e.purse(d.address)
	policy, a := d.descriptor.policy, p.account
	if e.mustRegister(p) {
		code := e.codes[d.address]
		r := mailbox.Register{Account: a.secret.ID(), Proof: mailbox.ProofWork, Nonce: a.nonce}
		if code != (mailbox.Code{}) && policy.Accounts&mailbox.AccountsCode != 0 {
			r = mailbox.Register{Account: a.secret.ID(), Proof: mailbox.ProofCode, Code: code}
		}
		p.pause = now.Add(e.profile.Load().Timeout)
		return job{store: d, do: func(ctx context.Context, m Mailbox) error {
			t, ok := m.(teller)
			if !ok {
				return errNoTeller
			}
			return t.Register(ctx, r)
		}, done: func(err error) { e.registered(p, err) }}
	}
	w := p.draw
	w.busy = true
	i := mailbox.Issue{Account: a.secret, Key: *w.key(), Epoch: w.day, Blinded: w.blinded}
	return job{store: d, do: func(ctx context.Context, m Mailbox) error {
		t, ok := m.(teller)
		if !ok {
			return errNoTeller
		}
		return t.Issue(ctx, w.id(), i)
	}, done: func(err error) { e.drawAsked(p, w, err) }}
}

// registered hears how a registration ended. The caller holds mu.
func (e *Engine) registered(p *purse, err error) {
	now := time.Now()
	p.pause = now.Add(e.jitter(e.profile.Load().Frame))
	switch {
	case err == nil:
		a := *p.account
		a.registered = true
		if e.saveAccount(p, &a) {
			p.account = &a
			p.pause, p.trouble = now, ""
		}
	case errors.Is(err, errNotSent):
		p.pause = now
	case errors.Is(err, mailbox.ErrAccount):
		p.pause = now.Add(e.jitter(accountPause))
		p.trouble = "The mailbox gives no account: ask its operator for an invite code, or for a place on the list."
		delete(e.codes, p.address)     // it is of no use any more
		if a := *p.account; a.worked { // the proof may have become too little
			a.worked = false
			if e.saveAccount(p, &a) {
				p.account = &a
			}
		}
	case errors.Is(err, mailbox.ErrFull):
		p.pause = now.Add(e.jitter(accountPause))
		p.trouble = "The mailbox takes no new accounts: it is full."
	}
	e.wakeWallet()
}

// drawAsked hears how the asking for a draw ended. The caller holds mu.
func (e *Engine) drawAsked(p *purse, w *tokenDraw, err error) {
	now, prof := time.Now(), e.profile.Load()
	w.busy = false
	if p.draw != w {
		return
	}
	switch {
	case err == nil:
		w.asked, w.tries = now, 0
		w.due = now.Add(e.jitter(answerFirst * prof.Frame))
		return
	case errors.Is(err, errNotSent):
		w.due = now
		return
	case errors.Is(err, mailbox.ErrAccount):
		// It forgot us, or never knew.
		a := *p.account
		a.registered, a.worked = false, false
		if e.saveAccount(p, &a) {
			p.account = &a
		}
		p.tries++
		p.pause = now.Add(e.jitter(backoff(prof.Frame, p.tries, accountPause)))
		p.trouble = "The mailbox does not know the account: ask its operator for an invite code, or for a place on the list."
	case errors.Is(err, mailbox.ErrCap), errors.Is(err, mailbox.ErrRefused), errors.Is(err, mailbox.ErrExists):
		// No more of that day; or it does not like the draw: another one, later.
		if p.pause = now.Add(e.jitter(prof.Frame)); errors.Is(err, mailbox.ErrCap) {
			p.capped[w.day] = now.Add(e.jitter(capPause))
		} else {
			p.pause = now.Add(e.jitter(accountPause))
			p.trouble = "The mailbox refuses to give tokens for that day: its clock or ours may be wrong, or one of the programs too old."
		}
		if err := e.kv.Update(func(txn store.Txn) error { return txn.Delete(store.Key(tableDraw, string(p.address.Onion))) }); err == nil {
			p.draw = nil
		}
	case errors.Is(err, mailbox.ErrFull):
		p.pause = now.Add(e.jitter(accountPause))
		p.trouble = "The mailbox gives no tokens at the moment: it is full."
	}
	w.tries++
	w.due = now.Add(e.jitter(backoff(prof.Frame, w.tries, prof.Retransmit)))
	e.wakeWallet()
}

// getTokens looks for the answer to a draw at the store. The caller holds mu.
func (e *Engine) getTokens(d *depot, now time.Time) (job, bool) {
	p := e.purses[d.address]
	if p == nil || p.draw == nil || !d.wantsTokens() {
		return job{}, false
	}
	w := p.draw
	if w.asked.IsZero() || w.answer != nil || w.busy || w.due.After(now) {
		return job{}, false
	}
	w.busy = true
	id := w.id()
	var got *[mailbox.BoxSize]byte
	return job{store: d, do: func(ctx context.Context, m Mailbox) (err error) {
		got, err = m.Get(ctx, id.Handle())
		return err
	}, done: func(err error) {
		now, prof := time.Now(), e.profile.Load()
		w.busy = false
		if err == nil && p.draw == w {
			if answer, err := mailbox.OpenIssued(w.key(), id, got); err == nil {
				w.answer = answer
				e.wakeWallet()
				return
			}
		}
		w.tries++
		w.due = now.Add(e.jitter(backoff(answerFirst*prof.Frame, w.tries, 10*time.Minute)))
		if now.Sub(w.asked) > drawLife {
			w.asked, w.due = time.Time{}, now
		}
	}}, true
}

// Register is a teller's.
func (h *half) Register(ctx context.Context, r mailbox.Register) error {
	_, err := h.request(ctx, r.Request())
	return err
}

// Issue is a teller's.
func (h *half) Issue(ctx context.Context, id mailbox.BoxID, i mailbox.Issue) error {
	r, err := i.Request(id)
	if err != nil {
		return err
	}
	_, err = h.request(ctx, r)
	return err
}

var _ teller = (*half)(nil)
