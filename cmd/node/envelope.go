// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// The envelope of a backup: envelopeMagic, salt 16, then chunks of 64 KiB (the last one shorter, maybe empty), each with its tag
// under XChaCha20-Poly1305. The key is argon2id(passphrase, salt) with the parameters below (RFC 9106's second choice); the nonce
// of a chunk is its number 8 ‖ 1 if it is the last, else 0 ‖ zeros. So no chunk can be changed, moved, or cut off.
const (
	envelopeMagic = "tarn node backup 1\n"
	envelopeSalt  = 16
	envelopeChunk = 64 << 10
	argonTime     = 3
	argonMemory   = 64 << 10 // KiB
	argonLanes    = 4
)

// errEnvelope: no backup, another passphrase, or a damaged file; they can not be told apart.
var errEnvelope = errors.New("this is not a backup of a node, or its passphrase is another one, or it is damaged")

func envelopeKey(passphrase string, salt []byte) (cipher.AEAD, error) {
	return chacha20poly1305.NewX(argon2.IDKey([]byte(passphrase), salt, argonTime, argonMemory, argonLanes, chacha20poly1305.KeySize))
}

func envelopeNonce(n uint64, last bool) []byte {
	nonce := binary.BigEndian.AppendUint64(make([]byte, 0, chacha20poly1305.NonceSizeX), n)
	if last {
		nonce = append(nonce, 1)
	}
	return nonce[:chacha20poly1305.NonceSizeX]
}

// sealWriter seals what is written to it. Close writes the last chunk; it does not close what is below.
type sealWriter struct {
	w    io.Writer
	aead cipher.AEAD
	n    uint64
	buf  []byte
}

func sealFile(w io.Writer, passphrase string) (*sealWriter, error) {
	salt := make([]byte, envelopeSalt)
	rand.Read(salt)
	aead, err := envelopeKey(passphrase, salt)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(append([]byte(envelopeMagic), salt...)); err != nil {
		return nil, err
	}
	return &sealWriter{w: w, aead: aead, buf: make([]byte, 0, envelopeChunk)}, nil
}

func (s *sealWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if len(s.buf) == envelopeChunk {
			if err := s.chunk(false); err != nil {
				return n, err
			}
		}
		k := min(len(p), envelopeChunk-len(s.buf))
		s.buf = append(s.buf, p[:k]...)
		p, n = p[k:], n+k
	}
	return n, nil
}

func (s *sealWriter) Close() error { return s.chunk(true) }

func (s *sealWriter) chunk(last bool) error {
	_, err := s.w.Write(s.aead.Seal(nil, envelopeNonce(s.n, last), s.buf, nil))
	s.n++
	s.buf = s.buf[:0]
	return err
}

// openReader gives back what was sealed, chunk by chunk: nothing that is not authentic. EOF only behind the last chunk.
type openReader struct {
	r     io.Reader
	aead  cipher.AEAD
	n     uint64
	plain []byte
	raw   []byte
	end   bool
}

func openFile(r io.Reader, passphrase string) (*openReader, error) {
	head := make([]byte, len(envelopeMagic)+envelopeSalt)
	if _, err := io.ReadFull(r, head); err != nil || !bytes.HasPrefix(head, []byte(envelopeMagic)) {
		return nil, errEnvelope
	}
	aead, err := envelopeKey(passphrase, head[len(envelopeMagic):])
	if err != nil {
		return nil, err
	}
	return &openReader{r: r, aead: aead, raw: make([]byte, envelopeChunk+aead.Overhead())}, nil
}

func (o *openReader) Read(p []byte) (int, error) {
	for len(o.plain) == 0 {
		if o.end {
			return 0, io.EOF
		}
		k, err := io.ReadFull(o.r, o.raw)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("reading the backup: %w", err)
		}
		// A whole chunk can be the last one too.
		plain, err := o.aead.Open(nil, envelopeNonce(o.n, false), o.raw[:k], nil)
		if err != nil || k < len(o.raw) {
			if plain, err = o.aead.Open(nil, envelopeNonce(o.n, true), o.raw[:k], nil); err != nil {
				return 0, errEnvelope
			}
			o.end = true
			if extra, _ := io.ReadFull(o.r, make([]byte, 1)); extra > 0 {
				return 0, errEnvelope
			}
		}
		o.n++
		o.plain = plain
	}
	n := copy(p, o.plain)
	o.plain = o.plain[n:]
	return n, nil
}
