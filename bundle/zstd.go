// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// atOnce is how many bundles are packed, and how many unpacked, at the same time; more wait their turn. A node packs
// and unpacks one at a time.
const atOnce = 2

// A compressor is a few hundred kilobytes of tables, so it is used again. These hold scratch memory, not state: EncodeAll
// and DecodeAll begin anew each time and are safe for concurrent use. Neither has goroutines of its own.
//
// They are made here and not in a sync.Pool when first needed: both have channels inside, and one that is made in a
// testing/synctest bubble is fatal to the process when the next bubble gets it from the pool.
var (
	encoder = newEncoder()
	decoder = newDecoder()
)

func newEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderConcurrency(atOnce),
		zstd.WithEncoderLevel(zstd.SpeedFastest), // higher levels gain 2 % at most: what is left is hashes and signatures
		zstd.WithWindowSize(MaxInflated),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderCRC(false), // the box is authenticated
		zstd.WithLowerEncoderMem(true),
	)
	if err != nil {
		panic(err) // constant options
	}
	e.EncodeAll([]byte("its channel is made now"), nil)
	return e
}

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(atOnce),
		zstd.WithDecoderMaxMemory(MaxInflated),
		zstd.WithDecoderMaxWindow(MaxInflated),
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderLowmem(true),
	)
	if err != nil {
		panic(err) // constant options
	}
	return d
}

// deflate compresses src.
func deflate(src []byte) []byte {
	return encoder.EncodeAll(src, make([]byte, 0, len(src)/2))
}

// inflate appends what src holds to dst, which must have room for n bytes; n is all that may come out. ErrMalformed.
func inflate(dst, src []byte, n int) ([]byte, error) {
	at := len(dst)
	// Exactly n bytes of room: the decoder takes no more than the room that it is given.
	out, err := decoder.DecodeAll(src, dst[at:at:at+n])
	if err != nil || len(out) != n {
		return nil, fmt.Errorf("%w: what is compressed does not inflate to %d bytes", ErrMalformed, n)
	}
	if &out[0] != &dst[:at+1][at] { // never, with the limit above; but then dst would not hold it
		return append(dst, out...), nil
	}
	return dst[:at+n], nil
}
