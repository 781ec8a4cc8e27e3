// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/binary"
	"fmt"
)

// Unpack reads a bundle. It errs with ErrMalformed or ErrTooLarge and never takes more than MaxInflated bytes (and
// MaxPieces descriptors). The fragments share one new buffer; b is not kept.
func Unpack(b []byte) (Ack, []Fragment, error) {
	a, fs, err := unpack(b)
	if err != nil {
		return Ack{}, nil, fmt.Errorf("reading a bundle: %w", err)
	}
	return a, fs, nil
}

func unpack(b []byte) (a Ack, fs []Fragment, err error) {
	if len(b) != Size {
		return a, nil, fmt.Errorf("%w: %d bytes, not %d", ErrMalformed, len(b), Size)
	}
	if b[0] != version {
		return a, nil, fmt.Errorf("%w: version %d is not known", ErrMalformed, b[0])
	}
	flags := b[1]
	if flags&^flagKEM != 0 {
		return a, nil, fmt.Errorf("%w: unknown flags", ErrMalformed)
	}
	a.Epoch = binary.BigEndian.Uint32(b[2:])
	a.Next = binary.BigEndian.Uint64(b[6:])
	a.Seen = [32]byte(b[14:46])
	a.Floor = binary.BigEndian.Uint64(b[46:])
	zlen := int(binary.BigEndian.Uint16(b[54:]))
	ilen := uint64(binary.BigEndian.Uint32(b[56:]))
	rlen := int(binary.BigEndian.Uint16(b[60:]))
	rest := b[headSize:]
	if flags&flagKEM != 0 { // of a newer peer: this version has no use for it
		n := int(binary.BigEndian.Uint16(rest))
		if n > len(rest)-2 {
			return a, nil, fmt.Errorf("%w: the KEM block is cut off", ErrMalformed)
		}
		rest = rest[2+n:]
	}
	if zlen+rlen > len(rest) {
		return a, nil, fmt.Errorf("%w: the pieces are cut off", ErrMalformed)
	}
	if ilen+uint64(rlen) > MaxInflated {
		return a, nil, fmt.Errorf("%w: it would inflate to %d bytes", ErrTooLarge, ilen)
	}
	if (zlen == 0) != (ilen == 0) {
		return a, nil, fmt.Errorf("%w: the sizes before and after compression do not fit", ErrMalformed)
	}
	for _, c := range rest[zlen+rlen:] {
		if c != 0 {
			return a, nil, fmt.Errorf("%w: the padding is not zero", ErrMalformed)
		}
	}
	pieces := make([]byte, 0, int(ilen)+rlen)
	if zlen > 0 {
		if pieces, err = inflate(pieces, rest[:zlen], int(ilen)); err != nil {
			return a, nil, err
		}
	}
	pieces = append(pieces, rest[zlen:zlen+rlen]...)
	fs, err = readPieces(pieces)
	return a, fs, err
}

// readPieces takes the pieces apart; their Data alias b.
func readPieces(b []byte) (fs []Fragment, err error) {
	r := &reader{b: b}
	for len(r.b) > 0 {
		if len(fs) == MaxPieces {
			return nil, fmt.Errorf("%w: more than %d pieces", ErrTooLarge, MaxPieces)
		}
		f := Fragment{Type: Type(r.take(1, "type")[0]), Count: 1}
		if f.Type == 0 {
			return nil, fmt.Errorf("%w: type 0", ErrMalformed)
		}
		n := r.number(MaxInflated<<1|1, "length")
		if n&1 == 1 {
			copy(f.ID[:], r.take(recordIDSize, "fragment id"))
			f.Index = uint16(r.number(MaxFragments-1, "fragment index"))
			f.Count = uint16(r.number(MaxFragments, "fragment count"))
			if r.err == nil && (f.Count < 2 || f.Index >= f.Count || n>>1 == 0) {
				return nil, fmt.Errorf("%w: impossible fragment", ErrMalformed)
			}
		}
		f.Data = r.take(int(n>>1), "piece")
		if r.err != nil {
			return nil, r.err
		}
		fs = append(fs, f)
	}
	return fs, nil
}
