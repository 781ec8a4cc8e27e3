// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// stuff draws n bytes: zeros, text, random, or a mixture of all.
func stuff(t *rapid.T, n int, what string) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, what+" seed")))
	switch rapid.IntRange(0, 3).Draw(t, what+" kind") {
	case 1:
		copy(b, bytes.Repeat([]byte(`{"type":"m.room.message","sender":"@alice:example"}`), n/50+1))
	case 2:
		r.Read(b)
	case 3:
		for i := range b {
			if i%97 < 40 {
				b[i] = byte(r.Uint64())
			}
		}
	}
	return b
}

func drawFragment(t *rapid.T) Fragment {
	f := Fragment{Type: Type(rapid.IntRange(1, 255).Draw(t, "type")), Count: 1}
	top := rapid.SampledFrom([]int{60, 1300, 9000, MaxInflated + 5}).Draw(t, "top")
	f.Data = stuff(t, rapid.IntRange(0, top).Draw(t, "size"), "data")
	if len(f.Data) > 0 && rapid.Bool().Draw(t, "part") {
		f.Count = uint16(rapid.IntRange(2, MaxFragments).Draw(t, "count"))
		f.Index = uint16(rapid.IntRange(0, int(f.Count)-1).Draw(t, "index"))
		f.ID = [16]byte(stuff(t, 16, "id"))
	}
	return f
}

func drawAck(t *rapid.T) Ack {
	return Ack{Epoch: rapid.Uint32().Draw(t, "epoch"), Next: rapid.Uint64().Draw(t, "next"), Seen: [32]byte(stuff(t, 32, "seen"))}
}

func drawFloor(t *rapid.T) Floor {
	return Floor{rapid.Uint32().Draw(t, "floor epoch"), rapid.Uint64().Draw(t, "floor")}
}

func drawHead(t *rapid.T) Head {
	h := Head{Ack: drawAck(t), Floor: drawFloor(t)}
	if rapid.Bool().Draw(t, "before") {
		h.Before = &Before{drawAck(t), drawFloor(t), rapid.Uint64().Draw(t, "count")}
	}
	if rapid.Bool().Draw(t, "kem") {
		h.KEM = stuff(t, rapid.SampledFrom([]int{0, 1, 1221, MaxKEM}).Draw(t, "kem size"), "kem")
		if h.KEM == nil {
			h.KEM = []byte{}
		}
	}
	return h
}

// same tells whether both lists hold the same (nil and empty Data are the same).
func same(a, b []Fragment) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if !bytes.Equal(x.Data, y.Data) {
			return false
		}
		x.Data, y.Data = nil, nil
		if !reflect.DeepEqual(x, y) {
			return false
		}
	}
	return true
}

func TestWhatWasAddedComesBackInOrderFromExactlyOneBox(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		head := drawHead(t)
		p := NewPacker(head)
		var in []Fragment
		for range rapid.IntRange(0, 60).Draw(t, "pieces") {
			f := drawFragment(t)
			kept := bytes.Clone(f.Data)
			if p.AddFragment(f) {
				clear(f.Data) // the packer must have its own copy
				f.Data = kept
				in = append(in, f)
			}
		}
		b := p.Pack()
		if len(b) != Size {
			t.Fatalf("%d bytes", len(b))
		}
		sent := bytes.Clone(b)
		got, out, err := Unpack(b)
		clear(b) // what was unpacked must have its own memory
		if err != nil || !reflect.DeepEqual(got, head) || !same(in, out) {
			t.Fatalf("%v; %d pieces in, %d out", err, len(in), len(out))
		}
		if !bytes.Equal(p.Pack(), sent) {
			t.Fatal("a second Pack differs")
		}
	})
}

func TestARefusedPieceLeavesTheBundleAsItWas(t *testing.T) {
	s := newSampler(7)
	p, n, _ := fill(t, s, s.encrypted)
	for range 50 {
		p.Add(s.record(t, s.encrypted()))
	}
	if p.tries > maxTries {
		t.Fatalf("%d compressions", p.tries)
	}
	_, fs, err := Unpack(p.Pack())
	if err != nil || len(fs) < n {
		t.Fatalf("%d pieces, %v", len(fs), err)
	}
	if p.Add(Record{Type: TypeEvents, Data: make([]byte, MaxInflated)}) {
		t.Fatal("more than MaxInflated went in")
	}
	for what, f := range map[string]Fragment{
		"type 0":         {Count: 1},
		"count 0":        {Type: 1},
		"index":          {Type: 1, Count: 2, Index: 2, Data: []byte{1}},
		"too many parts": {Type: 1, Count: MaxFragments + 1, Data: []byte{1}},
		"empty part":     {Type: 1, Count: 2},
	} {
		if NewPacker(Head{}).AddFragment(f) {
			t.Errorf("%s went in", what)
		}
	}
}

func TestNoMorePiecesThanAReaderTakes(t *testing.T) {
	p, n := NewPacker(Head{}), 0
	for p.Add(Record{Type: 200}) {
		n++
	}
	if _, fs, err := Unpack(p.Pack()); err != nil || len(fs) != n || n != MaxPieces {
		t.Fatalf("%d in, %d out, %v", n, len(fs), err)
	}
	raw := bytes.Repeat([]byte{200, 0}, MaxPieces+1)
	if _, _, err := Unpack(build(raw, nil, 0)); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("one more: %v", err)
	}
}

func TestSmallRecordsFillTheRoomThatALargeOneLeft(t *testing.T) {
	s := newSampler(8)
	p, n, _ := fill(t, s, s.encrypted)
	small := Record{Type: TypeReceipts, Data: s.bytes(20)}
	more := 0
	for p.Add(small) {
		more++
	}
	if more == 0 {
		t.Fatal("not one receipt more")
	}
	if _, fs, err := Unpack(p.Pack()); err != nil || len(fs) != n+more {
		t.Fatalf("%v: %d pieces, not %d", err, len(fs), n+more)
	}
}

// build makes a bundle by hand: raw pieces, compressed bytes that say they inflate to ilen.
func build(raw, z []byte, ilen int) []byte {
	b := make([]byte, headSize, Size)
	b[0] = version
	binary.BigEndian.PutUint16(b[58:], uint16(len(z)))
	binary.BigEndian.PutUint32(b[60:], uint32(ilen))
	binary.BigEndian.PutUint16(b[64:], uint16(len(raw)))
	return append(append(b, z...), raw...)[:Size]
}

// frames makes zstd frames of run-length blocks: n blocks of 128 KiB of zeros each, from 4 bytes each.
func frames(n int, single bool, content uint64) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd}
	if single { // content size in 8 bytes
		b = binary.LittleEndian.AppendUint64(append(b, 0xe0), content)
	} else { // a window of 128 KiB, unknown content size
		b = append(b, 0, 7<<3)
	}
	for i := range n {
		h := uint32(128<<10)<<3 | 1<<1
		if i == n-1 {
			h |= 1
		}
		b = append(b, byte(h), byte(h>>8), byte(h>>16), 0)
	}
	return b
}

func TestBombsAreRefusedInBoundedMemory(t *testing.T) {
	zeros := func(n int) []byte {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(make([]byte, n), nil)
	}
	_, fs, err := Unpack(build(nil, deflate(appendPiece(nil, Fragment{Type: 9, Count: 1, Data: make([]byte, 60000)})), 60004))
	if err != nil || len(fs) != 1 || len(fs[0].Data) != 60000 {
		t.Fatalf("positive control: %v", err)
	}
	for what, c := range map[string]struct {
		b    []byte
		want error
	}{
		"says 4 GiB":                  {build(nil, []byte{1}, 1<<32-1), ErrTooLarge},
		"says one byte too much":      {build([]byte{9, 0}, []byte{1}, MaxInflated-1), ErrTooLarge},
		"256 MiB of run lengths":      {build(nil, frames(2000, false, 0), MaxInflated), ErrMalformed},
		"frame says 1 TiB":            {build(nil, frames(2000, true, 1<<40), MaxInflated), ErrMalformed},
		"frame says what we expect":   {build(nil, frames(2000, true, MaxInflated), MaxInflated), ErrMalformed},
		"16 MiB by a real encoder":    {build(nil, zeros(16<<20), MaxInflated), ErrMalformed},
		"inflates to less":            {build(nil, zeros(1000), 1001), ErrMalformed},
		"inflates to more":            {build(nil, zeros(1000), 999), ErrMalformed},
		"two frames, one too many":    {build(nil, append(zeros(60000), zeros(60000)...), 60000), ErrMalformed},
		"rubbish after the frame":     {build(nil, append(zeros(1000), 1, 2, 3), 1000), ErrMalformed},
		"no frame":                    {build(nil, []byte("not zstd at all"), 100), ErrMalformed},
		"compressed from nothing":     {build(nil, nil, 100), ErrMalformed},
		"compressed to nothing":       {build(nil, []byte{1}, 0), ErrMalformed},
		"inflates to 65,536 zeros":    {build(nil, zeros(MaxInflated), MaxInflated), ErrMalformed}, // pieces of type 0
		"as many descriptors as fit":  {build(nil, deflate(bytes.Repeat([]byte{1, 0}, MaxInflated/2)), MaxInflated), ErrTooLarge},
		"a piece that says too much":  {build([]byte{1, 0xff, 0xff, 0xff, 0x7f}, nil, 0), ErrTooLarge},
		"a piece that is not there":   {build([]byte{1, 20, 1}, nil, 0), ErrMalformed},
		"a length in a long form":     {build([]byte{1, 0x82, 0, 7}, nil, 0), ErrMalformed},
		"a length that never ends":    {build([]byte{1, 0x80}, nil, 0), ErrMalformed},
		"a length of eleven bytes":    {build(append([]byte{1}, bytes.Repeat([]byte{0x80}, 12)...), nil, 0), ErrMalformed},
		"a fragment without an id":    {build([]byte{1, 3, 1}, nil, 0), ErrMalformed},
		"a fragment one of one":       {build(append(append([]byte{1, 3}, make([]byte, 16)...), 0, 1, 5), nil, 0), ErrMalformed},
		"a fragment beyond its count": {build(append(append([]byte{1, 3}, make([]byte, 16)...), 2, 2, 5), nil, 0), ErrMalformed},
		"a fragment of 4097":          {build(append(append([]byte{1, 3}, make([]byte, 16)...), 2, 0x81, 0x20, 5), nil, 0), ErrTooLarge},
		"an empty fragment":           {build(append(append([]byte{1, 1}, make([]byte, 16)...), 0, 2), nil, 0), ErrMalformed},
	} {
		for range 2 { // the second time with a warm pool
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, fs, err = Unpack(c.b)
			runtime.ReadMemStats(&after)
			if fs != nil || !errors.Is(err, c.want) {
				t.Errorf("%s: %d pieces, %v", what, len(fs), err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
				t.Errorf("%s: it took %d bytes", what, took)
			}
		}
	}
}

func TestEveryByteOfPaddingAndHeadCounts(t *testing.T) {
	p := NewPacker(Head{Ack: Ack{Epoch: 1, Next: 2}, Floor: Floor{1, 3}})
	p.Add(Record{Type: TypeWant, Data: []byte("abc")})
	b := p.Pack()
	end := headSize + 5
	for _, i := range []int{end, end + 1, 4000, Size - 2, Size - 1} {
		c := bytes.Clone(b)
		c[i] = 1
		if _, _, err := Unpack(c); !errors.Is(err, ErrMalformed) {
			t.Errorf("padding byte %d: %v", i, err)
		}
	}
	for what, change := range map[string]func([]byte) []byte{
		"version 0":    func(c []byte) []byte { c[0] = 0; return c },
		"version 2":    func(c []byte) []byte { c[0] = 2; return c },
		"unknown flag": func(c []byte) []byte { c[1] = 4; return c },
		"short":        func(c []byte) []byte { return c[:Size-1] },
		"long":         func(c []byte) []byte { return append(c, 0) },
		"empty":        func([]byte) []byte { return nil },
		"pieces cut":   func(c []byte) []byte { binary.BigEndian.PutUint16(c[64:], Size); return c },
		"zlen cut":     func(c []byte) []byte { binary.BigEndian.PutUint16(c[58:], 0xffff); return c },
	} {
		if _, fs, err := Unpack(change(bytes.Clone(b))); !errors.Is(err, ErrMalformed) || fs != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestABlockThatIsCutOffOrTooLargeIsRefused(t *testing.T) {
	p := NewPacker(Head{Ack: Ack{Epoch: 1, Next: 2}, Before: &Before{Count: 5}, KEM: bytes.Repeat([]byte{7}, 1216)})
	p.Add(Record{Type: TypeWant, Data: []byte("abc")})
	b := p.Pack()
	h, fs, err := Unpack(b)
	if err != nil || h.Ack.Next != 2 || h.Before.Count != 5 || len(h.KEM) != 1216 || len(fs) != 1 || string(fs[0].Data) != "abc" {
		t.Fatalf("%+v %v", fs, err)
	}
	binary.BigEndian.PutUint16(b[headSize+beforeSize:], MaxKEM+1)
	if _, _, err := Unpack(b); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	binary.BigEndian.PutUint16(b[headSize+beforeSize:], MaxKEM)
	if _, _, err := Unpack(b); !errors.Is(err, ErrMalformed) {
		t.Errorf("with a part of the pieces in it: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a block that nobody would read was written")
		}
	}()
	NewPacker(Head{KEM: make([]byte, MaxKEM+1)})
}

func TestAckNamesWhatTheReceiverSaw(t *testing.T) {
	a := Ack{Next: 10}
	a.Seen[0], a.Seen[31] = 0b100, 0x80
	for index, want := range map[uint64]bool{0: true, 9: true, 10: false, 11: false, 12: true, 13: false, 264: false, 265: true, 266: false, 1 << 63: false} {
		if a.Has(index) != want {
			t.Errorf("Has(%d) = %v", index, !want)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	s := newSampler(9)
	p, _, _ := fill(f, s, s.message)
	f.Add(p.Pack())
	p = NewPacker(Head{Ack: Ack{Epoch: 3, Next: 9}, Floor: Floor{3, 2}, Before: &Before{Count: 7}, KEM: []byte("kem")})
	f.Add(p.Pack())
	fs, err := Split(Record{Type: TypeSnapshot, Data: s.bytes(20000)}, [16]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	p.AddFragment(fs[2])
	p.Add(Record{Type: 250, Data: []byte("newer")})
	f.Add(p.Pack())
	f.Add(build(nil, frames(2000, false, 0), MaxInflated))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b); n < Size { // so that mutations of any length get past the first check
			b = append(bytes.Clone(b), make([]byte, Size-n)...)
		}
		a, fs, err := Unpack(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		// What was read can be written again, unless it was packed tighter than we do.
		p, total := NewPacker(a), 0
		for _, f := range fs {
			total += len(f.Data)
			if !p.AddFragment(f) {
				return
			}
		}
		if total > MaxInflated {
			t.Fatalf("%d bytes", total)
		}
		a2, fs2, err := Unpack(p.Pack())
		if err != nil || !reflect.DeepEqual(a2, a) || !same(fs, fs2) {
			t.Fatalf("other pieces come back: %v", err)
		}
	})
}
