// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"crypto/ed25519"

	"tarn/crypto/onionid"
)

// LinkSize is a contact link's bytes (package replicate has what they mean).
const LinkSize = 77

// Introduce is a TypeIntroduce record: its sender asks the receiver to give a link of its own to another contact of the receiver's.
type Introduce struct {
	To   onionid.Name
	Link [LinkSize]byte
}

// Introduced is a TypeIntroduced record: a link that its sender was asked to pass on.
type Introduced struct {
	From onionid.Name // who is said to have made it
	Link [LinkSize]byte
}

// Record encodes it: the server's key of 32 bytes, the link's 77, nothing in front. ErrMalformed if ParseIntroduce would refuse it.
func (i Introduce) Record() (Record, error) {
	return introduction(TypeIntroduce, i.To, i.Link)
}

// Record encodes it as an Introduce. ErrMalformed if ParseIntroduced would refuse it.
func (i Introduced) Record() (Record, error) {
	return introduction(TypeIntroduced, i.From, i.Link)
}

// ParseIntroduce decodes a TypeIntroduce record. ErrMalformed.
func ParseIntroduce(data []byte) (Introduce, error) {
	name, link, err := parseIntroduction(data)
	return Introduce{name, link}, err
}

// ParseIntroduced decodes a TypeIntroduced record. ErrMalformed.
func ParseIntroduced(data []byte) (Introduced, error) {
	name, link, err := parseIntroduction(data)
	return Introduced{name, link}, err
}

func introduction(t Type, name onionid.Name, link [LinkSize]byte) (Record, error) {
	var w writer
	key, err := name.Key()
	if err != nil {
		w.fail(ErrMalformed, "server")
	}
	w.b = append(append(w.b, key...), link[:]...)
	return w.record(t, "an introduction")
}

func parseIntroduction(data []byte) (name onionid.Name, link [LinkSize]byte, err error) {
	r := &reader{b: data}
	key := r.take(ed25519.PublicKeySize, "server")
	copy(link[:], r.take(LinkSize, "link"))
	if r.err == nil {
		name = onionid.FromKey(key)
		if _, err := name.Key(); err != nil {
			r.fail(ErrMalformed, "server")
		}
	}
	if err := r.end("an introduction"); err != nil {
		return "", [LinkSize]byte{}, err
	}
	return name, link, nil
}
