// SPDX-License-Identifier: Apache-2.0

package onionid

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
)

// torVectors are the example addresses of rend-spec-v3 §6 and the one of tor's test of build_address (test_hs_common.c).
var torVectors = []Name{
	"25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion",
	"sp3k262uwy4r2k3ycr5awluarykdpag6a7y33jxop4cs2lu5uz5sseqd.onion",
	"xa4r2iadxm55fbnqgwwi5mymqdcofiu3w6rpbtqn7b2dyn7mgwj64jyd.onion",
	"pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion",
}

func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
}

func TestKnownAddressesParseAndComeBackFromTheirKeys(t *testing.T) {
	for _, n := range torVectors {
		got, err := Parse(string(n))
		if err != nil || got != n {
			t.Errorf("Parse(%s) = %q, %v", n, got, err)
			continue
		}
		k, err := got.Key()
		if err != nil {
			t.Errorf("%s: Key: %v", n, err)
		}
		if back := FromKey(k); back != n {
			t.Errorf("FromKey gives %s for %s", back, n)
		}
	}
}

func TestNameOfAGeneratedKeyRoundTrips(t *testing.T) {
	for i := range 64 {
		pub := testKey(byte(i)).Public().(ed25519.PublicKey)
		n := FromKey(pub)
		if len(n) != 62 {
			t.Fatalf("%q has %d bytes", n, len(n))
		}
		k, err := n.Key()
		if err != nil || !k.Equal(pub) {
			t.Fatalf("%s: %v", n, err)
		}
	}
}

func TestEveryOtherSpellingIsRefused(t *testing.T) {
	good := string(torVectors[0])
	bad := map[string]string{
		"empty":         "",
		"upper case":    strings.ToUpper(good),
		"one upper":     "L" + good[1:],
		"no suffix":     good[:56],
		"other suffix":  good[:56] + ".Onion",
		"trailing dot":  good + ".",
		"leading space": " " + good[1:],
		"subdomain":     "a." + good,
		"port":          good + ":80",
		"newline":       good[:55] + "\n" + good[56:],
		"padding":       good[:55] + "=.onion",
		"digit 1":       "1" + good[1:],
		"v2":            "expyuzz4wqqyqhjn.onion",
		"not ascii":     good[:54] + "é.onion",
	}
	for what, s := range bad {
		if n, err := Parse(s); !errors.Is(err, ErrName) || n != "" {
			t.Errorf("%s: Parse = %q, %v", what, n, err)
		} else if len(s) > 20 && strings.Contains(err.Error(), s[:20]) {
			t.Errorf("%s: the error repeats the name: %v", what, err)
		}
	}
	for i := range 56 { // any one wrong character
		for _, c := range []byte("abcdefghijklmnopqrstuvwxyz234567") {
			if good[i] == c {
				continue
			}
			if _, err := Parse(good[:i] + string(c) + good[i+1:]); !errors.Is(err, ErrName) {
				t.Fatalf("with %c at %d it is accepted", c, i)
			}
		}
	}
}

// spell writes the name of any 32 bytes, with a right checksum.
func spell(b []byte, ver byte) string {
	sum := checksum(b)
	return encoding.EncodeToString(slices.Concat(b, sum[:], []byte{ver})) + suffix
}

// order8 is a point of order 8 (torsion), canonically encoded.
const order8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"

func TestKeysThatTorRefusesAreRefused(t *testing.T) {
	p := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	torsion, err := new(edwards25519.Point).SetBytes(p(order8))
	if err != nil {
		t.Fatal(err)
	}
	good, err := new(edwards25519.Point).SetBytes(testKey(1).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	mixed := new(edwards25519.Point).Add(good, torsion).Bytes()
	// y = p + 1: another encoding of the identity; y = p - 1 is the point of order 2.
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	le := func(n *big.Int) []byte { b := n.FillBytes(make([]byte, 32)); slices.Reverse(b); return b }
	keys := map[string][]byte{
		"identity":               le(big.NewInt(1)),
		"identity, sign bit set": append(le(big.NewInt(1))[:31], 0x80),
		"identity as y=p+1":      le(new(big.Int).Add(prime, big.NewInt(1))),
		"order 2":                le(new(big.Int).Sub(prime, big.NewInt(1))),
		"order 4":                make([]byte, 32),
		"order 8":                torsion.Bytes(),
		"torsion component":      mixed,
		"y = 2, not on curve":    le(big.NewInt(2)),
		"all ones":               bytes.Repeat([]byte{0xff}, 32),
	}
	for what, k := range keys {
		if _, err := Parse(spell(k, 3)); !errors.Is(err, errKey) {
			t.Errorf("%s: %v", what, err)
		}
		if n := FromKey(k); n != "" {
			t.Errorf("%s: FromKey = %s", what, n)
		}
	}
	if n := FromKey(testKey(1).Public().(ed25519.PublicKey)[:31]); n != "" {
		t.Errorf("31 bytes: %s", n)
	}
	if _, err := Parse(spell(good.Bytes(), 3)); err != nil {
		t.Fatalf("positive control: %v", err)
	}
	if _, err := Parse(spell(good.Bytes(), 2)); !errors.Is(err, ErrName) {
		t.Errorf("version 2: %v", err)
	}
}

// What passed once is remembered; what only begins like it is not, and neither is what was refused.
func TestAKeyIsRememberedWhole(t *testing.T) {
	for range 20 {
		good, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		for bad[20] ^= 1; checkKey(bad) == nil; bad[20]++ { // until it is one that does not pass
		}
		for range 2 {
			if err := checkKey(good); err != nil {
				t.Fatal(err)
			}
			if checkKey(bad) == nil {
				t.Fatal("a bad key passes after a good one that begins like it")
			}
		}
		copy(good, bad) // the caller's bytes are the caller's
		if checkKey(good) == nil {
			t.Fatal("a bad key passes in the place of a good one")
		}
	}
}

func TestLogsDoNotShowNames(t *testing.T) {
	cert := Certify(testKey(1), testKey(2).Public().(ed25519.PublicKey))
	for _, h := range []func(*bytes.Buffer) slog.Handler{
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var out bytes.Buffer
		slog.New(h(&out)).Info("x", "server", torVectors[0], "cert", cert, slog.Group("g", "n", cert.Server))
		for _, secret := range []string{string(torVectors[0][:8]), string(cert.Server[:8]), cert.KeyID[8:]} {
			if strings.Contains(out.String(), secret) {
				t.Errorf("the log shows %q: %s", secret, out.String())
			}
		}
		if !strings.Contains(out.String(), "[onion]") {
			t.Errorf("no redaction mark: %s", out.String())
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, n := range torVectors {
		f.Add(string(n))
	}
	f.Add("")
	f.Add(strings.Repeat("a", 56) + ".onion")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if err != nil {
			if n != "" || !errors.Is(err, ErrName) {
				t.Fatalf("%q, %v", n, err)
			}
			return
		}
		k, err := n.Key()
		if err != nil || FromKey(k) != n || string(n) != s || strings.ToLower(s) != s {
			t.Fatalf("%q is accepted but is not its key's one name", s)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse(string(torVectors[0])); err != nil {
			b.Fatal(err)
		}
	}
}
