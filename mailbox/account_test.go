// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarn/crypto/token"
)

// tokenPolicy is a store's that wants tokens, with n keys.
func tokenPolicy(t testing.TB, first uint32, n int) Policy {
	p := Policy{Deposit: DepositTokens, Accounts: AccountsWork | AccountsCode, WorkBits: 8, Cap: 6000, First: first}
	for i := range n {
		k, err := token.NewKey(&[token.SeedSize]byte{byte(i), 1})
		if err != nil {
			t.Fatal(err)
		}
		p.Keys = append(p.Keys, k.Public())
	}
	k, err := token.NewSessionKey(&[token.SeedSize]byte{0, 1})
	if err != nil {
		t.Fatal(err)
	}
	p.Sessions = append(p.Sessions, k.Public())
	return p
}

func TestPolicyInTheDescriptor(t *testing.T) {
	s := newTestStore(t)
	d := s.descriptor(5, 6)
	d.Deposits = tokenPolicy(t, 5, TokenDays+1)
	b, err := SignDescriptor(s.onion, d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDescriptor(s.addr, append(b, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if k, ok := got.Deposits.Key(5 + TokenDays); !ok || k != d.Deposits.Keys[TokenDays] {
		t.Error("the key of the last day")
	}
	for _, e := range []uint32{0, 4, 5 + TokenDays + 1, 1<<32 - 1} {
		if _, ok := got.Deposits.Key(e); ok {
			t.Errorf("a key of day %d", e)
		}
	}
	if got.Deposits.Cap != 6000 || got.Deposits.WorkBits != 8 || got.Deposits.Accounts != d.Deposits.Accounts {
		t.Errorf("%+v", got.Deposits)
	}
	for name, edit := range map[string]func(p *Policy){
		"kind":               func(p *Policy) { p.Deposit = 2 },
		"open with keys":     func(p *Policy) { p.Deposit = DepositOpen },
		"unknown account":    func(p *Policy) { p.Accounts |= 8 },
		"work without bits":  func(p *Policy) { p.WorkBits = 0 },
		"bits without work":  func(p *Policy) { p.Accounts = AccountsCode },
		"too much work":      func(p *Policy) { p.WorkBits = MaxWorkBits + 1 },
		"no cap":             func(p *Policy) { p.Cap = 0 },
		"no keys":            func(p *Policy) { p.Keys = nil },
		"too many keys":      func(p *Policy) { p.Keys = tokenPolicy(t, 0, maxTokenKeys+1).Keys },
		"the identity":       func(p *Policy) { p.Keys[1] = [token.PublicKeySize]byte{} },
		"many session keys":  func(p *Policy) { p.Sessions = tokenPolicy(t, 0, maxSessions+1).Keys },
		"no session key":     func(p *Policy) { p.Sessions[0] = [token.PublicKeySize]byte{} },
		"open with sessions": func(p *Policy) { *p = Policy{Sessions: p.Sessions} },
		"a day far from now": func(p *Policy) { p.First = maxTokenEpoch + 1 },
	} {
		d := s.descriptor(5)
		d.Deposits = tokenPolicy(t, 5, 3)
		edit(&d.Deposits)
		if _, err := SignDescriptor(s.onion, d); !errors.Is(err, ErrDescriptor) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCodes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var c Code
		copy(c[:], rapid.SliceOfN(rapid.Byte(), len(c), len(c)).Draw(r, "code"))
		s := c.String()
		for _, typed := range []string{s, strings.ToUpper(s), strings.ReplaceAll(s, "-", " "), strings.ReplaceAll(s, "0", "O"), " " + strings.ReplaceAll(s, "1", "l")} {
			if got, err := ParseCode(typed); err != nil || got != c {
				r.Fatalf("%q: %v, %v", typed, got, err)
			}
		}
	})
	for _, s := range []string{"", "abc", strings.Repeat("0", 23), strings.Repeat("0", 25), strings.Repeat("!", 24), strings.Repeat("-", 70)} {
		if _, err := ParseCode(s); !errors.Is(err, ErrCode) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestAccountLine(t *testing.T) {
	id := AccountSecret{7}.ID()
	if got, err := ParseAccountID(" " + id.String() + "\n"); err != nil || got != id {
		t.Error(got, err)
	}
	line := id.String()
	for _, s := range []string{"", "tarn-account:1:", line[:len(line)-1], line + "0", line[:len(line)-1] + "z", "x" + line[1:]} {
		if _, err := ParseAccountID(s); !errors.Is(err, ErrAccount) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestWork(t *testing.T) {
	onion := bytes.Repeat([]byte{7}, 32)
	id := AccountSecret{1}.ID()
	n, err := Work(t.Context(), onion, id, 10)
	if err != nil || !Worked(onion, id, n, 10) {
		t.Fatal(n, err)
	}
	if Worked(onion, AccountSecret{2}.ID(), n, 10) || Worked(bytes.Repeat([]byte{8}, 32), id, n, 10) {
		t.Error("the proof is good for others too")
	}
	if n > 0 && Worked(onion, id, n-1, 10) {
		t.Error("an earlier nonce was good")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Work(ctx, onion, id, 40); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := Work(t.Context(), onion, id, 41); !errors.Is(err, ErrAccount) {
		t.Error(err)
	}
}

// A registration and a draw are of a deposit's size, and read back.
func TestAccountRequests(t *testing.T) {
	blinded, err := token.Blind(&[token.SecretSize]byte{3}, MaxIssue)
	if err != nil {
		t.Fatal(err)
	}
	id := BoxID{9}
	for _, r := range []Register{{Account: AccountID{1}, Proof: ProofWork, Nonce: 77}, {Account: AccountID{2}, Proof: ProofCode, Code: Code{5}}} {
		q := r.Request()
		if got, err := ParseRegister(q); err != nil || got != r {
			t.Errorf("%+v: %+v, %v", r, got, err)
		}
		q.Box[BoxSize-1] = 1
		if _, err := ParseRegister(q); !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
	}
	for _, n := range []int{1, 120, MaxIssue} {
		i := Issue{Account: AccountSecret{1}, Key: [32]byte{2}, Epoch: 20_000, Blinded: blinded[:n*token.ElementSize]}
		q, err := i.Request(id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseIssue(q)
		if err != nil || got.Account != i.Account || got.Key != i.Key || got.Epoch != i.Epoch || !bytes.Equal(got.Blinded, i.Blinded) {
			t.Errorf("%d: %v", n, err)
		}
		q.Box[BoxSize-1] = 1
		if _, err := ParseIssue(q); !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
	}
	for _, b := range [][]byte{nil, blinded[:31], append(bytes.Clone(blinded), blinded[:32]...)} {
		if _, err := (Issue{Blinded: b}).Request(id); !errors.Is(err, ErrRequest) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	answer := make([]byte, MaxIssue*token.ElementSize+token.ProofSize)
	answer[5] = 1
	box, err := SealIssued(&[32]byte{2}, id, answer)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenIssued(&[32]byte{2}, id, box); err != nil || !bytes.Equal(got, answer) {
		t.Error(err)
	}
	if _, err := OpenIssued(&[32]byte{2}, BoxID{8}, box); !errors.Is(err, ErrBadReply) {
		t.Error(err)
	}
	if _, err := SealIssued(&[32]byte{2}, id, make([]byte, PayloadSize-1)); err == nil {
		t.Error("too long an answer")
	}
}

func FuzzAccountRequests(f *testing.F) {
	q := Register{Account: AccountID{1}, Proof: ProofWork, Nonce: 77}.Request()
	f.Add(byte(q.Op), q.Box[:64])
	f.Add(byte(OpIssue), append(make([]byte, 69), 1))
	f.Fuzz(func(t *testing.T, op byte, b []byte) {
		q := Request{Op: Op(op), Box: make([]byte, BoxSize)}
		copy(q.Box, b)
		if r, err := ParseRegister(q); err == nil && !bytes.Equal(r.Request().Box, q.Box) {
			t.Error("a registration is not written back")
		} else if err != nil && !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
		if i, err := ParseIssue(q); err == nil {
			if again, err := i.Request(BoxID{}); err != nil || !bytes.Equal(again.Box, q.Box) {
				t.Errorf("a draw is not written back: %v", err)
			}
		} else if !errors.Is(err, ErrRequest) {
			t.Error(err)
		}
	})
}

func FuzzParseCode(f *testing.F) {
	f.Add(Code{1}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCode(s)
		if err != nil {
			if !errors.Is(err, ErrCode) {
				t.Error(err)
			}
			return
		}
		if again, err := ParseCode(c.String()); err != nil || again != c {
			t.Errorf("%q does not read back", c)
		}
	})
}
