// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// turnOnce takes two ends through one turn; it gives the boxes' blocks.
func turnOnce(t *testing.T, offerer, answerer *Pair, now time.Time) {
	t.Helper()
	block, next, err := offerer.Turn(now, true)
	if err != nil || block == nil || len(block) != blockHead+PublicSize {
		t.Fatalf("offer: %d bytes, %v", len(block), err)
	}
	*offerer = next
	if *answerer, _, err = answerer.Take(block, now); err != nil || answerer.peerKey == nil {
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
