// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/crypto/sealed"
	"tarn/mailbox"
	"tarn/store"
)

// Links.
const (
	// DefaultLinkLife is how long a link can be accepted.
	DefaultLinkLife = 7 * 24 * time.Hour
	maxLinkLife     = 90 * 24 * time.Hour
	maxLinks        = 100                 // open ones, made and followed each
	keepLinks       = 14 * 24 * time.Hour // after the expiry: a reply given in time may be read late
)

// invite is a link that we made and that nobody answered yet. Guarded by the engine's mutex.
type invite struct {
	voucher     [32]byte
	created     time.Time
	expiry      time.Time
	store       mailbox.Address
	deposited   time.Time // zero: not yet
	key         *sealed.PrivateKey
	recovery    *sealed.PrivateKey // for the contact that it becomes
	nonce       [32]byte
	replySecret [32]byte
	payload     []byte
	failed      string       // why it can not be used any more
	peer, by    onionid.Name // of an introduction: for whom alone it is, and whom we asked to pass it on; else ""

	due      time.Time
	attempts int
	put      bool      // the payload is written, in this turn
	lookDue  time.Time // when its answer is looked for unlisted; zero: not planned
	looked   int       // so many times
	busy     bool
}

func (in *invite) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.time(in.created)
	w.time(in.expiry)
	w.str(string(in.store.Onion))
	w.time(in.deposited)
	w.raw(in.key.Bytes())
	w.raw(in.recovery.Bytes())
	w.raw(in.nonce[:])
	w.raw(in.replySecret[:])
	w.bytes(in.payload)
	w.str(in.failed)
	w.str(string(in.peer))
	w.str(string(in.by))
	return w.b
}

func parseInvite(voucher [32]byte, b []byte) (*invite, error) {
	r := reader{b: b}
	r.version()
	in := &invite{voucher: voucher, created: r.time(), expiry: r.time(), store: mailbox.Address{Onion: r.name()}, deposited: r.time()}
	key, recovery := r.raw(sealed.PrivateKeySize), r.raw(sealed.PrivateKeySize)
	in.nonce, in.replySecret = r.key32(), r.key32()
	in.payload = slices.Clone(r.bytes(mailbox.PayloadSize))
	in.failed = r.str(255)
	in.peer, in.by = r.maybeName(), r.maybeName()
	if err := r.end(); err != nil {
		return nil, err
	}
	var err error
	if in.key, err = sealed.ParsePrivateKey(key); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRow, err)
	}
	if in.recovery, err = sealed.ParsePrivateKey(recovery); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRow, err)
	}
	return in, nil
}

func (in *invite) depositDue(at mailbox.Address, now time.Time) bool {
	return in.store == at && !in.busy && in.failed == "" && !in.due.After(now) && now.Before(in.expiry)
}

func (in *invite) reply() place { return replyPlace(in.voucher, in.replySecret) }

// Invite makes a link that one other node can accept within life (0: DefaultLinkLife). It is durable when Invite
// returns and works with the network down: the payload leaves on the schedule. ErrNoStore, ErrTooMany, ErrConfig.
func (e *Engine) Invite(ctx context.Context, life time.Duration) (Link, error) {
	if life == 0 {
		life = DefaultLinkLife
	}
	if life < time.Minute || life > maxLinkLife {
		return Link{}, fmt.Errorf("%w: a link's life is from one minute to 90 days", ErrConfig)
	}
	if err := ctx.Err(); err != nil {
		return Link{}, err
	}
	key, recovery, err := inviteKeys()
	if err != nil {
		return Link{}, fmt.Errorf("make a link: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.own) == 0 {
		return Link{}, ErrNoStore
	}
	byHand := 0
	for _, in := range e.invites {
		if in.peer == "" {
			byHand++
		}
	}
	if byHand >= maxLinks {
		return Link{}, ErrTooMany
	}
	in := e.newInvite(key, recovery, life, time.Now())
	if err := e.kv.Update(func(txn store.Txn) error {
		return txn.Set(store.Key(tableInvite, in.voucher[:]), in.marshal())
	}); err != nil {
		return Link{}, fmt.Errorf("keep a link: %w", err)
	}
	e.addInvite(in)
	return in.link(), nil
}

// inviteKeys makes the keys of a link: without the engine's lock.
func inviteKeys() (key, recovery *sealed.PrivateKey, err error) {
	if key, err = sealed.Generate(); err == nil {
		recovery, err = sealed.Generate()
	}
	return key, recovery, err
}

// newInvite makes a link, which is not kept yet. The caller holds mu, and there is an own store.
func (e *Engine) newInvite(key, recovery *sealed.PrivateKey, life time.Duration, now time.Time) *invite {
	in := &invite{created: now, expiry: time.Unix(now.Add(life).Unix(), 0), store: e.offered()[e.rng.IntN(len(e.offered()))], key: key, recovery: recovery,
		nonce: random32(), replySecret: random32(), due: now}
	p := payload{name: e.self.Name, expiry: in.expiry, promise: promiseOf(in.nonce), replySecret: in.replySecret,
		key: key.Public().Bytes(), recovery: recovery.Public().Bytes(), certificate: e.self.Certificate, stores: e.offered()}
	in.payload = p.marshal(e.self.Key)
	in.voucher = sha256.Sum256(in.payload)
	return in
}

// addInvite takes in a link that is kept.
func (e *Engine) addInvite(in *invite) {
	e.invites[in.voucher] = in
	e.expected[in.reply().id.Handle()] = ref{invite: in}
}

func (in *invite) link() Link { return Link{Store: in.store, Voucher: in.voucher, Expiry: in.expiry} }

// deposit writes the payload to the link's store; later again, in case the store lost it.
func (e *Engine) deposit(in *invite) job {
	h := e.heldNext(in, time.Now())
	if h == nil && in.put { // all once more
		in.put = false
		if l := e.linkPurses[in.voucher]; l != nil {
			for i := range l.held {
				l.held[i].deposited = false
			}
		}
		h = e.heldNext(in, time.Now())
	}
	if h != nil {
		return e.depositTokens(in, *h)
	}
	at := payloadPlace(in.voucher)
	box, err := at.seal(in.payload)
	in.busy = true
	return job{
		deposit: true,
		do: func(ctx context.Context, m Mailbox) error {
			if err != nil {
				return err
			}
			return m.Put(ctx, at.id, box, nil)
		},
		done: func(err error) {
			p := e.profile.Load()
			now := time.Now()
			in.busy = false
			switch {
			case e.invites[in.voucher] != in:
			case err == nil:
				in.put = true
				e.depositedOne(in, now)
				if in.deposited.IsZero() {
					in.deposited = now
					e.saveInvite(in)
				}
			case errors.Is(err, errNotSent):
				in.due = now
			case errors.Is(err, mailbox.ErrExists):
				e.failInvite(in, "The mailbox has another box in this link's place; make a new link.")
			default:
				in.attempts++
				in.due = now.Add(e.jitter(backoff(p.Frame, in.attempts, p.Retransmit)))
			}
		},
	}
}

// failInvite ends a link with words for a person. One of an introduction is just gone: nobody asked for it, and another try is made.
func (e *Engine) failInvite(in *invite, reason string) {
	if in.peer == "" {
		in.failed = reason
		e.saveInvite(in)
		return
	}
	if err := e.kv.Update(func(txn store.Txn) error { return txn.Delete(store.Key(tableInvite, in.voucher[:])) }); err != nil {
		e.warn("ending an introduction", err)
		in.failed = reason // it is found again after a restart, and fails again
		return
	}
	delete(e.expected, in.reply().id.Handle())
	delete(e.invites, in.voucher)
}

// saveInvite keeps what changed; losing it costs a needless rewrite, no more.
func (e *Engine) saveInvite(in *invite) {
	if err := e.kv.Update(func(txn store.Txn) error {
		return txn.Set(store.Key(tableInvite, in.voucher[:]), in.marshal())
	}); err != nil {
		e.warn("keeping the state of a link", err)
	}
}

// openReply reads the answer to a link of ours and makes the contact. ONE Update makes the contact, both streams and
// the first record for it, and deletes the link with its key: a crash before reads the answer again, after it there
// is a contact and no link. Digest pages since the answer are read once more, for what the new contact wrote at once.
func (e *Engine) openReply(st *depot, t *todo, got *[mailbox.BoxSize]byte) error {
	in := t.invite
	if e.invites[in.voucher] != in {
		delete(st.todo, t.handle)
		return nil
	}
	answer, err := in.reply().open(got)
	if errors.Is(err, errBadBox) {
		return err
	}
	var r *reply
	if err == nil {
		var plain []byte
		if plain, _, err = in.key.Open(replyInfo(in.voucher), answer); err == nil {
			r, err = parseReply(plain, in.voucher)
		}
	}
	if err == nil && r.name == e.self.Name {
		err = ErrOwnLink
	}
	if err == nil && in.peer != "" && r.name != in.peer {
		err = errNotIntroduced
	}
	if err != nil {
		e.log.Debug("a link was answered with something unreadable", "err", err)
		e.failInvite(in, "Somebody who has the link answered with something unreadable; make a new link.")
		delete(st.todo, t.handle)
		delete(e.expected, t.handle)
		return nil
	}
	if old := e.contacts[r.name]; old != nil && old.outlasts(in.expiry, in.voucher) && !(old.heard() && in.created.After(old.created)) {
		// Our link and one of that node's crossed. (But for a link that was made after the old one had worked: then the
		// node has lost that one, or it would have refused this.)
		return e.dropInvite(st, t)
	}
	p, err := parsePayload(in.payload)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRow, err)
	}
	s, err := agree(in.voucher, in.replySecret, r.contribution, e.self.Name, r.name, answer)
	if err != nil {
		return err
	}
	if err := e.rooms.AddCertificate(r.certificate); err != nil {
		return fmt.Errorf("keep a contact's certificate: %w", err)
	}
	now := time.Now()
	row := contactRow{state: contactActive, initiator: true, created: now, lastHeard: now, voucher: in.voucher, linkExpiry: in.expiry, stores: r.stores,
		recoverySecret: s.recovery, ownKey: [32]byte(in.recovery.Bytes()), peerKey: slices.Clone(r.recovery), told: p.stores, numberKey: s.numberKey, promise: promiseOf(in.nonce), number: numberOf(s.numberKey, in.nonce),
		introducer: e.introducerOf(r.name, in.by)}
	hello := append([]byte{byte(typeHello)}, in.nonce[:]...)
	err = e.begin(newContact(r.name, row), s.root, t.listed, func(txn store.Txn) error {
		return errors.Join(
			txn.Delete(store.Key(tableInvite, in.voucher[:])),
			txn.Delete(todoKey(st, t.handle)),
			store.Enqueue(txn, string(r.name), store.ItemRecord, hello))
	})
	if err != nil {
		return err
	}
	delete(e.invites, in.voucher)
	delete(e.expected, t.handle)
	delete(st.todo, t.handle)
	return nil
}

// dropInvite ends a link whose answer is not needed.
func (e *Engine) dropInvite(st *depot, t *todo) error {
	err := e.kv.Update(func(txn store.Txn) error {
		return errors.Join(txn.Delete(store.Key(tableInvite, t.invite.voucher[:])), txn.Delete(todoKey(st, t.handle)))
	})
	if err != nil {
		return fmt.Errorf("drop a link: %w", err)
	}
	delete(e.invites, t.invite.voucher)
	delete(e.expected, t.handle)
	delete(st.todo, t.handle)
	return nil
}

// begin makes a contact, or makes an old one anew: its streams begin from the root, what waits for it in the outbox
// is packed again from the first item. more runs in the same Update. Digests are read again from since on.
func (e *Engine) begin(c *contact, root ratchet.Root, since time.Time, more func(store.Txn) error) error {
	c.pair = ratchet.NewPair(root, 0, c.initiator, c.created)
	c.ackSent = acks(c.head())
	peer := string(c.name)
	old := e.contacts[c.name]
	if old != nil {
		c.toldSerial = old.toldSerial
	}
	stays := old != nil && old.cut && c.introducer != "" // a person's link alone ends that
	cursors := map[*depot]uint64{}
	for _, st := range e.depots {
		if st.own && st.descriptor != nil && st.follow.begun {
			cursors[st] = mailbox.BucketAt(since.Add(-2*time.Minute), st.descriptor.bucket)
		}
	}
	var told contactRow
	err := e.kv.Update(func(txn store.Txn) error {
		if old != nil {
			if err := erase(txn, c.name, true); err != nil {
				return err
			}
			if stays {
				if err := txn.Set(store.Key(tableCut, peer), []byte{rowVersion}); err != nil {
					return err
				}
			}
		}
		for st, b := range cursors {
			if err := txn.Set(store.Key(tableDigest, string(st.address.Onion)), binary.BigEndian.AppendUint64(nil, min(b, st.follow.cursor()))); err != nil {
				return err
			}
		}
		row := c.contactRow
		if err := e.tell(txn, c.name, &row, c.created); err != nil { // they may have changed since the link or the answer was made
			return err
		}
		told = row
		return errors.Join(
			txn.Set(store.Key(tableContact, peer), row.marshal()),
			txn.Set(store.Key(tableStreams, peer), streamsRow(c.pair, c.ackSent)),
			txn.Delete(store.Key(tableShunned, peer)), // whom a person forgot, and joins with again
			txn.Delete(store.Key(tableStranger, peer)),
			store.Retake(txn, peer),
			more(txn))
	})
	if err != nil {
		return fmt.Errorf("keep a new contact: %w", err)
	}
	c.contactRow = told
	if old != nil {
		e.unexpect(old)
		c.inbox, c.partial, c.bytes = old.inbox, old.partial, old.bytes
	}
	c.cut = stays
	e.contacts[c.name] = c
	delete(e.shunned, c.name)
	delete(e.strangers, c.name)
	c.headsDue = time.Now().Add(e.exp(e.profile.Load().Heads))
	if shared, err := e.rooms.Shared(c.name); err == nil && len(shared) > 0 {
		c.headsDue = time.Now().Add(e.exp(e.profile.Load().Want)) // they came together by way of others
	}
	e.setPeers()
	for st, b := range cursors {
		st.follow.rewind(b)
		st.follow.saved = min(st.follow.saved, b)
	}
	e.expect(c)
	e.expectRecovery(c, time.Now())
	e.reroute()
	return nil
}

// unexpect forgets a contact's handles.
func (e *Engine) unexpect(c *contact) {
	for h, r := range e.expected {
		if r.contact == c {
			delete(e.expected, h)
		}
	}
}

// loadFirstContacts reads the links made and followed.
func (e *Engine) loadFirstContacts(r store.Reader) error {
	if err := scan(r, tableInvite, func(k *store.KeyReader, v []byte) error {
		id := k.String()
		if len(id) != 32 || k.Err() != nil {
			return ErrRow
		}
		in, err := parseInvite([32]byte([]byte(id)), v)
		if err != nil {
			return err
		}
		e.invites[in.voucher] = in
		if in.failed == "" { // else its answer is of no use, or begins streams that were in use before a backup was restored
			e.expected[in.reply().id.Handle()] = ref{invite: in}
		}
		return nil
	}); err != nil {
		return err
	}
	return scan(r, tableAccept, func(k *store.KeyReader, v []byte) error {
		id := k.String()
		if len(id) != 32 || k.Err() != nil {
			return ErrRow
		}
		a, err := parseAccept([32]byte([]byte(id)), v)
		if err != nil {
			return err
		}
		e.accepts[a.link.Voucher] = a
		return nil
	})
}

// expireLinks drops links long after their end. The caller holds mu.
func (e *Engine) expireLinks(now time.Time) {
	var gone [][]byte
	for v, in := range e.invites {
		if now.Sub(in.expiry) > keepLinks {
			gone = append(gone, store.Key(tableInvite, v[:]))
		}
	}
	for v, a := range e.accepts {
		if now.Sub(a.link.Expiry) > keepLinks {
			gone = append(gone, store.Key(tableAccept, v[:]))
		}
	}
	if len(gone) == 0 {
		return
	}
	err := e.kv.Update(func(txn store.Txn) error {
		for _, k := range gone {
			if err := txn.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		e.warn("dropping old links", err)
		return
	}
	for v, in := range e.invites {
		if now.Sub(in.expiry) > keepLinks {
			delete(e.expected, in.reply().id.Handle())
			delete(e.invites, v)
		}
	}
	for v, a := range e.accepts {
		if now.Sub(a.link.Expiry) > keepLinks {
			delete(e.accepts, v)
		}
	}
	e.reroute()
}
