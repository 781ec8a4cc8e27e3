// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var testStart = time.Unix(1_800_000_000, 0)

// testBox is a box as the mini-ends below write it.
type testBox struct {
	epoch     uint32
	index     uint64
	id        [IDSize]byte
	sealed    string
	message   int // 0: none
	eliciting bool
	head      testHead
}

// testHead is what a bundle's head carries of the ratchet, here in the clear.
type testHead struct {
	got   []Got
	floor map[uint32]uint64
	ended *Ended
	block []byte
}

// testEnd does with a Pair what package replicate does: state on disk before use, boxes kept until acknowledged.
type testEnd struct {
	pair    Pair
	unacked []*testBox
	opened  map[int]int // messages that came, and how often
	sent    int
	base    int // numbers of the messages
	owes    bool
	turns   int
}

// disk is a deep enough copy: pairs are values, boxes are not changed.
func (e *testEnd) clone(t rapid.TB) *testEnd {
	p, err := ParsePair(e.pair.Marshal())
	if err != nil {
		t.Fatalf("ParsePair: %v", err)
	}
	if !bytes.Equal(p.Marshal(), e.pair.Marshal()) || len(e.pair.Marshal()) > MaxPairSize {
		t.Fatal("another state came back")
	}
	c := *e
	c.pair, c.unacked, c.opened = p, slices.Clone(e.unacked), map[int]int{}
	for k, v := range e.opened {
		c.opened[k] = v
	}
	return &c
}

// write makes the next box, or nil if the process dies before the state is on disk.
func (e *testEnd) write(t rapid.TB, now time.Time, message, dies bool) *testBox {
	settled := !slices.ContainsFunc(e.unacked, func(b *testBox) bool { return b.epoch != e.pair.Epoch() })
	block, next, err := e.pair.Turn(now, settled)
	if err != nil {
		t.Fatalf("Turn: %v", err)
	}
	b := &testBox{eliciting: message || block != nil}
	h := testHead{floor: map[uint32]uint64{}, block: block}
	first, before, both := e.pair.Got()
	h.got = append(h.got, first)
	if both {
		h.got = append(h.got, before)
	}
	if en, ok := e.pair.Ended(); ok {
		h.ended = &en
		h.floor[en.Epoch] = en.Count
	}
	h.floor[e.pair.Epoch()] = e.pair.Index()
	for _, u := range e.unacked {
		h.floor[u.epoch] = min(h.floor[u.epoch], u.index)
	}
	slot, next := next.Next()
	b.head, b.epoch, b.index, b.id = h, slot.Epoch, slot.Index, slot.ID
	if message {
		b.message = e.base + e.sent + 1
	}
	b.sealed = string(slot.Seal(fmt.Append(nil, b.message)))
	if dies {
		return nil
	}
	e.pair = next
	if message {
		e.sent++
	}
	e.unacked = append(e.unacked, b)
	e.owes = false
	return b
}

// read opens a box that lies in the store, whatever it is.
func (e *testEnd) read(t rapid.TB, b *testBox, now time.Time, dies bool) {
	r := e.pair.Receiver(b.epoch)
	if r == nil {
		return
	}
	want := r.Expected(100)
	at := slices.IndexFunc(want, func(s Slot) bool { return s.ID == b.id })
	if at < 0 {
		return
	}
	plain, err := want[at].Open([]byte(b.sealed))
	if err != nil || string(plain) != fmt.Sprint(b.message) {
		t.Fatalf("box %d of epoch %d: %q, %v", b.index, b.epoch, plain, err)
	}
	if dies {
		return
	}
	for _, g := range b.head.got {
		e.unacked = slices.DeleteFunc(e.unacked, func(u *testBox) bool {
			j := u.index - g.Next
			return u.epoch == g.Epoch && (u.index < g.Next || j < 256 && g.Seen[j/8]>>(j%8)&1 == 1)
		})
	}
	p := e.pair
	turned := false
	if b.head.block != nil {
		q, did, err := p.Take(b.head.block, now)
		if err != nil && !errors.Is(err, ErrBlock) {
			t.Fatalf("Take: %v", err)
		}
		p, turned = q, did
	}
	did, err := p.Opened(b.epoch, b.index)
	if err != nil {
		t.Fatalf("Opened: %v", err)
	}
	if turned || did {
		e.turns++
	}
	for epoch, floor := range b.head.floor {
		if r := p.Receiver(epoch); r != nil {
			if next, _ := r.Ack(); floor > next {
				if err := p.Skip(epoch, floor); err != nil {
					t.Fatalf("Skip: %v", err)
				}
			}
		}
	}
	if en := b.head.ended; en != nil {
		p.Close(en.Epoch, en.Count)
	}
	e.pair = p
	if b.message != 0 {
		e.opened[b.message]++
	}
	e.owes = e.owes || b.eliciting
}

// TestEpochsTurnUnderAnyLossOrderAndCrash plays two ends over a store that loses, doubles and reorders, with a crash
// between any two steps; and both turn, lose nothing and use no index twice.
func TestEpochsTurnUnderAnyLossOrderAndCrash(t *testing.T) {
	total := 0
	rapid.Check(t, func(t *rapid.T) {
		now := testStart
		root := testRoot(rapid.String().Draw(t, "root"))
		first := rapid.SampledFrom([]uint32{0, 1, 1_800_000_000}).Draw(t, "epoch")
		a := &testEnd{pair: NewPair(root, first, true, now), opened: map[int]int{}, base: 0}
		b := &testEnd{pair: NewPair(root, first, false, now), opened: map[int]int{}, base: 1 << 20}
		var store []*testBox
		contents := map[[IDSize]byte]string{}
		put := func(x *testBox) {
			if x == nil {
				return
			}
			if old, ok := contents[x.id]; ok && old != x.sealed {
				t.Fatal("an id was used for two contents")
			}
			contents[x.id] = x.sealed
			store = append(store, x)
		}
		ends := []*testEnd{a, b}
		step := func(t *rapid.T) {
			i := rapid.IntRange(0, 1).Draw(t, "end")
			e := ends[i]
			now = now.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "seconds")) * time.Second)
			dies := rapid.IntRange(0, 9).Draw(t, "dies") == 0
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				put(e.write(t, now, true, dies))
			case 1:
				if e.owes {
					put(e.write(t, now, false, dies))
				}
			case 2: // rewrite
				if len(e.unacked) > 0 {
					put(e.unacked[rapid.IntRange(0, len(e.unacked)-1).Draw(t, "which")])
				}
			case 3, 4:
				if len(store) > 0 {
					e.read(t, store[rapid.IntRange(max(0, len(store)-30), len(store)-1).Draw(t, "box")], now, dies)
				}
			case 5: // restart, and the store loses what it has
				ends[i] = e.clone(t)
				if rapid.IntRange(0, 5).Draw(t, "loses") == 0 {
					store = nil
				}
			}
			if n := len(ends[i].pair.Receivers()); n > 2 {
				t.Fatalf("%d chains", n)
			}
		}
		for range rapid.IntRange(50, 400).Draw(t, "steps") {
			step(t)
		}
		// All is well again: what is unacknowledged is written until it is not.
		for range 40 {
			for i, e := range ends {
				for _, u := range e.unacked {
					put(u)
				}
				for _, x := range store {
					ends[1-i].read(t, x, now, false)
				}
				if ends[1-i].owes {
					put(ends[1-i].write(t, now, false, false))
				}
			}
		}
		for i, e := range ends {
			for n := range ends[1-i].sent {
				if e.opened[ends[1-i].base+n+1] != 1 {
					t.Fatalf("message %d came %d times", n, e.opened[ends[1-i].base+n+1])
				}
			}
			for _, u := range e.unacked {
				if u.eliciting {
					t.Fatalf("box %d of epoch %d is never acknowledged", u.index, u.epoch)
				}
			}
			total += e.turns
		}
		// The next day's conversation turns on: the two are in step.
		was := ends[0].pair.Epoch()
		for range 12 {
			now = now.Add(13 * time.Hour)
			for i, e := range ends {
				x := e.write(t, now, true, false)
				put(x)
				for _, u := range e.unacked {
					ends[1-i].read(t, u, now, false)
				}
			}
		}
		if x, y := ends[0].pair.Epoch(), ends[1].pair.Epoch(); x < was+2 || max(x, y)-min(x, y) > 1 {
			t.Fatalf("from epoch %d they came to %d and %d", was, x, y)
		}
	})
	if total == 0 {
		t.Error("no epoch turned in any play")
	}
}

// turnOnce takes two ends through one turn; it gives the boxes' blocks.
func turnOnce(t *testing.T, offerer, answerer *Pair, now time.Time) {
	t.Helper()
	block, next, err := offerer.Turn(now, true)
	if err != nil || block == nil || len(block) != MaxBlockSize {
		t.Fatalf("offer: %d bytes, %v", len(block), err)
	}
	*offerer = next
	if *answerer, _, err = answerer.Take(block, now); err != nil || !answerer.Turning() {
		t.Fatal(err)
	}
	if block, next, err = answerer.Turn(now, true); err != nil || len(block) != blockHead+CiphertextSize {
		t.Fatalf("answer: %d bytes, %v", len(block), err)
	}
	*answerer = next
	var turned bool
	if *offerer, turned, err = offerer.Take(block, now); err != nil || !turned {
		t.Fatal(turned, err)
	}
	slot, next := offerer.Next()
	*offerer = next
	if got := answerer.Receiver(slot.Epoch).Expected(1)[0]; got != slot {
		t.Fatal("the ends have other keys")
	}
	if turned, err := answerer.Opened(slot.Epoch, slot.Index); err != nil || !turned || answerer.Epoch() != offerer.Epoch() {
		t.Fatal(turned, err)
	}
	for _, p := range []*Pair{offerer, answerer} {
		en, ok := p.Ended()
		if !ok {
			t.Fatal("what was sent before is not told")
		}
		other := offerer
		if p == offerer {
			other = answerer
		}
		if !other.Close(en.Epoch, en.Count) {
			t.Fatalf("%d boxes of epoch %d were all opened", en.Count, en.Epoch)
		}
	}
}

func TestOneTurnByAnother(t *testing.T) {
	now := testStart
	a, b := NewPair(testRoot("turns"), 0, true, now), NewPair(testRoot("turns"), 0, false, now)
	for epoch := range uint32(5) {
		if block, _, err := a.Turn(now, true); block != nil || err != nil {
			t.Fatal("an idle epoch turns")
		}
		// A box each way, so that there was traffic.
		for _, d := range []struct{ from, to *Pair }{{&a, &b}, {&b, &a}} {
			slot, next := d.from.Next()
			*d.from = next
			if _, err := d.to.Opened(slot.Epoch, slot.Index); err != nil {
				t.Fatal(err)
			}
		}
		if block, _, _ := a.Turn(now.Add(EpochLife-time.Minute), true); block != nil {
			t.Fatal("too early")
		}
		now = now.Add(EpochLife)
		offerer, answerer := &a, &b
		if epoch%2 == 1 {
			offerer, answerer = &b, &a
		}
		if block, _, _ := offerer.Turn(now, false); block != nil {
			t.Fatal("it turns though old boxes are not acknowledged")
		}
		if block, _, _ := answerer.Turn(now, true); block != nil {
			t.Fatal("both offer")
		}
		turnOnce(t, offerer, answerer, now)
		if a.Epoch() != epoch+1 || b.Newest() != epoch+1 || len(a.Receivers()) != 1 || len(b.Receivers()) != 1 {
			t.Fatalf("epochs %d and %d", a.Epoch(), b.Newest())
		}
	}
}

func TestABlockOutOfPlaceChangesNothing(t *testing.T) {
	now := testStart
	a, b := NewPair(testRoot("x"), 4, true, now), NewPair(testRoot("x"), 4, false, now)
	_, a = a.Next()
	now = now.Add(EpochLife)
	offer, a2, err := a.Turn(now, true)
	if err != nil {
		t.Fatal(err)
	}
	b2, _, err := b.Take(offer, now)
	if err != nil {
		t.Fatal(err)
	}
	answer, b3, err := b2.Turn(now, true)
	if err != nil {
		t.Fatal(err)
	}
	a3, _, err := a2.Take(answer, now)
	if err != nil {
		t.Fatal(err)
	}
	later := bytes.Clone(offer)
	later[4]++
	noKey := append(bytes.Clone(offer[:blockHead]), bytes.Repeat([]byte{0xff}, PublicSize)...)
	for what, c := range map[string]struct {
		p     Pair
		block []byte
	}{
		"nothing": {b, nil}, "short": {b, offer[:100]}, "long": {b, append(bytes.Clone(offer), 0)}, "a later epoch": {b, later}, "an earlier one": {a3, answer},
		"our own offer": {a2, offer}, "a second offer": {b2, offer}, "after the answer": {b3, offer}, "an answer to nothing": {b, answer}, "no key": {b, noKey},
		"unknown kind": {b, append([]byte{9}, offer[1:]...)},
	} {
		before := c.p.Marshal()
		got, turned, err := c.p.Take(c.block, now)
		if !errors.Is(err, ErrBlock) || turned || !bytes.Equal(got.Marshal(), before) {
			t.Errorf("%s: %v, turned %v", what, err, turned)
		}
	}
	// An answer that was changed leads elsewhere: the other end's boxes do not open, ours are not read.
	bent := bytes.Clone(answer)
	bent[600] ^= 1
	if c, _, err := a2.Take(bent, now); err == nil {
		if s, _ := c.Next(); s == b3.Receiver(5).Expected(1)[0] {
			t.Error("a changed answer leads to the same keys")
		}
	}
	if s, _ := a3.Next(); s != b3.Receiver(5).Expected(1)[0] {
		t.Error("positive control")
	}
}

func TestARecoveryKeepsTheOldStreamsUntilItIsUsed(t *testing.T) {
	now := testStart
	a, b := NewPair(testRoot("r"), 0, true, now), NewPair(testRoot("r"), 0, false, now)
	unread, _ := a.Next() // a box that b has not read when a is lost
	secret := testRoot("recovery")
	offer, err := NewOffer()
	if err != nil {
		t.Fatal(err)
	}
	if offer, err = ParseOffer(offer.Bytes()); err != nil {
		t.Fatal(err)
	}
	public, err := offer.Public()
	if err != nil {
		t.Fatal(err)
	}
	epoch := uint32(now.Unix())
	ct, root, err := AnswerOffer(secret, epoch, true, public)
	if err != nil {
		t.Fatal(err)
	}
	got, err := offer.Root(secret, epoch, true, ct)
	if err != nil || got != root {
		t.Fatal("the roots differ", err)
	}
	for what, f := range map[string]func() (Root, error){
		"secret": func() (Root, error) { return offer.Root(testRoot("other"), epoch, true, ct) },
		"epoch":  func() (Root, error) { return offer.Root(secret, epoch+1, true, ct) },
		"who":    func() (Root, error) { return offer.Root(secret, epoch, false, ct) },
	} {
		if other, err := f(); err == nil && other == root {
			t.Errorf("another %s gives the same root", what)
		}
	}
	b = b.Rescued(root, epoch, now)
	if b.Epoch() != 0 || b.Newest() != epoch {
		t.Fatalf("it sends in %d", b.Epoch())
	}
	if b, err = ParsePair(b.Marshal()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Opened(unread.Epoch, unread.Index); err != nil {
		t.Errorf("what was written before the loss: %v", err)
	}
	again := b.Rescued(testRoot("again"), epoch+1, now) // it is lost once more before it said anything
	if r := again.Receiver(0); r == nil {
		t.Error("the chain that was in use is forgotten")
	}
	a = NewPair(root, epoch, true, now)
	slot, a := a.Next()
	if turned, err := b.Opened(slot.Epoch, slot.Index); err != nil || !turned || b.Epoch() != epoch {
		t.Fatal(turned, err)
	}
	// The chain of before, which a has lost, holds up no turn.
	now = now.Add(EpochLife)
	if epoch%2 == 0 {
		turnOnce2(t, &a, &b, now)
	} else {
		turnOnce2(t, &b, &a, now)
	}
}

// turnOnce2 is a turn of which only the epochs are looked at.
func turnOnce2(t *testing.T, offerer, answerer *Pair, now time.Time) {
	t.Helper()
	offer, o, err := offerer.Turn(now, true)
	if err != nil || offer == nil {
		t.Fatalf("offer: %v", err)
	}
	n, _, err := answerer.Take(offer, now)
	if err != nil {
		t.Fatal(err)
	}
	answer, n, err := n.Turn(now, true)
	if err != nil || answer == nil {
		t.Fatalf("answer: %v", err)
	}
	if o, _, err = o.Take(answer, now); err != nil || o.Epoch() != n.Newest() {
		t.Fatal(err)
	}
}

// TestAThiefReadsOneEpochMoreInATurnOnly steals an end's bytes at every step of a turn, and listens from then on: he has
// the blocks, and tries every 32 bytes as chain key, as carry, and as the seed of the offered key.
func TestAThiefReadsOneEpochMoreInATurnOnly(t *testing.T) {
	now := testStart
	a, b := NewPair(testRoot("theft"), 0, true, now), NewPair(testRoot("theft"), 0, false, now)
	_, a = a.Next()
	type loot struct {
		what  string
		state []byte
		reads uint32 // up to this epoch
	}
	var stolen []loot
	take := func(what string, p Pair, reads uint32) {
		stolen = append(stolen, loot{what: what, state: p.Marshal(), reads: reads})
	}
	var blocks [][]byte
	turn := func(offerer, answerer *Pair, e uint32) {
		now = now.Add(EpochLife)
		take(fmt.Sprintf("offerer of %d, idle", e), *offerer, e)
		take(fmt.Sprintf("answerer of %d, idle", e), *answerer, e)
		offer, next, err := offerer.Turn(now, true)
		if err != nil || offer == nil {
			t.Fatal(err)
		}
		*offerer = next
		take(fmt.Sprintf("offerer of %d, offered", e), *offerer, e+1)
		if *answerer, _, err = answerer.Take(offer, now); err != nil {
			t.Fatal(err)
		}
		take(fmt.Sprintf("answerer of %d, asked", e), *answerer, e)
		answer, next, err := answerer.Turn(now, true)
		if err != nil || answer == nil {
			t.Fatal(err)
		}
		*answerer = next
		take(fmt.Sprintf("answerer of %d, answered", e), *answerer, e+1)
		if *offerer, _, err = offerer.Take(answer, now); err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, offer, answer)
		for _, d := range []struct{ from, to *Pair }{{offerer, answerer}, {answerer, offerer}} {
			slot, next := d.from.Next()
			*d.from = next
			if _, err := d.to.Opened(slot.Epoch, slot.Index); err != nil {
				t.Fatal(err)
			}
			if en, ok := d.from.Ended(); ok {
				if err := d.to.Skip(en.Epoch, en.Count); err != nil {
					t.Fatal(err)
				}
				d.to.Close(en.Epoch, en.Count)
			}
		}
	}
	targets := map[uint32][IDSize]byte{}
	target := func(p Pair) { // some box still to come in the epoch
		for range 5 {
			_, p = p.Next()
		}
		s, _ := p.Next()
		targets[s.Epoch] = s.ID
	}
	target(a)
	turn(&a, &b, 0)
	target(a)
	turn(&b, &a, 1)
	target(a)
	for _, l := range stolen {
		var roots []Root
		names := map[[IDSize]byte]bool{}
		follow := func(k secret) {
			for range 12 {
				s := k.slot()
				names[slotOf(0, 0, &s).ID] = true
				k = k.next()
			}
		}
		for i := 0; i+32 <= len(l.state); i++ {
			follow(secret(l.state[i:]))
			s := seed(l.state[i:])
			public, err := s.public()
			if err != nil {
				continue
			}
			for j := 0; j < len(blocks); j += 2 {
				_, epoch, offered, _ := readBlock(blocks[j])
				if !bytes.Equal(offered, public) {
					continue
				}
				_, _, ct, _ := readBlock(blocks[j+1])
				ss, err := s.decapsulate(ct, epoch)
				if err != nil {
					t.Fatal(err)
				}
				for k := 0; k+32 <= len(l.state); k++ {
					carry := [32]byte(l.state[k:])
					for _, who := range []bool{true, false} {
						roots = append(roots, nextRoot(&carry, ss, epoch, who, offered, ct))
					}
				}
				for _, r := range roots {
					for _, who := range []bool{true, false} {
						follow(r.chain(epoch, who))
					}
				}
			}
		}
		for epoch, id := range targets {
			began := uint32(0)
			if strings.Contains(l.what, "of 1") {
				began = 1
			}
			want := epoch >= began && epoch <= l.reads
			if epoch < began {
				continue // forgotten, or what was skipped: TestOpenedBoxesStaySecret
			}
			if names[id] != want {
				t.Errorf("%s: he links boxes of epoch %d: %v", l.what, epoch, names[id])
			}
		}
	}
}

func TestLogsDoNotShowAPairsSecrets(t *testing.T) {
	now := testStart
	p := NewPair(testRoot("log"), 0, true, now)
	_, p = p.Next()
	_, p, err := p.Turn(now.Add(EpochLife), true)
	if err != nil {
		t.Fatal(err)
	}
	offer, err := NewOffer()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "pair", p, "offer", offer, "seed", *p.seed)
	fmt.Fprintf(&out, "%v %+v %v", p, offer, *p.seed)
	for _, want := range []string{"[pair]", "[offer]", "[seed]"} {
		if strings.Count(out.String(), want) != 2 {
			t.Errorf("%s is not hidden: %s", want, out.String())
		}
	}
}

func FuzzParsePair(f *testing.F) {
	now := testStart
	a, b := NewPair(testRoot("f"), 0, true, now), NewPair(testRoot("f"), 0, false, now)
	_, a = a.Next()
	now = now.Add(EpochLife)
	f.Add(a.Marshal())
	offer, a, err := a.Turn(now, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Marshal())
	if b, _, err = b.Take(offer, now); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Marshal())
	answer, b, err := b.Turn(now, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Marshal())
	if a, _, err = a.Take(answer, now); err != nil {
		f.Fatal(err)
	}
	f.Add(a.Marshal())
	f.Add(b.Rescued(testRoot("g"), 99, now).Marshal())
	f.Add([]byte{stateVersion, kindPair})
	f.Fuzz(func(t *testing.T, state []byte) {
		p, err := ParsePair(state)
		if err != nil {
			if !errors.Is(err, ErrState) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.Marshal(), state) {
			t.Fatal("read, but not its own bytes")
		}
		for _, r := range p.Receivers() {
			if e := r.Expected(3); len(e) > 0 {
				if _, err := p.Opened(r.Epoch(), e[len(e)-1].Index); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := ParsePair(p.Marshal()); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzTakeBlock(f *testing.F) {
	now := testStart
	a := NewPair(testRoot("f"), 0, true, now)
	_, a = a.Next()
	offer, a, err := a.Turn(now.Add(EpochLife), true)
	if err != nil {
		f.Fatal(err)
	}
	b := NewPair(testRoot("f"), 0, false, now)
	b2, _, err := b.Take(offer, now)
	if err != nil {
		f.Fatal(err)
	}
	answer, _, err := b2.Turn(now, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(offer)
	f.Add(answer)
	f.Fuzz(func(t *testing.T, block []byte) {
		for _, p := range []Pair{a, b} {
			q, _, err := p.Take(block, now)
			if err != nil && !errors.Is(err, ErrBlock) {
				t.Fatal(err)
			}
			if _, err := ParsePair(q.Marshal()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
