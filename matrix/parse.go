// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"bytes"
	"encoding/json/v2"
	"fmt"

	"github.com/tidwall/gjson"
	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/federation/pdu"
)

// Parse reads wire bytes. Bytes that are not their own canonical form are refused; an event whose content hash is
// wrong becomes its redacted form (spec: server-server API, "Checks performed on receipt of a PDU", 3), Redacted then says so.
// raw is copied. Errors: ErrVersion, ErrTooLarge, ErrNotCanonical, ErrFormat, ErrUserID.
func Parse(v RoomVersion, raw []byte) (*Event, error) {
	p, err := decode(v, raw)
	if err != nil {
		return nil, err
	}
	// One comparison for two things: the bytes are canonical, and nothing of them was lost in the struct
	// (a null state_key, a null in redacts, an unknown key of hashes): what is hashed below is what came.
	again, err := canonicaljson.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotCanonical, err)
	}
	if !bytes.Equal(again, raw) {
		return nil, ErrNotCanonical
	}
	if err := check(v, p); err != nil {
		return nil, err
	}
	if !p.VerifyContentHash() {
		p.Redact(v)
		if again, err = canonicaljson.Marshal(p); err != nil {
			return nil, fmt.Errorf("%w: redacting: %w", ErrFormat, err)
		}
		// The redacted content is put together in the rules' order; read it back in canonical order.
		if p, err = decode(v, again); err != nil {
			return nil, err
		}
	}
	return finish(v, headOf(p), p, again, "")
}

// Load reads back the Raw bytes of an event that Parse or Build made and a store kept under id. It trusts them:
// no hash is computed. raw is kept, not copied.
func Load(v RoomVersion, id EventID, raw []byte) (*Event, error) {
	if !Supported(v) || len(raw) > MaxEvent {
		_, err := decode(v, raw)
		return nil, fmt.Errorf("loading an event: %w", err)
	}
	h, ok := readHead(raw)
	var p *pdu.PDU
	if !ok || id == "" {
		var err error
		if p, err = decode(v, raw); err != nil {
			return nil, fmt.Errorf("loading an event: %w", err)
		}
		h = headOf(p)
	}
	if !h.hashed {
		return nil, fmt.Errorf("loading an event: %w: no hash", ErrFormat)
	}
	return finish(v, h, p, raw, id)
}

// decode reads the library's struct and checks the version and the size, before memory is taken.
func decode(v RoomVersion, raw []byte) (*pdu.PDU, error) {
	if !Supported(v) {
		return nil, fmt.Errorf("%w %q", ErrVersion, v)
	}
	if len(raw) > MaxEvent {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(raw))
	}
	p := new(pdu.PDU)
	// encoding/json/v2 refuses duplicate names and bad UTF-8, and matches names by case.
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return p, nil
}

// check holds the struct against the limits and the grammar. It does not look at the room.
func check(v RoomVersion, p *pdu.PDU) error {
	switch {
	case p.Type == "":
		return fmt.Errorf("%w: no type", ErrFormat)
	case len(p.Type) > MaxID:
		return fmt.Errorf("%w: type of %d bytes", ErrTooLarge, len(p.Type))
	case p.StateKey != nil && len(*p.StateKey) > MaxID:
		return fmt.Errorf("%w: state_key of %d bytes", ErrTooLarge, len(*p.StateKey))
	case len(p.PrevEvents) > MaxPrev:
		return fmt.Errorf("%w: %d prev_events", ErrTooLarge, len(p.PrevEvents))
	case len(p.AuthEvents) > MaxAuth:
		return fmt.Errorf("%w: %d auth_events", ErrTooLarge, len(p.AuthEvents))
	case p.Depth < 0 || p.Depth > MaxDepth:
		return fmt.Errorf("%w: depth", ErrFormat)
	case p.OriginServerTS < 0 || p.OriginServerTS > MaxDepth:
		return fmt.Errorf("%w: origin_server_ts", ErrFormat)
	case len(p.Content) == 0 || p.Content[0] != '{':
		return fmt.Errorf("%w: content is not an object", ErrFormat)
	case p.Hashes == nil || len(p.Hashes.SHA256) != 32:
		return fmt.Errorf("%w: no sha256 hash", ErrFormat)
	case len(p.Unsigned) != 0:
		// Covered by nothing: whoever forwards the event could write in it. Tarn's nodes send none.
		return fmt.Errorf("%w: unsigned", ErrFormat)
	}
	if _, _, err := splitUserID(p.Sender); err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	if p.Redacts != nil && len(*p.Redacts) > MaxID {
		return fmt.Errorf("%w: redacts of %d bytes", ErrTooLarge, len(*p.Redacts))
	}
	if err := checkRefs(p.PrevEvents); err != nil {
		return fmt.Errorf("prev_events: %w", err)
	}
	if err := checkRefs(p.AuthEvents); err != nil {
		return fmt.Errorf("auth_events: %w", err)
	}
	switch {
	case p.Type == TypeCreate:
		return checkCreate(v, p)
	case p.Type == TypeMember && p.StateKey != nil:
		// Not asked for by the auth rules; but everybody reads a server from it.
		if _, _, err := splitUserID(UserID(*p.StateKey)); err != nil {
			return fmt.Errorf("state_key of a member: %w", err)
		}
	}
	if err := CheckRoomID(v, p.RoomID); err != nil {
		return fmt.Errorf("room_id: %w", err)
	}
	return nil
}

// checkCreate looks at what only a create event has. The auth rules know any event of this type as the start
// of a room, also one that is no state or has a state key: such are refused here.
func checkCreate(v RoomVersion, p *pdu.PDU) error {
	if p.StateKey == nil || *p.StateKey != "" {
		return fmt.Errorf("%w: %s without an empty state_key", ErrFormat, TypeCreate)
	}
	// A create event of one version read by another's rules is another room.
	said := gjson.GetBytes(p.Content, "room_version")
	if said.Type != gjson.String || RoomVersion(said.Str) != v {
		return fmt.Errorf("%w: the create event says %.20s", ErrVersion, said.Raw)
	}
	if v.RoomIDIsCreateEventID() {
		if p.RoomID != "" {
			return fmt.Errorf("%w: %s with a room_id", ErrFormat, TypeCreate)
		}
		return nil
	}
	if err := CheckRoomID(v, p.RoomID); err != nil {
		return fmt.Errorf("room_id: %w", err)
	}
	return nil
}

// checkRefs: each has the form of an event id, none stands twice.
func checkRefs(ids []EventID) error {
	for i, x := range ids {
		if err := CheckEventID(x); err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		for _, y := range ids[:i] {
			if x == y {
				return fmt.Errorf("%w: twice the same", ErrFormat)
			}
		}
	}
	return nil
}

// finish puts the event together; id "" means: compute it. p may be nil if there is an id.
func finish(v RoomVersion, h head, p *pdu.PDU, raw []byte, id EventID) (*Event, error) {
	if id == "" {
		var err error
		if id, err = p.GetEventID(v); err != nil {
			return nil, fmt.Errorf("%w: computing the event id: %w", ErrFormat, err)
		}
	}
	_, server, err := splitUserID(h.sender)
	if err != nil {
		return nil, fmt.Errorf("sender: %w", err)
	}
	e := &Event{head: h, raw: raw, id: id, room: h.roomID, server: server, version: v}
	e.library.Store(p)
	if h.typ == TypeCreate && v.RoomIDIsCreateEventID() {
		e.room = RoomID("!" + string(id[1:]))
	}
	return e, nil
}
