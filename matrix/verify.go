// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/id"

	"tarn/crypto/onionid"
)

// Verify checks the signature of the sender's server, and for a restricted join also that of the server of
// join_authorised_via_users_server (room version 8, auth rule 4.2.1). One valid signature a server is enough; others beside
// it are not looked at, for anybody may add them. ErrSignature: never will be valid. ErrUnknownKey: ask again when the
// server's certificate is known.
func (e *Event) Verify(keys KeyFunc) error {
	signed, err := canonicaljson.Marshal(e.PDU().Clone().RedactForSignature(e.version))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err := verifyOf(e.PDU().Signatures, e.server, signed, keys); err != nil {
		return err
	}
	by := e.authoriser()
	if by == "" {
		return nil
	}
	_, server, err := splitUserID(by)
	if err != nil {
		return fmt.Errorf("%w: join_authorised_via_users_server: %w", ErrSignature, err)
	}
	if server == e.server {
		return nil
	}
	return verifyOf(e.PDU().Signatures, server, signed, keys)
}

// verifyOf looks for one valid signature of server over message.
func verifyOf(all map[string]map[id.KeyID]string, server onionid.Name, message []byte, keys KeyFunc) error {
	var unknown error
	for keyID, sig := range all[string(server)] {
		if !strings.HasPrefix(string(keyID), "ed25519:") {
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(sig)
		if err != nil || len(raw) != ed25519.SignatureSize {
			continue
		}
		key, err := keys(server, string(keyID))
		if err != nil {
			if !errors.Is(err, ErrUnknownKey) {
				return fmt.Errorf("looking up a signing key: %w", err)
			}
			unknown = err
			continue
		}
		// ed25519.Verify panics on a key of another length.
		if len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, raw) {
			return nil
		}
	}
	if unknown != nil {
		return unknown
	}
	return ErrSignature
}

// Redact is e after a redaction (spec: room version's redaction rules); same id, hash and signatures.
func (e *Event) Redact() *Event {
	p := e.PDU().Clone().Redact(e.version)
	raw, err := canonicaljson.Marshal(p)
	if err == nil {
		p, err = decode(e.version, raw)
	}
	if err != nil {
		// Both read bytes that this package wrote a moment ago from a checked event.
		panic("matrix: redacting a well-formed event: " + err.Error())
	}
	out := &Event{head: headOf(p), raw: raw, id: e.id, room: e.room, server: e.server, version: e.version}
	out.library.Store(p)
	return out
}
