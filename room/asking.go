// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/store"
)

// Asking. A room that no local user is in can be joined only with the help of a node that is in it. So that node is asked, by a record that
// rides with the others: a contact alone, for to others there is no way. What is asked is durable and goes on when the client has gone: a resident
// that says nothing is followed by the next one after a while, one that says no at once, and after a day it is given up.
//
//	join a public room      question join -> snapshot of the room as it is; the join is built on it
//	join a restricted room  question join -> template, with the user who will vouch; question send with the join, signed
//	                        -> the resident has checked, co-signed and inserted it: a snapshot of the room at the join
//	knock, take it back     question knock or leave -> template with stripped state; question send -> done
//
// So who joins a public room gets its state before its join is seen; who knocks gets nothing but what the room shows to all.

// AskID names a question; random.
type AskID [16]byte

// MarshalText implements encoding.TextMarshaler.
func (q AskID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, q[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (q *AskID) UnmarshalText(b []byte) error {
	if n, err := hex.Decode(q[:], b[:min(len(b), 2*len(q))]); err != nil || n != len(q) || len(b) != 2*len(q) {
		return fmt.Errorf("%w: question", errRow)
	}
	return nil
}

// Kinds of questions and answers: those of package bundle's records.
const (
	AskJoin    = 1
	AskKnock   = 2
	AskLeave   = 3
	AskSend    = 4
	AskAlias   = 5
	AskSummary = 6
	AskList    = 7
	AskOlder   = 8

	AnswerNo       = 0
	AnswerSnapshot = 1
	AnswerTemplate = 2
	AnswerDone     = 3
	AnswerRoom     = 4
	AnswerData     = 5
	AnswerOlder    = 6
)

// Ask is what a contact is asked; which fields it has its kind says.
type Ask struct {
	ID    AskID         `json:"id"`
	Kind  byte          `json:"kind"`
	Room  matrix.RoomID `json:"room,omitempty"`
	User  matrix.UserID `json:"user,omitempty"`
	Text  string        `json:"text,omitempty"`
	Event []byte        `json:"event,omitempty"`
	// Of AskOlder (older.go): what is missing, after which events the asker knows the state, how many events it takes.
	Missing []matrix.EventID `json:"missing,omitempty"`
	Have    []matrix.EventID `json:"have,omitempty"`
	Most    int              `json:"most,omitempty"`
}

// Answer is what a contact says to it.
type Answer struct {
	ID       AskID
	Kind     byte
	Snapshot *Snapshot
	Template *Template
	Room     matrix.RoomID
	Servers  []matrix.ServerName
	Data     []byte
	Older    *OlderPage
}

// Template is what a member event is built on by a node that is not in the room.
type Template struct {
	Version    matrix.RoomVersion `json:"version"`
	Depth      int64              `json:"depth"`
	PrevEvents []matrix.EventID   `json:"prev"`
	AuthEvents []matrix.EventID   `json:"auth"`
	Authoriser matrix.UserID      `json:"authoriser,omitempty"`
	Stripped   [][]byte           `json:"stripped,omitempty"`
}

// Errors of asking.
var (
	ErrNobodyToAsk = errors.New("room: no contact of this node is known to be in the room")
	ErrUnderWay    = errors.New("room: it was asked for, and the answer has not come yet")
	ErrRefused     = errors.New("room: those who were asked know no such room, or do not let the user in")
	ErrTooMany     = errors.New("room: too much is being asked for")
)

// Bounds of asking.
const (
	maxSeeking  = 100            // joins and knocks under way
	maxVia      = 16             // servers that are asked for one
	seekingLife = 24 * time.Hour // then it is given up
	askAgain    = time.Hour      // when all were asked, and not all said no
)

// Seek is a membership that a local user wants in a room that the node can not give it in.
type Seek struct {
	User       matrix.UserID
	Membership string // join, knock; leave: of who knocked
	Room       matrix.RoomID
	Alias      string              // instead of Room
	Via        []matrix.ServerName // who may be in the room
	Reason     string
}

// seeking is a Seek under way: a row of the database as JSON. It is given up, or done, as a whole.
type seeking struct {
	Key     AskID               `json:"key"` // of the row
	ID      AskID               `json:"id"`  // of the question that stands
	Kind    byte                `json:"kind"`
	User    matrix.UserID       `json:"user"`
	Room    matrix.RoomID       `json:"room,omitempty"` // "": the alias is to be resolved first
	Alias   string              `json:"alias,omitempty"`
	Reason  string              `json:"reason,omitempty"`
	Via     []matrix.ServerName `json:"via"`
	Asked   int                 `json:"asked"` // the first so many of Via were
	Refused []matrix.ServerName `json:"refused,omitempty"`
	Sent    []byte              `json:"sent,omitempty"` // the member event that was built
	With    *Template           `json:"with,omitempty"` // on this
	By      matrix.ServerName   `json:"by,omitempty"`   // of this one's
	Begun   int64               `json:"begun"`          // ms
	Next    int64               `json:"next"`           // when the next is asked; 0: as soon as Tend says how long that is

	done chan struct{} // closed with err set
	err  error
}

func seekingKey(key AskID) []byte { return append([]byte{tabAsking, 'q'}, key[:]...) }

// loadSeeking reads what was under way when the process ended.
func (r *Rooms) loadSeeking() error {
	return r.kv.View(func(rd store.Reader) error {
		return rd.Scan([]byte{tabAsking, 'q'}, nil, func(_, v []byte) (bool, error) {
			s := &seeking{done: make(chan struct{})}
			if err := json.Unmarshal(v, s); err != nil {
				return false, fmt.Errorf("%w: asking", errRow)
			}
			r.seeking = append(r.seeking, s)
			return true, nil
		})
	})
}

// Seek asks for a membership, and waits for it until ctx ends; then ErrUnderWay, and it goes on. What was asked before is waited for, not
// asked again. Other errors: ErrNobodyToAsk, ErrRefused, ErrTooMany. It gives the room.
func (r *Rooms) Seek(ctx context.Context, k Seek) (matrix.RoomID, error) {
	s, err := r.beginSeeking(k)
	if err != nil {
		return "", err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return "", ErrUnderWay
	}
	r.askMu.Lock()
	defer r.askMu.Unlock()
	return s.Room, s.err
}

func (r *Rooms) beginSeeking(k Seek) (*seeking, error) {
	kind := map[string]byte{matrix.MemberJoin: AskJoin, matrix.MemberKnock: AskKnock, matrix.MemberLeave: AskLeave}[k.Membership]
	if kind == 0 || !r.local(k.User) || len(k.Reason) > 1024 {
		return nil, fmt.Errorf("%w: membership", ErrBadEvent)
	}
	via := slices.Clone(k.Via)
	if k.Alias != "" {
		via = []matrix.ServerName{serverOf(matrix.UserID(k.Alias))}
	} else {
		if s := serverOf(matrix.UserID(k.Room)); s != "" {
			via = append(via, s)
		}
		known, err := r.residents(k.User, k.Room)
		if err != nil {
			return nil, err
		}
		via = append(via, known...)
	}
	r.askMu.Lock()
	defer r.askMu.Unlock()
	via = r.askable(append(via, r.lookups.hints[k.Room]...))
	for _, s := range r.seeking {
		if s.User != k.User || s.Kind != kind || (k.Alias == "" || s.Alias != k.Alias) && (k.Room == "" || s.Room != k.Room) {
			continue
		}
		for _, v := range via {
			if s.Room == k.Room && !slices.Contains(s.Via, v) && len(s.Via) < maxVia {
				s.Via = append(s.Via, v) // kept when the next is asked
			}
		}
		return s, nil
	}
	if len(via) == 0 {
		return nil, ErrNobodyToAsk
	}
	if len(r.seeking) >= maxSeeking {
		return nil, ErrTooMany
	}
	s := &seeking{Kind: kind, User: k.User, Room: k.Room, Alias: k.Alias, Reason: k.Reason, Via: via, Begun: time.Now().UnixMilli(), done: make(chan struct{})}
	rand.Read(s.Key[:]) // never fails
	rand.Read(s.ID[:])
	if err := r.askNext(s); err != nil {
		return nil, err
	}
	r.seeking = append(r.seeking, s)
	return s, nil
}

// residents are the servers that this node has seen in a room, or that took a user's knock there.
func (r *Rooms) residents(user matrix.UserID, room matrix.RoomID) (out []matrix.ServerName, err error) {
	err = r.read(room, func(q *reading) error {
		t, err := q.tallyOf()
		if err != nil {
			return err
		}
		row, err := q.strippedRow(user)
		if out = slices.Clone(t.remotes); row.By != "" {
			out = append(out, row.By)
		}
		return err
	})
	if errors.Is(err, ErrUnknownRoom) {
		err = nil
	}
	return out, err
}

// askable are those of some servers that can be asked: contacts, each once. The caller holds askMu.
func (r *Rooms) askable(via []matrix.ServerName) []matrix.ServerName {
	var out []matrix.ServerName
	for _, v := range r.contacts(via) {
		if v != r.server() && !slices.Contains(out, v) && len(out) < maxVia {
			if _, err := onionid.Parse(string(v)); err == nil {
				out = append(out, v)
			}
		}
	}
	return out
}

// askNext asks the next server. ONE Update: the row and the question go together, so that what waits in the outbox is always of
// a row, and a crash before it asks again. The caller holds askMu.
func (r *Rooms) askNext(s *seeking) error {
	if s.Asked >= len(s.Via) {
		return r.endSeeking(s, ErrRefused) // who named the room is no contact any more
	}
	q := Ask{ID: s.ID, Kind: s.Kind, Room: s.Room, User: s.User}
	if s.Room == "" {
		q = Ask{ID: s.ID, Kind: AskAlias, Text: s.Alias}
	}
	s.Sent, s.With, s.By, s.Next = nil, nil, "", 0
	to := s.Via[s.Asked]
	s.Asked++
	return r.put(s, to, q)
}

// put writes a row with a question.
func (r *Rooms) put(s *seeking, to matrix.ServerName, q Ask) error {
	row, item := object(s), object(q)
	err := r.kv.Update(func(txn store.Txn) error {
		return errors.Join(txn.Set(seekingKey(s.Key), row), store.Enqueue(txn, string(to), store.ItemQuestion, item))
	})
	if err != nil {
		return fmt.Errorf("asking for a room: %w", err)
	}
	return nil
}

// endSeeking forgets one, and tells who waits. The caller holds askMu.
func (r *Rooms) endSeeking(s *seeking, why error) error {
	if err := r.kv.Update(func(txn store.Txn) error { return txn.Delete(seekingKey(s.Key)) }); err != nil {
		return fmt.Errorf("ending what was asked for: %w", err)
	}
	r.seeking = slices.DeleteFunc(r.seeking, func(o *seeking) bool { return o == s })
	s.err = why
	close(s.done)
	return nil
}

// Unseek gives up what a user asked for of a room; false: there was nothing.
func (r *Rooms) Unseek(user matrix.UserID, room matrix.RoomID) (bool, error) {
	r.askMu.Lock()
	defer r.askMu.Unlock()
	for _, s := range r.seeking {
		if s.User == user && s.Room == room && s.Kind != AskLeave {
			return true, r.endSeeking(s, ErrRefused)
		}
	}
	return false, nil
}

// Tend asks the next server where the one before has said nothing for pace, and gives up what is too old. It touches the outbox alone.
func (r *Rooms) Tend(now time.Time, pace time.Duration) error {
	if err := r.tendOlder(now, pace); err != nil {
		return err
	}
	r.askMu.Lock()
	defer r.askMu.Unlock()
	r.tendLookups(now)
	for _, s := range slices.Clone(r.seeking) {
		at := now.UnixMilli()
		switch {
		case at-s.Begun > seekingLife.Milliseconds():
			if err := r.endSeeking(s, ErrRefused); err != nil {
				return err
			}
		case s.Next == 0: // in memory alone: after a restart it begins anew
			s.Next = at + pace.Milliseconds()
		case at >= s.Next && s.Asked < len(s.Via): // the same question: who was asked before may still answer
			if err := r.askNext(s); err != nil {
				return err
			}
		case at >= s.Next+askAgain.Milliseconds():
			s.Via = slices.DeleteFunc(s.Via, func(v matrix.ServerName) bool { return slices.Contains(s.Refused, v) })
			s.Asked, s.Refused = 0, nil
			rand.Read(s.ID[:])
			if err := r.askNext(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// TakeAnswer takes what a contact answers. An answer to what nobody asked that contact, or does not ask any more, is nothing.
// A crash before it returns: the answer is taken again, and finds done what was.
func (r *Rooms) TakeAnswer(ctx context.Context, from matrix.ServerName, a Answer) error {
	if mine, err := r.olderAnswered(ctx, from, a); mine || err != nil {
		return err
	}
	r.askMu.Lock()
	if r.found(from, a) {
		r.askMu.Unlock()
		return nil
	}
	i := slices.IndexFunc(r.seeking, func(s *seeking) bool { return s.ID == a.ID && slices.Contains(s.Via[:s.Asked], from) })
	if i < 0 {
		r.askMu.Unlock()
		return nil
	}
	s := r.seeking[i]
	was := *s
	r.askMu.Unlock()
	done, err := false, error(nil)
	if a.Kind != AnswerNo && was.Room != "" { // what changes the room, without askMu
		done, err = r.arrive(ctx, from, &was, a)
		if done && was.Kind == AskJoin && r.arrived != nil {
			r.arrived(was.User, was.Room)
		}
	}
	r.askMu.Lock()
	defer r.askMu.Unlock()
	if !slices.Contains(r.seeking, s) || s.ID != a.ID {
		return nil // given up meanwhile, or another came before
	}
	no := errors.Is(err, ErrBadSnapshot) || errors.Is(err, ErrForbidden) || errors.Is(err, ErrBadEvent) || errors.Is(err, ErrBadVersion) || errors.Is(err, ErrTooLarge)
	switch {
	case err != nil && !no:
		return err
	case done:
		return r.endSeeking(s, nil)
	case no || a.Kind == AnswerNo:
		return r.refusedBy(s, from)
	case was.Room == "" && a.Kind == AnswerRoom:
		s.Room = a.Room
		s.Via, s.Asked, s.Refused = r.askable(append([]matrix.ServerName{from}, a.Servers...)), 0, nil
		rand.Read(s.ID[:])
		return r.askNext(s)
	case a.Kind == AnswerTemplate && s.Kind <= AskLeave && s.Sent == nil:
		raw, err := r.buildOn(s, a.Template)
		if err != nil {
			return r.refusedBy(s, from)
		}
		s.Sent, s.With, s.By, s.Next = raw, a.Template, from, 0
		rand.Read(s.ID[:]) // the others' answers come too late
		return r.put(s, from, Ask{ID: s.ID, Kind: AskSend, Room: s.Room, Event: raw})
	}
	return nil
}

// refusedBy asks the next server, if there is one. The caller holds askMu.
func (r *Rooms) refusedBy(s *seeking, by matrix.ServerName) error {
	if slices.Contains(s.Refused, by) {
		return nil // said twice
	}
	s.Refused = append(s.Refused, by)
	if s.Asked < len(s.Via) {
		if s.Sent != nil {
			rand.Read(s.ID[:]) // another question
		}
		return r.askNext(s)
	}
	for _, v := range s.Via {
		if !slices.Contains(s.Refused, v) {
			return nil // one that was asked has not answered
		}
	}
	return r.endSeeking(s, ErrRefused)
}

// buildOn builds and signs the member event.
func (r *Rooms) buildOn(s *seeking, t *Template) ([]byte, error) {
	if !matrix.Supported(t.Version) || matrix.CheckRoomID(t.Version, s.Room) != nil {
		return nil, ErrBadVersion
	}
	size := 0
	for _, raw := range t.Stripped {
		size += len(raw)
	}
	if size > maxShownSize {
		return nil, ErrTooLarge
	}
	membership := map[byte]string{AskJoin: matrix.MemberJoin, AskKnock: matrix.MemberKnock, AskLeave: matrix.MemberLeave}[s.Kind]
	content := r.memberContent(s.User, membership, s.Reason, false)
	if t.Authoriser != "" {
		var err error
		if content, err = vouchedBy(content, t.Authoriser); err != nil {
			return nil, err
		}
	}
	key := string(s.User)
	ev, err := r.build(t.Version, matrix.Proto{Room: s.Room, Sender: s.User, Type: matrix.TypeMember, StateKey: &key, Content: content,
		PrevEvents: t.PrevEvents, AuthEvents: t.AuthEvents, Depth: t.Depth, Time: time.Now()})
	if err != nil {
		return nil, err
	}
	return ev.Raw(), nil
}

// AfterArrival has fn called with each local user that came into a room by what was asked for, before that is forgotten: after a crash once more.
func (r *Rooms) AfterArrival(fn func(matrix.UserID, matrix.RoomID)) { r.arrived = fn }
