// SPDX-License-Identifier: Apache-2.0

package store

// Item is one thing to be delivered to another node, kept until that node has acknowledged it.
type Item struct {
	Seq  uint64 // grows per destination; never reused
	Kind byte   // ItemEvent, ItemInvite, ItemRecord
	Data []byte
}

// Kinds of Item.
const (
	ItemEvent  = 1 // Data: room id, 0, event id. The bytes are read when the item is packed.
	ItemInvite = 2 // Data: room id, 0, event id of an invite (or of the membership event that made the peer part of the room): goes with the room's snapshot.
	ItemRecord = 3 // Data: a bundle record's type byte, then its bytes (account, replicate)
)

// Enqueue appends an item for dest (a server name) in the writer's own transaction.
func Enqueue(txn Txn, dest string, kind byte, data []byte) error { panic("unwritten") }

// Pending reads up to limit items for dest with Seq > after, oldest first.
func Pending(r Reader, dest string, after uint64, limit int) ([]Item, error) { panic("unwritten") }

// Dequeue removes items that were acknowledged.
func Dequeue(txn Txn, dest string, seqs ...uint64) error { panic("unwritten") }

// Destinations lists the servers that items wait for, with their number.
func Destinations(r Reader) (map[string]int, error) { panic("unwritten") }
