// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"tarn/dag"
	"tarn/matrix"
)

// A snapshot has the last events of a room. What is before them, or between them and what the node had when it left, is a gap in the
// timeline. It is filled from its upper end by what members' nodes give (older.go); so the events of a gap get their places downwards, from
// right below the snapshot's transaction. Those places are free: the room had no other transaction at that stream position, and a
// position has room for more events than a gap takes. A token that was given at the gap's edge is a cut, which later names the events below it; no /sync
// passes there again, for its positions are past.
//
// What a snapshot showed keeps its place: a piece of the state, say, that its last events follow is shown with them, though what else follows it comes below.
//
// An event that came so is an outlier that is told: the states before and after it are what another node said, or were computed from that. They decide
// what of it a local user sees, and the state before a new event that leans on one; for who leans on what is not told that is the floor.

// gap is one of a room, as the room's row has it.
type gap struct {
	top    seq  // the first place in it that was free; names the gap
	next   seq  // the next place to be given
	count  int  // events that came
	hidden bool // the last of them had nothing that anybody here may see
}

// gapRow is the rest of it, a row of its own. It is written with the events that change it.
type gapRow struct {
	Low     seq              `json:"low"`     // places above this one are free
	Missing []matrix.EventID `json:"missing"` // parents that are not here, those first that are to be asked for first
	Have    []matrix.EventID `json:"have"`    // of each the state after it is here, with its auth chain
}

// maxMissing bounds Missing: who lies can make a gap wide, and no honest room is so wide.
const maxMissing = 1000

func gapKey(n uint32, top seq) []byte {
	k := binary.BigEndian.AppendUint32([]byte{tabAsking, 'p'}, n)
	return binary.BigEndian.AppendUint64(k, uint64(top))
}

// gapRowOf reads one.
func (q *reading) gapRowOf(top seq) (row gapRow, err error) {
	v, err := q.rd.Get(gapKey(q.n, top))
	if err == nil && json.Unmarshal(v, &row) != nil {
		err = errRow
	}
	if err != nil {
		err = fmt.Errorf("reading a gap: %w", err)
	}
	return row, err
}

// stop is the upper end of the first open gap at or below from, and not below end: there reading backwards ends; 0: there is none. While nobody
// answers, what the node has below a gap is shown all the same.
func (q *reading) stop(from, end seq) (out seq, err error) {
	if !q.row.active {
		return 0, nil // nobody can be asked
	}
	for _, g := range q.row.gaps {
		if g.count < q.r.o.Older.Most && end <= g.next && g.next <= from && g.next > out {
			out = g.next
		}
	}
	if out == 0 || !q.r.resting(q.n, time.Now()) {
		return out, nil
	}
	err = q.rd.ScanBack(key(tabTimeline, q.n, 0), timelineKey(q.n, out), func(k, _ []byte) (bool, error) {
		if seqFromKey(k) >= end {
			out = 0
		}
		return false, nil
	})
	return out, err
}

// nearGap says whether a gap is so near below a place that a client soon comes to it.
func (q *reading) nearGap(from seq) (bool, error) {
	stop, err := q.stop(from, 0)
	if stop == 0 || err != nil {
		return false, err
	}
	n := 0
	err = q.rd.ScanBack(key(tabTimeline, q.n, 0), timelineKey(q.n, from), func(k, _ []byte) (bool, error) {
		if seqFromKey(k) <= stop {
			return false, nil
		}
		n++
		return n < olderNear, nil
	})
	return n < olderNear, err
}

// openGap notes what is missing before ids; through are events that have their place in the timeline by this plan, or get none. have is what the state is known
// after. With nothing missing the states of those events are computed.
func (p *plan) openGap(ids []matrix.EventID, through []*matrix.Event, have []matrix.EventID) error {
	pass := map[matrix.EventID]bool{}
	for _, ev := range through {
		pass[ev.ID()] = true
	}
	missing, err := p.missingFrom(ids, pass)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return p.retell(through)
	}
	p.opened = &gapRow{Low: p.row.last, Missing: missing, Have: have[:min(len(have), maxOlderHave)]}
	return nil
}

// missingFrom lists those of ids, and of what is before them, that have no place in the timeline, the nearest first. It goes
// on at those of pass, and at what is shown without a known state.
func (q *reading) missingFrom(ids []matrix.EventID, pass map[matrix.EventID]bool) (out []matrix.EventID, err error) {
	seen := map[matrix.EventID]bool{}
	work := slices.Clone(ids)
	for len(work) > 0 && len(out) < maxMissing {
		id := work[0]
		work = work[1:]
		if seen[id] {
			continue
		}
		seen[id] = true
		e, err := q.byID(id)
		if err != nil {
			return nil, err
		}
		switch {
		case e != nil && (pass[id] || e.outlier && !e.told && e.shown):
			work = append(work, e.ev.PrevEvents()...)
		case e == nil || e.outlier && !e.told:
			out = append(out, id)
		}
	}
	return out, nil
}

// pastView is the graph as far as it is known before the floor: the states that were told count.
type pastView struct{ *plan }

// StateAfter implements dag.View.
func (v pastView) StateAfter(id matrix.EventID) (dag.State, error) {
	e, err := v.byID(id)
	if err != nil || e == nil || e.outlier && !e.told {
		return nil, err
	}
	return v.state(e.after)
}

// retell computes the states of a snapshot's events, as far as those of their parents are known. Whether they are shown, and where, stays.
func (p *plan) retell(events []*matrix.Event) error {
	for _, ev := range dag.Order(events) {
		h := mustHash(ev.ID())
		e, err := p.held(h)
		if err != nil {
			return err
		}
		if e == nil || !e.outlier || e.told {
			continue
		}
		in, err := dag.InsertPast(pastView{p}, p.graph(), ev, nil)
		if err != nil {
			return err
		}
		if len(in.Missing) > 0 {
			continue
		}
		if err := p.tell(p.change(h, e), in); err != nil {
			return err
		}
	}
	return nil
}

// tell notes an event's states.
func (p *plan) tell(e *held, in dag.Insertion) (err error) {
	near := p.near
	if near == 0 {
		near = p.row.current
	}
	if e.before, err = p.idOf(in.Before, near); err != nil {
		return err
	}
	if e.after, err = p.idOf(in.After, e.before); err != nil {
		return err
	}
	e.now, e.told, p.near = e.after, true, e.after
	if slot, ok := e.ev.Slot(); ok && in.Before[slot] != "" {
		e.replaces = mustHash(in.Before[slot])
	}
	return nil
}

// writeGaps is its part of a plan's transaction; it comes before the room's row is written.
func (p *plan) writeGaps(w *writer, first seq) {
	if p.opened != nil {
		// Not right below: a place with the greatest number has the token of the position, and that of position 0 is "the beginning".
		g := gap{top: first - 2, next: first - 2}
		p.row.gaps = append(slices.Clone(p.gapsBefore), g)
		w.set(gapKey(p.n, g.top), object(p.opened))
	}
	if f := p.filled; f != nil {
		if len(f.row.Missing) == 0 || f.next <= f.row.Low {
			p.row.gaps = slices.DeleteFunc(slices.Clone(p.gapsBefore), func(g gap) bool { return g.top == f.top })
			w.delete(gapKey(p.n, f.top))
			return
		}
		p.row.gaps = slices.Clone(p.gapsBefore)
		for i := range p.row.gaps {
			if p.row.gaps[i].top == f.top {
				p.row.gaps[i] = f.gap
			}
		}
		w.set(gapKey(p.n, f.top), object(f.row))
	}
}
