// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
)

func FuzzParseAddress(f *testing.F) {
	f.Add(newTestStore(f).addr.String())
	f.Add("tarn-mailbox:1:")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if !errors.Is(err, ErrAddress) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if b, err := ParseAddress(a.String()); err != nil || b != a {
			t.Fatalf("%q does not read back", a.String())
		}
	})
}

// The signature would stop the fuzzer at the door, so it is made anew for what the fuzzer invents.
func FuzzParseDescriptor(f *testing.F) {
	s := newTestStore(f)
	tokens := s.descriptor(1, 2)
	tokens.Deposits = tokenPolicy(f, 1, 2)
	for _, d := range []Descriptor{s.descriptor(1), s.descriptor(1, 2, 3), tokens} {
		b, err := SignDescriptor(s.onion, d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-signatureSize], true)
		f.Add(b, false)
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign {
			b = append(bytes.Clone(b), ed25519.Sign(s.onion, append([]byte(descriptorLabel), b...))...)
		}
		d, err := ParseDescriptor(s.addr, b)
		if err != nil {
			if !errors.Is(err, ErrDescriptor) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again, err := SignDescriptor(s.onion, d)
		if err != nil || !bytes.HasPrefix(b, again) {
			t.Fatalf("what was read is not written back: %v", err)
		}
	})
}

func FuzzParsePage(f *testing.F) {
	s := newTestStore(f)
	d := s.descriptor(1)
	d.Onion = s.addr.Onion
	for _, n := range []int{0, 1, 5} {
		b := SignPage(s.signing, s.onionPublic(), d.Bucket, testPage(n))
		f.Add(b[:len(b)-signatureSize], true)
		f.Add(b, false)
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign {
			b = append(bytes.Clone(b), ed25519.Sign(s.signing, pageMessage(s.onionPublic(), d.Bucket, b))...)
		}
		p, err := ParsePage(d, testPage(0).PageAddr, b)
		if err != nil {
			if !errors.Is(err, ErrPage) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if again := SignPage(s.signing, s.onionPublic(), d.Bucket, p); !bytes.HasPrefix(b, again) {
			t.Fatal("what was read is not written back")
		}
	})
}

// FuzzRequest is the plaintext of a sealed request, and its header.
func FuzzRequest(f *testing.F) {
	s := newTestStore(f)
	info := RequestInfo(s.onionPublic(), 1)
	for _, op := range []Op{OpNothing, OpPut, OpGet, OpDigest, OpRegister, OpIssue} {
		var up [UpSize]byte
		if _, err := SealRequest(&up, Request{Op: op, Box: make([]byte, BoxSize)}, s.request.Public(), info, 1); err != nil {
			f.Fatal(err)
		}
		plain, _, err := s.request.Open(info, up[HeaderSize:])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(up[:HeaderSize], plain)
	}
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, header, plain []byte) {
		var up [UpSize]byte
		copy(up[:], header)
		if h, err := ParseHeader(&up); err == nil {
			var again [UpSize]byte
			putHeader(&again, h)
			if !bytes.Equal(up[:HeaderSize], again[:HeaderSize]) {
				t.Fatal("a header is not written back")
			}
		} else if !errors.Is(err, ErrRequest) {
			t.Fatalf("error of another kind: %v", err)
		}
		r, err := parseRequest(plain)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if r.Op == OpPut && len(r.Box) != BoxSize {
			t.Fatal("a put without a box")
		}
	})
}

// FuzzOpenAnswer is what a client does with an answer of any content.
func FuzzOpenAnswer(f *testing.F) {
	s := newTestStore(f)
	var up [UpSize]byte
	info := RequestInfo(s.onionPublic(), 1)
	reply, err := SealRequest(&up, Request{Op: OpGet}, s.request.Public(), info, 1)
	if err != nil {
		f.Fatal(err)
	}
	_, there, err := OpenRequest(&up, s.request, info)
	if err != nil {
		f.Fatal(err)
	}
	var down [DownSize]byte
	SealAnswer(&down, there, StatusOK, nil)
	f.Add(down[:])
	for c := range 6 {
		f.Add([]byte{byte(c)})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d [DownSize]byte
		copy(d[:], b)
		_, body, err := OpenAnswer(&d, reply)
		if err == nil && len(body) != BodySize {
			t.Fatal("a body of another size")
		}
	})
}
