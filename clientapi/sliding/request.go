// SPDX-License-Identifier: Apache-2.0

// Package sliding is the logic of simplified sliding sync (MSC4186) without a database.
//
// Problem: a client with hundreds of rooms wants to show its list at once. It asks for windows into sorted and filtered
// lists, and for some rooms by name; the server must know what each connection of it was told of each room, also
// when an answer was lost and the same question comes again.
//
// What it does: [Request] is what a client asks, checked; [Request.Plan] says which rooms are to be shown and with how
// much of each; [Conns] remembers per connection what was sent.
//
// Invariants: what a request may ask for is bounded before any room is looked at; a repeated question is answered
// from the state that it was first answered from; of a connection's two newest answers both may be gone on from, no older one.
//
// Data: in memory only. After a restart every position is unknown (ErrUnknownPos, M_UNKNOWN_POS), and the client begins anew,
// as the MSC has it.
package sliding

import (
	"errors"
	"fmt"
	"slices"

	"tarn/matrix"
)

// Bounds of one request.
const (
	maxLists         = 32
	maxRanges        = 16
	maxSubscriptions = 256
	maxRequired      = 256 // required_state of one list or subscription
	maxFilter        = 256 // entries of one list in a filter
	maxName          = 255 // bytes of conn_id, txn_id and the names of lists
	// MaxTimeline is the most events of a room in one answer.
	MaxTimeline = 200
)

// ErrRequest is wrapped with what is wrong with a request.
var ErrRequest = errors.New("sliding: bad request")

// Request is the body of POST /sync.
type Request struct {
	Conn          string                 `json:"conn_id"`
	Txn           string                 `json:"txn_id"`
	Lists         map[string]List        `json:"lists"`
	Subscriptions map[matrix.RoomID]Room `json:"room_subscriptions"`
	Extensions    Extensions             `json:"extensions"`
}

// Room is what is wanted of each room.
type Room struct {
	Required [][]string `json:"required_state"` // pairs of type and state key
	Limit    int64      `json:"timeline_limit"`
}

// List is a window into the user's rooms, the newest first.
type List struct {
	Room
	Ranges  [][]int64 `json:"ranges"` // pairs, both ends inclusive
	Filters Filters   `json:"filters"`
}

// Filters choose the rooms of a list; nil lets all pass.
type Filters struct {
	DM         *bool           `json:"is_dm"`
	Encrypted  *bool           `json:"is_encrypted"`
	Invite     *bool           `json:"is_invite"`
	Tombstoned *bool           `json:"is_tombstoned"`
	Types      []*string       `json:"room_types"` // null: rooms without a type
	NotTypes   []*string       `json:"not_room_types"`
	Spaces     []matrix.RoomID `json:"spaces"` // rooms that are children of one of them
	Tags       []string        `json:"tags"`
	NotTags    []string        `json:"not_tags"`
}

// Extensions that are known; others are left aside.
type Extensions struct {
	ToDevice struct {
		Enabled bool   `json:"enabled"`
		Limit   int64  `json:"limit"`
		Since   string `json:"since"`
	} `json:"to_device"`
	E2EE struct {
		Enabled bool `json:"enabled"`
	} `json:"e2ee"`
	AccountData RoomExtension `json:"account_data"`
	Receipts    RoomExtension `json:"receipts"`
	Typing      RoomExtension `json:"typing"`
	Threads     struct {
		Enabled bool  `json:"enabled"`
		Limit   int64 `json:"limit"`
	} `json:"io.element.msc4308.thread_subscriptions"`
}

// RoomExtension is one that tells something of each room.
type RoomExtension struct {
	Enabled bool             `json:"enabled"`
	Lists   *[]string        `json:"lists"` // nil or "*": of all lists
	Rooms   *[]matrix.RoomID `json:"rooms"` // nil or "*": of all subscriptions
}

// Check is ErrRequest for what is malformed or too much.
func (q *Request) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRequest, fmt.Sprintf(format, args...))
	}
	switch {
	case len(q.Conn) > maxName || len(q.Txn) > maxName:
		return bad("conn_id or txn_id has more than %d bytes", maxName)
	case len(q.Lists) > maxLists:
		return bad("more than %d lists", maxLists)
	case len(q.Subscriptions) > maxSubscriptions:
		return bad("more than %d room_subscriptions", maxSubscriptions)
	}
	for name, l := range q.Lists {
		if len(name) > maxName {
			return bad("the name of a list has more than %d bytes", maxName)
		}
		if len(l.Ranges) > maxRanges {
			return bad("more than %d ranges", maxRanges)
		}
		for _, r := range l.Ranges {
			if len(r) != 2 || r[0] < 0 || r[1] < r[0] {
				return bad("a range is two numbers, the second not less than the first")
			}
		}
		f := &l.Filters
		if max(len(f.Types), len(f.NotTypes), len(f.Spaces), len(f.Tags), len(f.NotTags)) > maxFilter {
			return bad("more than %d entries in a filter", maxFilter)
		}
		if err := l.Room.check(); err != nil {
			return err
		}
	}
	for id, r := range q.Subscriptions {
		if len(id) < 2 || id[0] != '!' || len(id) > matrix.MaxID {
			return bad("room_subscriptions has what is no room id")
		}
		if err := r.check(); err != nil {
			return err
		}
	}
	if q.Extensions.ToDevice.Limit < 0 {
		return bad("a limit must not be negative")
	}
	return nil
}

func (r *Room) check() error {
	if len(r.Required) > maxRequired {
		return fmt.Errorf("%w: more than %d entries in required_state", ErrRequest, maxRequired)
	}
	for _, p := range r.Required {
		if len(p) != 2 || len(p[0]) > matrix.MaxID || len(p[1]) > matrix.MaxID {
			return fmt.Errorf("%w: required_state has pairs of a type and a state key", ErrRequest)
		}
	}
	if r.Limit < 0 {
		return fmt.Errorf("%w: timeline_limit must not be negative", ErrRequest)
	}
	return nil
}

// Facts of a room that filters ask for.
type Facts struct {
	DM, Encrypted, Invite, Tombstoned bool
	Type                              string
	InSpace                           func(matrix.RoomID) bool // is it a child of that space
	Tagged                            func(string) bool
}

// Keeps tells whether a room passes.
func (f *Filters) Keeps(x Facts) bool {
	is := func(want *bool, is bool) bool { return want == nil || *want == is }
	ofType := func(t *string) bool { return t == nil && x.Type == "" || t != nil && *t == x.Type }
	return is(f.DM, x.DM) && is(f.Encrypted, x.Encrypted) && is(f.Invite, x.Invite) && is(f.Tombstoned, x.Tombstoned) &&
		(f.Types == nil || slices.ContainsFunc(f.Types, ofType)) && !slices.ContainsFunc(f.NotTypes, ofType) &&
		(f.Spaces == nil || slices.ContainsFunc(f.Spaces, x.InSpace)) &&
		(f.Tags == nil || slices.ContainsFunc(f.Tags, x.Tagged)) && !slices.ContainsFunc(f.NotTags, x.Tagged)
}

// Window picks the rooms of the ranges, each once, in order.
func (l *List) Window(sorted []matrix.RoomID) []matrix.RoomID {
	n := int64(len(sorted))
	type span struct{ from, to int64 } // half open
	spans := make([]span, 0, len(l.Ranges))
	for _, r := range l.Ranges {
		if r[0] < n {
			spans = append(spans, span{r[0], min(r[1], n-1) + 1})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.from - b.from) })
	var out []matrix.RoomID
	at := int64(0)
	for _, s := range spans {
		if s.from = max(s.from, at); s.from < s.to {
			out = append(out, sorted[s.from:s.to]...)
			at = s.to
		}
	}
	return out
}
