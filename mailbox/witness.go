// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A store that shows different things to different people can tell them apart: by the key that a request is sealed
// to, or by which boxes one of them does not hear of. What it shows is signed, so two people who compare can prove it.

// WitnessSpan is how many buckets readers of a digest compare at a time, and the most that a testimony is about: a
// page of level 0 or of any other that this is a multiple of lies within one.
const WitnessSpan = 60

// MaxTestimonyPages bounds the parts of pages in one testimony.
const MaxTestimonyPages = 128

// ErrTestimony: what is shown does not hold, or it proves nothing.
var ErrTestimony = errors.New("mailbox: no testimony")

const (
	claimLabel = "tarn/1 witness claim\x00" // SPEC replicate §9
	spanLabel  = "tarn/1 witness span\x00"
)

// ClaimKind is what a claim is about.
type ClaimKind byte

// The kinds of claim.
const (
	ClaimRequest ClaimKind = 1 // the key that requests of a day are sealed to
	ClaimToken   ClaimKind = 2 // the key that tokens of a day are made with
	ClaimDigest  ClaimKind = 3 // the key that digests are signed by, and how long buckets are: for ever, so of day 0
)

// Claim is a hash of something in a descriptor that could tell readers apart if it were not the same for all: an
// honest mailbox makes one claim of a kind and day, whenever and to whomever it speaks.
type Claim struct {
	Kind  ClaimKind
	Epoch uint32
	Hash  [sha256.Size]byte
}

// Claims are all that d makes.
func (d Descriptor) Claims() (out []Claim) {
	onion, err := d.Onion.Key()
	if err != nil {
		return nil
	}
	claim := func(kind ClaimKind, epoch uint32, what ...[]byte) {
		b := append(append([]byte(claimLabel), onion...), byte(kind))
		b = binary.BigEndian.AppendUint32(b, epoch)
		out = append(out, Claim{kind, epoch, sha256.Sum256(append(b, slices.Concat(what...)...))})
	}
	for _, k := range d.Keys {
		claim(ClaimRequest, k.Epoch, k.Public)
	}
	for i, k := range d.Deposits.Keys {
		claim(ClaimToken, d.Deposits.First+uint32(i), k[:])
	}
	if d.Signing != nil {
		claim(ClaimDigest, 0, d.Signing, binary.BigEndian.AppendUint64(nil, uint64(d.Bucket.Milliseconds())))
	}
	return out
}

// SpanHash is a hash of the handles of the buckets index·WitnessSpan and following, which ascend, each once. Readers
// compute the same whatever pages they read.
func (d Descriptor) SpanHash(index uint64, handles []Handle) (h [sha256.Size]byte, err error) {
	onion, err := d.Onion.Key()
	if err != nil {
		return h, fmt.Errorf("mailbox: %w", err)
	}
	s := sha256.New()
	s.Write([]byte(spanLabel))
	s.Write(onion)
	s.Write(binary.BigEndian.AppendUint64(nil, uint64(d.Bucket.Milliseconds())))
	s.Write(binary.BigEndian.AppendUint64(nil, index))
	for _, x := range handles {
		s.Write(x[:])
	}
	return [sha256.Size]byte(s.Sum(nil)), nil
}

// SpanHandles puts parts of pages together that cover the buckets index·WitnessSpan and following, each bucket once.
// False: they do not.
func SpanHandles(index uint64, pages []Page) ([]Handle, bool) {
	pages = slices.Clone(pages)
	slices.SortFunc(pages, func(a, b Page) int {
		af, _, _ := a.Buckets()
		bf, _, _ := b.Buckets()
		return cmp.Or(cmp.Compare(af, bf), cmp.Compare(a.Part, b.Part))
	})
	next, end := index*WitnessSpan, (index+1)*WitnessSpan
	part := uint16(0) // the next one of the page under way
	var out []Handle
	for i, p := range pages {
		from, to, ok := p.Buckets()
		if !ok || from != next || to > end || p.Part != part || part > 0 && (p.Level != pages[i-1].Level || p.Parts != pages[i-1].Parts) {
			return nil, false
		}
		out = append(out, p.Handles...)
		if part++; part == p.Parts {
			part, next = 0, to
		}
	}
	slices.SortFunc(out, func(a, b Handle) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(out), next == end
}

// Testimony is what a store signed, as it came.
type Testimony struct {
	Descriptor []byte
	Pages      [][]byte // parts of digest pages that cover a span; none: it is about the descriptor alone
}

// read checks every signature, and what the pages cover.
func (t Testimony) read(a Address) (d Descriptor, index uint64, handles []Handle, err error) {
	if d, err = ParseDescriptor(a, t.Descriptor); err != nil {
		return d, 0, nil, fmt.Errorf("%w: %w", ErrTestimony, err)
	}
	if len(t.Pages) > MaxTestimonyPages {
		return d, 0, nil, fmt.Errorf("%w: %d pages", ErrTestimony, len(t.Pages))
	}
	var pages []Page
	for i, b := range t.Pages {
		addr, err := partAddr(b)
		if err != nil {
			return d, 0, nil, fmt.Errorf("%w: %w", ErrTestimony, err)
		}
		p, err := ParsePage(d, addr, b)
		if err != nil {
			return d, 0, nil, fmt.Errorf("%w: %w", ErrTestimony, err)
		}
		if from, _, ok := p.Buckets(); i == 0 && ok {
			index = from / WitnessSpan
		}
		pages = append(pages, p)
	}
	if len(pages) > 0 {
		var whole bool
		if handles, whole = SpanHandles(index, pages); !whole {
			return d, 0, nil, fmt.Errorf("%w: the pages do not cover a span", ErrTestimony)
		}
	}
	return d, index, handles, nil
}

// partAddr is the address that a part of a page says it has.
func partAddr(b []byte) (PageAddr, error) {
	if len(b) < pageHeaderSize {
		return PageAddr{}, fmt.Errorf("%w: too short", ErrPage)
	}
	return PageAddr{b[0], binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint16(b[9:])}, nil
}

// Span is the span that the pages say they are about, unchecked; false: there are none.
func (t Testimony) Span() (index uint64, ok bool) {
	if len(t.Pages) == 0 {
		return 0, false
	}
	addr, err := partAddr(t.Pages[0])
	from, _, ok := addr.Buckets()
	return from / WitnessSpan, ok && err == nil
}

// Check says whether a testimony of the mailbox a holds by itself: who keeps one has something to compare.
func (t Testimony) Check(a Address) error {
	_, _, _, err := t.read(a)
	return err
}

// Lie is what two testimonies of a mailbox that contradict each other prove.
type Lie struct {
	Store Address
	// Kind and Epoch say of what the mailbox claimed two different things; 0: the lie is in the digest.
	Kind  ClaimKind
	Epoch uint32
	// Span is the index of the buckets of which it showed two digests: Span·WitnessSpan and following.
	Span uint64
}

// Prove checks two testimonies about one mailbox with nothing but its address: nil says that no honest one signs
// both. ErrTestimony: they do not hold, or do not contradict each other.
func Prove(a Address, x, y Testimony) (Lie, error) {
	dx, sx, hx, err := x.read(a)
	if err != nil {
		return Lie{}, err
	}
	dy, sy, hy, err := y.read(a)
	if err != nil {
		return Lie{}, err
	}
	for _, cx := range dx.Claims() {
		for _, cy := range dy.Claims() {
			if cx.Kind == cy.Kind && cx.Epoch == cy.Epoch && cx.Hash != cy.Hash {
				return Lie{Store: a, Kind: cx.Kind, Epoch: cx.Epoch}, nil
			}
		}
	}
	if len(x.Pages) > 0 && len(y.Pages) > 0 && sx == sy && !slices.Equal(hx, hy) { // the buckets are as long: a claim
		return Lie{Store: a, Span: sx}, nil
	}
	return Lie{}, fmt.Errorf("%w: the two say the same, or speak of different things", ErrTestimony)
}
