// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
)

// ErrLink: the text is not a contact link, or was damaged on the way (one character is enough to show).
var ErrLink = errors.New("replicate: this is not a contact link, or it was damaged on the way")

const (
	linkScheme   = "tarn:"
	linkVersion  = 1
	linkCheck    = 4                           // bytes of SHA-256 over the rest: finds typing mistakes
	linkSize     = 1 + 32 + 32 + 8 + linkCheck // version, store, voucher, expiry, check: bundle.LinkSize
	linkCheckTag = "tarn/1 link"
)

// Link invites whoever holds it to become a contact, once. It names a store and the voucher from which the place and
// the key of the invitation's payload follow. It is a secret until it is used.
type Link struct {
	Store   mailbox.Address
	Voucher [32]byte  // SHA-256 of the payload
	Expiry  time.Time // whole seconds
}

// String is the link as people pass it on: "tarn:" and base64url without padding, 108 characters.
func (l Link) String() string {
	b, err := l.bytes()
	if err != nil {
		return ""
	}
	return linkScheme + base64.RawURLEncoding.EncodeToString(b[:])
}

// bytes is the link as introductions carry it.
func (l Link) bytes() (out [linkSize]byte, err error) {
	key, err := l.Store.Onion.Key()
	if err != nil {
		return out, err
	}
	b := append(out[:0], linkVersion)
	b = append(b, key...)
	b = append(b, l.Voucher[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Expiry.Unix()))
	check := linkSum(b)
	return [linkSize]byte(append(b, check[:]...)), nil
}

// LogValue hides the link.
func (Link) LogValue() slog.Value { return slog.StringValue("[link]") }

// ParseLink reads a link; spaces around it are no matter. ErrLink.
func ParseLink(s string) (Link, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), linkScheme)
	if !ok {
		return Link{}, fmt.Errorf("%w: it does not begin with %q", ErrLink, linkScheme)
	}
	if len(text) != base64.RawURLEncoding.EncodedLen(linkSize) {
		return Link{}, fmt.Errorf("%w: it has %d characters after %q, not %d", ErrLink, len(text), linkScheme, base64.RawURLEncoding.EncodedLen(linkSize))
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return Link{}, fmt.Errorf("%w: %w", ErrLink, err)
	}
	if len(b) != linkSize {
		return Link{}, fmt.Errorf("%w: there are line breaks in it", ErrLink) // the decoder passes over them
	}
	return parseLinkBytes([linkSize]byte(b))
}

func parseLinkBytes(b [linkSize]byte) (Link, error) {
	body := b[:linkSize-linkCheck]
	if linkSum(body) != [linkCheck]byte(b[linkSize-linkCheck:]) {
		return Link{}, fmt.Errorf("%w: its check digits are wrong", ErrLink)
	}
	if b[0] != linkVersion {
		return Link{}, fmt.Errorf("%w: version %d is for a newer program", ErrLink, b[0])
	}
	name, err := onionid.Parse(string(onionid.FromKey(ed25519.PublicKey(b[1:33]))))
	if err != nil {
		return Link{}, fmt.Errorf("%w: %w", ErrLink, err)
	}
	secs := binary.BigEndian.Uint64(b[65:73])
	if secs > maxUnix {
		return Link{}, fmt.Errorf("%w: impossible expiry", ErrLink)
	}
	return Link{
		Store:   mailbox.Address{Onion: name},
		Voucher: [32]byte(b[33:65]),
		Expiry:  time.Unix(int64(secs), 0),
	}, nil
}

// maxUnix is the year 9999: what a time in a link or payload may be at most.
const maxUnix = 253402300799

func linkSum(body []byte) [linkCheck]byte {
	h := sha256.New()
	h.Write([]byte(linkCheckTag))
	h.Write(body)
	return [linkCheck]byte(h.Sum(nil))
}
