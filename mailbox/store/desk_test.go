// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
)

func random32() (b [32]byte) {
	rand.Read(b[:])
	return b
}

func wants(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// client is one with a descriptor.
func client(t testing.TB, m *mailboxtest.Mailbox) *mailbox.Client {
	t.Helper()
	c := m.Client()
	_, err := c.Descriptor(t.Context())
	must(t, err)
	return c
}

func putToken(t testing.TB, c *mailbox.Client, tok token.Token) (id mailbox.BoxID, box *[mailbox.BoxSize]byte, err error) {
	t.Helper()
	id, box = randomBox()
	return id, box, c.Put(t.Context(), id, box, (*[token.Size]byte)(&tok))
}

func raw96(t token.Token) *[token.Size]byte { return (*[token.Size]byte)(&t) }

func TestATokenIsOneBox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mailboxtest.New(t, mailboxtest.WithTokens())
		c := client(t, m)
		today := mailbox.Epoch(time.Now())
		toks := mailboxtest.Draw(t, c, mailboxtest.Account(t, c), today, random32(), 5)
		_, _, err := putToken(t, c, token.Token{})
		wants(t, "no token", err, mailbox.ErrToken)
		_, _, err = putToken(t, c, token.Token(append(toks[0][:95:95], toks[0][95]^1)))
		wants(t, "a changed token", err, mailbox.ErrToken)
		id, box, err := putToken(t, c, toks[0])
		must(t, err)
		must(t, c.Put(t.Context(), id, box, raw96(toks[0]))) // the identical rewrite
		must(t, c.Put(t.Context(), id, box, nil))            // needs none: it is there
		_, _, err = putToken(t, c, toks[0])
		wants(t, "the second box", err, mailbox.ErrToken)
		other := *box
		other[0] ^= 1
		wants(t, "another box there", c.Put(t.Context(), id, &other, raw96(toks[1])), mailbox.ErrExists)
		_, _, err = putToken(t, c, toks[1]) // it was given back
		must(t, err)
		wants(t, "another box there, without", c.Put(t.Context(), id, &other, nil), mailbox.ErrExists)
		if m.Boxes() != 2 {
			t.Errorf("%d boxes", m.Boxes())
		}
		// The store loses everything; a token spent on a handle is good for it again.
		m.Forget()
		must(t, c.Put(t.Context(), id, box, raw96(toks[0])))
		_, _, err = putToken(t, c, toks[0])
		wants(t, "the second box of a store that forgot", err, mailbox.ErrToken)
		// Nothing of draws is in the digest.
		time.Sleep(20 * time.Minute)
		p, err := c.Digest(t.Context(), mailbox.PageAt(1, time.Now().Add(-11*time.Minute), store.DefaultBucket))
		if err != nil || len(p.Handles) > 3 {
			t.Errorf("%d handles, %v", len(p.Handles), err)
		}
	})
}

func TestAFullStoreGivesTokensBackAndDrawsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mailboxtest.New(t, mailboxtest.WithTokens(), mailboxtest.WithConfig(func(c *store.Config) { c.Quota = 1000 * store.BoxCost; c.TTL = 48 * time.Hour }))
		c := client(t, m)
		today := mailbox.Epoch(time.Now())
		account := mailboxtest.Account(t, c)
		toks := mailboxtest.Draw(t, c, account, today, random32(), 3)
		m.Faults.Set(mailboxtest.Fault{Full: true})
		_, _, err := putToken(t, c, toks[0])
		wants(t, "full", err, mailbox.ErrFull)
		m.Faults.Clear()
		_, _, err = putToken(t, c, toks[0])
		must(t, err)
		// A day's tokens: 2 x 1000 boxes / 2 days, half of them for accounts of work.
		for range 2 {
			mailboxtest.Draw(t, c, account, today+1, random32(), token.MaxBatch)
		}
		blinded, err := token.Blind(&[32]byte{}, 1)
		must(t, err)
		draw := func() error {
			id, _ := randomBox()
			return c.Issue(t.Context(), id, mailbox.Issue{Account: account, Key: random32(), Epoch: today + 1, Blinded: blinded})
		}
		wants(t, "all tokens of a day are drawn", draw(), mailbox.ErrFull)
	})
}

func TestDrawing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mailboxtest.New(t, mailboxtest.WithTokens(), mailboxtest.WithConfig(func(c *store.Config) { c.Cap = 300 }))
		c := client(t, m)
		ctx := t.Context()
		today := mailbox.Epoch(time.Now())
		blinded, err := token.Blind(&[32]byte{1}, token.MaxBatch)
		must(t, err)
		id, _ := randomBox()
		i := mailbox.Issue{Account: random32(), Key: random32(), Epoch: today, Blinded: blinded}
		wants(t, "an unknown account", c.Issue(ctx, id, i), mailbox.ErrAccount)
		i.Account = mailboxtest.Account(t, c)
		must(t, c.Issue(ctx, id, i))
		for range 3 {
			must(t, c.Issue(ctx, id, i)) // counts nothing
		}
		i.Blinded = blinded[:50*token.ElementSize]
		wants(t, "another draw there", c.Issue(ctx, id, i), mailbox.ErrExists)
		id, _ = randomBox()
		must(t, c.Issue(ctx, id, i))
		other, _ := randomBox()
		i.Blinded = blinded[:token.ElementSize]
		wants(t, "beyond the cap", c.Issue(ctx, other, i), mailbox.ErrCap)
		i.Epoch = today + mailbox.TokenDays
		must(t, c.Issue(ctx, other, i))
		for name, bad := range map[string]mailbox.Issue{
			"a day too far":    {Account: i.Account, Epoch: today + mailbox.TokenDays + 1, Blinded: i.Blinded},
			"a day long gone":  {Account: i.Account, Epoch: today - 2, Blinded: i.Blinded},
			"not an element":   {Account: i.Account, Epoch: today, Blinded: make([]byte, 32)},
			"one bad of three": {Account: i.Account, Epoch: today + 2, Blinded: append(append([]byte{}, blinded[:64]...), make([]byte, 32)...)},
		} {
			id, _ := randomBox()
			wants(t, name, c.Issue(ctx, id, bad), mailbox.ErrRefused)
		}
		synctest.Wait() // the answers are made
		box, err := c.Get(ctx, other.Handle())
		must(t, err)
		if _, err := mailbox.OpenIssued(&i.Key, other, box); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour + 2*time.Minute)
		box, err = c.Get(ctx, other.Handle())
		must(t, err)
		if _, err := mailbox.OpenIssued(&i.Key, other, box); err == nil {
			t.Error("the answer is there after an hour")
		}
	})
}

func TestAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listed := mailbox.AccountSecret(random32())
		dial, stop, s := deskStore(t, store.Config{Engine: store.NewMemory(time.Hour, 1<<40), Deposit: mailbox.DepositTokens, WorkBits: 10,
			AccountList: []mailbox.AccountID{listed.ID()}, Accounts: mailbox.AccountsCode | mailbox.AccountsList})
		defer func() { must(t, stop()) }()
		c := mailbox.NewClient(dial.addr, dial)
		d, err := c.Descriptor(t.Context())
		must(t, err)
		if d.Deposits.WorkBits != 0 || d.Deposits.Accounts != mailbox.AccountsCode|mailbox.AccountsList || len(d.Deposits.Keys) != mailbox.TokenDays+1 {
			t.Errorf("%+v", d.Deposits)
		}
		mailboxtest.Draw(t, c, listed, d.Deposits.First, random32(), 2)
		onion, err := dial.addr.Onion.Key()
		must(t, err)
		a, b := mailbox.AccountSecret(random32()), mailbox.AccountSecret(random32())
		n, err := mailbox.Work(t.Context(), onion, a.ID(), 10)
		must(t, err)
		wants(t, "work where none is taken", c.Register(t.Context(), mailbox.Register{Account: a.ID(), Proof: mailbox.ProofWork, Nonce: n}), mailbox.ErrAccount)
		code, expires, err := s.NewCode()
		must(t, err)
		wrong := code
		wrong[0] ^= 1
		wants(t, "a wrong code", c.Register(t.Context(), mailbox.Register{Account: a.ID(), Proof: mailbox.ProofCode, Code: wrong}), mailbox.ErrAccount)
		r := mailbox.Register{Account: a.ID(), Proof: mailbox.ProofCode, Code: code}
		must(t, c.Register(t.Context(), r))
		must(t, c.Register(t.Context(), r)) // again: it is known
		wants(t, "a used code", c.Register(t.Context(), mailbox.Register{Account: b.ID(), Proof: mailbox.ProofCode, Code: code}), mailbox.ErrAccount)
		mailboxtest.Draw(t, c, a, d.Deposits.First, random32(), 2)
		code, _, err = s.NewCode()
		must(t, err)
		time.Sleep(time.Until(expires) + time.Hour)
		_, err = c.Descriptor(t.Context())
		must(t, err)
		wants(t, "an old code", c.Register(t.Context(), mailbox.Register{Account: b.ID(), Proof: mailbox.ProofCode, Code: code}), mailbox.ErrAccount)
		if u, err := s.Tokens(); err != nil || u.Accounts != 1 {
			t.Errorf("%+v, %v", u, err)
		}
		time.Sleep(62 * 24 * time.Hour)
		if u, err := s.Tokens(); err != nil || u.Accounts != 0 {
			t.Errorf("an account that nobody used: %+v, %v", u, err)
		}
	})
}

func TestOpenStoresKnowNoAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mailboxtest.New(t)
		c := client(t, m)
		if d, _ := c.Current(); d.Deposits.Deposit != mailbox.DepositOpen {
			t.Errorf("%+v", d.Deposits)
		}
		id, box := randomBox()
		must(t, c.Put(t.Context(), id, box, raw96(token.Token{1, 2, 3}))) // it does not look
		wants(t, "register", c.Register(t.Context(), mailbox.Register{Account: mailbox.AccountID{1}, Proof: mailbox.ProofWork}), mailbox.ErrRefused)
		blinded, err := token.Blind(&[32]byte{1}, 1)
		must(t, err)
		wants(t, "draw", c.Issue(t.Context(), id, mailbox.Issue{Epoch: mailbox.Epoch(time.Now()), Blinded: blinded}), mailbox.ErrRefused)
	})
}

// A token is good on its day and the next, and two hours before; then its key is gone, and so is the list of those spent.
func TestTokensOfOtherDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mailboxtest.New(t, mailboxtest.WithTokens())
		c := client(t, m)
		account := mailboxtest.Account(t, c)
		day := mailbox.Epoch(time.Now()) + 3
		toks := mailboxtest.Draw(t, c, account, day, random32(), 8)
		midnight := time.Unix(int64(day)*86400, 0)
		try := func(what string, at time.Time, tok token.Token, want error) {
			t.Helper()
			time.Sleep(time.Until(at))
			if _, ok := c.Current(); !ok {
				_, err := c.Descriptor(t.Context())
				must(t, err)
			}
			_, _, err := putToken(t, c, tok)
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		try("a day early", midnight.Add(-23*time.Hour), toks[0], mailbox.ErrToken)
		try("three hours early", midnight.Add(-3*time.Hour), toks[0], mailbox.ErrToken)
		try("an hour early", midnight.Add(-time.Hour), toks[0], nil)
		try("on the day", midnight.Add(time.Hour), toks[1], nil)
		try("spent before midnight", midnight.Add(2*time.Hour), toks[0], mailbox.ErrToken)
		try("the next day", midnight.Add(25*time.Hour), toks[2], nil)
		try("spent yesterday", midnight.Add(47*time.Hour), toks[1], mailbox.ErrToken)
		try("two days later", midnight.Add(49*time.Hour), toks[3], mailbox.ErrToken)
	})
}

func deskStore(t testing.TB, cfg store.Config) (*pipeDialer, func() error, *store.Server) {
	t.Helper()
	cfg.Onion = crashConfig("").Onion
	return newStoreServer(t, cfg, -1)
}

// Everything about tokens is there again after a restart, and what a day's end forgets leaves the disk.
func TestTheDeskSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	cfg := store.Config{Dir: dir, Deposit: mailbox.DepositTokens, WorkBits: 4, Cap: 10}
	account, secret := mailbox.AccountSecret{}, random32()
	var toks []token.Token
	var id mailbox.BoxID
	var box *[mailbox.BoxSize]byte
	var code mailbox.Code
	today := mailbox.Epoch(time.Now())
	for round := range 3 {
		dial, stop, s := deskStore(t, cfg)
		c := mailbox.NewClient(dial.addr, dial)
		_, err := c.Descriptor(t.Context())
		must(t, err)
		if round == 0 {
			account = mailboxtest.Account(t, c)
			toks = mailboxtest.Draw(t, c, account, today, secret, 8)
			id, box, err = putToken(t, c, toks[0])
			must(t, err)
			code, _, err = s.NewCode()
			must(t, err)
		} else {
			for i, tok := range mailboxtest.Draw(t, c, account, today, secret, 8) {
				if tok != toks[i] {
					t.Errorf("token %d is another", i)
				}
			}
			blinded, err := token.Blind(&secret, 3)
			must(t, err)
			other, _ := randomBox()
			wants(t, "beyond the cap", c.Issue(t.Context(), other, mailbox.Issue{Account: account, Epoch: today, Blinded: blinded}), mailbox.ErrCap)
			_, _, err = putToken(t, c, toks[0])
			wants(t, "spent before the restart", err, mailbox.ErrToken)
			must(t, c.Put(t.Context(), id, box, raw96(toks[0])))
			_, _, err = putToken(t, c, toks[round])
			must(t, err)
		}
		if round == 1 {
			must(t, c.Register(t.Context(), mailbox.Register{Account: mailbox.AccountID(random32()), Proof: mailbox.ProofCode, Code: code}))
			if u, err := s.Tokens(); err != nil || u.Accounts != 2 || u.Drawn != 8 || u.Waiting != 1 {
				t.Errorf("%+v, %v", u, err)
			}
		}
		must(t, stop())
	}
	// Killed after a key was destroyed, before its spent tokens were deleted: they go at the next start.
	must(t, os.Remove(filepath.Join(dir, "tokens", "keys", strconv.Itoa(int(today))+".key")))
	if _, err := os.Stat(filepath.Join(dir, "tokens", "spent", strconv.Itoa(int(today)))); err != nil {
		t.Error(err)
	}
	_, stop, _ := deskStore(t, cfg)
	must(t, stop())
	if _, err := os.Stat(filepath.Join(dir, "tokens", "spent", strconv.Itoa(int(today)))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("spent tokens without a key: %v", err)
	}
}

func TestNewCodeOfAnOpenStore(t *testing.T) {
	s, err := store.New(store.Config{Onion: crashConfig("").Onion, Engine: store.NewMemory(time.Hour, 1<<30)})
	must(t, err)
	defer s.Close()
	if _, _, err := s.NewCode(); !errors.Is(err, store.ErrOpen) {
		t.Error(err)
	}
}

// Session tokens are others than those of deposits, few for an account, and good once.
func TestSessionTokens(t *testing.T) {
	cfg := tokenCrashConfig(t.TempDir())
	cfg.SessionTokens, cfg.WorkBits = 40, 4
	pipe, stop, server := newStoreServer(t, cfg, -1)
	c := mailbox.NewClient(pipe.addr, pipe)
	d, err := c.Descriptor(t.Context())
	must(t, err)
	today := mailbox.Epoch(time.Now())
	if len(d.Deposits.Sessions) != 2 {
		t.Fatalf("%d keys", len(d.Deposits.Sessions))
	}
	issue := func(a mailbox.AccountSecret, epoch uint32, n int) error {
		secret := random32()
		blinded, err := token.Blind(&secret, n)
		must(t, err)
		id, _ := randomBox()
		return c.Issue(t.Context(), id, mailbox.Issue{Account: a, Key: secret, Epoch: epoch, Blinded: blinded})
	}
	listed := mailbox.AccountSecret{1}
	toks := mailboxtest.Draw(t, c, listed, today|mailbox.SessionEpoch, random32(), 8)
	deposits := mailboxtest.Draw(t, c, listed, today, random32(), 2)
	wants(t, "more than 16", issue(listed, today|mailbox.SessionEpoch, 9), mailbox.ErrCap)
	must(t, issue(listed, (today+1)|mailbox.SessionEpoch, 16))
	wants(t, "of a day without a key", issue(listed, (today+3)|mailbox.SessionEpoch, 1), mailbox.ErrRefused)
	wants(t, "of yesterday", issue(listed, (today-1)|mailbox.SessionEpoch, 1), mailbox.ErrRefused)
	// Accounts by work have half of a day's together.
	must(t, issue(mailboxtest.Account(t, c), today|mailbox.SessionEpoch, 16))
	wants(t, "the half of accounts by work", issue(mailboxtest.Account(t, c), today|mailbox.SessionEpoch, 5), mailbox.ErrFull)

	_, _, err = putToken(t, c, toks[0])
	wants(t, "a deposit", err, mailbox.ErrToken)
	for what, x := range map[string]struct {
		token token.Token
		want  bool
	}{"good": {toks[0], true}, "another": {toks[1], true}, "of deposits": {deposits[0], false}, "none": {token.Token{}, false}} {
		if got := server.RedeemSession(raw96(x.token)); got != x.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	if server.RedeemSession(raw96(toks[0])) {
		t.Error("a token was good twice")
	}
	must(t, stop())
	pipe, stop, server = newStoreServer(t, cfg, -1)
	if server.RedeemSession(raw96(toks[1])) || !server.RedeemSession(raw96(toks[2])) {
		t.Error("what was spent is not known after a restart, or what was not is")
	}
	_, _, err = putToken(t, mailbox.NewClient(pipe.addr, pipe), deposits[0])
	wants(t, "without a descriptor", err, mailbox.ErrNoDescriptor)
	must(t, stop())
}
