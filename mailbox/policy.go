// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"encoding/binary"
	"fmt"
	"slices"

	"tarn/crypto/token"
)

// Deposit says what a store wants for keeping a box.
type Deposit byte

// The kinds of deposit.
const (
	DepositOpen   Deposit = 0 // nothing
	DepositTokens Deposit = 1 // a token of the day
)

// Accounts says how one can get an account, which tokens are drawn with. Bits.
type Accounts byte

// The ways to an account.
const (
	AccountsWork Accounts = 1 // whoever shows a proof of work
	AccountsCode Accounts = 2 // whoever has a code of the operator's
	AccountsList Accounts = 4 // whom the operator wrote down

	accountsKnown = AccountsWork | AccountsCode | AccountsList
)

// TokenDays is how many days ahead tokens can be drawn: today and as many more.
const TokenDays = 14

// Policy is a descriptor's part about deposits. The zero value is an open store's.
type Policy struct {
	Deposit  Deposit
	Accounts Accounts
	WorkBits uint8  // that a proof of work for an account must have; see Work
	Cap      uint32 // tokens that an account may draw of one day
	First    uint32 // day of Keys[0]; the others follow day by day
	Keys     [][token.PublicKeySize]byte
	// Sessions are the keys of session tokens, of the days from First on; none: the courier has no places for who has one.
	Sessions [][token.PublicKeySize]byte
}

// SessionEpoch stands in an Issue's Epoch beside the day: the tokens are for sessions with the mailbox's courier.
const SessionEpoch = 1 << 31

// Limits of a policy.
const (
	MaxWorkBits = 40      // bits: 2^40 hashes take days of one processor
	MaxNodeWork = 28      // bits that a node works at most for an account: a minute or some of one processor
	MaxCap      = 1 << 24 // tokens of a day
)

const (
	maxTokenKeys  = TokenDays + 3 // room for yesterday and a day of difference
	maxSessions   = 3
	policyFixed   = 1 + 1 + 1 + 4 + 4 + 1
	maxPolicySize = policyFixed + maxTokenKeys*token.PublicKeySize + 1 + maxSessions*token.PublicKeySize
	_             = uint(TokenSize-token.Size) + uint(token.Size-TokenSize)
	maxTokenEpoch = 1 << 24 // a day in the far future; keeps sums of days within 32 bits
)

// Key is the token key of that day, if the policy has one.
func (p Policy) Key(epoch uint32) ([token.PublicKeySize]byte, bool) {
	if i := int64(epoch) - int64(p.First); i >= 0 && i < int64(len(p.Keys)) {
		return p.Keys[i], true
	}
	return [token.PublicKeySize]byte{}, false
}

// SessionKey is the key of that day's session tokens, if the policy has one.
func (p Policy) SessionKey(day uint32) ([token.PublicKeySize]byte, bool) {
	return Policy{First: p.First, Keys: p.Sessions}.Key(day)
}

func (p Policy) append(b []byte) []byte {
	b = append(b, byte(p.Deposit), byte(p.Accounts), p.WorkBits)
	b = binary.BigEndian.AppendUint32(b, p.Cap)
	b = binary.BigEndian.AppendUint32(b, p.First)
	b = append(b, byte(len(p.Keys)))
	for _, k := range p.Keys {
		b = append(b, k[:]...)
	}
	b = append(b, byte(len(p.Sessions)))
	for _, k := range p.Sessions {
		b = append(b, k[:]...)
	}
	return b
}

// policySize is how many bytes the policy at the beginning of b takes; ok is false if b is too short for it.
func policySize(b []byte) (n int, ok bool) {
	if len(b) < policyFixed {
		return 0, false
	}
	n = policyFixed + int(b[policyFixed-1])*token.PublicKeySize
	if n >= len(b) {
		return 0, false
	}
	n += 1 + int(b[n])*token.PublicKeySize
	return n, n <= maxPolicySize && n <= len(b)
}

// parsePolicy reads exactly b, whose length policySize gave. check judges what it says.
func parsePolicy(b []byte) Policy {
	p := Policy{Deposit: Deposit(b[0]), Accounts: Accounts(b[1]), WorkBits: b[2],
		Cap: binary.BigEndian.Uint32(b[3:]), First: binary.BigEndian.Uint32(b[7:])}
	take := func(n byte) (keys [][token.PublicKeySize]byte) {
		for range n {
			keys, b = append(keys, [token.PublicKeySize]byte(b)), b[token.PublicKeySize:]
		}
		return keys
	}
	n := b[policyFixed-1]
	b = b[policyFixed:]
	p.Keys = take(n)
	n, b = b[0], b[1:]
	p.Sessions = take(n)
	return p
}

func (p Policy) check() error {
	switch {
	case p.Deposit > DepositTokens:
		return fmt.Errorf("%w: deposits of kind %d", ErrDescriptor, p.Deposit)
	case p.Deposit == DepositOpen:
		if p.Accounts != 0 || p.WorkBits != 0 || p.Cap != 0 || p.First != 0 || len(p.Keys)+len(p.Sessions) != 0 {
			return fmt.Errorf("%w: an open store with tokens", ErrDescriptor)
		}
		return nil
	case p.Accounts&^accountsKnown != 0 || p.WorkBits > MaxWorkBits || (p.Accounts&AccountsWork == 0) != (p.WorkBits == 0):
		return fmt.Errorf("%w: accounts %#x, %d bits of work", ErrDescriptor, p.Accounts, p.WorkBits)
	case p.Cap == 0 || p.Cap > MaxCap || p.First > maxTokenEpoch:
		return fmt.Errorf("%w: %d tokens from day %d on", ErrDescriptor, p.Cap, p.First)
	case len(p.Keys) == 0 || len(p.Keys) > maxTokenKeys:
		return fmt.Errorf("%w: %d token keys", ErrDescriptor, len(p.Keys))
	case len(p.Sessions) > maxSessions:
		return fmt.Errorf("%w: %d keys of session tokens", ErrDescriptor, len(p.Sessions))
	}
	for _, k := range slices.Concat(p.Keys, p.Sessions) {
		if err := token.CheckPublicKey(k[:]); err != nil {
			return fmt.Errorf("%w: %w", ErrDescriptor, err)
		}
	}
	return nil
}
