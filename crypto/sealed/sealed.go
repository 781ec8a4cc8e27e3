// SPDX-License-Identifier: Apache-2.0

package sealed

// Overhead of Seal in bytes: 1120 (MLKEM768X25519 encapsulation) + 16 (tag).
const Overhead = 1136

// PrivateKey opens what was sealed to its public key (hybrid HPKE base mode, MLKEM768X25519, HKDF-SHA256, ChaCha20-Poly1305; RFC 9180 and draft-ietf-hpke-pq).
type PrivateKey struct{}

// PublicKey is 1216 bytes on the wire.
type PublicKey struct{}

// Generate makes a key from crypto/rand.
func Generate() (*PrivateKey, error) { panic("unwritten") }

// Reply is the key for the one answer to one request (HPKE export), so that who carries it can not read or forge it.
type Reply struct{}

// Seal encrypts; info binds role, store and key epoch.
func (p *PublicKey) Seal(info, plaintext []byte) (box []byte, r *Reply, err error) {
	panic("unwritten")
}

// Open decrypts.
func (k *PrivateKey) Open(info, box []byte) (plaintext []byte, r *Reply, err error) {
	panic("unwritten")
}

// Seal and Open one answer (+16 bytes).
func (r *Reply) Seal(plaintext []byte) []byte       { panic("unwritten") }
func (r *Reply) Open(box []byte) ([]byte, error)    { panic("unwritten") }
func (k *PrivateKey) Public() *PublicKey            { panic("unwritten") }
func (k *PrivateKey) Bytes() []byte                 { panic("unwritten") }
func (p *PublicKey) Bytes() []byte                  { panic("unwritten") }
func ParsePrivateKey(b []byte) (*PrivateKey, error) { panic("unwritten") }
func ParsePublicKey(b []byte) (*PublicKey, error)   { panic("unwritten") }
