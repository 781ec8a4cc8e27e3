// SPDX-License-Identifier: Apache-2.0

// Package bundle turns what two nodes have to tell each other into the payload of exactly one box, and back.
//
// A box has one size, whatever it holds, so that its size tells nothing. But what nodes have to say is of every size:
// a receipt of 200 bytes, twenty events of a kilobyte, a room's state of a megabyte. And a box may be lost, doubled or
// overtaken. So a bundle is: the acknowledgement of the other direction; as many typed records as fit, of several
// rooms and users together; zeros up to the constant. What is larger than a box is cut into fragments that find
// together again by a random id. Event JSON compresses to about half, so a bundle packs tighter than it looks.
//
// Layout (docs/SPEC.md; all numbers big-endian):
//
//	version 1 | flags 1 | ack: epoch 4, next 8, seen 32 | floor: epoch 4, index 8 | zlen 2 | ilen 4 | rlen 2 |
//	[of the epoch before: ack 44, floor 12, count 8, if flag bit 1] | [KEM block: length 2, bytes, if flag bit 0] |
//	zlen bytes of zstd, which inflate to ilen | rlen bytes as they are | zeros
//
// The inflated bytes and the rlen bytes after them together are the pieces: type 1, uvarint (length*2 + fragmented),
// if fragmented: id 16, uvarint index, uvarint count; then the bytes.
//
// Invariants:
//   - Pack gives exactly Size bytes, always. Add promises only what it has already made room for.
//   - Unpack takes at most MaxInflated bytes and MaxPieces descriptors of memory, whatever it is given; Join at most
//     the sum of its fragments, checked before; a record's decoder a small multiple of the record. Lengths and counts
//     are checked before memory is taken, and none of them panics.
//   - One record has one encoding: trailing bytes, a number not in its shortest form, or padding that is not zero is
//     ErrMalformed. (One set of records has many bundles: compression is the packer's business.)
//   - Decoded ids look like what they claim ("$…", "!…", "@…:…", at most 255 bytes), no more: package matrix and room judge the rest.
//
// Nothing is kept on disk by this package. Compressors are pooled for reuse between bundles; no data stays in them
// that another bundle could see.
//
// Limits: two bundles of the same size can still differ in number, so compression could tell something about secret
// text next to chosen text by the count of boxes; the schedule (package replicate), which does not depend on content, hides that count.
package bundle
