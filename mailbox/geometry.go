// SPDX-License-Identifier: Apache-2.0

package mailbox

import "tarn/crypto/sealed"

// Geometry 1: the constants of sizes. They are changed deliberately, with a new number, never per message.
const (
	Geometry = 1

	PayloadSize = 8192                  // plaintext of a box: one bundle
	TagSize     = 16                    // ChaCha20-Poly1305
	BoxSize     = PayloadSize + TagSize // what a store keeps: 8208
	IDSize      = 16
	HandleSize  = 8
	TokenSize   = 96 // deposit right: token.Size

	CellData = 498           // bytes of stream data in one Tor relay cell
	UpSize   = 22 * CellData // every request to a mailbox: 10,956 bytes
	DownSize = 17 * CellData // every answer: 8,466 bytes

	// HeaderSize of a request, in clear: geometry 1, kind 1, zero 2, key epoch 4. SPEC mailbox §2.
	HeaderSize = 8
	// RequestSize is the plaintext of a sealed request: 9,812 bytes.
	RequestSize = UpSize - HeaderSize - sealed.Overhead
	// AnswerSize is the plaintext of a sealed answer (1 byte in clear stands before it): 8,425 bytes.
	AnswerSize = DownSize - 1 - sealed.ReplyOverhead
	// BodySize is what an answer has room for besides its status byte: 8,424 bytes.
	BodySize = AnswerSize - 1
)

// A request's fields must fit its size, and so must an answer's; a new geometry that breaks this does not compile.
const (
	_ = uint(RequestSize - (1 + TokenSize + IDSize + BoxSize))
	_ = uint(BodySize - BoxSize)
	_ = uint(BodySize - (closedSize + pageHeaderSize + PageHandles*HandleSize + signatureSize))
	_ = uint(DownSize - 1 - maxDescriptorSize)
)

// BoxID names a box; only the two ends of a stream can derive it.
type BoxID [IDSize]byte

// Handle is the first 8 bytes of a BoxID: what the public digest lists and what a GET asks by.
type Handle [HandleSize]byte

// Handle of the id.
func (b BoxID) Handle() Handle { return Handle(b[:HandleSize]) }
