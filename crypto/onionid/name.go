// SPDX-License-Identifier: Apache-2.0

package onionid

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha3"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"filippo.io/edwards25519"
)

// Sizes of a name, in bytes.
const (
	idSize   = 56 // base32 characters: 35 bytes of key, checksum and version
	nameSize = idSize + len(suffix)
	suffix   = ".onion"
	version  = 3 // of onion services; the last of the 35 bytes
)

// ErrName says that something is no v3 onion name.
var ErrName = errors.New("onionid: not a v3 onion name")

// encoding is the one of rend-spec-v3, in the lower case that we insist on. 35 bytes are exactly 56 characters, so
// there are no stray bits that would make a second spelling.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Name is a server name: the v3 onion address "<56 base32 characters>.onion", lower case (62 bytes).
// It redacts itself in logs (slog only). The zero Name is no name.
type Name string

var _ slog.LogValuer = Name("")

// Parse checks s: 62 bytes, lower case, checksum and version right (rend-spec-v3 §6), and a key that tor would
// accept: canonically encoded, on the curve, of prime order. The error wraps ErrName and does not repeat s.
// It costs about as much as verifying a signature, nearly all of it for the order.
func Parse(s string) (Name, error) {
	if _, err := Name(s).Key(); err != nil {
		return "", err
	}
	return Name(s), nil
}

// FromKey is the name whose key pub is, or the zero Name if pub is no key that Parse would accept (32 bytes, a
// canonically encoded point of prime order).
func FromKey(pub ed25519.PublicKey) Name {
	if checkKey(pub) != nil {
		return ""
	}
	var b [ed25519.PublicKeySize + 3]byte
	copy(b[:], pub)
	sum := checksum(pub)
	copy(b[ed25519.PublicKeySize:], sum[:])
	b[len(b)-1] = version
	return Name(encoding.EncodeToString(b[:]) + suffix)
}

// Key is the ed25519 key that the name spells out. It errs with ErrName if n is not a name that Parse accepts.
func (n Name) Key() (ed25519.PublicKey, error) {
	if len(n) != nameSize {
		return nil, fmt.Errorf("%w: it has %d bytes, not %d", ErrName, len(n), nameSize)
	}
	if n[idSize:] != suffix {
		return nil, fmt.Errorf("%w: it does not end in %q", ErrName, suffix)
	}
	var b [ed25519.PublicKeySize + 3]byte
	// The decoder skips line breaks; then fewer bytes come out, which the count shows.
	if k, err := encoding.Decode(b[:], []byte(n[:idSize])); err != nil || k != len(b) {
		return nil, fmt.Errorf("%w: a character that is not one of a-z, 2-7", ErrName)
	}
	if b[len(b)-1] != version {
		return nil, fmt.Errorf("%w: it is of version %d", ErrName, b[len(b)-1])
	}
	pub := ed25519.PublicKey(b[:ed25519.PublicKeySize:ed25519.PublicKeySize])
	if sum := checksum(pub); sum != [2]byte(b[ed25519.PublicKeySize:]) {
		return nil, fmt.Errorf("%w: wrong checksum (a mistyped character?)", ErrName)
	}
	if err := checkKey(pub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrName, err)
	}
	return pub, nil
}

// LogValue hides the name: no log may say who talks to whom.
func (n Name) LogValue() slog.Value {
	if n == "" {
		return slog.StringValue("")
	}
	return slog.StringValue("[onion]")
}

// checksum is the first two bytes of H(".onion checksum" ‖ key ‖ version), H = SHA3-256 (rend-spec-v3 §6).
func checksum(pub ed25519.PublicKey) [2]byte {
	in := make([]byte, 0, 64)
	in = append(in, ".onion checksum"...)
	in = append(in, pub...)
	in = append(in, version)
	h := sha3.Sum256(in)
	return [2]byte(h[:2])
}

// errKey says that 32 bytes are no public key of prime order.
var errKey = errors.New("not a prime-order ed25519 key")

// passed remembers keys that checkKey found good lately, each at a place by its first bytes. The check takes 0.1 ms and
// the same few names are turned into keys for every request: it was a third of what a busy node and courier did.
var passed [1024]atomic.Pointer[[ed25519.PublicKeySize]byte]

// checkKey refuses what is not 32 bytes, not the one encoding of its point, not on the curve, or not of order l.
// A key of small order "verifies" signatures that nobody made; one with a torsion component has eight names that
// different verifiers may or may not take for the same key (tor refuses both: rend-spec-v3 §4.1.1, "[l]P is the identity").
func checkKey(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize {
		return errKey
	}
	place := &passed[(int(pub[0])|int(pub[1])<<8)%len(passed)]
	if known := place.Load(); known != nil && *known == [ed25519.PublicKeySize]byte(pub) {
		return nil
	}
	p, err := new(edwards25519.Point).SetBytes(pub)
	if err != nil || [32]byte(p.Bytes()) != [32]byte(pub) {
		return errKey
	}
	identity := edwards25519.NewIdentityPoint()
	if p.Equal(identity) == 1 {
		return errKey
	}
	// [l]P = [l-1]P + P, and a scalar holds l-1 as -1. Keys are public: variable time is no leak.
	one, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		return errKey // can not be: 1 < l
	}
	q := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(one.Negate(one), p, edwards25519.NewScalar())
	if q.Add(q, p).Equal(identity) != 1 {
		return errKey
	}
	place.Store((*[ed25519.PublicKeySize]byte)(bytes.Clone(pub)))
	return nil
}
