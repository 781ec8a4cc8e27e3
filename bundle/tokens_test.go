// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"errors"
	"testing"

	"tarn/crypto/onionid"
	"tarn/crypto/token"
)

func tokensSample() Tokens {
	return Tokens{Store: onionid.Name("aoqqpp7tzyil4hlq3umoos6atft6jvrqtosq2xy53sdgiesvgg4bqead.onion"), Day: 20_000, Seed: [32]byte{1, 2},
		Outputs: bytes.Repeat([]byte{7}, token.Chunk*token.OutputSize)}
}

func TestTokensFitABox(t *testing.T) {
	rec, err := tokensSample().Record()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseTokens(rec.Data)
	want := tokensSample()
	if err != nil || got.Store != want.Store || got.Day != want.Day || got.Seed != want.Seed || !bytes.Equal(got.Outputs, want.Outputs) {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range rec.Data[100:] { // real ones do not compress
		rec.Data[100+i] = byte(i * i >> 3 * 7)
	}
	if !NewPacker(Head{}).Add(rec) {
		t.Error("a whole chunk does not fit an empty box")
	}
	for name, bad := range map[string]Tokens{
		"none":     {Store: want.Store},
		"half one": {Store: want.Store, Outputs: make([]byte, 63)},
		"too many": {Store: want.Store, Outputs: make([]byte, token.Chunk*token.OutputSize+64)},
		"no store": {Outputs: make([]byte, 64)},
	} {
		if _, err := bad.Record(); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseTokens(f *testing.F) {
	rec, err := tokensSample().Record()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec.Data)
	f.Add(rec.Data[:101])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseTokens(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Error(err)
			}
			return
		}
		if again, err := got.Record(); err != nil || !bytes.Equal(again.Data, b) {
			t.Errorf("not written back: %v", err)
		}
	})
}
