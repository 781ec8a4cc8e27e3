// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn/bundle"
	"tarn/store"
)

// assembly is a record of which some fragments came.
type assembly struct {
	count, have int
	bytes       int
	kind        bundle.Type
	first       time.Time
	seen        []uint64 // bitmap
	done        bool     // an inbox row stands for it
}

// piece is a row of tableAssembly.
type piece struct {
	bundle.Fragment
	received time.Time
}

func (p *piece) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.time(p.received)
	w.bytes(marshalFragment(p.Fragment))
	return w.b
}

func parsePiece(b []byte) (piece, error) {
	r := reader{b: b}
	r.version()
	p := piece{received: r.time()}
	row := r.bytes(2 * bundle.MaxInflated)
	if err := r.end(); err != nil {
		return p, err
	}
	var err error
	p.Fragment, err = parseFragment(row)
	return p, err
}

// noteFragment counts a fragment; false: it is there already, or does not fit the others.
func (c *contact) noteFragment(id [16]byte, index int, p piece) bool {
	a := c.partial[id]
	if a == nil {
		a = &assembly{count: int(p.Count), kind: p.Type, first: p.received, seen: make([]uint64, (p.Count+63)/64)}
		c.partial[id] = a
	}
	if int(p.Count) != a.count || p.Type != a.kind || index != int(p.Index) || a.seen[index/64]&(1<<(index%64)) != 0 {
		return false
	}
	a.seen[index/64] |= 1 << (index % 64)
	a.have++
	a.bytes += len(p.Data)
	c.bytes += len(p.Data)
	if p.received.Before(a.first) {
		a.first = p.received
	}
	return true
}

// drop forgets an assembly in memory.
func (c *contact) drop(id [16]byte) {
	if a := c.partial[id]; a != nil {
		c.bytes -= a.bytes
		delete(c.partial, id)
	}
}

// oldest is the unfinished record that began first, kept aside.
func (c *contact) oldest(but [16]byte) (id [16]byte, ok bool) {
	var first time.Time
	for k, a := range c.partial {
		if !a.done && k != but && (!ok || a.first.Before(first)) {
			id, first, ok = k, a.first, true
		}
	}
	return id, ok
}

// inboxPlan is what a received box's fragments do: to the disk (write) and, after the commit, to memory (apply).
type inboxPlan struct {
	c       *contact
	rows    map[string][]byte
	dropped [][16]byte
	records int
}

// planInbox decides where each fragment goes: a whole record into the inbox; a piece to its siblings; with the last
// piece an inbox row that names them. Unfinished records beyond the limits are given up, oldest first: an honest
// sender has one at a time.
func (e *Engine) planInbox(c *contact, at boxAt, fragments []bundle.Fragment, now time.Time) *inboxPlan {
	p := &inboxPlan{c: c, rows: map[string][]byte{}}
	peer := string(c.name)
	for place, f := range fragments {
		// created: a contact that is made anew begins its indices anew, and rows of before may still wait.
		key := store.Key(tableInbox, peer, uint64(c.created.UnixMilli()), uint64(at.epoch), at.index, uint64(place))
		if f.Count <= 1 {
			p.rows[string(key)] = (&inboxRow{received: now, kind: f.Type, data: f.Data}).marshal()
			p.records++
			continue
		}
		pc := piece{Fragment: f, received: now}
		if !c.noteFragment(f.ID, int(f.Index), pc) {
			continue
		}
		p.rows[string(store.Key(tableAssembly, peer, f.ID[:], uint64(f.Index)))] = pc.marshal()
		if a := c.partial[f.ID]; a.have == a.count {
			a.done = true
			p.rows[string(key)] = (&inboxRow{received: now, kind: f.Type, assembled: true, data: bytes.Clone(f.ID[:])}).marshal()
			p.records++
		}
		for c.bytes > maxPartial || len(c.partial) > maxSets {
			id, ok := c.oldest(f.ID)
			if !ok {
				break
			}
			e.counts.refused.Add(1)
			c.drop(id)
			p.dropped = append(p.dropped, id)
			prefix := string(store.Key(tableAssembly, peer, id[:]))
			maps.DeleteFunc(p.rows, func(k string, _ []byte) bool { return strings.HasPrefix(k, prefix) })
		}
	}
	return p
}

// reloadPartial counts the fragments on disk again, after a plan that did not come to be.
func (e *Engine) reloadPartial(c *contact) error {
	c.partial, c.bytes = map[[16]byte]*assembly{}, 0
	return e.kv.View(func(r store.Reader) error { return loadPartial(r, c) })
}

func loadPartial(r store.Reader, c *contact) error {
	err := scanOf(r, tableAssembly, string(c.name), func(k *store.KeyReader, v []byte) error {
		id, index := k.String(), k.Uint64()
		p, err := parsePiece(v)
		if err != nil || k.Err() != nil || len(id) != 16 {
			return errors.Join(ErrRow, err, k.Err())
		}
		c.noteFragment([16]byte([]byte(id)), int(index), p)
		return nil
	})
	for _, a := range c.partial {
		a.done = a.have == a.count // the inbox row came with the last piece
	}
	return err
}

func (p *inboxPlan) write(txn store.Txn) error {
	for _, id := range p.dropped {
		if err := eraseAssembly(txn, p.c, id); err != nil {
			return err
		}
	}
	for k, v := range p.rows {
		if err := txn.Set([]byte(k), v); err != nil {
			return err
		}
	}
	return nil
}

func (p *inboxPlan) apply() { p.c.inbox += p.records }

func eraseAssembly(txn store.Txn, c *contact, id [16]byte) error {
	return txn.Scan(store.Key(tableAssembly, string(c.name), id[:]), nil, func(k, _ []byte) (bool, error) {
		return true, txn.Delete(slices.Clone(k))
	})
}
