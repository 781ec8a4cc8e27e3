// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"tarn/crypto/layered"
)

// A link is the connection on which a courier hands the sealed requests of its sessions to another mailbox, and gets
// the answers: one a pair, for long. It begins with LinkRequest; the answer to that is the mailbox's descriptor in clear
// (ClearDescriptor), or ClearBusy or ClearRefused, and then messages go both ways, each of a size that its kind alone
// decides. A tag, which the courier chooses, says which answer belongs to which request. The messages are in clear: what
// they carry is sealed end to end, and the connection is Tor's. SPEC chapter 4.

// LinkKind is the first byte of a message.
type LinkKind byte

// The kinds of messages.
const (
	LinkPut     LinkKind = 1 // to the store: tag 4, epoch 4, PUT half
	LinkGet     LinkKind = 2 // to the store: tag 4, epoch 4, GET half
	LinkReceipt LinkKind = 3 // from the store: tag 4, receipt
	LinkAnswer  LinkKind = 4 // from the store: tag 4, GET answer

	// The same for halves with layers, which go from courier to courier, are these plus 4 for each layer.
	linkLayer LinkKind = 4
	maxLink            = LinkAnswer + MaxLayers*linkLayer
)

// ErrLink: the bytes are not a message of that direction.
var ErrLink = errors.New("mailbox: invalid message on a link")

// LinkMessage is one message.
type LinkMessage struct {
	Kind  LinkKind
	Tag   uint32
	Epoch uint32 // of the key that the half is sealed to; not in answers
	Data  []byte // the half or the answer
}

// MaxLinkMessage is the size of the largest message: 11,826 bytes.
const MaxLinkMessage = 1 + 4 + 4 + SealedPutSize + MaxLayers*layered.Overhead

// LinkKindOf is the kind of message that a half of that size travels in.
func LinkKindOf(size int) LinkKind {
	put, layers, ok := HalfShape(size)
	switch {
	case !ok:
		return 0
	case put:
		return LinkPut + LinkKind(layers)*linkLayer
	}
	return LinkGet + LinkKind(layers)*linkLayer
}

// Answer is the kind of the answer to that kind.
func (k LinkKind) Answer() LinkKind {
	if !k.request() {
		return 0
	}
	return k + (LinkReceipt - LinkPut)
}

// base is the kind without its layers.
func (k LinkKind) base() (base LinkKind, layers int) {
	if k < LinkPut || k > maxLink {
		return 0, 0
	}
	return (k-1)%linkLayer + 1, int(k-1) / int(linkLayer)
}

// request says whether it goes to the store; an epoch is in it.
func (k LinkKind) request() bool {
	b, _ := k.base()
	return b == LinkPut || b == LinkGet
}

// data is the size of what the message carries; 0 for an unknown kind.
func (k LinkKind) data() int {
	switch b, layers := k.base(); b {
	case LinkPut, LinkGet:
		return HalfSize(b == LinkPut, layers)
	case LinkReceipt, LinkAnswer:
		return HalfAnswerSize(b == LinkReceipt, layers)
	}
	return 0
}

// AppendLinkMessage appends m to dst. It panics if Data has not the size of its kind.
func AppendLinkMessage(dst []byte, m LinkMessage) []byte {
	if m.Kind.data() == 0 || len(m.Data) != m.Kind.data() {
		panic(fmt.Sprintf("mailbox: a link message of kind %d with %d bytes", m.Kind, len(m.Data)))
	}
	dst = append(dst, byte(m.Kind))
	dst = binary.BigEndian.AppendUint32(dst, m.Tag)
	if m.Kind.request() {
		dst = binary.BigEndian.AppendUint32(dst, m.Epoch)
	}
	return append(dst, m.Data...)
}

// ReadLinkMessage reads the next message. answers says which direction it is: the requests', or the answers'. Data is
// newly made, of at most MaxLinkMessage bytes. What is no message is ErrLink; the other errors are r's.
func ReadLinkMessage(r io.Reader, answers bool) (LinkMessage, error) {
	var head [1 + 4 + 4]byte
	if _, err := io.ReadFull(r, head[:5]); err != nil {
		return LinkMessage{}, err
	}
	m := LinkMessage{Kind: LinkKind(head[0]), Tag: binary.BigEndian.Uint32(head[1:])}
	if m.Kind.data() == 0 || m.Kind.request() == answers {
		return LinkMessage{}, fmt.Errorf("%w: kind %d", ErrLink, m.Kind)
	}
	if m.Kind.request() {
		if _, err := io.ReadFull(r, head[5:]); err != nil {
			return LinkMessage{}, noEOF(err)
		}
		m.Epoch = binary.BigEndian.Uint32(head[5:])
	}
	m.Data = make([]byte, m.Kind.data())
	if _, err := io.ReadFull(r, m.Data); err != nil {
		return LinkMessage{}, noEOF(err)
	}
	return m, nil
}

// noEOF: an end within a message is no orderly one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
