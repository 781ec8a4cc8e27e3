// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"cmp"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

type testID string

func TestKeyAcceptsNamedKinds(t *testing.T) {
	if a, b := Key(1, testID("x"), Pos(7)), Key(1, []byte("x"), uint64(7)); !bytes.Equal(a, b) {
		t.Fatalf("%x != %x", a, b)
	}
}

func TestKeyPanicsOnUnknownKind(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("an int was accepted: its width and order are not defined")
		}
	}()
	Key(1, 7)
}

type tuple struct {
	a string
	n uint64
	k byte
	b string
}

func genTuple(t *rapid.T) tuple {
	s := rapid.StringOfN(rapid.RuneFrom([]rune("\x00\x01\u00ffab")), 0, 6, -1)
	raw := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 'a', 0xfe, 0xff}), 0, 5), func(b []byte) string { return string(b) })
	str := rapid.OneOf(s, raw)
	return tuple{str.Draw(t, "a"), rapid.Uint64().Draw(t, "n"), rapid.Byte().Draw(t, "k"), str.Draw(t, "b")}
}

func (x tuple) key() []byte { return Key(3, x.a, x.n, x.k, x.b) }

func compareTuples(x, y tuple) int {
	return cmp.Or(strings.Compare(x.a, y.a), cmp.Compare(x.n, y.n), cmp.Compare(x.k, y.k), strings.Compare(x.b, y.b))
}

func TestKeySortsLikeItsParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, y := genTuple(t), genTuple(t)
		if rapid.Bool().Draw(t, "same a") {
			y.a = x.a
		}
		if got, want := bytes.Compare(x.key(), y.key()), compareTuples(x, y); got != want {
			t.Fatalf("%+v vs %+v: keys compare %d, tuples %d", x, y, got, want)
		}
	})
}

func TestKeyReadsBackItsParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := genTuple(t)
		r := ReadKey(x.key())
		y := tuple{r.String(), r.Uint64(), r.Byte(), r.String()}
		if r.Err() != nil || x != y {
			t.Fatalf("%+v became %+v, %v", x, y, r.Err())
		}
	})
}

func TestKeyPrefixHoldsExactlyItsTuples(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, y := genTuple(t), genTuple(t)
		if got := bytes.HasPrefix(y.key(), Key(3, x.a)); got != (x.a == y.a) {
			t.Fatalf("Key(%q) is a prefix of the key of %+v: %v", x.a, y, got)
		}
	})
}

// FuzzReadKey: any bytes either are refused or are the one key of what was read from them.
func FuzzReadKey(f *testing.F) {
	f.Add(Key(1, "room", uint64(5), byte(2)))
	f.Add(Key(1, "a\x00b", uint64(0), byte(0)))
	f.Add([]byte{1, 0, 2})
	f.Add([]byte{1, 0})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, key []byte) {
		r := ReadKey(key)
		s, n, b := r.String(), r.Uint64(), r.Byte()
		if err := r.Err(); err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatal(err)
			}
			return
		}
		if again := Key(key[0], s, n, b); !bytes.Equal(again, key) {
			t.Fatalf("%x read as %q,%d,%d which is %x", key, s, n, b, again)
		}
	})
}

func BenchmarkKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Key(TableRoom, "!abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqr", uint64(123456))
	}
}
