// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"tarn/matrix"
)

// AskKind says what an Ask asks for.
type AskKind byte

// The kinds. Each has the fields that are named, and no others.
const (
	AskJoin    AskKind = 1 // Room, User: the user wants to join
	AskKnock   AskKind = 2 // Room, User: to knock
	AskLeave   AskKind = 3 // Room, User: to take a knock back
	AskSend    AskKind = 4 // Room, Event: a member event that was built on an AnswerTemplate
	AskAlias   AskKind = 5 // Text: a room alias of the receiver's
	AskSummary AskKind = 6 // Room: what it shows of itself, and of the rooms in the space
	AskList    AskKind = 7 // Text: a search in the receiver's directory, JSON
	AskOlder   AskKind = 8 // Room, Missing, Have, Most: events of the past
)

// MaxAskText bounds the Text of an Ask, in bytes.
const MaxAskText = 2048

// Ask is a TypeAsk record: a question to a contact that its sender's node can not answer itself.
type Ask struct {
	ID    [16]byte // random; the answer has it
	Kind  AskKind
	Room  matrix.RoomID
	User  matrix.UserID
	Text  string
	Event []byte
	// What AskOlder is about.
	Missing []matrix.EventID // events that the asker lacks: these and what is before them; at most MaxOlderMissing, at least one
	Have    []matrix.EventID // of each the asker has the state after it, with its auth chain; at most MaxOlderHave
	Most    uint64           // events that it takes, at most MaxOlderEvents
}

// body codes the fields that a kind has, in their order.
func (k AskKind) body() (room, user, text, event bool) {
	switch k {
	case AskJoin, AskKnock, AskLeave:
		return true, true, false, false
	case AskSend:
		return true, false, false, true
	case AskAlias, AskList:
		return false, false, true, false
	case AskSummary, AskOlder:
		return true, false, false, false
	}
	return false, false, false, false
}

// Record encodes a: id, kind, the fields of its kind. ErrTooLarge or ErrMalformed if ParseAsk would refuse it.
func (a Ask) Record() (Record, error) {
	w := writer{b: append(append([]byte{}, a.ID[:]...), byte(a.Kind))}
	room, user, text, event := a.Kind.body()
	if !room && !text {
		w.fail(ErrMalformed, "kind of question")
	}
	if room {
		w.room(a.Room)
	}
	if user {
		w.id(string(a.User), '@', "user id")
	}
	if text {
		w.text(a.Text, MaxAskText, "text")
	}
	if event {
		w.event(a.Event)
	}
	if a.Kind == AskOlder {
		if len(a.Missing) == 0 {
			w.fail(ErrMalformed, "nothing is asked for")
		}
		w.eventIDs(a.Missing, MaxOlderMissing, "missing events")
		w.eventIDs(a.Have, MaxOlderHave, "events that are there")
		w.number(a.Most, MaxOlderEvents, "number of events")
	}
	return w.record(TypeAsk, "a question")
}

// ParseAsk decodes a TypeAsk record; Event aliases data. ErrMalformed, ErrTooLarge.
func ParseAsk(data []byte) (Ask, error) {
	r := &reader{b: data}
	var a Ask
	copy(a.ID[:], r.take(len(a.ID), "id"))
	if b := r.take(1, "kind"); b != nil {
		a.Kind = AskKind(b[0])
	}
	room, user, text, event := a.Kind.body()
	if !room && !text {
		r.fail(ErrMalformed, "kind of question")
	}
	if room {
		a.Room = r.room()
	}
	if user {
		a.User = matrix.UserID(r.id('@', "user id"))
	}
	if text {
		a.Text = r.text(MaxAskText, "text")
	}
	if event {
		a.Event = r.event()
	}
	if a.Kind == AskOlder {
		a.Missing = r.eventIDs(MaxOlderMissing, "missing events")
		a.Have = r.eventIDs(MaxOlderHave, "events that are there")
		a.Most = r.number(MaxOlderEvents, "number of events")
		if len(a.Missing) == 0 {
			r.fail(ErrMalformed, "nothing is asked for")
		}
	}
	if err := r.end("a question"); err != nil {
		return Ask{}, err
	}
	return a, nil
}

// AnswerKind says what an Answer holds.
type AnswerKind byte

// The kinds.
const (
	AnswerNo       AnswerKind = 0 // nothing: no, or there is no such thing, or it is not for the asker to know
	AnswerSnapshot AnswerKind = 1 // Snapshot: of the room as it is, or of the join that was sent
	AnswerTemplate AnswerKind = 2 // Template: what to build the member event on
	AnswerDone     AnswerKind = 3 // nothing: the event that was sent is in the room
	AnswerRoom     AnswerKind = 4 // Room, Servers: what the alias names, and where to ask for it
	AnswerData     AnswerKind = 5 // Data: JSON
	AnswerOlder    AnswerKind = 6 // Older: a piece of a room's past
)

// Bounds of an Answer.
const (
	MaxAnswerServers = 16
	MaxAnswerData    = 512 << 10 // bytes
	maxStripped      = 32        // pieces of stripped state
)

// Answer is a TypeAnswer record.
type Answer struct {
	ID       [16]byte // of the question
	Kind     AnswerKind
	Snapshot Snapshot // AnswerSnapshot
	Template Template // AnswerTemplate
	Room     matrix.RoomID
	Servers  []string // names
	Data     []byte
	Older    Older // AnswerOlder
}

// Template is what a node needs that is not in a room to build a member event of its user's.
type Template struct {
	Version    matrix.RoomVersion
	Depth      uint64           // of the event
	PrevEvents []matrix.EventID // at most matrix.MaxPrev
	AuthEvents []matrix.EventID // at most matrix.MaxAuth
	Authoriser string           // user id for join_authorised_via_users_server; "": none
	Stripped   [][]byte         // stripped state, for who knocks
}

// Record encodes a: id, kind, the fields of its kind. ErrTooLarge or ErrMalformed if ParseAnswer would refuse it.
func (a Answer) Record() (Record, error) {
	w := writer{b: append(append([]byte{}, a.ID[:]...), byte(a.Kind))}
	switch a.Kind {
	case AnswerNo, AnswerDone:
	case AnswerSnapshot:
		w.snapshot(a.Snapshot)
	case AnswerTemplate:
		t := a.Template
		w.version(t.Version)
		w.number(t.Depth, matrix.MaxDepth, "depth")
		w.eventIDs(t.PrevEvents, matrix.MaxPrev, "prev_events")
		w.eventIDs(t.AuthEvents, matrix.MaxAuth, "auth_events")
		w.text(t.Authoriser, maxID, "authoriser")
		w.byteStrings(t.Stripped, maxStripped, maxEvent, "stripped state")
	case AnswerRoom:
		w.room(a.Room)
		w.number(uint64(len(a.Servers)), MaxAnswerServers, "servers")
		for _, s := range a.Servers {
			w.text(s, maxText, "server")
		}
	case AnswerData:
		w.bytes(a.Data, MaxAnswerData, "data")
	case AnswerOlder:
		w.older(a.Older)
	default:
		w.fail(ErrMalformed, "kind of answer")
	}
	return w.record(TypeAnswer, "an answer")
}

// ParseAnswer decodes a TypeAnswer record; what it has in bytes aliases data. ErrMalformed, ErrTooLarge.
func ParseAnswer(data []byte) (Answer, error) {
	r := &reader{b: data}
	var a Answer
	copy(a.ID[:], r.take(len(a.ID), "id"))
	if b := r.take(1, "kind"); b != nil {
		a.Kind = AnswerKind(b[0])
	}
	switch a.Kind {
	case AnswerNo, AnswerDone:
	case AnswerSnapshot:
		a.Snapshot = r.snapshot()
	case AnswerTemplate:
		t := &a.Template
		t.Version = r.version()
		t.Depth = r.number(matrix.MaxDepth, "depth")
		t.PrevEvents = r.eventIDs(matrix.MaxPrev, "prev_events")
		t.AuthEvents = r.eventIDs(matrix.MaxAuth, "auth_events")
		t.Authoriser = r.text(maxID, "authoriser")
		t.Stripped = r.byteStrings(maxStripped, maxEvent, "stripped state")
	case AnswerRoom:
		a.Room = r.room()
		for range r.count(MaxAnswerServers, 1, "servers") {
			a.Servers = append(a.Servers, r.text(maxText, "server"))
		}
	case AnswerData:
		a.Data = r.bytes(MaxAnswerData, "data")
	case AnswerOlder:
		a.Older = r.older()
	default:
		r.fail(ErrMalformed, "kind of answer")
	}
	if err := r.end("an answer"); err != nil {
		return Answer{}, err
	}
	return a, nil
}

// event writes one raw event.
func (w *writer) event(raw []byte) {
	if len(raw) == 0 {
		w.fail(ErrMalformed, "an empty event")
	}
	w.bytes(raw, maxEvent, "event")
}

func (r *reader) event() []byte {
	raw := r.bytes(maxEvent, "event")
	if r.err == nil && len(raw) == 0 {
		r.fail(ErrMalformed, "an empty event")
	}
	return raw
}
