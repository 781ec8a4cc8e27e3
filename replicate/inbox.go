// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	people "tarn/account"
	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// typeHello is a bundle record of ours: the 32-byte nonce that the inviter's payload promised. SPEC replicate §3.
const typeHello bundle.Type = 0x21

// How long a record waits that can not be taken now.
const (
	inboxBatch  = 32 // rows read at a time, and worked off in a turn
	inboxTurn   = 200 * time.Millisecond
	retryFirst  = time.Second // then doubled
	retryMax    = 10 * time.Minute
	keepUnknown = 24 * time.Hour // events of a room whose snapshot is on the way, or signed by a key that we do not know yet; keys of an unknown device
	keepFailing = 14 * 24 * time.Hour
	maxRetries  = 4 * maxInbox // rows with a pause in memory
)

// inboxRow is a received record that is not worked off yet.
type inboxRow struct {
	received  time.Time
	kind      bundle.Type
	assembled bool // data is the id of a record in tableAssembly
	data      []byte
}

func (i *inboxRow) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.time(i.received)
	w.u8(byte(i.kind))
	w.flag(i.assembled)
	w.bytes(i.data)
	return w.b
}

func parseInbox(b []byte) (inboxRow, error) {
	r := reader{b: b}
	r.version()
	i := inboxRow{received: r.time(), kind: bundle.Type(r.u8()), assembled: r.flag(), data: r.bytes(bundle.MaxInflated)}
	if i.assembled && len(i.data) != 16 {
		r.bad = true
	}
	return i, r.end()
}

// retry is when an inbox row is tried again.
type retry struct {
	tries int
	next  time.Time
	peer  onionid.Name // whose row it is, if it is a message that waits for an earlier one
}

// effect is what working off a record changes here. Both run under the engine's lock: write in the Update that
// deletes the row, apply after its commit.
type effect struct {
	write func(store.Txn) error
	apply func()
}

// errRefuse: the record can never be taken.
var errRefuse = errors.New("replicate: record refused")

func (e *Engine) wakeInbox() {
	e.wakes.Add(1)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// workInbox works the inbox off until ctx ends, and saves the digest cursors now and then.
func (e *Engine) workInbox(ctx context.Context) {
	e.wakeInbox() // what was left when the node went down
	save := time.Now().Add(cursorEvery)
	for {
		next := e.drain(ctx)
		if next.IsZero() || next.After(save) {
			next = save
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-e.wake:
		case <-timer.C:
		}
		timer.Stop()
		if now := time.Now(); !now.Before(save) {
			save = now.Add(cursorEvery)
			e.mu.Lock()
			if err := e.saveCursors(); err != nil {
				e.warn("saving the digest cursors", err)
			}
			e.expire(now)
			e.mu.Unlock()
		}
	}
}

// drain works rows off that are due, a turn for each contact, and returns when the next one is (zero: none).
func (e *Engine) drain(ctx context.Context) (next time.Time) {
	e.mu.Lock()
	var peers []*contact
	for _, c := range e.contacts {
		if c.inbox > 0 {
			peers = append(peers, c)
		}
	}
	e.mu.Unlock()
	for _, c := range peers {
		if t := e.drainContact(ctx, c); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// drainContact works off a contact's rows in their order, for a turn: one whose events cost much (a deep auth chain, forked again and
// again) would else have the worker for itself for as long as it sends them. The next turn goes on where this one ends.
func (e *Engine) drainContact(ctx context.Context, c *contact) (next time.Time) {
	type rowAt struct {
		key []byte
		inboxRow
	}
	began := time.Now()
	if c.turnFrom == nil {
		c.turnWakes = e.wakes.Load()
	}
	var rows []rowAt
	err := e.kv.View(func(r store.Reader) error {
		return r.Scan(store.Key(tableInbox, string(c.name)), c.turnFrom, func(k, v []byte) (bool, error) {
			row, err := parseInbox(append([]byte(nil), v...))
			if err != nil {
				return false, err
			}
			rows = append(rows, rowAt{append([]byte(nil), k...), row})
			return len(rows) < inboxBatch, nil
		})
	})
	if err != nil {
		e.warn("reading the inbox", err)
		return time.Now().Add(retryMax)
	}
	for i, row := range rows {
		if t := e.work(ctx, c, row.key, row.inboxRow); !t.IsZero() && (c.turnDue.IsZero() || t.Before(c.turnDue)) {
			c.turnDue = t
		}
		if ctx.Err() != nil {
			return next
		}
		if c.turnFrom = append(row.key, 0); i+1 == len(rows) && len(rows) == inboxBatch || i+1 < len(rows) && time.Since(began) > inboxTurn {
			return time.Now() // there may be more
		}
	}
	next, c.turnFrom, c.turnDue = c.turnDue, nil, time.Time{}
	if e.wakes.Load() != c.turnWakes {
		return time.Now() // there may be something before where a turn began
	}
	return next
}

// work takes one record to whom it is for. The row goes only after that has it durably: a crash between gives the
// record twice. It returns when to try again, zero if the row is done with.
func (e *Engine) work(ctx context.Context, c *contact, key []byte, row inboxRow) time.Time {
	now := time.Now()
	e.mu.Lock()
	if r := e.retries[string(key)]; r != nil && r.next.After(now) {
		e.mu.Unlock()
		return r.next
	}
	e.mu.Unlock()
	eff, err := e.take(ctx, c, row)
	if ctx.Err() != nil {
		return time.Time{}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.contacts[c.name] != c {
		return time.Time{} // forgotten meanwhile, its rows with it
	}
	if err != nil && !errors.Is(err, errRefuse) && !row.stale(err, now) {
		r := e.retries[string(key)]
		if r == nil {
			if len(e.retries) >= maxRetries {
				clear(e.retries)
			}
			r = &retry{}
			e.retries[string(key)] = r
		}
		if errors.Is(err, people.ErrEarlier) {
			r.peer = c.name
		}
		r.next = now.Add(backoff(retryFirst, r.tries, retryMax))
		r.tries++
		return r.next
	}
	if err != nil {
		e.counts.refused.Add(1)
		if slices.ContainsFunc(dishonest, func(x error) bool { return errors.Is(err, x) }) {
			c.broken++
		}
		e.log.Debug("a received record was refused", "type", row.kind, "err", err)
		eff = effect{}
	}
	err = e.kv.Update(func(txn store.Txn) error {
		if eff.write != nil {
			if err := eff.write(txn); err != nil {
				return err
			}
		}
		if row.assembled {
			if err := eraseAssembly(txn, c, [16]byte(row.data)); err != nil {
				return err
			}
		}
		return txn.Delete(key)
	})
	if err != nil {
		e.warn("working off the inbox", err)
		return now.Add(retryFirst)
	}
	delete(e.retries, string(key))
	c.inbox--
	if row.assembled {
		c.drop([16]byte(row.data))
	}
	if eff.apply != nil {
		eff.apply()
	}
	return time.Time{}
}

// stale tells whether a record that fails for a reason that may pass has waited long enough.
func (i *inboxRow) stale(err error, now time.Time) bool {
	keep := keepFailing
	if errors.Is(err, room.ErrUnknownRoom) || errors.Is(err, people.ErrNotFound) || errors.Is(err, matrix.ErrUnknownKey) {
		keep = keepUnknown
	}
	return now.Sub(i.received) > keep
}

// take gives a record to whom it is for. Errors wrap errRefuse if there is no point in trying again.
func (e *Engine) take(ctx context.Context, c *contact, row inboxRow) (effect, error) {
	data := row.data
	if row.assembled {
		rec, err := e.assemble(c, [16]byte(row.data))
		if err != nil {
			return effect{}, err
		}
		data = rec.Data
	}
	switch row.kind {
	case bundle.TypeEvents:
		id, events, err := decodeEvents(data)
		if err != nil {
			return effect{}, refuse(err)
		}
		if e.snapshotComing(c) {
			// Without its snapshot package room would drop what belongs to a new room.
			if _, err := e.rooms.Heads(id); errors.Is(err, room.ErrUnknownRoom) {
				return effect{}, err
			}
		}
		got, err := e.rooms.Ingest(ctx, c.name, id, events)
		if err != nil {
			return effect{}, permanent(err)
		}
		if err := e.wantFilesOf(c, id, got.Stored); err != nil {
			return effect{}, err
		}
		if len(got.Unknown) > 0 {
			// Those events are given again once the certificate is here; of the others we note what is to be noted.
			return effect{}, errors.Join(e.settleIngested(c, id, got), matrix.ErrUnknownKey)
		}
		if got.Bad > 0 {
			e.counts.refused.Add(int64(got.Bad))
		}
		eff := e.noteIngested(c, id, got)
		note := eff.apply
		eff.apply = func() {
			note()
			c.broken += uint64(got.Forged)
		}
		return eff, nil
	case bundle.TypeSnapshot:
		s, err := decodeSnapshot(data)
		if err != nil {
			return effect{}, refuse(err)
		}
		if err := e.rooms.IngestSnapshot(ctx, c.name, s); err != nil {
			return effect{}, permanent(err)
		}
		return effect{}, e.wantAvatars(s)
	case bundle.TypeCertificate:
		cert, err := onionid.ParseCertificate(data)
		if err != nil {
			return effect{}, refuse(err)
		}
		return effect{}, permanent(e.rooms.AddCertificate(cert))
	case bundle.TypeWant:
		return e.answerWant(c, data)
	case bundle.TypeHeads:
		return e.compareHeads(c, data)
	case bundle.TypeReceipts:
		id, rs, err := decodeReceipts(data)
		if err != nil {
			return effect{}, refuse(err)
		}
		return effect{}, permanent(e.rooms.IngestReceipts(c.name, id, rs))
	case bundle.TypeSources:
		return e.takeSources(c, data)
	case bundle.TypeIntroduce:
		return e.takeIntroduce(c, data)
	case bundle.TypeIntroduced:
		return e.takeIntroduced(c, data)
	case bundle.TypeAsk:
		return effect{}, e.takeQuestion(c, data)
	case bundle.TypeAnswer:
		return effect{}, e.takeReply(ctx, c, data)
	case bundle.TypeContact:
		return e.takeStores(c, data)
	case bundle.TypeWitness:
		return e.compareWitness(c, data)
	case bundle.TypeTestimony:
		return e.takeTestimony(c, data)
	case bundle.TypeTokens:
		return e.takeTokens(c, data)
	case typeHello:
		return e.takeHello(c, data)
	case bundle.TypeSigns:
		return effect{}, e.takeSigns(c, data)
	}
	if e.files != nil {
		switch row.kind {
		case bundle.TypeMediaWanted:
			return effect{}, e.takeMediaWanted(ctx, c, data)
		case bundle.TypeMedia:
			return effect{}, e.takeMedia(c, data)
		case bundle.TypeMediaPart:
			return effect{}, e.takeMediaPart(c, data)
		}
	}
	if e.accounts == nil {
		return effect{}, nil
	}
	switch row.kind {
	case bundle.TypeDevices:
		return effect{}, e.takeDevices(c, data)
	case bundle.TypeOneTimeKeys:
		return effect{}, e.takeOneTimeKeys(c, data)
	case bundle.TypeKeysWanted:
		return e.takeWantedKeys(c, data)
	case bundle.TypeMessage:
		return effect{}, e.takeMessage(c, data, row.received)
	}
	return effect{}, nil // for a newer program: skipped
}

// snapshotComing tells whether a room's snapshot of the contact's is not whole, or not worked off, yet.
func (e *Engine) snapshotComing(c *contact) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range c.partial {
		if a.kind == bundle.TypeSnapshot || a.kind == bundle.TypeAnswer {
			return true
		}
	}
	return false
}

// settleIngested is noteIngested in an Update of its own.
func (e *Engine) settleIngested(c *contact, id matrix.RoomID, got room.Ingested) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	eff := e.noteIngested(c, id, got)
	if err := e.kv.Update(eff.write); err != nil {
		return err
	}
	eff.apply()
	return nil
}

// dishonest are the refusals of what no honest node sends; of others the reason can lie with us, or in between.
var dishonest = []error{bundle.ErrMalformed, bundle.ErrTooLarge, people.ErrSpeaker, people.ErrBadSignature, room.ErrBadPast}

func refuse(err error) error { return fmt.Errorf("%w: %w", errRefuse, err) }

// permanent marks those of package room's errors that another try does not change.
func permanent(err error) error {
	if errors.Is(err, matrix.ErrUnknownKey) {
		return err // a certificate may come
	}
	for _, p := range []error{room.ErrBadSnapshot, room.ErrBadEvent, room.ErrTooLarge, room.ErrForbidden, room.ErrBadVersion, room.ErrNotMember, room.ErrBadPast} {
		if errors.Is(err, p) {
			return refuse(err)
		}
	}
	return err
}

// assemble puts a record together from its fragments on disk.
func (e *Engine) assemble(c *contact, id [16]byte) (bundle.Record, error) {
	var fs []bundle.Fragment
	err := e.kv.View(func(r store.Reader) error {
		return r.Scan(store.Key(tableAssembly, string(c.name), id[:]), nil, func(_, v []byte) (bool, error) {
			p, err := parsePiece(append([]byte(nil), v...))
			fs = append(fs, p.Fragment)
			return true, err
		})
	})
	if err != nil {
		return bundle.Record{}, fmt.Errorf("read fragments: %w", err)
	}
	rec, err := bundle.Join(fs)
	if err != nil {
		return rec, refuse(err)
	}
	return rec, nil
}

// expire drops what waited too long: unfinished records, links that nobody used. The caller holds mu.
func (e *Engine) expire(now time.Time) {
	for _, c := range e.contacts {
		if c.recoveryDay != mailbox.Epoch(now) {
			e.expectRecovery(c, now)
		}
		for id, a := range c.partial {
			if a.done || now.Sub(a.first) < keepFailing {
				continue
			}
			if err := e.kv.Update(func(txn store.Txn) error { return eraseAssembly(txn, c, id) }); err != nil {
				e.warn("dropping an unfinished record", err)
				return
			}
			e.counts.refused.Add(1)
			c.drop(id)
		}
	}
	if e.files != nil {
		if err := e.files.Expire(now); err != nil {
			e.warn("forgetting files that did not come", err)
		}
	}
	e.judgeUnlisted(now)
	if err := e.boundOutboxes(); err != nil {
		e.warn("bounding what waits for contacts that are away", err)
	}
	e.expireLinks(now)
}
