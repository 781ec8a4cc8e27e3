// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Item is one thing to be delivered to another node, kept until that node has acknowledged it.
type Item struct {
	Seq  uint64 // grows per destination; never reused; the first is 1
	Kind byte   // ItemEvent, ItemInvite, ItemRecord, ItemMessage, ItemAsk, ItemQuestion, ItemAnswer, ItemHistory, ItemOlder
	Data []byte
}

// Kinds of Item.
const (
	ItemEvent  = 1 // Data: room id, 0, event id. The bytes are read when the item is packed.
	ItemInvite = 2 // Data: room id, 0, event id of an invite (or of the membership event that made the peer part of the room): goes with the room's snapshot.
	ItemRecord = 3 // Data: a bundle record's type byte, then its bytes (account, replicate)
	// Data: JSON of package account, of which the record is made when the item is packed.
	ItemMessage = 4 // account.Message: a to-device message
	ItemAsk     = 5 // account.KeyAsk: one-time keys are running out
	// Data: JSON of package room, likewise.
	ItemQuestion = 6 // room.Ask: something that a contact is asked
	ItemAnswer   = 7 // and what a contact is answered; a snapshot is assembled when the item is packed
	// Data as of ItemEvent: an event that was asked for. It goes when nothing else does, and now and then before.
	ItemHistory = 8
	// Data as of ItemAnswer: a piece of a room's past that was asked for. It goes like ItemHistory.
	ItemOlder = 9
)

// Rows of TableOutbox:
//
//	(outboxHead, dest)      -> last sequence number, number of items waiting (8 bytes each, big-endian)
//	(outboxItem, dest, seq) -> kind (1 byte), data
//	(outboxTurn, dest, class (1 byte), lane (8 bytes), seq) -> nothing: an item that is not taken yet. Lanes have turns.
//
// The head stays when the last item has gone: numbers are never reused.
const (
	outboxHead = 1
	outboxItem = 2
	outboxTurn = 3
)

// Classes of items: one is looked at before the other.
const (
	Urgent = 0
	Bulk   = 1
)

// turn is the class and lane of an item: events of one room share a lane, as does each other kind.
func turn(kind byte, data []byte) (class byte, lane uint64) {
	switch kind {
	case ItemHistory:
		class = Bulk
		fallthrough
	case ItemEvent, ItemInvite:
		room, _, _ := bytes.Cut(data, []byte{0})
		sum := sha256.Sum256(room)
		return class, binary.BigEndian.Uint64(sum[:])
	}
	if kind == ItemOlder {
		class = Bulk
	}
	return class, uint64(kind)
}

func turnKey(dest string, kind byte, data []byte, seq uint64) []byte {
	class, lane := turn(kind, data)
	return Key(TableOutbox, byte(outboxTurn), dest, class, lane, seq)
}

var errOutbox = errors.New("store: a row of the outbox is damaged")

type outboxState struct{ last, waiting uint64 }

func readHead(r Reader, dest string) (outboxState, error) {
	v, err := r.Get(Key(TableOutbox, byte(outboxHead), dest))
	if errors.Is(err, ErrNotFound) {
		return outboxState{}, nil
	}
	if err != nil {
		return outboxState{}, err
	}
	return parseHead(v)
}

func parseHead(v []byte) (outboxState, error) {
	if len(v) != 16 {
		return outboxState{}, errOutbox
	}
	return outboxState{binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])}, nil
}

func writeHead(txn Txn, dest string, h outboxState) error {
	return txn.Set(Key(TableOutbox, byte(outboxHead), dest), AppendUint64(AppendUint64(nil, h.last), h.waiting))
}

// Enqueue appends an item for dest (a server name) in the writer's own transaction: the item is there if, and only
// if, what it tells of is. Items of one destination have the order of the commits.
func Enqueue(txn Txn, dest string, kind byte, data []byte) error {
	_, err := Queue(txn, dest, kind, data)
	return err
}

// Queue is Enqueue for who wants to know the item's number, to take it back while it is in no box.
func Queue(txn Txn, dest string, kind byte, data []byte) (seq uint64, err error) {
	if dest == "" || kind == 0 {
		return 0, errors.New("store: an item needs a destination and a kind")
	}
	h, err := readHead(txn, dest)
	if err != nil {
		return 0, fmt.Errorf("outbox: %w", err)
	}
	h.last++
	h.waiting++
	row := append(append(make([]byte, 0, 1+len(data)), kind), data...)
	if err := txn.Set(Key(TableOutbox, byte(outboxItem), dest, h.last), row); err != nil {
		return 0, fmt.Errorf("outbox: %w", err)
	}
	if err := txn.Set(turnKey(dest, kind, data, h.last), nil); err != nil {
		return 0, fmt.Errorf("outbox: %w", err)
	}
	return h.last, writeHead(txn, dest, h)
}

// Take notes that items are on their way: Next does not list them any more. They stay until Dequeue. Those that are not there are passed over.
func Take(txn Txn, dest string, seqs ...uint64) error {
	for _, seq := range seqs {
		it, ok, err := item(txn, dest, seq)
		if err == nil && ok {
			err = txn.Delete(turnKey(dest, it.Kind, it.Data, seq))
		}
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
	}
	return nil
}

// Retake undoes all Takes of a destination: what was on its way will not arrive.
func Retake(txn Txn, dest string) error {
	for after := uint64(0); ; {
		items, err := Pending(txn, dest, after, 1000)
		if err != nil || len(items) == 0 {
			return err
		}
		for _, it := range items {
			if err := txn.Set(turnKey(dest, it.Kind, it.Data, it.Seq), nil); err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
		}
		after = items[len(items)-1].Seq
	}
}

// Untaken tells whether an item, or any if seq is 0, waits that was not taken.
func Untaken(r Reader, dest string, seq uint64) (bool, error) {
	if seq != 0 {
		it, ok, err := item(r, dest, seq)
		if err == nil && ok {
			if _, err = r.Get(turnKey(dest, it.Kind, it.Data, seq)); errors.Is(err, ErrNotFound) {
				return false, nil
			}
		}
		return err == nil && ok, err
	}
	some := false
	err := r.Scan(Key(TableOutbox, byte(outboxTurn), dest), nil, func(_, _ []byte) (bool, error) {
		some = true
		return false, nil
	})
	if err != nil {
		return false, fmt.Errorf("outbox: %w", err)
	}
	return some, nil
}

// item reads one; false: it is not there.
func item(r Reader, dest string, seq uint64) (Item, bool, error) {
	v, err := r.Get(Key(TableOutbox, byte(outboxItem), dest, seq))
	if errors.Is(err, ErrNotFound) {
		return Item{}, false, nil
	}
	if err == nil && len(v) == 0 {
		err = errOutbox
	}
	if err != nil {
		return Item{}, false, err
	}
	return Item{Seq: seq, Kind: v[0], Data: append([]byte{}, v[1:]...)}, true, nil
}

// maxLanes bounds the lanes that one Next looks at.
const maxLanes = 32

// Next lists up to limit items of a class that were not taken, the lanes by turns: one of each, then the next one of each. The first
// lane is the one after the lane given. Each item comes with its lane, to begin after it the next time. What it costs does not grow
// with what waits.
func Next(r Reader, dest string, class byte, after uint64, limit int) (items []Item, lanes []uint64, err error) {
	prefix := Key(TableOutbox, byte(outboxTurn), dest, class)
	var found []uint64
	// search finds lanes of a range.
	search := func(from, to uint64) error {
		for len(found) < maxLanes {
			lane, some := uint64(0), false
			err := r.Scan(prefix, AppendUint64(prefix[:len(prefix):len(prefix)], from), func(k, _ []byte) (bool, error) {
				if len(k) != len(prefix)+2*uint64Size {
					return false, errOutbox
				}
				lane, some = binary.BigEndian.Uint64(k[len(prefix):]), true
				return false, nil
			})
			if err != nil || !some || lane > to {
				return err
			}
			if found = append(found, lane); lane == to {
				return nil
			}
			from = lane + 1
		}
		return nil
	}
	if after < math.MaxUint64 {
		err = search(after+1, math.MaxUint64)
	}
	if err == nil {
		err = search(0, after)
	}
	queues := make([][]uint64, len(found))
	for i, lane := range found {
		of := AppendUint64(prefix[:len(prefix):len(prefix)], lane)
		each := (limit + len(found) - 1) / len(found)
		if err == nil {
			err = r.Scan(of, nil, func(k, _ []byte) (bool, error) {
				queues[i] = append(queues[i], binary.BigEndian.Uint64(k[len(of):]))
				return len(queues[i]) < each, nil
			})
		}
	}
	for round, some := 0, true; some && err == nil; round++ {
		some = false
		for i, q := range queues {
			if round >= len(q) || len(items) >= limit || err != nil {
				continue
			}
			var it Item
			if it, some, err = item(r, dest, q[round]); err == nil && !some {
				err = errOutbox
			}
			items, lanes, some = append(items, it), append(lanes, found[i]), true
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("outbox: %w", err)
	}
	return items, lanes, nil
}

// Waiting is how many items wait for dest.
func Waiting(r Reader, dest string) (int, error) {
	h, err := readHead(r, dest)
	if err != nil {
		return 0, fmt.Errorf("outbox: %w", err)
	}
	return int(h.waiting), nil
}

// Pending reads up to limit items for dest with Seq > after, oldest first.
func Pending(r Reader, dest string, after uint64, limit int) ([]Item, error) {
	if limit <= 0 || after == ^uint64(0) {
		return nil, nil
	}
	var items []Item
	prefix := Key(TableOutbox, byte(outboxItem), dest)
	err := r.Scan(prefix, AppendUint64(prefix[:len(prefix):len(prefix)], after+1), func(k, v []byte) (bool, error) {
		if len(k) != len(prefix)+uint64Size || len(v) == 0 {
			return false, errOutbox
		}
		items = append(items, Item{Seq: binary.BigEndian.Uint64(k[len(prefix):]), Kind: v[0], Data: append([]byte{}, v[1:]...)})
		return len(items) < limit, nil
	})
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return items, nil
}

// Dequeue removes items that were acknowledged. Numbers that are not there (acknowledged twice) are passed over.
func Dequeue(txn Txn, dest string, seqs ...uint64) error {
	h, err := readHead(txn, dest)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	waiting := h.waiting
	for _, seq := range seqs {
		it, ok, err := item(txn, dest, seq)
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		if !ok {
			continue
		}
		if err := errors.Join(txn.Delete(Key(TableOutbox, byte(outboxItem), dest, seq)), txn.Delete(turnKey(dest, it.Kind, it.Data, seq))); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		if h.waiting == 0 {
			return errOutbox
		}
		h.waiting--
	}
	if h.waiting == waiting {
		return nil
	}
	return writeHead(txn, dest, h)
}

// Destinations lists the servers that items wait for, with their number. It costs one row a server, not an item.
func Destinations(r Reader) (map[string]int, error) {
	out := map[string]int{}
	err := r.Scan(Key(TableOutbox, byte(outboxHead)), nil, func(k, v []byte) (bool, error) {
		kr := ReadKey(k)
		kr.Byte()
		dest := kr.String()
		if err := kr.Err(); err != nil {
			return false, err
		}
		h, err := parseHead(v)
		if err == nil && h.waiting > 0 {
			out[dest] = int(h.waiting)
		}
		return err == nil, err
	})
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return out, nil
}
