// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// typing is who types where: in memory. To other nodes it is a clock, so it goes only to those that the operator says (signs.go).
type typing struct {
	r     *Rooms
	turn  atomic.Uint64 // grows with what other nodes could be told
	mu    sync.Mutex    // also held while waiters are woken, so that they find what they were woken for
	rooms map[matrix.RoomID]*typists
}

type typists struct {
	users map[matrix.UserID]*stint
	at    store.Pos // of the last change
}

// stint is one SetTyping, until it is renewed or over.
type stint struct {
	timer  *time.Timer
	until  time.Time
	topics []string // whom its end wakes
}

// maxTyping bounds how long one SetTyping lasts.
const maxTyping = 2 * time.Minute

// SetTyping says that a local user types, or does no more. timeout 0 means 30 s; at most 2 minutes. ErrUnknownRoom, ErrNotMember.
func (r *Rooms) SetTyping(user matrix.UserID, room matrix.RoomID, typing bool, timeout time.Duration) error {
	locals, err := r.audience(user, room)
	if err != nil {
		return err
	}
	if timeout <= 0 {
		timeout = 30 * time.Second
	}
	timeout = min(timeout, maxTyping)
	r.typing.set(room, user, typing, timeout, locals)
	return nil
}

// audience is the room's joined local users; ErrNotMember if user is not among them.
func (r *Rooms) audience(user matrix.UserID, room matrix.RoomID) ([]string, error) {
	var t *tally
	err := r.read(room, func(q *reading) (err error) {
		row, err := q.user(user)
		if err != nil {
			return err
		}
		if row.membership != matrix.MemberJoin {
			return ErrNotMember
		}
		t, err = q.tallyOf()
		return err
	})
	if err != nil {
		return nil, err
	}
	return t.locals, nil
}

func (t *typing) set(room matrix.RoomID, user matrix.UserID, on bool, timeout time.Duration, topics []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.rooms[room]
	if x == nil {
		if !on {
			return
		}
		x = &typists{users: map[matrix.UserID]*stint{}}
		t.rooms[room] = x
	}
	old := x.users[user]
	if old != nil {
		old.timer.Stop()
	}
	if t.r.local(user) && (on || old != nil) {
		t.turn.Add(1)
	}
	if !on {
		if old == nil {
			return
		}
		delete(x.users, user)
	} else {
		now := &stint{until: time.Now().Add(timeout), topics: topics}
		now.timer = time.AfterFunc(timeout, func() { t.expire(room, user, now, topics) })
		x.users[user] = now
		if old != nil {
			return // goes on typing: nothing new for anybody
		}
	}
	x.at = t.r.stream.Notify(topics...)
}

// expire ends a typing whose time is over, unless it was renewed.
func (t *typing) expire(room matrix.RoomID, user matrix.UserID, over *stint, topics []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x := t.rooms[room]; x != nil && x.users[user] == over {
		delete(x.users, user)
		x.at = t.r.stream.Notify(topics...)
		if t.r.local(user) {
			t.turn.Add(1)
		}
	}
}

// stop ends a stint early, if there is one.
func (t *typing) stop(room matrix.RoomID, user matrix.UserID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.rooms[room]
	if x == nil || x.users[user] == nil {
		return
	}
	x.users[user].timer.Stop()
	topics := x.users[user].topics
	delete(x.users, user)
	x.at = t.r.stream.Notify(topics...)
}

// ofServer lists who of a server's users types anywhere, sorted.
func (t *typing) ofServer(server matrix.ServerName) (out []Typist) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for room, x := range t.rooms {
		for u, s := range x.users {
			if serverOf(u) == server {
				out = append(out, Typist{room, u, s.until})
			}
		}
	}
	slices.SortFunc(out, func(a, b Typist) int { return cmp.Or(cmp.Compare(a.Room, b.Room), cmp.Compare(a.User, b.User)) })
	return out
}

// changed is when the room's typists last changed.
func (t *typing) changed(room matrix.RoomID) store.Pos {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x := t.rooms[room]; x != nil {
		return x.at
	}
	return 0
}

// now lists who types, sorted.
func (t *typing) now(room matrix.RoomID) ([]matrix.UserID, store.Pos) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x := t.rooms[room]
	if x == nil {
		return nil, 0
	}
	out := make([]matrix.UserID, 0, len(x.users))
	for u := range x.users {
		out = append(out, u)
	}
	slices.Sort(out)
	return out, x.at
}

// Receipt types.
const (
	readPublic  = "m.read"
	readPrivate = "m.read.private"
)

// SetReceipt stores a read receipt; m.read goes to the outbox too, m.read.private never leaves the node. One that does
// not go forward changes nothing. ErrUnknownRoom, ErrNotMember, ErrUnknownEvent, ErrBadEvent (unknown type, malformed).
func (r *Rooms) SetReceipt(room matrix.RoomID, rc Receipt) error {
	if _, err := r.audience(rc.User, room); err != nil {
		return err
	}
	if !r.local(rc.User) {
		return fmt.Errorf("%w: a receipt of another server's user", ErrForbidden)
	}
	l, err := r.get(room)
	if err != nil {
		return err
	}
	known := false
	err = r.read(room, func(q *reading) error {
		e, err := q.byID(rc.Event)
		known = e != nil && e.shown
		return err
	})
	if err != nil {
		return err
	}
	if !known {
		return ErrUnknownEvent
	}
	if rc.Time.IsZero() {
		rc.Time = time.Now()
	}
	return r.storeReceipts(l, room, []Receipt{rc}, true)
}

// IngestReceipts takes another node's read receipts; those for users not of the sender's server, or not in the room, are
// dropped, those of threads whose first event is not here, and those that do not go forward.
func (r *Rooms) IngestReceipts(from matrix.ServerName, room matrix.RoomID, rs []Receipt) error {
	l, err := r.get(room)
	if err != nil {
		return err
	}
	var good []Receipt
	err = r.read(room, func(q *reading) error {
		if denied, err := q.denied(from); denied || err != nil {
			return err
		}
		for _, rc := range rs {
			if rc.Type != readPublic || serverOf(rc.User) != from || from == r.server() || len(rc.User) > matrix.MaxID {
				continue
			}
			if _, err := hashOf(rc.Event); err != nil {
				continue
			}
			// Each thread has a row of its own, that every first sync gives: so only threads that exist.
			if rc.Thread != "" && rc.Thread != "main" {
				if at, err := q.placeOf(matrix.EventID(rc.Thread)); err != nil || at == 0 {
					if err != nil {
						return err
					}
					continue
				}
			}
			m, err := q.member(rc.User)
			if err != nil {
				return err
			}
			if m == matrix.MemberJoin {
				good = append(good, rc)
			}
		}
		return nil
	})
	if err != nil || len(good) == 0 {
		return err
	}
	return r.storeReceipts(l, room, good, false)
}

// storeReceipts writes receipts and, if ours, the outbox's rows, in one transaction.
func (r *Rooms) storeReceipts(l *live, room matrix.RoomID, rs []Receipt, ours bool) error {
	for _, rc := range rs {
		if rc.Type != readPublic && rc.Type != readPrivate || len(rc.Thread) > matrix.MaxID || strings.IndexByte(rc.Thread, 0) >= 0 {
			return fmt.Errorf("%w: receipt", ErrBadEvent)
		}
	}
	var t *tally
	var to []matrix.ServerName
	var places map[matrix.EventID]seq
	err := r.read(room, func(q *reading) (err error) {
		if t, err = q.tallyOf(); err != nil {
			return err
		}
		s, err := q.state(q.row.current)
		if err != nil {
			return err
		}
		if to, err = q.admitted(s, r.contacts(t.remotes)); err != nil {
			return err
		}
		places = map[matrix.EventID]seq{}
		for _, rc := range rs {
			if places[rc.Event], err = q.placeOf(rc.Event); err != nil {
				return err
			}
			old, _, err := q.receipt(rc)
			if err == nil && old.Event != "" {
				places[old.Event], err = q.placeOf(old.Event)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	private := true
	for _, rc := range rs {
		private = private && rc.Type == readPrivate
	}
	topics := t.locals
	if private {
		topics = []string{string(rs[0].User)}
	}
	_, err = r.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		q := &reading{r: r, rd: snapshot{Reader: txn}, n: l.n}
		stored := make([]Receipt, 0, len(rs))
		for _, rc := range rs {
			old, at, err := q.receipt(rc)
			if err != nil {
				return nil, err
			}
			if old.Event == rc.Event || old.Event != "" && places[old.Event] > places[rc.Event] && places[rc.Event] != 0 {
				continue
			}
			if old.Event != "" {
				if err := txn.Delete(receiptPosKey(l.n, at, rc)); err != nil {
					return nil, err
				}
			}
			if err := txn.Set(receiptKey(l.n, rc), store.AppendUint64(nil, uint64(pos))); err != nil {
				return nil, err
			}
			v := append(binary.BigEndian.AppendUint64(nil, uint64(rc.Time.UnixMilli())), rc.Event...)
			if err := txn.Set(receiptPosKey(l.n, pos, rc), v); err != nil {
				return nil, err
			}
			if rc.Type == readPublic {
				stored = append(stored, rc)
			}
		}
		l.receipts.Store(max(l.receipts.Load(), uint64(pos)))
		var record []byte
		if ours && len(stored) > 0 && r.o.EncodeReceipts != nil {
			record = r.o.EncodeReceipts(room, stored)
		}
		if len(record) > 0 { // what has no form for other nodes (an overlong thread) stays here
			data := append([]byte{receiptsRecord}, record...)
			// They are not signed, so nobody passes them on: who is no contact does not learn of them.
			for _, s := range to {
				if err := store.Enqueue(txn, string(s), store.ItemRecord, data); err != nil {
					return nil, err
				}
			}
		}
		return topics, nil
	})
	if err != nil {
		return fmt.Errorf("storing receipts: %w", err)
	}
	return nil
}

// placeOf is an event's place in the timeline; 0 if it has none.
func (q *reading) placeOf(id matrix.EventID) (seq, error) {
	e, err := q.byID(id)
	if e == nil || !e.shown {
		return 0, err
	}
	return e.place, nil
}

// receipt reads the receipt of the same user, type and thread, and its position.
func (q *reading) receipt(rc Receipt) (Receipt, store.Pos, error) {
	v, err := q.rd.Get(receiptKey(q.n, rc))
	if isNotFound(err) {
		return Receipt{}, 0, nil
	}
	if err == nil && len(v) != 8 {
		err = fmt.Errorf("%w: receipt", errRow)
	}
	if err != nil {
		return Receipt{}, 0, err
	}
	pos := store.Pos(binary.BigEndian.Uint64(v))
	if v, err = q.rd.Get(receiptPosKey(q.n, pos, rc)); err != nil {
		return Receipt{}, 0, fmt.Errorf("reading a receipt: %w", err)
	}
	if len(v) < 8 {
		return Receipt{}, 0, fmt.Errorf("%w: receipt", errRow)
	}
	rc.Event = matrix.EventID(v[8:])
	return rc, pos, nil
}

// lastReceipt is the position of the room's newest receipt.
func (q *reading) lastReceipt() (store.Pos, error) {
	var pos store.Pos
	err := q.rd.ScanBack(key(tabReceiptPos, q.n, 0), nil, func(k, _ []byte) (bool, error) {
		if len(k) >= 13 {
			pos = store.Pos(binary.BigEndian.Uint64(k[5:]))
		}
		return false, nil
	})
	return pos, err
}

// receipts fills in the receipts that are new to the user.
func (s *syncing) receipts(c *Change) error {
	since := s.since
	if c.Newly {
		since = 0
	}
	if s.l.receipts.Load() <= uint64(since) {
		return nil
	}
	prefix := key(tabReceiptPos, s.q.n, 0)
	from := binary.BigEndian.AppendUint64(slices.Clone(prefix), uint64(since)+1)
	return s.q.rd.Scan(prefix, from, func(k, v []byte) (bool, error) {
		if len(k) < 13 || len(v) < 8 {
			return false, fmt.Errorf("%w: receipt", errRow)
		}
		if store.Pos(binary.BigEndian.Uint64(k[5:])) > s.upTo {
			return false, nil
		}
		name := strings.SplitN(string(k[13:]), "\x00", 3)
		if len(name) != 3 {
			return false, fmt.Errorf("%w: receipt", errRow)
		}
		rc := Receipt{User: matrix.UserID(name[0]), Type: name[1], Thread: name[2], Event: matrix.EventID(v[8:]),
			Time: time.UnixMilli(int64(binary.BigEndian.Uint64(v)))}
		if rc.Type != readPrivate || rc.User == s.user {
			c.Receipts = append(c.Receipts, rc)
		}
		return true, nil
	})
}
