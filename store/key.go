// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// ErrKey: a key was not made by Key with the parts that the reader expects.
var ErrKey = errors.New("store: malformed key")

// The end of a string part is 00 01; a zero byte within it is 00 FF. So a shorter string sorts before its
// continuations, no string part is a prefix of another, and any byte may occur.
const (
	keyEscape  = 0x00
	keyEnd     = 0x01
	keyZero    = 0xff
	uint64Size = 8
)

// Key makes the key of a row in a table from its parts. Keys of one form sort like the tuples of their parts,
// and two different tuples have different keys. Key(t, a) is a prefix of exactly the keys Key(t, a, ...), so it
// serves Scan as a prefix. Parts are
//   - strings, []byte and named kinds of them (ids): any bytes, ordered bytewise;
//   - uint64 and kinds of it (Pos): 8 bytes, ordered by value;
//   - byte: itself, to tell a table's forms apart.
//
// Another kind of part is a programmer's error and panics.
func Key(table byte, parts ...any) []byte {
	k := make([]byte, 1, 64)
	k[0] = table
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			k = AppendString(k, p)
		case []byte:
			k = AppendString(k, string(p))
		case uint64:
			k = AppendUint64(k, p)
		case Pos:
			k = AppendUint64(k, uint64(p))
		case byte:
			k = append(k, p)
		default:
			switch v := reflect.ValueOf(p); v.Kind() {
			case reflect.String:
				k = AppendString(k, v.String())
			case reflect.Uint64:
				k = AppendUint64(k, v.Uint())
			default:
				panic(fmt.Sprintf("store.Key: part of kind %T", p))
			}
		}
	}
	return k
}

// AppendString appends a string part to a key.
func AppendString(k []byte, s string) []byte {
	for {
		i := strings.IndexByte(s, keyEscape)
		if i < 0 {
			k = append(k, s...)
			return append(k, keyEscape, keyEnd)
		}
		k = append(k, s[:i]...)
		k = append(k, keyEscape, keyZero)
		s = s[i+1:]
	}
}

// AppendUint64 appends a number part to a key.
func AppendUint64(k []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(k, v) }

// KeyReader takes a key apart again, part by part, in the order and kinds it was made of. After a mistake every
// further part is zero and Err says ErrKey, so that a caller checks once, at the end.
type KeyReader struct {
	rest []byte
	bad  bool
}

// ReadKey begins with the parts of key, after its table byte. It keeps key until the last part is read.
func ReadKey(key []byte) *KeyReader {
	if len(key) == 0 {
		return &KeyReader{bad: true}
	}
	return &KeyReader{rest: key[1:]}
}

// String reads a string part.
func (r *KeyReader) String() string {
	var out []byte
	for s := r.rest; !r.bad; {
		i := bytes.IndexByte(s, keyEscape)
		if i < 0 || i+1 == len(s) {
			break
		}
		switch s[i+1] {
		case keyEnd:
			r.rest = s[i+2:]
			if out == nil {
				return string(s[:i])
			}
			return string(append(out, s[:i]...))
		case keyZero:
			out = append(append(out, s[:i]...), 0)
			s = s[i+2:]
			continue
		}
		break
	}
	r.bad = true
	return ""
}

// Uint64 reads a number part.
func (r *KeyReader) Uint64() uint64 {
	if r.bad || len(r.rest) < uint64Size {
		r.bad = true
		return 0
	}
	v := binary.BigEndian.Uint64(r.rest)
	r.rest = r.rest[uint64Size:]
	return v
}

// Byte reads a byte part.
func (r *KeyReader) Byte() byte {
	if r.bad || len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// Err is ErrKey if a part was malformed or missing, or if something is left.
func (r *KeyReader) Err() error {
	if r.bad || len(r.rest) != 0 {
		return ErrKey
	}
	return nil
}

// after is the smallest key greater than all keys with the prefix, or nil if there is none.
func after(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			k := bytes.Clone(prefix[:i+1])
			k[i]++
			return k
		}
	}
	return nil
}
