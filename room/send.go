// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// NewEvent is what a local user wants to send.
type NewEvent struct {
	Room     matrix.RoomID
	Sender   matrix.UserID
	Type     string
	StateKey *string
	Content  json.RawMessage
	Redacts  matrix.EventID
	Device   matrix.DeviceID // with Txn: the same pair gives the same event id again (C-S API "Transaction identifiers")
	Txn      string
}

// txnDays is how long a transaction id is remembered.
const txnDays = 14

// txnRow remembers a client's transaction id.
type txnRow struct {
	hash  [16]byte
	day   uint32
	event hash
}

// sending is one call of Send that waits for the room's lock.
type sending struct {
	n    NewEvent
	id   matrix.EventID
	err  error
	done bool // under the room's lock
}

// queue holds the sends to a room that wait for its lock. Whoever gets it sends for all: one transaction, one sync.
//
// Of people who talk at once one half would wait for the sync of the other's, and then the other way round: twice as many syncs
// as there need be, and each waits for two. So whoever gets the lock waits a little, if there were more of them a moment ago.
type queue struct {
	mu      sync.Mutex // for moments
	waiting []*sending
	full    chan struct{} // closed when as many wait as there were; nil: nobody waits for that

	talking  int           // how many sent or waited when the last transaction was durable
	patience time.Duration // how long to wait for as many again
}

const (
	maxTogether = 64                   // sends that share a transaction
	maxPatience = 2 * time.Millisecond // that a send waits for company
)

func (q *queue) push(s *sending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, s)
	if q.full != nil && len(q.waiting) >= q.talking {
		close(q.full)
		q.full = nil
	}
}

// take gives the next transaction's. The caller holds the room's lock.
func (q *queue) take() []*sending {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) < min(q.talking, maxTogether) && q.patience > 0 {
		full := make(chan struct{})
		q.full = full
		q.mu.Unlock()
		enough := time.NewTimer(q.patience)
		select {
		case <-full:
		case <-enough.C:
		}
		enough.Stop()
		q.mu.Lock()
		q.full = nil
	}
	n := min(len(q.waiting), maxTogether)
	out := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return out
}

// sent notes that n were sent in one transaction, and how long that took. The caller holds the room's lock.
func (q *queue) sent(n int, took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.talking, q.patience = n+len(q.waiting), min(took/2, maxPatience)
}

// Send builds, signs, authorises and stores an event: ONE transaction writes event, heads, state, stream position,
// transaction id, and an outbox row for each contact that has a joined (or by this event invited, left,
// kicked, banned) member (relay.go). When it returns the event survives kill -9; the network is untouched.
// Errors: ErrUnknownRoom, ErrForbidden, ErrTooLarge, ErrBadEvent, ctx's before anything was begun.
func (r *Rooms) Send(ctx context.Context, n NewEvent) (matrix.EventID, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	l, err := r.get(n.Room)
	if err != nil {
		return "", err
	}
	s := &sending{n: n}
	l.queue.push(s)
	l.lock.Lock()
	defer l.lock.Unlock()
	for !s.done {
		all, begun := l.queue.take(), time.Now()
		r.sendAll(l, all)
		l.queue.sent(len(all), time.Since(begun))
	}
	return s.id, s.err
}

// sendAll sends what waits, in one transaction. An event that is not allowed harms no other.
func (r *Rooms) sendAll(l *live, all []*sending) {
	var p *plan
	err := r.view(func(rd snapshot) (err error) {
		if p, err = r.begin(l, rd); err != nil {
			return err
		}
		for _, s := range all {
			s.id, s.err = p.send(s.n)
			if s.err != nil && !isRefusal(s.err) {
				return s.err
			}
		}
		return nil
	})
	if err == nil && len(p.fresh) > 0 {
		_, err = p.commit()
	} else if err != nil {
		l.abandon()
	}
	for _, s := range all {
		if s.err == nil && err != nil {
			s.id, s.err = "", err
		}
		s.done = true
	}
}

// isRefusal: the event was refused before the plan was touched.
func isRefusal(err error) bool {
	return errors.Is(err, ErrForbidden) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrBadEvent) || errors.Is(err, ErrUnknownRoom) ||
		errors.Is(err, ErrDuplicate) || errors.Is(err, ErrNested)
}

// send plans one event of a local user.
func (p *plan) send(n NewEvent) (matrix.EventID, error) {
	if !p.row.active {
		return "", fmt.Errorf("%w: nobody here is in the room", ErrForbidden)
	}
	var t txnRow
	if n.Txn != "" {
		t.hash, t.day = txnHash(n.Sender, n.Device, p.n, n.Txn), uint32(time.Now().Unix()/86400)
		id, err := p.sent(t.hash)
		if id != "" || err != nil {
			return id, err
		}
	}
	if n.Type == matrix.TypeCreate && n.StateKey != nil && *n.StateKey == "" {
		return "", fmt.Errorf("%w: a room is created once", ErrForbidden) // auth rule 1, which a v12 event could not even be built for
	}
	if n.Type == matrix.TypeRedaction {
		if err := p.redacter(n); err != nil {
			return "", err
		}
	}
	e, err := p.author(matrix.Proto{Sender: n.Sender, Type: n.Type, StateKey: n.StateKey, Content: n.Content, Redacts: n.Redacts})
	if err != nil {
		return "", err
	}
	if n.Txn != "" {
		e.device, e.txn = n.Device, n.Txn
		t.event = mustHash(e.ev.ID())
		p.txns = append(p.txns, t)
	}
	return e.ev.ID(), nil
}

// author builds an event on the room's heads, signs it, asks the rules, and plans it with its deliveries. If it is
// refused the plan is as it was.
func (p *plan) author(proto matrix.Proto) (*held, error) {
	if !p.r.local(proto.Sender) {
		return nil, fmt.Errorf("%w: the sender is not of this server", ErrForbidden)
	}
	proto.Room = p.row.id
	proto.AuthEvents = dag.AuthEvents(p.row.version, p.current, proto)
	heads, err := p.parents(proto.AuthEvents)
	if err != nil {
		return nil, err
	}
	for _, h := range heads {
		e, err := p.head(h)
		if err != nil {
			return nil, err
		}
		proto.PrevEvents = append(proto.PrevEvents, h.id())
		proto.Depth = max(proto.Depth, e.ev.Depth())
	}
	proto.Depth = min(proto.Depth+1, matrix.MaxDepth)
	// The own clock, but never back within a room: the order of a sender's events is that of their times. Other
	// servers' clocks do not pull it.
	clock := max(time.Now().UnixMilli(), p.row.clock+1)
	if proto.Time, err = p.notBefore(proto, time.UnixMilli(clock)); err != nil {
		return nil, err
	}
	ev, err := p.r.build(p.row.version, proto)
	if err != nil {
		return nil, err
	}
	if err := p.mayRelate(ev); err != nil {
		return nil, err
	}
	in, err := p.try(ev)
	if err != nil {
		return nil, fmt.Errorf("authorising an event: %w", err)
	}
	if len(in.Missing) > 0 {
		return nil, fmt.Errorf("%w: an event that the heads lean on is missing", errRow)
	}
	if in.Status != dag.Accepted {
		return nil, fmt.Errorf("%w: %w", ErrForbidden, in.Why)
	}
	to, err := p.recipients(ev, "", p.current)
	if err != nil {
		return nil, err
	}
	p.row.clock = clock
	e, err := p.put(ev, in)
	if err != nil {
		return nil, err
	}
	p.outbox = append(p.outbox, to...)
	return e, nil
}

// maxSkew is how far another server's clock may be ahead without harm.
const maxSkew = 2 * time.Hour

// notBefore is the time of an event: now, but after that of the state that it replaces. State resolution sorts by time: a join that
// looks older than its invite, for the inviter's clock is ahead, would lose to it wherever something else is decided beside the two.
func (p *plan) notBefore(proto matrix.Proto, now time.Time) (time.Time, error) {
	if proto.StateKey == nil {
		return now, nil
	}
	old, err := p.stateEvent(p.current, proto.Type, *proto.StateKey)
	if old == nil || err != nil {
		return now, err
	}
	if t := old.ev.Time(); !t.Before(now) && t.Sub(now) <= maxSkew {
		return t.Add(time.Millisecond), nil
	}
	return now, nil
}

// build makes an event, with this package's errors.
func (r *Rooms) build(v matrix.RoomVersion, proto matrix.Proto) (*matrix.Event, error) {
	ev, err := matrix.Build(v, proto, r.o.Signer)
	switch {
	case err == nil:
		return ev, nil
	case errors.Is(err, matrix.ErrTooLarge):
		return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, matrix.ErrVersion):
		return nil, fmt.Errorf("%w: %w", ErrBadVersion, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrBadEvent, err)
}

// remotes are the servers with joined members but our own, sorted.
func remotes(c *census, own matrix.ServerName) []matrix.ServerName {
	out := make([]matrix.ServerName, 0, len(c.servers))
	for s := range c.servers {
		if s != own {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// itemData is what ItemEvent and ItemInvite carry.
func itemData(room matrix.RoomID, event matrix.EventID) []byte {
	return []byte(string(room) + "\x00" + string(event))
}

// txnHash names a transaction id: of a user's device, for one room.
func txnHash(u matrix.UserID, d matrix.DeviceID, n uint32, txn string) (out [16]byte) {
	b := binary.BigEndian.AppendUint32(nil, n)
	b = appendText(appendText(appendText(b, string(u)), string(d)), txn)
	sum := sha256.Sum256(b)
	copy(out[:], sum[:])
	return out
}

// sent finds the event that a transaction id made; "" if none.
func (p *plan) sent(t [16]byte) (matrix.EventID, error) {
	for _, x := range p.txns {
		if x.hash == t {
			return x.event.id(), nil
		}
	}
	v, err := p.rd.Get(txnKey(t))
	if isNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking up a transaction id: %w", err)
	}
	d := decoder{b: v}
	d.bytes(4)
	h := d.hash()
	return h.id(), d.err("transaction id")
}

// forgetTxns deletes a few transaction ids that are too old: a little with each send, so that none costs much.
func forgetTxns(txn store.Txn, today uint32) error {
	if today < txnDays {
		return nil
	}
	var old [][]byte
	err := txn.Scan([]byte{tabTxnDay}, nil, func(k, _ []byte) (bool, error) {
		if len(k) != 21 || binary.BigEndian.Uint32(k[1:]) >= today-txnDays {
			return false, nil
		}
		old = append(old, slices.Clone(k))
		return len(old) < 4, nil
	})
	for _, k := range old {
		if err == nil {
			err = txn.Delete(k)
		}
		if err == nil {
			err = txn.Delete(txnKey([16]byte(k[5:])))
		}
	}
	return err
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }
