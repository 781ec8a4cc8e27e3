// SPDX-License-Identifier: Apache-2.0

// Package sealed encrypts a request to one reader who is known only by a public key, and the one answer to it.
//
// Problem: a request for a mailbox passes through others (today Tor, later a courier). They must see neither what it
// asks nor what is answered, they must not be able to change either, and a recording of today's traffic must stay
// closed for somebody with a quantum computer and for somebody who later takes the mailbox.
//
// The package is hybrid HPKE in base mode (RFC 9180, draft-ietf-hpke-pq): KEM MLKEM768X25519, KDF HKDF-SHA256, AEAD
// ChaCha20-Poly1305. Who carries a box can replay it, nothing more. The answer is encrypted under a key that HPKE
// exports from the request, with a random nonce of its own: a replayed request is answered under the same key, and
// two answers must not share a nonce (RFC 9458 §4.4 does the same).
//
// Invariants: the sender is anonymous (nothing authenticates it); a box opens only with the very info it was sealed
// with; Open never panics, and takes memory only in proportion to its input.
//
// Data: none. Who makes a key keeps its 32 bytes ([PrivateKey.Bytes]) and destroys them when the key's time is over.
package sealed

import (
	"crypto/hpke"
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	// Overhead of Seal: 1120 (MLKEM768X25519 encapsulation) + 16 (tag).
	Overhead = encSize + tagSize
	// PublicKeySize is the size of a public key on the wire: 1184 (ML-KEM-768) + 32 (X25519).
	PublicKeySize = 1216
	// PrivateKeySize is the size of a private key: the seed that both halves are made from.
	PrivateKeySize = 32
	// EncapsulationSize is the size of the first part of a box: it gives its reader the key of the rest, and no two
	// boxes have the same.
	EncapsulationSize = encSize

	encSize = 1120
	tagSize = 16
)

var (
	// ErrOpen: the box was not sealed to this key with this info, or somebody changed it.
	ErrOpen = errors.New("sealed: box does not open")
	// ErrKey: the bytes are not a key.
	ErrKey = errors.New("sealed: not a key")
)

// suite is the one that we use; there is nothing to negotiate.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305()
}

// PrivateKey opens what was sealed to its public key. Safe for concurrent use.
type PrivateKey struct {
	key  hpke.PrivateKey
	seed []byte
}

// PublicKey seals for the holder of the private key. 1216 bytes on the wire. Safe for concurrent use.
type PublicKey struct{ key hpke.PublicKey }

// Generate makes a key from crypto/rand. It errs only if the platform's cryptography refuses (a FIPS setting).
func Generate() (*PrivateKey, error) {
	kem, _, _ := suite()
	k, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("sealed: make a key: %w", err)
	}
	return wrap(k)
}

func wrap(k hpke.PrivateKey) (*PrivateKey, error) {
	seed, err := k.Bytes()
	if err != nil {
		return nil, fmt.Errorf("sealed: read out a key: %w", err)
	}
	return &PrivateKey{key: k, seed: seed}, nil
}

// ParsePrivateKey reads the 32 bytes of [PrivateKey.Bytes]; anything of another size is ErrKey.
func ParsePrivateKey(b []byte) (*PrivateKey, error) {
	if len(b) != PrivateKeySize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(b), PrivateKeySize)
	}
	kem, _, _ := suite()
	k, err := kem.NewPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return wrap(k)
}

// ParsePublicKey reads the 1216 bytes of [PublicKey.Bytes]; anything else is ErrKey.
func ParsePublicKey(b []byte) (*PublicKey, error) {
	if len(b) != PublicKeySize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrKey, len(b), PublicKeySize)
	}
	kem, _, _ := suite()
	k, err := kem.NewPublicKey(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &PublicKey{key: k}, nil
}

// Public is the key that others seal to.
func (k *PrivateKey) Public() *PublicKey { return &PublicKey{key: k.key.PublicKey()} }

// Bytes is a copy of the whole private key, 32 bytes: who has them can open every box sealed to it.
func (k *PrivateKey) Bytes() []byte { return append([]byte(nil), k.seed...) }

// Bytes is the wire form, 1216 bytes.
func (p *PublicKey) Bytes() []byte { return p.key.Bytes() }

// Seal encrypts plaintext into a box of len(plaintext)+Overhead bytes; info binds it to its purpose (role, store,
// key epoch) and must be given to Open unchanged. r opens the answer.
func (p *PublicKey) Seal(info, plaintext []byte) (box []byte, r *Reply, err error) {
	_, kdf, aead := suite()
	enc, s, err := hpke.NewSender(p.key, kdf, aead, info)
	if err != nil {
		return nil, nil, fmt.Errorf("sealed: seal: %w", err)
	}
	ct, err := s.Seal(nil, plaintext)
	if err != nil {
		return nil, nil, fmt.Errorf("sealed: seal: %w", err)
	}
	key, err := s.Export(replyLabel, replyKeySize)
	if err != nil {
		return nil, nil, fmt.Errorf("sealed: seal: %w", err)
	}
	box = make([]byte, 0, len(enc)+len(ct))
	return append(append(box, enc...), ct...), &Reply{key: [replyKeySize]byte(key)}, nil
}

// Open decrypts a box; r seals the answer. Everything that is not an unchanged box for this key and info is ErrOpen.
func (k *PrivateKey) Open(info, box []byte) (plaintext []byte, r *Reply, err error) {
	if len(box) < Overhead {
		return nil, nil, ErrOpen
	}
	_, kdf, aead := suite()
	rec, err := hpke.NewRecipient(box[:encSize], k.key, kdf, aead, info)
	if err != nil {
		return nil, nil, ErrOpen // which half was wrong is nobody's business
	}
	plaintext, err = rec.Open(nil, box[encSize:])
	if err != nil {
		return nil, nil, ErrOpen
	}
	key, err := rec.Export(replyLabel, replyKeySize)
	if err != nil {
		return nil, nil, fmt.Errorf("sealed: export the reply key: %w", err)
	}
	return plaintext, &Reply{key: [replyKeySize]byte(key)}, nil
}
