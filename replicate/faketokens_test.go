// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/sha256"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
)

// fakeDesk makes a fakeStore want tokens, of which it publishes the keys of few days, so that a play with many nodes costs
// little. The tokens are real.
type fakeDesk struct {
	days     uint32 // keys are published for that many
	accounts mailbox.Accounts
	code     mailbox.Code
	cap      int
	bits     uint8 // of work
	keys     map[uint32]*token.Key
	known    map[mailbox.AccountID]bool
	drawn    map[uint32]int // by all
	draws    map[mailbox.BoxID]bool
	refuse   error // what a draw is told
	lie      bool  // it evaluates with another key than it published
	shown    map[[32]byte]mailbox.BoxID
	twice    int // tokens that came with two boxes
	unpaid   int // boxes that came without a good token
	paid     int
}

func (s *fakeStore) wantTokens() *fakeDesk {
	s.desk = &fakeDesk{days: 2, accounts: mailbox.AccountsWork, cap: 240, bits: 4, keys: map[uint32]*token.Key{}, known: map[mailbox.AccountID]bool{},
		drawn: map[uint32]int{}, draws: map[mailbox.BoxID]bool{}, shown: map[[32]byte]mailbox.BoxID{}}
	return s.desk
}

func (d *fakeDesk) key(day uint32) *token.Key {
	if d.keys[day] == nil {
		seed := sha256.Sum256([]byte{byte(day), byte(day >> 8)})
		k, err := token.NewKey(&seed)
		if err != nil {
			panic(err)
		}
		d.keys[day] = k
	}
	return d.keys[day]
}

func (d *fakeDesk) policy(today uint32) mailbox.Policy {
	p := mailbox.Policy{Deposit: mailbox.DepositTokens, Accounts: d.accounts, Cap: uint32(d.cap), First: today}
	if d.accounts&mailbox.AccountsWork != 0 {
		p.WorkBits = d.bits
	}
	for i := range d.days {
		p.Keys = append(p.Keys, d.key(today+i).Public())
	}
	return p
}

// spend is a deposit's token; the caller holds the store's mutex.
func (d *fakeDesk) spend(id mailbox.BoxID, t *[mailbox.TokenSize]byte) error {
	today := mailbox.Epoch(time.Now())
	if t == nil || !d.key(today).Valid((*token.Token)(t)) && !d.key(today-1).Valid((*token.Token)(t)) {
		d.unpaid++
		return mailbox.ErrToken
	}
	input := [32]byte(t[:])
	if old, ok := d.shown[input]; ok && old != id {
		d.twice++
		return mailbox.ErrToken
	}
	d.shown[input] = id
	d.paid++
	return nil
}

func (c *fakeClient) Register(ctx context.Context, r mailbox.Register) error {
	if err := c.begin(ctx, "put"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	onion, err := c.address.Onion.Key()
	if err != nil {
		return err
	}
	d := c.desk
	switch {
	case r.Proof == mailbox.ProofWork && d.accounts&mailbox.AccountsWork != 0 && mailbox.Worked(onion, r.Account, r.Nonce, d.bits):
	case r.Proof == mailbox.ProofCode && d.accounts&mailbox.AccountsCode != 0 && r.Code == d.code:
		d.code = mailbox.Code{} // good once
	case d.known[r.Account]:
	default:
		return mailbox.ErrAccount
	}
	d.known[r.Account] = true
	return nil
}

func (c *fakeClient) Issue(ctx context.Context, id mailbox.BoxID, i mailbox.Issue) error {
	if err := c.begin(ctx, "put"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d, n := c.desk, len(i.Blinded)/token.ElementSize
	switch {
	case d.refuse != nil:
		return d.refuse
	case !d.known[i.Account.ID()]:
		return mailbox.ErrAccount
	case d.draws[id]:
		return nil
	case i.Epoch < mailbox.Epoch(time.Now()) || i.Epoch >= mailbox.Epoch(time.Now())+d.days:
		return mailbox.ErrRefused
	}
	k := d.key(i.Epoch)
	if d.lie {
		k = d.key(i.Epoch + 100)
	}
	answer, err := k.Evaluate(i.Blinded)
	if err != nil {
		return err
	}
	box, err := mailbox.SealIssued(&i.Key, id, answer)
	if err != nil {
		return err
	}
	d.draws[id] = true
	d.drawn[i.Epoch] += n
	c.boxes[id], c.handles[id.Handle()] = *box, id // not listed
	return nil
}
