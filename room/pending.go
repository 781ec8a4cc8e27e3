// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/binary"
	"fmt"
	"slices"

	"tarn/matrix"
)

// Bounds of the events that wait for their parents, a room. What is evicted is not lost: a peer's "heads" and the children of it
// make the node ask again.
const (
	maxPending         = 4000     // events
	maxPendingPeer     = 1500     // events that one peer delivered
	maxPendingStranger = 64       // of a peer whose server was never in the room
	maxPendingSize     = 16 << 20 // bytes of the events
	maxPendingPeerSize = 8 << 20  // bytes of those that one peer delivered
	maxAwaited         = matrix.MaxPrev + matrix.MaxAuth + 1
)

// pendingRow is an event, verified, that cannot be inserted yet. nil in plan.pending: to be deleted.
type pendingRow struct {
	ev      *matrix.Event
	from    matrix.ServerName // who delivered it
	awaited []hash            // not held when it was looked at last
	spoilt  bool              // as held.spoilt
}

// Forms of a row.
const (
	pendingWhole  = 1
	pendingSpoilt = 2
)

// encode: form, from, depth, awaited, canonical event bytes.
func (x *pendingRow) encode() []byte {
	form := byte(pendingWhole)
	if x.spoilt {
		form = pendingSpoilt
	}
	b := appendText([]byte{form}, string(x.from))
	b = binary.AppendUvarint(b, uint64(x.ev.Depth()))
	b = binary.AppendUvarint(b, uint64(len(x.awaited)))
	for _, h := range x.awaited {
		b = append(b, h[:]...)
	}
	return append(b, x.ev.Raw()...)
}

// parked is what counting needs of a pendingRow.
type parked struct {
	h     hash
	from  matrix.ServerName
	depth int64
	size  int // of the event
}

func decodePending(v []byte) (from matrix.ServerName, depth int64, awaited []hash, raw []byte, err error) {
	d := decoder{b: v}
	if form := d.byte(); form != pendingWhole && form != pendingSpoilt {
		d.bad = true
	}
	from, depth = matrix.ServerName(d.text()), int64(d.uvarint())
	n := d.uvarint()
	for i := uint64(0); i < n && !d.bad; i++ {
		awaited = append(awaited, d.hash())
	}
	return from, depth, awaited, d.b, d.err("pending event")
}

// pendingEvent reads a waiting event; nil if there is none.
func (q *reading) pendingEvent(h hash) (*pendingRow, error) {
	v, err := q.rd.Get(pendingKey(q.n, h))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a waiting event: %w", err)
	}
	from, _, awaited, raw, err := decodePending(v)
	if err != nil {
		return nil, err
	}
	ev, err := matrix.Load(q.row.version, h.id(), raw)
	if err != nil {
		return nil, err
	}
	return &pendingRow{ev: ev, from: from, awaited: awaited, spoilt: v[0] == pendingSpoilt}, nil
}

// waitersFor lists the events that wait for one.
func (q *reading) waitersFor(on hash) ([]hash, error) {
	var out []hash
	prefix := waitingPrefix(q.n, on)
	err := q.rd.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
		out = append(out, hash(k[len(prefix):]))
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the waiting events: %w", err)
	}
	return out, nil
}

// allParked lists a room's waiting events.
func (q *reading) allParked() ([]parked, error) {
	var out []parked
	prefix := key(tabPending, q.n, 0)
	err := q.rd.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		from, depth, _, raw, err := decodePending(v)
		out = append(out, parked{hash(k[len(prefix):]), from, depth, len(raw)})
		return err == nil, err
	})
	if err != nil {
		return nil, fmt.Errorf("counting the waiting events: %w", err)
	}
	return out, nil
}

// further orders waiting events for eviction: the deepest is furthest from being of use; the same everywhere.
func further(a, b parked) int {
	if a.depth != b.depth {
		if a.depth > b.depth {
			return -1
		}
		return 1
	}
	return -slices.Compare(a.h[:], b.h[:])
}

// evict picks what must go so that the bounds hold, of number and of bytes.
func evict(all []parked, known func(matrix.ServerName) bool) []hash {
	slices.SortFunc(all, further)
	type sum struct{ n, size int }
	per, total := map[matrix.ServerName]sum{}, sum{}
	add := func(x parked, sign int) {
		s := per[x.from]
		per[x.from] = sum{s.n + sign, s.size + sign*x.size}
		total = sum{total.n + sign, total.size + sign*x.size}
	}
	for _, x := range all {
		add(x, 1)
	}
	var out []hash
	for _, x := range all {
		limit := maxPendingPeer
		if !known(x.from) {
			limit = maxPendingStranger
		}
		s, share := per[x.from], max(1, len(per))
		// Over the room's bounds, those give who have the most.
		if s.n > limit || s.size > maxPendingPeerSize || total.n > maxPending && s.n > maxPending/share || total.size > maxPendingSize && s.size > maxPendingSize/share {
			out = append(out, x.h)
			add(x, -1)
		}
	}
	return out
}

// park plans the waiting events of this plan: new ones, and the eviction of what is too much.
func (p *plan) park(rows []*pendingRow) error {
	if len(rows) == 0 {
		return nil
	}
	all, err := p.allParked()
	if err != nil {
		return err
	}
	for _, x := range rows {
		if len(x.awaited) > maxAwaited {
			x.awaited = x.awaited[:maxAwaited]
		}
		p.pending[mustHash(x.ev.ID())] = x
	}
	all = slices.DeleteFunc(all, func(x parked) bool { _, anew := p.pending[x.h]; return anew })
	for _, x := range rows {
		all = append(all, parked{mustHash(x.ev.ID()), x.from, x.ev.Depth(), len(x.ev.Raw())})
	}
	for _, h := range evict(all, func(s matrix.ServerName) bool { return p.census.known[s] > 0 }) {
		p.pending[h] = nil
	}
	return nil
}

// writePending writes the waiting events: of a row that goes or changes, the old index rows first.
func (p *plan) writePending(w *writer) {
	for h, x := range p.pending {
		if w.err != nil {
			return
		}
		v, err := w.txn.Get(pendingKey(p.n, h))
		switch {
		case isNotFound(err):
		case err != nil:
			w.err = err
			return
		default:
			_, _, awaited, _, err := decodePending(v)
			if err != nil {
				w.err = err
				return
			}
			for _, on := range awaited {
				w.delete(waitingKey(p.n, on, h))
			}
			w.delete(pendingKey(p.n, h))
		}
		if x == nil {
			continue
		}
		w.set(pendingKey(p.n, h), x.encode())
		for _, on := range x.awaited {
			w.set(waitingKey(p.n, on, h), nil)
		}
	}
}

// lacks: neither held nor waiting.
func (q *reading) lacks(h hash) (bool, error) {
	e, err := q.held(h)
	if e != nil || err != nil {
		return false, err
	}
	_, err = q.rd.Get(pendingKey(q.n, h))
	if isNotFound(err) {
		return true, nil
	}
	return false, err
}
