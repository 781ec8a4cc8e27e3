// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarn/crypto/token"
	"tarn/mailbox"
	"tarn/store"
	"tarn/store/storetest"
)

// tokenPair is two nodes, each with a store of its own that wants tokens; they are not started.
func tokenPair(t *testing.T) (w *world, a, b *node, da, db *fakeDesk) {
	w = newWorld(t, 2)
	a, b = w.node(2, fast()), w.node(1, fast())
	a.rooms.join(lounge, a.name(), b.name())
	b.rooms.join(lounge, a.name(), b.name())
	return w, a, b, w.store(0).wantTokens(), w.store(1).wantTokens()
}

// slow is for plays of days.
func slow() Profile { return CustomProfile(time.Minute, 0.3) }

// forDays makes the pair and its stores slow.
func (w *world) forDays(a, b *node) {
	a.profile, b.profile = slow(), slow()
	w.store(0).bucket, w.store(1).bucket = 10*time.Second, 10*time.Second
}

// paidOnce looks whether every box at the stores was paid, and no token with two boxes.
func (w *world) paidOnce(desks ...*fakeDesk) {
	w.t.Helper()
	for i, d := range desks {
		w.store(byte(i)).set(func(*fakeStore) {
			if d.twice != 0 || d.unpaid != 0 {
				w.t.Errorf("store %d: %d tokens with two boxes, %d boxes unpaid, %d paid", i, d.twice, d.unpaid, d.paid)
			}
		})
	}
}

// tokensOfNode is what the node says of a store.
func tokensOfNode(n *node, a mailbox.Address) (s TokenStatus) {
	all, _ := n.engine.Tokens()
	for _, s := range all {
		if s.Address == a {
			return s
		}
	}
	return TokenStatus{}
}

// A node that dies at any write, before or after the commit, shows no token with two boxes, and goes on.
func TestCrashesAtAnyWriteShowNoTokenTwice(t *testing.T) {
	seeds := plays(6)
	if os.Getenv("TARN_FULL") != "" {
		seeds = 200
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(seed), 7))
				w, a, b, da, db := tokenPair(t)
				disks := map[*node]store.KV{a: a.kv, b: b.kv}
				boot := func(n *node, crash bool) {
					if n.stop != nil {
						n.stop()
					}
					n.kv = disks[n]
					if crash {
						n.kv = &storetest.Mortal{KV: disks[n], Left: rng.IntN(40), After: rng.IntN(2) == 0}
					}
					e, err := New(n.config())
					if errors.Is(err, storetest.ErrDied) {
						n.kv = disks[n]
						e, err = New(n.config())
					}
					if err != nil {
						t.Fatal(err)
					}
					n.engine = e
					ctx, cancel := context.WithCancel(context.Background())
					done := make(chan error, 1)
					go func() { done <- e.Run(ctx) }()
					n.stop = func() { cancel(); <-done; n.stop = nil }
				}
				defer w.stopAll()
				boot(a, false)
				boot(b, false)
				l, err := a.engine.Invite(context.Background(), 24*time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := b.engine.Accept(context.Background(), l); err != nil {
					t.Fatal(err)
				}
				sent := 0
				say := func(n *node) {
					if n.rooms.send(t, lounge, fmt.Sprint(sent)) != "" {
						sent++
					}
				}
				for range 12 {
					for _, n := range []*node{a, b} {
						if rng.IntN(3) > 0 {
							boot(n, true)
						}
						if rng.IntN(2) == 0 {
							say(n)
						}
					}
					time.Sleep(time.Duration(1+rng.IntN(60)) * time.Second)
				}
				boot(a, false)
				boot(b, false)
				say(a)
				say(b)
				w.has(a, lounge, sent, 6*time.Hour)
				w.has(b, lounge, sent, 6*time.Hour)
				quiet(w, a, b, 6*time.Hour)
				for i, d := range []*fakeDesk{da, db} {
					s := w.store(byte(i))
					s.set(func(*fakeStore) {
						if d.twice != 0 || d.paid == 0 {
							t.Errorf("store %d: %d tokens with two boxes, %d boxes paid", i, d.twice, d.paid)
						}
						if d.unpaid != 0 {
							t.Errorf("store %d: %d boxes came without a good token", i, d.unpaid)
						}
					})
				}
			})
		})
	}
}

// What is given away is not spent by the giver, and what was given is spent by one: between them no token is shown twice,
// in frames too, and cover and loops pay.
func TestInFramesEveryBoxIsPaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, da, db := tokenPair(t)
		da.cap, db.cap = 960, 960 // some for cover
		for _, n := range []*node{a, b} {
			n.couriers = []mailbox.Address{w.courier(0).address, w.courier(1).address}
			n.profile.CoverPut = 1
		}
		defer w.stopAll()
		a.start()
		b.start()
		w.contact(a, b)
		talk(t, w, a, b, 10, time.Hour)
		talk(t, w, b, a, 10, time.Hour)
		quiet(w, a, b, time.Hour)
		w.until(2*time.Hour, "cover, and loops that come back", func() bool {
			ok := true
			for i, d := range []*fakeDesk{da, db} {
				w.store(byte(i)).set(func(*fakeStore) { ok = ok && d.paid >= 30 })
			}
			back := 0.0
			for _, n := range []*node{a, b} {
				for _, m := range n.engine.Stores() {
					back += m.Loops
				}
			}
			return ok && back > 0
		})
		w.paidOnce(da, db)
	})
}

// A contact that is cut gets no more tokens, and so can leave nothing at our mailbox once those that it has are over.
func TestACutContactIsHeardNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, _, _ := tokenPair(t)
		w.forDays(a, b)
		defer w.stopAll()
		a.start()
		b.start()
		w.contact(a, b)
		talk(t, w, b, a, 3, 6*time.Hour)
		time.Sleep(6 * time.Hour) // what there is for tomorrow is given
		if err := a.engine.Cut("nobody", true); !errors.Is(err, ErrNoContact) {
			t.Errorf("cutting a stranger: %v", err)
		}
		for _, cut := range []bool{true, false, false, true} { // and undone, and done
			if err := a.engine.Cut(string(b.name()), cut); err != nil {
				t.Fatal(err)
			}
		}
		a.stop()
		a.start() // it is kept
		if _, cut := a.engine.Tokens(); len(cut) != 1 || cut[0] != b.name() {
			t.Errorf("cut: %v", cut)
		}
		talk(t, w, b, a, 1, 6*time.Hour) // what it has is good until it is over
		time.Sleep(48 * time.Hour)
		had := len(a.rooms.bodies(lounge))
		b.rooms.send(t, lounge, "too late")
		time.Sleep(12 * time.Hour)
		if n := len(a.rooms.bodies(lounge)); n != had {
			t.Error("a contact that was cut left a box after its tokens were over")
		}
		if s := tokensOfNode(b, a.own[0]); s.Today != 0 || s.Own || !strings.Contains(s.Problem, "given no tokens") {
			t.Errorf("the contact's node says %+v", s)
		}
	})
}

// A store that knows nobody by work gives an account for a code, once.
func TestACodeMakesAnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		d := w.store(0).wantTokens()
		code := mailbox.Code{1, 2, 3}
		d.accounts, d.code = mailbox.AccountsCode, code
		a, b := w.node(1, slow()), w.node(2, slow())
		a.codes = map[mailbox.Address]mailbox.Code{w.store(0).address: code}
		b.codes = map[mailbox.Address]mailbox.Code{w.store(0).address: {9}}
		defer w.stopAll()
		a.start()
		b.start()
		w.until(6*time.Hour, "tokens", func() bool { return tokensOfNode(a, a.own[0]).Today > 0 })
		if s := tokensOfNode(a, a.own[0]); s.Problem != "" || s.Account == "" {
			t.Errorf("with a good code: %+v", s)
		}
		if s := tokensOfNode(b, b.own[0]); s.Today != 0 || !strings.Contains(s.Problem, "invite code") {
			t.Errorf("with a bad code: %+v", s)
		}
		a.stop()
		a.start() // the code is of no use any more, the account is
		time.Sleep(25 * time.Hour)
		if s := tokensOfNode(a, a.own[0]); s.Today == 0 || s.Problem != "" {
			t.Errorf("the next day: %+v", s)
		}
	})
}

// What a store refuses is told to a person, nothing is asked at line rate, and all is well when the store is.
func TestAStoreThatGivesNoTokens(t *testing.T) {
	for name, c := range map[string]struct {
		refuse  error
		lie     bool
		problem string
	}{
		"full":         {refuse: mailbox.ErrFull, problem: "full"},
		"capped":       {refuse: mailbox.ErrCap, problem: "are drawn"},
		"refused":      {refuse: mailbox.ErrRefused, problem: "refuses"},
		"another key":  {lie: true, problem: "another key"},
		"who are you?": {refuse: mailbox.ErrAccount, problem: "does not know the account"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				s := w.store(0)
				d := s.wantTokens()
				d.refuse, d.lie = c.refuse, c.lie
				a := w.node(1, slow())
				defer w.stopAll()
				a.start()
				w.until(6*time.Hour, "the problem", func() bool { return strings.Contains(tokensOfNode(a, s.address).Problem, c.problem) })
				if st := tokensOfNode(a, s.address); st.Today != 0 {
					t.Errorf("%+v", st)
				}
				s.set(func(*fakeStore) { d.refuse, d.lie = nil, false })
				w.until(30*time.Hour, "tokens", func() bool {
					st := tokensOfNode(a, s.address)
					return st.Today > 0 && st.Problem == ""
				})
				s.set(func(*fakeStore) {
					if d.unpaid != 0 {
						t.Errorf("%d boxes came without a token", d.unpaid)
					}
				})
			})
		})
	}
}

// A store that asks for absurd work gets none, and one whose work takes long holds up neither the schedule nor another store; a
// person is told of both.
func TestWorkThatTakesLongHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		const hard = mailbox.MaxNodeWork
		for i, bits := range []uint8{hard, hard + 1, 4} {
			w.store(byte(i)).wantTokens().bits = bits
		}
		a := w.node(1, slow())
		a.own = nil
		for i := range byte(3) {
			a.own = append(a.own, w.store(i).address)
		}
		var asked atomic.Int64
		a.prove = func(ctx context.Context, onion []byte, id mailbox.AccountID, bits uint8) (uint64, error) {
			if bits < hard {
				return mailbox.Work(ctx, onion, id, bits)
			}
			if bits > hard {
				asked.Add(1)
			}
			<-ctx.Done()
			return 0, ctx.Err()
		}
		defer w.stopAll()
		a.start()
		problem := func(i byte) string { return tokensOfNode(a, w.store(i).address).Problem }
		w.until(6*time.Hour, "the easy store's tokens", func() bool { return tokensOfNode(a, w.store(2).address).Today > 0 })
		w.until(time.Hour, "what is too much", func() bool { return strings.Contains(problem(1), "more work") })
		w.until(time.Hour, "what takes too long", func() bool { return strings.Contains(problem(0), "too long") })
		if asked.Load() != 0 {
			t.Error("it worked for the absurd one")
		}
	})
}

// Two nodes that were both off for longer than tokens are given ahead, or one of them, write to each other again by
// themselves: each reads the tokens that the other leaves.
func TestAfterALongSilence(t *testing.T) {
	measures(t)
	for name, c := range map[string]struct{ a, b, frames bool }{
		"both off":           {a: true, b: true},
		"one off":            {b: true},
		"both off, couriers": {a: true, b: true, frames: true},
		"one off, couriers":  {a: true, frames: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, b, da, db := tokenPair(t)
				da.cap, db.cap = 360, 360
				for _, n := range []*node{a, b} {
					if n.profile = slow(); c.frames {
						n.couriers = []mailbox.Address{w.courier(0).address, w.courier(1).address}
					}
				}
				for i := range byte(2) {
					w.store(i).bucket = 10 * time.Second
				}
				defer w.stopAll()
				a.start()
				b.start()
				w.contact(a, b)
				talk(t, w, a, b, 2, 6*time.Hour)
				talk(t, w, b, a, 2, 6*time.Hour)
				if c.a {
					a.stop()
				}
				if c.b {
					b.stop()
				}
				if c.a && c.b {
					time.Sleep(20 * 24 * time.Hour)
				} else {
					time.Sleep(3*24*time.Hour + 12*time.Hour) // these stores give tokens for today and tomorrow only
				}
				for _, n := range []*node{a, b} {
					if n.stop == nil {
						n.start()
					}
				}
				talk(t, w, a, b, 2, 24*time.Hour)
				talk(t, w, b, a, 2, 24*time.Hour)
				w.paidOnce(da, db)
			})
		})
	}
}

// Two restores from one backup on one day, after each of which the node spends of the tokens that its contact left for it: the second time it knows
// nothing of the first.
func TestAWalletThatIsRestoredTwiceShowsNoTokenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, da, db := tokenPair(t)
		da.cap, db.cap = 720, 720
		w.forDays(a, b)
		defer w.stopAll()
		a.start()
		b.start()
		w.contact(a, b)
		talk(t, w, a, b, 2, 2*time.Hour)
		talk(t, w, b, a, 2, 2*time.Hour)
		backup, bodies := b.backup(), len(b.rooms.bodies(lounge))
		time.Sleep(4 * time.Hour)
		for range 2 {
			b.restore(backup)
			b.rooms.forget(bodies)
			paid := da.paid
			talk(t, w, b, a, 1, 8*time.Hour)
			time.Sleep(time.Hour)
			w.store(0).set(func(*fakeStore) {
				if da.paid == paid {
					t.Error("nothing was paid for")
				}
			})
		}
		if time.Since(playStart) > 24*time.Hour {
			t.Errorf("it took %v: not on one day", time.Since(playStart))
		}
		w.paidOnce(da, db)
	})
}

// A node that was restored from a backup shows no token that it may have shown since: it draws anew, reads the tokens that its
// contact left for it, and so can even ask for new streams.
func TestARestoredWalletShowsNoTokenTwice(t *testing.T) {
	measures(t)
	for name, c := range map[string]struct{ a, b bool }{"one": {b: true}, "both": {a: true, b: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, b, da, db := tokenPair(t)
				da.cap, db.cap = 720, 720
				defer w.stopAll()
				a.start()
				b.start()
				w.contact(a, b)
				talk(t, w, a, b, 3, time.Hour)
				talk(t, w, b, a, 3, time.Hour)
				backups := map[*node][]byte{a: a.backup(), b: b.backup()}
				accounts := map[*node]string{a: tokensOfNode(a, a.own[0]).Account, b: tokensOfNode(b, b.own[0]).Account}
				talk(t, w, a, b, 20, time.Hour) // of tokens that are in the backup
				talk(t, w, b, a, 20, time.Hour)
				for n, yes := range map[*node]bool{a: c.a, b: c.b} {
					if yes {
						n.restore(backups[n])
						if got := tokensOfNode(n, n.own[0]).Account; got == accounts[n] {
							t.Error("the account of before is used on")
						}
					}
				}
				talk(t, w, a, b, 20, 24*time.Hour)
				talk(t, w, b, a, 20, 24*time.Hour)
				time.Sleep(2 * time.Hour)
				w.paidOnce(da, db)
			})
		})
	}
}

// Each token of a chunk that is left has its second, and who is restored at one begins after it.
func TestTokensThatAreLeftHaveTheirTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := chunk{day: rapid.Uint32Range(1, 50_000).Draw(t, "day"), n: rapid.IntRange(1, token.Chunk).Draw(t, "tokens"), left: true}
		begin := time.Unix(int64(c.day)*86400, 0)
		j, s := rapid.IntRange(0, c.n-1).Draw(t, "j"), rapid.IntRange(0, 86399).Draw(t, "second")
		if may, shall := j < c.end(begin.Add(time.Duration(s)*time.Second)), j*86400 <= s*c.n; may != shall {
			t.Fatalf("token %d of %d at second %d: %v", j, c.n, s, may)
		}
		if n := c.end(begin.Add(24 * time.Hour)); n != c.n {
			t.Fatalf("at the end of the day %d of %d", n, c.n)
		}
		if c.left = false; c.end(begin) != c.n {
			t.Fatal("others have no time")
		}
	})
}
