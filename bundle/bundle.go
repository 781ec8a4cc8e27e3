// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"

	"tarn/mailbox"
)

// Size of a bundle in bytes: exactly one box's plaintext.
const Size = mailbox.PayloadSize

// Limits, checked before memory is taken.
const (
	MaxRecord    = 4 << 20  // bytes of one reassembled record
	MaxInflated  = 64 << 10 // bytes of all records of one bundle after decompression
	MaxFragments = 4096     // of one record
	MaxPieces    = 1024     // records and fragments in one bundle
	MaxKEM       = 2048     // bytes of a KEM block
)

// The layout's sizes in bytes.
const (
	version     = 1
	ackSize     = 4 + 8 + 32
	floorSize   = 4 + 8
	headSize    = 1 + 1 + ackSize + floorSize + 2 + 4 + 2  // without the two blocks: 66
	beforeSize  = ackSize + floorSize + 8                  // 64
	flagKEM     = 1 << 0                                   // a KEM block follows the head
	flagBefore  = 1 << 1                                   // before it, a block about the epoch before
	pieceHead   = 1 + 2 + recordIDSize + 2 + 2             // the most that a fragment of less than 8 KiB has in front of its bytes
	maxFragment = Size - headSize - beforeSize - pieceHead // bytes of a fragment that Split makes: 8039; it fits beside anything but a KEM block

	recordIDSize = 16
)

// Errors of everything here that reads.
var (
	// ErrMalformed: the bytes are not what this package writes.
	ErrMalformed = errors.New("bundle: malformed")
	// ErrTooLarge: something exceeds a limit of this package.
	ErrTooLarge = errors.New("bundle: exceeds a limit")
)

// Type of a record.
type Type byte

// The record types (docs/SPEC.md). An unknown type is skipped by who dispatches records: it is for a newer peer. 0 is no type.
const (
	TypeEvents      Type = 1  // room id, room version, raw events of one room: Events
	TypeSnapshot    Type = 2  // an invite with its room's state: Snapshot
	TypeCertificate Type = 3  // an onionid.Certificate, nothing in front of it
	TypeWant        Type = 4  // room id, event ids asked for: Want
	TypeHeads       Type = 5  // room id, forward extremities: Heads
	TypeReceipts    Type = 6  // room id, read receipts: Receipts
	TypeContact     Type = 7  // a node's own particulars: Contact
	TypeWitness     Type = 8  // hashes of what a mailbox said: Witness
	TypeTestimony   Type = 9  // what a mailbox signed: Testimony
	TypeTokens      Type = 10 // rights to leave boxes at a mailbox of the sender's: Tokens
	TypeDevices     Type = 11 // a user's devices and keys: Devices
	TypeOneTimeKeys Type = 12 // keys handed over in advance: OneTimeKeys
	TypeKeysWanted  Type = 13 // they are running out: KeysWanted
	TypeMessage     Type = 14 // a to-device message: Message
	TypeSources     Type = 15 // whose events its sender gets from themselves: Sources
	TypeAsk         Type = 16 // a question to a contact: Ask
	TypeAnswer      Type = 17 // and what it says: Answer
	TypeMediaWanted Type = 18 // a file asked for: MediaWanted
	TypeMedia       Type = 19 // what a file is: Media
	TypeMediaPart   Type = 20 // bytes of a file: MediaBytes
	TypeIntroduce   Type = 21 // a link for another contact of the receiver's: Introduce
	TypeIntroduced  Type = 22 // such a link, passed on: Introduced
	TypeSigns       Type = 23 // who is there and types: Signs
)

// Record is one typed piece, of at most MaxRecord bytes.
type Record struct {
	Type Type
	Data []byte
}

// Ack acknowledges boxes of the other direction: every index of Epoch below Next, and those of the 256 from Next on
// whose bit is set (see Has). It is what ratchet.Pair.Got says. The zero Ack acknowledges nothing.
type Ack struct {
	Epoch uint32
	Next  uint64
	Seen  [32]byte
}

// Floor is about the direction that the bundle itself travels in: its sender will not write boxes of Epoch below Index
// any more (they were acknowledged, or given up and sealed anew), so the receiver need not wait for them:
// ratchet.Pair.Skip. Index 0 says nothing. A bundle may be sealed anew in a later epoch, so it is said which is meant.
type Floor struct {
	Epoch uint32
	Index uint64
}

// Head is what a bundle says of the streams themselves.
type Head struct {
	Ack    Ack     // of the newest epoch that its sender receives in
	Floor  Floor   // of the epoch that it sends in
	Before *Before // of the epochs before those; nil in the first
	KEM    []byte  // a step to the next epoch (ratchet.Pair.Turn), at most MaxKEM bytes; nil: none
}

// Before is about the epochs before. A half of it that has nothing to say repeats the epoch of Head's, with zeros.
type Before struct {
	Ack   Ack
	Floor Floor
	Count uint64 // how many boxes were sent in Floor.Epoch, which is over; 0 says nothing
}

// Has tells whether the box with that index (of Epoch) is acknowledged. Bit j (j%8, counted from the lowest, of byte
// j/8) of Seen stands for index Next+j.
func (a Ack) Has(index uint64) bool {
	if index < a.Next {
		return true
	}
	j := index - a.Next
	return j < uint64(len(a.Seen))*8 && a.Seen[j/8]>>(j%8)&1 == 1
}

// Fragment is a piece of a record (or a whole one: Count 1) as it lies in a bundle.
type Fragment struct {
	Type         Type
	ID           [recordIDSize]byte // of the record, random; zero and unused when Count is 1
	Index, Count uint16
	Data         []byte
}
