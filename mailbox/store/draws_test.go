// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	kv "tarn/store"
)

func testDesk(t *testing.T, dir string) *desk {
	t.Helper()
	_, onion, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	d, err := openDesk(dir, Config{
		Onion: onion, Accounts: mailbox.AccountsWork | mailbox.AccountsCode, WorkBits: 1, Cap: DefaultCap, Quota: DefaultQuota, TTL: DefaultTTL,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, func() bool { return true })
	must(t, err)
	t.Cleanup(func() { d.close() })
	_, err = d.policy(mailbox.Epoch(time.Now()))
	must(t, err)
	return d
}

// testAccount registers an account, by work or by a code.
func testAccount(t *testing.T, d *desk, work bool) (secret mailbox.AccountSecret, status mailbox.Status) {
	t.Helper()
	rand.Read(secret[:])
	r := mailbox.Register{Account: secret.ID(), Proof: mailbox.ProofWork}
	var err error
	if work {
		r.Nonce, err = mailbox.Work(t.Context(), d.onion, r.Account, d.bits)
	} else {
		r.Proof = mailbox.ProofCode
		r.Code, _, err = d.newCode()
	}
	must(t, err)
	status, err = d.register(r.Request())
	must(t, err)
	return secret, status
}

var onePoint = func() []byte {
	b, err := token.Blind(&[32]byte{1}, 1)
	if err != nil {
		panic(err)
	}
	return b
}()

// testDraw draws one token.
func testDraw(t *testing.T, d *desk, account mailbox.AccountSecret) (mailbox.Handle, mailbox.Status) {
	t.Helper()
	var id mailbox.BoxID
	rand.Read(id[:])
	q, err := mailbox.Issue{Account: account, Epoch: mailbox.Epoch(time.Now()), Blinded: onePoint}.Request(id)
	must(t, err)
	status, err := d.issue(q)
	must(t, err)
	return id.Handle(), status
}

// Neither one account nor all those that cost nothing but work take the places of everybody: an answer to a draw of a single
// token waits for an hour like any other.
func TestNobodyTakesAllPlacesOfDraws(t *testing.T) {
	dir := t.TempDir()
	d := testDesk(t, dir)
	work := func() mailbox.AccountSecret { a, _ := testAccount(t, d, true); return a }
	code, _ := testAccount(t, d, false)
	greedy := work()
	var first mailbox.Handle
	for i := range maxOwnDraws {
		h, status := testDraw(t, d, greedy)
		if status != mailbox.StatusOK {
			t.Fatalf("draw %d: status %d", i, status)
		}
		if i == 0 {
			first = h
		}
	}
	if _, status := testDraw(t, d, greedy); status != mailbox.StatusBusy {
		t.Errorf("one more draw of an account: status %d, want busy", status)
	}
	if _, status := testDraw(t, d, work()); status != mailbox.StatusOK {
		t.Errorf("another account: status %d", status)
	}
	// Its place is free again when the answer is gone.
	must(t, d.evaluate(first))
	must(t, d.sweep(time.Now().Add(answerTime+time.Minute)))
	if _, status := testDraw(t, d, greedy); status != mailbox.StatusOK {
		t.Errorf("after an answer is gone: status %d", status)
	}
	// A crowd: what it would take hours of a disk's syncs to draw is counted in.
	d.mu.Lock()
	d.places.add(owner{work: true}, maxWorkDraws-d.places.work)
	d.mu.Unlock()
	if _, status := testDraw(t, d, work()); status != mailbox.StatusBusy {
		t.Errorf("accounts by work beyond their half: status %d, want busy", status)
	}
	if _, status := testDraw(t, d, code); status != mailbox.StatusOK {
		t.Errorf("an account by code beside a crowd by work: status %d", status)
	}
	// Draws outlive a restart, and are counted then.
	n := len(d.draws)
	must(t, d.close())
	d = testDesk(t, dir)
	if d.places.all != n || d.places.work != n {
		t.Errorf("after a restart %d places are taken, %d by work; want %d", d.places.all, d.places.work, n)
	}
}

// Accounts by work have so many places in the book; codes always have one. What was registered and never drew is forgotten.
func TestAccountsByWorkDoNotShutOutCodes(t *testing.T) {
	d := testDesk(t, "")
	idle, _ := testAccount(t, d, true)
	used, _ := testAccount(t, d, true)
	if _, status := testDraw(t, d, used); status != mailbox.StatusOK {
		t.Fatalf("a draw: status %d", status)
	}
	d.workers += maxWorkers - 2
	d.people += maxWorkers - 2
	if _, status := testAccount(t, d, true); status != mailbox.StatusFull {
		t.Errorf("one more by work: status %d, want full", status)
	}
	if _, status := testAccount(t, d, false); status != mailbox.StatusOK {
		t.Errorf("by code beside a crowd by work: status %d", status)
	}
	must(t, d.sweep(time.Now().Add(48*time.Hour)))
	if d.workers != maxWorkers-1 {
		t.Errorf("%d accounts by work, want the one gone that never drew", d.workers)
	}
	known := func(a mailbox.AccountSecret) error {
		return d.book.View(func(r kv.Reader) error { _, err := d.account(r, a.ID()); return err })
	}
	if known(idle) == nil || known(used) != nil {
		t.Errorf("idle: %v; used: %v", known(idle), known(used))
	}
}

// More deposits at once than the queue holds are all taken: they wait for the commits before.
func TestACrowdOfDepositsIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, onion, err := ed25519.GenerateKey(rand.Reader)
		must(t, err)
		s, err := New(Config{Onion: onion, Engine: NewMemory(time.Hour, 1<<40), ExpiryUnit: time.Hour})
		must(t, err)
		const crowd = 2 * maxDeposits
		results := make(chan error, crowd)
		for range crowd {
			go func() {
				b := newTestBox()
				results <- s.put(b.ID, b.Data, token.Token{})
			}()
		}
		synctest.Wait() // all that fit stand in the queue
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		for range crowd {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		must(t, <-ended)
	})
}
