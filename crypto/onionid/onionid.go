// SPDX-License-Identifier: Apache-2.0

package onionid

import "crypto/ed25519"

// Name is a server name: the v3 onion address "<56 base32 characters>.onion", lower case (62 bytes).
// It redacts itself in logs. The zero Name is no name.
type Name string

// Parse checks s: 62 bytes, lower case, checksum and version right (rend-spec-v3 §6).
func Parse(s string) (Name, error) { panic("unwritten") }

// FromKey is the name whose key pub is.
func FromKey(pub ed25519.PublicKey) Name { panic("unwritten") }

// Key is the ed25519 key that the name spells out. It errs if n was not made by Parse or FromKey.
func (n Name) Key() (ed25519.PublicKey, error) { panic("unwritten") }

// Certificate is the onion key's word that a server's events are signed by another key:
// the onion key itself lives with tor and signs nothing else.
type Certificate struct {
	Server Name              // whose
	KeyID  string            // Matrix key id, "ed25519:" + 8 characters made from the key
	Key    ed25519.PublicKey // the event-signing key
	raw    []byte
}

// Certify makes the certificate of signing by the onion key.
func Certify(onion ed25519.PrivateKey, signing ed25519.PublicKey) Certificate { panic("unwritten") }

// ParseCertificate checks size, form and signature.
func ParseCertificate(raw []byte) (Certificate, error) { panic("unwritten") }

// Bytes is the wire form.
func (c Certificate) Bytes() []byte { panic("unwritten") }

// KeyID is the Matrix key id of an event-signing key.
func KeyID(signing ed25519.PublicKey) string { panic("unwritten") }
