// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
)

// testStore is the secrets of a store, always the same ones.
type testStore struct {
	onion, signing ed25519.PrivateKey
	request        *sealed.PrivateKey
	addr           Address
}

func newTestStore(t testing.TB) testStore {
	t.Helper()
	s := testStore{
		onion:   ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)),
		signing: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)),
	}
	var err error
	if s.request, err = sealed.ParsePrivateKey(bytes.Repeat([]byte{3}, 32)); err != nil {
		t.Fatal(err)
	}
	s.addr = Address{onionid.FromKey(s.onion.Public().(ed25519.PublicKey))}
	return s
}

func (s testStore) descriptor(epochs ...uint32) Descriptor {
	d := Descriptor{Roles: RoleStore, Bucket: 10 * time.Second, TTL: 336 * time.Hour, Signing: s.signing.Public().(ed25519.PublicKey)}
	for _, e := range epochs {
		d.Keys = append(d.Keys, RequestKey{e, s.request.Public().Bytes()})
	}
	return d
}

func (s testStore) onionPublic() ed25519.PublicKey { return s.onion.Public().(ed25519.PublicKey) }

func TestAddress(t *testing.T) {
	a := newTestStore(t).addr
	line := a.String()
	if len(line) != len(addressPrefix)+56 {
		t.Errorf("%q has %d bytes", line, len(line))
	}
	for _, s := range []string{line, " " + line + "\n", "\t" + line} {
		if got, err := ParseAddress(s); err != nil || got != a {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", line[1:], line + "x", line[:len(line)-1], strings.ToUpper(line), line + ".onion",
		strings.Replace(line, ":1:", ":2:", 1), addressPrefix + strings.Repeat("a", 56), strings.Repeat(" ", 1000) + line,
		addressPrefix + strings.Repeat("a", 1<<20)} {
		if _, err := ParseAddress(s); !errors.Is(err, ErrAddress) {
			t.Errorf("%.80q: %v", s, err)
		}
	}
}

func TestDescriptorOnlyOfThatOnionAndUnchanged(t *testing.T) {
	s := newTestStore(t)
	b, err := SignDescriptor(s.onion, s.descriptor(20000, 20001))
	if err != nil {
		t.Fatal(err)
	}
	padded := append(bytes.Clone(b), make([]byte, DownSize-1-len(b))...)
	d, err := ParseDescriptor(s.addr, padded)
	if err != nil {
		t.Fatal(err)
	}
	if d.Onion != s.addr.Onion || d.Geometry != Geometry || d.Bucket != 10*time.Second || d.TTL != 336*time.Hour || len(d.Keys) != 2 ||
		d.Keys[1].Epoch != 20001 || !bytes.Equal(d.Keys[0].Public, s.request.Public().Bytes()) {
		t.Errorf("%+v", d)
	}
	rapid.Check(t, func(t *rapid.T) {
		i := rapid.IntRange(0, len(padded)-1).Draw(t, "byte")
		bit := byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
		padded[i] ^= bit
		defer func() { padded[i] ^= bit }()
		if _, err := ParseDescriptor(s.addr, padded); !errors.Is(err, ErrDescriptor) {
			t.Errorf("changed at %d: %v", i, err)
		}
	})
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	theirs := Address{onionid.FromKey(other.Public().(ed25519.PublicKey))}
	if _, err := ParseDescriptor(theirs, padded); !errors.Is(err, ErrDescriptor) {
		t.Errorf("as another onion's: %v", err)
	}
	for n := range len(b) {
		if _, err := ParseDescriptor(s.addr, b[:n]); !errors.Is(err, ErrDescriptor) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
}

func TestDescriptorSaysNothingImpossible(t *testing.T) {
	s := newTestStore(t)
	for name, spoil := range map[string]func(*Descriptor){
		"no keys":            func(d *Descriptor) { d.Keys = nil },
		"four keys":          func(d *Descriptor) { d.Keys = s.descriptor(1, 2, 3, 4).Keys },
		"keys out of order":  func(d *Descriptor) { d.Keys = s.descriptor(2, 1).Keys },
		"one day twice":      func(d *Descriptor) { d.Keys = s.descriptor(2, 2).Keys },
		"a key that is none": func(d *Descriptor) { d.Keys[0].Public = bytes.Repeat([]byte{255}, sealed.PublicKeySize) },
		"short signing key":  func(d *Descriptor) { d.Signing = d.Signing[:31] },
		"no bucket":          func(d *Descriptor) { d.Bucket = 0 },
		"fraction":           func(d *Descriptor) { d.Bucket = time.Second + 1 },
		"long bucket":        func(d *Descriptor) { d.Bucket = 2 * MaxBucket },
		"short ttl":          func(d *Descriptor) { d.TTL = d.Bucket / 2 },
		"negative ttl":       func(d *Descriptor) { d.TTL = -time.Hour },
		"long ttl":           func(d *Descriptor) { d.TTL = 2 * MaxTTL },
	} {
		d := s.descriptor(1)
		spoil(&d)
		if _, err := SignDescriptor(s.onion, d); !errors.Is(err, ErrDescriptor) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyOfTheDayToleratesTwoHours(t *testing.T) {
	s := newTestStore(t)
	day := func(n int64, h float64) time.Time { return time.Unix(n*86400+int64(h*3600), 0) }
	d := s.descriptor(100, 101)
	for _, c := range []struct {
		at   time.Time
		want uint32
	}{
		{day(99, 21.9), 0}, {day(99, 22.1), 100}, {day(100, 0), 100}, {day(100, 23.9), 100}, {day(101, 0), 101},
		{day(101, 1), 101}, {day(101, 23), 101}, {day(102, 1.9), 101}, {day(102, 2.1), 0},
	} {
		k, ok := d.keyAt(c.at)
		if ok != (c.want != 0) || k.Epoch != c.want {
			t.Errorf("%v: key of %d, %v; want %d", c.at.UTC(), k.Epoch, ok, c.want)
		}
	}
}

func testPage(n int) Page {
	p := Page{PageAddr: PageAddr{Level: 1, Index: 77, Part: 0}, Parts: 1}
	for i := range n {
		p.Handles = append(p.Handles, Handle{0, 0, 0, 0, 0, byte(i >> 8), byte(i), 9})
	}
	return p
}

func TestPageOnlyOfThatStoreAndUnchanged(t *testing.T) {
	s := newTestStore(t)
	d := s.descriptor(1)
	d.Onion = s.addr.Onion
	for _, n := range []int{0, 1, 2, PageHandles} {
		p := testPage(n)
		b := SignPage(s.signing, s.onionPublic(), d.Bucket, p)
		padded := append(bytes.Clone(b), make([]byte, BodySize-len(b))...)
		got, err := ParsePage(d, p.PageAddr, padded)
		if err != nil || len(got.Handles) != n || got.Parts != 1 || got.PageAddr != p.PageAddr {
			t.Fatalf("%d handles: %v", n, err)
		}
		rapid.Check(t, func(t *rapid.T) {
			i := rapid.IntRange(0, len(padded)-1).Draw(t, "byte")
			padded[i] ^= 1
			defer func() { padded[i] ^= 1 }()
			if _, err := ParsePage(d, p.PageAddr, padded); !errors.Is(err, ErrPage) {
				t.Errorf("changed at %d: %v", i, err)
			}
		})
		other := d
		other.Bucket *= 2
		if _, err := ParsePage(other, p.PageAddr, padded); !errors.Is(err, ErrPage) {
			t.Errorf("with other buckets: %v", err)
		}
	}
}

func TestPageOfAStoreThatLiesInForm(t *testing.T) {
	s := newTestStore(t)
	d := s.descriptor(1)
	d.Onion = s.addr.Onion
	for name, spoil := range map[string]func(*Page){
		"out of order": func(p *Page) { p.Handles[0], p.Handles[1] = p.Handles[1], p.Handles[0] },
		"doubled":      func(p *Page) { p.Handles[1] = p.Handles[0] },
		"no parts":     func(p *Page) { p.Parts = 0 },
		"not full":     func(p *Page) { p.Parts = 2 },
		"too many":     func(p *Page) { *p = testPage(PageHandles + 1) },
	} {
		p := testPage(3)
		spoil(&p)
		b := SignPage(s.signing, s.onionPublic(), d.Bucket, p)
		if _, err := ParsePage(d, p.PageAddr, b); !errors.Is(err, ErrPage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParsePage(d, PageAddr{Level: 1, Index: 78}, SignPage(s.signing, s.onionPublic(), d.Bucket, testPage(1))); !errors.Is(err, ErrPage) {
		t.Errorf("another page: %v", err)
	}
}

func TestPageAddressesCoverTimeWithoutGaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bucket := time.Duration(rapid.Int64Range(50, 3600_000).Draw(t, "bucket")) * time.Millisecond
		at := time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "time"))
		for level := range uint8(Levels) {
			p := PageAt(level, at, bucket)
			from, to := p.Times(bucket)
			if at.Before(from) || !at.Before(to) || to.Sub(from) != bucket*time.Duration(LevelSpan(level)) {
				t.Errorf("level %d: %v is not in %v..%v", level, at, from, to)
			}
			if PageAt(level, to, bucket).Index != p.Index+1 {
				t.Errorf("level %d: a gap after %v", level, to)
			}
			fb, tb, ok := p.Buckets()
			if b := BucketAt(at, bucket); !ok || b < fb || b >= tb {
				t.Errorf("level %d: bucket %d not in %d..%d", level, b, fb, tb)
			}
		}
	})
	for _, p := range []PageAddr{{Level: Levels}, {Level: 255}, {Index: 1<<64 - 1}, {Level: 2, Index: 1 << 62}} {
		if _, _, ok := p.Buckets(); ok {
			t.Errorf("%+v has buckets", p)
		}
		p.Times(time.Hour) // saturates, does not panic
	}
}

func TestRequestsRoundTripInOneSize(t *testing.T) {
	s := newTestStore(t)
	info := RequestInfo(s.onionPublic(), 7)
	box := bytes.Repeat([]byte{5}, BoxSize)
	for _, want := range []Request{
		{Op: OpNothing},
		{Op: OpPut, ID: BoxID{1, 2, 15: 3}, Box: box, Token: [TokenSize]byte{95: 1}},
		{Op: OpGet, Get: Handle{9, 7: 8}},
		{Op: OpDigest, Page: PageAddr{2, 1 << 60, 65535}},
	} {
		var up [UpSize]byte
		reply, err := SealRequest(&up, want, s.request.Public(), info, 7)
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(&up)
		if err != nil || h != (Header{KindSealed, 7}) {
			t.Fatalf("header %+v, %v", h, err)
		}
		got, there, err := OpenRequest(&up, s.request, info)
		if err != nil || got.Op != want.Op || got.ID != want.ID || !bytes.Equal(got.Box, want.Box) || got.Token != want.Token || got.Get != want.Get || got.Page != want.Page {
			t.Fatalf("%+v, %v", got, err)
		}
		var down [DownSize]byte
		SealAnswer(&down, there, StatusGone, []byte("body"))
		st, body, err := OpenAnswer(&down, reply)
		if err != nil || st != StatusGone || len(body) != BodySize || !bytes.HasPrefix(body, []byte("body\x00")) {
			t.Fatalf("answer %v, %v", st, err)
		}
		down[len(down)-1] ^= 1
		if _, _, err := OpenAnswer(&down, reply); !errors.Is(err, ErrBadReply) {
			t.Errorf("changed answer: %v", err)
		}
		if _, _, err := OpenRequest(&up, s.request, RequestInfo(s.onionPublic(), 8)); !errors.Is(err, sealed.ErrOpen) {
			t.Errorf("as another day's: %v", err)
		}
	}
	if _, err := SealRequest(new([UpSize]byte), Request{Op: OpPut, Box: box[1:]}, s.request.Public(), info, 7); !errors.Is(err, ErrRequest) {
		t.Errorf("a short box: %v", err)
	}
	if _, err := SealRequest(new([UpSize]byte), Request{Op: 99}, s.request.Public(), info, 7); !errors.Is(err, ErrRequest) {
		t.Errorf("an unknown op: %v", err)
	}
}

func TestRequestWithAnythingInUnusedBytesIsRefused(t *testing.T) {
	used := map[Op]int{OpNothing: 1, OpPut: atPad, OpGet: atID + HandleSize, OpDigest: atID + 11}
	for op, n := range used {
		p := make([]byte, RequestSize)
		p[0] = byte(op)
		if _, err := parseRequest(p); err != nil {
			t.Errorf("op %d: %v", op, err)
		}
		for _, i := range []int{n, n + 1, RequestSize - 1} {
			p[i] = 1
			if _, err := parseRequest(p); !errors.Is(err, ErrRequest) {
				t.Errorf("op %d, byte %d: %v", op, i, err)
			}
			p[i] = 0
		}
		if p[atToken] = 1; op != OpPut {
			if _, err := parseRequest(p); !errors.Is(err, ErrRequest) {
				t.Errorf("op %d with a token: %v", op, err)
			}
		}
	}
}

func TestDescriptorRequestHasAHeaderAndIsRandom(t *testing.T) {
	var a, b [UpSize]byte
	DescriptorRequest(&a)
	DescriptorRequest(&b)
	if h, err := ParseHeader(&a); err != nil || h.Kind != KindDescriptor {
		t.Errorf("%+v, %v", h, err)
	}
	if a == b {
		t.Error("the filler is not random")
	}
	for i, v := range map[int]byte{0: 2, 1: 9, 2: 1, 3: 1, 7: 1} {
		c := a
		c[i] = v
		if _, err := ParseHeader(&c); !errors.Is(err, ErrRequest) {
			t.Errorf("byte %d = %d: %v", i, v, err)
		}
	}
}
