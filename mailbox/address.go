// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"crypto/ed25519"
	"errors"
	"time"

	"tarn/crypto/onionid"
)

// ErrNoDescriptor: the store's descriptor of today is not known yet.
var ErrNoDescriptor = errors.New("mailbox: the store's descriptor is not known yet")

// Port is the virtual port of a mailbox's onion service.
const Port = 4001

// Address is the one line that an operator gives to others: "tarn-mailbox:1:<56 characters>".
type Address struct{ Onion onionid.Name }

// ParseAddress reads that line.
func ParseAddress(s string) (Address, error) { panic("unwritten") }

// String is that line.
func (a Address) String() string { panic("unwritten") }

// Descriptor is what a mailbox says of itself, signed.
type Descriptor struct {
	Geometry int
	Onion    onionid.Name
	Bucket   time.Duration     // length of a digest bucket; 10 s by default
	TTL      time.Duration     // how long a box is kept
	Signing  ed25519.PublicKey // signs digests; certified by the onion key
	Keys     []RequestKey      // for sealed requests: today's, and tomorrow's once it is near
}

// RequestKey is a hybrid HPKE public key of a store with the days (UTC) it serves.
type RequestKey struct {
	Epoch  uint32 // days since 1970-01-01
	Public []byte // MLKEM768X25519: 1216 bytes
}
