// SPDX-License-Identifier: Apache-2.0

package bundle

import "tarn/mailbox"

// Limits of the records about mailboxes.
const (
	MaxWitnessClaims = 64       // claims in one Witness
	MaxWitnessSpans  = 64       // spans in one Witness
	maxTestimony     = 64 << 10 // bytes of one part or descriptor: a mailbox answers with less than 9 KiB

	hashSize = 32
)

// Witness is a TypeWitness record: hashes of what a mailbox told its sender. Who was told something else shows the
// mailbox's signature on it (Testimony).
type Witness struct {
	Store  mailbox.Address
	Claims []mailbox.Claim // at most MaxWitnessClaims
	Spans  []SpanHash      // of mailbox.Descriptor.SpanHash; at most MaxWitnessSpans
}

// SpanHash is what a mailbox said of the buckets of a span.
type SpanHash struct {
	Index uint64 // of the first bucket, divided by mailbox.WitnessSpan
	Hash  [hashSize]byte
}

// Record encodes w: store, list of (kind, day, hash), list of (span, hash).
func (w Witness) Record() (Record, error) {
	var o writer
	o.store(w.Store)
	o.number(uint64(len(w.Claims)), MaxWitnessClaims, "claims")
	for _, c := range w.Claims {
		o.b = append(o.b, byte(c.Kind))
		o.number(uint64(c.Epoch), 1<<32-1, "day")
		o.b = append(o.b, c.Hash[:]...)
	}
	o.number(uint64(len(w.Spans)), MaxWitnessSpans, "spans")
	for _, s := range w.Spans {
		o.number(s.Index, 1<<63-1, "span")
		o.b = append(o.b, s.Hash[:]...)
	}
	return o.record(TypeWitness, "a witness")
}

// ParseWitness decodes a TypeWitness record. ErrMalformed, ErrTooLarge.
func ParseWitness(data []byte) (Witness, error) {
	r := &reader{b: data}
	w := Witness{Store: r.store()}
	for range r.count(MaxWitnessClaims, 1+1+hashSize, "claims") {
		var c mailbox.Claim
		if kind := r.take(1, "kind"); len(kind) == 1 {
			c.Kind = mailbox.ClaimKind(kind[0])
		}
		c.Epoch = uint32(r.number(1<<32-1, "day"))
		copy(c.Hash[:], r.take(hashSize, "hash"))
		w.Claims = append(w.Claims, c)
	}
	for range r.count(MaxWitnessSpans, 1+hashSize, "spans") {
		s := SpanHash{Index: r.number(1<<63-1, "span")}
		copy(s.Hash[:], r.take(hashSize, "hash"))
		w.Spans = append(w.Spans, s)
	}
	if err := r.end("a witness"); err != nil {
		return Witness{}, err
	}
	return w, nil
}

// Testimony is a TypeTestimony record: what a mailbox signed, for a contact to whom it said something else.
type Testimony struct {
	Store mailbox.Address
	mailbox.Testimony
}

// Record encodes t: store, descriptor, list of parts of pages.
func (t Testimony) Record() (Record, error) {
	var o writer
	o.store(t.Store)
	o.bytes(t.Descriptor, maxTestimony, "descriptor")
	o.number(uint64(len(t.Pages)), mailbox.MaxTestimonyPages, "pages")
	for _, p := range t.Pages {
		o.bytes(p, maxTestimony, "page")
	}
	return o.record(TypeTestimony, "a testimony")
}

// ParseTestimony decodes a TypeTestimony record; its bytes alias data. Whether it holds is mailbox.Testimony.Check's
// to say. ErrMalformed, ErrTooLarge.
func ParseTestimony(data []byte) (Testimony, error) {
	r := &reader{b: data}
	t := Testimony{Store: r.store()}
	t.Descriptor = r.bytes(maxTestimony, "descriptor")
	for range r.count(mailbox.MaxTestimonyPages, 1, "pages") {
		t.Pages = append(t.Pages, r.bytes(maxTestimony, "page"))
	}
	if err := r.end("a testimony"); err != nil {
		return Testimony{}, err
	}
	return t, nil
}
