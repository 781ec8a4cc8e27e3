// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"testing"

	"tarn/crypto/token"
	"tarn/mailbox"
)

// FuzzParseLinkTokens: what is read of a link's box of tokens is written the same again, and is a chunk.
func FuzzParseLinkTokens(f *testing.F) {
	f.Add(linkChunk{day: 20000, seed: [32]byte{1}, outputs: make([]byte, 2*token.OutputSize)}.marshal())
	f.Add(linkChunk{day: 1, outputs: make([]byte, token.Chunk*token.OutputSize)}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseLinkTokens(b)
		if err != nil {
			return
		}
		if n := len(c.outputs) / token.OutputSize; n < 1 || n > token.Chunk || !bytes.Equal(c.marshal(), b) {
			t.Errorf("%d tokens of %x", n, b)
		}
	})
}

// FuzzParseWalletRows does the same with the wallet's rows.
func FuzzParseWalletRows(f *testing.F) {
	for kind, row := range [][]byte{
		chunkRow(&chunk{given: true}, [32]byte{1}, make([]byte, token.OutputSize)),
		(&account{secret: mailbox.AccountSecret{1}, nonce: 300, worked: true}).marshal(),
		(&tokenDraw{day: 20000, n: 240, secret: [32]byte{2}}).marshal(),
		(&linkPurse{store: mailbox.Address{Onion: testIdentity(9).Name}, held: []tokensHeld{{day: 1, serial: 2}}}).marshal(),
		leftRow([32]byte{3}, make([]byte, 2*token.OutputSize)),
	} {
		f.Add(byte(kind), row)
	}
	f.Fuzz(func(t *testing.T, kind byte, row []byte) {
		var again []byte
		var err error
		switch kind % 5 {
		case 0:
			var c chunk
			var seed [32]byte
			var outputs []byte
			if c, seed, outputs, err = parseChunk(row); err == nil {
				again = chunkRow(&c, seed, outputs)
			}
		case 1:
			var a *account
			if a, err = parseAccount(row); err == nil {
				again = a.marshal()
			}
		case 2:
			var d *tokenDraw
			if d, err = parseDraw(row); err == nil {
				again = d.marshal()
			}
		case 3:
			var l *linkPurse
			if l, err = parseLinkPurse(row); err == nil {
				again = l.marshal()
			}
		case 4:
			var there bool
			var seed [32]byte
			var outputs []byte
			if there, seed, outputs, err = parseLeft(row); err == nil {
				if there {
					outputs = nil
				}
				again = leftRow(seed, outputs)
			}
		}
		if err == nil && !bytes.Equal(again, row) {
			t.Errorf("kind %d: %x is read and written as %x", kind%5, row, again)
		}
	})
}
