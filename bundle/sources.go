// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"crypto/ed25519"
	"slices"

	"tarn/crypto/onionid"
)

// MaxSources bounds the servers of one record.
const MaxSources = 1000

// Sources is a TypeSources record: the servers whose events its sender gets from themselves, so that nobody need pass them on to it.
type Sources struct {
	Serial  uint64 // grows with every change; not 0
	Servers []onionid.Name
}

// Sort puts the servers into the order that the record has.
func (s Sources) Sort() {
	slices.SortFunc(s.Servers, func(a, b onionid.Name) int {
		x, _ := a.Key() // what is no name is refused by Record
		y, _ := b.Key()
		return bytes.Compare(x, y)
	})
}

// Record encodes it: serial, count, then of each server its key of 32 bytes, nothing in front; the keys in ascending order.
// ErrTooLarge or ErrMalformed if ParseSources would refuse it.
func (s Sources) Record() (Record, error) {
	var w writer
	w.serial(s.Serial)
	w.number(uint64(len(s.Servers)), MaxSources, "servers")
	var keys [][]byte
	for _, name := range s.Servers {
		key, err := name.Key()
		if err != nil {
			w.fail(ErrMalformed, "server")
		}
		keys = append(keys, key)
	}
	for i, key := range keys {
		if i > 0 && bytes.Compare(keys[i-1], key) >= 0 {
			w.fail(ErrMalformed, "order of servers")
		}
		w.b = append(w.b, key...)
	}
	return w.record(TypeSources, "sources")
}

// ParseSources decodes a TypeSources record. ErrMalformed, ErrTooLarge.
func ParseSources(data []byte) (Sources, error) {
	r := &reader{b: data}
	s := Sources{Serial: r.serial()}
	n := r.count(MaxSources, ed25519.PublicKeySize, "servers")
	var last []byte
	for range n {
		key := r.take(ed25519.PublicKeySize, "server")
		if r.err == nil && last != nil && bytes.Compare(last, key) >= 0 {
			r.fail(ErrMalformed, "order of servers")
		}
		if r.err != nil {
			break
		}
		name := onionid.FromKey(key)
		if _, err := name.Key(); err != nil {
			r.fail(ErrMalformed, "server")
		}
		s.Servers, last = append(s.Servers, name), key
	}
	if err := r.end("sources"); err != nil {
		return Sources{}, err
	}
	return s, nil
}
