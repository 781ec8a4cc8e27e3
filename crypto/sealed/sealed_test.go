// SPDX-License-Identifier: Apache-2.0

package sealed_test

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

	"pgregory.net/rapid"

	"tarn/crypto/sealed"
)

var update = flag.Bool("update", false, "write new test vectors (sealing is random: they differ each time, and all must open)")

// vector is one line of testdata/vectors.json; the spec names the file.
type vector struct {
	Name      string `json:"name"`
	Private   string `json:"private"`
	PublicKey string `json:"public"`
	Info      string `json:"info"`
	Plaintext string `json:"plaintext"`
	Box       string `json:"box"`
	Answer    string `json:"answer"`
	Reply     string `json:"reply"`
}

const vectorFile = "testdata/vectors.json"

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	var vs []vector
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(vectorFile)), &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) < 3 {
		t.Fatalf("%d vectors, want at least 3", len(vs))
	}
	un := func(s string) []byte { return must[[]byte](t)(hex.DecodeString(s)) }
	for _, v := range vs {
		t.Run(v.Name, func(t *testing.T) {
			k := must[*sealed.PrivateKey](t)(sealed.ParsePrivateKey(un(v.Private)))
			if !bytes.Equal(k.Public().Bytes(), un(v.PublicKey)) {
				t.Error("the public key differs")
			}
			pt, r, err := k.Open(un(v.Info), un(v.Box))
			if err != nil || !bytes.Equal(pt, un(v.Plaintext)) {
				t.Fatalf("Open = %x, %v", pt, err)
			}
			a, err := r.Open(un(v.Reply))
			if err != nil || !bytes.Equal(a, un(v.Answer)) {
				t.Fatalf("Reply.Open = %x, %v", a, err)
			}
		})
	}
}

func writeVectors(t *testing.T) {
	var vs []vector
	for i, name := range []string{"empty", "short", "with info"} {
		seed := bytes.Repeat([]byte{byte(i + 1)}, sealed.PrivateKeySize)
		k := must[*sealed.PrivateKey](t)(sealed.ParsePrivateKey(seed))
		pt := [][]byte{{}, []byte("a request"), []byte("another request")}[i]
		info := [][]byte{{}, {}, []byte("tarn/1 test")}[i]
		answer := [][]byte{{}, []byte("an answer"), []byte("another answer")}[i]
		box, _, err := k.Public().Seal(info, pt)
		if err != nil {
			t.Fatal(err)
		}
		_, r, err := k.Open(info, box)
		if err != nil {
			t.Fatal(err)
		}
		h := hex.EncodeToString
		vs = append(vs, vector{name, h(seed), h(k.Public().Bytes()), h(info), h(pt), h(box), h(answer), h(r.Seal(answer))})
	}
	b := must[[]byte](t)(json.MarshalIndent(vs, "", "\t"))
	if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The suite is the standard's, not our own: the bare library opens what we seal.
func TestBareHPKEOpensOurBox(t *testing.T) {
	k := must[*sealed.PrivateKey](t)(sealed.Generate())
	box, _, err := k.Public().Seal([]byte("info"), []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	bare := must[hpke.PrivateKey](t)(hpke.MLKEM768X25519().NewPrivateKey(k.Bytes()))
	pt := must[[]byte](t)(hpke.Open(bare, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte("info"), box))
	if string(pt) != "hello" {
		t.Fatalf("got %q", pt)
	}
}

func TestRoundTripAndEveryChangeIsRefused(t *testing.T) {
	k := must[*sealed.PrivateKey](t)(sealed.Generate())
	other := must[*sealed.PrivateKey](t)(sealed.Generate())
	pub := must[*sealed.PublicKey](t)(sealed.ParsePublicKey(k.Public().Bytes()))
	rapid.Check(t, func(t *rapid.T) {
		pt := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "plaintext")
		info := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "info")
		box, cr, err := pub.Seal(info, pt)
		if err != nil {
			t.Fatal(err)
		}
		if len(box) != len(pt)+sealed.Overhead {
			t.Fatalf("box of %d bytes", len(box))
		}
		got, sr, err := k.Open(info, box)
		if err != nil || !bytes.Equal(got, pt) {
			t.Fatalf("Open: %v", err)
		}
		reply := sr.Seal(pt)
		if len(reply) != len(pt)+sealed.ReplyOverhead {
			t.Fatalf("reply of %d bytes", len(reply))
		}
		if a, err := cr.Open(reply); err != nil || !bytes.Equal(a, pt) {
			t.Fatalf("Reply.Open: %v", err)
		}

		i := rapid.IntRange(0, len(box)-1).Draw(t, "byte of the box")
		box[i] ^= 1
		if _, _, err := k.Open(info, box); !errors.Is(err, sealed.ErrOpen) {
			t.Errorf("box changed at %d: %v", i, err)
		}
		box[i] ^= 1
		if _, _, err := k.Open(append(info, 0), box); !errors.Is(err, sealed.ErrOpen) {
			t.Errorf("other info: %v", err)
		}
		if _, _, err := other.Open(info, box); !errors.Is(err, sealed.ErrOpen) {
			t.Errorf("other key: %v", err)
		}
		i = rapid.IntRange(0, len(reply)-1).Draw(t, "byte of the reply")
		reply[i] ^= 1
		if _, err := cr.Open(reply); !errors.Is(err, sealed.ErrOpen) {
			t.Errorf("reply changed at %d: %v", i, err)
		}
	})
}

func TestReplayedRequestIsAnsweredWithANewNonce(t *testing.T) {
	k := must[*sealed.PrivateKey](t)(sealed.Generate())
	box, _, err := k.Public().Seal(nil, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, r1, err1 := k.Open(nil, box)
	_, r2, err2 := k.Open(nil, box)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if bytes.Equal(r1.Seal([]byte("same")), r2.Seal([]byte("same"))) {
		t.Error("two answers under one key have one nonce")
	}
}

func TestBothEndsDeriveTheSameKeys(t *testing.T) {
	k := must[*sealed.PrivateKey](t)(sealed.Generate())
	box, a, err := k.Public().Seal([]byte("info"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := k.Open([]byte("info"), box)
	if err != nil {
		t.Fatal(err)
	}
	up := a.Derive([]byte("salt"), "up", 32)
	if len(up) != 32 || !bytes.Equal(up, b.Derive([]byte("salt"), "up", 32)) {
		t.Error("the two ends differ")
	}
	if bytes.Equal(up, b.Derive([]byte("salt"), "down", 32)) || bytes.Equal(up, b.Derive([]byte("other"), "up", 32)) {
		t.Error("another label or salt gives the same key")
	}
}

func TestKeysOfWrongSizeAreRefused(t *testing.T) {
	for _, n := range []int{0, 1, sealed.PrivateKeySize - 1, sealed.PrivateKeySize + 1} {
		if _, err := sealed.ParsePrivateKey(make([]byte, n)); !errors.Is(err, sealed.ErrKey) {
			t.Errorf("private key of %d bytes: %v", n, err)
		}
	}
	bad := bytes.Repeat([]byte{0xff}, sealed.PublicKeySize) // coefficients above q (FIPS 203 §7.2)
	for _, b := range [][]byte{nil, make([]byte, sealed.PublicKeySize+1), bad} {
		if _, err := sealed.ParsePublicKey(b); !errors.Is(err, sealed.ErrKey) {
			t.Errorf("public key of %d bytes: %v", len(b), err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k, err := sealed.Generate()
	if err != nil {
		f.Fatal(err)
	}
	box, _, err := k.Public().Seal([]byte("i"), []byte("plaintext"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("i"), box)
	f.Add([]byte{}, []byte{})
	f.Add([]byte("i"), box[:sealed.Overhead])
	f.Fuzz(func(t *testing.T, info, b []byte) {
		pt, _, err := k.Open(info, b)
		if err != nil && !errors.Is(err, sealed.ErrOpen) {
			t.Fatalf("error of another kind: %v", err)
		}
		if err == nil && len(pt) != len(b)-sealed.Overhead {
			t.Fatal("wrong length")
		}
		if _, err := sealed.ParsePublicKey(b); err != nil && !errors.Is(err, sealed.ErrKey) {
			t.Fatalf("error of another kind: %v", err)
		}
	})
}

// The sizes are those of a store request and its answer (mailbox geometry 1).
const requestSize, answerSize = 9812, 8425

func benchKey(b *testing.B) (*sealed.PrivateKey, []byte, []byte) {
	k := must[*sealed.PrivateKey](b)(sealed.Generate())
	pt := make([]byte, requestSize)
	rand.Read(pt)
	box, _, err := k.Public().Seal([]byte("info"), pt)
	if err != nil {
		b.Fatal(err)
	}
	return k, pt, box
}

func BenchmarkSeal(b *testing.B) {
	k, pt, _ := benchKey(b)
	pub := k.Public()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := pub.Seal([]byte("info"), pt); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	k, _, box := benchKey(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := k.Open([]byte("info"), box); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenBareHPKE(b *testing.B) {
	k, _, box := benchKey(b)
	bare := must[hpke.PrivateKey](b)(hpke.MLKEM768X25519().NewPrivateKey(k.Bytes()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := hpke.Open(bare, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte("info"), box); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSealBareHPKE(b *testing.B) {
	k, pt, _ := benchKey(b)
	bare := must[hpke.PublicKey](b)(hpke.MLKEM768X25519().NewPublicKey(k.Public().Bytes()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := hpke.Seal(bare, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte("info"), pt); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReplySeal(b *testing.B) {
	k, _, box := benchKey(b)
	_, r, err := k.Open([]byte("info"), box)
	if err != nil {
		b.Fatal(err)
	}
	pt, dst := make([]byte, answerSize), make([]byte, 0, answerSize+sealed.ReplyOverhead)
	for b.Loop() {
		r.AppendSeal(dst, pt)
	}
}
