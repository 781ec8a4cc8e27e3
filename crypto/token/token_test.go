// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write new test vectors (proofs are random: they differ each time, and all must verify)")

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func list(t testing.TB, s string) (out [][]byte) {
	t.Helper()
	for _, x := range strings.Split(s, ",") {
		out = append(out, unhex(t, x))
	}
	return out
}

// RFC 9497, appendix A.1.2: the suite and the mode that we use, computed by what we use.
func TestRFC9497(t *testing.T) {
	b, err := os.ReadFile("testdata/rfc9497-ristretto255-voprf.json")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Identifier          string
		Mode                uint8
		Seed, KeyInfo, SkSm string
		PkSm                string
		Vectors             []struct {
			Blind, BlindedElement, EvaluationElement, Input, Output string
			Proof                                                   struct{ Proof string }
		}
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	if f.Identifier != suite.Identifier() || f.Mode != oprf.VerifiableMode || len(f.Vectors) != 3 {
		t.Fatalf("the file is of %s, mode %d, %d vectors", f.Identifier, f.Mode, len(f.Vectors))
	}
	k, err := deriveKey(unhex(t, f.Seed), unhex(t, f.KeyInfo))
	if err != nil {
		t.Fatal(err)
	}
	if p := k.Public(); !bytes.Equal(p[:], unhex(t, f.PkSm)) {
		t.Errorf("public key %x", p)
	}
	for i, v := range f.Vectors {
		var blinds []oprf.Blind
		for _, s := range list(t, v.Blind) {
			x := group.Ristretto255.NewScalar()
			if err := x.UnmarshalBinary(s); err != nil {
				t.Fatal(err)
			}
			blinds = append(blinds, x)
		}
		inputs := list(t, v.Input)
		data, req, err := blindWith(inputs, blinds)
		if err != nil {
			t.Fatal(err)
		}
		var blinded []byte
		for _, e := range req.Elements {
			x, err := e.MarshalBinaryCompress()
			if err != nil {
				t.Fatal(err)
			}
			blinded = append(blinded, x...)
		}
		if want := bytes.Join(list(t, v.BlindedElement), nil); !bytes.Equal(blinded, want) {
			t.Errorf("vector %d: blinded %x", i, blinded)
		}
		evaluated := bytes.Join(list(t, v.EvaluationElement), nil)
		ours, err := k.Evaluate(blinded)
		if err != nil || !bytes.Equal(ours[:len(evaluated)], evaluated) {
			t.Errorf("vector %d: evaluated %x, %v", i, ours, err)
		}
		want := bytes.Join(list(t, v.Output), nil)
		for _, answer := range [][]byte{ours, append(bytes.Clone(evaluated), unhex(t, v.Proof.Proof)...)} {
			if got, err := finalize(data, len(inputs), unhex(t, f.PkSm), answer); err != nil || !bytes.Equal(got, want) {
				t.Errorf("vector %d: outputs %x, %v", i, got, err)
			}
		}
		for j, in := range inputs {
			if !k.server.VerifyFinalize(in, want[j*OutputSize:(j+1)*OutputSize]) {
				t.Errorf("vector %d: output %d is not accepted", i, j)
			}
		}
	}
}

// vector is one line of testdata/vectors.json.
type vector struct {
	KeySeed   string `json:"key_seed"`
	PublicKey string `json:"public_key"`
	Secret    string `json:"secret"`
	N         int    `json:"n"`
	Seeds     string `json:"input_seeds"`
	Blinded   string `json:"blinded"`
	Answer    string `json:"answer"`
	Token     string `json:"last_token"`
}

func makeVector(t *testing.T, fill byte, n int) vector {
	seed, secret := [SeedSize]byte(bytes.Repeat([]byte{fill}, SeedSize)), [SecretSize]byte(bytes.Repeat([]byte{fill + 1}, SecretSize))
	k, err := NewKey(&seed)
	if err != nil {
		t.Fatal(err)
	}
	blinded, err := Blind(&secret, n)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := k.Evaluate(blinded)
	if err != nil {
		t.Fatal(err)
	}
	pub := k.Public()
	tokens := draw(t, k, &secret, n)
	var seeds []byte
	for i := range (n + Chunk - 1) / Chunk {
		s := InputSeed(&secret, i)
		seeds = append(seeds, s[:]...)
	}
	h := hex.EncodeToString
	return vector{h(seed[:]), h(pub[:]), h(secret[:]), n, h(seeds), h(blinded), h(answer), h(tokens[n-1][:])}
}

func TestVectors(t *testing.T) {
	const name = "testdata/vectors.json"
	if *update {
		b, err := json.MarshalIndent([]vector{makeVector(t, 1, 1), makeVector(t, 3, 3), makeVector(t, 5, Chunk+1)}, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil || len(vs) != 3 {
		t.Fatalf("%d vectors, %v", len(vs), err)
	}
	for i, v := range vs {
		k, err := NewKey((*[SeedSize]byte)(unhex(t, v.KeySeed)))
		if err != nil {
			t.Fatal(err)
		}
		if p := k.Public(); hex.EncodeToString(p[:]) != v.PublicKey {
			t.Errorf("vector %d: public key %x", i, p)
		}
		secret := (*[SecretSize]byte)(unhex(t, v.Secret))
		blinded, err := Blind(secret, v.N)
		if err != nil || hex.EncodeToString(blinded) != v.Blinded {
			t.Errorf("vector %d: blinded %x, %v", i, blinded, err)
		}
		out, err := Finalize(secret, v.N, unhex(t, v.PublicKey), unhex(t, v.Answer))
		if err != nil {
			t.Fatalf("vector %d: %v", i, err)
		}
		last := v.N - 1
		seed := InputSeed(secret, last/Chunk)
		if seeds := unhex(t, v.Seeds); !bytes.Equal(seeds[len(seeds)-32:], seed[:]) {
			t.Errorf("vector %d: input seed %x", i, seed)
		}
		tok := Make(&seed, last%Chunk, (*[OutputSize]byte)(out[last*OutputSize:]))
		if hex.EncodeToString(tok[:]) != v.Token || !k.Valid(&tok) {
			t.Errorf("vector %d: token %x", i, tok)
		}
	}
}

func randomKey(t testing.TB) *Key {
	var seed [SeedSize]byte
	rand.Read(seed[:])
	k, err := NewKey(&seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// draw is a whole issue.
func draw(t testing.TB, k *Key, secret *[SecretSize]byte, n int) (out []Token) {
	t.Helper()
	blinded, err := Blind(secret, n)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := k.Evaluate(blinded)
	if err != nil {
		t.Fatal(err)
	}
	pub := k.Public()
	outs, err := Finalize(secret, n, pub[:], answer)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		seed := InputSeed(secret, i/Chunk)
		out = append(out, Make(&seed, i%Chunk, (*[OutputSize]byte)(outs[i*OutputSize:])))
	}
	return out
}

func TestATokenIsGoodWithItsKeyOnly(t *testing.T) {
	a, b := randomKey(t), randomKey(t)
	var secret [SecretSize]byte
	rand.Read(secret[:])
	seen := map[Token]bool{}
	for i, tok := range draw(t, a, &secret, MaxBatch) {
		if seen[tok] {
			t.Errorf("token %d comes twice", i)
		}
		seen[tok] = true
		if !a.Valid(&tok) {
			t.Errorf("token %d is not valid", i)
		}
		if i%50 == 0 && b.Valid(&tok) {
			t.Errorf("token %d is valid under another key", i)
		}
		if i%50 == 0 {
			tok[i%Size] ^= 1
			if a.Valid(&tok) {
				t.Errorf("token %d is valid though changed", i)
			}
		}
	}
	if a.Valid(&Token{}) {
		t.Error("the zero token is valid")
	}
}

// An issuer that tags an account with a key of its own, or an answer that was changed, gives nothing.
func TestAnotherKeyIsFoundOut(t *testing.T) {
	published, tag := randomKey(t), randomKey(t)
	pub := published.Public()
	rapid.Check(t, func(r *rapid.T) {
		var secret [SecretSize]byte
		copy(secret[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, "secret"))
		n := rapid.IntRange(1, 4).Draw(r, "n")
		blinded, err := Blind(&secret, n)
		if err != nil {
			r.Fatal(err)
		}
		again, err := Blind(&secret, n)
		if err != nil || !bytes.Equal(blinded, again) {
			r.Fatal("a request differs from its repetition")
		}
		tagged, err := tag.Evaluate(blinded)
		if err != nil {
			r.Fatal(err)
		}
		if _, err := Finalize(&secret, n, pub[:], tagged); !errors.Is(err, ErrProof) {
			r.Fatalf("another key: %v", err)
		}
		good, err := published.Evaluate(blinded)
		if err != nil {
			r.Fatal(err)
		}
		if _, err := Finalize(&secret, n, pub[:], good); err != nil {
			r.Fatal(err)
		}
		good[rapid.IntRange(0, len(good)-1).Draw(r, "at")] ^= byte(1 << rapid.IntRange(0, 7).Draw(r, "bit"))
		if _, err := Finalize(&secret, n, pub[:], good); err == nil {
			r.Fatal("a changed answer is taken")
		}
	})
}

func TestBadElementsAreRefused(t *testing.T) {
	k := randomKey(t)
	good, err := Blind(&[SecretSize]byte{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	high := bytes.Repeat([]byte{0xff}, ElementSize) // not below the field's modulus
	for name, b := range map[string][]byte{
		"nothing":       {},
		"the identity":  make([]byte, ElementSize),
		"one byte less": good[:len(good)-1],
		"too many":      bytes.Repeat(good[:ElementSize], MaxBatch+1),
		"not canonical": high,
		"negative":      append([]byte{1}, make([]byte, ElementSize-1)...),
		"after a good":  append(bytes.Clone(good), make([]byte, ElementSize)...),
	} {
		if _, err := k.Evaluate(b); !errors.Is(err, ErrElement) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{-1, 0, MaxBatch + 1} {
		if _, err := Blind(&[SecretSize]byte{}, n); err == nil {
			t.Errorf("a batch of %d", n)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, PublicKeySize), high, good} {
		if err := CheckPublicKey(b); !errors.Is(err, ErrKey) {
			t.Errorf("public key %x: %v", b, err)
		}
	}
	pub := k.Public()
	if err := CheckPublicKey(pub[:]); err != nil {
		t.Error(err)
	}
}

func FuzzEvaluate(f *testing.F) {
	k := randomKey(f)
	good, err := Blind(&[SecretSize]byte{1}, 3)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(make([]byte, ElementSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := k.Evaluate(b)
		if err == nil && len(out) != len(b)+ProofSize {
			t.Errorf("%d bytes for %d", len(out), len(b))
		}
		if (err == nil) != (Check(b) == nil) {
			t.Errorf("Check and Evaluate do not agree: %v", err)
		}
	})
}

func FuzzFinalize(f *testing.F) {
	k := randomKey(f)
	secret := [SecretSize]byte{1}
	blinded, err := Blind(&secret, 2)
	if err != nil {
		f.Fatal(err)
	}
	good, err := k.Evaluate(blinded)
	if err != nil {
		f.Fatal(err)
	}
	pub := k.Public()
	f.Add(pub[:], good)
	f.Add(make([]byte, PublicKeySize), good[:40])
	f.Fuzz(func(t *testing.T, public, answer []byte) {
		out, err := Finalize(&secret, 2, public, answer)
		if err != nil {
			return
		}
		seed := InputSeed(&secret, 0)
		tok := Make(&seed, 1, (*[OutputSize]byte)(out[OutputSize:]))
		if bytes.Equal(public, pub[:]) && !k.Valid(&tok) {
			t.Error("an answer with a proof gave a token that is not valid")
		}
	})
}

func BenchmarkBlind(b *testing.B) {
	for b.Loop() {
		if _, err := Blind(&[SecretSize]byte{}, Chunk); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*Chunk), "µs/token")
}

func BenchmarkEvaluate(b *testing.B) {
	k := randomKey(b)
	blinded, err := Blind(&[SecretSize]byte{}, Chunk)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := k.Evaluate(blinded); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*Chunk), "µs/token")
}

func BenchmarkFinalize(b *testing.B) {
	k := randomKey(b)
	blinded, err := Blind(&[SecretSize]byte{}, Chunk)
	if err != nil {
		b.Fatal(err)
	}
	answer, err := k.Evaluate(blinded)
	if err != nil {
		b.Fatal(err)
	}
	pub := k.Public()
	for b.Loop() {
		if _, err := Finalize(&[SecretSize]byte{}, Chunk, pub[:], answer); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*Chunk), "µs/token")
}

func BenchmarkValid(b *testing.B) {
	k := randomKey(b)
	t := draw(b, k, &[SecretSize]byte{}, 1)[0]
	for b.Loop() {
		if !k.Valid(&t) {
			b.Fatal("not valid")
		}
	}
}

// The raw limit: one multiplication by a secret scalar in that group.
func BenchmarkScalarMult(b *testing.B) {
	g := group.Ristretto255
	e, s := g.RandomElement(rand.Reader), g.RandomScalar(rand.Reader)
	for b.Loop() {
		e.Mul(e, s)
	}
}
