// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// Everything in this file, in vectors_test.go and in second_test.go was written from SPEC.md, with the standard library, x/crypto and a zstd
// decoder, and circl's ristretto255: none of it calls the code that SPEC.md describes.

func u16(n int) []byte        { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n uint32) []byte     { return binary.BigEndian.AppendUint32(nil, n) }
func u64(n uint64) []byte     { return binary.BigEndian.AppendUint64(nil, n) }
func uvarint(n uint64) []byte { return binary.AppendUvarint(nil, n) }
func str(s string) []byte     { return append(uvarint(uint64(len(s))), s...) }
func cat(parts ...[]byte) []byte {
	return slices.Concat(parts...)
}

func list(members ...string) []byte {
	b := uvarint(uint64(len(members)))
	for _, m := range members {
		b = append(b, str(m)...)
	}
	return b
}

func mac(key []byte, message ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(cat(message...))
	return m.Sum(nil)
}

func kdf(secret, salt []byte, info string, n int) []byte {
	k, err := hkdf.Key(sha256.New, secret, salt, info, n)
	if err != nil {
		panic(err)
	}
	return k
}

func sum256(parts ...[]byte) []byte { s := sha256.Sum256(cat(parts...)); return s[:] }

func public(key ed25519.PrivateKey) []byte { return key.Public().(ed25519.PublicKey) }

// nameOf is SPEC §2.1.
func nameOf(k []byte) string {
	sum := sha3.Sum256(cat([]byte(".onion checksum"), k, []byte{3}))
	return strings.ToLower(base32.StdEncoding.EncodeToString(cat(k, sum[:2], []byte{3}))) + ".onion"
}

// certify is SPEC §2.2.
func certify(onion ed25519.PrivateKey, signing []byte) []byte {
	body := cat(public(onion), signing)
	return cat([]byte{1}, body, ed25519.Sign(onion, cat([]byte("tarn/1 event-signing key\x00"), body)))
}

// chain is one direction's keys, SPEC §5.1.
type chain struct {
	epoch uint32
	index uint64
	k     []byte
}

func newChain(root []byte, sender string, epoch uint32) *chain {
	return &chain{epoch: epoch, k: mac(root, []byte("tarn/1 ratchet "+sender), u32(epoch))}
}

// next gives id, key and associated data of the next index.
func (c *chain) next() (id, key, ad []byte) {
	s := mac(c.k, []byte("tarn/1 ratchet slot"))
	id, key = mac(s, []byte("tarn/1 ratchet id"))[:16], mac(s, []byte("tarn/1 ratchet key"))
	ad = cat([]byte("tarn/1 ratchet box"), u32(c.epoch), u64(c.index), id)
	c.k = mac(c.k, []byte("tarn/1 ratchet next"))
	c.index++
	return id, key, ad
}

// decapsulate is SPEC §5.4.
func decapsulate(t *testing.T, seed, ct []byte, epoch uint32) []byte {
	t.Helper()
	k, err := hpke.MLKEM768X25519().NewPrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	r, err := hpke.NewRecipient(ct, k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), cat([]byte("tarn/1 ratchet kem\x00"), u32(epoch)))
	if err != nil {
		t.Fatal(err)
	}
	ss, err := r.Export("tarn/1 ratchet shared", 32)
	if err != nil {
		t.Fatal(err)
	}
	return ss
}

// turnedRoot is SPEC §5.4 and, with other labels, §7.10.
func turnedRoot(transcript, info string, secret, shared []byte, epoch uint32, initiatorOffers bool, public, ct []byte) []byte {
	who := byte(0)
	if initiatorOffers {
		who = 1
	}
	return kdf(cat(secret, shared), sum256([]byte("tarn/1 ratchet "+transcript+"\x00"), u32(epoch), []byte{who}, public, ct), "tarn/1 ratchet "+info, 32)
}

func sealZero(key, plaintext, ad []byte) []byte {
	a, err := chacha20poly1305.New(key)
	if err != nil {
		panic(err)
	}
	return a.Seal(nil, make([]byte, 12), plaintext, ad)
}

func openZero(key, box, ad []byte) ([]byte, error) {
	a, err := chacha20poly1305.New(key)
	if err != nil {
		return nil, err
	}
	return a.Open(nil, make([]byte, 12), box, ad)
}

// linkOf is SPEC §7.1.
func linkOf(store, voucher []byte, expiry uint64) string {
	b := cat([]byte{1}, store, voucher, u64(expiry))
	return "tarn:" + base64.RawURLEncoding.EncodeToString(cat(b, sum256([]byte("tarn/1 link"), b)[:4]))
}

// agreed is what both ends have after SPEC §7.3.
func agreed(voucher, inviter, acceptor, answer, contribution, replySecret []byte) (root, numberKey, recovery []byte) {
	transcript := sum256([]byte("tarn/1 first contact\x00"), voucher, inviter, acceptor, answer)
	secret := cat(contribution, replySecret)
	return kdf(secret, transcript, "tarn/1 first root", 32), kdf(secret, transcript, "tarn/1 number key", 32), kdf(secret, transcript, "tarn/1 recovery secret", 32)
}

func numberOf(key, nonce []byte) string {
	n := binary.BigEndian.Uint64(mac(key, []byte("tarn/1 number\x00"), nonce)) % 1_000_000
	return fmt.Sprintf("%03d %03d", n/1000, n%1000)
}

// head is SPEC §6.1's fixed part and what follows it, without zeros at the end.
func bundleOf(epoch uint32, next uint64, seen []byte, floor uint64, pieces []byte) []byte {
	return cat([]byte{1, 0}, u32(epoch), u64(next), seen, u32(epoch), u64(floor), u16(0), u32(0), u16(len(pieces)), pieces)
}

func pieceOf(kind byte, data []byte) []byte {
	return cat([]byte{kind}, uvarint(uint64(len(data))<<1), data)
}
