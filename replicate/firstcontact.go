// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// The cryptography of a first contact (SPEC replicate §2, §3). What is sent and who keeps what: invite.go, accept.go.

// ErrPayload: what lies under a link, or answers it, is not what this program makes or is not signed by whom it names.
var ErrPayload = errors.New("replicate: the other node's part of the first contact is not authentic")

// The labels: HKDF infos, AEAD associated data, signature prefixes.
const (
	labelPayloadID  = "tarn/1 invitation id"
	labelPayloadKey = "tarn/1 invitation key"
	labelReplyID    = "tarn/1 reply id"
	labelReplyKey   = "tarn/1 reply key"
	labelPayload    = "tarn/1 invitation\x00" // the inviter's onion key signs this ‖ body
	labelReply      = "tarn/1 reply\x00"      // the acceptor's onion key signs this ‖ voucher ‖ body; also the HPKE info ‖ voucher
	labelTranscript = "tarn/1 first contact\x00"
	labelRoot       = "tarn/1 first root"
	labelNumberKey  = "tarn/1 number key"
	labelNumber     = "tarn/1 number\x00"
	labelPromise    = "tarn/1 number nonce\x00"

	contactVersion = 1
	maxCertificate = 1024
)

// payload is what waits under a link.
type payload struct {
	name        onionid.Name
	expiry      time.Time
	promise     [32]byte // SHA-256 of the nonce that the inviter shows after the reply
	replySecret [32]byte
	key         []byte // hybrid public key, made for this link
	recovery    []byte // hybrid public key, made for the contact: recoveries are sealed to it
	certificate onionid.Certificate
	stores      []mailbox.Address
}

// marshal signs it.
func (p *payload) marshal(key ed25519.PrivateKey) []byte {
	w := writer{}
	w.u8(contactVersion)
	w.raw(key.Public().(ed25519.PublicKey))
	w.uvarint(uint64(p.expiry.Unix()))
	w.raw(p.promise[:])
	w.raw(p.replySecret[:])
	w.raw(p.key)
	w.raw(p.recovery)
	w.bytes(p.certificate.Bytes())
	w.stores(p.stores)
	return append(w.b, ed25519.Sign(key, append([]byte(labelPayload), w.b...))...)
}

// signedBody checks the signature at the end of b by the key that stands after the version byte.
func signedBody(b []byte, label ...[]byte) (body []byte, name onionid.Name, err error) {
	if len(b) < 1+ed25519.PublicKeySize+ed25519.SignatureSize || b[0] != contactVersion {
		return nil, "", fmt.Errorf("%w: form", ErrPayload)
	}
	body = b[:len(b)-ed25519.SignatureSize]
	pub := ed25519.PublicKey(b[1 : 1+ed25519.PublicKeySize])
	name, err = onionid.Parse(string(onionid.FromKey(pub)))
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrPayload, err)
	}
	if !ed25519.Verify(pub, append(slices.Concat(label...), body...), b[len(body):]) {
		return nil, "", fmt.Errorf("%w: signature", ErrPayload)
	}
	return body[1+ed25519.PublicKeySize:], name, nil
}

// parsePayload reads and checks it, but for its hash.
func parsePayload(b []byte) (*payload, error) {
	body, name, err := signedBody(b, []byte(labelPayload))
	if err != nil {
		return nil, err
	}
	r := reader{b: body}
	p := &payload{name: name}
	secs := r.uvarint()
	if secs > maxUnix {
		r.bad = true
	}
	p.expiry = time.Unix(int64(min(secs, maxUnix)), 0)
	p.promise, p.replySecret = r.key32(), r.key32()
	p.key, p.recovery = r.raw(sealed.PublicKeySize), r.raw(sealed.PublicKeySize)
	cert := r.bytes(maxCertificate)
	p.stores = r.stores()
	if r.end() != nil || len(p.stores) == 0 {
		return nil, fmt.Errorf("%w: form", ErrPayload)
	}
	for _, k := range [][]byte{p.key, p.recovery} {
		if _, err := sealed.ParsePublicKey(k); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPayload, err)
		}
	}
	if p.certificate, err = parseCertificateOf(name, cert); err != nil {
		return nil, err
	}
	return p, nil
}

func parseCertificateOf(name onionid.Name, b []byte) (onionid.Certificate, error) {
	c, err := onionid.ParseCertificate(b)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	if c.Server != name {
		return c, fmt.Errorf("%w: another server's certificate", ErrPayload)
	}
	return c, nil
}

// reply is the acceptor's answer.
type reply struct {
	name         onionid.Name
	contribution [32]byte // random: the root's secret part
	recovery     []byte   // as the payload's
	certificate  onionid.Certificate
	stores       []mailbox.Address
}

func (p *reply) marshal(key ed25519.PrivateKey, voucher [32]byte) []byte {
	w := writer{}
	w.u8(contactVersion)
	w.raw(key.Public().(ed25519.PublicKey))
	w.raw(p.contribution[:])
	w.raw(p.recovery)
	w.bytes(p.certificate.Bytes())
	w.stores(p.stores)
	return append(w.b, ed25519.Sign(key, slices.Concat([]byte(labelReply), voucher[:], w.b))...)
}

func parseReply(b []byte, voucher [32]byte) (*reply, error) {
	body, name, err := signedBody(b, []byte(labelReply), voucher[:])
	if err != nil {
		return nil, err
	}
	r := reader{b: body}
	p := &reply{name: name, contribution: r.key32(), recovery: r.raw(sealed.PublicKeySize)}
	cert := r.bytes(maxCertificate)
	p.stores = r.stores()
	if r.end() != nil || len(p.stores) == 0 {
		return nil, fmt.Errorf("%w: form", ErrPayload)
	}
	if _, err := sealed.ParsePublicKey(p.recovery); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	p.certificate, err = parseCertificateOf(name, cert)
	return p, err
}

// place is the id and key of a box of a first contact.
type place struct {
	id  mailbox.BoxID
	key [32]byte
}

// derive is HKDF-SHA256.
func derive(secret, salt []byte, info string, n int) []byte {
	k, err := hkdf.Key(sha256.New, secret, salt, info, n)
	if err != nil {
		panic(err) // n is a small constant
	}
	return k
}

// payloadPlace follows from the voucher alone, replyPlace from the secret in the payload.
func payloadPlace(voucher [32]byte) place {
	return place{mailbox.BoxID(derive(voucher[:], nil, labelPayloadID, mailbox.IDSize)), [32]byte(derive(voucher[:], nil, labelPayloadKey, 32))}
}

func replyPlace(voucher, secret [32]byte) place {
	return place{mailbox.BoxID(derive(secret[:], voucher[:], labelReplyID, mailbox.IDSize)), [32]byte(derive(secret[:], voucher[:], labelReplyKey, 32))}
}

// seal makes a box that looks like every other: length 2 ‖ content ‖ zeros under ChaCha20-Poly1305 with a zero nonce.
// The key serves one content only: the voucher is the payload's hash, and a reply is made once and kept.
func (p place) seal(content []byte) (*[mailbox.BoxSize]byte, error) {
	if len(content) > mailbox.PayloadSize-2 {
		return nil, fmt.Errorf("%w: %d bytes are too many for a box", ErrPayload, len(content))
	}
	plain := make([]byte, mailbox.PayloadSize)
	binary.BigEndian.PutUint16(plain, uint16(len(content)))
	copy(plain[2:], content)
	a, err := chacha20poly1305.New(p.key[:])
	if err != nil {
		return nil, err
	}
	return (*[mailbox.BoxSize]byte)(a.Seal(nil, make([]byte, a.NonceSize()), plain, p.id[:])), nil
}

// open is errBadBox for anything else than that.
func (p place) open(box *[mailbox.BoxSize]byte) ([]byte, error) {
	a, err := chacha20poly1305.New(p.key[:])
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, make([]byte, a.NonceSize()), box[:], p.id[:])
	if err != nil {
		return nil, errBadBox
	}
	n := int(binary.BigEndian.Uint16(plain))
	if n > len(plain)-2 {
		return nil, fmt.Errorf("%w: length", ErrPayload)
	}
	for _, z := range plain[2+n:] {
		if z != 0 {
			return nil, fmt.Errorf("%w: padding", ErrPayload)
		}
	}
	return plain[2 : 2+n], nil
}

// shared is what both ends have after the reply.
type shared struct {
	root      ratchet.Root
	numberKey [32]byte
	recovery  [32]byte
}

// agree derives it: the secret is the acceptor's contribution, which only the holder of the link's hybrid key can
// read, with the payload's reply secret; the transcript binds both names, the link and the sealed answer.
func agree(voucher, replySecret, contribution [32]byte, inviter, acceptor onionid.Name, answer []byte) (shared, error) {
	ik, err := inviter.Key()
	if err != nil {
		return shared{}, err
	}
	ak, err := acceptor.Key()
	if err != nil {
		return shared{}, err
	}
	h := sha256.New()
	h.Write([]byte(labelTranscript))
	h.Write(voucher[:])
	h.Write(ik)
	h.Write(ak)
	h.Write(answer)
	transcript := h.Sum(nil)
	secret := slices.Concat(contribution[:], replySecret[:])
	return shared{
		root:      ratchet.Root(derive(secret, transcript, labelRoot, 32)),
		numberKey: [32]byte(derive(secret, transcript, labelNumberKey, 32)),
		recovery:  [32]byte(derive(secret, transcript, labelRecoverySecret, 32)),
	}, nil
}

// promiseOf is what a payload shows of the nonce. Because the inviter can not choose the nonce after the reply, nor
// the acceptor the reply after the nonce, who sits between the two can not search for equal numbers.
func promiseOf(nonce [32]byte) [32]byte {
	return sha256.Sum256(append([]byte(labelPromise), nonce[:]...))
}

// numberOf is the six digits that both people see and may compare.
func numberOf(key, nonce [32]byte) string {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte(labelNumber))
	m.Write(nonce[:])
	n := binary.BigEndian.Uint64(m.Sum(nil)) % 1_000_000
	return fmt.Sprintf("%03d %03d", n/1000, n%1000)
}

// replyInfo is the HPKE info of a reply.
func replyInfo(voucher [32]byte) []byte { return append([]byte(labelReply), voucher[:]...) }

func random32() (k [32]byte) {
	rand.Read(k[:])
	return k
}
