// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Looking at what others show: aliases of their names, what a room or a space shows of itself, their directories. It is asked for like rooms are (asking.go), but
// what is not answered in time is nobody's loss: it is in memory alone, and the answer is there when the client asks again.

// Bounds of looking.
const (
	maxLookups   = 64 // under way
	lookupLife   = time.Hour
	freshAnswer  = 5 * time.Minute // an answer so young is given again without asking
	staleAnswer  = 24 * time.Hour  // one so old is better than none
	maxFound     = 512             // answers kept
	maxFoundSize = 4 << 20         // bytes of them
	maxHints     = 1000            // rooms of which is known whom to ask
	lookAt       = 3               // servers asked for one room
	maxShown     = 50              // children in one answer
	maxShownSize = 400 << 10       // bytes of an answer
)

// lookups is guarded by Rooms.askMu.
type lookups struct {
	under []*lookup
	known map[string]known // by lookupKey
	size  int
	hints map[matrix.RoomID][]matrix.ServerName
}

type lookup struct {
	id    AskID
	key   string
	to    matrix.ServerName
	begun time.Time
	done  chan struct{}
}

type known struct {
	at time.Time
	a  Answer
}

func lookupKey(to matrix.ServerName, q Ask) string {
	return string(to) + "\x00" + string(rune(q.Kind)) + string(q.Room) + q.Text
}

// inquire asks a contact, or gives what it said lately. ErrUnderWay: it says nothing before ctx ends, and has said nothing of late; ErrRefused: it says no.
func (r *Rooms) inquire(ctx context.Context, to matrix.ServerName, q Ask) (Answer, error) {
	key := lookupKey(to, q)
	r.askMu.Lock()
	had, ok := r.lookups.known[key]
	if ok && time.Since(had.at) < freshAnswer {
		r.askMu.Unlock()
		return had.a.orNo()
	}
	i := slices.IndexFunc(r.lookups.under, func(l *lookup) bool { return l.key == key })
	if i < 0 {
		if len(r.lookups.under) >= maxLookups {
			r.askMu.Unlock()
			return Answer{}, ErrTooMany
		}
		l := &lookup{key: key, to: to, begun: time.Now(), done: make(chan struct{})}
		rand.Read(l.id[:]) // never fails
		q.ID = l.id
		if err := r.kv.Update(func(txn store.Txn) error { return store.Enqueue(txn, string(to), store.ItemQuestion, object(q)) }); err != nil {
			r.askMu.Unlock()
			return Answer{}, fmt.Errorf("asking a contact: %w", err)
		}
		i, r.lookups.under = len(r.lookups.under), append(r.lookups.under, l)
	}
	l := r.lookups.under[i]
	r.askMu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
	}
	r.askMu.Lock()
	defer r.askMu.Unlock()
	if had, ok = r.lookups.known[key]; !ok || time.Since(had.at) > staleAnswer {
		return Answer{}, ErrUnderWay
	}
	return had.a.orNo()
}

func (a Answer) orNo() (Answer, error) {
	if a.Kind == AnswerNo {
		return a, ErrRefused
	}
	return a, nil
}

// found takes an answer to a lookup; false: it is to something else. The caller holds askMu.
func (r *Rooms) found(from matrix.ServerName, a Answer) bool {
	i := slices.IndexFunc(r.lookups.under, func(l *lookup) bool { return l.id == a.ID })
	if i < 0 {
		return false
	}
	l := r.lookups.under[i]
	if l.to != from {
		return true
	}
	r.keepAnswer(l.key, a)
	r.lookups.under = slices.Delete(r.lookups.under, i, i+1)
	close(l.done)
	return true
}

// keepAnswer remembers; the oldest go.
func (r *Rooms) keepAnswer(key string, a Answer) {
	k := &r.lookups
	if k.known == nil {
		k.known = map[string]known{}
	}
	if a.Snapshot != nil || a.Template != nil || len(a.Data) > maxFoundSize/8 {
		a = Answer{Kind: AnswerNo} // not what was asked for
	}
	k.size += len(a.Data) - len(k.known[key].a.Data)
	k.known[key] = known{time.Now(), a}
	for len(k.known) > maxFound || k.size > maxFoundSize {
		oldest := ""
		for key, x := range k.known {
			if oldest == "" || x.at.Before(k.known[oldest].at) {
				oldest = key
			}
		}
		k.size -= len(k.known[oldest].a.Data)
		delete(k.known, oldest)
	}
}

// tendLookups forgets what was never answered. The caller holds askMu.
func (r *Rooms) tendLookups(now time.Time) {
	r.lookups.under = slices.DeleteFunc(r.lookups.under, func(l *lookup) bool {
		old := now.Sub(l.begun) > lookupLife
		if old {
			close(l.done)
		}
		return old
	})
}

// hint remembers who may be asked for a room. The caller holds askMu.
func (r *Rooms) hint(room matrix.RoomID, via []matrix.ServerName) {
	if r.lookups.hints == nil || len(r.lookups.hints) >= maxHints {
		r.lookups.hints = map[matrix.RoomID][]matrix.ServerName{}
	}
	if via = r.askable(via); len(via) > 0 {
		r.lookups.hints[room] = via
	}
}

// AliasOf resolves an alias of another node, by asking it: the room and servers that are in it. ErrNobodyToAsk: it is no contact; ErrRefused, ErrUnderWay, ErrTooMany.
func (r *Rooms) AliasOf(ctx context.Context, alias string) (matrix.RoomID, []matrix.ServerName, error) {
	server := serverOf(matrix.UserID(alias))
	r.askMu.Lock()
	to := r.askable([]matrix.ServerName{server})
	r.askMu.Unlock()
	if len(to) == 0 {
		return "", nil, ErrNobodyToAsk
	}
	a, err := r.inquire(ctx, to[0], Ask{Kind: AskAlias, Text: alias})
	if err != nil {
		return "", nil, err
	}
	if a.Kind != AnswerRoom {
		return "", nil, ErrRefused
	}
	servers := append([]matrix.ServerName{server}, a.Servers...)
	r.askMu.Lock()
	r.hint(a.Room, servers)
	r.askMu.Unlock()
	return a.Room, servers, nil
}

// SummaryOf is Summary, also of a room that others are asked for: those of via, and those of whom this node knows. A user must ask.
func (r *Rooms) SummaryOf(ctx context.Context, user matrix.UserID, room matrix.RoomID, via []matrix.ServerName) (Summary, error) {
	s, err := r.Summary(user, room)
	if !errors.Is(err, ErrUnknownRoom) || user == "" {
		return s, err
	}
	if m, err := r.Membership(user, room); err != nil || m == matrix.MemberBan {
		return s, cmp.Or(err, ErrUnknownRoom)
	}
	known, err := r.residents(user, room)
	if err != nil {
		return s, err
	}
	if server := serverOf(matrix.UserID(room)); server != "" {
		known = append(known, server)
	}
	r.askMu.Lock()
	if len(via) > 0 {
		r.hint(room, via)
	}
	to := r.askable(slices.Concat(via, known, r.lookups.hints[room]))
	r.askMu.Unlock()
	why := ErrUnknownRoom
	for _, server := range to[:min(len(to), lookAt)] {
		a, err := r.inquire(ctx, server, Ask{Kind: AskSummary, Room: room})
		switch {
		case errors.Is(err, ErrRefused):
			continue
		case errors.Is(err, ErrUnderWay):
			why = err
			continue
		case err != nil:
			return s, err
		}
		s, others, ok := readSummaries(a.Data, room)
		if !ok {
			continue
		}
		r.askMu.Lock()
		for _, c := range s.Children { // what it says of them it said just now, also nothing
			r.keepAnswer(lookupKey(server, Ask{Kind: AskSummary, Room: c.Room}), Answer{Kind: AnswerNo})
			r.hint(c.Room, append([]matrix.ServerName{server}, c.Via...))
		}
		for id, raw := range others {
			r.keepAnswer(lookupKey(server, Ask{Kind: AskSummary, Room: id}), Answer{Kind: AnswerData, Data: raw})
		}
		r.askMu.Unlock()
		s.Membership, err = r.Membership(user, room)
		if err != nil {
			return s, err
		}
		may := false
		err = r.view(func(rd snapshot) (err error) {
			may, err = (&reading{r: r, rd: rd}).mayKnow(user, &s)
			return err
		})
		if err != nil {
			return s, err
		}
		if may {
			return s, nil
		}
	}
	return s, why
}

// ListQuery is a search in a directory.
type ListQuery struct {
	Limit int       `json:"limit"`
	Since int       `json:"since,omitempty"`
	Term  string    `json:"term,omitempty"`
	Types []*string `json:"types,omitempty"` // nil: all; null: rooms without a type
}

// ListPage is what it finds. Next is Since of the next page; 0: this is the last.
type ListPage struct {
	Rooms []Listing
	Total int
	Next  int
}

type listWire struct {
	Rooms []summaryWire `json:"chunk"`
	Total int           `json:"total"`
	Next  int           `json:"next,omitempty"`
}

// List searches this node's directory.
func (r *Rooms) List(q ListQuery) (ListPage, error) { return r.listFor("", q) }

func (r *Rooms) listFor(server matrix.ServerName, q ListQuery) (out ListPage, err error) {
	term := strings.ToLower(q.Term)
	err = r.directory(server, func(l Listing) bool {
		if q.Types != nil && !slices.ContainsFunc(q.Types, func(t *string) bool { return t == nil && l.Type == "" || t != nil && *t == l.Type }) {
			return true
		}
		if term == "" || slices.ContainsFunc([]string{l.Name, l.Topic, l.Alias}, func(s string) bool { return strings.Contains(strings.ToLower(s), term) }) {
			out.Rooms = append(out.Rooms, l)
		}
		return true
	})
	out.Total = len(out.Rooms)
	from := min(max(q.Since, 0), out.Total)
	if out.Rooms = out.Rooms[from:]; len(out.Rooms) > q.Limit {
		out.Rooms, out.Next = out.Rooms[:max(q.Limit, 0)], from+q.Limit
	}
	return out, err
}

// ListOf searches another node's directory, by asking it. Errors as AliasOf's.
func (r *Rooms) ListOf(ctx context.Context, server matrix.ServerName, q ListQuery) (out ListPage, err error) {
	r.askMu.Lock()
	to := r.askable([]matrix.ServerName{server})
	r.askMu.Unlock()
	if len(to) == 0 {
		return out, ErrNobodyToAsk
	}
	q.Limit = min(q.Limit, maxShown)
	text := string(object(q))
	if len(text) > 2048 {
		return out, ErrBadEvent
	}
	a, err := r.inquire(ctx, server, Ask{Kind: AskList, Text: text})
	if err != nil {
		return out, err
	}
	var w listWire
	if json.Unmarshal(a.Data, &w) != nil || w.Next < 0 || w.Total < 0 {
		return out, ErrRefused
	}
	out.Total, out.Next = w.Total, w.Next
	r.askMu.Lock()
	defer r.askMu.Unlock()
	for _, x := range w.Rooms[:min(len(w.Rooms), maxShown)] {
		out.Rooms = append(out.Rooms, x.listing())
		r.hint(x.Room, []matrix.ServerName{server})
	}
	return out, nil
}
