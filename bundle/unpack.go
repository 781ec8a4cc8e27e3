// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/binary"
	"fmt"
)

// Unpack reads a bundle. It errs with ErrMalformed or ErrTooLarge and never takes more than MaxInflated bytes (and
// MaxPieces descriptors). The fragments share one new buffer; b is not kept.
func Unpack(b []byte) (Head, []Fragment, error) {
	h, fs, err := unpack(b)
	if err != nil {
		return Head{}, nil, fmt.Errorf("reading a bundle: %w", err)
	}
	return h, fs, nil
}

func unpack(b []byte) (h Head, fs []Fragment, err error) {
	if len(b) != Size {
		return h, nil, fmt.Errorf("%w: %d bytes, not %d", ErrMalformed, len(b), Size)
	}
	if b[0] != version {
		return h, nil, fmt.Errorf("%w: version %d is not known", ErrMalformed, b[0])
	}
	flags := b[1]
	if flags&^(flagKEM|flagBefore) != 0 {
		return h, nil, fmt.Errorf("%w: unknown flags", ErrMalformed)
	}
	r := &reader{b: b[2:]}
	h.Ack, h.Floor = r.ack(), r.floor()
	sizes := r.take(8, "sizes")
	zlen := int(binary.BigEndian.Uint16(sizes))
	ilen := uint64(binary.BigEndian.Uint32(sizes[2:]))
	rlen := int(binary.BigEndian.Uint16(sizes[6:]))
	if flags&flagBefore != 0 {
		h.Before = &Before{Ack: r.ack(), Floor: r.floor(), Count: binary.BigEndian.Uint64(r.take(8, "count"))}
	}
	if flags&flagKEM != 0 {
		n := int(binary.BigEndian.Uint16(r.take(2, "KEM block")))
		if n > MaxKEM {
			return h, nil, fmt.Errorf("%w: a KEM block of %d bytes", ErrTooLarge, n)
		}
		h.KEM = append([]byte{}, r.take(n, "KEM block")...)
	}
	rest := r.b // a head is much shorter than a bundle: no error so far
	if zlen+rlen > len(rest) {
		return h, nil, fmt.Errorf("%w: the pieces are cut off", ErrMalformed)
	}
	if ilen+uint64(rlen) > MaxInflated {
		return h, nil, fmt.Errorf("%w: it would inflate to %d bytes", ErrTooLarge, ilen)
	}
	if (zlen == 0) != (ilen == 0) {
		return h, nil, fmt.Errorf("%w: the sizes before and after compression do not fit", ErrMalformed)
	}
	for _, c := range rest[zlen+rlen:] {
		if c != 0 {
			return h, nil, fmt.Errorf("%w: the padding is not zero", ErrMalformed)
		}
	}
	pieces := make([]byte, 0, int(ilen)+rlen)
	if zlen > 0 {
		if pieces, err = inflate(pieces, rest[:zlen], int(ilen)); err != nil {
			return h, nil, err
		}
	}
	pieces = append(pieces, rest[zlen:zlen+rlen]...)
	fs, err = readPieces(pieces)
	return h, fs, err
}

// ack and floor read the head's fixed parts, for which there are bytes.
func (r *reader) ack() Ack {
	b := r.take(ackSize, "acknowledgement")
	return Ack{Epoch: binary.BigEndian.Uint32(b), Next: binary.BigEndian.Uint64(b[4:]), Seen: [32]byte(b[12:])}
}

func (r *reader) floor() Floor {
	b := r.take(floorSize, "floor")
	return Floor{binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:])}
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
