// SPDX-License-Identifier: Apache-2.0

package onionid

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"testing"
)

// vector is testdata/vectors.json, which was made by other software (Python: hashlib, cryptography): every field is what an
// implementation must give for the two seeds.
type vector struct {
	OnionSeed   string `json:"onion_seed"`
	SigningSeed string `json:"signing_seed"`
	Name        Name   `json:"name"`
	KeyID       string `json:"key_id"`
	Certificate string `json:"certificate"`
}

func TestVectors(t *testing.T) {
	const file = "testdata/vectors.json"
	var vs []vector
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &vs); err != nil || len(vs) == 0 {
		t.Fatalf("%d vectors, %v", len(vs), err)
	}
	for i, v := range vs {
		s1, err1 := hex.DecodeString(v.OnionSeed)
		s2, err2 := hex.DecodeString(v.SigningSeed)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		c := Certify(ed25519.NewKeyFromSeed(s1), ed25519.NewKeyFromSeed(s2).Public().(ed25519.PublicKey))
		got := vector{v.OnionSeed, v.SigningSeed, c.Server, c.KeyID, hex.EncodeToString(c.Bytes())}
		if got != v {
			t.Errorf("vector %d:\n got %+v\nwant %+v", i, got, v)
		}
	}
}

func TestCertificateRoundTrips(t *testing.T) {
	signing := testKey(2).Public().(ed25519.PublicKey)
	c := Certify(testKey(1), signing)
	raw := c.Bytes()
	got, err := ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.Server != FromKey(testKey(1).Public().(ed25519.PublicKey)) || got.KeyID != KeyID(signing) || !got.Key.Equal(signing) {
		t.Fatalf("%+v", got)
	}
	if got.Server != c.Server || got.KeyID != c.KeyID || !got.Key.Equal(c.Key) || !bytes.Equal(got.Bytes(), raw) {
		t.Fatal("what was parsed differs from what was made")
	}
	raw[40] ^= 1 // the caller's bytes are not the certificate's
	if bytes.Equal(got.Bytes(), raw) {
		t.Fatal("the certificate aliases its input")
	}
}

func TestAnyFlippedBitBreaksACertificate(t *testing.T) {
	raw := Certify(testKey(1), testKey(2).Public().(ed25519.PublicKey)).Bytes()
	for i := range raw {
		for bit := range 8 {
			b := bytes.Clone(raw)
			b[i] ^= 1 << bit
			if _, err := ParseCertificate(b); !errors.Is(err, ErrCertificate) {
				t.Fatalf("byte %d bit %d: %v", i, bit, err)
			}
		}
	}
	for _, n := range []int{0, 1, 64, CertificateSize - 1} {
		if _, err := ParseCertificate(raw[:n]); !errors.Is(err, ErrCertificate) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, err := ParseCertificate(append(raw, 0)); !errors.Is(err, ErrCertificate) {
		t.Fatalf("trailing byte: %v", err)
	}
}

func TestForgedCertificatesAreRefused(t *testing.T) {
	onion, signing := testKey(1), testKey(2)
	pub, spub := onion.Public().(ed25519.PublicKey), signing.Public().(ed25519.PublicKey)
	low, err := hex.DecodeString(order8)
	if err != nil {
		t.Fatal(err)
	}
	make := func(a, b, sig []byte) []byte {
		return append(append(append([]byte{certificateVersion}, a...), b...), sig...)
	}
	purpose := func(p string) []byte {
		return ed25519.Sign(onion, append(append([]byte(p), pub...), spub...))
	}
	// With the identity as key, R = identity and s = 0 verifies for every message in the standard library.
	identity := append([]byte{1}, bytes.Repeat([]byte{0}, 31)...)
	if !ed25519.Verify(identity, []byte("anything"), append(bytes.Clone(identity), bytes.Repeat([]byte{0}, 32)...)) {
		t.Fatal("positive control: the key check is not needed any more")
	}
	for what, raw := range map[string][]byte{
		"identity as onion key":   make(identity, spub, append(bytes.Clone(identity), bytes.Repeat([]byte{0}, 32)...)),
		"order 8 as signing key":  Certify(onion, low).Bytes(),
		"identity as signing key": Certify(onion, identity).Bytes(),
		"the onion key itself":    Certify(onion, pub).Bytes(),
		"signed by another key":   make(pub, spub, Certify(testKey(3), spub).Bytes()[65:]),
		"signed without purpose":  make(pub, spub, purpose("")),
		"signed for elsewhat":     make(pub, spub, purpose("tarn/1 descriptor key\x00")),
	} {
		if c, err := ParseCertificate(raw); !errors.Is(err, ErrCertificate) || c.Server != "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := ParseCertificate(make(pub, spub, purpose(certificatePurpose))); err != nil {
		t.Fatalf("positive control: %v", err)
	}
}

func TestKeyIDIsAMatrixKeyID(t *testing.T) {
	form := regexp.MustCompile(`^ed25519:[A-Za-z0-9_]{8}$`) // Matrix spec, appendices
	seen := map[string]bool{}
	for i := range 256 {
		id := KeyID(testKey(byte(i)).Public().(ed25519.PublicKey))
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("%q", id)
		}
		seen[id] = true
	}
}

func FuzzParseCertificate(f *testing.F) {
	f.Add(Certify(testKey(1), testKey(2).Public().(ed25519.PublicKey)).Bytes())
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, CertificateSize))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseCertificate(raw)
		if err != nil {
			if !errors.Is(err, ErrCertificate) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(c.Bytes(), raw) || c.KeyID != KeyID(c.Key) {
			t.Fatal("accepted, but not its own bytes")
		}
	})
}

func BenchmarkParseCertificate(b *testing.B) {
	raw := Certify(testKey(1), testKey(2).Public().(ed25519.PublicKey)).Bytes()
	for b.Loop() {
		if _, err := ParseCertificate(raw); err != nil {
			b.Fatal(err)
		}
	}
}
