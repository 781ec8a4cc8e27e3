// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
)

// TokenStatus is how we stand with a mailbox that wants tokens.
type TokenStatus struct {
	Address mailbox.Address
	Own     bool
	Today   int    // tokens to spend today
	Account string // the line for an operator who keeps a list; "" if we have no account there
	Problem string // why there are none, as a person can act on it; "" if all is well
}

// Tokens lists those mailboxes, and the contacts that are given none any more.
func (e *Engine) Tokens() (out []TokenStatus, cut []onionid.Name) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	today := mailbox.Epoch(now)
	for _, d := range e.depots {
		if !d.wantsTokens() {
			continue
		}
		p := e.purse(d.address)
		s := TokenStatus{Address: d.address, Own: d.own, Today: p.left(now), Problem: p.trouble}
		if p.account != nil {
			s.Account = p.account.secret.ID().String()
		}
		switch {
		case d.own && e.tooMuchWork(p, d.descriptor.policy):
			s.Problem = fmt.Sprintf("The mailbox asks for more work than a node does for an account (work_bits is %d, %d is the most): ask its operator for an invite code, or for a place on the list.", d.descriptor.policy.WorkBits, mailbox.MaxNodeWork)
		case s.Problem != "":
		case s.Today == 0 && p.capped[today] != time.Time{}:
			s.Problem = "The mailbox says that our tokens of today are drawn; none are left. Its operator can allow more (tokens_per_day)."
		case d.own && s.Today == 0:
			s.Problem = "The first tokens are on their way; they come on the schedule, within minutes."
		case s.Today == 0:
			s.Problem = "A contact's mailbox: the contact has given no tokens for today, so nothing can be left there yet. If it was away, its node leaves some when it is on again, and they are looked for every few hours."
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b TokenStatus) int { return cmp.Compare(a.Address.Onion, b.Address.Onion) })
	for _, c := range e.contacts {
		if c.cut {
			cut = append(cut, c.name)
		}
	}
	slices.Sort(cut)
	return out, cut
}
