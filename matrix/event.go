// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/federation/pdu"
)

// Event types that the server itself understands.
const (
	TypeCreate            = "m.room.create"
	TypeMember            = "m.room.member"
	TypePowerLevels       = "m.room.power_levels"
	TypeJoinRules         = "m.room.join_rules"
	TypeHistoryVisibility = "m.room.history_visibility"
	TypeGuestAccess       = "m.room.guest_access"
	TypeRedaction         = "m.room.redaction"
	TypeThirdPartyInvite  = "m.room.third_party_invite"
	TypeName              = "m.room.name"
	TypeTopic             = "m.room.topic"
	TypeAvatar            = "m.room.avatar"
	TypeCanonicalAlias    = "m.room.canonical_alias"
	TypeEncryption        = "m.room.encryption"
	TypeTombstone         = "m.room.tombstone"
	TypeMessage           = "m.room.message"
	TypeEncrypted         = "m.room.encrypted"
	TypeSpaceChild        = "m.space.child"
	TypeServerACL         = "m.room.server_acl"
)

// The memberships.
const (
	MemberJoin   = "join"
	MemberInvite = "invite"
	MemberLeave  = "leave"
	MemberBan    = "ban"
	MemberKnock  = "knock"
)

// Limits of one event (C-S API, "Size limits"; server-server API, "PDUs").
const (
	MaxEvent = 65_536    // bytes of the canonical event with its signatures
	MaxPrev  = 20        // prev_events
	MaxAuth  = 10        // auth_events
	MaxDepth = 1<<53 - 1 // the greatest integer of canonical JSON
)

var (
	// ErrFormat: bytes or fields that are no well-formed event of their room version.
	ErrFormat = errors.New("malformed event")
	// ErrTooLarge: an event, or a part of it, above its limit.
	ErrTooLarge = errors.New("event too large")
	// ErrNotCanonical: the bytes of an event are not their own canonical JSON.
	ErrNotCanonical = errors.New("event is not in canonical form")
	// ErrSignature: the event is not signed by the server that must have signed it.
	ErrSignature = errors.New("event has no valid signature of its server")
	// ErrUnknownKey: a KeyFunc does not know the key; it may become known later.
	ErrUnknownKey = errors.New("unknown signing key")
)

// KeyFunc gives the public key by which server signs events under keyID, or ErrUnknownKey. It must not block on a network.
type KeyFunc func(server ServerName, keyID string) (ed25519.PublicKey, error)

// Signer is what a node signs its events with.
type Signer struct {
	Server ServerName         // whose
	KeyID  string             // onionid.KeyID of Key's public half
	Key    ed25519.PrivateKey // 64 bytes
}

// Proto is an event that is to be: everything but hash, signature and id.
type Proto struct {
	Room       RoomID // empty for a version 12 m.room.create
	Sender     UserID
	Type       string
	StateKey   *string
	Content    json.RawMessage // an object; nil means {}
	Redacts    EventID         // also put in content.redacts for versions >= 11
	PrevEvents []EventID
	AuthEvents []EventID
	Depth      int64
	Time       time.Time // kept in milliseconds
}

// Event is one immutable, well-formed room event (PDU). Well-formed: canonical JSON within the spec's limits
// (65,536 bytes, 255-byte ids, 20 prev and 10 auth events). Whether its signature and its place in the room are right, Verify and dag tell.
type Event struct {
	head
	library atomic.Pointer[pdu.PDU] // read only; nil: not asked for yet
	raw     []byte
	id      EventID
	room    RoomID
	server  ServerName
	version RoomVersion
}

// ID is the event's name: "$" and its reference hash, which covers what a redaction leaves of it.
func (e *Event) ID() EventID { return e.id }

// Room is the room that the event says it is of; of a v12 create event: "!" + its own hash.
func (e *Event) Room() RoomID { return e.room }

// Version is the room version by which the event was read.
func (e *Event) Version() RoomVersion { return e.version }

// Type is the event's type, 1 to 255 bytes.
func (e *Event) Type() string { return e.typ }

// StateKey is nil for a message event. Not to be written through.
func (e *Event) StateKey() *string { return e.stateKey }

// Slot is the piece of state that the event sets; false: a message event.
func (e *Event) Slot() (StateKey, bool) {
	if e.stateKey == nil {
		return StateKey{}, false
	}
	return StateKey{e.typ, *e.stateKey}, true
}

// Is says whether the event is state of type typ under key.
func (e *Event) Is(typ, key string) bool {
	return e.stateKey != nil && e.typ == typ && *e.stateKey == key
}

// Sender is the user who sent it.
func (e *Event) Sender() UserID { return e.sender }

// Server is the sender's server: of an onion's form, real if Verify was content.
func (e *Event) Server() ServerName { return e.server }

// Content is the event's content, an object. Not to be changed.
func (e *Event) Content() json.RawMessage { return json.RawMessage(e.content) }

// ContentString is the string under key (a plain top-level key of the content), or "".
func (e *Event) ContentString(key string) string {
	if r := gjson.GetBytes(e.content, gjson.Escape(key)); r.Type == gjson.String {
		return r.Str
	}
	return ""
}

// PrevEvents are the event's parents. Not to be changed.
func (e *Event) PrevEvents() []EventID { return e.PDU().PrevEvents }

// AuthEvents are the events that give the right to send it; v12: without the create event. Not to be changed.
func (e *Event) AuthEvents() []EventID { return e.PDU().AuthEvents }

// Depth is what the sender says: one more than the greatest of the parents. 0 to 2^53-1. Never believed for more than an order on screen.
func (e *Event) Depth() int64 { return e.depth }

// Time is origin_server_ts, the sender's clock in milliseconds.
func (e *Event) Time() time.Time { return time.UnixMilli(e.time) }

// Redacts is the event that a redaction removes, "" if none; from content for versions >= 11. It may be malformed.
func (e *Event) Redacts() EventID {
	if e.typ != TypeRedaction {
		return ""
	}
	if e.version.RedactsInContent() {
		return EventID(e.ContentString("redacts"))
	}
	if e.redacts != nil {
		return *e.redacts
	}
	return ""
}

// The kinds of relations that the server itself understands (C-S API, "Forming relationships between events").
const (
	RelThread     = "m.thread"
	RelReplace    = "m.replace"
	RelReference  = "m.reference"
	RelAnnotation = "m.annotation"
)

// Relation is what the event's m.relates_to says: the kind and the event it relates to; "" if it does not say both. The
// kind has 1 to 255 bytes; the target may be malformed.
func (e *Event) Relation() (kind string, target EventID) {
	r := gjson.GetBytes(e.content, `m\.relates_to`)
	if !r.IsObject() {
		return "", ""
	}
	k, id := r.Get("rel_type"), r.Get("event_id")
	if k.Type != gjson.String || id.Type != gjson.String || k.Str == "" || len(k.Str) > MaxID || id.Str == "" {
		return "", ""
	}
	return k.Str, EventID(id.Str)
}

// Membership is what an m.room.member state event says; else "".
func (e *Event) Membership() string {
	if e.typ != TypeMember || e.stateKey == nil {
		return ""
	}
	return e.ContentString("membership")
}

// Raw is the canonical wire form, with hash and signatures. Not to be changed, and not to be put through encoding/json as
// a RawMessage: that writes U+2028 and others as escapes, and Parse refuses the result.
func (e *Event) Raw() []byte { return e.raw }

// PDU is the Matrix library's form, for the auth rules in dag. Not to be changed, by anybody: copy it first.
func (e *Event) PDU() *pdu.PDU {
	if p := e.library.Load(); p != nil {
		return p
	}
	p, err := decode(e.version, e.raw)
	if err != nil {
		// The bytes were good when they were kept, and their head still is: a broken disk. Without parents and rights the
		// rules allow such an event nothing.
		p = &pdu.PDU{Type: e.typ, Sender: e.sender, RoomID: e.roomID, StateKey: e.stateKey, Content: e.content, Depth: e.depth, OriginServerTS: e.time, Redacts: e.redacts}
	}
	e.library.Store(p) // two that ask at once make two that are alike
	return p
}

// Compact lets go of what the event's bytes can make again.
func (e *Event) Compact() { e.library.Store(nil) }

// Redacted says whether the event's content hash does not fit its content: somebody redacted it, or spoilt it on its way.
// Such an event may be replaced by a whole one of the same id. Costs a hash of the event.
func (e *Event) Redacted() bool { return !e.PDU().VerifyContentHash() }

// authoriser is the server that must have signed a restricted join beside the sender's (room version 8, auth rule 4.2), or "".
func (e *Event) authoriser() UserID {
	if e.typ != TypeMember || !e.version.RestrictedJoins() {
		return ""
	}
	return UserID(e.ContentString("join_authorised_via_users_server"))
}
