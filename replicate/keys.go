// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	people "tarn/account"
	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/store"
)

// The public keys of this node's users go to the contacts that share a room with them, so that the other node can answer its
// clients' /keys/query and /keys/claim alone. Nobody is told on change: what a contact was told is compared with what is so now, if anything
// changed at all since the last time. So a state that was overtaken before it left never leaves, and whatever was lost (a crash, a restore, a
// contact made anew) is told again.

// Accounts is what the engine needs of *account.Accounts. Safe for concurrent use; what returns nil is durable.
type Accounts interface {
	KeyGeneration() uint64
	Published(user matrix.UserID) (people.Published, error)
	HandOut(user matrix.UserID, device matrix.DeviceID, n int, with func(store.Txn, []people.NamedKey) error) error
	UsedFallback(user matrix.UserID, device matrix.DeviceID, key string) error
	SetPublished(from matrix.ServerName, p people.Published, topics []string) error
	AddHanded(from matrix.ServerName, user matrix.UserID, device matrix.DeviceID, batch uint64, keys []people.NamedKey) error
	Receive(from matrix.ServerName, m people.Message, force bool) error
	ForgetOneTimeKeys(restored time.Time) error
	ForgetServer(server matrix.ServerName, topics []string) error
	SetContacts(servers map[matrix.ServerName]bool)
}

var _ Accounts = (*people.Accounts)(nil)

// How many one-time keys a contact gets. Clients keep some 50 of each device and make new ones when half are gone. Of those that are gone and were not used yet a client
// need not keep more than some 50 (libolm keeps 100 in all, and drops the oldest): who writes by an older one is not understood. So the more
// contacts there are, the fewer each gets.
const (
	handBatch = 8                // at a time
	handAhead = 16               // at a time, of all contacts together; each gets one at least
	handDaily = 64               // of one device, a day: beyond, the contact uses the fallback key
	handAgain = 24 * time.Hour   // a contact that asks by an older batch has lost the newer one, if that is so old
	maxTold   = bundle.MaxRecord // bytes of one user's keys; devices beyond are left out
)

// toldRow is what a contact was told of a user.
type toldRow struct {
	serial uint64
	hash   [32]byte // of the record without its serial; zeros: nothing that counts
	item   uint64   // of the outbox
}

func (t toldRow) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.uvarint(t.serial)
	w.raw(t.hash[:])
	w.uvarint(t.item)
	return w.b
}

func parseTold(b []byte) (toldRow, error) {
	r := reader{b: b}
	r.version()
	t := toldRow{serial: r.uvarint(), hash: r.key32(), item: r.uvarint()}
	return t, r.end()
}

// handedRow is what a contact was given of a device's one-time keys.
type handedRow struct {
	identity [32]byte // SHA-256 of the device's identity: keys of another one count no more
	batch    uint64   // serial of the newest, or one that it knows
	at       time.Time
	asked    bool // it is to have the next one
	day      uint64
	given    uint64 // on that day
}

func (h handedRow) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.raw(h.identity[:])
	w.uvarint(h.batch)
	w.time(h.at)
	w.flag(h.asked)
	w.uvarint(h.day)
	w.uvarint(h.given)
	return w.b
}

func parseHanded(b []byte) (handedRow, error) {
	r := reader{b: b}
	r.version()
	h := handedRow{identity: r.key32(), batch: r.uvarint(), at: r.time(), asked: r.flag(), day: r.uvarint(), given: r.uvarint()}
	return h, r.end()
}

// row reads a row of ours, or the zero one.
func row[T any](r store.Reader, key []byte, parse func([]byte) (T, error)) (T, error) {
	v, err := r.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		var none T
		return none, nil
	}
	if err != nil {
		var none T
		return none, err
	}
	return parse(v)
}

func toldKey(to onionid.Name, user matrix.UserID) []byte {
	return store.Key(tableTold, string(to), string(user))
}

func handedKey(to onionid.Name, user matrix.UserID, device matrix.DeviceID) []byte {
	return store.Key(tableHanded, string(to), string(user), string(device))
}

// forgetTold makes rows say that nothing was told; the serials stay.
func forgetTold(txn store.Txn, keys [][]byte) error {
	for _, k := range keys {
		t, err := row(txn, k, parseTold)
		if err != nil {
			return err
		}
		t.hash = [32]byte{}
		if err := txn.Set(k, t.marshal()); err != nil {
			return err
		}
	}
	return nil
}

// forgetToldOf makes c be told everything again, for one of the two nodes was restored from a backup, and what was in records then is lost.
// One-time keys too: those that the contact has it no longer uses. How many it got today stays: else it would get as many as it likes.
func forgetToldOf(txn store.Txn, c *contact) error {
	var told, handed [][]byte
	for table, keys := range map[byte]*[][]byte{tableTold: &told, tableHanded: &handed} {
		if err := txn.Scan(store.Key(table, string(c.name)), nil, func(k, _ []byte) (bool, error) {
			*keys = append(*keys, bytes.Clone(k))
			return true, nil
		}); err != nil {
			return err
		}
	}
	for _, k := range handed {
		h, err := row(txn, k, parseHanded)
		if err != nil {
			return err
		}
		h.asked = true
		if err := txn.Set(k, h.marshal()); err != nil {
			return err
		}
	}
	return forgetTold(txn, told)
}

// tellUser queues a user's keys, if the contact was told something else. ONE Update: the item, the note of what it says, and the end of an older
// item that is in no box yet (or just was put into one: then both leave, and the newer one holds). A crash before it leaves all as it was: it is found
// again.
func (e *Engine) tellUser(l listener, p people.Published, now time.Time) error {
	p.Serial = 1
	rec, err := encodeDevices(p)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(rec.Data)
	key := toldKey(l.name, p.User)
	var told toldRow
	if err := e.kv.View(func(r store.Reader) (err error) {
		told, err = row(r, key, parseTold)
		return err
	}); err != nil || told.hash == hash {
		return err
	}
	if told.serial == 0 && len(p.Devices) == 0 && p.Master == nil {
		return nil // there is nothing to tell, and never was
	}
	p.Serial = max(uint64(now.UnixMilli()), told.serial+1)
	if rec, err = encodeDevices(p); err != nil {
		return err
	}
	return e.kv.Update(func(txn store.Txn) error {
		switch now, err := row(txn, key, parseTold); {
		case err != nil:
			return err
		case now != told:
			return errMoved
		}
		if free, err := store.Untaken(txn, string(l.name), max(told.item, 1)); err != nil {
			return err
		} else if free && told.item != 0 {
			if err := store.Dequeue(txn, string(l.name), told.item); err != nil {
				return err
			}
		}
		item, err := store.Queue(txn, string(l.name), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...))
		if err != nil {
			return err
		}
		return errors.Join(known(txn, l.name), txn.Set(key, toldRow{p.Serial, hash, item}.marshal()))
	})
}

// handKeys gives a contact one-time keys of a device: at first, and when it asked. They leave the device's own pool in the
// transaction that queues them for this contact, so nobody else ever gets them. waits: it had all that it gets today.
func (e *Engine) handKeys(l listener, user matrix.UserID, d people.PublishedDevice, now time.Time) (waits bool, err error) {
	key := handedKey(l.name, user, d.ID)
	var was handedRow
	if err := e.kv.View(func(r store.Reader) (err error) {
		was, err = row(r, key, parseHanded)
		return err
	}); err != nil {
		return false, err
	}
	h := was
	h.renew(d, now)
	n := min(max(1, handAhead/uint64(l.among)), handBatch, handDaily-h.given)
	if !h.asked || n == 0 {
		return h.asked, nil
	}
	return false, e.accounts.HandOut(user, d.ID, int(n), func(txn store.Txn, keys []people.NamedKey) error {
		switch now, err := row(txn, key, parseHanded); {
		case err != nil:
			return err
		case now != was:
			return errMoved
		}
		h.batch, h.at, h.asked = max(uint64(now.UnixMilli()), h.batch+1, l.floor+1), now, false
		h.given += uint64(len(keys))
		rec, err := bundle.OneTimeKeys{User: user, Device: d.ID, Batch: h.batch, Keys: wireKeys(keys)}.Record()
		if err != nil {
			return err
		}
		return errors.Join(known(txn, l.name), txn.Set(key, h.marshal()),
			store.Enqueue(txn, string(l.name), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...)))
	})
}

// renew begins the row anew for another identity, and its count on another day.
func (h *handedRow) renew(d people.PublishedDevice, now time.Time) {
	if id := sha256.Sum256([]byte(d.Identity())); id != h.identity {
		h.identity, h.asked = id, true
	}
	if day := uint64(now.Unix() / (24 * 60 * 60)); day != h.day {
		h.day, h.given = day, 0
	}
}

// takeWantedKeys is a contact's word that keys are running out.
func (e *Engine) takeWantedKeys(c *contact, data []byte) (effect, error) {
	w, err := bundle.ParseKeysWanted(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	now := time.Now()
	if w.Batch > uint64(now.Add(handAgain).UnixMilli()) {
		return effect{}, refuse(bundle.ErrTooLarge) // no batch of ours ever had that serial, and the next one could not have a greater one
	}
	if w.Fallback != "" {
		err := e.accounts.UsedFallback(w.User, w.Device, w.Fallback)
		if errors.Is(err, people.ErrNotFound) {
			return effect{}, refuse(err)
		}
		if err != nil {
			return effect{}, err
		}
	}
	return effect{
		write: func(txn store.Txn) error {
			key := handedKey(c.name, w.User, w.Device)
			h, err := row(txn, key, parseHanded)
			if err != nil || h.identity == [32]byte{} {
				return err // it was given none
			}
			if w.Batch < h.batch && now.Sub(h.at) < handAgain {
				return nil // the next one is on its way
			}
			// A greater one than ours was given before this node was restored.
			h.batch, h.asked = max(h.batch, w.Batch), true
			return txn.Set(key, h.marshal())
		},
		apply: func() {
			c.keys.again()
			e.wakeKeys()
		},
	}, nil
}

// takeDevices, takeOneTimeKeys and takeMessage give records to package account.
func (e *Engine) takeDevices(c *contact, data []byte) error {
	d, err := bundle.ParseDevices(data)
	if err != nil {
		return refuse(err)
	}
	p := people.Published{User: d.User, Serial: d.Serial, Master: d.Master, SelfSigning: d.SelfSigning}
	for _, x := range d.Devices {
		p.Devices = append(p.Devices, people.PublishedDevice{ID: x.ID, Keys: x.Keys, Fallback: ownKeys(x.Fallback)})
	}
	users, err := e.rooms.Sharers(c.name)
	if err != nil {
		return err
	}
	return refused(e.accounts.SetPublished(c.name, p, topicsOf(users)))
}

func topicsOf(users []matrix.UserID) []string {
	topics := make([]string, 0, len(users))
	for _, u := range users {
		topics = append(topics, string(u))
	}
	return topics
}

func (e *Engine) takeOneTimeKeys(c *contact, data []byte) error {
	o, err := bundle.ParseOneTimeKeys(data)
	if err != nil {
		return refuse(err)
	}
	// The device may be in a record that is on its way.
	return refused(e.accounts.AddHanded(c.name, o.User, o.Device, o.Batch, ownKeys(o.Keys)))
}

// takeMessage waits, of messages of one sender, for those that were sent before: not longer than a lost box needs to come by the other store.
func (e *Engine) takeMessage(c *contact, data []byte, received time.Time) error {
	m, err := bundle.ParseMessage(data)
	if err != nil {
		return refuse(err)
	}
	force := time.Since(received) > 2*e.profile.Load().Retransmit
	err = e.accounts.Receive(c.name, people.Message{Number: m.Number, Previous: m.Previous, Sender: m.Sender, User: m.User,
		Device: m.Device, Type: m.Type, Content: m.Content}, force)
	if errors.Is(err, people.ErrNotFound) {
		return refuse(err)
	}
	if err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, r := range e.retries {
			if r.peer == c.name && !r.next.IsZero() { // those that waited for it
				r.next = time.Time{}
				e.wakeInbox()
			}
		}
	}
	return refused(err)
}

// refused marks those of package account's errors that another try does not change.
func refused(err error) error {
	for _, p := range []error{people.ErrSpeaker, people.ErrBadKeys, people.ErrBadSignature, people.ErrTooLarge, people.ErrBadJSON} {
		if errors.Is(err, p) {
			return refuse(err)
		}
	}
	return err
}

// encodeDevices leaves out the last devices of somebody who has more than fit.
func encodeDevices(p people.Published) (bundle.Record, error) {
	d := bundle.Devices{User: p.User, Serial: p.Serial, Master: p.Master, SelfSigning: p.SelfSigning}
	size := 2 * people.MaxKey
	for _, x := range p.Devices {
		size += 2*people.MaxKeyID + len(x.Keys)
		for _, f := range x.Fallback {
			size += 2*people.MaxKeyID + len(f.Key)
		}
		if size > maxTold {
			break
		}
		d.Devices = append(d.Devices, bundle.Device{ID: x.ID, Keys: x.Keys, Fallback: wireKeys(x.Fallback)})
	}
	return d.Record()
}

func wireKeys(keys []people.NamedKey) (out []bundle.NamedKey) {
	for _, k := range keys {
		out = append(out, bundle.NamedKey{Name: k.Name, Key: k.Key})
	}
	return out
}

func ownKeys(keys []bundle.NamedKey) (out []people.NamedKey) {
	for _, k := range keys {
		out = append(out, people.NamedKey{Name: k.Name, Key: k.Key})
	}
	return out
}

// encodeItem makes the record of an item of package account's.
func encodeItem(it store.Item) (bundle.Record, error) {
	switch it.Kind {
	case store.ItemMessage:
		var m people.Message
		if err := json.Unmarshal(it.Data, &m); err != nil {
			return bundle.Record{}, fmt.Errorf("%w: %w", errUnsendable, err)
		}
		return bundle.Message{Number: m.Number, Previous: m.Previous, Sender: m.Sender, User: m.User, Device: m.Device, Type: m.Type, Content: m.Content}.Record()
	case store.ItemAsk:
		var k people.KeyAsk
		if err := json.Unmarshal(it.Data, &k); err != nil {
			return bundle.Record{}, fmt.Errorf("%w: %w", errUnsendable, err)
		}
		return bundle.KeysWanted{User: k.User, Device: k.Device, Batch: k.Batch, Fallback: k.Fallback}.Record()
	}
	return bundle.Record{}, errUnsendable
}
