// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A compressor is a few hundred kilobytes of tables, so it is used again. Pools hold scratch memory, not state: EncodeAll
// and DecodeAll begin anew each time. Neither has goroutines of its own at concurrency 1.
var (
	encoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderLevel(zstd.SpeedFastest), // higher levels gain 2 % at most: what is left is hashes and signatures
			zstd.WithWindowSize(MaxInflated),
			zstd.WithSingleSegment(true),
			zstd.WithEncoderCRC(false), // the box is authenticated
			zstd.WithLowerEncoderMem(true),
		)
		if err != nil {
			panic(err) // constant options
		}
		return e
	}}
	decoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(MaxInflated),
			zstd.WithDecoderMaxWindow(MaxInflated),
			zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderLowmem(true),
		)
		if err != nil {
			panic(err) // constant options
		}
		return d
	}}
)

// deflate compresses src.
func deflate(src []byte) []byte {
	e := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(e)
	return e.EncodeAll(src, make([]byte, 0, len(src)/2))
}

// inflate appends what src holds to dst, which must have room for n bytes; n is all that may come out. ErrMalformed.
func inflate(dst, src []byte, n int) ([]byte, error) {
	d := decoders.Get().(*zstd.Decoder)
	defer decoders.Put(d)
	at := len(dst)
	// Exactly n bytes of room: the decoder takes no more than the room that it is given.
	out, err := d.DecodeAll(src, dst[at:at:at+n])
	if err != nil || len(out) != n {
		return nil, fmt.Errorf("%w: what is compressed does not inflate to %d bytes", ErrMalformed, n)
	}
	if &out[0] != &dst[:at+1][at] { // never, with the limit above; but then dst would not hold it
		return append(dst, out...), nil
	}
	return dst[:at+n], nil
}
