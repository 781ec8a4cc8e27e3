// SPDX-License-Identifier: Apache-2.0

package mailbox

// Geometry 1: the constants of sizes. They are changed deliberately, with a new number, never per message.
const (
	Geometry = 1

	PayloadSize = 8192                  // plaintext of a box: one bundle
	TagSize     = 16                    // ChaCha20-Poly1305
	BoxSize     = PayloadSize + TagSize // what a store keeps: 8208
	IDSize      = 16
	HandleSize  = 8
	TokenSize   = 96 // deposit right; zero until tokens exist (issue 3)

	CellData = 498           // bytes of stream data in one Tor relay cell
	UpSize   = 22 * CellData // every request to a mailbox: 10,956 bytes
	DownSize = 17 * CellData // every answer: 8,466 bytes
)

// BoxID names a box; only the two ends of a stream can derive it.
type BoxID [IDSize]byte

// Handle is the first 8 bytes of a BoxID: what the public digest lists and what a GET asks by.
type Handle [HandleSize]byte

// Handle of the id.
func (b BoxID) Handle() Handle { return Handle(b[:HandleSize]) }
