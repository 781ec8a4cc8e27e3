// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
)

// hider is an engine whose digest lacks some boxes.
type hider struct {
	mailboxstore.Engine
	hides func(mailbox.Handle) bool
}

func (h hider) Handles(from, to uint64, fn func(mailbox.Handle) bool) error {
	return h.Engine.Handles(from, to, func(x mailbox.Handle) bool { return h.hides(x) || fn(x) })
}

// twoFaced is a mailbox as it shows itself to one node, and as it shows itself to another: the same boxes under the
// same name, but not the same digest (hides), or not the same keys.
func twoFaced(t *testing.T, hides func(mailbox.Handle) bool, sameKeys bool) (one, other *mailboxtest.Mailbox) {
	t.Helper()
	shared := mailboxstore.NewMemory(24*time.Hour, 1<<40)
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	dirs := [2]string{t.TempDir(), t.TempDir()}
	face := func(i int, e mailboxstore.Engine) *mailboxtest.Mailbox {
		return mailboxtest.New(t, mailboxtest.WithConfig(func(c *mailboxstore.Config) {
			c.Onion, c.Bucket, c.Engine, c.Dir = key, time.Second, e, dirs[i]
		}))
	}
	one = face(0, shared)
	copyTo := func(name string) {
		b, err := os.ReadFile(filepath.Join(dirs[0], name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dirs[1], name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dirs[1], name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyTo("signing.seed")
	if sameKeys {
		files, err := filepath.Glob(filepath.Join(dirs[0], "keys", "*.key"))
		if err != nil || len(files) == 0 {
			t.Fatal("no request keys", err)
		}
		for _, f := range files {
			copyTo(filepath.Join("keys", filepath.Base(f)))
		}
	}
	return one, face(1, hider{shared, hides})
}

func nothing(mailbox.Handle) bool { return false }

// witnesses is a pair of nodes that both have the mailbox, which each sees its own way.
func witnesses(t *testing.T, one, other *mailboxtest.Mailbox) (*world, *node, *node) {
	w := newWorld(t, 1)
	p := fast()
	p.Heads = 20 * time.Second
	a, b := realNode(t, w, 1, one, p), realNode(t, w, 2, other, p)
	w.contact(a, b)
	return w, a, b
}

func lies(t *testing.T, n *node) []Lie {
	t.Helper()
	ls, err := n.engine.Lies()
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

// A witness goes out every Heads (20 s here, an hour at balanced) on average, from each side; then the testimony and
// the answer to it take a delivery each.
const detection = 15 * 20 * time.Second

func TestAStoreThatHidesBoxesFromOneReaderIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := twoFaced(t, func(h mailbox.Handle) bool { return h[0] < 64 }, true)
		w, a, b := witnesses(t, one, other)
		defer w.stopAll()
		found := func(n *node) func() bool { return func() bool { return len(lies(t, n)) == 1 } }
		took := w.until(detection, "the proof", func() bool { return found(a)() || found(b)() })
		// A quarter of what says so to the other one is hidden from it too, and is found as unlisted boxes are.
		both := took + w.until(2*detection, "both have the proof", func() bool { return found(a)() && found(b)() })
		t.Logf("found after %v, by both after %v", took, both)
		for _, n := range []*node{a, b} {
			l := lies(t, n)[0]
			if l.Store != one.Address() || l.Kind != 0 || l.Span == 0 {
				t.Errorf("the proof is about %+v", l.Lie)
			}
			// Anybody can check it, with nothing but the address.
			if again, err := mailbox.Prove(one.Address(), l.Proof[0], l.Proof[1]); err != nil || again != l.Lie {
				t.Errorf("the proof does not hold: %v", err)
			}
			if s := n.engine.Stores(); len(s) != 1 || !bytes.Contains([]byte(s[0].Problem), []byte("different things")) {
				t.Errorf("the status says %+v", s)
			}
		}
		// It is durable.
		a.stop()
		startReal(t, a, one)
		if len(lies(t, a)) != 1 || a.engine.Stores()[0].Problem == "" {
			t.Error("the proof is forgotten")
		}
	})
}

func TestAStoreWithAKeyForEachReaderIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := twoFaced(t, nothing, false)
		w, a, b := witnesses(t, one, other)
		defer w.stopAll()
		w.until(detection, "both have the proof", func() bool { return len(lies(t, a)) == 1 && len(lies(t, b)) == 1 })
		if l := lies(t, a)[0]; l.Kind != mailbox.ClaimRequest || l.Epoch != mailbox.Epoch(time.Now()) {
			t.Errorf("the proof is about %+v", l.Lie)
		}
	})
}

// No proof against an honest mailbox, though all spans are compared, over restarts of it and of the nodes.
func TestAnHonestStoreIsNotAccused(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		box, w, a, b := realPair(t)
		defer w.stopAll()
		for range 3 {
			talk(t, w, a, b, 5, 10*time.Minute)
			b.stop()
			time.Sleep(11 * time.Minute) // it reads pages of higher levels afterwards
			startReal(t, b, box)
			time.Sleep(5 * time.Minute)
		}
		w.stopAll()
		same := 0
		ha, hb := &a.engine.depots[box.Address()].heard, &b.engine.depots[box.Address()].heard
		for i := range ha.spans {
			x, ok1 := ha.spanHash(i)
			y, ok2 := hb.spanHash(i)
			if ok1 && ok2 && x != y {
				t.Errorf("span %d differs", i)
			} else if ok1 && ok2 {
				same++
			}
		}
		if same < 3 {
			t.Errorf("only %d spans could be compared", same)
		}
		if len(lies(t, a))+len(lies(t, b)) != 0 {
			t.Error("it is accused")
		}
		for _, n := range []*node{a, b} {
			for _, c := range n.engine.contacts {
				if len(c.shown) != 0 {
					t.Error("something was shown")
				}
			}
		}
	})
}

// A contact cannot make a node accuse an honest mailbox, nor learn by asking which mailboxes it knows.
func TestAContactProvesNothingAgainstAnHonestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box, w, a, b := realPair(t)
		time.Sleep(5 * time.Minute)
		w.stopAll()
		e := a.engine
		c := e.contacts[b.name()]
		st := e.depots[box.Address()]
		var page mailbox.Testimony
		for i := range st.heard.spans {
			if _, ok := st.heard.spanHash(i); ok {
				page = st.heard.ofSpan(i)
			}
		}
		if len(page.Pages) == 0 {
			t.Fatal("nothing was read")
		}
		stranger := mailbox.Address{Onion: a.name()} // a key, but no mailbox that b knows of
		mustRecord := func(r bundle.Record, err error) []byte {
			if err != nil {
				t.Fatal(err)
			}
			return r.Data
		}
		forged := mailbox.Testimony{Descriptor: page.Descriptor}
		for _, p := range page.Pages {
			p = bytes.Clone(p)
			p[len(p)-1] ^= 1
			forged.Pages = append(forged.Pages, p)
		}
		for name, tm := range map[string]bundle.Testimony{
			"the same":      {Store: box.Address(), Testimony: page},
			"forged":        {Store: box.Address(), Testimony: forged},
			"half":          {Store: box.Address(), Testimony: mailbox.Testimony{Descriptor: page.Descriptor, Pages: page.Pages[:len(page.Pages)/2]}},
			"other mailbox": {Store: stranger, Testimony: page},
		} {
			eff, err := e.takeTestimony(c, mustRecord(tm.Record()))
			if err != nil && !errors.Is(err, errRefuse) || eff.write != nil || st.heard.lie != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// A wrong hash is answered with a testimony, once; about a mailbox that is not shared, never.
		wrong := bundle.Witness{Claims: []mailbox.Claim{{Kind: mailbox.ClaimRequest, Epoch: mailbox.Epoch(time.Now())}}}
		for _, x := range []struct {
			of   mailbox.Address
			want bool
		}{{stranger, false}, {box.Address(), true}, {box.Address(), false}} {
			wrong.Store = x.of
			eff, err := e.compareWitness(c, mustRecord(wrong.Record()))
			if err != nil || (eff.write != nil) != x.want {
				t.Errorf("answered: %v, want %v (%v)", eff.write != nil, x.want, err)
			}
			if eff.write != nil {
				if err := e.kv.Update(eff.write); err != nil {
					t.Fatal(err)
				}
				eff.apply()
			}
		}
	})
}

func TestWhatIsHeardOfAMailboxIsBounded(t *testing.T) {
	var h heard
	page := mailbox.Page{Parts: 1, Handles: make([]mailbox.Handle, 1000)}
	for i := range uint64(3 * witnessSpans * mailbox.WitnessSpan) {
		page.Index = i
		h.hearPage(page)
	}
	cost := 0
	for _, ps := range h.spans {
		for _, p := range ps {
			cost += pageCost(p)
		}
	}
	if h.bytes != cost || cost > witnessBytes+mailbox.WitnessSpan*pageCost(page) || len(h.spans) > witnessSpans {
		t.Errorf("%d bytes (counted %d), %d spans", cost, h.bytes, len(h.spans))
	}
	// A larger page takes the place of those within it, and its own parts do not push each other out.
	h = heard{}
	for i := range uint64(60) {
		h.hearPage(mailbox.Page{PageAddr: mailbox.PageAddr{Index: i}, Parts: 1})
	}
	level := uint8(1)
	for mailbox.LevelSpan(level) != mailbox.WitnessSpan {
		level++
	}
	for part := range uint16(2) {
		h.hearPage(mailbox.Page{PageAddr: mailbox.PageAddr{Level: level, Part: part}, Parts: 2, Handles: []mailbox.Handle{{byte(part)}}})
	}
	if got, ok := mailbox.SpanHandles(0, h.spans[0]); !ok || len(got) != 2 || h.bytes != 2*(128+8) {
		t.Errorf("%d handles, %v; %d bytes", len(got), ok, h.bytes)
	}
	h.hearPage(mailbox.Page{PageAddr: mailbox.PageAddr{Level: level}, Parts: 2})
	h.hearPage(mailbox.Page{PageAddr: mailbox.PageAddr{Index: 5}, Parts: 1})
	if len(h.spans[0]) != 2 {
		t.Error("what is there already was kept again")
	}
}

func FuzzParseLie(f *testing.F) {
	f.Add([]byte{rowVersion, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseLie(b); err != nil && !errors.Is(err, ErrRow) {
			t.Fatal(err)
		}
	})
}
