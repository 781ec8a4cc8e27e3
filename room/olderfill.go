// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
)

// OlderPage is a piece of a room's past as a contact answers it: bundle.Older.
type OlderPage struct {
	Events       [][]byte
	Unshown      []matrix.EventID
	States       []OlderState
	Leaned       [][]byte
	Certificates [][]byte
}

// OlderState is the state before one of the events: the first as it is, others as what is different from the first.
type OlderState struct {
	Event matrix.EventID
	Come  []matrix.EventID
	Gone  []matrix.EventID
}

func badOlder(what string) error { return fmt.Errorf("%w: %s", ErrBadPast, what) }

// filled is what a plan does to a gap.
type filled struct {
	gap
	row gapRow
}

// olderPieces are an OlderPage that was read.
type olderPieces struct {
	events  map[matrix.EventID]*matrix.Event
	leaned  map[matrix.EventID]*matrix.Event
	unshown map[matrix.EventID]bool
	states  []OlderState
	certs   []onionid.Certificate
}

// fill puts a page below what the room has; it says how many events found their place. ErrBadPast: nothing of it was taken.
//
// ONE transaction: the events, their states, the gap. A crash before it: the answer was not acknowledged and comes again, to a question that does not stand any
// more, and another is asked. After it: the gap is that much smaller.
func (r *Rooms) fill(ctx context.Context, from matrix.ServerName, room matrix.RoomID, top seq, page *OlderPage) (came int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	in, err := r.readOlder(room, page)
	if errors.Is(err, ErrUnknownEvent) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	l, err := r.get(room)
	if err != nil {
		return 0, err
	}
	errNothing := errors.New("nothing to write")
	_, err = r.write(l, func(p *plan) error {
		i := slices.IndexFunc(p.row.gaps, func(g gap) bool { return g.top == top })
		if i < 0 || !p.row.active || p.row.gaps[i].count >= r.o.Older.Most {
			return errNothing
		}
		if denied, err := p.denied(from); denied || err != nil {
			return errors.Join(err, errNothing)
		}
		p.filled = &filled{gap: p.row.gaps[i]}
		if p.filled.row, err = p.gapRowOf(top); err != nil {
			return err
		}
		if came, err = p.fill(in); err == nil && came == 0 {
			err = errNothing
		}
		return err
	})
	if errors.Is(err, errNothing) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("filling a gap: %w", err)
	}
	return came, nil
}

// readOlder checks the bounds, and each event by itself: its form, room and signature.
func (r *Rooms) readOlder(room matrix.RoomID, page *OlderPage) (in *olderPieces, err error) {
	size := 0
	for _, raw := range slices.Concat(page.Events, page.Leaned) {
		size += len(raw)
	}
	if len(page.Events) > olderPage || len(page.Leaned) > maxSnapshot || size > maxSnapshotSize || len(page.Certificates) > maxCertificates || len(page.States) > olderPage {
		return nil, badOlder("too large")
	}
	in = &olderPieces{events: map[matrix.EventID]*matrix.Event{}, leaned: map[matrix.EventID]*matrix.Event{}, unshown: map[matrix.EventID]bool{}, states: page.States}
	given := map[string]onionid.Certificate{}
	for _, raw := range page.Certificates {
		x, err := onionid.ParseCertificate(raw)
		if err != nil {
			return nil, badOlder("a certificate")
		}
		given[string(x.Server)+" "+x.KeyID] = x
		in.certs = append(in.certs, x)
	}
	for _, id := range page.Unshown {
		in.unshown[id] = true
	}
	keys := r.keysWith(given)
	err = r.read(room, func(q *reading) error {
		take := func(raws [][]byte, into map[matrix.EventID]*matrix.Event) error {
			for _, raw := range raws {
				ev, err := matrix.Parse(q.row.version, raw)
				if err != nil || ev.Room() != room {
					return badOlder("an event")
				}
				e, err := q.held(mustHash(ev.ID()))
				if err != nil {
					return err
				}
				if e != nil && (!e.spoilt || ev.Redacted()) {
					ev = e.ev // checked when it came
				} else if err := ev.Verify(keys); errors.Is(err, matrix.ErrUnknownKey) {
					return ErrUnknownEvent // a certificate is missing; another may have it
				} else if err != nil {
					return badOlder("an event's signature")
				}
				into[ev.ID()] = ev
			}
			return nil
		}
		if err := take(page.Events, in.events); err != nil {
			return err
		}
		return take(page.Leaned, in.leaned)
	})
	return in, err
}

// fill plans it.
func (p *plan) fill(in *olderPieces) (came int, err error) {
	past, err := p.reached(in)
	if err != nil || len(past) == 0 {
		return 0, err
	}
	if err := p.lean(in, past); err != nil {
		return 0, err
	}
	states := map[matrix.EventID]OlderState{}
	for _, s := range in.states {
		states[s.Event] = s
	}
	f := p.filled
	var seats []hash
	said, seen := 0, 0
	f.row.Have = nil
	for _, ev := range dag.Order(past) {
		h := mustHash(ev.ID())
		e, err := p.held(h)
		if err != nil {
			return 0, err
		}
		var before dag.State
		if s, ok := states[ev.ID()]; ok {
			if before, err = p.toldState(in, s); err != nil {
				return 0, err
			}
			if len(f.row.Have) < maxOlderHave {
				f.row.Have = append(f.row.Have, ev.ID())
			}
		}
		ins, err := dag.InsertPast(pastView{p}, p.graph(), ev, before)
		if errors.Is(err, dag.ErrIncomplete) || len(ins.Missing) > 0 {
			return 0, badOlder("an event that stands on nothing")
		}
		if err != nil {
			return 0, err
		}
		placed := e != nil && e.shown // it came with the snapshot, or was all that a user saw of the room; its place stays
		if e == nil {
			e = &held{ev: ev}
		} else {
			c := *e
			e = &c
		}
		p.changed[h] = e
		if e.ev != ev || !e.outlier { // new here, or whole now
			e.ev, e.spoilt, e.outlier = ev, ev.Redacted(), true
		}
		if err := p.tell(e, ins); err != nil {
			return 0, err
		}
		if placed {
			continue
		}
		if e.status = ins.Status; e.status == dag.Accepted && in.unshown[ev.ID()] {
			e.status = dag.SoftFailed
		}
		e.shown = e.status == dag.Accepted
		seats = append(seats, h)
		if ev.StateKey() == nil {
			if said++; !e.spoilt {
				seen++
			}
		}
		if err := p.edges(ev); err != nil {
			return 0, err
		}
	}
	return len(past), p.seats(seats, past, said > 0 && seen == 0)
}

// reached are the events of a page that the gap's missing ones lead to, and that have no known state yet.
func (p *plan) reached(in *olderPieces) (past []*matrix.Event, err error) {
	seen := map[matrix.EventID]bool{}
	work := slices.Clone(p.filled.row.Missing)
	for len(work) > 0 {
		id := work[len(work)-1]
		work = work[:len(work)-1]
		ev := in.events[id]
		if ev == nil || seen[id] {
			continue
		}
		seen[id] = true
		e, err := p.byID(id)
		if err != nil {
			return nil, err
		}
		if e != nil && (!e.outlier || e.told) {
			continue
		}
		past = append(past, ev)
		work = append(work, ev.PrevEvents()...)
	}
	return past, nil
}

// lean takes what the events and the states lean on, as far as it is not here, as outliers that are not shown.
func (p *plan) lean(in *olderPieces, past []*matrix.Event) error {
	need := map[matrix.EventID]bool{}
	var work []matrix.EventID
	for _, ev := range past {
		work = append(work, ev.AuthEvents()...)
	}
	for _, s := range in.states {
		work = append(work, s.Come...)
	}
	var events []*matrix.Event
	for len(work) > 0 {
		id := work[len(work)-1]
		work = work[:len(work)-1]
		ev := in.leaned[id]
		if ev == nil {
			ev = in.events[id] // one of the page that is state for others
		}
		if ev == nil || need[id] {
			continue
		}
		need[id] = true
		if e, err := p.byID(id); e != nil || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		events = append(events, ev)
		work = append(work, ev.AuthEvents()...)
	}
	signed := map[matrix.ServerName]bool{}
	for _, ev := range slices.Concat(events, past) {
		for server := range ev.PDU().Signatures {
			signed[matrix.ServerName(server)] = true
		}
	}
	for _, c := range in.certs {
		if signed[matrix.ServerName(c.Server)] {
			p.certificates = append(p.certificates, c)
		}
	}
	for _, ev := range dag.Order(events) {
		status, _, missing := dag.InsertOutlier(p, p.row.version, ev)
		if status == 0 || len(missing) > 0 {
			continue // what leans on it will be found to stand on nothing
		}
		p.add(mustHash(ev.ID()), &held{ev: ev, status: status, outlier: true, spoilt: ev.Redacted()})
		if err := p.edges(ev); err != nil {
			return err
		}
	}
	return nil
}

// toldState is a state of a page.
func (p *plan) toldState(in *olderPieces, s OlderState) (dag.State, error) {
	out := dag.State{}
	set := func(ids []matrix.EventID) error {
		for _, id := range ids {
			e, err := p.byID(id)
			if err != nil {
				return err
			}
			if e == nil || e.status == dag.Rejected {
				return badOlder("a state that is not here, or not allowed")
			}
			slot, ok := e.ev.Slot()
			if !ok {
				return badOlder("a state with no state in it")
			}
			out[slot] = id
		}
		return nil
	}
	if first := in.states[0]; first.Event != s.Event {
		if err := set(first.Come); err != nil {
			return nil, err
		}
		gone := map[matrix.EventID]bool{}
		for _, id := range s.Gone {
			gone[id] = true
		}
		maps.DeleteFunc(out, func(_ matrix.StateKey, id matrix.EventID) bool { return gone[id] })
	}
	if err := set(s.Come); err != nil {
		return nil, err
	}
	if create := (matrix.StateKey{Type: matrix.TypeCreate}); out[create] != p.current[create] {
		return nil, badOlder("a state of another room")
	}
	return out, nil
}

// seats gives the new events of a page their places, the last the highest one that is free, and notes what is missing now.
func (p *plan) seats(seats []hash, past []*matrix.Event, hidden bool) error {
	f := p.filled
	placed := map[hash]bool{}
	for _, h := range slices.Backward(seats) {
		if f.next <= f.row.Low {
			break // no places left: it is held, and not shown
		}
		e := p.changed[h]
		e.place = f.next
		f.next--
		f.count++
		p.seated = append(p.seated, h)
		placed[h] = true
	}
	p.fresh = slices.DeleteFunc(p.fresh, func(h hash) bool { return placed[h] }) // those that others lean on too
	for _, h := range seats {
		e := p.changed[h]
		if !placed[h] {
			e.place, e.shown = max(f.row.Low, 1), false
		}
		if !e.shown {
			continue
		}
		if err := p.redactions(h, e); err != nil {
			return err
		}
		if err := p.relate(h, p.changed[h]); err != nil {
			return err
		}
	}
	pass := map[matrix.EventID]bool{}
	for _, ev := range past {
		pass[ev.ID()] = true
	}
	var err error
	if f.row.Missing, err = p.missingFrom(f.row.Missing, pass); err != nil {
		return err
	}
	f.hidden = hidden
	return p.retellAbove(f.top)
}

// retellAbove computes the states of the snapshot's events that stand on what has come.
func (p *plan) retellAbove(top seq) error {
	var events []*matrix.Event
	err := p.walk(top+1, ^seq(0), false, func(x placed) (bool, error) {
		if x.outlier && !x.told {
			events = append(events, x.ev)
		}
		return x.outlier && len(events) < 4*historyEvents, nil
	})
	if err != nil {
		return err
	}
	return p.retell(events)
}
