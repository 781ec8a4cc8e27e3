// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"tarn/crypto/onionid"
)

// The ids are the Matrix library's (spec: appendices, "Common Namespaced Identifier Grammar").
type (
	// UserID is "@localpart:server", at most 255 bytes.
	UserID = id.UserID
	// RoomID is "!" and 43 characters for version 12, "!opaque:server" before; at most 255 bytes.
	RoomID = id.RoomID
	// EventID is "$" and the reference hash in 43 characters of unpadded URL-safe base64.
	EventID = id.EventID
	// DeviceID is any text, made by the server at login.
	DeviceID = id.DeviceID
	// RoomVersion is a room version's name: "11", "12".
	RoomVersion = id.RoomVersion
	// ServerName is a node's onion address.
	ServerName = onionid.Name
)

// StateKey names a piece of a room's state.
type StateKey struct{ Type, Key string }

// MaxID is the greatest length of an id, event type or state key in bytes (C-S API, "Size limits").
const MaxID = 255

// hashChars is the length of a sha256 in unpadded base64.
const hashChars = 43

var (
	// ErrUserID: a text is no Matrix user id on an onion server.
	ErrUserID = errors.New("not a user id of the form @name:<onion>")
	// ErrLocalpart: the part of a user id before the colon has characters that new users may not have.
	ErrLocalpart = errors.New("a user name may have only a-z, 0-9 and . _ = - / +")
	// ErrRoomID: a text is no room id of its room version.
	ErrRoomID = errors.New("not a room id")
	// ErrEventID: a text is no event id.
	ErrEventID = errors.New("not an event id")
)

// ParseUserID splits u and checks its length, its characters (the historical set: appendices, "Historical User IDs")
// and that its server is an onion. The localpart may be empty in old rooms and is let through. Costs about a signature's
// verification (onionid.Parse): for what people type, not for each event.
func ParseUserID(u UserID) (localpart string, server ServerName, err error) {
	localpart, server, err = splitUserID(u)
	if err != nil {
		return "", "", err
	}
	if _, err := onionid.Parse(string(server)); err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrUserID, err)
	}
	return localpart, server, nil
}

// splitUserID is ParseUserID with the form of the onion alone looked at. In events that is enough: no certificate, and so
// no key, is ever known for a name that is not a real one.
func splitUserID(u UserID) (localpart string, server ServerName, err error) {
	s := string(u)
	if len(s) > MaxID {
		return "", "", fmt.Errorf("%w: %d bytes", ErrUserID, len(s))
	}
	if len(s) == 0 || s[0] != '@' {
		return "", "", ErrUserID
	}
	localpart, rest, found := strings.Cut(s[1:], ":")
	if !found || !onionForm(rest) || !utf8.ValidString(localpart) || strings.IndexByte(localpart, 0) >= 0 {
		return "", "", ErrUserID
	}
	return localpart, ServerName(rest), nil
}

// onionForm: 56 characters of lower-case base32 and ".onion".
func onionForm(s string) bool {
	key, ok := strings.CutSuffix(s, ".onion")
	if !ok || len(key) != 56 {
		return false
	}
	for i := range len(key) {
		if c := key[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// NewUserID makes the id of a new user. The localpart must obey the current grammar (appendices, "User Identifiers"):
// 1 or more of a-z 0-9 . _ = - / +, and the whole at most 255 bytes.
func NewUserID(localpart string, server ServerName) (UserID, error) {
	if localpart == "" {
		return "", ErrLocalpart
	}
	for i := range len(localpart) {
		c := localpart[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("._=-/+", c) >= 0:
		default:
			return "", ErrLocalpart
		}
	}
	u := UserID("@" + localpart + ":" + string(server))
	if len(u) > MaxID {
		return "", fmt.Errorf("%w: %d bytes", ErrUserID, len(u))
	}
	return u, nil
}

// CheckEventID says whether e has the form of an event id of room versions 4 and up.
func CheckEventID(e EventID) error {
	if len(e) != 1+hashChars || e[0] != '$' || !isHash(string(e[1:])) {
		return ErrEventID
	}
	return nil
}

// CheckRoomID says whether r has the form of a room id of version v.
func CheckRoomID(v RoomVersion, r RoomID) error {
	if len(r) < 2 || len(r) > MaxID || r[0] != '!' || !utf8.ValidString(string(r)) {
		return ErrRoomID
	}
	if v.RoomIDIsCreateEventID() {
		if len(r) != 1+hashChars || !isHash(string(r[1:])) {
			return ErrRoomID
		}
		return nil
	}
	if opaque, server, found := strings.Cut(string(r[1:]), ":"); !found || opaque == "" || server == "" {
		return ErrRoomID
	}
	return nil
}

// isHash: 43 characters that decode to 32 bytes, trailing bits zero.
func isHash(s string) bool {
	var out [33]byte
	n, err := base64.RawURLEncoding.Strict().Decode(out[:], []byte(s))
	return err == nil && n == 32 && len(s) == 43 // the decoder passes over line breaks
}

// CreateEventID is the id of the create event of a version 12 room (room version 12, "Room IDs as hashes"), or "".
func CreateEventID(v RoomVersion, r RoomID) EventID {
	if !v.RoomIDIsCreateEventID() || CheckRoomID(v, r) != nil {
		return ""
	}
	return EventID("$" + string(r[1:]))
}
