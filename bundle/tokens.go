// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/binary"

	"tarn/crypto/onionid"
	"tarn/crypto/token"
)

// Tokens is a TypeTokens record: a chunk of tokens for a mailbox of its sender, or the first of one.
type Tokens struct {
	Store   onionid.Name
	Day     uint32
	Seed    [32]byte
	Outputs []byte // 1 to token.Chunk, token.OutputSize bytes each
}

// Record encodes it: onion, day 4, seed 32, outputs. ErrTooLarge or ErrMalformed if ParseTokens would refuse it.
func (t Tokens) Record() (Record, error) {
	var w writer
	w.bytes([]byte(t.Store), 62, "store")
	w.b = binary.BigEndian.AppendUint32(w.b, t.Day)
	w.b = append(w.b, t.Seed[:]...)
	w.bytes(t.Outputs, token.Chunk*token.OutputSize, "tokens")
	if len(t.Outputs) == 0 || len(t.Outputs)%token.OutputSize != 0 {
		w.fail(ErrMalformed, "tokens")
	}
	if _, err := onionid.Parse(string(t.Store)); err != nil {
		w.fail(ErrMalformed, "store")
	}
	return w.record(TypeTokens, "tokens")
}

// ParseTokens decodes a TypeTokens record; Outputs is part of data. ErrMalformed, ErrTooLarge.
func ParseTokens(data []byte) (t Tokens, err error) {
	r := &reader{b: data}
	name, err := onionid.Parse(string(r.bytes(62, "store")))
	if err != nil {
		r.fail(ErrMalformed, "store")
	}
	day, seed := r.take(4, "day"), r.take(32, "seed")
	t.Outputs = r.bytes(token.Chunk*token.OutputSize, "tokens")
	if r.err == nil && (len(t.Outputs) == 0 || len(t.Outputs)%token.OutputSize != 0) {
		r.fail(ErrMalformed, "tokens")
	}
	if err := r.end("tokens"); err != nil {
		return Tokens{}, err
	}
	t.Store, t.Day, t.Seed = name, binary.BigEndian.Uint32(day), [32]byte(seed)
	return t, nil
}
