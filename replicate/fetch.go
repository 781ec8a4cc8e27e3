// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarn/bundle"
	"tarn/mailbox"
	"tarn/store"
)

// errBadBox: a store gave something that is not the box we know is there.
var errBadBox = errors.New("replicate: the answer is not the box")

// Fetching one box.
const (
	fetchTries = 8  // then it is left to the sender's rewrite
	probeHole  = 8  // frames: the first pause before a box is looked for that no digest listed, while a later one has come
	probeIdle  = 24 // of the profile's Heads: the longest such pause, and the only one while no later box has come
)

// ref says whose box a handle is.
type ref struct {
	contact *contact
	at      boxAt
	invite  *invite // instead of a contact: the reply to a link of ours
	loop    *loop   // or: a box of our own

	recovery *place // of a contact: a request for new streams, or an answer
}

// todo is a box that a digest listed for us.
type todo struct {
	handle mailbox.Handle
	row    [8]byte // what its row is called: by chance, for row keys are not forgotten (package store), and handles must be
	ref
	listed    time.Time     // when its digest page began
	span      time.Duration // of that page; 0 after a restart
	place     [32]byte      // of one that is looked for unlisted
	tries     int
	failures  int // to get any answer
	notBefore time.Time
	busy      bool
}

func (t *todo) key(st *depot) []byte {
	return store.Key(tableTodo, string(st.address.Onion), t.row[:])
}

// todoKey is the row of what is to be fetched under that handle; if nothing is, one that is not there.
func todoKey(st *depot, h mailbox.Handle) []byte {
	t := st.todo[h]
	if t == nil {
		t = &todo{}
	}
	return t.key(st)
}

func (t *todo) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.raw(t.handle[:])
	w.time(t.listed)
	return w.b
}

func parseTodo(b []byte) (*todo, error) {
	r := reader{b: b}
	r.version()
	t := &todo{}
	copy(t.handle[:], r.raw(mailbox.HandleSize))
	t.listed = r.time()
	return t, r.end()
}

// chooseGet finds a box to read at the store: one that a digest listed, a payload of a link we follow, now and then
// one that may be there unlisted; else a decoy.
func (e *Engine) chooseGet(st *depot, now time.Time) (job, bool) {
	// The lowest index of each contact, then one contact by lot.
	best := map[*contact]*todo{}
	var loop *todo // the oldest
	var offers []func() (job, bool)
	for h, t := range st.todo {
		if t.contact != nil && e.expected[h].contact != t.contact {
			delete(st.todo, h) // it came meanwhile, or the contact is gone
			continue
		}
		if t.busy || t.notBefore.After(now) {
			continue
		}
		if t.loop != nil {
			if loop == nil || t.before(loop) {
				loop = t
			}
		} else if t.contact == nil {
			offers = append(offers, func() (job, bool) { return e.fetch(st, t), true })
		} else if b := best[t.contact]; t.contact.fetchable() && (b == nil || t.at.before(b.at)) {
			best[t.contact] = t
		}
	}
	for _, t := range best {
		offers = append(offers, func() (job, bool) { return e.fetch(st, t), true })
	}
	for _, a := range e.accepts {
		if a.fetchDue(st.address, now) {
			offers = append(offers, func() (job, bool) { return e.fetchPayload(a), true })
		} else if e.lacksTokens(a, st, now) {
			offers = append(offers, func() (job, bool) { return e.fetchTokens(a), true })
		}
	}
	if j, ok := e.getTokens(st, now); ok {
		return j, true
	}
	if j, ok := e.seekLeft(st, now); ok {
		return j, true
	}
	if len(offers) > 0 {
		return offers[e.rng.IntN(len(offers))]()
	}
	if loop != nil {
		return e.fetch(st, loop), true
	}
	if st.own {
		if t := e.probe(now); t != nil {
			return e.fetch(st, t), true
		}
		if j, ok := e.lookForAnswer(st, now); ok {
			return j, true
		}
	}
	p := e.profile.Load()
	return e.readDecoy(st, now, p.Frame, p.Frame)
}

// readDecoy reads a box about as old as those that are really read; false: none is known.
func (e *Engine) readDecoy(st *depot, now time.Time, listing, wait time.Duration) (job, bool) {
	if st.descriptor == nil {
		return job{}, false
	}
	h, ok := st.decoys.pick(now.Add(-e.ages.draw(st.descriptor.bucket, listing, wait, e.rng)), e.rng)
	if !ok {
		return job{}, false
	}
	return job{store: st, do: func(ctx context.Context, m Mailbox) error { _, err := m.Get(ctx, h); return err }}, true
}

// chooseRead finds a box to read at one of some stores: the one that was listed first, a loop if there is no other. Of the boxes of one contact the one
// with the lowest index counts, for the others are of no use before it; and as listed when the contact's last one was read, if that
// is later, so that who leaves very many boxes at once has his turn like the others, and not all turns before them.
func (e *Engine) chooseRead(stores []*depot, now time.Time) (job, bool) {
	type found struct {
		st *depot
		t  *todo
	}
	var all []found
	lowest := map[*contact]boxAt{}
	busy := map[mailbox.Handle]bool{} // its second copy is being read
	for _, st := range stores {
		for h, t := range st.todo {
			if t.contact != nil && e.expected[h].contact != t.contact {
				delete(st.todo, h) // it came meanwhile, or the contact is gone
				continue
			}
			if t.busy {
				busy[h] = true
			}
			if t.busy || t.notBefore.After(now) || t.contact != nil && !t.contact.fetchable() {
				continue
			}
			if t.contact != nil {
				if low, ok := lowest[t.contact]; !ok || t.at.before(low) {
					lowest[t.contact] = t.at
				}
			}
			all = append(all, found{st, t})
		}
	}
	var best found
	for _, f := range all {
		if busy[f.t.handle] || f.t.contact != nil && lowest[f.t.contact].before(f.t.at) {
			continue
		}
		if best.t == nil || f.t.before(best.t) {
			best = f
		}
	}
	if best.t == nil {
		return job{}, false
	}
	if c := best.t.contact; c != nil {
		c.lastRead = now
	}
	j := e.fetch(best.st, best.t)
	j.store = best.st
	return j, true
}

// before orders boxes to be read: those of others before loops, then by when they were listed, then by handle, so that a
// seed gives the same order again.
func (t *todo) before(o *todo) bool {
	if mine := t.loop != nil; mine != (o.loop != nil) {
		return !mine
	}
	if c := t.since().Compare(o.since()); c != 0 {
		return c < 0
	}
	return bytes.Compare(t.handle[:], o.handle[:]) < 0
}

// since is when its turn to be read began.
func (t *todo) since() time.Time {
	if t.contact != nil && t.contact.lastRead.After(t.listed) {
		return t.contact.lastRead
	}
	return t.listed
}

// probe is, rarely, a box that no digest listed: the lowest one that is missing from some contact. It heals a digest
// that hides a box. It must be rare: who asks twice for a handle that nobody has written yet shows the store that both
// requests are one node's, and afterwards that the box under it is no cover. So the pauses of one index double, and
// are long from the beginning while nothing says that anything is missing.
func (e *Engine) probe(now time.Time) *todo {
	var due []*contact
	for _, c := range e.contacts {
		e.planProbe(c, now)
		if !c.probeDue.After(now) && c.fetchable() {
			due = append(due, c)
		}
	}
	if len(due) == 0 {
		return nil
	}
	slices.SortFunc(due, func(a, b *contact) int { return strings.Compare(string(a.name), string(b.name)) })
	c := due[e.rng.IntN(len(due))]
	c.probes++
	c.probeDue = now.Add(e.probePause(c))
	s := c.awaited().Expected(1)
	if len(s) == 0 {
		return nil
	}
	return &todo{handle: mailbox.BoxID(s[0].ID).Handle(), ref: ref{contact: c, at: boxAt{s[0].Epoch, s[0].Index}}, place: s[0].Place(), listed: now, tries: -1}
}

// planProbe sets when the contact's lowest missing box is looked for: anew when that is another one, or when the first
// later box came.
func (e *Engine) planProbe(c *contact, now time.Time) {
	chain := c.awaited()
	index, seen := chain.Ack()
	next, hole := boxAt{chain.Epoch(), index}, seen != [32]byte{}
	if !c.probeDue.IsZero() && next == c.probeFor && hole == c.probeHole {
		return
	}
	if hole != c.probeHole || next != c.probeFor && hole {
		c.probeDue = time.Time{}
	}
	// An index that came in order leaves the pause as it is: the time of a probe shall not follow the conversation.
	c.probeFor, c.probeHole, c.probes = next, hole, 0
	if c.probeDue.IsZero() {
		c.probeDue = now.Add(e.probePause(c))
	}
}

func (e *Engine) probePause(c *contact) time.Duration {
	p := e.profile.Load()
	longest := probeIdle * p.Heads
	if !c.probeHole {
		return e.jitter(longest)
	}
	return e.jitter(backoff(probeHole*p.Frame, c.probes, longest))
}

// fetch reads a box of a contact's stream, or the reply to a link.
func (e *Engine) fetch(st *depot, t *todo) job {
	t.busy = true
	if t.tries == 0 && st.descriptor != nil {
		// The box came at some time in its page.
		e.ages.add(time.Since(t.listed) - time.Duration(e.rng.Float64()*float64(t.span)))
	}
	var got *[mailbox.BoxSize]byte
	return job{
		do: func(ctx context.Context, m Mailbox) error {
			var err error
			got, err = m.Get(ctx, t.handle)
			return err
		},
		done: func(err error) {
			t.busy = false
			if errors.Is(err, errNotSent) || st.todo[t.handle] != t && t.tries >= 0 {
				return
			}
			if err == nil {
				switch {
				case t.loop != nil:
					err = e.closeLoop(t, got)
				case t.invite != nil:
					err = e.openReply(st, t, got)
				case t.recovery != nil:
					err = e.openRecovery(st, t, got)
				default:
					err = e.openBox(st, t, got)
				}
			}
			if err == nil || t.tries < 0 {
				return
			}
			if !errors.Is(err, errBadBox) {
				// The store's, the courier's or the disk's fault: the box stays due, later and later. Who repeats at once
				// shows a courier that drops answers which of its GETs were for something.
				p := e.profile.Load()
				t.failures++
				t.notBefore = time.Now().Add(e.jitter(backoff(p.Frame, t.failures-1, p.Retransmit)))
				return
			}
			t.tries++
			t.notBefore = time.Now().Add(e.jitter(backoff(2*e.profile.Load().Frame, t.tries, e.profile.Load().Retransmit)))
			if t.tries >= fetchTries {
				if err := e.kv.Update(func(txn store.Txn) error { return txn.Delete(todoKey(st, t.handle)) }); err == nil {
					delete(st.todo, t.handle)
				}
			}
		},
	}
}

// openBox opens what a store gave for a box of a contact and keeps what is in it.
func (e *Engine) openBox(st *depot, t *todo, got *[mailbox.BoxSize]byte) error {
	c := t.contact
	slot, ok := c.slotFor(t.at)
	if !ok || e.contacts[c.name] != c {
		delete(st.todo, t.handle) // another slot was faster
		return nil
	}
	plaintext, err := slot.Open(got[:])
	if err != nil {
		if t.tries >= 0 {
			e.counts.garbage.Add(1)
		}
		return errBadBox // absent, replaced, or garbage
	}
	if err := e.receive(st, c, t, mailbox.BoxID(slot.ID), plaintext); err != nil {
		e.warn("a received box could not be kept; it is fetched again", err)
		return err
	}
	delete(st.todo, t.handle)
	delete(e.expected, t.handle)
	e.expect(c)
	e.counts.opened.Add(1)
	e.wakeInbox()
	return nil
}

// receive keeps what a box holds. First what the peer acknowledges takes effect. Then ONE Update makes the box's
// records durable in the inbox and forgets its key; only from then on do our acknowledgements name it. A crash before
// that reads the box again (its todo row is there still); the peer's acknowledgement applied twice changes nothing.
func (e *Engine) receive(st *depot, c *contact, t *todo, id mailbox.BoxID, plaintext []byte) error {
	head, fragments, err := bundle.Unpack(plaintext)
	if err != nil {
		// Authentic, so the peer's program is at fault. The index must not stay a hole for ever: the box counts as read.
		e.counts.malformed.Add(1)
		e.log.Warn("a contact sent a box that is not a bundle")
		c.broken++
		fragments, head = nil, bundle.Head{}
	} else if err := e.applyAcks(c, head); err != nil {
		return err
	}
	now := time.Now()
	p, turned, given, err := c.opened(t.at, head, now)
	if err != nil {
		return err
	}
	row := c.contactRow
	row.lastHeard = now
	if turned {
		row.peerNext = 0 // of the new epoch
	}
	back := row.unsent > 0
	row.unsent, row.unsentMessages = 0, 0 // it is back, and asks for what it lacks
	plan := e.planInbox(c, t.at, fragments, now)
	peer := string(c.name)
	// The answer to a recovery was read.
	rescued := turned && c.recovery != nil && p.Epoch() == c.rescued
	// The contact's first box: it has read our reply.
	var followed *accept
	if !c.initiator {
		followed = e.accepts[c.voucher]
	}
	err = e.kv.Update(func(txn store.Txn) error {
		if err := plan.write(txn); err != nil {
			return err
		}
		if followed != nil {
			if err := txn.Delete(store.Key(tableAccept, c.voucher[:])); err != nil {
				return err
			}
		}
		if rescued {
			if err := txn.Delete(store.Key(tableRecovery, peer)); err != nil {
				return err
			}
		}
		return errors.Join(
			txn.Set(store.Key(tableStreams, peer), streamsRow(p, c.ackSent)),
			txn.Set(store.Key(tableContact, peer), row.marshal()),
			txn.Delete(todoKey(st, t.handle)))
	})
	if err != nil {
		return errors.Join(fmt.Errorf("keep a box: %w", err), e.reloadPartial(c))
	}
	old := c.pair
	c.pair, c.contactRow = p, row
	if turned {
		c.highAcked, c.floorTold = 0, 0
	}
	e.moved(c, old)
	if back {
		c.headsDue = now
	}
	if rescued {
		c.recovery = nil
		e.renewed(c, now)
	}
	plan.apply()
	if followed != nil {
		delete(e.accepts, c.voucher)
		e.reroute()
	}
	for _, h := range given {
		delete(e.expected, h)
	}
	if (!signsAlone(fragments) || len(given) > 0 || head.KEM != nil) && c.ackDue.IsZero() {
		c.ackDue = now.Add(e.exp(e.profile.Load().AckDelay))
	}
	return nil
}
