// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/rand"
	"crypto/sha512"
	"math/bits"
	"testing"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
)

// transcript is all that an issuer sees of one account: what it drew, and what was spent of it, by whomever.
type transcript struct {
	blinded, evaluated []group.Element // of the draws
	spent              []Token
}

// live makes a transcript of a whole life of batches. blind false is the positive control: somebody who forgot to blind.
func live(t *testing.T, k *Key, batches int, blind bool) (tr transcript) {
	t.Helper()
	for range batches {
		var secret [SecretSize]byte
		rand.Read(secret[:])
		req, err := Blind(&secret, Chunk)
		if err != nil {
			t.Fatal(err)
		}
		tokens := draw(t, k, &secret, Chunk)
		tr.spent = append(tr.spent, tokens...)
		if !blind {
			req = nil
			for _, tok := range tokens {
				b, err := hashed(tok).MarshalBinaryCompress()
				if err != nil {
					t.Fatal(err)
				}
				req = append(req, b...)
			}
		}
		answer, err := k.Evaluate(req)
		if err != nil {
			t.Fatal(err)
		}
		in, err := elements(req)
		if err != nil {
			t.Fatal(err)
		}
		out, err := elements(answer[:len(req)])
		if err != nil {
			t.Fatal(err)
		}
		tr.blinded, tr.evaluated = append(tr.blinded, in...), append(tr.evaluated, out...)
	}
	return tr
}

// hashed is the element that a token's input stands for.
func hashed(tok Token) group.Element {
	return group.Ristretto255.HashToElement(tok[:InputSize], []byte("HashToGroup-OPRFV1-\x01-ristretto255-SHA512"))
}

// explains tells whether there is a blind with which the draw of element i of one transcript is the draw of token j of
// another: in a group of prime order there is one, and only one, if both were evaluated with one key and no element is
// the identity. So a uniform blind makes every pairing of draws with spendings equally likely.
func explains(secret group.Scalar, of transcript, i int, with Token) bool {
	g := group.Ristretto255
	sameKey := g.NewElement().Mul(of.blinded[i], secret).IsEqual(of.evaluated[i])
	n := g.NewElement().Mul(hashed(with), secret)
	return sameKey && !of.blinded[i].IsIdentity() && !hashed(with).IsIdentity() && outputOf(with, n) == [OutputSize]byte(with[InputSize:])
}

func outputOf(tok Token, n group.Element) [OutputSize]byte {
	b, err := n.MarshalBinaryCompress()
	if err != nil {
		panic(err)
	}
	return [OutputSize]byte(finalHash(tok[:InputSize], b))
}

// What an issuer sees of the draws of two accounts, and of the tokens that are spent, is the same in the world where
// each spends its own and in the world where they are exchanged: every pairing has its blind.
func TestDrawsAndSpendingsAreExchangeable(t *testing.T) {
	seed := [SeedSize]byte{9}
	k, err := NewKey(&seed)
	if err != nil {
		t.Fatal(err)
	}
	secret := scalarOf(t, seed)
	a, b := live(t, k, 1, true), live(t, k, 1, true)
	for i := 0; i < Chunk; i += 7 {
		for j := 0; j < Chunk; j += 11 {
			for _, pair := range []struct {
				of   transcript
				with Token
			}{{a, a.spent[j]}, {a, b.spent[j]}, {b, a.spent[j]}, {b, b.spent[j]}} {
				if !explains(secret, pair.of, i, pair.with) {
					t.Fatalf("no blind explains draw %d with spending %d", i, j)
				}
			}
		}
	}
	// The positive control: an issuer that gives each account a key of its own can tell whose a token is.
	other := [SeedSize]byte{10}
	k2, err := NewKey(&other)
	if err != nil {
		t.Fatal(err)
	}
	c := live(t, k2, 1, true)
	if explains(secret, c, 0, a.spent[0]) || explains(scalarOf(t, other), c, 0, a.spent[0]) {
		t.Error("a pairing over two keys is explained: the check can not fail")
	}
}

// A linker that compares all bytes that an issuer has of two accounts with those of a spent token does no better than a
// coin; of accounts that did not blind it names every one.
func TestALinkerLearnsNothing(t *testing.T) {
	k := randomKey(t)
	const batches = 2 // 240 tokens each: the AUC of a coin has a standard deviation of 0.026
	for _, c := range []struct {
		name     string
		blind    bool
		from, to float64
	}{{"blind", true, 0.39, 0.61}, {"not blind: the positive control", false, 0.99, 1}} {
		a, b := live(t, k, batches, c.blind), live(t, k, batches, c.blind)
		ea, eb := encoded(t, a), encoded(t, b)
		auc, n := 0.0, len(a.spent)
		var sa, sb []float64
		for i := range n {
			sa, sb = append(sa, leaning(t, a.spent[i], ea, eb)), append(sb, leaning(t, b.spent[i], ea, eb))
		}
		for _, x := range sa {
			for _, y := range sb {
				switch {
				case x > y:
					auc++
				case x == y:
					auc += 0.5
				}
			}
		}
		auc /= float64(n * n)
		t.Logf("%s: AUC %.3f of %d tokens each", c.name, auc, n)
		if auc < c.from || auc > c.to {
			t.Errorf("%s: AUC %.3f, want between %.2f and %.2f", c.name, auc, c.from, c.to)
		}
	}
}

// encoded is every byte of the draws, element by element.
func encoded(t *testing.T, tr transcript) (out [][]byte) {
	for _, es := range [][]group.Element{tr.blinded, tr.evaluated} {
		for _, e := range es {
			b, err := e.MarshalBinaryCompress()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
	}
	return out
}

// leaning is how much nearer a token's own bytes, and its element's, lie to a's draws than to b's.
func leaning(t *testing.T, tok Token, a, b [][]byte) float64 {
	e, err := hashed(tok).MarshalBinaryCompress()
	if err != nil {
		t.Fatal(err)
	}
	own := [][]byte{e, tok[:InputSize], tok[InputSize : InputSize+32], tok[InputSize+32:]}
	return float64(nearest(own, b) - nearest(own, a))
}

func nearest(own, others [][]byte) int {
	best := 1 << 20
	for _, x := range own {
		for _, y := range others {
			d := 0
			for i := range x {
				d += bits.OnesCount8(x[i] ^ y[i])
			}
			best = min(best, d)
		}
	}
	return best
}

// scalarOf is the key of a seed as a scalar.
func scalarOf(t *testing.T, seed [SeedSize]byte) group.Scalar {
	t.Helper()
	priv, err := oprf.DeriveKey(suite, oprf.VerifiableMode, seed[:], []byte(labelKey))
	if err != nil {
		t.Fatal(err)
	}
	b, err := priv.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	s := group.Ristretto255.NewScalar()
	if err := s.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	return s
}

// finalHash is RFC 9497's hash of input and evaluated element.
func finalHash(input, element []byte) []byte {
	h := sha512.New()
	for _, b := range [][]byte{input, element} {
		h.Write([]byte{byte(len(b) >> 8), byte(len(b))})
		h.Write(b)
	}
	h.Write([]byte("Finalize"))
	return h.Sum(nil)
}
