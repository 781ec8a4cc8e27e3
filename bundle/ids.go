// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"strings"
	"unicode/utf8"

	"tarn/matrix"
)

// Limits of what records hold, in bytes and members. Those of ids and events are Matrix's (spec: "Size limits").
const (
	maxID          = matrix.MaxID
	maxVersion     = 32              // a room version's name (spec: 32 code points)
	maxEvent       = matrix.MaxEvent // one raw event
	maxEvents      = 1 << 16         // in one record, which MaxRecord bounds first
	maxIDs         = 1 << 16
	maxCertificate = 1024
	maxText        = 255
)

// errID: an id that a record can not carry.
var errID = errors.New("not an id of that kind")

// checkID tells whether s begins with sigil, is 2 to 255 bytes of UTF-8, and has no control character.
func checkID(s string, sigil byte) error {
	if len(s) < 2 || len(s) > maxID || s[0] != sigil || !plain(s) {
		return errID
	}
	return nil
}

// plain tells whether s is UTF-8 without control characters.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

// id reads one.
func (r *reader) id(sigil byte, what string) string {
	s := string(r.bytes(maxID, what))
	if r.err == nil && checkID(s, sigil) != nil {
		r.fail(ErrMalformed, what+" is not one")
		return ""
	}
	return s
}

// text reads words for people, or a name that may be empty.
func (r *reader) text(max int, what string) string {
	s := string(r.bytes(max, what))
	if r.err == nil && !plain(s) {
		r.fail(ErrMalformed, what+" has control characters")
		return ""
	}
	return s
}

func (r *reader) room() matrix.RoomID { return matrix.RoomID(r.id('!', "room id")) }

func (r *reader) version() matrix.RoomVersion {
	return matrix.RoomVersion(r.text(maxVersion, "room version"))
}

// eventIDs reads a list of event ids.
func (r *reader) eventIDs(max int, what string) []matrix.EventID {
	n := r.count(max, 3, what) // length and at least two bytes
	if n == 0 {
		return nil
	}
	ids := make([]matrix.EventID, 0, n)
	for range n {
		ids = append(ids, matrix.EventID(r.id('$', "event id")))
	}
	return ids
}

// byteStrings reads a list of non-empty byte strings, which alias the record.
func (r *reader) byteStrings(max, each int, what string) [][]byte {
	n := r.count(max, 2, what)
	if n == 0 {
		return nil
	}
	out := make([][]byte, 0, n)
	for range n {
		b := r.bytes(each, what)
		if r.err == nil && len(b) == 0 {
			r.fail(ErrMalformed, what+": an empty one")
		}
		out = append(out, b)
	}
	return out
}

func (w *writer) id(s string, sigil byte, what string) {
	if err := checkID(s, sigil); err != nil {
		w.fail(ErrMalformed, what+" is not one")
	}
	w.b = appendBytes(w.b, s)
}

func (w *writer) text(s string, max int, what string) {
	if len(s) > max {
		w.fail(ErrTooLarge, what)
	}
	if !plain(s) {
		w.fail(ErrMalformed, what+" has control characters")
	}
	w.b = appendBytes(w.b, s)
}

func (w *writer) room(id matrix.RoomID)        { w.id(string(id), '!', "room id") }
func (w *writer) version(v matrix.RoomVersion) { w.text(string(v), maxVersion, "room version") }

func (w *writer) eventIDs(ids []matrix.EventID, max int, what string) {
	w.number(uint64(len(ids)), uint64(max), what)
	for _, id := range ids {
		w.id(string(id), '$', "event id")
	}
}

func (w *writer) byteStrings(bs [][]byte, max, each int, what string) {
	w.number(uint64(len(bs)), uint64(max), what)
	for _, b := range bs {
		if len(b) == 0 {
			w.fail(ErrMalformed, what+": an empty one")
		}
		w.bytes(b, each, what)
	}
}
