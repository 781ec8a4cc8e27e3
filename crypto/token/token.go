// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
	"github.com/cloudflare/circl/zk/dleq"
)

// Sizes in bytes.
const (
	InputSize     = 32
	OutputSize    = 64 // SHA-512
	Size          = InputSize + OutputSize
	ElementSize   = 32 // ristretto255
	ProofSize     = 64 // two scalars
	PublicKeySize = ElementSize
	SeedSize      = 32 // of a private key
	SecretSize    = 32 // of a batch
)

const (
	// Chunk is how many tokens share an input seed.
	Chunk = 120
	// MaxBatch bounds the tokens of one request: what fits a box with its proof.
	MaxBatch = 250
)

// The labels. SPEC token §1.
const (
	labelKey    = "tarn/1 token key"
	labelOther  = "tarn/1 session token key"
	labelInputs = "tarn/1 token inputs" // HMAC(secret, this ‖ chunk 4): the chunk's input seed
	labelInput  = "tarn/1 token input"  // HMAC(input seed, this ‖ place in the chunk 4)
	labelBlind  = "tarn/1 token blind"  // HMAC(secret, this ‖ place in the batch 4), hashed to a scalar
)

var (
	// ErrElement: the bytes are not canonical group elements other than the identity, or not as many as there may be.
	ErrElement = errors.New("token: not a list of group elements")
	// ErrKey: the bytes are not a key.
	ErrKey = errors.New("token: not a key")
	// ErrProof: the answer was not made with the key that the issuer published.
	ErrProof = errors.New("token: the issuer did not use the key that it published")
)

// Token is the right to one deposit. The zero value is none.
type Token [Size]byte

var suite = oprf.SuiteRistretto255

// Key is an issuer's key of one epoch. Safe for concurrent use.
type Key struct {
	server oprf.VerifiableServer
	public [PublicKeySize]byte
}

// NewKey derives the key of a random seed (RFC 9497 DeriveKeyPair). Who knows the seed can make tokens.
func NewKey(seed *[SeedSize]byte) (*Key, error) { return deriveKey(seed[:], []byte(labelKey)) }

// NewSessionKey derives another one of the same seed, whose tokens are for sessions with a courier: neither key takes the other's.
func NewSessionKey(seed *[SeedSize]byte) (*Key, error) { return deriveKey(seed[:], []byte(labelOther)) }

func deriveKey(seed, info []byte) (*Key, error) {
	priv, err := oprf.DeriveKey(suite, oprf.VerifiableMode, seed, info)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	pub, err := priv.Public().MarshalBinary() // circl makes the public half at the first call: now, not in a race
	if err != nil || len(pub) != PublicKeySize {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &Key{server: oprf.NewVerifiableServer(suite, priv), public: [PublicKeySize]byte(pub)}, nil
}

// Public is the key that requesters check proofs with.
func (k *Key) Public() [PublicKeySize]byte { return k.public }

// Evaluate answers a request of 1 to MaxBatch blinded elements: the evaluated elements, then one proof for all of
// them. The proof is randomised: two answers to one request differ. About 0.4 ms an element. ErrElement.
func (k *Key) Evaluate(blinded []byte) ([]byte, error) {
	in, err := elements(blinded)
	if err != nil {
		return nil, err
	}
	ev, err := k.server.Evaluate(&oprf.EvaluationRequest{Elements: in})
	if err != nil {
		return nil, fmt.Errorf("token: evaluate: %w", err)
	}
	out := make([]byte, 0, len(blinded)+ProofSize)
	for _, e := range ev.Elements {
		b, err := e.MarshalBinaryCompress()
		if err != nil {
			return nil, fmt.Errorf("token: evaluate: %w", err)
		}
		out = append(out, b...)
	}
	proof, err := ev.Proof.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("token: evaluate: %w", err)
	}
	return append(out, proof...), nil
}

// Valid tells whether the token was made with this key. It says nothing about whether it was spent. 0.14 ms, whatever it is.
func (k *Key) Valid(t *Token) bool { return k.server.VerifyFinalize(t[:InputSize], t[InputSize:]) }

// Check tells whether Evaluate would take the elements. About a tenth of its work.
func Check(blinded []byte) error {
	_, err := elements(blinded)
	return err
}

// CheckPublicKey errs with ErrKey unless b is a public key.
func CheckPublicKey(b []byte) error {
	_, err := publicKey(b)
	return err
}

func publicKey(b []byte) (*oprf.PublicKey, error) {
	if _, err := elements(b); err != nil || len(b) != PublicKeySize {
		return nil, ErrKey
	}
	k := new(oprf.PublicKey)
	if err := k.UnmarshalBinary(suite, b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return k, nil
}

// elements reads 1 to MaxBatch of them: canonical, none the identity.
func elements(b []byte) ([]group.Element, error) {
	n := len(b) / ElementSize
	if len(b)%ElementSize != 0 || n < 1 || n > MaxBatch {
		return nil, fmt.Errorf("%w: %d bytes", ErrElement, len(b))
	}
	out := make([]group.Element, n)
	for i := range out {
		e := suite.Group().NewElement()
		one := b[i*ElementSize : (i+1)*ElementSize]
		if err := e.UnmarshalBinary(one); err != nil || e.IsIdentity() {
			return nil, ErrElement
		}
		// RFC 9496 §4.3.1: one spelling only. circl's decoder is not relied on for that.
		if again, err := e.MarshalBinaryCompress(); err != nil || string(again) != string(one) {
			return nil, ErrElement
		}
		out[i] = e
	}
	return out, nil
}

// InputSeed is what the inputs of a batch's chunk come from. Who has it and the chunk's outputs has the tokens.
func InputSeed(secret *[SecretSize]byte, chunk int) [32]byte {
	return prf(secret[:], labelInputs, chunk)
}

// Make is the token at that place (below Chunk) of a chunk.
func Make(seed *[32]byte, place int, output *[OutputSize]byte) (t Token) {
	in := prf(seed[:], labelInput, place)
	copy(t[:], in[:])
	copy(t[InputSize:], output[:])
	return t
}

// Blind is the request for the batch of n tokens (1 to MaxBatch) that secret stands for: always the same bytes.
func Blind(secret *[SecretSize]byte, n int) ([]byte, error) {
	_, req, err := blind(secret, n)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, n*ElementSize)
	for _, e := range req.Elements {
		b, err := e.MarshalBinaryCompress()
		if err != nil {
			return nil, fmt.Errorf("token: blind: %w", err)
		}
		out = append(out, b...)
	}
	return out, nil
}

func blind(secret *[SecretSize]byte, n int) (*oprf.FinalizeData, *oprf.EvaluationRequest, error) {
	if n < 1 || n > MaxBatch {
		return nil, nil, fmt.Errorf("%w: a batch of %d", ErrElement, n)
	}
	inputs, blinds := make([][]byte, n), make([]oprf.Blind, n)
	var seed [32]byte
	for i := range inputs {
		if i%Chunk == 0 {
			seed = InputSeed(secret, i/Chunk)
		}
		in, b := prf(seed[:], labelInput, i%Chunk), prf(secret[:], labelBlind, i)
		inputs[i], blinds[i] = in[:], suite.Group().HashToScalar(b[:], []byte(labelBlind))
	}
	data, req, err := blindWith(inputs, blinds)
	if err != nil {
		return nil, nil, fmt.Errorf("token: blind: %w", err)
	}
	return data, req, nil
}

func blindWith(inputs [][]byte, blinds []oprf.Blind) (*oprf.FinalizeData, *oprf.EvaluationRequest, error) {
	// Blinding is the same for all keys, but circl's constructor asks for one.
	any, err := anyKey()
	if err != nil {
		return nil, nil, err
	}
	return oprf.NewVerifiableClient(suite, any.server.PublicKey()).DeterministicBlind(inputs, blinds)
}

var anyKey = sync.OnceValues(func() (*Key, error) { return deriveKey(make([]byte, SeedSize), nil) })

// Finalize turns the answer to Blind(secret, n) into the n outputs, OutputSize bytes each, once it has checked that
// the issuer used the public key. ErrElement, ErrKey, ErrProof.
func Finalize(secret *[SecretSize]byte, n int, public, answer []byte) ([]byte, error) {
	data, _, err := blind(secret, n)
	if err != nil {
		return nil, err
	}
	return finalize(data, n, public, answer)
}

func finalize(data *oprf.FinalizeData, n int, public, answer []byte) ([]byte, error) {
	key, err := publicKey(public)
	if err != nil {
		return nil, err
	}
	if len(answer) != n*ElementSize+ProofSize {
		return nil, fmt.Errorf("%w: an answer of %d bytes", ErrElement, len(answer))
	}
	evaluated, err := elements(answer[:n*ElementSize])
	if err != nil {
		return nil, err
	}
	proof := new(dleq.Proof)
	if err := proof.UnmarshalBinary(suite.Group(), answer[n*ElementSize:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	outputs, err := oprf.NewVerifiableClient(suite, key).Finalize(data, &oprf.Evaluation{Elements: evaluated, Proof: proof})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	out := make([]byte, 0, n*OutputSize)
	for _, o := range outputs {
		out = append(out, o...)
	}
	return out, nil
}

func prf(key []byte, label string, n int) [32]byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(label))
	m.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
	return [32]byte(m.Sum(nil))
}
