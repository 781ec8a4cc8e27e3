// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/store"
	"tarn/store/storetest"
)

const cellar matrix.RoomID = "!cellar:x"

// acquaintances are nodes that take part in introductions, the one with the smallest name first. None is started.
func acquaintances(w *world, n int) (out []*node) {
	for i := range n {
		nd := w.node(byte(i+1), fast())
		nd.introductions, nd.patience = NeededIntroductions, 400
		out = append(out, nd)
	}
	slices.SortFunc(out, func(a, b *node) int {
		if a.name() < b.name() {
			return -1
		}
		return 1
	})
	return out
}

// gather puts nodes into an encrypted room.
func gather(id matrix.RoomID, nodes ...*node) {
	var names []onionid.Name
	for _, n := range nodes {
		names = append(names, n.name())
	}
	for _, n := range nodes {
		n.rooms.encrypt(id, names...)
	}
}

// line starts a, b and c, in an encrypted room, where a and b are contacts of c. a asks.
func line(t *testing.T) (w *world, a, b, c *node) {
	w = newWorld(t, 2)
	ns := acquaintances(w, 3)
	a, b, c = ns[0], ns[1], ns[2]
	for _, n := range ns {
		n.start()
	}
	w.contact(a, c)
	w.contact(c, b)
	gather(cellar, a, b, c)
	return w, a, b, c
}

// met waits until two are contacts that heard of each other.
func (w *world) met(a, b *node, limit time.Duration) time.Duration {
	w.t.Helper()
	return w.until(limit, "an introduction", func() bool {
		x, y := a.status(b.name()), b.status(a.name())
		return x.State == Active && y.State == Active && x.Number != "" && x.Number == y.Number
	})
}

// noContact lets time pass, in which two do not become contacts.
func (w *world) noContact(a, b *node, d time.Duration) {
	w.t.Helper()
	time.Sleep(d)
	if x, y := a.state(b.name()), b.state(a.name()); x == Active || y == Active {
		w.t.Errorf("they are contacts: %v, %v", x, y)
	}
}

// inside looks at a node's engine.
func inside[T any](n *node, look func(*Engine) T) T {
	n.engine.mu.Lock()
	defer n.engine.mu.Unlock()
	return look(n.engine)
}

// contacts counts a node's, and those of them that were introduced.
func (n *node) contacts() (all, introduced int) {
	n.engine.mu.Lock()
	defer n.engine.mu.Unlock()
	for _, c := range n.engine.contacts {
		if all++; c.introducer != "" {
			introduced++
		}
	}
	return all, introduced
}

// links counts a node's introductions under way, as one who asks and as one who is asked for.
func (n *node) links() (asked, followed int) {
	n.engine.mu.Lock()
	defer n.engine.mu.Unlock()
	for _, in := range n.engine.invites {
		if in.peer != "" {
			asked++
		}
	}
	for _, a := range n.engine.accepts {
		if a.from != "" && a.open() {
			followed++
		}
	}
	return asked, followed
}

// queue puts a record into a node's outbox, as a node that does what it likes would.
func (n *node) queue(to *node, c interface{ Record() (bundle.Record, error) }) {
	n.t.Helper()
	rec, err := c.Record()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.kv.Update(func(txn store.Txn) error {
		return store.Enqueue(txn, string(to.name()), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...))
	}); err != nil {
		n.t.Fatal(err)
	}
}

func wireLink(t *testing.T, l Link) [bundle.LinkSize]byte {
	t.Helper()
	b, err := l.bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestContactsOfOneAreIntroducedInAnEncryptedRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, c := line(t)
		defer w.stopAll()
		t.Logf("after %v", w.met(a, b, time.Hour))
		for _, x := range [][2]*node{{a, b}, {b, a}} {
			if by := x[0].status(x[1].name()).Introducer; by != c.name() {
				t.Errorf("introduced by %q", by)
			}
			if by := x[0].status(c.name()).Introducer; by != "" {
				t.Errorf("a person's contact was introduced by %q", by)
			}
		}
		// It is a contact like any other.
		a.rooms.join(lounge, a.name(), b.name())
		b.rooms.join(lounge, a.name(), b.name())
		talk(t, w, a, b, 3, time.Hour)
		talk(t, w, b, a, 3, time.Hour)
		time.Sleep(15 * time.Minute)
		for _, n := range []*node{a, b, c} {
			asked, followed := n.links()
			all, _ := n.contacts()
			if strangers := inside(n, func(e *Engine) int { return len(e.strangers) }); asked+followed+strangers != 0 || all != 2 {
				t.Errorf("%.4s: %d links, %d followed, %d strangers, %d contacts", n.name(), asked, followed, strangers, all)
			}
		}
	})
}

func TestNobodyIsIntroducedWithoutNeedOrIfOneOfTheThreeIsAgainstIt(t *testing.T) {
	measures(t)
	for _, x := range []struct {
		what      string
		set       func(a, b, c *node)
		encrypted bool
		meet      bool
	}{
		{"encrypted", func(a, b, c *node) {}, true, true},
		{"not encrypted", func(a, b, c *node) {}, false, true},
		{"not encrypted, all rooms", func(a, b, c *node) {
			for _, n := range []*node{a, b, c} {
				n.introductions = AllIntroductions
			}
		}, false, true},
		{"a off", func(a, b, c *node) { a.introductions = NoIntroductions }, true, false},
		{"b off", func(a, b, c *node) { b.introductions = NoIntroductions }, true, false},
		{"c off", func(a, b, c *node) { c.introductions = NoIntroductions }, true, false},
	} {
		t.Run(x.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				defer w.stopAll()
				ns := acquaintances(w, 3)
				a, b, c := ns[0], ns[1], ns[2]
				x.set(a, b, c)
				for _, n := range ns {
					n.start()
				}
				w.contact(a, c)
				w.contact(c, b)
				gather(cellar, a, b, c)
				for _, n := range ns {
					n.rooms.mu.Lock()
					n.rooms.encrypted[cellar] = x.encrypted
					n.rooms.mu.Unlock()
				}
				if x.meet {
					w.met(a, b, time.Hour)
				} else {
					w.noContact(a, b, 15*time.Minute) // twice what the one with the greater name waits
				}
			})
		})
	}
}

// The one with the greater name asks if the other one does not: it may have lost a contact that this one still has.
func TestWhoLostAContactIsIntroducedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, _ := line(t)
		defer w.stopAll()
		w.met(a, b, time.Hour)
		first := b.status(a.name()).Number
		// As after a backup that did not have it: no person said no.
		b.stop()
		if err := b.kv.Update(func(txn store.Txn) error { return erase(txn, a.name(), false) }); err != nil {
			t.Fatal(err)
		}
		b.start()
		took := w.until(6*time.Hour, "another introduction", func() bool {
			x, y := a.status(b.name()), b.status(a.name())
			return y.State == Active && x.Number == y.Number && x.Number != first
		})
		if took < 2*inside(b, (*Engine).patience) {
			t.Errorf("the greater name asked after %v", took)
		}
		a.rooms.join(lounge, a.name(), b.name())
		b.rooms.join(lounge, a.name(), b.name())
		talk(t, w, a, b, 2, time.Hour)
	})
}

func TestAForgottenContactIsNotIntroducedAgain(t *testing.T) {
	measures(t)
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, b, _ := line(t)
				defer w.stopAll()
				w.met(a, b, time.Hour)
				x, y := a, b
				if i == 1 {
					x, y = b, a
				}
				if err := x.engine.Forget(string(y.name())); err != nil {
					t.Fatal(err)
				}
				x.stop()
				x.start()
				time.Sleep(15 * time.Minute)
				if got := x.state(y.name()); got != "" {
					t.Errorf("who was forgotten is %v", got)
				}
				// The other one loses it too, and asks; and the first does not want.
				if err := y.kv.Update(func(txn store.Txn) error { return erase(txn, x.name(), false) }); err != nil {
					t.Fatal(err)
				}
				y.stop()
				y.start()
				w.noContact(a, b, 15*time.Minute)
				// A link of a person's makes it good.
				w.contact(y, x)
				if by := x.status(y.name()).Introducer; by != "" {
					t.Errorf("a person's link counts as an introduction of %q", by)
				}
				if inside(x, func(e *Engine) bool { return e.shunned[y.name()] }) {
					t.Error("who was taken back is still forgotten")
				}
			})
		})
	}
}

// A person can say no before there is a contact, by the server's name or the link's number.
func TestAnIntroductionUnderWayCanBeForgotten(t *testing.T) {
	measures(t)
	for _, byName := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 2)
			defer w.stopAll()
			ns := acquaintances(w, 3)
			a, b, c := ns[0], ns[1], ns[2]
			b.introductions = NoIntroductions
			for _, n := range ns {
				n.start()
			}
			w.contact(a, c)
			w.contact(c, b)
			gather(cellar, a, b, c)
			w.until(time.Hour, "an introduction asked for", func() bool { return a.status(b.name()).State == Inviting })
			st := a.status(b.name())
			if st.Introducer != c.name() || st.ID == "" {
				t.Errorf("%+v", st)
			}
			name := st.ID
			if byName {
				name = string(b.name())
			}
			if err := a.engine.Forget(name); err != nil {
				t.Fatal(err)
			}
			b.stop()
			b.introductions = NeededIntroductions
			b.start()
			w.noContact(a, b, 15*time.Minute)
			if got := a.state(b.name()); got != "" {
				t.Errorf("who was forgotten is %v", got)
			}
			if err := a.engine.Forget(string(b.name())); !errors.Is(err, ErrNoContact) {
				t.Errorf("forgotten again: %v", err)
			}
		})
	}
}

// One that is asked and does nothing: the next contact of both is asked.
func TestAnotherContactIsAskedIfOneDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.stopAll()
		ns := acquaintances(w, 4)
		a, b := ns[0], ns[1]
		ns[2].introductions = NoIntroductions
		for _, n := range ns {
			n.start()
		}
		for _, c := range ns[2:] {
			w.contact(a, c)
			w.contact(c, b)
		}
		// Let the one that does nothing be asked first.
		gather("!first:x", a, b, ns[2])
		w.until(time.Hour, "a first try", func() bool { n, _ := a.links(); return n == 1 })
		gather(cellar, ns...)
		w.met(a, b, 10*time.Hour)
		if by := b.status(a.name()).Introducer; by != ns[3].name() {
			t.Errorf("introduced by %.4s", by)
		}
	})
}

func TestIntroducedContactsAreBounded(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.stopAll()
		ns := acquaintances(w, 6)
		hub := ns[5]
		a, b := ns[0], ns[4] // one that asks all others, one that all others ask
		a.maxIntroduced, b.maxIntroduced = 2, 2
		for _, n := range ns {
			n.start()
		}
		for _, n := range ns[:5] {
			w.contact(hub, n)
		}
		gather(cellar, ns...)
		count := func(n *node) int {
			_, k := n.contacts()
			return k
		}
		w.until(6*time.Hour, "the others' introductions", func() bool { return count(ns[1]) >= 2 && count(ns[2]) >= 2 && count(ns[3]) >= 2 })
		time.Sleep(30 * time.Minute)
		for i, n := range ns[:5] {
			t.Logf("%d: %d introduced", i, count(n))
		}
		if x, y := count(a), count(b); x > 2 || y > 2 || x+y == 0 {
			t.Errorf("%d and %d were introduced, not at most 2", x, y)
		}
	})
}

// All three die at drawn writes, and their store forgets: the two come together all the same, on one pair of streams.
func TestIntroductionsSurviveCrashes(t *testing.T) {
	for seed := range plays(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(seed), 21))
				w, a, b, c := line(t)
				defer w.stopAll()
				all := []*node{a, b, c}
				disks := map[*node]store.KV{a: a.kv, b: b.kv, c: c.kv}
				boot := func(n *node, crash bool) {
					n.stop()
					n.kv = disks[n]
					if crash {
						n.kv = &storetest.Mortal{KV: disks[n], Left: 1 + rng.IntN(25), After: rng.IntN(2) == 1}
					}
					if e, err := New(n.config()); err == nil {
						n.engine = e
					} else if errors.Is(err, storetest.ErrDied) {
						n.kv = disks[n]
						n.open()
					} else {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(context.Background())
					done := make(chan error, 1)
					go func() { done <- n.engine.Run(ctx) }()
					n.stop = func() { cancel(); <-done; n.stop = nil }
				}
				for range 12 {
					for _, n := range all {
						if rng.IntN(3) > 0 {
							boot(n, true)
						}
					}
					time.Sleep(time.Duration(1+rng.IntN(30)) * time.Second)
					if rng.IntN(8) == 0 {
						w.store(byte(rng.IntN(2))).set((*fakeStore).lose)
					}
				}
				for _, n := range all {
					boot(n, false)
				}
				w.met(a, b, 72*time.Hour)
				a.rooms.join(lounge, a.name(), b.name())
				b.rooms.join(lounge, a.name(), b.name())
				talk(t, w, a, b, 2, 6*time.Hour)
				talk(t, w, b, a, 2, 6*time.Hour)
				for _, s := range w.stores {
					if n := s.reused(); n != 0 {
						t.Errorf("%d indices were used for two contents", n)
					}
				}
			})
		})
	}
}

// Nothing of it makes a slot: the times of all transactions are those of a node that asks for nothing.
func TestIntroductionsChangeNoTime(t *testing.T) {
	measures(t)
	times := func(kind Introductions) (out []trace) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			defer w.stopAll()
			ns := acquaintances(w, 3)
			for _, n := range ns {
				n.introductions = kind
				n.start()
			}
			w.contact(ns[0], ns[2])
			w.contact(ns[2], ns[1])
			gather(cellar, ns...)
			time.Sleep(time.Until(playStart.Add(20 * time.Minute)))
			if met := ns[0].state(ns[1].name()) == Active; met != (kind != NoIntroductions) {
				t.Fatalf("contacts: %v", met)
			}
			ns[0].callsMu.Lock()
			defer ns[0].callsMu.Unlock()
			out = slices.Clone(ns[0].trace)
		})
		return out
	}
	x, y := times(NoIntroductions), times(NeededIntroductions)
	if len(x) == 0 || !slices.Equal(x, y) {
		t.Errorf("%d transactions without introductions, %d with, or at other times", len(x), len(y))
	}
}

func FuzzParseStranger(f *testing.F) {
	f.Add((&stranger{since: time.Unix(1e9, 0), tries: 3, next: time.Unix(1e9+1, 0), asked: map[onionid.Name]time.Time{testIdentity(1).Name: time.Unix(1e9, 0)}}).marshal())
	f.Add(introducerRow{day: 20000, brought: 3, passed: []onionid.Name{testIdentity(1).Name}}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if i, err := parseIntroducer(b); err == nil && !slices.Equal(i.marshal(), b) {
			t.Errorf("written otherwise: %+v", i)
		}
		s, err := parseStranger(b)
		if err != nil {
			return
		}
		again, err := parseStranger(s.marshal())
		if err != nil || again.tries != s.tries || !again.next.Equal(s.next) || len(again.asked) != len(s.asked) {
			t.Errorf("comes back as %+v, %v", again, err)
		}
	})
}
