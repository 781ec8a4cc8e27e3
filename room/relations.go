// SPDX-License-Identifier: Apache-2.0

package room

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn/dag"
	"tarn/matrix"
)

// Relations between events (C-S API, "Forming relationships between events"). An event that others relate to is marked in
// its own row, so that one to which nobody does costs nothing more to show. Rows are written with the event that relates
// and go with its redaction; each costs the same however many there are.

// ErrDuplicate: the user annotated the event so already.
var ErrDuplicate = errors.New("room: the same annotation is there already")

// ErrNested: a thread cannot begin at an event that itself relates to another.
var ErrNested = errors.New("room: an event that relates to another is no root of a thread")

// Kinds of relations as a byte of the key.
const (
	kindOther = byte(iota)
	kindThread
	kindReplace
	kindReference
	kindAnnotation
	kinds
)

func kindOf(rel string) byte {
	switch rel {
	case matrix.RelThread:
		return kindThread
	case matrix.RelReplace:
		return kindReplace
	case matrix.RelReference:
		return kindReference
	case matrix.RelAnnotation:
		return kindAnnotation
	}
	return kindOther
}

func relationPrefix(n uint32, of hash, kind byte) []byte {
	return append(append(key(tabRelation, n, 41), of[:]...), kind)
}
func relationKey(n uint32, of hash, kind byte, s seq) []byte {
	return binary.BigEndian.AppendUint64(relationPrefix(n, of, kind), uint64(s))
}
func threadKey(n uint32, root hash) []byte { return append(key(tabThread, n, 32), root[:]...) }
func threadOrderKey(n uint32, s seq) []byte {
	return binary.BigEndian.AppendUint64(key(tabThreadOrder, n, 8), uint64(s))
}
func participantKey(n uint32, root hash, u matrix.UserID) []byte {
	return append(append(key(tabParticipant, n, 32+len(u)), root[:]...), u...)
}
func timeKey(n uint32, ms int64, s seq) []byte {
	k := binary.BigEndian.AppendUint64(key(tabTime, n, 16), uint64(max(ms, 0)))
	return binary.BigEndian.AppendUint64(k, uint64(s))
}
func annotationKey(n uint32, of hash, ev *matrix.Event) []byte {
	rel := struct {
		Relates struct {
			Key string `json:"key"`
		} `json:"m.relates_to"`
	}{}
	_ = json.Unmarshal(ev.Content(), &rel) // without a key: one annotation of the type
	b := appendText(appendText(appendText(nil, string(ev.Sender())), ev.Type()), rel.Relates.Key)
	sum := sha256.Sum256(b)
	return append(append(key(tabAnnotation, n, 48), of[:]...), sum[:16]...)
}

// threadRow is what is known of a thread without reading it.
type threadRow struct {
	count  uint64
	place  seq // of the latest event
	latest hash
}

func (t *threadRow) encode() []byte {
	b := binary.AppendUvarint([]byte{1}, t.count)
	return append(binary.AppendUvarint(b, uint64(t.place)), t.latest[:]...)
}

func decodeThread(v []byte) (threadRow, error) {
	d := decoder{b: v}
	if d.byte() != 1 {
		return threadRow{}, fmt.Errorf("%w: thread", errRow)
	}
	t := threadRow{count: d.uvarint(), place: seq(d.uvarint()), latest: d.hash()}
	return t, d.err("thread")
}

// relatesTo is the event that another relates to, if it says so well.
func relatesTo(h hash, ev *matrix.Event) (rel string, target hash, ok bool) {
	rel, id := ev.Relation()
	if rel == "" {
		return "", hash{}, false
	}
	target, err := hashOf(id)
	return rel, target, err == nil && target != h
}

// relate marks the event that a new one relates to, and the new one, if it comes after what relates to it.
func (p *plan) relate(h hash, e *held) error {
	if _, target, ok := relatesTo(h, e.ev); ok && !e.redacted {
		t, err := p.held(target)
		if err != nil {
			return err
		}
		p.targets[target] = true
		if t != nil && !t.related {
			p.change(target, t).related = true
		}
	}
	if e.ev.Server() == p.r.server() && !e.outlier {
		return nil // it was not known before
	}
	if p.targets[h] {
		p.change(h, e).related = true
		return nil
	}
	prefix := append(key(tabRelation, p.n, 32), h[:]...)
	return p.rd.Scan(prefix, nil, func([]byte, []byte) (bool, error) {
		p.change(h, e).related = true
		return false, nil
	})
}

// link writes the rows of an event that relates to another.
func (p *plan) link(w *writer, h hash, e *held) {
	rel, target, ok := relatesTo(h, e.ev)
	if !ok || e.redacted || w.err != nil {
		return
	}
	w.set(relationKey(p.n, target, kindOf(rel), e.place), h[:])
	switch rel {
	case matrix.RelAnnotation:
		w.set(annotationKey(p.n, target, e.ev), h[:])
	case matrix.RelThread:
		p.thread(w, target, func(t *threadRow) error {
			t.count++
			if e.place > t.place {
				t.place, t.latest = e.place, h
			}
			return p.participate(w, target, e.ev.Sender(), 1)
		})
	}
}

// unlink takes them back.
func (p *plan) unlink(w *writer, h hash, e *held) {
	rel, target, ok := relatesTo(h, e.ev)
	if !ok || w.err != nil {
		return
	}
	w.delete(relationKey(p.n, target, kindOf(rel), e.place))
	switch rel {
	case matrix.RelAnnotation:
		w.delete(annotationKey(p.n, target, e.ev))
	case matrix.RelThread:
		p.thread(w, target, func(t *threadRow) error {
			t.count = max(t.count, 1) - 1
			if t.latest == h {
				t.place, t.latest = 0, hash{}
				if err := w.txn.ScanBack(relationPrefix(p.n, target, kindThread), nil, func(k, v []byte) (bool, error) {
					if len(v) != len(hash{}) {
						return false, fmt.Errorf("%w: relation", errRow)
					}
					t.place, t.latest = seqFromKey(k), hash(v)
					return false, nil
				}); err != nil {
					return err
				}
			}
			return p.participate(w, target, e.ev.Sender(), -1)
		})
	}
}

// thread changes a thread's row.
func (p *plan) thread(w *writer, root hash, change func(*threadRow) error) {
	if w.err != nil {
		return
	}
	var t threadRow
	v, err := w.txn.Get(threadKey(p.n, root))
	if err == nil {
		t, err = decodeThread(v)
	} else if isNotFound(err) {
		err = nil
	}
	was := t.place
	if err == nil {
		err = change(&t)
	}
	if err != nil {
		w.err = err
		return
	}
	if was != 0 && was != t.place {
		w.delete(threadOrderKey(p.n, was))
	}
	if t.count == 0 || t.place == 0 {
		w.delete(threadKey(p.n, root))
		return
	}
	w.set(threadKey(p.n, root), t.encode())
	w.set(threadOrderKey(p.n, t.place), root[:])
}

// participate counts a local user's events in a thread.
func (p *plan) participate(w *writer, root hash, u matrix.UserID, by int) error {
	if !p.r.local(u) {
		return nil
	}
	k := participantKey(p.n, root, u)
	v, err := w.txn.Get(k)
	if err != nil && !isNotFound(err) {
		return err
	}
	d := decoder{b: v}
	n := 0
	if err == nil {
		n = int(d.uvarint())
	}
	if n += by; n <= 0 {
		w.delete(k)
	} else {
		w.set(k, binary.AppendUvarint(nil, uint64(n)))
	}
	return w.err
}

// mayRelate refuses what a client should not send ("M_DUPLICATE_ANNOTATION", "Threading").
func (p *plan) mayRelate(ev *matrix.Event) error {
	rel, target, ok := relatesTo(hash{}, ev)
	if !ok {
		return nil
	}
	switch rel {
	case matrix.RelAnnotation:
		k := annotationKey(p.n, target, ev)
		if _, err := p.rd.Get(k); err == nil {
			return ErrDuplicate
		} else if !isNotFound(err) {
			return err
		}
		for h, e := range p.changed { // of the same transaction
			if r, t, ok := relatesTo(h, e.ev); ok && r == rel && t == target && e.shown && string(annotationKey(p.n, t, e.ev)) == string(k) {
				return ErrDuplicate
			}
		}
	case matrix.RelThread:
		t, err := p.held(target)
		if err != nil || t == nil {
			return err
		}
		if rel, _ := t.ev.Relation(); rel != "" && !t.redacted {
			return ErrNested
		}
	}
	return nil
}

// Related is what others say of an event (C-S API, "Aggregations of child events").
type Related struct {
	Edit       *Entry // the newest replacement that counts
	Thread     *Thread
	References []matrix.EventID
}

// Thread sums up a thread for its root.
type Thread struct {
	Latest       Entry
	Count        int
	Participated bool // the user who looks has sent something in it, or the root
}

// Bounds of what is looked at to sum up relations.
const (
	maxEdits      = 64 // the newest; of those the one that counts is found
	maxReferences = 100
)

// related sums up; deep: also the thread.
func (y *eyes) related(e placed, device matrix.DeviceID, deep bool) (*Related, error) {
	out := &Related{}
	var err error
	if !e.redacted {
		if out.Edit, err = y.edit(e, device); err != nil {
			return nil, err
		}
	}
	if deep {
		if out.Thread, err = y.thread(e, device); err != nil {
			return nil, err
		}
	}
	err = y.children(relationPrefix(y.q.n, e.h, kindReference), nil, false, func(c placed) (bool, error) {
		out.References = append(out.References, c.h.id())
		return len(out.References) < maxReferences, nil
	})
	if err != nil || out.Edit == nil && out.Thread == nil && len(out.References) == 0 {
		return nil, err
	}
	return out, nil
}

// edit finds the newest replacement that is valid ("Validity of replacement events").
func (y *eyes) edit(e placed, device matrix.DeviceID) (*Entry, error) {
	if e.ev.StateKey() != nil {
		return nil, nil
	}
	if rel, _ := e.ev.Relation(); rel == matrix.RelReplace {
		return nil, nil
	}
	var best placed
	n := 0
	err := y.children(relationPrefix(y.q.n, e.h, kindReplace), nil, true, func(c placed) (bool, error) {
		n++
		if valid := c.ev.Sender() == e.ev.Sender() && c.ev.Type() == e.ev.Type() && c.ev.StateKey() == nil &&
			(c.ev.Type() == matrix.TypeEncrypted || hasNewContent(c.ev)); valid {
			if best.held == nil || c.ev.Time().After(best.ev.Time()) || c.ev.Time().Equal(best.ev.Time()) && c.ev.ID() > best.ev.ID() {
				best = c
			}
		}
		return n < maxEdits, nil
	})
	if err != nil || best.held == nil {
		return nil, err
	}
	entry, err := y.bare(best, device)
	return &entry, err
}

func hasNewContent(ev *matrix.Event) bool {
	var c struct {
		New map[string]any `json:"m.new_content"`
	}
	return json.Unmarshal(ev.Content(), &c) == nil && c.New != nil
}

// thread sums up the thread of a root; nil: there is none.
func (y *eyes) thread(root placed, device matrix.DeviceID) (*Thread, error) {
	v, err := y.q.rd.Get(threadKey(y.q.n, root.h))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	row, err := decodeThread(v)
	if err != nil {
		return nil, err
	}
	t := &Thread{Count: int(row.count), Participated: root.ev.Sender() == y.user}
	found := false
	// The latest may be after the user left.
	err = y.children(relationPrefix(y.q.n, root.h, kindThread), nil, true, func(c placed) (bool, error) {
		found = true
		if t.Latest, err = y.bare(c, device); err == nil && c.related {
			t.Latest.Related, err = y.related(c, device, false)
		}
		return false, err
	})
	if err != nil || !found {
		return nil, err
	}
	if !t.Participated {
		if _, err = y.q.rd.Get(participantKey(y.q.n, root.h, y.user)); err == nil {
			t.Participated = true
		} else if !isNotFound(err) {
			return nil, err
		}
	}
	return t, nil
}

// children calls fn with the events of relation rows that y sees, in order from a place on, until it returns false. At most maxScan.
func (y *eyes) children(prefix []byte, from *seq, back bool, fn func(placed) (bool, error)) error {
	var rows []hash
	scan, start := y.q.rd.Scan, []byte(nil)
	if from != nil {
		start = binary.BigEndian.AppendUint64(slices.Clone(prefix), uint64(*from))
	}
	if back {
		scan = y.q.rd.ScanBack
	}
	seen := 0
	next := start
	const piece = 64
	for {
		rows = rows[:0]
		var last []byte
		if err := scan(prefix, next, func(k, v []byte) (bool, error) {
			if len(v) != len(hash{}) {
				return false, fmt.Errorf("%w: relation", errRow)
			}
			rows, last = append(rows, hash(v)), append(last[:0], k...)
			return len(rows) < piece, nil
		}); err != nil {
			return err
		}
		for _, h := range rows {
			e, err := y.q.held(h)
			if err != nil {
				return err
			}
			if e == nil || !e.shown || e.redacted || e.status != dag.Accepted {
				continue
			}
			ok, err := y.sees(e)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if more, err := fn(placed{e, h}); err != nil || !more {
				return err
			}
		}
		if seen += len(rows); len(rows) < piece || seen >= maxScan {
			return nil
		}
		s := seqFromKey(last)
		if back {
			s--
		} else {
			s++
		}
		next = binary.BigEndian.AppendUint64(slices.Clone(prefix), uint64(s))
	}
}

// looking lets a function that chooses entries look further.
type looking struct {
	y *eyes
	e placed
}

// RelatedBy tells whether an event of one of the senders (none: of anybody) relates to e by one of the kinds (none: any). Only
// within a function that chooses entries; else false.
func (e Entry) RelatedBy(rels, senders []string) bool {
	if e.look == nil || !e.look.e.related {
		return false
	}
	found := false
	for kind := range kinds {
		wanted := len(rels) == 0 || slices.ContainsFunc(rels, func(r string) bool { return kindOf(r) == kind })
		if !wanted || found {
			continue
		}
		err := e.look.y.children(relationPrefix(e.look.y.q.n, e.look.e.h, kind), nil, true, func(c placed) (bool, error) {
			rel, _ := c.ev.Relation()
			found = (len(rels) == 0 || slices.Contains(rels, rel)) && (len(senders) == 0 || slices.Contains(senders, string(c.ev.Sender())))
			return !found, nil
		})
		if err != nil {
			return false
		}
	}
	return found
}

// sortPlaced sorts by place.
func sortPlaced(all []placed, back bool) {
	slices.SortFunc(all, func(a, b placed) int {
		switch {
		case a.place == b.place:
			return strings.Compare(string(a.h[:]), string(b.h[:]))
		case a.place < b.place == back:
			return 1
		}
		return -1
	})
}
