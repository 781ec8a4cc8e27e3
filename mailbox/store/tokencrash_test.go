// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
	kv "tarn/store"
)

const crashWriters, crashTokens = 8, 25

func tokenCrashConfig(dir string) store.Config {
	c := crashConfig(dir)
	c.Deposit, c.AccountList = mailbox.DepositTokens, []mailbox.AccountID{mailbox.AccountSecret{1}.ID()}
	c.Quota = 1 << 40
	return c
}

// crashSecret is the batch of a writer: the parent draws the same again.
func crashSecret(round, writer int) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "crash %d %d", round, writer))
}

func tokenID(t token.Token) mailbox.BoxID {
	h := sha256.Sum256(t[:])
	return mailbox.BoxID(h[:])
}

// TestTokenCrashChild is the process that is killed: it deposits with tokens and prints each that was acknowledged.
func TestTokenCrashChild(t *testing.T) {
	dir := os.Getenv("TARN_TOKEN_CRASH_DIR")
	if dir == "" {
		t.Skip("not a test: the child of TestAKilledStoreTakesEachTokenOnce")
	}
	round, err := strconv.Atoi(os.Getenv("TARN_TOKEN_CRASH_ROUND"))
	must(t, err)
	pipe, _ := newStore(t, tokenCrashConfig(dir), -1)
	today := mailbox.Epoch(time.Now())
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			c := mailbox.NewClient(pipe.addr, pipe)
			if _, err := c.Descriptor(context.Background()); err != nil {
				fmt.Println("error", err)
				return
			}
			for _, tok := range mailboxtest.Draw(t, c, mailbox.AccountSecret{1}, today, crashSecret(round, w), crashTokens) {
				id := tokenID(tok)
				if err := c.Put(context.Background(), id, derivedBox(id), raw96(tok)); err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("ack", hex.EncodeToString(id[:]))
			}
		})
	}
	wg.Wait()
	select {} // until it is killed
}

// A token is good for one box, and a box that was acknowledged is there, however often the store is killed; a token
// whose box was not acknowledged is good for that very box.
func TestAKilledStoreTakesEachTokenOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	dir := t.TempDir()
	acked := map[mailbox.BoxID]bool{}
	const rounds = 3
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTokenCrashChild$", "-test.v")
		cmd.Env = append(os.Environ(), "TARN_TOKEN_CRASH_DIR="+dir, "TARN_TOKEN_CRASH_ROUND="+strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var n atomic.Int64
		gone := make(chan struct{})
		go func() { // killed in the middle of the load, not at a line
			defer close(gone)
			for n.Load() < int64(20+50*round) {
				time.Sleep(time.Millisecond)
			}
			cmd.Process.Kill()
		}()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var what, text string
			fmt.Sscan(lines.Text(), &what, &text)
			switch what {
			case "error", "---", "FAIL":
				t.Error(lines.Text())
				n.Store(1 << 40)
			case "ack":
				if b, err := hex.DecodeString(text); err == nil && len(b) == mailbox.IDSize {
					acked[mailbox.BoxID(b)] = true
					n.Add(1)
				}
			}
		}
		<-gone
		cmd.Wait()
	}
	pipe, stop := newStore(t, tokenCrashConfig(dir), -1)
	c := mailbox.NewClient(pipe.addr, pipe)
	_, err := c.Descriptor(t.Context())
	must(t, err)
	today := mailbox.Epoch(time.Now())
	var seen atomic.Int64
	var wg sync.WaitGroup
	for at := range rounds * crashWriters {
		wg.Go(func() {
			round, w := at/crashWriters, at%crashWriters
			for _, tok := range mailboxtest.Draw(t, c, mailbox.AccountSecret{1}, today, crashSecret(round, w), crashTokens) {
				id := tokenID(tok)
				if acked[id] {
					seen.Add(1)
					if got, err := c.Get(t.Context(), id.Handle()); err != nil || *got != *derivedBox(id) {
						t.Errorf("an acknowledged box is lost: %v", err)
					}
				} else {
					if err := c.Put(t.Context(), id, derivedBox(id), raw96(tok)); err != nil {
						t.Errorf("the box of a token that was not acknowledged: %v", err)
					}
				}
				other, box := randomBox()
				if err := c.Put(t.Context(), other, box, raw96(tok)); !errors.Is(err, mailbox.ErrToken) {
					t.Errorf("a token is good for two boxes (the first acknowledged: %v): %v", acked[id], err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d tokens were spent when it was killed", seen.Load(), rounds*crashWriters*crashTokens)
	if n := int(seen.Load()); n != len(acked) || n < 100 {
		t.Errorf("%d acknowledged, %d of them known", len(acked), n)
	}
	must(t, stop())
}

// A store that wants tokens and is started below its reserve starts, and says that it is full: nothing is lost by that.
func TestAFullDiskAtTheStart(t *testing.T) {
	cfg := tokenCrashConfig(t.TempDir())
	ask := func(want error) {
		t.Helper()
		pipe, stop := newStore(t, cfg, -1)
		c := mailbox.NewClient(pipe.addr, pipe)
		d, err := c.Descriptor(t.Context())
		must(t, err)
		if len(d.Deposits.Keys) == 0 {
			t.Error("no token keys")
		}
		blinded, err := token.Blind(&[32]byte{}, 1)
		must(t, err)
		id, box := randomBox()
		wants(t, "a draw", c.Issue(t.Context(), id, mailbox.Issue{Account: mailbox.AccountSecret{1}, Key: random32(), Epoch: mailbox.Epoch(time.Now()), Blinded: blinded}), want)
		if err := c.Put(t.Context(), id, box, nil); !errors.Is(err, mailbox.ErrToken) && !errors.Is(err, want) {
			t.Errorf("a deposit without a token: %v", err)
		}
		_, err = c.Get(t.Context(), id.Handle())
		must(t, err)
		must(t, stop())
	}
	cfg.Reserve = 1 << 60
	ask(mailbox.ErrFull)
	cfg.Reserve = 0
	ask(nil)
}

// A mailbox that has boxes and whose disk has become full starts, gives them, and takes no more.
func TestAFullDiskAtTheStartWithBoxes(t *testing.T) {
	cfg := crashConfig(t.TempDir())
	id, box := randomBox()
	started := func(do func(c *mailbox.Client)) {
		t.Helper()
		pipe, stop := newStore(t, cfg, -1)
		c := mailbox.NewClient(pipe.addr, pipe)
		_, err := c.Descriptor(t.Context())
		must(t, err)
		do(c)
		must(t, stop())
	}
	started(func(c *mailbox.Client) { must(t, c.Put(t.Context(), id, box, nil)) })
	cfg.Reserve = 1 << 60
	started(func(c *mailbox.Client) {
		got, err := c.Get(t.Context(), id.Handle())
		must(t, err)
		if *got != *box {
			t.Error("the box is not given")
		}
		other, data := randomBox()
		wants(t, "a deposit", c.Put(t.Context(), other, data, nil), mailbox.ErrFull)
	})
}

// brokenEngine fails as a database does after a write that failed in the middle.
type brokenEngine struct{ *store.Memory }

func (brokenEngine) Put(uint64, time.Time, []store.Box, []error) error { return kv.ErrBroken }

// A failed write of the disk ends the mailbox, so that it is started anew, and does not leave it refusing deposits for ever.
func TestABrokenDatabaseEndsTheMailbox(t *testing.T) {
	cfg := crashConfig("")
	cfg.Engine = brokenEngine{store.NewMemory(cfg.ExpiryUnit, 1<<40)}
	s, err := store.New(cfg)
	must(t, err)
	keys, err := front.OpenKeys("", cfg.Onion, s.About)
	must(t, err)
	door, err := front.New(front.Config{Keys: keys, Store: s, AnswerTime: -1})
	must(t, err)
	pipe := &pipeDialer{addr: keys.Address(), conns: make(chan net.Conn), done: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- door.Run(t.Context(), pipe) }()
	c := mailbox.NewClient(pipe.addr, pipe)
	_, err = c.Descriptor(t.Context())
	must(t, err)
	id, box := randomBox()
	if err := c.Put(t.Context(), id, box, nil); err == nil {
		t.Error("acknowledged")
	}
	select {
	case err := <-ended:
		wants(t, "Run", err, kv.ErrBroken)
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
}
