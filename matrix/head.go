// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"bytes"
	"encoding/json/jsontext"
	"strconv"
	"unique"

	"maunium.net/go/mautrix/federation/pdu"
)

// A first /sync shows thousands of events and asks the auth rules about none. So of an event that comes from the disk only its
// head is read, in one pass over the bytes; the library's form, which takes three times the memory and five times the time,
// is made when somebody asks for it.

// head is what is asked of almost every event.
type head struct {
	typ      string
	sender   UserID
	roomID   RoomID // as written: "" in a v12 create event
	stateKey *string
	redacts  *EventID
	content  []byte // aliases the event's bytes
	depth    int64
	time     int64 // origin_server_ts
	hashed   bool  // has hashes
}

// headOf takes the head from the library's form.
func headOf(p *pdu.PDU) head {
	return head{typ: p.Type, sender: p.Sender, roomID: p.RoomID, stateKey: p.StateKey, redacts: p.Redacts, content: p.Content, depth: p.Depth, time: p.OriginServerTS, hashed: p.Hashes != nil}
}

// readHead reads the head of canonical bytes that were checked once. false: something in them is beyond it; decode says what.
func readHead(raw []byte) (h head, ok bool) {
	if len(raw) < 2 || raw[0] != '{' {
		return h, false
	}
	for i := 1; ; {
		key, next, ok := stringAt(raw, i)
		if !ok || next >= len(raw) || raw[next] != ':' {
			return h, false
		}
		start := next + 1
		if i, ok = skip(raw, start); !ok || i >= len(raw) {
			return h, false
		}
		value := raw[start:i:i]
		switch string(key) {
		case "content":
			if value[0] != '{' {
				return h, false
			}
			h.content = value
		case "depth":
			h.depth, ok = number(value)
		case "origin_server_ts":
			h.time, ok = number(value)
		case "hashes":
			h.hashed = value[0] == '{'
		case "redacts", "room_id", "sender", "state_key", "type":
			var b []byte
			if b, next, ok = stringAt(raw, start); next != i {
				return h, false
			}
			s := shared(string(b))
			switch string(key) {
			case "redacts":
				h.redacts = new(EventID(s))
			case "room_id":
				h.roomID = RoomID(s)
			case "sender":
				h.sender = UserID(s)
			case "state_key":
				h.stateKey = &s
			case "type":
				h.typ = s
			}
		}
		if !ok {
			return h, false
		}
		if raw[i] == '}' {
			return h, i == len(raw)-1 && h.content != nil && h.typ != "" && h.sender != ""
		}
		if raw[i] != ',' {
			return h, false
		}
		i++
	}
}

// shared is one copy in memory of what many events say.
func shared(s string) string { return unique.Make(s).Value() }

func number(b []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}

// stringAt reads the string that begins at i, and where it ends. It may alias raw.
func stringAt(raw []byte, i int) (s []byte, end int, ok bool) {
	if i >= len(raw) || raw[i] != '"' {
		return nil, i, false
	}
	n := bytes.IndexByte(raw[i+1:], '"')
	if n < 0 {
		return nil, i, false
	}
	if s = raw[i+1 : i+1+n]; bytes.IndexByte(s, '\\') < 0 {
		return s, i + n + 2, true
	}
	if end, ok = skip(raw, i); !ok {
		return nil, i, false
	}
	s, err := jsontext.AppendUnquote(nil, raw[i:end])
	return s, end, err == nil
}

// skip finds the end of the value that begins at i.
func skip(raw []byte, i int) (end int, ok bool) {
	open := 0
	for begun := i; i < len(raw); {
		switch raw[i] {
		case '"':
			for i++; i < len(raw) && raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			i++
		case '{', '[':
			open++
			i++
		case '}', ']':
			if open == 0 {
				return i, i > begun // the end of what the value stands in
			}
			open--
			i++
		case ',':
			if open == 0 {
				return i, i > begun
			}
			i++
		default:
			i++
			continue
		}
		if open == 0 && i <= len(raw) && (raw[i-1] == '"' || raw[i-1] == '}' || raw[i-1] == ']') {
			return i, true
		}
	}
	return i, false
}
