// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	jsonv1 "encoding/json"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"

	"github.com/tidwall/sjson"
)

// clientEvent is the C-S API's "ClientEvent".
type clientEvent struct {
	Content  jsontext.Value `json:"content"`
	ID       EventID        `json:"event_id"`
	Time     int64          `json:"origin_server_ts"`
	Redacts  EventID        `json:"redacts,omitzero"`
	Room     RoomID         `json:"room_id,omitzero"`
	Sender   UserID         `json:"sender"`
	StateKey *string        `json:"state_key,omitzero"`
	Type     string         `json:"type"`
	Unsigned map[string]any `json:"unsigned,omitempty"`
}

// strippedEvent is the C-S API's "Stripped state".
type strippedEvent struct {
	Content  jsontext.Value `json:"content"`
	Sender   UserID         `json:"sender"`
	StateKey string         `json:"state_key"`
	Type     string         `json:"type"`
}

// Client is e as the Client-Server API shows it ("ClientEvent": event_id, room_id, type, state_key, sender,
// origin_server_ts, content). A redaction has redacts both beside and in its content, whatever the version, for old and new
// clients (room version 11, "Moving the redacts property"). unsigned may be nil. withRoom: with room_id (not in /sync).
func (e *Event) Client(unsigned map[string]any, withRoom bool) (jsonv1.RawMessage, error) {
	out := clientEvent{
		Content: e.pdu.Content, ID: e.id, Time: e.pdu.OriginServerTS, Redacts: e.Redacts(),
		Sender: e.pdu.Sender, StateKey: e.pdu.StateKey, Type: e.pdu.Type, Unsigned: unsigned,
	}
	if withRoom {
		out.Room = e.room
	}
	if out.Redacts != "" && !e.version.RedactsInContent() {
		// sjson may write into its input: not into the event's.
		content, err := sjson.SetBytesOptions(e.pdu.Content, "redacts", string(out.Redacts), &sjson.Options{})
		if err != nil {
			return nil, fmt.Errorf("showing an event: %w", err)
		}
		out.Content = content
	}
	raw, err := json.Marshal(out, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("showing an event: %w", err)
	}
	return raw, nil
}

// Stripped is e as stripped state (type, state_key, sender, content). ErrFormat: a message event.
func (e *Event) Stripped() (jsonv1.RawMessage, error) {
	if e.pdu.StateKey == nil {
		return nil, fmt.Errorf("%w: stripping an event that is no state", ErrFormat)
	}
	raw, err := json.Marshal(strippedEvent{e.pdu.Content, e.pdu.Sender, *e.pdu.StateKey, e.pdu.Type})
	if err != nil {
		return nil, fmt.Errorf("showing an event: %w", err)
	}
	return raw, nil
}
