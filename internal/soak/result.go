// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Result is what came of a run: build/soak.json.
type Result struct {
	Nodes int     `json:"nodes"`
	Rooms int     `json:"rooms"`
	Days  float64 `json:"days"`
	Seed  uint64  `json:"seed"`
	Frame float64 `json:"frame_s"`

	Events    int `json:"events"`    // of all rooms that clients were told are made, messages and others
	Messages  int `json:"messages"`  // of these, what people wrote
	Encrypted int `json:"encrypted"` // of these, in rooms with encryption
	Shown     int `json:"shown"`     // messages that had to be shown, summed over the nodes that had to

	Lost          int `json:"lost"`          // messages that a node does not show and should
	Doubled       int `json:"doubled"`       // messages that a node shows twice
	Undecryptable int `json:"undecryptable"` // messages for a device that it cannot read
	Diverged      int `json:"diverged"`      // rooms on nodes with another state or other events than the rest

	Contested int `json:"contested"` // messages of senders who were removed at the same time: shown or not, as the specification has it
	History   int `json:"history"`   // messages from before a member's join that the visibility would let it see and its node does not have

	// Keyless are messages that were not encrypted to a member, because its keys had not come to the sender's node, which the sender's
	// client was told: the join came by another node, and the member's own was away or is no contact.
	Keyless int `json:"keyless"`

	Boxes    int64   `json:"boxes"`     // that stores keep at the end
	Frames   int64   `json:"frames"`    // that nodes sent, about
	Quiet    float64 `json:"quiet_h"`   // hours of silence until all were equal
	Delay    float64 `json:"delay_s"`   // median from a message to the look of another node's client that shows it
	Restarts int     `json:"restarts"`  // nodes that were closed and opened again
	Kills    int     `json:"kills"`     // of these, killed between two writes
	Away     int     `json:"away"`      // absences of a day or more
	Cuts     int     `json:"cuts"`      // nodes cut off while their users wrote on
	Outages  int     `json:"outages"`   // of mailboxes
	Forgot   int     `json:"forgotten"` // times that a store lost all its boxes
	Hostile  int     `json:"hostile"`   // things that a hostile node sent

	Wall   float64 `json:"wall_s"`
	Memory int64   `json:"memory_mb"` // greatest heap
}

// Good tells whether nothing is wrong.
func (r *Result) Good() bool { return r.Lost+r.Doubled+r.Undecryptable+r.Diverged == 0 }

// JSON is the file's form.
func (r *Result) JSON() []byte {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(err) // numbers only
	}
	return append(b, '\n')
}

// String is the sums in words.
func (r *Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes, %d rooms, %g days, seed %d, a frame each %g s: %d events, of them %d messages, %d encrypted\n",
		r.Nodes, r.Rooms, r.Days, r.Seed, r.Frame, r.Events, r.Messages, r.Encrypted)
	fmt.Fprintf(&b, "%d restarts (%d kills), %d long absences, %d nodes cut off, %d outages of mailboxes, %d stores that forgot, %d hostile things\n",
		r.Restarts, r.Kills, r.Away, r.Cuts, r.Outages, r.Forgot, r.Hostile)
	fmt.Fprintf(&b, "%d times a message had to be shown: %d lost, %d doubled, %d undecryptable, %d rooms diverged\n",
		r.Shown, r.Lost, r.Doubled, r.Undecryptable, r.Diverged)
	fmt.Fprintf(&b, "%d times a member's keys were not there yet when a message was encrypted; %d messages are contested, %d older ones are not in a member's history\n", r.Keyless, r.Contested, r.History)
	fmt.Fprintf(&b, "median delay %.0f s, equal after %.1f h of silence, %d boxes in the stores, %d frames; %.0f s of wall time, %d MB\n",
		r.Delay, r.Quiet, r.Boxes, r.Frames, r.Wall, r.Memory)
	return b.String()
}
