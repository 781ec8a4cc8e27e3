// SPDX-License-Identifier: Apache-2.0

package bundle

import "tarn/matrix"

// Bounds of a question for older events and of its answer.
const (
	MaxOlderMissing = 50  // events that are asked for
	MaxOlderHave    = 20  // events whose state the asker has
	MaxOlderEvents  = 500 // events in an answer, without those that they lean on
)

// Older is an answer's piece of a room's past: the events that were asked for and those before them.
type Older struct {
	Events       [][]byte         // of the past; 1 to 65,536 bytes each; at most MaxOlderEvents
	Unshown      []matrix.EventID // those among them that the answering node does not show: soft-failed ones, say
	States       []OlderState     // before each of Events that has a parent which is not among them
	Leaned       [][]byte         // what the states name, and the auth events of all, as far as the asker lacks it
	Certificates [][]byte         // of every server that signed one of all these
}

// OlderState is the state before an event: the first of an answer's as it is, each other one as what is different from the first.
type OlderState struct {
	Event matrix.EventID
	Come  []matrix.EventID
	Gone  []matrix.EventID // none in the first
}

func (w *writer) older(o Older) {
	w.byteStrings(o.Events, MaxOlderEvents, maxEvent, "events")
	w.eventIDs(o.Unshown, MaxOlderEvents, "events that are not shown")
	w.number(uint64(len(o.States)), MaxOlderEvents, "states")
	for _, s := range o.States {
		w.id(string(s.Event), '$', "event id")
		w.eventIDs(s.Come, maxIDs, "state")
		w.eventIDs(s.Gone, maxIDs, "state")
	}
	w.byteStrings(o.Leaned, maxEvents, maxEvent, "events that others lean on")
	w.byteStrings(o.Certificates, maxEvents, maxCertificate, "certificates")
}

func (r *reader) older() (o Older) {
	o.Events = r.byteStrings(MaxOlderEvents, maxEvent, "events")
	o.Unshown = r.eventIDs(MaxOlderEvents, "events that are not shown")
	for range r.count(MaxOlderEvents, 5, "states") { // an id of at least two bytes, and three lengths
		s := OlderState{Event: matrix.EventID(r.id('$', "event id"))}
		s.Come = r.eventIDs(maxIDs, "state")
		s.Gone = r.eventIDs(maxIDs, "state")
		o.States = append(o.States, s)
	}
	o.Leaned = r.byteStrings(maxEvents, maxEvent, "events that others lean on")
	o.Certificates = r.byteStrings(maxEvents, maxCertificate, "certificates")
	return o
}
