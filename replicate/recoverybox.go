// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/crypto/sealed"
	"tarn/mailbox"
)

const (
	labelRecoverySecret = "tarn/1 recovery secret"      // HKDF info of what both keep of the first contact
	labelRecoveryID     = "tarn/1 recovery id"          // ‖ 1 if the initiator writes, else 0 ‖ day 4 ‖ try 1: HKDF info
	labelRecoveryKey    = "tarn/1 recovery key"         // as well
	labelRequest        = "tarn/1 recovery request\x00" // ‖ key of the writer ‖ key of the reader: HPKE info, and what is signed begins so
	labelAnswer         = "tarn/1 recovery answer\x00"  // as well

	recoveryTries = 4                                       // boxes a day: one backup can be restored more than once
	recoveryDays  = 15                                      // how old a box may be that is looked for: as long as stores keep them
	requestSize   = 1 + 8 + ratchet.PublicSize              // version, Unix seconds, key
	answerSize    = 1 + 8 + 4 + 32 + ratchet.CiphertextSize // version, Unix seconds, epoch, hash of the request, ciphertext
)

// recoveryPlace is where a request or an answer of a day lies.
func recoveryPlace(secret [32]byte, initiator bool, day uint32, try byte) place {
	who := byte(0)
	if initiator {
		who = 1
	}
	tail := string(append(binary.BigEndian.AppendUint32([]byte{who}, day), try))
	return place{mailbox.BoxID(derive(secret[:], nil, labelRecoveryID+tail, mailbox.IDSize)), [32]byte(derive(secret[:], nil, labelRecoveryKey+tail, 32))}
}

// sealRandom makes a box that looks like every other: nonce 24 ‖ XChaCha20-Poly1305(length 2 ‖ content ‖ zeros). The nonce
// is random, for a backup that is restored twice on a day has another content for the same place.
func (p place) sealRandom(content []byte) ([]byte, error) {
	a, err := chacha20poly1305.NewX(p.key[:])
	if err != nil {
		return nil, err
	}
	plain := make([]byte, mailbox.BoxSize-a.NonceSize()-a.Overhead())
	if len(content) > len(plain)-2 {
		return nil, fmt.Errorf("%w: %d bytes are too many for a box", ErrPayload, len(content))
	}
	binary.BigEndian.PutUint16(plain, uint16(len(content)))
	copy(plain[2:], content)
	nonce := make([]byte, a.NonceSize(), mailbox.BoxSize)
	rand.Read(nonce)
	return a.Seal(nonce, nonce, plain, p.id[:]), nil
}

// openRandom is errBadBox for anything else than that.
func (p place) openRandom(box *[mailbox.BoxSize]byte) ([]byte, error) {
	a, err := chacha20poly1305.NewX(p.key[:])
	if err != nil {
		return nil, err
	}
	n := a.NonceSize()
	plain, err := a.Open(nil, box[:n], box[n:], p.id[:])
	if err != nil {
		return nil, errBadBox
	}
	size := int(binary.BigEndian.Uint16(plain))
	if size > len(plain)-2 || len(bytes.TrimRight(plain[2+size:], "\x00")) > 0 {
		return nil, fmt.Errorf("%w: padding", ErrPayload)
	}
	return plain[2 : 2+size], nil
}

// namesOf is what binds a message to its writer and reader.
func namesOf(label string, from, to onionid.Name) ([]byte, error) {
	f, err := from.Key()
	if err != nil {
		return nil, err
	}
	t, err := to.Key()
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(label), f, t), nil
}

// sealSigned signs a message of ours and seals it for the contact.
func (e *Engine) sealSigned(c *contact, label string, body []byte) (signed, box []byte, err error) {
	info, err := namesOf(label, e.self.Name, c.name)
	if err != nil {
		return nil, nil, err
	}
	key, err := sealed.ParsePublicKey(c.peerKey)
	if err != nil {
		return nil, nil, err
	}
	signed = append(slices.Clone(body), ed25519.Sign(e.self.Key, append(slices.Clone(info), body...))...)
	box, _, err = key.Seal(info, signed)
	return signed, box, err
}

// openSigned is the other way; ErrPayload.
func (e *Engine) openSigned(c *contact, label string, content []byte, size int) (signed []byte, err error) {
	info, err := namesOf(label, c.name, e.self.Name)
	if err != nil {
		return nil, err
	}
	own, err := sealed.ParsePrivateKey(c.ownKey[:])
	if err != nil {
		return nil, err
	}
	signed, _, err = own.Open(info, content)
	if err != nil || len(signed) != size+ed25519.SignatureSize || signed[0] != contactVersion {
		return nil, fmt.Errorf("%w: form", ErrPayload)
	}
	peer, err := c.name.Key()
	if err != nil {
		return nil, err
	}
	if !ed25519.Verify(peer, append(info, signed[:size]...), signed[size:]) {
		return nil, fmt.Errorf("%w: signature", ErrPayload)
	}
	return signed, nil
}
