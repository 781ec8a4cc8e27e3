// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// fuzzRecord: a decoder never panics, errs with our errors, and accepts one encoding only.
func fuzzRecord(f *testing.F, t Type) {
	for _, r := range samples(f) {
		f.Add(r.Data)
	}
	f.Add([]byte{})
	f.Add(append(binary.AppendUvarint(appendBytes([]byte(nil), "!r"), 1<<40), 1, 2, 3))
	f.Fuzz(func(tt *testing.T, b []byte) {
		c, err := parsers[t](b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				tt.Fatal(err)
			}
			return
		}
		r, err := c.Record()
		if err != nil || r.Type != t || !bytes.Equal(r.Data, b) {
			tt.Fatalf("read %#v, written otherwise: %v", c, err)
		}
	})
}

func FuzzParseEvents(f *testing.F)      { fuzzRecord(f, TypeEvents) }
func FuzzParseSnapshot(f *testing.F)    { fuzzRecord(f, TypeSnapshot) }
func FuzzParseWant(f *testing.F)        { fuzzRecord(f, TypeWant) }
func FuzzParseHeads(f *testing.F)       { fuzzRecord(f, TypeHeads) }
func FuzzParseReceipts(f *testing.F)    { fuzzRecord(f, TypeReceipts) }
func FuzzParseContact(f *testing.F)     { fuzzRecord(f, TypeContact) }
func FuzzParseWitness(f *testing.F)     { fuzzRecord(f, TypeWitness) }
func FuzzParseTestimony(f *testing.F)   { fuzzRecord(f, TypeTestimony) }
func FuzzParseDevices(f *testing.F)     { fuzzRecord(f, TypeDevices) }
func FuzzParseOneTimeKeys(f *testing.F) { fuzzRecord(f, TypeOneTimeKeys) }
func FuzzParseSigns(f *testing.F)       { fuzzRecord(f, TypeSigns) }
func FuzzParseSources(f *testing.F)     { fuzzRecord(f, TypeSources) }
func FuzzParseKeysWanted(f *testing.F)  { fuzzRecord(f, TypeKeysWanted) }
func FuzzParseMessage(f *testing.F)     { fuzzRecord(f, TypeMessage) }
func FuzzParseAsk(f *testing.F)         { fuzzRecord(f, TypeAsk) }
func FuzzParseAnswer(f *testing.F)      { fuzzRecord(f, TypeAnswer) }
func FuzzParseMediaWanted(f *testing.F) { fuzzRecord(f, TypeMediaWanted) }
func FuzzParseMedia(f *testing.F)       { fuzzRecord(f, TypeMedia) }
func FuzzParseMediaPart(f *testing.F)   { fuzzRecord(f, TypeMediaPart) }
func FuzzParseIntroduce(f *testing.F)   { fuzzRecord(f, TypeIntroduce) }
func FuzzParseIntroduced(f *testing.F)  { fuzzRecord(f, TypeIntroduced) }
