// SPDX-License-Identifier: Apache-2.0

package bundle

import "encoding/binary"

// maxTries bounds how often one Packer compresses: full bundles need some 5 to 10. After that only what fits
// uncompressed is taken.
const maxTries = 32

// Packer fills one bundle. It is not safe for concurrent use; use it for one bundle only.
//
// What it holds always fits: z, which is raw[:done] compressed, and the tail raw[done:] as it is. A piece that does
// not fit behind that makes it compress the tail too, and so on; each time the room that is gained is some half of the
// tail, so that the number of compressions grows with the logarithm of how full the bundle gets.
type Packer struct {
	head   Head
	room   int    // for pieces, compressed or not
	raw    []byte // all pieces
	done   int    // how many bytes of raw are in z
	z      []byte
	pieces int
	tries  int
	failed int // the smallest piece that did not fit; larger ones are not tried again
}

// NewPacker begins a bundle with its head (zero value: nothing received yet). A KEM block of more than MaxKEM bytes is
// a programmer's error and panics.
func NewPacker(h Head) *Packer {
	if len(h.KEM) > MaxKEM {
		panic("bundle: a KEM block that nobody would read")
	}
	room := Size - headSize
	if h.Before != nil {
		room -= beforeSize
	}
	if h.KEM != nil {
		room -= 2 + len(h.KEM)
	}
	return &Packer{head: h, room: room, failed: MaxInflated + 1}
}

// Add puts a whole record in if it (compressed with what is there) still fits; false: it does not, the bundle is unchanged.
// Data is copied. Once a record did not fit, one as large or larger is refused unseen, though it might compress better.
func (p *Packer) Add(r Record) bool {
	return p.AddFragment(Fragment{Type: r.Type, Count: 1, Data: r.Data})
}

// AddFragment is Add for one fragment. It is false also for one that nobody could read: Type or Count 0, or Index not
// below Count.
func (p *Packer) AddFragment(f Fragment) bool {
	if f.Type == 0 || f.Index >= f.Count || f.Count > MaxFragments || f.Count > 1 && len(f.Data) == 0 {
		return false
	}
	if len(f.Data) > MaxInflated || p.pieces >= MaxPieces {
		return false
	}
	before := len(p.raw)
	p.raw = appendPiece(p.raw, f)
	size := len(p.raw) - before
	if !p.fit(before, size) {
		p.raw = p.raw[:before]
		p.failed = min(p.failed, size)
		return false
	}
	p.pieces++
	return true
}

// fit makes room for raw[before:], size bytes, and tells whether it could.
func (p *Packer) fit(before, size int) bool {
	if len(p.raw) > MaxInflated {
		return false
	}
	if len(p.z)+len(p.raw)-p.done <= p.room {
		return true
	}
	if size >= p.failed {
		return false
	}
	// The tail alone: later pieces then still go in uncompressed.
	if p.done < before && p.compress(before) && len(p.z)+size <= p.room {
		return true
	}
	return p.compress(len(p.raw))
}

// compress puts raw[:n] into z, if that leaves z smaller than the room there is; else nothing changes.
func (p *Packer) compress(n int) bool {
	if p.tries >= maxTries {
		return false
	}
	p.tries++
	z := deflate(p.raw[:n])
	if len(z) > p.room || len(z) >= len(p.z)+n-p.done {
		return false
	}
	p.z, p.done = z, n
	return true
}

// Pack gives exactly Size bytes.
func (p *Packer) Pack() []byte {
	b := make([]byte, 0, Size)
	var flags byte
	if p.head.KEM != nil {
		flags |= flagKEM
	}
	if p.head.Before != nil {
		flags |= flagBefore
	}
	b = append(b, version, flags)
	b = appendFloor(appendAck(b, p.head.Ack), p.head.Floor)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.z)))
	b = binary.BigEndian.AppendUint32(b, uint32(p.done))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.raw)-p.done))
	if o := p.head.Before; o != nil {
		b = appendFloor(appendAck(b, o.Ack), o.Floor)
		b = binary.BigEndian.AppendUint64(b, o.Count)
	}
	if k := p.head.KEM; k != nil {
		b = binary.BigEndian.AppendUint16(b, uint16(len(k)))
		b = append(b, k...)
	}
	b = append(b, p.z...)
	b = append(b, p.raw[p.done:]...)
	return b[:Size] // the rest is zero; what did not fit would panic, and fit sees to it that all fits
}

func appendAck(b []byte, a Ack) []byte {
	b = binary.BigEndian.AppendUint32(b, a.Epoch)
	b = binary.BigEndian.AppendUint64(b, a.Next)
	return append(b, a.Seen[:]...)
}

func appendFloor(b []byte, f Floor) []byte {
	b = binary.BigEndian.AppendUint32(b, f.Epoch)
	return binary.BigEndian.AppendUint64(b, f.Index)
}

// appendPiece writes a fragment or a whole record.
func appendPiece(b []byte, f Fragment) []byte {
	b = append(b, byte(f.Type))
	if f.Count == 1 {
		b = binary.AppendUvarint(b, uint64(len(f.Data))<<1)
		return append(b, f.Data...)
	}
	b = binary.AppendUvarint(b, uint64(len(f.Data))<<1|1)
	b = append(b, f.ID[:]...)
	b = binary.AppendUvarint(b, uint64(f.Index))
	b = binary.AppendUvarint(b, uint64(f.Count))
	return append(b, f.Data...)
}
