// SPDX-License-Identifier: Apache-2.0

package mailboxtest

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/mailbox/store"
)

// WithTokens makes the store want tokens. Its proof of work is a matter of microseconds.
func WithTokens() Option {
	return WithConfig(func(c *store.Config) { c.Deposit, c.WorkBits = mailbox.DepositTokens, 4 })
}

// Account registers a new account by proof of work. The client must have the descriptor.
func Account(t testing.TB, c *mailbox.Client) mailbox.AccountSecret {
	t.Helper()
	var s mailbox.AccountSecret
	rand.Read(s[:])
	d, ok := c.Current()
	onion, err := c.Address().Onion.Key()
	if err != nil || !ok {
		t.Fatal("no descriptor", err)
	}
	n, err := mailbox.Work(t.Context(), onion, s.ID(), d.Deposits.WorkBits)
	if err == nil {
		err = c.Register(t.Context(), mailbox.Register{Account: s.ID(), Proof: mailbox.ProofWork, Nonce: n})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// WithSessionTokens makes the store give so many session tokens a day, and the courier take them.
func WithSessionTokens(n int) Option {
	return WithConfig(func(c *store.Config) { c.SessionTokens = n })
}

// Draw has the account draw the n tokens of a batch's secret for that day (with mailbox.SessionEpoch: session tokens), and
// waits for the answer.
func Draw(t testing.TB, c *mailbox.Client, account mailbox.AccountSecret, day uint32, secret [token.SecretSize]byte, n int) []token.Token {
	t.Helper()
	blinded, err := token.Blind(&secret, n)
	if err != nil {
		t.Fatal(err)
	}
	i := mailbox.Issue{Account: account, Key: secret, Epoch: day, Blinded: blinded} // a test's shortcut: the key is a secret of its own
	id := mailbox.BoxID(secret[:])
	if err := c.Issue(t.Context(), id, i); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	for range 1000 {
		box, err := c.Get(t.Context(), id.Handle())
		if err != nil {
			t.Fatal(err)
		}
		if answer, err = mailbox.OpenIssued(&i.Key, id, box); err == nil {
			break
		} else if !errors.Is(err, mailbox.ErrBadReply) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	d, _ := c.Current()
	public, ok := d.Deposits.Key(day)
	if day&mailbox.SessionEpoch != 0 {
		public, ok = d.Deposits.SessionKey(day &^ mailbox.SessionEpoch)
	}
	if !ok {
		t.Fatalf("the descriptor has no token key of day %d", day)
	}
	outputs, err := token.Finalize(&secret, n, public[:], answer)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]token.Token, n)
	for j := range out {
		seed := token.InputSeed(&secret, j/token.Chunk)
		out[j] = token.Make(&seed, j%token.Chunk, (*[token.OutputSize]byte)(outputs[j*token.OutputSize:]))
	}
	return out
}
