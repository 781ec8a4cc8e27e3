// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// ReplyOverhead of Reply.Seal in bytes: 24 (nonce) + 16 (tag).
const ReplyOverhead = chacha20poly1305.NonceSizeX + tagSize

const (
	replyLabel   = "tarn/1 reply" // HPKE exporter context; SPEC sealed §2
	replyKeySize = chacha20poly1305.KeySize
)

// Reply is the key for the answer to one request (HPKE export), so that who carries the answer can neither read nor
// forge it. It binds the answer to the very request. Safe for concurrent use.
type Reply struct{ key [replyKeySize]byte }

// Seal encrypts an answer: a random 24-byte nonce, then XChaCha20-Poly1305; len(plaintext)+ReplyOverhead bytes.
func (r *Reply) Seal(plaintext []byte) []byte {
	return r.AppendSeal(make([]byte, 0, len(plaintext)+ReplyOverhead), plaintext)
}

// AppendSeal appends what Seal makes to dst.
func (r *Reply) AppendSeal(dst, plaintext []byte) []byte {
	aead, err := chacha20poly1305.NewX(r.key[:])
	if err != nil {
		panic("sealed: " + err.Error()) // the key's size is a constant
	}
	var nonce [chacha20poly1305.NonceSizeX]byte
	rand.Read(nonce[:])
	return aead.Seal(append(dst, nonce[:]...), nonce[:], plaintext, nil)
}

// Open decrypts an answer; anything but an unchanged answer to this request is ErrOpen.
func (r *Reply) Open(box []byte) ([]byte, error) {
	if len(box) < ReplyOverhead {
		return nil, ErrOpen
	}
	aead, err := chacha20poly1305.NewX(r.key[:])
	if err != nil {
		return nil, fmt.Errorf("sealed: %w", err)
	}
	out, err := aead.Open(nil, box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:], nil)
	if err != nil {
		return nil, ErrOpen
	}
	return out, nil
}

// Derive is a key of n bytes for another purpose than the answer, for instance one direction of a session:
// HKDF-SHA256 of the answer's key with that salt and label. Both ends of the request derive the same. Labels that differ
// give keys that tell nothing of each other, nor of the answer's.
func (r *Reply) Derive(salt []byte, label string, n int) []byte {
	k, err := hkdf.Key(sha256.New, r.key[:], salt, label, n)
	if err != nil {
		panic("sealed: " + err.Error()) // n is a constant of the caller's, far below the limit
	}
	return k
}
