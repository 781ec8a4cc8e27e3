// SPDX-License-Identifier: Apache-2.0

package onionid

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// CertificateSize is the size of every certificate in bytes: version 1, onion key 32, signing key 32, signature 64.
const CertificateSize = 1 + 2*ed25519.PublicKeySize + ed25519.SignatureSize

const (
	certificateVersion = 1
	certificatePurpose = "tarn/1 event-signing key\x00" // in front of what is signed: the signature serves nothing else
)

// ErrCertificate says that bytes are no valid certificate.
var ErrCertificate = errors.New("onionid: invalid certificate")

// Certificate is the onion key's word that a server's events are signed by another key:
// the onion key itself lives with tor and signs nothing else. The zero Certificate certifies nothing.
type Certificate struct {
	Server Name              // whose
	KeyID  string            // Matrix key id, "ed25519:" + 8 characters made from the key
	Key    ed25519.PublicKey // the event-signing key
	raw    []byte
}

var _ slog.LogValuer = Certificate{}

// Certify makes the certificate of signing by the onion key. The two must be different keys, else nobody accepts it.
// It panics if a key has the wrong length, as crypto/ed25519 does: both are the node's own.
func Certify(onion ed25519.PrivateKey, signing ed25519.PublicKey) Certificate {
	if len(signing) != ed25519.PublicKeySize {
		panic("onionid: bad signing key length")
	}
	pub := onion.Public().(ed25519.PublicKey)
	raw := make([]byte, 0, CertificateSize)
	raw = append(raw, certificateVersion)
	raw = append(raw, pub...)
	raw = append(raw, signing...)
	raw = append(raw, ed25519.Sign(onion, signed(raw))...)
	return certificate(FromKey(pub), raw)
}

// ParseCertificate checks size (CertificateSize bytes), version, that both keys are different prime-order keys, and the
// signature. Errors wrap ErrCertificate. raw is copied.
func ParseCertificate(raw []byte) (Certificate, error) {
	if len(raw) != CertificateSize {
		return Certificate{}, fmt.Errorf("%w: it has %d bytes, not %d", ErrCertificate, len(raw), CertificateSize)
	}
	if raw[0] != certificateVersion {
		return Certificate{}, fmt.Errorf("%w: unknown version %d", ErrCertificate, raw[0])
	}
	body, sig := raw[:CertificateSize-ed25519.SignatureSize], raw[CertificateSize-ed25519.SignatureSize:]
	pub, signing := ed25519.PublicKey(body[1:33]), ed25519.PublicKey(body[33:65])
	// Keys first: Verify with a key of small order would accept a signature that nobody made.
	server := FromKey(pub)
	if server == "" {
		return Certificate{}, fmt.Errorf("%w: onion key: %w", ErrCertificate, errKey)
	}
	if err := checkKey(signing); err != nil {
		return Certificate{}, fmt.Errorf("%w: signing key: %w", ErrCertificate, err)
	}
	if pub.Equal(signing) {
		return Certificate{}, fmt.Errorf("%w: the onion key may not sign events", ErrCertificate)
	}
	if !ed25519.Verify(pub, signed(body), sig) {
		return Certificate{}, fmt.Errorf("%w: wrong signature", ErrCertificate)
	}
	return certificate(server, append([]byte(nil), raw...)), nil
}

// Bytes is the wire form: CertificateSize bytes; nil of the zero Certificate. It is a copy.
func (c Certificate) Bytes() []byte { return append([]byte(nil), c.raw...) }

// LogValue hides all of it: the key id would be a name too.
func (c Certificate) LogValue() slog.Value { return slog.StringValue("[certificate]") }

// KeyID is the Matrix key id of an event-signing key: "ed25519:" and 8 characters of [A-Za-z0-9_], which are the
// base64url of the first 6 bytes of SHA-256(key) with "_" in place of "-" (Matrix spec, appendices, "Checking for a
// signature": key identifiers). It tells the keys of one server apart; it does not authenticate a key.
func KeyID(signing ed25519.PublicKey) string {
	h := sha256.Sum256(signing)
	return "ed25519:" + strings.ReplaceAll(base64.URLEncoding.EncodeToString(h[:6]), "-", "_")
}

// signed is what the onion key signs: purpose ‖ onion key ‖ signing key. body begins with version ‖ both keys.
func signed(body []byte) []byte {
	return append([]byte(certificatePurpose), body[1:1+2*ed25519.PublicKeySize]...)
}

// certificate takes raw, which was made or checked by the caller.
func certificate(server Name, raw []byte) Certificate {
	key := ed25519.PublicKey(append([]byte(nil), raw[33:65]...))
	return Certificate{Server: server, KeyID: KeyID(key), Key: key, raw: raw}
}
