// SPDX-License-Identifier: Apache-2.0

package bundle

import "tarn/matrix"

// Heads is a TypeHeads record: the forward extremities that its sender knows of a room. Who lacks one wants it.
type Heads struct {
	Room  matrix.RoomID
	Heads []matrix.EventID // at most MaxWant
}

// Record encodes h: room, list of ids. ErrTooLarge or ErrMalformed if ParseHeads would refuse it.
func (h Heads) Record() (Record, error) {
	return idsRecord(TypeHeads, h.Room, h.Heads, "heads")
}

// ParseHeads decodes a TypeHeads record. ErrMalformed, ErrTooLarge.
func ParseHeads(data []byte) (Heads, error) {
	room, ids, err := parseIDs(data, "heads")
	if err != nil {
		return Heads{}, err
	}
	return Heads{Room: room, Heads: ids}, nil
}
