// SPDX-License-Identifier: Apache-2.0

package layered_test

import (
	"bytes"
	"crypto/hpke"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/crypto/layered"
	"tarn/crypto/sealed"
)

var update = flag.Bool("update", false, "write new test vectors (sealing is random: they differ each time, and all must open)")

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// carrier is one that a message goes through.
type carrier struct {
	key  *sealed.PrivateKey
	name [layered.AddressSize]byte
	info []byte
}

func newCarrier(t testing.TB, seed byte) carrier {
	k := must[*sealed.PrivateKey](t)(sealed.ParsePrivateKey(bytes.Repeat([]byte{seed}, sealed.PrivateKeySize)))
	c := carrier{key: k, info: []byte{'h', 'o', 'p', seed}}
	c.name[0] = seed
	return c
}

// chain is the hops through cs, the last of which hands on to last.
func chain(cs []carrier, last [layered.AddressSize]byte, delays []time.Duration) []layered.Hop {
	hs := make([]layered.Hop, len(cs))
	for i, c := range cs {
		hs[i] = layered.Hop{Key: c.key.Public(), Info: c.info, Header: layered.Header{Next: last, Delay: delays[i], Back: delays[len(delays)-1-i], Epoch: uint32(100 + i)}}
		if i+1 < len(cs) {
			hs[i].Next = cs[i+1].name
		}
	}
	return hs
}

func TestEachCarrierReadsItsPartAlone(t *testing.T) {
	var all []carrier
	for i := range layered.MaxHops {
		all = append(all, newCarrier(t, byte(i+1)))
	}
	last := [layered.AddressSize]byte{0xff}
	rapid.Check(t, func(t *rapid.T) {
		cs := all[:rapid.IntRange(1, 4).Draw(t, "hops")]
		inner := rapid.SliceOfN(rapid.Byte(), 0, 500).Draw(t, "inner")
		delays := make([]time.Duration, len(cs))
		for i := range delays {
			delays[i] = time.Duration(rapid.Uint32().Draw(t, "ms")) * time.Millisecond
		}
		hops := chain(cs, last, delays)
		msg, replies, err := layered.Wrap(hops, inner)
		if err != nil || len(replies) != len(cs) {
			t.Fatal(len(replies), err)
		}

		var back []*sealed.Reply
		ids := map[[layered.IDSize]byte]bool{}
		for i, c := range cs {
			if want := len(inner) + (len(cs)-i)*layered.Overhead; len(msg) != want {
				t.Fatalf("%d bytes at hop %d, want %d", len(msg), i, want)
			}
			for _, other := range all {
				if other.name != c.name {
					if _, _, err := layered.Peel(other.key, other.info, msg); !errors.Is(err, layered.ErrOpen) {
						t.Fatalf("another carrier: %v", err)
					}
					break
				}
			}
			if _, _, err := layered.Peel(c.key, append([]byte("x"), c.info...), msg); !errors.Is(err, layered.ErrOpen) {
				t.Fatalf("another info: %v", err)
			}
			m, r, err := layered.Peel(c.key, c.info, msg)
			if err != nil {
				t.Fatal(err)
			}
			if m.Header != hops[i].Header {
				t.Fatalf("hop %d reads %v, want %v", i, m.Header, hops[i].Header)
			}
			if ids[layered.ID(msg)] {
				t.Fatal("two layers have one id")
			}
			ids[layered.ID(msg)] = true
			back, msg = append(back, r), m.Inner
		}
		if !bytes.Equal(msg, inner) {
			t.Fatal("the last carrier hands on something else")
		}

		// The way back: each carrier adds a layer, only the sender takes them off, and no leg has the bytes of another.
		answer := []byte("the answer to it, long enough to be found again")
		b := answer
		for i := len(back) - 1; i >= 0; i-- {
			out := back[i].Seal(b)
			if len(out) != len(b)+layered.ReplyOverhead || bytes.Contains(out, b[len(b)-16:]) {
				t.Fatal("the answer of a leg shows that of another")
			}
			b = out
		}
		for _, r := range replies {
			if b, err = r.Open(b); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(b, answer) {
			t.Fatal("another answer came back")
		}
	})
}

// A mark that a carrier makes anywhere in what it hands on dies at the next one, whoever that is.
func TestAMarkDiesAtTheNextCarrier(t *testing.T) {
	cs := []carrier{newCarrier(t, 1), newCarrier(t, 2), newCarrier(t, 3)}
	msg, _, err := layered.Wrap(chain(cs, [32]byte{9}, make([]time.Duration, 3)), make([]byte, 300))
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := layered.Peel(cs[0].key, cs[0].info, msg)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(m.Inner)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, _, err := layered.Peel(cs[1].key, cs[1].info, b); !errors.Is(err, layered.ErrOpen) {
			t.Fatalf("a changed message: %v", err)
		}
		if _, _, err := layered.Peel(cs[1].key, cs[1].info, b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); !errors.Is(err, layered.ErrOpen) {
			t.Fatalf("a cut message: %v", err)
		}
	})
}

// Two messages with the same words, and the two layers of one, have nothing in common that a carrier could compare.
func TestNothingRepeats(t *testing.T) {
	cs := []carrier{newCarrier(t, 1), newCarrier(t, 2)}
	inner := bytes.Repeat([]byte("same"), 100)
	seen := map[string]bool{}
	for range 20 {
		msg, _, err := layered.Wrap(chain(cs, [32]byte{9}, make([]time.Duration, 2)), inner)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := layered.Peel(cs[0].key, cs[0].info, msg)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{msg, m.Inner} {
			for i := 0; i+8 <= len(b); i += 8 {
				if w := string(b[i : i+8]); seen[w] {
					t.Fatalf("%x appears twice", w)
				} else {
					seen[w] = true
				}
			}
		}
	}
}

func TestImpossibleChainsAreRefused(t *testing.T) {
	c := newCarrier(t, 1)
	long := make([]layered.Hop, layered.MaxHops+1)
	for i := range long {
		long[i] = layered.Hop{Key: c.key.Public()}
	}
	for name, hops := range map[string][]layered.Hop{
		"none":      nil,
		"too many":  long,
		"negative":  {{Key: c.key.Public(), Header: layered.Header{Delay: -time.Second}}},
		"held back": {{Key: c.key.Public(), Header: layered.Header{Back: -time.Second}}},
		"eternal":   {{Key: c.key.Public(), Header: layered.Header{Delay: 1 << 32 * time.Millisecond}}},
	} {
		if _, _, err := layered.Wrap(hops, nil); !errors.Is(err, layered.ErrHops) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// vector is one chain; the spec names the file.
type vector struct {
	Inner string `json:"inner"`
	Hops  []struct {
		Private string `json:"private"`
		Info    string `json:"info"`
		Message string `json:"message"`
		Next    string `json:"next"`
		Delay   int64  `json:"delay_ms"`
		Back    int64  `json:"back_ms"`
		Epoch   uint32 `json:"epoch"`
		ID      string `json:"id"`
		Answer  string `json:"answer"` // what this carrier hands back
	} `json:"hops"`
	Answer string `json:"answer"` // what the last carrier was answered
}

const vectorFile = "testdata/vectors.json"

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	var vs []vector
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(vectorFile)), &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) < 2 {
		t.Fatalf("%d vectors, want at least 2", len(vs))
	}
	un := func(s string) []byte { return must[[]byte](t)(hex.DecodeString(s)) }
	for _, v := range vs {
		want := un(v.Answer)
		for i := len(v.Hops) - 1; i >= 0; i-- {
			h := v.Hops[i]
			k := must[*sealed.PrivateKey](t)(sealed.ParsePrivateKey(un(h.Private)))
			m, r, err := layered.Peel(k, un(h.Info), un(h.Message))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(m.Next[:], un(h.Next)) || m.Delay.Milliseconds() != h.Delay || m.Back.Milliseconds() != h.Back || m.Epoch != h.Epoch {
				t.Errorf("hop %d reads %v", i, m.Header)
			}
			inner := v.Inner
			if i+1 < len(v.Hops) {
				inner = v.Hops[i+1].Message
			}
			if !bytes.Equal(m.Inner, un(inner)) {
				t.Errorf("hop %d hands on something else", i)
			}
			if id := layered.ID(un(h.Message)); !bytes.Equal(id[:], un(h.ID)) {
				t.Errorf("hop %d: id %x", i, id)
			}
			a, err := r.Open(un(h.Answer))
			if err != nil || !bytes.Equal(a, want) {
				t.Errorf("hop %d: answer %x, %v", i, a, err)
			}
			want = un(h.Answer)
		}
	}
}

func writeVectors(t *testing.T) {
	var vs []vector
	x := hex.EncodeToString
	for _, n := range []int{1, 2} {
		cs := []carrier{newCarrier(t, 1), newCarrier(t, 2)}[:n]
		hops := chain(cs, [32]byte{0xff}, []time.Duration{1500 * time.Millisecond, 20 * time.Second})
		v := vector{Inner: x([]byte("for the store")), Answer: x([]byte("from the store"))}
		v.Hops = append(v.Hops, make([]struct {
			Private string `json:"private"`
			Info    string `json:"info"`
			Message string `json:"message"`
			Next    string `json:"next"`
			Delay   int64  `json:"delay_ms"`
			Back    int64  `json:"back_ms"`
			Epoch   uint32 `json:"epoch"`
			ID      string `json:"id"`
			Answer  string `json:"answer"`
		}, n)...)
		msg, _, err := layered.Wrap(hops, []byte("for the store"))
		if err != nil {
			t.Fatal(err)
		}
		var back []*sealed.Reply
		for i, c := range cs {
			h, id := &v.Hops[i], layered.ID(msg)
			h.Private, h.Info, h.Message, h.ID = x(c.key.Bytes()), x(c.info), x(msg), x(id[:])
			m, r, err := layered.Peel(c.key, c.info, msg)
			if err != nil {
				t.Fatal(err)
			}
			h.Next, h.Delay, h.Back, h.Epoch = x(m.Next[:]), m.Delay.Milliseconds(), m.Back.Milliseconds(), m.Epoch
			back, msg = append(back, r), m.Inner
		}
		answer := []byte("from the store")
		for i := n - 1; i >= 0; i-- {
			answer = back[i].Seal(answer)
			v.Hops[i].Answer = x(answer)
		}
		vs = append(vs, v)
	}
	b := must[[]byte](t)(json.MarshalIndent(vs, "", "\t"))
	if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzPeel(f *testing.F) {
	c := newCarrier(f, 1)
	msg, _, err := layered.Wrap(chain([]carrier{c}, [32]byte{}, []time.Duration{0}), []byte("inner"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("hop\x01"), msg)
	f.Add([]byte{}, []byte{})
	f.Add([]byte("hop\x01"), msg[:layered.Overhead])
	short, _, err := c.key.Public().Seal(c.info, make([]byte, 43)) // opens, and is too short for a header
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("hop\x01"), short)
	f.Add([]byte("hop\x01"), append(short, 0))
	f.Fuzz(func(t *testing.T, info, b []byte) {
		layered.ID(b)
		m, _, err := layered.Peel(c.key, info, b)
		if err != nil && !errors.Is(err, layered.ErrOpen) {
			t.Fatalf("error of another kind: %v", err)
		}
		if err == nil && (len(m.Inner) != len(b)-layered.Overhead || m.Delay < 0) {
			t.Fatal("a message that cannot be")
		}
	})
}

// putSize is a PUT for a store (mailbox geometry 2), which the last of two hops hands on.
const putSize = 9457

func BenchmarkWrapTwoHops(b *testing.B) {
	hops := chain([]carrier{newCarrier(b, 1), newCarrier(b, 2)}, [32]byte{}, make([]time.Duration, 2))
	inner := make([]byte, putSize)
	rand.Read(inner)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := layered.Wrap(hops, inner); err != nil {
			b.Fatal(err)
		}
	}
}

func benchMessage(b *testing.B) (carrier, []byte) {
	c := newCarrier(b, 1)
	inner := make([]byte, putSize+layered.Overhead)
	rand.Read(inner)
	msg, _, err := layered.Wrap(chain([]carrier{c}, [32]byte{}, make([]time.Duration, 1)), inner)
	if err != nil {
		b.Fatal(err)
	}
	return c, msg
}

func BenchmarkPeel(b *testing.B) {
	c, msg := benchMessage(b)
	b.ReportAllocs()
	for b.Loop() {
		layered.ID(msg)
		if _, _, err := layered.Peel(c.key, c.info, msg); err != nil {
			b.Fatal(err)
		}
	}
}

// The limit: what HPKE alone costs for the same bytes.
func BenchmarkPeelBareHPKE(b *testing.B) {
	c, msg := benchMessage(b)
	bare := must[hpke.PrivateKey](b)(hpke.MLKEM768X25519().NewPrivateKey(c.key.Bytes()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := hpke.Open(bare, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), c.info, msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReplyLayer(b *testing.B) {
	c, msg := benchMessage(b)
	_, r, err := layered.Peel(c.key, c.info, msg)
	if err != nil {
		b.Fatal(err)
	}
	in, out := make([]byte, 8300), make([]byte, 0, 8400)
	for b.Loop() {
		r.AppendSeal(out, in)
	}
}
