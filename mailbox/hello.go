// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"tarn/crypto/sealed"
)

// Hello is what a node says at the begin of a session. It is sealed to the courier's key of the day.
type Hello struct {
	// Geometry of the frames that will follow: Geometry, or GeometryLayers.
	Geometry byte
	// Token is a session token of the courier's; nil: none. With one a session has a reserved place.
	Token *[TokenSize]byte
	// Push is the time between two page frames; whole milliseconds; 0: none are sent.
	Push time.Duration
	// Frame is the mean time between two frames of the node's, whichever of its couriers they go to; whole milliseconds, at
	// most MaxFrame; 0: a second. The courier takes that many or refuses the session (ErrRate).
	Frame time.Duration
}

const (
	// MinPush is the shortest time between two page frames.
	MinPush = 50 * time.Millisecond
	// MaxFrame is the longest mean time between two frames.
	MaxFrame = 24 * time.Hour
)

// Offsets in a hello's plaintext.
const (
	atHelloToken = 2
	atPush       = atHelloToken + TokenSize
	atEach       = atPush + 4
	atHelloPad   = atEach + 4
)

// SealHello fills up with h, sealed to the courier's key of that epoch. The reply opens the answer, and both directions'
// keys are derived from it.
func SealHello(up *[UpSize]byte, h Hello, key *sealed.PublicKey, info []byte, epoch uint32) (*sealed.Reply, error) {
	p := make([]byte, RequestSize)
	p[0] = h.Geometry
	if h.Token != nil {
		p[1] = 1
		copy(p[atHelloToken:], h.Token[:])
	}
	binary.BigEndian.PutUint32(p[atPush:], uint32(min(max(h.Push, 0), MaxDelay)/time.Millisecond))
	binary.BigEndian.PutUint32(p[atEach:], uint32(min(max(h.Frame, 0), MaxFrame)/time.Millisecond))
	box, reply, err := key.Seal(info, p)
	if err != nil {
		return nil, err
	}
	putHeader(up, Header{Kind: KindSession, Epoch: epoch})
	copy(up[HeaderSize:], box)
	return reply, nil
}

// OpenHello opens a hello. One that does not open is sealed.ErrOpen, without a reply; one that opens to nonsense is
// ErrRequest, with the reply that the refusal can be sealed with.
func OpenHello(up *[UpSize]byte, key *sealed.PrivateKey, info []byte) (Hello, *sealed.Reply, error) {
	p, reply, err := key.Open(info, up[HeaderSize:])
	if err != nil {
		return Hello{}, nil, err
	}
	h, err := parseHello(p)
	return h, reply, err
}

func parseHello(p []byte) (Hello, error) {
	if len(p) != RequestSize {
		return Hello{}, fmt.Errorf("%w: a hello of %d bytes", ErrRequest, len(p))
	}
	h := Hello{Geometry: p[0]}
	push, ok := delay(p[atPush:])
	h.Push, h.Frame = push, time.Duration(binary.BigEndian.Uint32(p[atEach:]))*time.Millisecond
	switch {
	case p[1] > 1, p[1] == 0 && !zero(p[atHelloToken:atPush]), !ok, push != 0 && push < MinPush, h.Frame > MaxFrame:
		return Hello{}, fmt.Errorf("%w: an impossible hello", ErrRequest)
	case p[1] == 1:
		h.Token = (*[TokenSize]byte)(p[atHelloToken:])
	}
	return h, padding(p[atHelloPad:])
}

// SealWelcome fills down with the answer that opens a session: the salt of its keys, and the courier's descriptor.
func SealWelcome(down *[DownSize]byte, reply *sealed.Reply, salt *[SaltSize]byte, descriptor []byte) {
	body := make([]byte, 0, BodySize)
	SealAnswer(down, reply, StatusOK, append(append(body, salt[:]...), descriptor...))
}

const _ = uint(BodySize - SaltSize - maxDescriptorSize)

// OpenWelcome opens the answer to a hello: the session's salt, and the courier's descriptor followed by zeros.
func OpenWelcome(down *[DownSize]byte, reply *sealed.Reply) (salt, descriptor []byte, err error) {
	s, body, err := OpenAnswer(down, reply)
	if err == nil {
		err = s.err(body)
	}
	if err != nil {
		return nil, nil, err
	}
	return body[:SaltSize], body[SaltSize:], nil
}

// LinkRequest fills up with a courier's wish to hand over requests: see LinkMessage.
func LinkRequest(up *[UpSize]byte) {
	putHeader(up, Header{Kind: KindLink})
	rand.Read(up[HeaderSize:])
}
