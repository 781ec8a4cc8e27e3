// SPDX-License-Identifier: Apache-2.0

package bundle

import "tarn/matrix"

// Snapshot is a TypeSnapshot record: what lets a node take part in a room alone and offline. Its fields are room.Snapshot's.
type Snapshot struct {
	Room         matrix.RoomID
	Version      matrix.RoomVersion
	Event        matrix.EventID   // the invite (or membership event) it goes with; in Events
	Heads        []matrix.EventID // forward extremities
	Events       [][]byte         // state at Event, its auth chain, the last events; parents first; 1 to 65,536 bytes each
	State        []matrix.EventID // which of them are the state before Event
	Certificates [][]byte         // onionid.Certificate of every server that signed one of them; at most 1,024 bytes each
}

// Record encodes s, field after field. ErrTooLarge or ErrMalformed if ParseSnapshot would refuse it: a room whose
// state exceeds MaxRecord can not be handed over in one piece.
func (s Snapshot) Record() (Record, error) {
	var w writer
	w.snapshot(s)
	return w.record(TypeSnapshot, "a snapshot")
}

func (w *writer) snapshot(s Snapshot) {
	w.room(s.Room)
	w.version(s.Version)
	w.id(string(s.Event), '$', "event id")
	w.eventIDs(s.Heads, maxIDs, "heads")
	w.byteStrings(s.Events, maxEvents, maxEvent, "events")
	w.eventIDs(s.State, maxIDs, "state")
	w.byteStrings(s.Certificates, maxEvents, maxCertificate, "certificates")
}

// ParseSnapshot decodes a TypeSnapshot record; Events and Certificates alias data. ErrMalformed, ErrTooLarge. Whether
// the events are there that the ids speak of is package room's to see.
func ParseSnapshot(data []byte) (Snapshot, error) {
	r := &reader{b: data}
	s := r.snapshot()
	if err := r.end("a snapshot"); err != nil {
		return Snapshot{}, err
	}
	return s, nil
}

func (r *reader) snapshot() Snapshot {
	s := Snapshot{Room: r.room(), Version: r.version()}
	s.Event = matrix.EventID(r.id('$', "event id"))
	s.Heads = r.eventIDs(maxIDs, "heads")
	s.Events = r.byteStrings(maxEvents, maxEvent, "events")
	s.State = r.eventIDs(maxIDs, "state")
	s.Certificates = r.byteStrings(maxEvents, maxCertificate, "certificates")
	return s
}
