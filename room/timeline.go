// SPDX-License-Identifier: Apache-2.0

package room

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// Entry is an event with what is known of it here.
type Entry struct {
	*matrix.Event
	Pos         store.Pos // its place in the local order
	Txn         string    // set only if (user, device) that asks sent it
	device      matrix.DeviceID
	txn         string // of device, if the user sent the event
	RedactedBy  *matrix.Event
	PrevContent json.RawMessage // of the state it replaced, for unsigned
	Related     *Related        // what others say of it; nil: nothing

	look *looking // within a function that chooses entries
}

// Page is a piece of a room's history in local order: every event exactly once over all pages.
type Page struct {
	Events     []Entry
	Start, End store.Pos // cuts in the order, to be given back as they are (not to be computed with). End: where to go on; More: there is something there
	More       bool
	// Older: the page ends where what the node has ends, and more may come from others (older.go). More is true too.
	Older bool
}

// maxScan bounds how many events one page looks at to find those that the user may see and the filter keeps: a page may
// have fewer than asked for, with More.
const maxScan = 2000

// placed is an event of the timeline.
type placed struct {
	*held
	h hash
}

// walk gives the timeline's events from a place on, up or down, until fn returns false or end (inclusive) is passed. It
// reads them in pieces, so that no scan stays open while events are read.
func (q *reading) walk(from, end seq, back bool, fn func(placed) (bool, error)) error {
	const piece = 64
	prefix := key(tabTimeline, q.n, 0)
	for {
		var hashes []hash
		var places []seq
		visit := func(k, v []byte) (bool, error) {
			s := seqFromKey(k)
			if back && s < end || !back && s > end {
				return false, nil
			}
			if len(v) != len(hash{}) {
				return false, fmt.Errorf("%w: timeline", errRow)
			}
			hashes, places = append(hashes, hash(v)), append(places, s)
			return len(hashes) < piece, nil
		}
		scan := q.rd.Scan
		if back {
			scan = q.rd.ScanBack
		}
		if err := scan(prefix, timelineKey(q.n, from), visit); err != nil {
			return fmt.Errorf("reading the timeline: %w", err)
		}
		for i, h := range hashes {
			e, err := q.held(h)
			if err != nil {
				return err
			}
			if e == nil {
				return fmt.Errorf("%w: an event of the timeline is missing", errRow)
			}
			if e.place != places[i] {
				// A writer moved or changed it since; its row in this snapshot says where it was.
				c := *e
				c.place = places[i]
				e = &c
			}
			if more, err := fn(placed{e, h}); err != nil || !more {
				return err
			}
		}
		if len(hashes) < piece {
			return nil
		}
		last := places[len(places)-1]
		if back {
			if last == 0 {
				return nil
			}
			from = last - 1
		} else {
			from = last + 1
		}
	}
}

func seqFromKey(k []byte) seq { return seq(binary.BigEndian.Uint64(k[len(k)-8:])) }

// nowAt is the id of the room's current state as it was once everything up to a place was there; 0: nothing was.
func (q *reading) nowAt(at seq) (uint32, error) {
	if at >= q.row.last {
		return q.row.current, nil // nothing was written since
	}
	var last []byte
	err := q.rd.ScanBack(key(tabTimeline, q.n, 0), timelineKey(q.n, at), func(_, v []byte) (bool, error) {
		last = bytes.Clone(v)
		return false, nil
	})
	if err != nil || last == nil {
		return 0, err
	}
	if len(last) != len(hash{}) {
		return 0, fmt.Errorf("%w: timeline", errRow)
	}
	e, err := q.held(hash(last))
	if err == nil && e == nil {
		err = fmt.Errorf("%w: an event of the timeline is missing", errRow)
	}
	if err != nil {
		return 0, err
	}
	return e.now, nil
}

// collect gathers up to limit events that y sees and keep keeps (nil: all), from a place on, end inclusive. next is where
// to go on, more whether there is something there that y sees.
func (y *eyes) collect(from, end seq, back bool, limit int, device matrix.DeviceID, keep func(Entry) bool) (out []Entry, places []seq, next seq, more bool, err error) {
	scanned := 0
	next = from
	stop := seq(0)
	if back {
		if stop, err = y.q.stop(from, end); err != nil {
			return nil, nil, from, false, err
		}
		if stop != 0 {
			end = stop + 1
		}
	}
	err = y.q.walk(from, end, back, func(e placed) (bool, error) {
		if scanned++; scanned > maxScan {
			more = true
			return false, nil
		}
		ok, err := y.sees(e.held)
		if err != nil {
			return false, err
		}
		if ok {
			var entry Entry
			if entry, err = y.entry(e, device); err != nil {
				return false, err
			}
			if keep != nil {
				entry.look = &looking{y: y, e: e}
			}
			if keep == nil || keep(entry) {
				entry.look = nil
				if len(out) == limit {
					more = true
					return false, nil
				}
				if out == nil {
					out, places = make([]Entry, 0, min(limit, 16)), make([]seq, 0, min(limit, 16))
				}
				out, places = append(out, entry), append(places, e.place)
			}
		}
		if back {
			next = e.place - 1
		} else {
			next = e.place + 1
		}
		return true, nil
	})
	if err == nil && stop != 0 && !more { // what is here ends at a gap
		next, more, y.edge = stop, true, true
	}
	return out, places, next, more, err
}

// entry shows an event to a user, with what others say of it.
func (y *eyes) entry(e placed, device matrix.DeviceID) (Entry, error) {
	out, err := y.bare(e, device)
	if err == nil && e.related {
		out.Related, err = y.related(e, device, true)
	}
	return out, err
}

// bare shows it alone.
func (y *eyes) bare(e placed, device matrix.DeviceID) (Entry, error) {
	out := Entry{Event: e.ev, Pos: e.place.pos()}
	if e.txn != "" && e.ev.Sender() == y.user {
		out.device, out.txn = e.device, e.txn
		out.For(device)
	}
	if e.redacted {
		by, err := y.q.redactedBy(e.h, e.held)
		if err != nil {
			return Entry{}, err
		}
		if by != nil {
			out.Event, out.RedactedBy = e.ev.Redact(), by
		}
	}
	if e.replaces != (hash{}) {
		old, err := y.q.held(e.replaces)
		if err != nil {
			return Entry{}, err
		}
		if old != nil {
			out.PrevContent = shown(old).Content()
		}
	}
	return out, nil
}

// For shows an entry to one of the user's devices: Txn is there for the one that sent the event.
func (e *Entry) For(device matrix.DeviceID) {
	if e.txn != "" && device != "" && e.device == device {
		e.Txn = e.txn
	}
}

// shown is an event as it may be shown: redacted if a redaction counts.
func shown(e *held) *matrix.Event {
	if e.redacted {
		return e.ev.Redact()
	}
	return e.ev
}
