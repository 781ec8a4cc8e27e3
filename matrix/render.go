// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	jsonv1 "encoding/json"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"strconv"

	"github.com/tidwall/sjson"
)

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
	content, redacts := e.content, e.Redacts()
	if redacts != "" && !e.version.RedactsInContent() {
		// sjson may write into its input: not into the event's.
		var err error
		if content, err = sjson.SetBytesOptions(e.content, "redacts", string(redacts), &sjson.Options{}); err != nil {
			return nil, fmt.Errorf("showing an event: %w", err)
		}
	}
	b := make([]byte, 0, len(content)+512)
	b = append(append(b, `{"content":`...), content...)
	b = quoted(b, `,"event_id":`, string(e.id))
	b = strconv.AppendInt(append(b, `,"origin_server_ts":`...), e.time, 10)
	if redacts != "" {
		b = quoted(b, `,"redacts":`, string(redacts))
	}
	if withRoom {
		b = quoted(b, `,"room_id":`, string(e.room))
	}
	b = quoted(b, `,"sender":`, string(e.sender))
	if e.stateKey != nil {
		b = quoted(b, `,"state_key":`, *e.stateKey)
	}
	b = quoted(b, `,"type":`, e.typ)
	if len(unsigned) > 0 {
		raw, err := json.Marshal(unsigned, json.Deterministic(true))
		if err != nil {
			return nil, fmt.Errorf("showing an event: %w", err)
		}
		b = append(append(b, `,"unsigned":`...), raw...)
	}
	return append(b, '}'), nil
}

// quoted appends a name and a string. What was read from JSON is UTF-8, so that nothing fails.
func quoted(b []byte, name, s string) []byte {
	b = append(b, name...)
	out, err := jsontext.AppendQuote(b, s)
	if err != nil {
		return append(b, `""`...)
	}
	return out
}

// Stripped is e as stripped state (type, state_key, sender, content). ErrFormat: a message event.
func (e *Event) Stripped() (jsonv1.RawMessage, error) {
	if e.stateKey == nil {
		return nil, fmt.Errorf("%w: stripping an event that is no state", ErrFormat)
	}
	raw, err := json.Marshal(strippedEvent{e.content, e.sender, *e.stateKey, e.typ})
	if err != nil {
		return nil, fmt.Errorf("showing an event: %w", err)
	}
	return raw, nil
}
