// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
)

// Ingested says what became of events from another node.
type Ingested struct {
	Stored  []matrix.EventID                   // new here, now durable
	Missing map[matrix.RoomID][]matrix.EventID // to be asked for: parents and auth events not held
	Unknown []matrix.ServerName                // servers whose certificate is not known: their events were dropped, to be asked for again with it
	Bad     int                                // refused: malformed, wrong signature, sender's server has no business in the room
	Forged  int                                // of them, those that no honest node gives to another: malformed, of another room, without its signature
	Torn    []Torn                             // what is stored without its content for now
	Shown   []matrix.EventID                   // what the contact has shown to have: what it delivered, and the parents of that
}

// Torn is an event that came with its content cut out, though users here may read it: who gave it did not have it whole either, or
// could not know that they may.
type Torn struct {
	Event matrix.EventID
	Ask   []matrix.ServerName // contacts in the room beside the giver: the author's first
}

// maxTellers is how many contacts are asked for the whole form of one event.
const maxTellers = 3

// Bounds of one Ingest.
const (
	maxIngest  = 10_000 // events; more are refused
	planEvents = 256    // events of one transaction
)

// Ingest takes raw events of a room as another node gave them. Each is verified (signature by a known certificate,
// auth rules) and stored in a transaction like Send's, and passed on (relay.go); what lacks parents waits, durably and bounded, and is inserted when they come. Doubles are nothing.
// from is the contact that delivered, not the author. When it returns nil the events need not be delivered again.
// Events of a room that the node takes no part in count as Bad, but for those that say what became of a local user (ended.go).
func (r *Rooms) Ingest(ctx context.Context, from matrix.ServerName, room matrix.RoomID, events [][]byte) (Ingested, error) {
	var out Ingested
	if err := ctx.Err(); err != nil {
		return out, err
	}
	l, err := r.get(room)
	if errors.Is(err, ErrUnknownRoom) {
		out.Bad = len(events)
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if len(events) > maxIngest {
		out.Bad += len(events) - maxIngest
		events = events[:maxIngest]
	}
	in := &ingest{r: r, l: l, room: room, from: from, out: &out, todo: map[hash]*candidate{}, waits: map[hash][]hash{}}
	if err := in.verify(events); err != nil {
		return out, err
	}
	if len(in.todo) == 0 {
		return out, nil
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	// Events are committed by pieces, parents before children. A crash between two pieces: the sender got no
	// acknowledgement, delivers all again, and what is held by then is a double.
	for more := true; more; {
		if more, err = in.piece(); err != nil {
			return out, fmt.Errorf("taking events: %w", err)
		}
	}
	return out, nil
}

// candidate is a verified event that is to be inserted.
type candidate struct {
	ev      *matrix.Event
	from    matrix.ServerName
	spoilt  bool
	parked  bool // came out of the pending table
	awaited []hash
}

// ingest is one call of Ingest.
type ingest struct {
	r       *Rooms
	l       *live
	room    matrix.RoomID
	from    matrix.ServerName
	out     *Ingested
	todo    map[hash]*candidate     // not inserted yet
	waits   map[hash][]hash         // candidates by what they wait for
	work    []hash                  // candidates to be tried, the last first
	ungiven map[matrix.EventID]bool // those that nobody gives (without.go)
}

// verify parses the events and checks their signatures, before any lock is taken.
func (in *ingest) verify(events [][]byte) error {
	return in.r.read(in.room, func(q *reading) error {
		if denied, err := q.denied(in.from); denied || err != nil {
			in.out.Bad += len(events)
			return err
		}
		keys := in.r.keysWith(map[string]onionid.Certificate{})
		for _, raw := range events {
			ev, err := matrix.Parse(q.row.version, raw)
			if err != nil || ev.Room() != in.room {
				in.out.Bad++
				in.out.Forged++
				continue
			}
			h := mustHash(ev.ID())
			in.out.Shown = append(append(in.out.Shown, ev.ID()), ev.PrevEvents()...)
			spoilt := ev.Redacted()
			e, err := q.held(h)
			if err != nil {
				return err
			}
			if in.todo[h] != nil && (spoilt || !in.todo[h].spoilt) || e != nil && !e.outlier && (spoilt || !e.spoilt) {
				continue // a double
			}
			err = ev.Verify(keys)
			switch {
			case err == nil:
				in.todo[h] = &candidate{ev: ev, from: in.from, spoilt: spoilt}
			case errors.Is(err, matrix.ErrUnknownKey):
				if !slices.Contains(in.out.Unknown, ev.Server()) {
					in.out.Unknown = append(in.out.Unknown, ev.Server())
				}
			case errors.Is(err, matrix.ErrSignature), errors.Is(err, matrix.ErrFormat):
				in.out.Bad++
				in.out.Forged++
			default:
				return err
			}
		}
		in.queueAll()
		return nil
	})
}

// queueAll puts all candidates to work, parents (by depth) first.
func (in *ingest) queueAll() {
	events := make([]*matrix.Event, 0, len(in.todo))
	for _, c := range in.todo {
		events = append(events, c.ev)
	}
	slices.SortFunc(events, func(a, b *matrix.Event) int { return byDepth(b, a) })
	in.work = in.work[:0]
	for _, ev := range events {
		in.work = append(in.work, mustHash(ev.ID()))
	}
}

// piece inserts up to planEvents and commits them; with the last piece, what has to wait.
func (in *ingest) piece() (more bool, err error) {
	var p *plan
	var stored []matrix.EventID
	err = in.r.view(func(rd snapshot) error {
		if p, err = in.r.begin(in.l, rd); err != nil {
			return err
		}
		if !p.row.active {
			if err := in.latecomers(p); err != nil {
				return err
			}
			return in.retractions(p)
		}
		p.ungiven = in.ungiven
		for len(in.work) > 0 && len(p.fresh) < planEvents {
			h := in.work[len(in.work)-1]
			in.work = in.work[:len(in.work)-1]
			c := in.todo[h]
			if c == nil {
				continue
			}
			ok, err := in.offer(p, h, c)
			if err != nil {
				return err
			}
			if ok {
				stored = append(stored, c.ev.ID())
			}
		}
		if err := p.standDown(); err != nil {
			return err
		}
		if more = len(in.work) > 0; more {
			return nil
		}
		return in.rest(p)
	})
	if err != nil {
		in.l.abandon()
		return false, err
	}
	if len(p.changed) == 0 && len(p.pending) == 0 {
		return more, nil
	}
	if _, err := p.commit(); err != nil {
		return false, err
	}
	in.out.Stored = append(in.out.Stored, stored...)
	return more, nil
}

// offer tries to insert a candidate; ok: it is in the graph now.
func (in *ingest) offer(p *plan, h hash, c *candidate) (ok bool, err error) {
	done := func() {
		delete(in.todo, h)
		if c.parked {
			p.pending[h] = nil
		}
	}
	if c.spoilt && !c.parked {
		// The whole one may be waiting already: it is not given up for this.
		x, err := p.pendingEvent(h)
		if err != nil {
			return false, err
		}
		if _, gone := p.pending[h]; x != nil && !x.spoilt && !gone {
			c.ev, c.from, c.spoilt, c.parked = x.ev, x.from, false, true
		}
	}
	e, err := p.held(h)
	if err != nil {
		return false, err
	}
	rooted := false
	if e != nil {
		if rooted, err = p.rooted(e); err != nil {
			return false, err
		}
	}
	if rooted {
		done()
		if e.spoilt && !c.spoilt {
			// What came first was not what its author wrote.
			e = p.change(h, e)
			e.ev, e.spoilt = c.ev, false
			return false, p.again(e, c.from)
		}
		return false, nil
	}
	awaited := len(in.waits[h]) > 0
	if !awaited && p.row.floor != 0 {
		waiters, err := p.waitersFor(h)
		if err != nil {
			return false, err
		}
		awaited = len(waiters) > 0
	}
	got, missing, err := p.accept(c.ev, c.from, awaited)
	if errors.Is(err, dag.ErrOtherRoom) || errors.Is(err, dag.ErrHeld) {
		done()
		in.out.Bad++
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(missing) > 0 {
		return false, in.await(p, h, c, missing)
	}
	done()
	if got == nil {
		if past, err := p.past(c.ev); past || err != nil {
			return false, err
		}
		in.out.Bad++
		return false, nil
	}
	if got.spoilt = c.spoilt; got.spoilt {
		if err := in.torn(p, got, c.from); err != nil {
			return false, err
		}
	}
	in.work = append(in.work, in.waits[h]...)
	delete(in.waits, h)
	return got.status != dag.Rejected, in.unpark(p, h)
}

// torn notes that an event is to be asked for again.
func (in *ingest) torn(p *plan, e *held, from matrix.ServerName) error {
	if torn, err := p.torn(e); !torn || err != nil {
		return err
	}
	t, err := p.tallyOf()
	if err != nil {
		return err
	}
	ask := slices.DeleteFunc(slices.Clone(in.r.contacts(t.remotes)), func(s matrix.ServerName) bool { return s == from })
	author := e.ev.Server()
	slices.SortStableFunc(ask, func(a, b matrix.ServerName) int {
		if a == author {
			return -1
		}
		if b == author {
			return 1
		}
		return 0
	})
	if len(ask) > 0 {
		in.out.Torn = append(in.out.Torn, Torn{e.ev.ID(), ask[:min(len(ask), maxTellers)]})
	}
	return nil
}

// await notes what a candidate waits for. What is held as an outlier only, and is not rooted, is tried itself.
func (in *ingest) await(p *plan, h hash, c *candidate, missing []matrix.EventID) error {
	c.awaited = c.awaited[:0]
	for _, id := range missing {
		m, err := hashOf(id)
		if err != nil {
			continue
		}
		c.awaited = append(c.awaited, m)
		in.waits[m] = append(in.waits[m], h)
		if in.todo[m] != nil {
			continue
		}
		e, err := p.held(m)
		if err != nil {
			return err
		}
		if e != nil {
			in.todo[m] = &candidate{ev: e.ev, from: c.from, spoilt: e.spoilt}
			in.work = append(in.work, m)
			continue
		}
		// It may be waiting itself, and what it waits for be here by now.
		x, err := p.pendingEvent(m)
		if err != nil {
			return err
		}
		if x != nil && p.pending[m] == nil {
			in.todo[m] = &candidate{ev: x.ev, from: x.from, spoilt: x.spoilt, parked: true}
			in.work = append(in.work, m)
		}
	}
	return nil
}

// unpark tries what waited for an event that is held now.
func (in *ingest) unpark(p *plan, h hash) error {
	waiters, err := p.waitersFor(h)
	if err != nil {
		return err
	}
	for _, w := range waiters {
		if in.todo[w] != nil {
			in.todo[w].parked = true
			continue
		}
		if _, gone := p.pending[w]; gone {
			continue
		}
		x, err := p.pendingEvent(w)
		if err != nil {
			return err
		}
		if x != nil {
			in.todo[w] = &candidate{ev: x.ev, from: x.from, spoilt: x.spoilt, parked: true}
			in.work = append(in.work, w)
		}
	}
	return nil
}

// rest parks what is left and says what is missing.
func (in *ingest) rest(p *plan) error {
	var rows []*pendingRow
	missing := map[matrix.EventID]bool{}
	for _, c := range in.todo {
		for _, m := range c.awaited {
			if in.todo[m] != nil {
				continue
			}
			lacks, err := p.lacks(m)
			if err != nil {
				return err
			}
			if lacks {
				missing[m.id()] = true
			}
		}
		rows = append(rows, &pendingRow{c.ev, c.from, slices.Clone(c.awaited), c.spoilt})
	}
	slices.SortFunc(rows, func(a, b *pendingRow) int { return byDepth(a.ev, b.ev) })
	if len(missing) > 0 {
		ids := make([]matrix.EventID, 0, len(missing))
		for id := range missing {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		in.out.Missing = map[matrix.RoomID][]matrix.EventID{in.room: ids}
	}
	clear(in.todo)
	return p.park(rows)
}

// accept inserts an event if what it needs is there. nil without missing: it is not even kept. awaited: another event
// waits for it.
func (p *plan) accept(ev *matrix.Event, from matrix.ServerName, awaited bool) (*held, []matrix.EventID, error) {
	if past, err := p.past(ev); past || err != nil {
		if err != nil || !awaited {
			return nil, nil, err
		}
		return p.outlie(ev)
	}
	in, err := p.try(ev)
	if err != nil {
		return nil, nil, err
	}
	if len(in.Missing) > 0 {
		return nil, in.Missing, nil
	}
	if in.Status == dag.Rejected && p.stranger(ev) {
		return nil, nil, nil
	}
	denied, err := p.soften(ev, &in)
	if err != nil {
		return nil, nil, err
	}
	to, err := p.recipients(ev, from, in.Before)
	if err != nil {
		return nil, nil, err
	}
	e, err := p.put(ev, in)
	if err != nil || in.Status == dag.Rejected || denied {
		return e, nil, err
	}
	if in.Status == dag.SoftFailed {
		if err := p.turnAway(ev, from); err != nil {
			return nil, nil, err
		}
	}
	more, err := p.farewells(ev, from, to)
	p.outbox = append(append(p.outbox, to...), more...)
	if in.Status == dag.Accepted && decides(ev) {
		p.verdicts = append(p.verdicts, mustHash(ev.ID()))
	}
	return e, nil, err
}

// stranger: nobody of the event's server was ever in the room. What the rules refuse of such a server is not worth a row.
func (p *plan) stranger(ev *matrix.Event) bool { return p.census.known[ev.Server()] == 0 }
