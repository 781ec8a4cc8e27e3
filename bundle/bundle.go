// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"

	"tarn/mailbox"
)

// Size of a bundle: exactly one box's plaintext.
const Size = mailbox.PayloadSize

// Limits, checked before memory is taken.
const (
	MaxRecord    = 4 << 20  // bytes of one reassembled record
	MaxInflated  = 64 << 10 // bytes of all records of one bundle after decompression
	MaxFragments = 4096
)

// Errors of Unpack and the Assembler.
var (
	ErrMalformed = errors.New("bundle: malformed")
	ErrTooLarge  = errors.New("bundle: exceeds a limit")
)

// Type of a record.
type Type byte

// The record types (docs/SPEC.md). An unknown type is skipped: it is for a newer peer.
const (
	TypeEvents      Type = 1 // room id, room version, raw events of one room
	TypeSnapshot    Type = 2 // an invite with its room's state
	TypeCertificate Type = 3 // an onionid.Certificate
	TypeWant        Type = 4 // room id, event ids asked for
	TypeHeads       Type = 5 // room id, forward extremities
	TypeReceipts    Type = 6 // room id, read receipts
	TypeContact     Type = 7 // a node's own particulars: stores, profile of reachability
)

// Record is one typed piece, of at most MaxRecord bytes.
type Record struct {
	Type Type
	Data []byte
}

// Ack acknowledges boxes of the other direction: every index below Next, and those of the 256 from Next on whose bit is set.
type Ack struct {
	Epoch uint32
	Next  uint64
	Seen  [32]byte
}

// Fragment is a piece of a record (or a whole one: Count 1) as it lies in a bundle.
type Fragment struct {
	Type         Type
	ID           [16]byte // of the record, random; unused when Count is 1
	Index, Count uint16
	Data         []byte
}

// Packer fills one bundle.
type Packer struct{}

// NewPacker begins a bundle with its ack block (zero value: nothing received yet).
func NewPacker(a Ack) *Packer { panic("unwritten") }

// Add puts a whole record in if it (compressed with what is there) still fits; false: it does not, the bundle is unchanged.
func (p *Packer) Add(r Record) bool { panic("unwritten") }

// AddFragment is Add for one fragment.
func (p *Packer) AddFragment(f Fragment) bool { panic("unwritten") }

// Empty tells whether nothing but the ack is in it.
func (p *Packer) Empty() bool { panic("unwritten") }

// Pack gives exactly Size bytes.
func (p *Packer) Pack() []byte { panic("unwritten") }

// Split cuts a record into fragments each of which fits an otherwise empty bundle, whatever it holds.
func Split(r Record, id [16]byte) ([]Fragment, error) { panic("unwritten") }

// Unpack reads a bundle. It errs with ErrMalformed or ErrTooLarge and never takes more than MaxInflated bytes.
func Unpack(b []byte) (Ack, []Fragment, error) { panic("unwritten") }

// Join puts a record together from all its fragments, in any order (replicate keeps them on disk until they are
// complete: their boxes' keys are gone once acknowledged). ErrMalformed if one is missing, doubled or does not fit the others.
func Join(fs []Fragment) (Record, error) { panic("unwritten") }
