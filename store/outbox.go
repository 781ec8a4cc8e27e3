// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Item is one thing to be delivered to another node, kept until that node has acknowledged it.
type Item struct {
	Seq  uint64 // grows per destination; never reused; the first is 1
	Kind byte   // ItemEvent, ItemInvite, ItemRecord, ItemMessage, ItemAsk, ItemQuestion, ItemAnswer
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
)

// Rows of TableOutbox:
//
//	(outboxHead, dest)      -> last sequence number, number of items waiting (8 bytes each, big-endian)
//	(outboxItem, dest, seq) -> kind (1 byte), data
//
// The head stays when the last item has gone: numbers are never reused.
const (
	outboxHead = 1
	outboxItem = 2
)

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
	return h.last, writeHead(txn, dest, h)
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
		key := Key(TableOutbox, byte(outboxItem), dest, seq)
		if _, err := txn.Get(key); errors.Is(err, ErrNotFound) {
			continue
		} else if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		if err := txn.Delete(key); err != nil {
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
