// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"strings"
	"time"

	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Pages of /messages and /context, in events.
const (
	defaultPage = 10 // C-S API: "limit ... Default: 10"
	maxPage     = 1000
)

// redactTxn sets the transaction ids of /redact apart from those of /send, for they are of two endpoints (C-S API,
// "Transaction identifiers"); it is taken off again when the id is shown.
const redactTxn = "redact\x00"

// send: PUT /rooms/{roomId}/send/{eventType}/{txnId}.
func (a *API) send(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	content, err := c.object()
	if err != nil {
		return nil, err
	}
	n := room.NewEvent{Room: r, Sender: c.who.User, Type: c.path("type"), Content: content, Device: c.who.Device, Txn: c.path("txn")}
	if n.Type == "m.room.redaction" {
		var q struct {
			Redacts matrix.EventID `json:"redacts"`
		}
		if err := decode(content, &q); err != nil {
			return nil, err
		}
		n.Redacts = q.Redacts
	}
	return a.sendEvent(c, n)
}

// redact: PUT /rooms/{roomId}/redact/{eventId}/{txnId}.
func (a *API) redact(c *call) (any, error) {
	r, target, err := c.roomEvent()
	if err != nil {
		return nil, err
	}
	var q struct {
		Reason string `json:"reason,omitzero"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if c.who.Suspended { // may take back what is theirs
		if e, err := a.rooms.Event(c.who.User, r, target); err != nil || e.Sender() != c.who.User {
			return nil, errSuspended()
		}
	}
	content, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	return a.sendEvent(c, room.NewEvent{Room: r, Sender: c.who.User, Type: "m.room.redaction", Content: content,
		Redacts: target, Device: c.who.Device, Txn: redactTxn + c.path("txn")})
}

// sendEvent stores an event of this device and answers before the device's /sync shows it.
func (a *API) sendEvent(c *call, n room.NewEvent) (any, error) {
	if len(n.Txn) > matrix.MaxID {
		return nil, invalid("the transaction id is too long")
	}
	c.after = a.sending.begin(c.who)
	ctx, cancel := c.commit()
	defer cancel()
	id, err := a.rooms.Send(ctx, n)
	if err != nil {
		return nil, err
	}
	return map[string]any{"event_id": id}, nil
}

type messagesAnswer struct {
	Start string           `json:"start"`
	End   string           `json:"end,omitzero"` // not there: nothing follows
	Chunk []jsontext.Value `json:"chunk"`
	State []jsontext.Value `json:"state,omitempty"`
}

// messages: GET /rooms/{roomId}/messages. Its tokens are those of /sync: the place after all events up to a position.
func (a *API) messages(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	back := false
	switch c.query("dir") {
	case "b":
		back = true
	case "f":
	case "":
		return nil, missing("dir")
	default:
		return nil, invalid("dir must be b or f")
	}
	limit, err := c.limitOf()
	if err != nil {
		return nil, err
	}
	filter, err := parseRoomEventFilter(c.query("filter"))
	if err != nil {
		return nil, err
	}
	if filter.Limit != nil {
		limit = min(limit, *filter.Limit)
	}
	var from store.Pos
	if s := c.query("from"); s != "" {
		if from, err = parseToken(s); err != nil {
			return nil, err
		}
		if back && from == 0 { // before everything; to room.Messages 0 would be the end
			_, err := a.rooms.Messages(c.who.User, r, 0, true, 1, nil) // may this user read it?
			return messagesAnswer{Start: token(0)}, err
		}
	} else if back {
		from = a.stream.Current()
	}
	stop := &stopper{}
	if s := c.query("to"); s != "" {
		to, err := parseToken(s)
		if err != nil {
			return nil, err
		}
		if stop, err = a.stopAt(c, r, to, back); err != nil {
			return nil, err
		}
	}
	ignored, err := a.ignored(c.who.User)
	if err != nil {
		return nil, err
	}
	page, err := a.older(c, func() (room.Page, error) {
		return a.rooms.Messages(c.who.User, r, from, back, limit, func(e room.Entry) bool {
			return !stop.at(e.ID()) && (filter.all() || filter.keepsEntry(e)) && !unheard(ignored, e.Event)
		})
	})
	if err != nil {
		return nil, err
	}
	out := messagesAnswer{Start: token(from)}
	if s := c.query("from"); page.Older && s != "" {
		out.Start = s
	}
	if page.More && !stop.reached {
		out.End = token(page.End)
		if page.Older {
			out.End = otherToken(page.End, out.Start)
		}
	}
	if out.Chunk, err = c.events(page.Events); err != nil {
		return nil, err
	}
	if filter.LazyLoad {
		out.State, err = a.senders(c, r, page.Events)
	}
	return out, err
}

// olderWait is how long a client waits for events that other nodes have. Without it a client at the edge would ask again at once, and again.
const olderWait = 20 * time.Second

// older reads a page; an empty one, at the edge of what is here, once more when older events have come. That the client waits changes nothing of when others are asked.
func (a *API) older(c *call, read func() (room.Page, error)) (room.Page, error) {
	ctx, cancel := c.drain()
	defer cancel()
	var over <-chan time.Time
	for first := true; ; first = false {
		came := a.rooms.Older()
		page, err := read()
		if err != nil || len(page.Events) > 0 || !page.Older {
			return page, err
		}
		if first {
			timer := time.NewTimer(olderWait)
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-came:
		case <-over:
			return page, nil
		case <-ctx.Done():
			return page, nil
		}
	}
}

// stopper ends a page at the token "to". Tokens cannot be compared with positions (room.Page), so it knows the first
// event on the other side.
type stopper struct {
	beyond  matrix.EventID // "": there is none
	reached bool
}

func (s *stopper) at(id matrix.EventID) bool {
	s.reached = s.reached || s.beyond != "" && id == s.beyond
	return s.reached
}

func (a *API) stopAt(c *call, r matrix.RoomID, to store.Pos, back bool) (*stopper, error) {
	s := &stopper{}
	if back && to == 0 {
		return s, nil
	}
	page, err := a.rooms.Messages(c.who.User, r, to, back, 1, nil)
	if err == nil && len(page.Events) > 0 {
		s.beyond = page.Events[0].ID()
	}
	return s, err
}

// limitOf reads the query's limit.
func (c *call) limitOf() (int, error) {
	n, err := c.queryInt("limit", defaultPage)
	if err != nil {
		return 0, err
	}
	if n < 0 {
		return 0, invalid("limit must not be negative")
	}
	return int(min(max(n, 1), maxPage)), nil
}

// senders reads the member events of those who sent entries (C-S API, "Lazy-loading room members").
func (a *API) senders(c *call, r matrix.RoomID, entries []room.Entry) ([]jsontext.Value, error) {
	seen := map[matrix.UserID]bool{}
	var out []jsontext.Value
	for _, e := range entries {
		if seen[e.Sender()] {
			continue
		}
		seen[e.Sender()] = true
		ev, err := a.rooms.StateEvent(c.who.User, r, matrix.StateKey{Type: "m.room.member", Key: string(e.Sender())})
		if err != nil {
			continue // one who is no longer in the state that this user sees
		}
		raw, err := stateEvent(ev, true)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

type contextAnswer struct {
	Start  string           `json:"start,omitzero"`
	End    string           `json:"end,omitzero"`
	Event  jsontext.Value   `json:"event"`
	Before []jsontext.Value `json:"events_before"`
	After  []jsontext.Value `json:"events_after"`
	State  []jsontext.Value `json:"state"`
}

// context: GET /rooms/{roomId}/context/{eventId}.
func (a *API) context(c *call) (any, error) {
	r, id, err := c.roomEvent()
	if err != nil {
		return nil, err
	}
	limit, err := c.limitOf()
	if err != nil {
		return nil, err
	}
	filter, err := parseRoomEventFilter(c.query("filter"))
	if err != nil {
		return nil, err
	}
	if c.query("limit") == "0" {
		limit = 0
	}
	if filter.Limit != nil {
		limit = min(limit, *filter.Limit)
	}
	ignored, err := a.ignored(c.who.User)
	if err != nil {
		return nil, err
	}
	var keep func(room.Entry) bool
	if !filter.all() || len(ignored) > 0 {
		keep = func(e room.Entry) bool { return (filter.all() || filter.keepsEntry(e)) && !unheard(ignored, e.Event) }
	}
	before, after, ev, state, err := a.rooms.Context(c.who.User, r, id, limit, keep)
	if err != nil {
		return nil, err
	}
	out := contextAnswer{Start: token(before.End), End: token(after.End)}
	ev.For(c.who.Device)
	if out.Event, err = clientEvent(ev, true); err != nil {
		return nil, err
	}
	if out.Before, err = c.events(before.Events); err != nil {
		return nil, err
	}
	if out.After, err = c.events(after.Events); err != nil {
		return nil, err
	}
	if filter.LazyLoad {
		shown := append(append([]room.Entry{ev}, before.Events...), after.Events...)
		state = membersOf(state, shown)
	}
	out.State, err = stateEvents(state, true)
	return out, err
}

// membersOf leaves out the members of whom nothing is shown.
func membersOf(state []*matrix.Event, shown []room.Entry) []*matrix.Event {
	seen := map[string]bool{}
	for _, e := range shown {
		seen[string(e.Sender())] = true
	}
	out := make([]*matrix.Event, 0, len(state))
	for _, s := range state {
		if s.Type() != "m.room.member" || s.StateKey() != nil && seen[*s.StateKey()] {
			out = append(out, s)
		}
	}
	return out
}

// event: GET /rooms/{roomId}/event/{eventId}.
func (a *API) event(c *call) (any, error) {
	r, id, err := c.roomEvent()
	if err != nil {
		return nil, err
	}
	e, err := a.rooms.Event(c.who.User, r, id)
	if errors.Is(err, room.ErrNotMember) || errors.Is(err, room.ErrUnknownRoom) {
		err = room.ErrUnknownEvent // "404: the event was not found or you do not have permission to read this event"
	}
	if err != nil {
		return nil, err
	}
	e.For(c.who.Device)
	return clientEvent(e, true)
}

// clientEvent is an entry as clients see it, with its unsigned part (C-S API, "Room event format").
func clientEvent(e room.Entry, withRoom bool) (jsontext.Value, error) {
	unsigned := map[string]any{"age": age(e.Event)}
	if e.Txn != "" {
		unsigned["transaction_id"] = strings.TrimPrefix(e.Txn, redactTxn)
	}
	if len(e.PrevContent) > 0 {
		unsigned["prev_content"] = e.PrevContent
	}
	ev := e.Event
	if e.RedactedBy != nil {
		because, err := e.RedactedBy.Client(nil, withRoom)
		if err != nil {
			return nil, err
		}
		unsigned["redacted_because"] = because
		delete(unsigned, "prev_content") // it may be what was redacted
		ev = ev.Redact()
	}
	if e.Related != nil {
		relations, err := aggregations(e.Related, withRoom)
		if err != nil {
			return nil, err
		}
		unsigned["m.relations"] = relations
	}
	return ev.Client(unsigned, withRoom)
}

// age is how long ago an event was made, in ms, by the clocks of its server and ours.
func age(e *matrix.Event) int64 { return time.Since(e.Time()).Milliseconds() }

func clientEvents(entries []room.Entry, withRoom bool) ([]jsontext.Value, error) {
	out := make([]jsontext.Value, 0, len(entries))
	for _, e := range entries {
		raw, err := clientEvent(e, withRoom)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// events are entries as the device that asks sees them.
func (c *call) events(entries []room.Entry) ([]jsontext.Value, error) {
	for i := range entries {
		entries[i].For(c.who.Device)
	}
	return clientEvents(entries, true)
}

func stateEvent(e *matrix.Event, withRoom bool) (jsontext.Value, error) {
	return e.Client(map[string]any{"age": age(e)}, withRoom)
}

func stateEvents(events []*matrix.Event, withRoom bool) ([]jsontext.Value, error) {
	out := make([]jsontext.Value, 0, len(events))
	for _, e := range events {
		raw, err := stateEvent(e, withRoom)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}
