// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"crypto/ed25519"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"tarn/crypto/onionid"
)

// The ids are the Matrix library's (spec: appendices, "Common Namespaced Identifier Grammar").
type (
	UserID      = id.UserID
	RoomID      = id.RoomID
	EventID     = id.EventID
	DeviceID    = id.DeviceID
	RoomVersion = id.RoomVersion
	ServerName  = onionid.Name
)

// StateKey names a piece of a room's state.
type StateKey struct{ Type, Key string }

// KeyFunc gives the public key by which server signs events under keyID, or ErrUnknownKey.
type KeyFunc func(server ServerName, keyID string) (ed25519.PublicKey, error)

// Signer is what a node signs its events with.
type Signer struct {
	Server ServerName
	KeyID  string // onionid.KeyID
	Key    ed25519.PrivateKey
}

// Proto is an event that is to be: everything but hash, signature and id.
type Proto struct {
	Room       RoomID // empty for a version 12 m.room.create
	Sender     UserID
	Type       string
	StateKey   *string
	Content    json.RawMessage
	Redacts    EventID // also put in content.redacts for versions >= 11
	PrevEvents []EventID
	AuthEvents []EventID
	Depth      int64
	Time       time.Time
}

// Event is one immutable, well-formed room event (PDU). Well-formed: canonical JSON within the spec's limits
// (65,536 bytes, 255-byte ids, 20 prev and 10 auth events). Whether its signature and its place in the room are right, Verify and dag tell.
type Event struct{ _ int }

// Build hashes and signs p.
func Build(v RoomVersion, p Proto, s Signer) (*Event, error) { panic("unwritten") }

// Parse reads wire bytes. Bytes that are not their own canonical form are refused; an event whose content hash is
// wrong becomes its redacted form (spec: server-server API, "Checks performed on receipt of a PDU", 3), Redacted then says so.
func Parse(v RoomVersion, raw []byte) (*Event, error) { panic("unwritten") }

func (e *Event) ID() EventID              { panic("unwritten") }
func (e *Event) Room() RoomID             { panic("unwritten") } // of a v12 create event: "!" + its own hash
func (e *Event) Version() RoomVersion     { panic("unwritten") }
func (e *Event) Type() string             { panic("unwritten") }
func (e *Event) StateKey() *string        { panic("unwritten") } // nil: a message event
func (e *Event) Slot() (StateKey, bool)   { panic("unwritten") } // false: a message event
func (e *Event) Sender() UserID           { panic("unwritten") }
func (e *Event) Server() ServerName       { panic("unwritten") } // the sender's
func (e *Event) Content() json.RawMessage { panic("unwritten") } // not to be changed
func (e *Event) PrevEvents() []EventID    { panic("unwritten") }
func (e *Event) AuthEvents() []EventID    { panic("unwritten") } // v12: without the create event
func (e *Event) Depth() int64             { panic("unwritten") }
func (e *Event) Time() time.Time          { panic("unwritten") } // origin_server_ts, milliseconds
func (e *Event) Redacts() EventID         { panic("unwritten") } // "" if none; from content for versions >= 11
func (e *Event) Membership() string       { panic("unwritten") } // of m.room.member; else ""
func (e *Event) Raw() []byte              { panic("unwritten") } // canonical wire bytes; not to be changed

// Verify checks the signature of the sender's server.
func (e *Event) Verify(keys KeyFunc) error { panic("unwritten") }

// Redact is e after a redaction (spec: room version's redaction rules); same id.
func (e *Event) Redact() *Event { panic("unwritten") }

// Client is e as the Client-Server API shows it ("ClientEvent": event_id, room_id, type, state_key, sender,
// origin_server_ts, content, redacts for versions <= 10). unsigned may be nil. withRoom: with room_id (not in /sync).
func (e *Event) Client(unsigned map[string]any, withRoom bool) (json.RawMessage, error) {
	panic("unwritten")
}

// Stripped is e as stripped state (type, state_key, sender, content).
func (e *Event) Stripped() (json.RawMessage, error) { panic("unwritten") }
