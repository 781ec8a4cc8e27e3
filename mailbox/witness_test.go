// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/crypto/sealed"
	"tarn/crypto/token"
)

// spanLevels are the levels whose pages lie within one span.
func spanLevels() (out []uint8) {
	for l := range uint8(Levels) {
		if LevelSpan(l) <= WitnessSpan {
			out = append(out, l)
		}
	}
	return out
}

// readSpan is what a reader holds of a span who reads it in pages of levels drawn by lot; has is what is in each bucket.
func (s testStore) readSpan(t *rapid.T, d Descriptor, index uint64, has map[uint64][]Handle) (pages []Page, raw [][]byte) {
	for b := index * WitnessSpan; b < (index+1)*WitnessSpan; {
		var fit []uint8
		for _, l := range spanLevels() {
			if b%LevelSpan(l) == 0 {
				fit = append(fit, l)
			}
		}
		l := rapid.SampledFrom(fit).Draw(t, "level")
		p := PageAddr{Level: l, Index: b / LevelSpan(l)}
		var hs []Handle
		for i := b; i < b+LevelSpan(l); i++ {
			hs = append(hs, has[i]...)
		}
		slices.SortFunc(hs, func(a, b Handle) int { return bytes.Compare(a[:], b[:]) })
		hs = slices.Compact(hs)
		n := max(1, (len(hs)+PageHandles-1)/PageHandles)
		for part := range n {
			part := Page{PageAddr: PageAddr{p.Level, p.Index, uint16(part)}, Parts: uint16(n), Handles: hs[:min(len(hs), PageHandles)]}
			hs = hs[len(part.Handles):]
			b := SignPage(s.signing, s.onionPublic(), d.Bucket, part)
			got, err := ParsePage(d, part.PageAddr, b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), b) {
				t.Fatal("the part is not what came")
			}
			pages, raw = append(pages, got), append(raw, b)
		}
		b += LevelSpan(l)
	}
	return rapid.Permutation(pages).Draw(t, "order"), raw
}

func TestReadersOfAnHonestDigestAgreeAndALieIsProven(t *testing.T) {
	s := newTestStore(t)
	signed, err := SignDescriptor(s.onion, s.descriptor(1, 2))
	if err != nil {
		t.Fatal(err)
	}
	later, err := SignDescriptor(s.onion, s.descriptor(9))
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDescriptor(s.addr, append(bytes.Clone(signed), 0, 0))
	if err != nil || !bytes.Equal(d.Signed, signed) {
		t.Fatal("the descriptor is not what came", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		index := rapid.Uint64Range(0, 1<<40).Draw(t, "index")
		has := map[uint64][]Handle{}
		for range rapid.IntRange(1, 40).Draw(t, "boxes") {
			b := index*WitnessSpan + rapid.Uint64Range(0, WitnessSpan-1).Draw(t, "bucket")
			has[b] = append(has[b], Handle(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "handle")))
		}
		if rapid.IntRange(0, 9).Draw(t, "crowd") == 0 { // so many that a page has parts
			for i := range 1500 {
				has[index*WitnessSpan] = append(has[index*WitnessSpan], Handle{0xff, byte(i >> 8), byte(i)})
			}
		}
		sum := func(pages []Page) [32]byte {
			hs, ok := SpanHandles(index, pages)
			if !ok {
				t.Fatal("the pages do not cover the span")
			}
			h, err := d.SpanHash(index, hs)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		pa, ra := s.readSpan(t, d, index, has)
		pb, rb := s.readSpan(t, d, index, has)
		if sum(pa) != sum(pb) {
			t.Fatal("two readers of one digest differ")
		}
		a, b := Testimony{signed, ra}, Testimony{later, rb}
		if _, err := Prove(s.addr, a, b); !errors.Is(err, ErrTestimony) {
			t.Fatalf("an honest store is proven to lie: %v", err)
		}
		// One bucket more or less is no span, and what is left out is no lie.
		if _, ok := SpanHandles(index, pa[1:]); ok {
			t.Fatal("pages with a hole cover the span")
		}
		if _, ok := SpanHandles(index, append(slices.Clone(pa), pa[0])); ok {
			t.Fatal("a page counts twice")
		}
		if _, err := Prove(s.addr, a, Testimony{later, rb[1:]}); !errors.Is(err, ErrTestimony) {
			t.Fatalf("a hole proves something: %v", err)
		}
		var full []uint64
		for b, hs := range has {
			if len(hs) > 0 {
				full = append(full, b)
			}
		}
		slices.Sort(full)
		x := rapid.SampledFrom(full).Draw(t, "lie")
		has[x] = has[x][1:]
		if slices.Contains(has[x], Handle{}) {
			return
		}
		pc, rc := s.readSpan(t, d, index, has)
		if sum(pc) == sum(pa) {
			return // the same handle twice
		}
		lie, err := Prove(s.addr, a, Testimony{later, rc})
		if err != nil || lie != (Lie{Store: s.addr, Span: index}) {
			t.Fatalf("a lie is not proven: %+v, %v", lie, err)
		}
		rc[len(rc)-1][20] ^= 1
		if _, err := Prove(s.addr, a, Testimony{later, rc}); !errors.Is(err, ErrTestimony) {
			t.Fatalf("a forged page proves something: %v", err)
		}
	})
}

func TestTwoKeysForADayAreProven(t *testing.T) {
	s := newTestStore(t)
	other, err := sealed.ParsePrivateKey(bytes.Repeat([]byte{4}, 32))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(d Descriptor) Testimony {
		b, err := SignDescriptor(s.onion, d)
		if err != nil {
			t.Fatal(err)
		}
		return Testimony{Descriptor: b}
	}
	tokens := func() Policy {
		p := Policy{Deposit: DepositTokens, Accounts: AccountsCode, Cap: 10, First: 5}
		for i := range byte(3) {
			k, err := token.NewKey(&[32]byte{i + 1})
			if err != nil {
				t.Fatal(err)
			}
			p.Keys = append(p.Keys, k.Public())
		}
		return p
	}
	plain := s.descriptor(5, 6)
	plain.Deposits = tokens()
	for name, c := range map[string]struct {
		spoil func(*Descriptor)
		kind  ClaimKind
		epoch uint32
	}{
		"the same":            {spoil: func(*Descriptor) {}},
		"seen on another day": {spoil: func(d *Descriptor) { d.Keys = s.descriptor(6, 7).Keys }},
		"no day in common":    {spoil: func(d *Descriptor) { d.Keys = s.descriptor(8).Keys; d.Keys[0].Public = other.Public().Bytes() }},
		"another TTL, family": {spoil: func(d *Descriptor) { d.TTL += time.Hour; d.Family = "x" }}, // an operator may change those
		"no tokens any more":  {spoil: func(d *Descriptor) { d.Deposits = Policy{} }},
		"a courier alone now": {spoil: func(d *Descriptor) {
			d.Roles, d.Bucket, d.TTL, d.Signing, d.Deposits = RoleCourier, 0, 0, nil, Policy{}
		}},
		"another key":          {func(d *Descriptor) { d.Keys[1].Public = other.Public().Bytes() }, ClaimRequest, 6},
		"another signing key":  {func(d *Descriptor) { d.Signing = s.onionPublic() }, ClaimDigest, 0},
		"other buckets":        {func(d *Descriptor) { d.Bucket *= 2 }, ClaimDigest, 0},
		"another key, earlier": {func(d *Descriptor) { d.Keys = s.descriptor(4, 5).Keys; d.Keys[1].Public = other.Public().Bytes() }, ClaimRequest, 5},
		"another token key":    {func(d *Descriptor) { d.Deposits.First++ }, ClaimToken, 6},
	} {
		d := s.descriptor(5, 6)
		d.Deposits = tokens()
		c.spoil(&d)
		lie, err := Prove(s.addr, sign(plain), sign(d))
		if c.kind == 0 && !errors.Is(err, ErrTestimony) || c.kind != 0 && (err != nil || lie.Kind != c.kind || lie.Epoch != c.epoch) {
			t.Errorf("%s: %+v, %v", name, lie, err)
		}
	}
	forged := sign(plain)
	forged.Descriptor = bytes.Clone(forged.Descriptor)
	forged.Descriptor[60] ^= 1
	if _, err := Prove(s.addr, sign(plain), forged); !errors.Is(err, ErrTestimony) {
		t.Errorf("a forged descriptor: %v", err)
	}
	many := sign(plain)
	many.Pages = make([][]byte, MaxTestimonyPages+1)
	if err := many.Check(s.addr); !errors.Is(err, ErrTestimony) {
		t.Errorf("too many pages: %v", err)
	}
}

// The hashes are those of docs/SPEC.md §7.9.
func TestWitnessHashes(t *testing.T) {
	s := newTestStore(t)
	d := s.descriptor(vectorEpoch)
	d.Onion = s.addr.Onion
	d.Deposits = Policy{}
	claims := d.Claims()
	span, err := d.SpanHash(77, []Handle{{7: 1}, {7: 2}, {7: 0xff}})
	if len(claims) != 2 || err != nil {
		t.Fatal(claims, err)
	}
	text, err := os.ReadFile("../docs/SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"claim request key = " + hex.EncodeToString(claims[0].Hash[:]),
		"claim digest      = " + hex.EncodeToString(claims[1].Hash[:]), "span hash         = " + hex.EncodeToString(span[:])} {
		if !strings.Contains(string(text), line) {
			t.Errorf("SPEC.md has no line %q", line)
		}
	}
}

func FuzzTestimony(f *testing.F) {
	s := newTestStore(f)
	signed, err := SignDescriptor(s.onion, s.descriptor(1))
	if err != nil {
		f.Fatal(err)
	}
	page := SignPage(s.signing, s.onionPublic(), s.descriptor(1).Bucket, testPage(3))
	f.Add(signed, page)
	f.Add(signed, page[:20])
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, d, p []byte) {
		x := Testimony{d, [][]byte{p}}
		x.Span()
		if err := x.Check(s.addr); err != nil && !errors.Is(err, ErrTestimony) {
			t.Fatal(err)
		}
	})
}
