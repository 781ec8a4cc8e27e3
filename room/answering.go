// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// Bounds of what one contact is answered: beyond, its questions are dropped without a word, and it asks another, or again.
const (
	maxQuestions  = 60 // at once
	everyQuestion = time.Minute
	maxGiven      = 8 // snapshots at once: each is a room
	everyGiven    = 10 * time.Minute
	maxUnsent     = 1000 // items that wait for the contact
)

// allowance counts down with each use, and fills up again.
type allowance struct {
	left  float64
	since time.Time
}

func (a *allowance) use(now time.Time, most int, every time.Duration) bool {
	if a.since.IsZero() {
		a.left = float64(most)
	} else {
		a.left = min(float64(most), a.left+float64(now.Sub(a.since))/float64(every))
	}
	a.since = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// asker is what a contact may still ask. It is in memory: a restart forgives.
type asker struct{ questions, given allowance }

// answerItem is a store.ItemAnswer.
type answerItem struct {
	ID       AskID               `json:"id"`
	Kind     byte                `json:"kind"`
	Room     matrix.RoomID       `json:"room,omitempty"`
	Event    matrix.EventID      `json:"event,omitempty"` // of a snapshot: the join; "": the room as it is
	Template *Template           `json:"template,omitempty"`
	Servers  []matrix.ServerName `json:"servers,omitempty"`
	Data     []byte              `json:"data,omitempty"`
	Missing  []matrix.EventID    `json:"missing,omitempty"` // of AnswerOlder, as they were asked
	Have     []matrix.EventID    `json:"have,omitempty"`
	Most     int                 `json:"most,omitempty"`
}

// TakeQuestion answers a contact's question, through the outbox. "No" is one answer: that there is no such room, that the user may not come in, that the asker
// may not know; and it leaves at the schedule's time as all answers do.
// A crash before it returns: the question is taken again, and the answer may go twice.
func (r *Rooms) TakeQuestion(from matrix.ServerName, q Ask) error {
	r.askMu.Lock()
	a := r.askers[from]
	if a == nil {
		a = &asker{}
		r.askers[from] = a // as many as contacts
	}
	ok := a.questions.use(time.Now(), maxQuestions, everyQuestion)
	r.askMu.Unlock()
	if !ok {
		return nil
	}
	waiting := 0
	if err := r.kv.View(func(rd store.Reader) (err error) {
		waiting, err = store.Waiting(rd, string(from))
		return err
	}); err != nil || waiting > maxUnsent {
		return err
	}
	if q.Kind == AskSend {
		return r.takeSent(from, q)
	}
	item := answerItem{ID: q.ID, Kind: AnswerNo}
	var handover []byte
	err := r.consider(from, q, &item, &handover)
	if err != nil && !isNo(err) {
		return fmt.Errorf("answering a contact: %w", err)
	}
	if err != nil {
		item = answerItem{ID: q.ID, Kind: AnswerNo}
	}
	if item.Kind == AnswerSnapshot {
		r.askMu.Lock()
		ok := a.given.use(time.Now(), maxGiven, everyGiven)
		r.askMu.Unlock()
		if !ok {
			return nil
		}
	}
	return r.kv.Update(func(txn store.Txn) error {
		if handover != nil {
			if err := txn.Set(handover, binary.AppendUvarint(nil, uint64(item.upTo(r, txn)))); err != nil {
				return err
			}
		}
		kind := byte(store.ItemAnswer)
		if item.Kind == AnswerOlder {
			kind = store.ItemOlder
		}
		return store.Enqueue(txn, string(from), kind, object(item))
	})
}

// upTo is the place of the newest event of the item's room.
func (i *answerItem) upTo(r *Rooms, txn store.Txn) seq {
	q, err := r.open(snapshot{Reader: txn}, i.Room)
	if err != nil {
		return 1
	}
	return max(1, q.row.last)
}

// isNo: the answer is no.
func isNo(err error) bool {
	for _, e := range []error{ErrUnknownRoom, ErrUnknownEvent, ErrForbidden, ErrNotMember, ErrBadEvent, ErrBadVersion, ErrTooLarge, ErrLargeRoom, ErrNoState} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// consider finds the answer.
func (r *Rooms) consider(from matrix.ServerName, q Ask, item *answerItem, handover *[]byte) error {
	switch q.Kind {
	case AskJoin, AskKnock, AskLeave:
		if _, _, err := matrix.ParseUserID(q.User); err != nil || serverOf(q.User) != from {
			return ErrForbidden
		}
		return r.read(q.Room, func(p *reading) error {
			way, by, err := p.mayEnter(from, q.User, q.Kind)
			if err != nil {
				return err
			}
			item.Room = q.Room
			if way == openDoor {
				item.Kind, *handover = AnswerSnapshot, handoverKey(p.n, from)
				return nil
			}
			item.Kind = AnswerTemplate
			item.Template, err = p.template(q.User, q.Kind, by)
			return err
		})
	case AskOlder:
		item.Kind, item.Room, item.Missing, item.Have, item.Most = AnswerOlder, q.Room, q.Missing, q.Have, q.Most
		return r.read(q.Room, func(p *reading) error { return p.mayHaveOlder(from, q.Missing) })
	}
	return r.lookUp(from, q, item)
}

// door is how a user may get what it wants.
type door byte

const (
	openDoor    door = iota + 1 // by a join that it builds itself
	guardedDoor                 // by an event that we insert
)

// mayEnter says whether a user of another server may join, knock or leave, and who of ours vouches for a join that needs it. The rules judge the event
// again when it comes; here the question is what the asker may be told.
func (q *reading) mayEnter(from matrix.ServerName, u matrix.UserID, kind byte) (door, matrix.UserID, error) {
	if !q.row.active {
		return 0, "", ErrUnknownRoom
	}
	if denied, err := q.denied(from); denied || err != nil {
		return 0, "", cmp.Or(err, ErrUnknownRoom)
	}
	was, err := q.member(u)
	if err != nil {
		return 0, "", err
	}
	e, err := q.stateEvent(mustState(q), matrix.TypeJoinRules, "")
	if err != nil {
		return 0, "", err
	}
	rule := "invite"
	if e != nil {
		rule, _ = joinRules(e.ev)
	}
	switch {
	case was == matrix.MemberBan:
		return 0, "", ErrForbidden
	case kind == AskLeave:
		if was == matrix.MemberKnock || was == matrix.MemberInvite {
			return guardedDoor, "", nil
		}
	case kind == AskKnock:
		if (rule == "knock" || rule == "knock_restricted") && was != matrix.MemberJoin && was != matrix.MemberInvite {
			return guardedDoor, "", nil
		}
	case rule == "public", was == matrix.MemberInvite, was == matrix.MemberJoin:
		return openDoor, "", nil
	case rule == "restricted", rule == "knock_restricted":
		by, err := q.voucher(u)
		if by != "" || err != nil {
			return guardedDoor, by, err
		}
	}
	return 0, "", ErrForbidden
}

// mustState is the room's current state; an empty one if it can not be read, which then allows nothing.
func mustState(q *reading) dag.State {
	s, err := q.state(q.row.current)
	if err != nil {
		return dag.State{}
	}
	return s
}

// voucher is a local user that may vouch for a restricted join of u's: one who may invite, if u is in a room whose members may join
// (room version 8, "restricted"). "": nobody can.
func (q *reading) voucher(u matrix.UserID) (matrix.UserID, error) {
	s, err := q.state(q.row.current)
	if err != nil {
		return "", err
	}
	e, err := q.stateEvent(s, matrix.TypeJoinRules, "")
	if err != nil || e == nil {
		return "", err
	}
	_, allowed := joinRules(e.ev)
	member := false
	for _, a := range allowed {
		o, err := q.r.open(q.rd, a)
		if errors.Is(err, ErrUnknownRoom) {
			continue
		}
		if err != nil {
			return "", err
		}
		if q.r.local(u) {
			standing, err := o.user(u)
			if err != nil {
				return "", err
			}
			member = member || standing.membership == matrix.MemberJoin
		} else if o.row.active { // else what is known of it is old
			m, err := o.member(u)
			if err != nil {
				return "", err
			}
			member = member || m == matrix.MemberJoin
		}
	}
	if !member {
		return "", nil
	}
	power, err := q.powerIn(s)
	if err != nil {
		return "", err
	}
	t, err := q.tallyOf()
	if err != nil {
		return "", err
	}
	for _, by := range slices.Sorted(slices.Values(t.locals)) {
		if power.User(matrix.UserID(by)) >= power.Invite {
			return matrix.UserID(by), nil
		}
	}
	return "", nil
}

// vouchedBy adds the authorising user to a join's content.
func vouchedBy(content json.RawMessage, by matrix.UserID) (json.RawMessage, error) {
	var c map[string]any
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, err
	}
	c["join_authorised_via_users_server"] = by
	return object(c), nil
}

// template is what a member event of u's is to be built on.
func (q *reading) template(u matrix.UserID, kind byte, by matrix.UserID) (*Template, error) {
	s, err := q.state(q.row.current)
	if err != nil {
		return nil, err
	}
	t := &Template{Version: q.row.version, Authoriser: by}
	for _, h := range q.row.heads[:min(len(q.row.heads), matrix.MaxPrev)] {
		e, err := q.head(h)
		if err != nil {
			return nil, err
		}
		t.PrevEvents = append(t.PrevEvents, h.id())
		t.Depth = max(t.Depth, e.ev.Depth())
	}
	t.Depth = min(t.Depth+1, matrix.MaxDepth)
	membership := map[byte]string{AskJoin: matrix.MemberJoin, AskKnock: matrix.MemberKnock, AskLeave: matrix.MemberLeave}[kind]
	content := object(map[string]string{"membership": membership})
	if by != "" {
		if content, err = vouchedBy(content, by); err != nil {
			return nil, err
		}
	}
	key := string(u)
	t.AuthEvents = dag.AuthEvents(q.row.version, s, matrix.Proto{Sender: u, Type: matrix.TypeMember, StateKey: &key, Content: content})
	if kind == AskKnock {
		events, err := q.strippedState(s)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			t.Stripped = append(t.Stripped, e)
		}
	}
	return t, nil
}

// takeSent inserts a member event that was built on a template of ours: what the rules allow now, once. ONE transaction: the event, its deliveries, the answer.
func (r *Rooms) takeSent(from matrix.ServerName, q Ask) error {
	no := func() error {
		return r.kv.Update(func(txn store.Txn) error {
			return store.Enqueue(txn, string(from), store.ItemAnswer, object(answerItem{ID: q.ID, Kind: AnswerNo}))
		})
	}
	l, err := r.get(q.Room)
	if errors.Is(err, ErrUnknownRoom) {
		return no()
	}
	if err != nil {
		return err
	}
	_, err = r.write(l, func(p *plan) error {
		item, err := p.insertSent(from, q)
		if err == nil {
			p.outbox = append(p.outbox, delivery{from, store.ItemAnswer, object(item)})
		}
		return err
	})
	if isNo(err) || errors.Is(err, matrix.ErrSignature) || errors.Is(err, matrix.ErrFormat) || errors.Is(err, matrix.ErrTooLarge) || errors.Is(err, matrix.ErrNotCanonical) {
		return no()
	}
	return err
}

// insertSent checks, co-signs and plans it.
func (p *plan) insertSent(from matrix.ServerName, q Ask) (item answerItem, err error) {
	ev, err := matrix.Parse(p.row.version, q.Event)
	if err != nil {
		return item, err
	}
	kind := map[string]byte{matrix.MemberJoin: AskJoin, matrix.MemberKnock: AskKnock, matrix.MemberLeave: AskLeave}[ev.Membership()]
	if kind == 0 || ev.Room() != q.Room || ev.Server() != from || !ev.Is(matrix.TypeMember, string(ev.Sender())) || ev.Redacted() {
		return item, ErrForbidden
	}
	item = answerItem{ID: q.ID, Kind: AnswerDone}
	if kind == AskJoin {
		item = answerItem{ID: q.ID, Kind: AnswerSnapshot, Room: q.Room, Event: ev.ID()}
	}
	if known, err := p.held(mustHash(ev.ID())); err != nil {
		return item, err
	} else if known != nil {
		if known.status != dag.Accepted || known.outlier {
			return item, ErrForbidden
		}
		return item, nil // it came before
	}
	way, by, err := p.mayEnter(from, ev.Sender(), kind)
	if err != nil {
		return item, err
	}
	if vouched := matrix.UserID(ev.ContentString("join_authorised_via_users_server")); kind == AskJoin && vouched != "" {
		if way != guardedDoor || !p.r.local(vouched) || by == "" {
			return item, ErrForbidden // it needs nobody's word, or another's
		}
		if ev, err = ev.Cosign(p.r.o.Signer); err != nil {
			return item, err
		}
	}
	if err := ev.Verify(p.r.keysWith(map[string]onionid.Certificate{})); err != nil {
		return item, err
	}
	in, err := p.try(ev)
	if err != nil {
		return item, err
	}
	if len(in.Missing) > 0 || in.Status != dag.Accepted {
		return item, ErrForbidden
	}
	// The author's server is not in the room, or not yet: it sends the event to nobody but us, whatever its contacts say.
	to, err := p.admitted(p.current, p.r.contacts(remotes(p.census, p.r.server())))
	if err != nil {
		return item, err
	}
	if _, err := p.put(ev, in); err != nil {
		return item, err
	}
	for _, s := range to {
		if s != from {
			p.outbox = append(p.outbox, delivery{s, store.ItemEvent, itemData(p.row.id, ev.ID())})
		}
	}
	return item, nil
}

// PackAnswer makes the answer of a store.ItemAnswer or ItemOlder for a contact. What is gone meanwhile is answered with no.
func (r *Rooms) PackAnswer(to matrix.ServerName, data []byte) (Answer, error) {
	var i answerItem
	if err := json.Unmarshal(data, &i); err != nil {
		return Answer{}, fmt.Errorf("%w: answer", errRow)
	}
	a := Answer{ID: i.ID, Kind: i.Kind, Template: i.Template, Room: i.Room, Servers: i.Servers, Data: i.Data}
	if i.Kind != AnswerSnapshot && i.Kind != AnswerOlder {
		return a, nil
	}
	err := r.read(i.Room, func(q *reading) (err error) {
		if denied, err := q.denied(to); denied || err != nil {
			return cmp.Or(err, ErrUnknownRoom)
		}
		if !q.row.active {
			return ErrUnknownRoom
		}
		if i.Kind == AnswerOlder {
			a.Older, err = q.older(to, &i)
		} else if i.Event != "" {
			a.Snapshot, err = q.snapshot(i.Event)
		} else {
			a.Snapshot, err = q.snapshotNow(to)
		}
		return err
	})
	if isNo(err) {
		return Answer{ID: i.ID, Kind: AnswerNo}, nil
	}
	return a, err
}

// snapshotNow is the room as it is, for a server that is not in it.
func (q *reading) snapshotNow(server matrix.ServerName) (*Snapshot, error) {
	state, err := q.state(q.row.current)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{Room: q.row.id, Version: q.row.version}
	history, err := q.historyFor(server, &held{place: math.MaxUint64})
	if err != nil {
		return nil, err
	}
	all := map[matrix.EventID]*held{}
	if err := q.gather(s, state, history, nil, all); err != nil {
		return nil, err
	}
	for _, h := range q.row.heads[:min(len(q.row.heads), matrix.MaxPrev)] {
		s.Heads = append(s.Heads, h.id())
		if all[h.id()] != nil {
			continue
		}
		e, err := q.head(h)
		if err != nil {
			return nil, err
		}
		hidden := *e
		hidden.ev = e.ev.Redact() // its place in the graph is needed, what it says is not for the newcomer
		all[h.id()] = &hidden
		chain, err := dag.AuthChain(q, []matrix.EventID{h.id()})
		if err != nil {
			return nil, err
		}
		for _, id := range chain {
			if all[id] == nil {
				if all[id], err = q.byID(id); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(s.Heads) == 0 {
		return nil, ErrUnknownRoom
	}
	s.Event = s.Heads[0]
	return s, q.fill(s, all)
}
