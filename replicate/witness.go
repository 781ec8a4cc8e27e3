// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/mailbox"
	"tarn/store"
)

// A mailbox may tell each reader something else: a key of its own, by which to know its requests again, or a digest
// without the boxes that it shall not find. So contacts compare what a mailbox that both know told them: hashes ride
// in idle bundles; where they differ, what the mailbox signed goes to the other one, who then has the proof.
//
// A contact is told of a mailbox only if it knows already that this node uses it (its own, or one of ours that it was
// told), and of digests only by the ten minutes, whatever pages they were read by: not when the node was on.
//
// In memory, for a day's comparing; a proof is durable.

// Bounds of what is kept of one mailbox.
const (
	witnessDays   = 3             // how long claims are kept after their day
	witnessClaims = 60            // more than a descriptor makes
	witnessSpans  = 72            // of digest: 12 hours with buckets of 10 s
	witnessBytes  = 2 << 20       // of digest
	maxTestified  = 256 << 10     // bytes of a testimony that is sent or kept
	showAgain     = 6 * time.Hour // before a testimony of one mailbox is sent to the same contact again
)

// heard is what a mailbox told this node.
type heard struct {
	newest mailbox.Descriptor
	claims map[claimOf]claimed
	spans  map[uint64][]mailbox.Page // parts, by span
	bytes  int                       // of spans, about
	lie    *Lie
}

// claimOf is what a claim is about.
type claimOf struct {
	kind  mailbox.ClaimKind
	epoch uint32
}

// claimed is a claim with the first descriptor that made it.
type claimed struct {
	hash   [32]byte
	signed []byte
}

// Lie is a proof, kept on disk, that a mailbox told two nodes different things. mailbox.Prove checks it.
type Lie struct {
	mailbox.Lie
	Found time.Time
	Proof [2]mailbox.Testimony
}

// hearDescriptor notes what a mailbox says of its keys. The caller holds mu.
func (e *Engine) hearDescriptor(st *depot, d mailbox.Descriptor) {
	h := &st.heard
	if h.newest.Bucket != d.Bucket || !slices.Equal(h.newest.Signing, d.Signing) {
		h.spans, h.bytes = nil, 0
	}
	h.newest = d
	if h.claims == nil {
		h.claims = map[claimOf]claimed{}
	}
	for _, c := range d.Claims() {
		about := claimOf{c.Kind, c.Epoch}
		if old, ok := h.claims[about]; !ok {
			h.claims[about] = claimed{c.Hash, d.Signed}
		} else if old.hash != c.Hash {
			e.convict(st, mailbox.Testimony{Descriptor: old.signed}, mailbox.Testimony{Descriptor: d.Signed})
		}
	}
	for about := range h.claims {
		if about.epoch != 0 && about.epoch+witnessDays < mailbox.Epoch(time.Now()) {
			delete(h.claims, about)
		}
	}
	for _, about := range h.about() {
		if len(h.claims) > witnessClaims {
			delete(h.claims, about)
		}
	}
}

// about is what there are claims about, the oldest first and what is for ever last.
func (h *heard) about() []claimOf {
	return slices.SortedFunc(maps.Keys(h.claims), func(a, b claimOf) int {
		return cmp.Or(cmp.Compare(a.epoch-1, b.epoch-1), cmp.Compare(a.kind, b.kind))
	})
}

// hearPage keeps a part of a page of a digest that others may read too. The caller holds mu.
func (h *heard) hearPage(p mailbox.Page) {
	from, to, ok := p.Buckets()
	if !ok || to-from > mailbox.WitnessSpan {
		return
	}
	i := from / mailbox.WitnessSpan
	for _, old := range h.spans[i] {
		of, ot, _ := old.Buckets()
		if of <= from && to <= ot && (of != from || ot != to || old.Part == p.Part) {
			return // it is there, or in a larger page
		}
	}
	kept := slices.DeleteFunc(h.spans[i], func(old mailbox.Page) bool {
		of, ot, _ := old.Buckets()
		if from <= of && ot <= to && (of != from || ot != to) {
			h.bytes -= pageCost(old)
			return true
		}
		return false
	})
	if h.spans == nil {
		h.spans = map[uint64][]mailbox.Page{}
	}
	h.spans[i] = append(kept, p)
	h.bytes += pageCost(p)
	for len(h.spans) > witnessSpans || h.bytes > witnessBytes && len(h.spans) > 1 {
		oldest := slices.Min(slices.Collect(maps.Keys(h.spans)))
		for _, p := range h.spans[oldest] {
			h.bytes -= pageCost(p)
		}
		delete(h.spans, oldest)
	}
}

func pageCost(p mailbox.Page) int { return len(p.Handles)*mailbox.HandleSize + 128 }

// spanHash is what this node can say of a span; false: it has not read all of it.
func (h *heard) spanHash(i uint64) (sum [32]byte, ok bool) {
	hs, ok := mailbox.SpanHandles(i, h.spans[i])
	if !ok {
		return sum, false
	}
	sum, err := h.newest.SpanHash(i, hs)
	return sum, err == nil
}

// ofSpan is the testimony about a span.
func (h *heard) ofSpan(i uint64) mailbox.Testimony {
	t := mailbox.Testimony{Descriptor: h.newest.Signed}
	for _, p := range h.spans[i] {
		t.Pages = append(t.Pages, p.Bytes())
	}
	return t
}

// mutual are the mailboxes that a contact knows this node to use, in a fixed order.
func (e *Engine) mutual(c *contact) (out []*depot) {
	for a, st := range e.depots {
		if slices.Contains(c.stores, a) || slices.Contains(c.told, a) {
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b *depot) int { return cmp.Compare(a.address.Onion, b.address.Onion) })
	return out
}

// addWitness puts hashes about mailboxes into an idle bundle for a contact, as many as fit: another mailbox first each
// time. It tells whether there are some.
func (e *Engine) addWitness(c *contact, p *bundle.Packer) (some bool) {
	sts := e.mutual(c)
	for range sts {
		st := sts[c.witnessAt%len(sts)]
		rec, ok := e.witness(c, st)
		if ok && !p.Add(rec) {
			break
		}
		some = some || ok
		c.witnessAt = (c.witnessAt + 1) % len(sts)
	}
	return some
}

// witness is what there is to tell a contact of a mailbox.
func (e *Engine) witness(c *contact, st *depot) (bundle.Record, bool) {
	h, w := &st.heard, bundle.Witness{Store: st.address}
	for _, about := range h.about() {
		w.Claims = append(w.Claims, mailbox.Claim{Kind: about.kind, Epoch: about.epoch, Hash: h.claims[about].hash})
	}
	if st.own && slices.Contains(c.stores, st.address) { // both read its digest
		all := slices.Sorted(maps.Keys(h.spans))
		slices.Reverse(all)
		for _, i := range all {
			if sum, ok := h.spanHash(i); ok && len(w.Spans) < bundle.MaxWitnessSpans {
				w.Spans = append(w.Spans, bundle.SpanHash{Index: i, Hash: sum})
			}
		}
	}
	if len(w.Claims)+len(w.Spans) == 0 {
		return bundle.Record{}, false
	}
	rec, err := w.Record()
	return rec, err == nil
}

// compareWitness looks for what a mailbox told a contact otherwise than us, and shows the contact one such thing.
func (e *Engine) compareWitness(c *contact, data []byte) (effect, error) {
	w, err := bundle.ParseWitness(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	st := e.shared(c, w.Store)
	if st == nil {
		return effect{}, nil
	}
	h := &st.heard
	for _, theirs := range w.Claims {
		if ours, ok := h.claims[claimOf{theirs.Kind, theirs.Epoch}]; ok && ours.hash != theirs.Hash {
			return e.show(c, st, mailbox.Testimony{Descriptor: ours.signed}), nil
		}
	}
	for _, s := range w.Spans {
		if sum, ok := h.spanHash(s.Index); ok && sum != s.Hash {
			return e.show(c, st, h.ofSpan(s.Index)), nil
		}
	}
	return effect{}, nil
}

// shared is a mailbox of which may be spoken with a contact, or nil. The caller holds mu.
func (e *Engine) shared(c *contact, a mailbox.Address) *depot {
	if st := e.depots[a]; st != nil && (slices.Contains(c.stores, a) || slices.Contains(c.told, a)) {
		return st
	}
	return nil
}

// show queues a testimony for a contact, unless it was shown one of that mailbox lately. The caller holds mu.
func (e *Engine) show(c *contact, st *depot, t mailbox.Testimony) effect {
	now := time.Now()
	rec, err := bundle.Testimony{Store: st.address, Testimony: t}.Record()
	if at, ok := c.shown[st.address]; ok && now.Sub(at) < showAgain || err != nil || len(rec.Data) > maxTestified {
		return effect{}
	}
	return effect{
		write: func(txn store.Txn) error {
			return store.Enqueue(txn, string(c.name), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...))
		},
		apply: func() {
			if c.shown == nil {
				c.shown = map[mailbox.Address]time.Time{}
			}
			c.shown[st.address] = now
		},
	}
}

// takeTestimony compares what a mailbox signed for a contact with what it signed for us. If the two contradict each
// other, the proof is durable before anything follows from it, and the contact is shown our half.
func (e *Engine) takeTestimony(c *contact, data []byte) (effect, error) {
	if len(data) > maxTestified {
		return effect{}, refuse(bundle.ErrTooLarge)
	}
	theirs, err := bundle.ParseTestimony(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	e.mu.Lock()
	st := e.shared(c, theirs.Store)
	var ours []mailbox.Testimony
	if st != nil {
		ours = st.heard.against(theirs.Testimony)
	}
	e.mu.Unlock()
	if len(ours) == 0 {
		return effect{}, nil
	}
	// Up to a few hundred signatures: without the lock.
	if err := theirs.Check(theirs.Store); err != nil {
		return effect{}, refuse(err)
	}
	for _, t := range ours {
		if _, err := mailbox.Prove(theirs.Store, t, theirs.Testimony); err != nil {
			continue
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.convict(st, t, theirs.Testimony) == nil && st.heard.lie == nil {
			return effect{}, errLieNotKept // tried again
		}
		return e.show(c, st, t), nil
	}
	return effect{}, nil
}

// errLieNotKept: the proof could not be written.
var errLieNotKept = errors.New("replicate: the proof of a mailbox's lie could not be kept")

// against are our testimonies that may contradict one: about the same span, and all descriptors.
func (h *heard) against(t mailbox.Testimony) (out []mailbox.Testimony) {
	if i, ok := t.Span(); ok && len(h.spans[i]) > 0 {
		out = append(out, h.ofSpan(i))
	}
	seen := map[string]bool{}
	for _, about := range h.about() {
		if d := h.claims[about].signed; !seen[string(d)] {
			seen[string(d)] = true
			out = append(out, mailbox.Testimony{Descriptor: d})
		}
	}
	return out
}

// convict keeps the proof that a mailbox lied, if there is none yet, and returns it; nil if the two testimonies prove
// nothing, or the disk refused. The mailbox is bad from then on: it is left if there is another. The caller holds mu.
func (e *Engine) convict(st *depot, x, y mailbox.Testimony) *Lie {
	if st.heard.lie != nil {
		return st.heard.lie
	}
	proven, err := mailbox.Prove(st.address, x, y)
	if err != nil {
		return nil
	}
	lie := &Lie{Lie: proven, Found: time.Now(), Proof: [2]mailbox.Testimony{x, y}}
	row, err := lie.marshal()
	if err == nil {
		err = e.kv.Update(func(txn store.Txn) error { return txn.Set(store.Key(tableLie, string(st.address.Onion)), row) })
	}
	if err != nil {
		e.warn("keeping the proof that a mailbox lied", err)
		return nil
	}
	st.heard.lie = lie
	e.log.Warn("a mailbox was caught telling different nodes different things; see the status")
	return lie
}

// Lies are the proofs against mailboxes that this node found.
func (e *Engine) Lies() ([]Lie, error) {
	var out []Lie
	err := e.kv.View(func(r store.Reader) error {
		return scan(r, tableLie, func(k *store.KeyReader, v []byte) error {
			l, err := parseLie(v)
			if err == nil {
				out = append(out, *l)
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the proofs against mailboxes: %w", err)
	}
	return out, nil
}

// loadLies gives the known mailboxes their proofs. The caller holds mu, or is New.
func (e *Engine) loadLies() error {
	lies, err := e.Lies()
	for _, l := range lies {
		if st := e.depots[l.Store]; st != nil {
			st.heard.lie = &l
		}
	}
	return err
}

func (l *Lie) marshal() ([]byte, error) {
	w := writer{}
	w.u8(rowVersion)
	w.time(l.Found)
	for _, t := range l.Proof {
		rec, err := bundle.Testimony{Store: l.Store, Testimony: t}.Record()
		if err != nil {
			return nil, err
		}
		w.bytes(rec.Data)
	}
	return w.b, nil
}

// parseLie reads a row, and proves it again: nothing else says that it was true.
func parseLie(b []byte) (*Lie, error) {
	r := reader{b: slices.Clone(b)}
	r.version()
	l := &Lie{Found: r.time()}
	var about [2]mailbox.Address
	for i := range l.Proof {
		t, err := bundle.ParseTestimony(r.bytes(bundle.MaxRecord))
		if err != nil {
			return nil, errors.Join(ErrRow, err)
		}
		about[i], l.Proof[i] = t.Store, t.Testimony
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	var err error
	if l.Lie, err = mailbox.Prove(about[0], l.Proof[0], l.Proof[1]); err != nil || about[0] != about[1] {
		return nil, errors.Join(ErrRow, err)
	}
	return l, nil
}
