// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestEnvelopeGivesBackExactlyWhatWasSealed(t *testing.T) {
	for _, size := range []int{0, 1, envelopeChunk - 1, envelopeChunk, envelopeChunk + 1, 3 * envelopeChunk} {
		plain := bytes.Repeat([]byte("backup "), size/7+1)[:size]
		var b bytes.Buffer
		w, err := sealFile(&b, "right")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		open := func(b []byte, passphrase string) ([]byte, error) {
			r, err := openFile(bytes.NewReader(b), passphrase)
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		}
		whole := b.Bytes()
		if got, err := open(whole, "right"); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes: %d come back, %v", size, len(got), err)
		}
		flipped := bytes.Clone(whole)
		flipped[len(flipped)-3] ^= 1
		cut := whole[:len(whole)-1]
		if size > envelopeChunk {
			cut = whole[:len(envelopeMagic)+envelopeSalt+envelopeChunk+16] // at the end of a chunk
		}
		for what, c := range map[string][]byte{"flipped": flipped, "cut": cut, "longer": append(bytes.Clone(whole), 0), "empty": nil} {
			if _, err := open(c, "right"); !errors.Is(err, errEnvelope) {
				t.Errorf("%d bytes, %s: %v", size, what, err)
			}
		}
		if _, err := open(whole, "wrong"); !errors.Is(err, errEnvelope) {
			t.Errorf("%d bytes, another passphrase: %v", size, err)
		}
	}
}
