// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/crypto/sealed"
	"tarn/mailbox"
	"tarn/store"
)

// acceptState is how far the following of a link is.
type acceptState byte

// The states, as stored.
const (
	acceptSeeking  acceptState = 1 // the payload is not found yet
	acceptReplying acceptState = 2 // the reply is sealed and kept, not deposited yet
	acceptFailed   acceptState = 3
	// The reply is deposited and the contact exists; the reply is written again, identically, until the other node's
	// first box shows that it was read: a store may lose it.
	acceptDelivered acceptState = 4
)

// accept is a link that we follow. Guarded by the engine's mutex.
type accept struct {
	link    Link
	state   acceptState
	created time.Time
	reason  string // of a failure

	from, by onionid.Name // of an introduction: whose link alone it can be, and who passed it on; else ""

	// From the payload on:
	name      onionid.Name
	stores    []mailbox.Address
	promise   [32]byte
	sealedAt  time.Time
	root      ratchet.Root
	numberKey [32]byte
	recovery  [32]byte // secret
	ownKey    [sealed.PrivateKeySize]byte
	peerKey   []byte
	replyID   mailbox.BoxID
	reply     []byte            // the sealed box, the same at every try
	told      []mailbox.Address // our stores, as it says
	tokens    [32]byte          // of the boxes with the first tokens for the inviter's store; zeros: none are known

	tokensAfter time.Time // when that box is looked for
	tokensTries int

	due   time.Time
	tries int
	busy  bool
}

func (a *accept) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.u8(byte(a.state))
	w.str(string(a.link.Store.Onion))
	w.time(a.link.Expiry)
	w.time(a.created)
	w.str(a.reason)
	w.str(string(a.from))
	w.str(string(a.by))
	w.flag(a.reply != nil)
	if a.reply != nil {
		w.str(string(a.name))
		w.stores(a.stores)
		w.raw(a.promise[:])
		w.time(a.sealedAt)
		w.raw(a.root[:])
		w.raw(a.numberKey[:])
		w.raw(a.recovery[:])
		w.raw(a.ownKey[:])
		w.bytes(a.peerKey)
		w.raw(a.replyID[:])
		w.raw(a.reply)
		w.stores(a.told)
		w.raw(a.tokens[:])
	}
	return w.b
}

func parseAccept(voucher [32]byte, b []byte) (*accept, error) {
	r := reader{b: b}
	r.version()
	a := &accept{state: acceptState(r.u8())}
	a.link = Link{Store: mailbox.Address{Onion: r.name()}, Voucher: voucher, Expiry: r.time()}
	a.created, a.reason, a.from, a.by = r.time(), r.str(255), r.maybeName(), r.maybeName()
	if r.flag() {
		a.name, a.stores, a.promise, a.sealedAt = r.name(), r.stores(), r.key32(), r.time()
		a.root, a.numberKey, a.recovery, a.ownKey = r.key32(), r.key32(), r.key32(), r.key32()
		a.peerKey = slices.Clone(r.bytes(sealed.PublicKeySize))
		copy(a.replyID[:], r.raw(mailbox.IDSize))
		a.reply = slices.Clone(r.raw(mailbox.BoxSize))
		a.told, a.tokens = r.stores(), r.key32()
	}
	if a.state < acceptSeeking || a.state > acceptDelivered || (a.state == acceptReplying || a.state == acceptDelivered) && a.reply == nil {
		r.bad = true
	}
	return a, r.end()
}

// open tells whether the link has not come to an end yet.
func (a *accept) open() bool { return a.state == acceptSeeking || a.state == acceptReplying }

func (a *accept) fetchDue(at mailbox.Address, now time.Time) bool {
	return a.state == acceptSeeking && a.link.Store == at && !a.busy && !a.due.After(now)
}

func (a *accept) replyDue(at mailbox.Address, now time.Time) bool {
	return (a.state == acceptReplying || a.state == acceptDelivered && now.Before(a.link.Expiry)) && a.link.Store == at && !a.busy && !a.due.After(now)
}

// Accept begins to follow a link. It is durable when Accept returns; the rest happens on the schedule, Contacts shows
// how far it is. ErrExpired, ErrOwnLink, ErrFollowed, ErrNoStore, ErrTooMany.
func (e *Engine) Accept(ctx context.Context, l Link) (ContactStatus, error) {
	if err := ctx.Err(); err != nil {
		return ContactStatus{}, err
	}
	if _, err := l.Store.Onion.Key(); err != nil {
		return ContactStatus{}, fmt.Errorf("%w: %w", ErrLink, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	switch {
	case e.invites[l.Voucher] != nil:
		return ContactStatus{}, ErrOwnLink
	case e.accepts[l.Voucher] != nil:
		return e.acceptStatus(e.accepts[l.Voucher], now), ErrFollowed
	case !now.Before(l.Expiry):
		return ContactStatus{}, ErrExpired
	case len(e.own) == 0:
		return ContactStatus{}, ErrNoStore
	}
	for _, c := range e.contacts {
		if c.voucher == l.Voucher { // of a contact made with it
			if c.initiator {
				return ContactStatus{}, ErrOwnLink
			}
			return ContactStatus{}, ErrFollowed
		}
	}
	open := 0
	for _, a := range e.accepts {
		if a.open() && a.from == "" {
			open++
		}
	}
	if open >= maxLinks || len(e.accepts) >= 4*maxLinks {
		return ContactStatus{}, ErrTooMany
	}
	a := &accept{link: l, state: acceptSeeking, created: now, due: now}
	if err := e.saveAccept(a); err != nil {
		return ContactStatus{}, err
	}
	e.accepts[l.Voucher] = a
	e.reroute()
	return e.acceptStatus(a, now), nil
}

func (e *Engine) saveAccept(a *accept) error {
	if err := e.kv.Update(func(txn store.Txn) error {
		return txn.Set(store.Key(tableAccept, a.link.Voucher[:]), a.marshal())
	}); err != nil {
		return fmt.Errorf("keep the following of a link: %w", err)
	}
	return nil
}

// failAccept ends it with words for a person. An introduction is just gone: no person asked for it.
func (e *Engine) failAccept(a *accept, reason string) {
	if a.from != "" {
		if err := e.kv.Update(func(txn store.Txn) error { return txn.Delete(store.Key(tableAccept, a.link.Voucher[:])) }); err != nil {
			e.warn("ending an introduction", err)
			return // it is tried again
		}
		delete(e.accepts, a.link.Voucher)
		e.reroute()
		return
	}
	old := *a
	a.state, a.reason = acceptFailed, reason
	a.reply, a.root, a.numberKey, a.recovery, a.ownKey = nil, ratchet.Root{}, [32]byte{}, [32]byte{}, [32]byte{}
	if err := e.saveAccept(a); err != nil {
		e.warn("ending the following of a link", err)
		*a = old // it is tried again
		return
	}
	e.reroute()
}

// fetchPayload looks for the payload in the link's store.
func (e *Engine) fetchPayload(a *accept) job {
	at := payloadPlace(a.link.Voucher)
	a.busy = true
	var got *[mailbox.BoxSize]byte
	return job{
		do: func(ctx context.Context, m Mailbox) error {
			var err error
			got, err = m.Get(ctx, at.id.Handle())
			return err
		},
		done: func(err error) {
			now := time.Now()
			p := e.profile.Load()
			a.busy = false
			if e.accepts[a.link.Voucher] != a || a.state != acceptSeeking {
				return
			}
			if errors.Is(err, errNotSent) {
				a.due = now
				return
			}
			var content []byte
			if err == nil {
				content, err = at.open(got)
			}
			switch {
			case err == nil && sha256.Sum256(content) == a.link.Voucher:
				if err := e.answer(a, content, now); err != nil {
					e.log.Debug("a link's payload", "err", err)
				}
			case err == nil, errors.Is(err, ErrPayload):
				e.failAccept(a, "What lies under this link is not what its maker put there; ask for a new link.")
			case !now.Before(a.link.Expiry):
				e.failAccept(a, "The link has expired; ask for a new one.")
			default:
				// Not deposited yet, or the store does not answer.
				a.tries++
				a.due = now.Add(e.jitter(backoff(2*p.Frame, a.tries, p.Retransmit)))
			}
		},
	}
}

// answer checks the payload and makes the reply, once: what leaves is what is on disk, at every try.
func (e *Engine) answer(a *accept, content []byte, now time.Time) error {
	p, err := parsePayload(content)
	switch {
	case err != nil:
		e.failAccept(a, "What lies under this link is not authentic; ask for a new link.")
		return err
	case p.name == e.self.Name:
		e.failAccept(a, "This link was made by this node; give it to the other one.")
		return ErrOwnLink
	case a.from != "" && p.name != a.from:
		e.failAccept(a, "")
		return errNotIntroduced
	case a.from != "" && !e.introducible(p.name): // a person was faster, or said no
		e.failAccept(a, "")
		return ErrFollowed
	case !now.Before(p.expiry) || !p.expiry.Equal(a.link.Expiry):
		e.failAccept(a, "The link has expired; ask for a new one.")
		return ErrExpired
	}
	if old := e.contacts[p.name]; old != nil && old.outlasts(a.link.Expiry, a.link.Voucher) {
		e.failAccept(a, crossed)
		return ErrFollowed
	}
	key, err := sealed.ParsePublicKey(p.key)
	if err != nil {
		return err
	}
	if err := e.rooms.AddCertificate(p.certificate); err != nil {
		return fmt.Errorf("keep a contact's certificate: %w", err)
	}
	own, err := sealed.Generate()
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	r := reply{name: e.self.Name, contribution: random32(), recovery: own.Public().Bytes(), certificate: e.self.Certificate, stores: e.offered()}
	answer, _, err := key.Seal(replyInfo(a.link.Voucher), r.marshal(e.self.Key, a.link.Voucher))
	if err != nil {
		return fmt.Errorf("seal a reply: %w", err)
	}
	s, err := agree(a.link.Voucher, p.replySecret, r.contribution, p.name, e.self.Name, answer)
	if err != nil {
		return err
	}
	at := replyPlace(a.link.Voucher, p.replySecret)
	box, err := at.seal(answer)
	if err != nil {
		return err
	}
	next := *a
	next.state, next.name, next.stores, next.promise, next.sealedAt = acceptReplying, p.name, p.stores, p.promise, now
	next.root, next.numberKey, next.replyID, next.reply, next.told = s.root, s.numberKey, at.id, box[:], slices.Clone(r.stores)
	next.recovery, next.ownKey, next.peerKey = s.recovery, [32]byte(own.Bytes()), slices.Clone(p.recovery)
	next.tries, next.due = 0, now
	next.tokens = tokensSecret(a.link.Voucher, p.replySecret)
	if err := e.saveAccept(&next); err != nil {
		return err
	}
	*a = next
	return nil
}

// crossed is why a link came to nothing when two nodes' links crossed.
const crossed = "Another link that lasts longer joins you with that node already; to use this one, forget the contact first."

// outlasts tells whether the link that made the contact holds against another one between the same two nodes: the one
// that expires later does, of two that expire together the one with the greater voucher. Both nodes know both, so when
// two people make a link each and accept each other's, both end on the streams of one link, whichever answer each of
// them reads or delivers first.
func (c *contact) outlasts(expiry time.Time, voucher [32]byte) bool {
	if d := c.linkExpiry.Compare(expiry); d != 0 {
		return d > 0
	}
	return bytes.Compare(c.voucher[:], voucher[:]) > 0
}

// heard tells whether a box of this stream came, so that the contact made the stream too.
func (c *contact) heard() bool {
	next, seen := c.pair.Receivers()[0].Ack()
	return c.pair.Newest() > 0 || next > 0 || seen != [32]byte{}
}

// deliverReply writes the reply. Once the store has it the contact exists, in ONE Update with the link's new state. A
// crash between the store's answer and that Update writes the reply again, identically: the store says OK again. If the store has another box there, somebody else was faster: the link was used.
func (e *Engine) deliverReply(a *accept) job {
	a.busy = true
	box := (*[mailbox.BoxSize]byte)(a.reply)
	return job{
		deposit: true,
		do:      func(ctx context.Context, m Mailbox) error { return m.Put(ctx, a.replyID, box, nil) },
		done: func(err error) {
			now := time.Now()
			p := e.profile.Load()
			a.busy = false
			switch {
			case e.accepts[a.link.Voucher] != a || a.state != acceptReplying && a.state != acceptDelivered:
			case err == nil && a.state == acceptDelivered:
				a.tries++
				a.due = now.Add(e.jitter(backoff(p.Retransmit, a.tries, p.RetransmitMax)))
			case err == nil:
				if old := e.contacts[a.name]; old != nil && old.outlasts(a.link.Expiry, a.link.Voucher) {
					e.failAccept(a, crossed) // the other node, which reads our answer, comes to the same end
					return
				}
				next := *a
				next.state, next.tries, next.due = acceptDelivered, 0, now.Add(e.jitter(p.Retransmit))
				next.root, next.numberKey, next.recovery, next.ownKey = ratchet.Root{}, [32]byte{}, [32]byte{}, [32]byte{} // the contact's rows have what follows from them
				row := contactRow{state: contactActive, created: now, voucher: a.link.Voucher, linkExpiry: a.link.Expiry, stores: a.stores, told: a.told,
					numberKey: a.numberKey, promise: a.promise, recoverySecret: a.recovery, ownKey: a.ownKey, peerKey: a.peerKey,
					introducer: e.introducerOf(a.name, a.by)}
				err := e.begin(newContact(a.name, row), a.root, a.sealedAt, func(txn store.Txn) error {
					return txn.Set(store.Key(tableAccept, a.link.Voucher[:]), next.marshal())
				})
				if err != nil {
					e.warn("making a contact", err)
					a.due = now.Add(e.jitter(p.Frame))
					return
				}
				*a = next
				e.reroute()
			case errors.Is(err, errNotSent):
				a.due = now
			case errors.Is(err, mailbox.ErrExists):
				e.failAccept(a, "The link was already used; ask for a new one.")
			case !now.Before(a.link.Expiry):
				e.failAccept(a, "The link expired before the answer could be delivered; ask for a new one.")
			default:
				a.tries++
				a.due = now.Add(e.jitter(backoff(p.Frame, a.tries, p.Retransmit)))
			}
		},
	}
}

// takeHello reads the inviter's nonce: the number that both people can compare follows from it.
func (e *Engine) takeHello(c *contact, data []byte) (effect, error) {
	if len(data) != 32 {
		return effect{}, refuse(bundle.ErrMalformed)
	}
	nonce := [32]byte(data)
	var row contactRow
	changed := false
	return effect{
		write: func(txn store.Txn) error {
			row, changed = c.contactRow, false
			if c.initiator || promiseOf(nonce) != c.promise {
				e.log.Warn("a contact's first word does not keep its link's promise")
				return nil
			}
			row.number, changed = numberOf(c.numberKey, nonce), true
			return txn.Set(store.Key(tableContact, string(c.name)), row.marshal())
		},
		apply: func() {
			if changed {
				c.contactRow = row
			}
		},
	}, nil
}

// takeStores keeps the stores that a contact has now.
func (e *Engine) takeStores(c *contact, data []byte) (effect, error) {
	p, err := bundle.ParseContact(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	if len(p.Stores) == 0 || len(p.Stores) > maxStores {
		return effect{}, refuse(bundle.ErrTooLarge)
	}
	var row contactRow
	changed := false
	return effect{
		write: func(txn store.Txn) error {
			row, changed = c.contactRow, false
			if p.Serial <= row.serial {
				return nil // it came late
			}
			row.stores, row.serial, changed = p.Stores, p.Serial, true
			return txn.Set(store.Key(tableContact, string(c.name)), row.marshal())
		},
		apply: func() {
			if changed {
				for _, a := range c.stores {
					if !slices.Contains(row.stores, a) {
						e.hasten(c, a, time.Now())
					}
				}
				c.contactRow = row
				e.reroute()
			}
		},
	}, nil
}

// tellStores queues our stores for the contacts that know others. New calls it; it is durable with what was told.
func (e *Engine) tellStores(now time.Time) error {
	for _, c := range e.contacts {
		if slices.Equal(c.told, e.offered()) || len(e.own) == 0 {
			continue
		}
		row := c.contactRow
		err := e.kv.Update(func(txn store.Txn) error {
			row = c.contactRow
			return errors.Join(e.tell(txn, c.name, &row, now), txn.Set(store.Key(tableContact, string(c.name)), row.marshal()))
		})
		if err != nil {
			return err
		}
		c.contactRow = row
	}
	return nil
}

// tell queues our stores for one contact if it knows others, and notes that in row, which the caller writes. The serial
// grows even if the clock was ahead when the last one was made: the contact would not believe a lower one.
func (e *Engine) tell(txn store.Txn, name onionid.Name, row *contactRow, now time.Time) error {
	offered := e.offered()
	if slices.Equal(row.told, offered) || len(e.own) == 0 {
		return nil
	}
	row.toldSerial = max(row.toldSerial+1, uint64(now.UnixMilli()))
	row.told = slices.Clone(offered)
	rec, err := bundle.Contact{Serial: row.toldSerial, Stores: offered}.Record()
	if err == nil {
		err = store.Enqueue(txn, string(name), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...))
	}
	if err != nil {
		return fmt.Errorf("tell a contact our mailboxes: %w", err)
	}
	return nil
}
