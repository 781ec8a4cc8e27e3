// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// From the rows of the outbox to the records of a box, and the fragments that wait.

// Bounds of one packing: what is read at most to fill one box.
const (
	packItems = 64       // outbox items
	packBytes = 40 << 10 // of events before compression; bundle.MaxInflated bounds them anyway
	packWants = 64       // events asked for in one box
	bulkShare = 4        // one in how many boxes begins with what nobody waits for
)

// entry is one outbox item, ready to be packed.
type entry struct {
	seq    uint64
	class  byte          // and lane, in the outbox
	lane   uint64        // of those that have turns
	room   matrix.RoomID // of an event; the record is made once it is known which events share it
	raw    []byte
	signed []onionid.Name // the servers whose certificates it takes to check it
	record *bundle.Record
}

// entries reads the next items: of each room, and of each kind of other things, one after the other, so that many of one do not keep back the
// others; what nobody waits for behind what somebody does, but for one box in bulkShare.
func (e *Engine) entries(c *contact, f *filling) (out []entry, err error) {
	type candidate struct {
		store.Item
		class byte
		lane  uint64
	}
	var all []candidate
	err = e.kv.View(func(r store.Reader) error {
		classes := []byte{store.Urgent, store.Bulk}
		if e.rng.IntN(bulkShare) == 0 {
			slices.Reverse(classes)
		}
		for _, class := range classes {
			items, lanes, err := store.Next(r, string(c.name), class, c.turns[class], packItems-len(all))
			if err != nil {
				return err
			}
			for i, it := range items {
				all = append(all, candidate{it, class, lanes[i]})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	f.full = len(all) == packItems
	size := 0
	for _, it := range all {
		en, err := e.entry(c, it.Item)
		switch {
		case errors.Is(err, errHeld):
			f.dropped = append(f.dropped, it.Seq)
		case errors.Is(err, errUnsendable):
			e.counts.unsent.Add(1)
			f.dropped = append(f.dropped, it.Seq)
		case err != nil:
			if len(out) == 0 && len(f.dropped) == 0 {
				return nil, fmt.Errorf("read an outbox item: %w", err)
			}
			return out, nil // it waits; those before it can go
		default:
			n := len(en.raw)
			if en.record != nil {
				n = len(en.record.Data)
			}
			if size += n; size > packBytes && len(out) > 0 {
				f.full = true
				return out, nil
			}
			en.class, en.lane = it.class, it.lane
			out = append(out, en)
		}
	}
	return out, nil
}

// errHeld: the contact has shown meanwhile that it has the event.
var errHeld = errors.New("replicate: the contact has it")

// errUnsendable: what the item names does not exist (any more), or the item is malformed.
var errUnsendable = errors.New("replicate: nothing to send")

func (e *Engine) entry(c *contact, it store.Item) (entry, error) {
	switch it.Kind {
	case store.ItemRecord:
		if len(it.Data) == 0 {
			return entry{}, errUnsendable
		}
		return entry{seq: it.Seq, record: &bundle.Record{Type: bundle.Type(it.Data[0]), Data: it.Data[1:]}}, nil
	case store.ItemMessage, store.ItemAsk:
		rec, err := encodeItem(it)
		if err != nil {
			return entry{}, errUnsendable
		}
		return entry{seq: it.Seq, record: &rec}, nil
	case store.ItemQuestion, store.ItemAnswer, store.ItemOlder:
		rec, err := e.encodeAsking(c, it)
		if err != nil {
			return entry{}, err
		}
		return entry{seq: it.Seq, record: &rec}, nil
	case store.ItemEvent, store.ItemHistory, store.ItemInvite:
		roomID, id, ok := bytes.Cut(it.Data, []byte{0})
		if !ok {
			return entry{}, errUnsendable
		}
		if it.Kind != store.ItemInvite {
			if c.relay.shown.has(matrix.EventID(id)) {
				return entry{}, errHeld
			}
			raw, err := e.rooms.RawFor(c.name, matrix.RoomID(roomID), matrix.EventID(id))
			if gone(err) {
				return entry{}, errUnsendable
			}
			if err != nil {
				return entry{}, err
			}
			if _, err := encodeEvents(matrix.RoomID(roomID), [][]byte{raw}); err != nil {
				return entry{}, errUnsendable
			}
			c.relay.sent.add(matrix.EventID(id))
			return entry{seq: it.Seq, room: matrix.RoomID(roomID), raw: raw, signed: signers(raw)}, nil
		}
		s, err := e.rooms.Snapshot(matrix.RoomID(roomID), matrix.EventID(id))
		if gone(err) {
			return entry{}, errUnsendable
		}
		if err != nil {
			return entry{}, err
		}
		rec, err := encodeSnapshot(s)
		if err != nil {
			return entry{}, errUnsendable // larger than a record may be
		}
		return entry{seq: it.Seq, record: &rec}, nil
	}
	return entry{}, errUnsendable
}

func gone(err error) bool {
	return errors.Is(err, room.ErrUnknownEvent) || errors.Is(err, room.ErrUnknownRoom) || errors.Is(err, room.ErrLargeRoom)
}

// signers are the servers of an event's sender, and of who let it in by a restricted join; none if the bytes do not say.
func signers(raw []byte) (out []onionid.Name) {
	var ev struct {
		Sender  matrix.UserID `json:"sender"`
		Content struct {
			By matrix.UserID `json:"join_authorised_via_users_server"`
		} `json:"content"`
	}
	_ = json.Unmarshal(raw, &ev) // a field of another kind stays empty
	for _, u := range []matrix.UserID{ev.Sender, ev.Content.By} {
		if n, err := onionid.Parse(u.Homeserver()); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// records makes the records of some entries: before them the certificates of servers that are neither of the two
// ends and that the peer was not given yet; the events of one room together, each kind in the order of the outbox.
func (e *Engine) records(c *contact, entries []entry) (out []bundle.Record, given []onionid.Name) {
	var rooms []matrix.RoomID
	events := map[matrix.RoomID][][]byte{}
	var others []bundle.Record
	for _, en := range entries {
		if en.record != nil {
			others = append(others, *en.record)
			continue
		}
		for _, a := range en.signed {
			if a == e.self.Name || a == c.name || c.given[a] || slices.Contains(given, a) {
				continue
			}
			if cert, ok, err := e.rooms.Certificate(a); err == nil && ok {
				out = append(out, bundle.Record{Type: bundle.TypeCertificate, Data: cert.Bytes()})
				given = append(given, a)
			}
		}
		if events[en.room] == nil {
			rooms = append(rooms, en.room)
		}
		events[en.room] = append(events[en.room], en.raw)
	}
	out = append(out, others...)
	for _, r := range rooms {
		if rec, err := encodeEvents(r, events[r]); err == nil { // each event passed alone, and they are few
			out = append(out, rec)
		}
	}
	return out, given
}

// fragmentKey names a row of tableFragment.
type fragmentKey struct{ seq, index uint64 }

// addFragments puts the next waiting fragments into a box.
func (e *Engine) addFragments(c *contact, f *filling, add func(func(*bundle.Packer) bool) bool) error {
	err := e.kv.View(func(r store.Reader) error {
		return scanOf(r, tableFragment, string(c.name), func(k *store.KeyReader, v []byte) error {
			key := fragmentKey{k.Uint64(), k.Uint64()}
			fr, err := parseFragment(v)
			if err != nil || k.Err() != nil {
				return errors.Join(err, k.Err())
			}
			fr.Data = bytes.Clone(fr.Data)
			if !add(func(p *bundle.Packer) bool { return p.AddFragment(fr) }) {
				return errStop
			}
			f.pieces = append(f.pieces, key)
			return nil
		})
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// errStop ends a scan that has what it wants.
var errStop = errors.New("replicate: enough")
