// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/binary"
	"fmt"
	"slices"

	"tarn/matrix"
	"tarn/store"
)

// commit writes the plan in one transaction. The caller holds the room's lock.
//
// What a crash means: before the transaction is durable nothing happened, here or anywhere else: the outbox's rows are
// part of it, nobody was told, and the client got no answer and sends again under the same transaction id. After it is durable
// everything happened: a client that got no answer sends again and is given the event id that its transaction id has. There is nothing
// in between: what is in memory (census, caches) is a copy of rows.
func (p *plan) commit() (store.Pos, error) {
	r, l := p.r, p.l
	for h, e := range p.changed {
		if e.place == 0 && !slices.Contains(p.fresh, h) {
			return 0, fmt.Errorf("committing: an event without a place")
		}
	}
	if len(p.fresh) > maxSub {
		l.abandon()
		return 0, fmt.Errorf("%w: %d events in one transaction", ErrTooLarge, len(p.fresh))
	}
	states := make(map[uint32][]byte, len(p.states))
	for id, s := range p.states {
		states[id] = s.row.encode()
	}
	p.row.active = false
	topics := make([]string, 0, len(p.census.locals)+len(p.topics))
	for u, m := range p.census.locals {
		topics = append(topics, string(u))
		p.row.active = p.row.active || m == matrix.MemberJoin
		delete(p.topics, u)
	}
	for u := range p.topics {
		topics = append(topics, string(u))
	}
	changes, err := r.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		// Before anything of this can be seen: a Sync that finds it too great looks and finds nothing.
		l.last.Store(max(l.last.Load(), uint64(pos)))
		p.row.last = seqOf(pos, max(0, len(p.fresh)-1))
		for i, h := range p.fresh {
			if e := p.changed[h]; e.shown && bumps(e.ev) {
				p.row.bump = seqOf(pos, i)
				l.bump.Store(max(l.bump.Load(), uint64(p.row.bump)))
			}
		}
		return topics, p.write(txn, pos, states)
	})
	if err != nil {
		l.abandon()
		return 0, fmt.Errorf("writing a room: %w", err)
	}
	p.keep()
	return changes, nil
}

// write writes the rows.
func (p *plan) write(txn store.Txn, pos store.Pos, states map[uint32][]byte) error {
	var w writer
	w.txn = txn
	p.writeGaps(&w, seqOf(pos, 0))
	w.set(roomKey(p.n), p.row.encode())
	for id, row := range states {
		w.set(stateKey(p.n, id), row)
	}
	for _, s := range p.unseated {
		w.delete(timelineKey(p.n, s))
	}
	for i, h := range p.fresh {
		p.changed[h].place = seqOf(pos, i)
	}
	for h, e := range p.changed {
		w.set(eventKey(p.n, h), e.encode())
	}
	for _, h := range slices.Concat(p.fresh, p.seated) {
		if e := p.changed[h]; e.shown {
			w.set(timelineKey(p.n, e.place), h[:])
			w.set(timeKey(p.n, e.ev.Time().UnixMilli(), e.place), nil)
			p.link(&w, h, e)
			p.index(&w, e)
		}
	}
	for _, h := range p.unlinked {
		p.unlink(&w, h, p.changed[h])
		p.unindex(&w, p.changed[h])
	}
	p.writeMembers(&w)
	for _, t := range p.txns {
		w.set(txnKey(t.hash), append(binary.BigEndian.AppendUint32(nil, t.day), t.event[:]...))
		w.set(txnDayKey(t.day, t.hash), nil)
	}
	for k := range p.redacts {
		w.set(redactionKey(p.n, k[0], k[1]), nil)
	}
	for h := range p.edge {
		w.set(edgeKey(p.n, h), nil)
	}
	for a := range p.aliases {
		// Looked up again: two rooms may be made at once.
		if v, err := txn.Get(aliasKey(a)); err == nil && string(v) != string(p.row.id) {
			return ErrAliasInUse
		}
		w.set(aliasKey(a), []byte(p.row.id))
		w.set(roomAliasKey(p.row.id, a), nil)
	}
	p.writePending(&w)
	p.writeStripped(&w)
	for _, x := range p.certificates {
		if w.err == nil {
			w.err = putCertificate(txn, x)
		}
	}
	for _, d := range p.outbox {
		if w.err == nil {
			w.err = store.Enqueue(txn, string(d.to), d.kind, d.data)
		}
	}
	if w.err == nil && len(p.txns) > 0 {
		w.err = forgetTxns(txn, p.txns[0].day)
	}
	return w.err
}

// writeMembers writes the member table, and what local users know of the room.
func (p *plan) writeMembers(w *writer) {
	for _, m := range p.members {
		if m.event == (hash{}) {
			w.delete(memberKey(p.n, m.user))
		} else {
			w.set(memberKey(p.n, m.user), memberRow(m.to, m.event))
		}
		if p.r.local(m.user) {
			p.writeUser(w, m.user, userRow{membership: m.to, event: m.event}, m.by)
		}
	}
	for u, c := range p.users {
		p.writeUser(w, u, c.row, c.by)
	}
	for s := range p.servers {
		if s == p.r.server() {
			continue
		}
		if p.census.servers[s] > 0 {
			w.set(serverKey(s, p.n), nil)
			w.delete(partedKey(p.n, s))
		} else {
			w.delete(serverKey(s, p.n))
			if by, ok := p.parted[s]; ok {
				w.set(partedKey(p.n, s), binary.AppendUvarint(nil, uint64(p.changed[by].place)))
			}
		}
		if p.census.guests[s] > 0 {
			w.set(guestKey(s, p.n), nil)
		} else {
			w.delete(guestKey(s, p.n))
		}
	}
}

// writeUser writes a local user's standing as of the event by.
func (p *plan) writeUser(w *writer, u matrix.UserID, row userRow, by hash) {
	if w.err != nil {
		return
	}
	row.place = p.changed[by].place
	v, err := w.txn.Get(userKey(u, p.n))
	var old userRow
	if err == nil {
		old, err = decodeUser(v)
	} else if isNotFound(err) {
		err = nil
	}
	if err != nil {
		w.err = err
		return
	}
	if row.membership == old.membership {
		// A new name, or the invite once more by the graph: the standing is as old as it was.
		if row.membership != matrix.MemberInvite {
			row.place = old.place
		}
		row.forgotten = old.forgotten
	} else {
		w.set(historyKey(p.n, u, row.place), memberRow(row.membership, row.event))
		row.forgotten = old.forgotten && row.membership != matrix.MemberJoin && row.membership != matrix.MemberInvite
	}
	w.set(userKey(u, p.n), row.encode())
}

// keep takes the committed plan into memory.
func (p *plan) keep() {
	l := p.l
	row := p.row
	l.row, l.census = &row, p.census
	if p.opened != nil || p.filled != nil {
		p.r.noteGaps(p.n, &row)
	}
	l.tally.Store(p.census.tally(p.r.server()))
	if len(p.members)+len(p.users) > 0 {
		p.r.memberships.Add(1) // after the commit: who saw it before looks again
	}
	for id, s := range p.states {
		p.r.states.put(stateID{p.n, id}, s.chained, len(s.state)*stateCost)
	}
	p.r.events.together(func(put func(eventID, *held, int)) {
		p.r.changes.Add(1)
		for h, e := range p.changed {
			e.ev.Compact() // the few that the rules ask about are read again, once
			put(eventID{p.n, h}, e, eventCost+len(e.ev.Raw()))
		}
	})
}

// writer keeps the first error.
type writer struct {
	txn store.Txn
	err error
}

func (w *writer) set(k, v []byte) {
	if w.err == nil {
		w.err = w.txn.Set(k, v)
	}
}

func (w *writer) delete(k []byte) {
	if w.err == nil {
		w.err = w.txn.Delete(k)
	}
}
