// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
)

// Sizes of the KEM (MLKEM768X25519, the same as package sealed's) in bytes.
const (
	PublicSize     = 1216 // ML-KEM-768's 1184, X25519's 32
	CiphertextSize = 1120 // ML-KEM-768's 1088, X25519's 32

	blockHead = 1 + 4 // kind, epoch: in front of either
	seedSize  = 32
)

// The labels of a turn from one epoch to the next, and of a recovery.
const (
	labelKEM    = "tarn/1 ratchet kem\x00"      // ‖ epoch: the HPKE info
	labelShared = "tarn/1 ratchet shared"       // exporter context of ss
	labelTurn   = "tarn/1 ratchet turn\x00"     // the transcript's hash begins with it
	labelRoot   = "tarn/1 ratchet root"         // HKDF info of the next root
	labelRescue = "tarn/1 ratchet recovery\x00" // a recovery's transcript
	labelReborn = "tarn/1 ratchet recovery root"
)

// The kinds of KEM block.
const (
	blockOffer  = 1 // public key
	blockAnswer = 2 // ciphertext
)

// ErrBlock: the bytes are no KEM block, or one that makes no sense now. A peer's mistake: nothing changes by it.
var ErrBlock = errors.New("ratchet: impossible KEM block")

// seed is the private half of an offered key.
type seed [seedSize]byte

func (seed) String() string       { return "[seed]" }
func (seed) LogValue() slog.Value { return slog.StringValue("[seed]") }

// newSeed makes a key from crypto/rand. It errs only if the platform's cryptography refuses (a FIPS setting).
func newSeed() (s seed, err error) {
	k, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return s, fmt.Errorf("ratchet: make a key: %w", err)
	}
	b, err := k.Bytes()
	if err != nil || len(b) != seedSize {
		return s, fmt.Errorf("ratchet: make a key: %w", errors.Join(err, ErrState))
	}
	return seed(b), nil
}

// private is the key that the seed stands for.
func (s *seed) private() (hpke.PrivateKey, error) {
	k, err := hpke.MLKEM768X25519().NewPrivateKey(s[:])
	if err != nil {
		return nil, fmt.Errorf("%w: a key's seed: %w", ErrState, err)
	}
	return k, nil
}

// public is its public half, PublicSize bytes.
func (s *seed) public() ([]byte, error) {
	k, err := s.private()
	if err != nil {
		return nil, err
	}
	return k.PublicKey().Bytes(), nil
}

func kemInfo(epoch uint32) []byte { return binary.BigEndian.AppendUint32([]byte(labelKEM), epoch) }

// checkPublic is ErrBlock for what is no public key.
func checkPublic(b []byte) error {
	if _, err := hpke.MLKEM768X25519().NewPublicKey(b); err != nil {
		return fmt.Errorf("%w: the key: %w", ErrBlock, err)
	}
	return nil
}

// encapsulate makes a fresh shared secret for the holder of a public key.
func encapsulate(public []byte, epoch uint32) (ct, ss []byte, err error) {
	k, err := hpke.MLKEM768X25519().NewPublicKey(public)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the key: %w", ErrBlock, err)
	}
	ct, s, err := hpke.NewSender(k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), kemInfo(epoch))
	if err != nil {
		return nil, nil, fmt.Errorf("ratchet: encapsulate: %w", err)
	}
	if ss, err = s.Export(labelShared, 32); err != nil {
		return nil, nil, fmt.Errorf("ratchet: encapsulate: %w", err)
	}
	return ct, ss, nil
}

// decapsulate finds it again. A ciphertext that was changed gives another secret (implicit rejection) or ErrBlock.
func (s *seed) decapsulate(ct []byte, epoch uint32) (ss []byte, err error) {
	k, err := s.private()
	if err != nil {
		return nil, err
	}
	r, err := hpke.NewRecipient(ct, k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), kemInfo(epoch))
	if err != nil {
		return nil, fmt.Errorf("%w: the answer: %w", ErrBlock, err)
	}
	if ss, err = r.Export(labelShared, 32); err != nil {
		return nil, fmt.Errorf("ratchet: decapsulate: %w", err)
	}
	return ss, nil
}

// nextRoot is the root of the epoch after the one that carry is of. The transcript binds the epoch, who offered, the
// offered key and the answer; carry binds all that went before.
func nextRoot(carry *[32]byte, ss []byte, epoch uint32, initiatorOffers bool, public, ct []byte) Root {
	return mix(append(append([]byte(nil), carry[:]...), ss...), labelTurn, labelRoot, epoch, initiatorOffers, public, ct)
}

// mix is HKDF(secret, salt = SHA-256(label ‖ epoch ‖ who offered ‖ public ‖ ct), info, 32).
func mix(secret []byte, label, info string, epoch uint32, initiatorOffers bool, public, ct []byte) Root {
	h := sha256.New()
	h.Write([]byte(label))
	h.Write(binary.BigEndian.AppendUint32(nil, epoch))
	who := byte(0)
	if initiatorOffers {
		who = 1
	}
	h.Write([]byte{who})
	h.Write(public)
	h.Write(ct)
	k, err := hkdf.Key(sha256.New, secret, h.Sum(nil), info, 32)
	if err != nil {
		panic(err) // 32 is a possible length
	}
	return Root(k)
}

// appendBlock writes a KEM block: kind 1, the epoch that it leads to 4, key or ciphertext.
func appendBlock(kind byte, epoch uint32, body []byte) []byte {
	b := make([]byte, 0, blockHead+len(body))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, epoch)
	return append(b, body...)
}

// readBlock takes it apart; body is part of b.
func readBlock(b []byte) (kind byte, epoch uint32, body []byte, err error) {
	if len(b) < blockHead {
		return 0, 0, nil, fmt.Errorf("%w: %d bytes", ErrBlock, len(b))
	}
	kind, epoch, body = b[0], binary.BigEndian.Uint32(b[1:]), b[blockHead:]
	if kind == blockOffer && len(body) == PublicSize || kind == blockAnswer && len(body) == CiphertextSize {
		return kind, epoch, body, nil
	}
	return 0, 0, nil, fmt.Errorf("%w: kind %d of %d bytes", ErrBlock, kind, len(b))
}

// A recovery begins a stream pair again between two nodes of which at least one has lost its newest state (a restored
// backup). The one that lost it offers a fresh key, the other one answers. Both messages are sealed and signed by the
// caller; what they share already (the recovery secret) goes into the root as carry does in a turn.

// Offer is the private half of a recovery. It is a value; Bytes and ParseOffer keep it on disk.
type Offer struct{ seed seed }

// NewOffer makes one from crypto/rand.
func NewOffer() (Offer, error) {
	s, err := newSeed()
	return Offer{s}, err
}

// String and LogValue keep the secret out of logs.
func (Offer) String() string       { return "[offer]" }
func (Offer) LogValue() slog.Value { return slog.StringValue("[offer]") }

// Bytes are the 32 secret bytes of it.
func (o Offer) Bytes() []byte { return append([]byte(nil), o.seed[:]...) }

// ParseOffer reads Bytes; ErrState.
func ParseOffer(b []byte) (Offer, error) {
	if len(b) != seedSize {
		return Offer{}, fmt.Errorf("%w: an offer of %d bytes", ErrState, len(b))
	}
	return Offer{seed(b)}, nil
}

// Public is what the other node needs: PublicSize bytes.
func (o Offer) Public() ([]byte, error) { return o.seed.public() }

// AnswerOffer is the other node's part: the ciphertext for it and the root of the epoch that both go to.
func AnswerOffer(secret [32]byte, epoch uint32, initiatorOffers bool, public []byte) (ct []byte, root Root, err error) {
	ct, ss, err := encapsulate(public, epoch)
	if err != nil {
		return nil, Root{}, err
	}
	return ct, mix(append(append([]byte(nil), secret[:]...), ss...), labelRescue, labelReborn, epoch, initiatorOffers, public, ct), nil
}

// Root is the root that the answer leads to. ErrBlock.
func (o Offer) Root(secret [32]byte, epoch uint32, initiatorOffers bool, ct []byte) (Root, error) {
	if len(ct) != CiphertextSize {
		return Root{}, fmt.Errorf("%w: an answer of %d bytes", ErrBlock, len(ct))
	}
	public, err := o.seed.public()
	if err != nil {
		return Root{}, err
	}
	ss, err := o.seed.decapsulate(ct, epoch)
	if err != nil {
		return Root{}, err
	}
	return mix(append(append([]byte(nil), secret[:]...), ss...), labelRescue, labelReborn, epoch, initiatorOffers, public, ct), nil
}
