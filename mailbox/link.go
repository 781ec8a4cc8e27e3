// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

// linkSizes are how long messages are after their kind, by kind, and whether an epoch is in them.
var linkSizes = [...]struct {
	data  int
	epoch bool
}{
	LinkPut: {SealedPutSize, true}, LinkGet: {SealedGetSize, true},
	LinkReceipt: {ReceiptSize, false}, LinkAnswer: {GetAnswerSize, false},
}

// MaxLinkMessage is the size of the largest message: 9,466 bytes.
const MaxLinkMessage = 1 + 4 + 4 + SealedPutSize

// Answer is the kind of the answer to that kind.
func (k LinkKind) Answer() LinkKind {
	switch k {
	case LinkPut:
		return LinkReceipt
	case LinkGet:
		return LinkAnswer
	}
	return 0
}

// size of the message after its kind; 0 for an unknown kind.
func (k LinkKind) size() int {
	if int(k) >= len(linkSizes) || linkSizes[k].data == 0 {
		return 0
	}
	n := 4 + linkSizes[k].data
	if linkSizes[k].epoch {
		n += 4
	}
	return n
}

// AppendLinkMessage appends m to dst. It panics if Data has not the size of its kind.
func AppendLinkMessage(dst []byte, m LinkMessage) []byte {
	if m.Kind.size() == 0 || len(m.Data) != linkSizes[m.Kind].data {
		panic(fmt.Sprintf("mailbox: a link message of kind %d with %d bytes", m.Kind, len(m.Data)))
	}
	dst = append(dst, byte(m.Kind))
	dst = binary.BigEndian.AppendUint32(dst, m.Tag)
	if linkSizes[m.Kind].epoch {
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
	if m.Kind.size() == 0 || linkSizes[m.Kind].epoch == answers {
		return LinkMessage{}, fmt.Errorf("%w: kind %d", ErrLink, m.Kind)
	}
	if linkSizes[m.Kind].epoch {
		if _, err := io.ReadFull(r, head[5:]); err != nil {
			return LinkMessage{}, noEOF(err)
		}
		m.Epoch = binary.BigEndian.Uint32(head[5:])
	}
	m.Data = make([]byte, linkSizes[m.Kind].data)
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
