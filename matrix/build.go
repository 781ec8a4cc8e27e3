// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"maps"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"
)

// Build hashes and signs p. The sender must be of the signer's server. No origin and no prev_state is written:
// nobody needs them, and each says once more which server wrote. Errors as Parse's; ErrFormat also for content with fractions.
func Build(v RoomVersion, p Proto, s Signer) (*Event, error) {
	if !Supported(v) {
		return nil, fmt.Errorf("%w %q", ErrVersion, v)
	}
	if _, server, err := splitUserID(p.Sender); err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	} else if server != s.Server {
		return nil, fmt.Errorf("%w: the sender is not of the signing server", ErrFormat)
	}
	if len(p.Content) > MaxEvent {
		return nil, fmt.Errorf("%w: content of %d bytes", ErrTooLarge, len(p.Content))
	}
	content := jsontext.Value(slices.Clone(p.Content))
	if content == nil {
		content = jsontext.Value("{}")
	}
	out := &pdu.PDU{
		// Not nil: null is not an empty list.
		AuthEvents:     append([]EventID{}, p.AuthEvents...),
		PrevEvents:     append([]EventID{}, p.PrevEvents...),
		Content:        content,
		Depth:          p.Depth,
		OriginServerTS: p.Time.UnixMilli(),
		RoomID:         p.Room,
		Sender:         p.Sender,
		StateKey:       p.StateKey,
		Type:           p.Type,
	}
	if p.Redacts != "" {
		if v.RedactsInContent() {
			var err error
			if out.Content, err = sjson.SetBytes(out.Content, "redacts", string(p.Redacts)); err != nil {
				return nil, fmt.Errorf("%w: content: %w", ErrFormat, err)
			}
		} else {
			out.Redacts = &p.Redacts
		}
	}
	// Canonical before it is signed: the content is taken into the hash as it stands.
	if err := canonicaljson.Canonicalize(&out.Content); err != nil {
		return nil, fmt.Errorf("%w: content: %w", ErrFormat, err)
	}
	return seal(v, out, s)
}

// Cosign is e with s's signature added: the authorising server's word on a restricted join (room version 8).
func (e *Event) Cosign(s Signer) (*Event, error) {
	p := e.PDU().Clone()
	p.Signatures = make(map[string]map[id.KeyID]string, len(p.Signatures)+1)
	for server, sigs := range e.PDU().Signatures {
		p.Signatures[server] = maps.Clone(sigs)
	}
	return seal(e.version, p, s)
}

// seal signs p, which is the caller's own, and reads the result back, so that what was built obeys what Parse asks.
func seal(v RoomVersion, p *pdu.PDU, s Signer) (*Event, error) {
	if len(s.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("signing an event: the key has %d bytes", len(s.Key))
	}
	if err := p.Sign(v, string(s.Server), id.KeyID(s.KeyID), s.Key); err != nil {
		return nil, fmt.Errorf("%w: signing: %w", ErrFormat, err)
	}
	raw, err := canonicaljson.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	p, err = decode(v, raw)
	if err != nil {
		return nil, err
	}
	if err := check(v, p); err != nil {
		return nil, err
	}
	return finish(v, headOf(p), p, raw, "")
}

// NonceKey is the key of the create content that holds the nonce.
const NonceKey = "tarn.nonce"

// nonceSize is in bytes: 128 bits, more than anybody can try.
const nonceSize = 16

// CreateContent is the content of a new room's create event: extra (an object, or nil) with room_version, the creator
// where the version asks for it, and 128 random bits. Without them a version 12 room id, which is a hash of sender,
// time and content, can be searched for its creator in seconds (MSC4291, "Security Considerations").
func CreateContent(v RoomVersion, creator UserID, extra []byte) ([]byte, error) {
	if !Supported(v) {
		return nil, fmt.Errorf("%w %q", ErrVersion, v)
	}
	if len(extra) > MaxEvent {
		return nil, fmt.Errorf("%w: creation content of %d bytes", ErrTooLarge, len(extra))
	}
	content := map[string]jsontext.Value{}
	if len(extra) > 0 {
		if gjson.ParseBytes(extra).Type != gjson.JSON {
			return nil, fmt.Errorf("%w: creation content is not an object", ErrFormat)
		}
		if err := json.Unmarshal(extra, &content); err != nil {
			return nil, fmt.Errorf("%w: creation content: %w", ErrFormat, err)
		}
	}
	set := func(key, value string) {
		quoted, _ := jsontext.AppendQuote(nil, value) // fails for bad UTF-8 only; ids are checked by Build
		content[key] = quoted
	}
	set("room_version", string(v))
	delete(content, "creator")
	if v.CreatorInContent() {
		set("creator", string(creator))
	}
	var nonce [nonceSize]byte
	rand.Read(nonce[:]) // never fails
	set(NonceKey, base64.RawURLEncoding.EncodeToString(nonce[:]))
	out, err := canonicaljson.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("%w: creation content: %w", ErrFormat, err)
	}
	return out, nil
}
