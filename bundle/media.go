// SPDX-License-Identifier: Apache-2.0

package bundle

import "crypto/sha256"

// Sizes of files between nodes.
const (
	MediaIDSize  = 16   // bytes of a file's id: what stands in its mxc URI, decoded
	MediaPart    = 2660 // bytes of a file that one part carries; three parts fill a box, two leave room for a message
	MaxMediaSize = 1 << 30

	maxMediaParts = (MaxMediaSize + MediaPart - 1) / MediaPart
	maxMediaType  = 127
)

// MediaName names a file of a node's, or the thumbnail that the node makes of it.
type MediaName struct {
	ID    [MediaIDSize]byte
	Small bool // the thumbnail
}

// MediaWanted is a TypeMediaWanted record: its sender asks for a file of the receiver's.
type MediaWanted struct {
	MediaName
	From uint64 // the first part that is asked for
	To   uint64 // the part after the last; 0: all the rest
	Max  uint64 // bytes: of a file that is larger only the description is wanted
}

// Record encodes it: name, from, to, max. ErrTooLarge or ErrMalformed if ParseMediaWanted would refuse it.
func (m MediaWanted) Record() (Record, error) {
	var w writer
	w.media(m.MediaName)
	w.number(m.From, maxMediaParts, "first part")
	w.number(m.To, maxMediaParts, "last part")
	w.number(m.Max, maxNumber, "greatest file")
	if m.To != 0 && m.To <= m.From {
		w.fail(ErrMalformed, "last part")
	}
	return w.record(TypeMediaWanted, "a wanted file")
}

// ParseMediaWanted decodes a TypeMediaWanted record. ErrMalformed, ErrTooLarge.
func ParseMediaWanted(data []byte) (MediaWanted, error) {
	r := &reader{b: data}
	m := MediaWanted{MediaName: r.media(), From: r.number(maxMediaParts, "first part"), To: r.number(maxMediaParts, "last part"),
		Max: r.number(maxNumber, "greatest file")}
	if r.err == nil && m.To != 0 && m.To <= m.From {
		r.fail(ErrMalformed, "last part")
	}
	if err := r.end("a wanted file"); err != nil {
		return MediaWanted{}, err
	}
	return m, nil
}

// Media is a TypeMedia record: what a file of its sender's is. The parts come in records of their own, before it or after.
type Media struct {
	MediaName
	Hash []byte // SHA-256 of the whole; nil: the receiver gets no such file, and all below is empty
	Size uint64 // bytes
	Type string // content type, at most 127 bytes
	File string // name of the file, at most 255 bytes; may be empty
}

// Record encodes it: name, hash, size, type, file. ErrTooLarge or ErrMalformed if ParseMedia would refuse it.
func (m Media) Record() (Record, error) {
	var w writer
	w.media(m.MediaName)
	w.bytes(m.Hash, sha256.Size, "hash")
	w.number(m.Size, MaxMediaSize, "size")
	w.text(m.Type, maxMediaType, "content type")
	w.text(m.File, maxText, "file name")
	if !m.whole() {
		w.fail(ErrMalformed, "hash")
	}
	return w.record(TypeMedia, "a file")
}

// ParseMedia decodes a TypeMedia record; the hash is part of data. ErrMalformed, ErrTooLarge.
func ParseMedia(data []byte) (Media, error) {
	r := &reader{b: data}
	m := Media{MediaName: r.media(), Hash: some(r.bytes(sha256.Size, "hash")), Size: r.number(MaxMediaSize, "size"),
		Type: r.text(maxMediaType, "content type"), File: r.text(maxText, "file name")}
	if r.err == nil && !m.whole() {
		r.fail(ErrMalformed, "hash")
	}
	if err := r.end("a file"); err != nil {
		return Media{}, err
	}
	return m, nil
}

// whole tells whether either all is there or nothing.
func (m Media) whole() bool {
	return len(m.Hash) == sha256.Size || len(m.Hash) == 0 && m.Size == 0 && m.Type == "" && m.File == ""
}

// MediaBytes is a TypeMediaPart record: bytes of a file of its sender's.
type MediaBytes struct {
	MediaName
	Part  uint64 // they begin at Part·MediaPart
	Bytes []byte // MediaPart of them, 1 or more in the last part
}

// Record encodes it: name, part, bytes. ErrTooLarge or ErrMalformed if ParseMediaBytes would refuse it.
func (m MediaBytes) Record() (Record, error) {
	var w writer
	w.media(m.MediaName)
	w.number(m.Part, maxMediaParts, "part")
	if len(m.Bytes) == 0 {
		w.fail(ErrMalformed, "part of a file")
	}
	w.bytes(m.Bytes, MediaPart, "part of a file")
	return w.record(TypeMediaPart, "a part of a file")
}

// ParseMediaBytes decodes a TypeMediaPart record; Bytes is part of data. ErrMalformed, ErrTooLarge.
func ParseMediaBytes(data []byte) (MediaBytes, error) {
	r := &reader{b: data}
	m := MediaBytes{MediaName: r.media(), Part: r.number(maxMediaParts, "part"), Bytes: r.bytes(MediaPart, "part of a file")}
	if r.err == nil && len(m.Bytes) == 0 {
		r.fail(ErrMalformed, "part of a file")
	}
	if err := r.end("a part of a file"); err != nil {
		return MediaBytes{}, err
	}
	return m, nil
}

// media reads a name: the id's bytes with nothing in front, then 1 for a thumbnail, 0 for the file.
func (r *reader) media() (m MediaName) {
	copy(m.ID[:], r.take(MediaIDSize, "file id"))
	m.Small = r.number(1, "kind of file") == 1
	return m
}

func (w *writer) media(m MediaName) {
	w.b = append(w.b, m.ID[:]...)
	small := uint64(0)
	if m.Small {
		small = 1
	}
	w.number(small, 1, "kind of file")
}
