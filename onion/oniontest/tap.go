// SPDX-License-Identifier: Apache-2.0

package oniontest

import (
	"fmt"
	"sync"
	"time"
)

// Kind says what an Event is.
type Kind uint8

// The kinds of events.
const (
	Open  Kind = iota + 1 // a connection was made
	Data                  // bytes were written: one event a Write (or part of one that filled the window)
	Close                 // a side closed the connection, or it was broken
	Fail                  // a dial ended in an error; there is no Conn
)

// Event is what a wire-tapper of a link sees, with what only a test may know beside it.
type Event struct {
	Kind      Kind
	Time      time.Time // when it was sent
	Conn      uint64    // 1, 2, … in the order of opening
	From, To  string    // hosts; To is "" for a Fail to an onion never published
	Addr      string    // "<name>:port" as dialled
	Isolation string    // as the dialler gave it
	Up        bool      // Data: from the dialler
	Bytes     int       // Data: how many

	flow *flow
}

// Tap calls f with every event from now on, in the goroutine that caused it: f must be quick, safe for concurrent use,
// and must not write to the network.
func (n *Net) Tap(f func(Event)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taps = append(n.taps[:len(n.taps):len(n.taps)], f)
}

func (n *Net) tap(e Event) {
	n.mu.Lock()
	taps := n.taps
	n.mu.Unlock()
	if len(taps) == 0 {
		return
	}
	if f := e.flow; f != nil {
		e.Conn, e.From, e.To, e.Addr, e.Isolation, e.flow = f.id, f.link.from, f.link.to, f.addr, f.isolation, nil
	}
	for _, t := range taps {
		t(e)
	}
}

// Record collects events into one line a connection.
type Record struct {
	mu    sync.Mutex
	flows map[uint64]*Flow
	order []*Flow
}

// Flow is a connection as a Record has it.
type Flow struct {
	Conn      uint64
	From, To  string
	Addr      string
	Isolation string
	Opened    time.Time
	Closed    time.Time // zero: still open
	Up, Down  int       // bytes
	Writes    []Write
}

// Write is one piece of a Flow.
type Write struct {
	Time  time.Time
	Up    bool
	Bytes int
}

// String is the shape of a flow without its time: for messages of failed tests.
func (f Flow) String() string {
	return fmt.Sprintf("%s->%s #%d: %d B up, %d B down in %d writes", f.From, f.To, f.Conn, f.Up, f.Down, len(f.Writes))
}

// Record starts a Record of all connections opened from now on.
func (n *Net) Record() *Record {
	r := &Record{flows: map[uint64]*Flow{}}
	n.Tap(r.add)
	return r
}

func (r *Record) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == Open {
		f := &Flow{Conn: e.Conn, From: e.From, To: e.To, Addr: e.Addr, Isolation: e.Isolation, Opened: e.Time}
		r.flows[e.Conn] = f
		r.order = append(r.order, f)
		return
	}
	f := r.flows[e.Conn]
	if f == nil {
		return // opened before the record began, or a Fail
	}
	switch e.Kind {
	case Data:
		f.Writes = append(f.Writes, Write{e.Time, e.Up, e.Bytes})
		if e.Up {
			f.Up += e.Bytes
		} else {
			f.Down += e.Bytes
		}
	case Close:
		f.Closed = e.Time
	}
}

// Flows are copies of the connections so far, in the order of opening.
func (r *Record) Flows() []Flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Flow, len(r.order))
	for i, f := range r.order {
		out[i] = *f
		out[i].Writes = append([]Write(nil), f.Writes...)
	}
	return out
}
