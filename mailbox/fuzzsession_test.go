// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"io"
	"testing"
	"time"
)

// plainAEAD seals nothing, so that a fuzzer reaches what is within.
type plainAEAD struct{}

func (plainAEAD) NonceSize() int { return 12 }
func (plainAEAD) Overhead() int  { return TagSize }
func (plainAEAD) Seal(dst, _, plain, _ []byte) []byte {
	return append(append(dst, plain...), make([]byte, TagSize)...)
}
func (plainAEAD) Open(dst, _, box, _ []byte) ([]byte, error) {
	return append(dst, box[:len(box)-TagSize]...), nil
}

var _ cipher.AEAD = plainAEAD{}

func layouts() []Layout {
	a, _ := LayoutOf(Geometry)
	b, _ := LayoutOf(GeometryLayers)
	return []Layout{a, b}
}

func fill(b []byte, size int) []byte {
	return append(bytes.Clone(b[:min(len(b), size)]), make([]byte, max(size-len(b), 0))...)
}

func FuzzParseUpFrame(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add([]byte{0, 0, 1, 0, 3, 9: 1}, true)
	f.Add([]byte{0, 0, 1, 0, 4}, false)
	f.Add([]byte{255, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, b []byte, layers bool) {
		l := layouts()[0]
		if layers {
			l = layouts()[1]
		}
		p := fill(b, l.Up-TagSize)
		u, err := parseUpFrame(l, p)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if u.Lag > MaxDelay || u.Put.Delay > MaxDelay || u.Get.Delay > MaxDelay || len(u.Follow) > MaxFollow {
			t.Fatalf("%+v", u)
		}
		again, err := (&Channel{layout: l, aead: plainAEAD{}}).AppendUpFrame(nil, &u)
		if err != nil || len(again) != l.Up || !bytes.Equal(again[:len(p)], p) {
			t.Fatalf("what was read is not written back: %v", err)
		}
	})
}

func FuzzParseDownFrame(f *testing.F) {
	l := layouts()[0]
	f.Add([]byte{}, false, byte(0))
	f.Add([]byte{1, 0, 0, 0, 7}, true, byte(3))
	f.Add([]byte{2}, false, byte(4))
	f.Fuzz(func(t *testing.T, b []byte, layers bool, receipts byte) {
		l := l
		if layers {
			l = layouts()[1]
		}
		p := fill(b, l.Down-1-TagSize)
		p[l.atReceipts()] = receipts
		d, err := parseDownFrame(l, p)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again, err := (&Channel{layout: l, aead: plainAEAD{}}).AppendDownFrame(nil, &d)
		if err != nil || len(again) != l.Down || !bytes.Equal(again[1:1+len(p)], p) {
			t.Fatalf("what was read is not written back: %v", err)
		}
	})
}

func FuzzParsePageFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 33: 2, 34: 9, 35: 9})
	f.Add([]byte{2, 33: 255, 34: 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := fill(b, pagePlain)
		pages, err := parsePageFrame(p)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again, err := (&Channel{aead: plainAEAD{}}).AppendPageFrame(nil, pages)
		if err != nil || len(again) != PageFrameSize || !bytes.Equal(again[1:1+len(p)], p) {
			t.Fatalf("what was read is not written back: %v", err)
		}
	})
}

func FuzzParseHalf(f *testing.F) {
	s := newTestStore(f)
	for op := range byte(8) {
		f.Add([]byte{op, 1, 2, 3}, true)
		f.Add([]byte{op, 1, 2, 3}, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, put bool) {
		size := GetSize
		if put {
			size = PutSize
		}
		p := fill(b, size)
		r, err := parseHalf(p)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if testing.Short() && put { // sealing is most of the work
			return
		}
		box, _, err := SealHalf(put, r, s.request.Public(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if again, _, err := s.request.Open(nil, box); err != nil || !bytes.Equal(again, p) {
			t.Fatalf("what was read is not written back: %v", err)
		}
	})
}

func FuzzParseHello(f *testing.F) {
	s := newTestStore(f)
	f.Add([]byte{1})
	f.Add([]byte{1, 1, 2, 3, 100: 1, 101: 0})
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := fill(b, RequestSize)
		h, err := parseHello(p)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if h.Push < 0 || h.Push > MaxDelay {
			t.Fatalf("%+v", h)
		}
		var up [UpSize]byte
		if _, err := SealHello(&up, h, s.request.Public(), nil, 1); err != nil {
			t.Fatal(err)
		}
		if again, _, err := s.request.Open(nil, up[HeaderSize:]); err != nil || !bytes.Equal(again, p) {
			t.Fatalf("what was read is not written back: %v", err)
		}
	})
}

func FuzzReadLinkMessage(f *testing.F) {
	for kind := range LinkKind(14) {
		f.Add(bytes.Repeat([]byte{byte(kind)}, 40), true)
		f.Add(bytes.Repeat([]byte{byte(kind)}, 16_000), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, answers bool) {
		r := bytes.NewReader(b)
		m, err := ReadLinkMessage(r, answers)
		if err != nil {
			if !errors.Is(err, ErrLink) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if n := len(b) - r.Len(); n > MaxLinkMessage || !bytes.Equal(AppendLinkMessage(nil, m), b[:n]) {
			t.Fatalf("what was read is not written back: kind %d, %d bytes", m.Kind, n)
		}
	})
}

// A node takes nothing from a courier that it did not ask for, and every change breaks the session.
func TestChannelsTakeOnlyTheNextFrame(t *testing.T) {
	s := newTestStore(t)
	_, reply, err := s.request.Public().Seal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := layouts()[0]
	frames := func() (out [][]byte) {
		_, d := SessionChannels(l, reply, []byte("salt"))
		for i := range 3 {
			b, err := d.AppendPageFrame(nil, []PushedPage{{[32]byte{byte(i)}, []byte{1}}})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		return out
	}
	for name, order := range map[string][]int{"left out": {0, 2}, "twice": {0, 0}, "reordered": {1}} {
		_, d := SessionChannels(l, reply, []byte("salt"))
		var err error
		for _, i := range order {
			_, err = d.openDown(frames()[i])
		}
		if !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range PageFrameSize {
		_, d := SessionChannels(l, reply, []byte("salt"))
		b := frames()[0]
		b[i] ^= 1
		if _, err := d.openDown(b); !errors.Is(err, ErrFrame) {
			t.Fatalf("changed at %d: %v", i, err)
		}
	}
	up, _ := SessionChannels(l, reply, []byte("another salt"))
	if _, err := up.openDown(frames()[0]); !errors.Is(err, ErrFrame) {
		t.Errorf("with another salt: %v", err)
	}
	if _, err := up.AppendUpFrame(nil, &UpFrame{Lag: time.Second, Follow: make([][32]byte, MaxFollow+1)}); !errors.Is(err, ErrFrame) {
		t.Errorf("four stores: %v", err)
	}
}
