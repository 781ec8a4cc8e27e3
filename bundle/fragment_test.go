// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestEveryFragmentFitsAnEmptyBundleAndJoinsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		top := rapid.SampledFrom([]int{100, maxFragment + 2, 3 * maxFragment, 200_000}).Draw(t, "top")
		r := Record{Type: Type(rapid.IntRange(1, 255).Draw(t, "type")), Data: stuff(t, rapid.IntRange(0, top).Draw(t, "size"), "data")}
		id := [16]byte(stuff(t, 16, "id"))
		fs, err := Split(r, id)
		if err != nil {
			t.Fatal(err)
		}
		if want := max(1, (len(r.Data)+maxFragment-1)/maxFragment); len(fs) != want {
			t.Fatalf("%d fragments, not %d", len(fs), want)
		}
		var arrived []Fragment
		for _, f := range fs {
			p := NewPacker(Head{Ack: Ack{Next: 1 << 60}, Before: &Before{}})
			if !p.AddFragment(f) {
				t.Fatalf("fragment %d of %d does not fit", f.Index, f.Count)
			}
			_, out, err := Unpack(p.Pack())
			if err != nil {
				t.Fatal(err)
			}
			arrived = append(arrived, out...)
		}
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 1)).Shuffle(len(arrived), func(i, j int) { arrived[i], arrived[j] = arrived[j], arrived[i] })
		if len(arrived) > 1 { // incomplete, doubled
			at := rapid.IntRange(0, len(arrived)-1).Draw(t, "at")
			for what, bad := range map[string][]Fragment{
				"missing":          slices.Delete(slices.Clone(arrived), at, at+1),
				"doubled and more": append(slices.Clone(arrived), arrived[at]),
				"one for another":  append(slices.Delete(slices.Clone(arrived), at, at+1), arrived[(at+1)%len(arrived)]),
			} {
				if _, err := Join(bad); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s: %v", what, err)
				}
			}
		} else if f := arrived[0]; f.Count != 1 || f.Type != r.Type || !bytes.Equal(f.Data, r.Data) {
			t.Fatal("the one fragment is not the record")
		}
		got, err := Join(arrived)
		if err != nil || got.Type != r.Type || !bytes.Equal(got.Data, r.Data) {
			t.Fatalf("another record comes back: %v", err)
		}
	})
}

func TestALargestEventTakesNineBoxes(t *testing.T) {
	s := newSampler(1)
	r := s.record(t, s.bytes(65536)) // incompressible: no event can be worse
	fs, err := Split(r, [16]byte{1})
	if err != nil || len(fs) != 9 {
		t.Fatalf("%d fragments, %v", len(fs), err)
	}
	boxes, p := 1, NewPacker(Head{})
	for _, f := range fs {
		if !p.AddFragment(f) {
			boxes++
			if p = NewPacker(Head{}); !p.AddFragment(f) {
				t.Fatal("a fragment does not fit")
			}
		}
	}
	if boxes != 9 {
		t.Fatalf("%d boxes", boxes)
	}
}

func TestFragmentsOfCompressibleRecordsShareBoxes(t *testing.T) {
	s := newSampler(2)
	var e Events
	for range 100 {
		e.Raw = append(e.Raw, s.message())
	}
	e.Room, e.Version = "!r", "12"
	r, err := e.Record()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := Split(r, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	boxes, p := 1, NewPacker(Head{})
	for _, f := range fs {
		if !p.AddFragment(f) {
			boxes++
			p = NewPacker(Head{})
			p.AddFragment(f)
		}
	}
	t.Logf("%d bytes, %d fragments, %d boxes", len(r.Data), len(fs), boxes)
	if boxes > (len(fs)+1)/2 {
		t.Fatalf("%d fragments take %d boxes", len(fs), boxes)
	}
}

func TestSplitAndJoinRefuseWhatExceedsALimit(t *testing.T) {
	if _, err := Split(Record{Type: 1, Data: make([]byte, MaxRecord+1)}, [16]byte{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Split: %v", err)
	}
	if _, err := Split(Record{Data: make([]byte, 1)}, [16]byte{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("type 0: %v", err)
	}
	fs, err := Split(Record{Type: 1, Data: newSampler(1).bytes(MaxRecord)}, [16]byte{})
	if err != nil || len(fs) > MaxFragments {
		t.Fatalf("the largest record: %d fragments, %v", len(fs), err)
	}
	for _, f := range fs {
		if !NewPacker(Head{}).AddFragment(f) {
			t.Fatalf("fragment %d of the largest, incompressible record does not fit", f.Index)
		}
	}
	if r, err := Join(fs); err != nil || len(r.Data) != MaxRecord {
		t.Fatalf("the largest record: %v", err)
	}
	big := make([]byte, MaxInflated)
	var many []Fragment
	for i := range 65 {
		many = append(many, Fragment{Type: 1, Count: 65, Index: uint16(i), Data: big})
	}
	if _, err := Join(many); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Join of 65 × 64 KiB: %v", err)
	}
	for what, fs := range map[string][]Fragment{
		"none":        nil,
		"count 0":     {{Type: 1}},
		"type 0":      {{Count: 1}},
		"other type":  {{Type: 1, Count: 2, Data: big}, {Type: 2, Count: 2, Index: 1, Data: big}},
		"other id":    {{Type: 1, Count: 2, Data: big}, {Type: 1, ID: [16]byte{1}, Count: 2, Index: 1, Data: big}},
		"other count": {{Type: 1, Count: 2, Data: big}, {Type: 1, Count: 3, Index: 1, Data: big}},
	} {
		if _, err := Join(fs); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzJoin takes fragments apart from bytes (type, id, index 2, count 2, length 1, data) and joins them.
func FuzzJoin(f *testing.F) {
	seed := func(fs ...Fragment) {
		var b []byte
		for _, x := range fs {
			b = append(b, byte(x.Type), x.ID[0])
			b = binary.BigEndian.AppendUint16(b, x.Index)
			b = binary.BigEndian.AppendUint16(b, x.Count)
			b = append(append(b, byte(len(x.Data))), x.Data...)
		}
		f.Add(b)
	}
	seed(Fragment{Type: 1, Count: 1, Data: []byte("whole")})
	seed(Fragment{Type: 2, Index: 1, Count: 2, Data: []byte("b")}, Fragment{Type: 2, Count: 2, Data: []byte("a")})
	seed(Fragment{Type: 2, Index: 1, Count: 2, Data: []byte("b")}, Fragment{Type: 2, Index: 1, Count: 2, Data: []byte("a")})
	seed()
	f.Fuzz(func(t *testing.T, b []byte) {
		var fs []Fragment
		total := 0
		for len(b) >= 7 {
			x := Fragment{Type: Type(b[0]), ID: [16]byte{b[1]}, Index: binary.BigEndian.Uint16(b[2:]), Count: binary.BigEndian.Uint16(b[4:])}
			n := min(int(b[6]), len(b)-7)
			x.Data, b = b[7:7+n], b[7+n:]
			fs, total = append(fs, x), total+n
		}
		r, err := Join(fs)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
			return
		}
		if len(r.Data) != total || r.Type == 0 || int(fs[0].Count) != len(fs) {
			t.Fatalf("%d bytes of %d", len(r.Data), total)
		}
	})
}
