// SPDX-License-Identifier: Apache-2.0

package bundle

import "tarn/matrix"

// MaxWant is how many events one TypeWant record asks for, and how many heads one TypeHeads record names.
const MaxWant = 1024

// Want is a TypeWant record: events of a room that its sender lacks. The answer is a TypeEvents record, some time.
type Want struct {
	Room   matrix.RoomID
	Events []matrix.EventID // at most MaxWant
}

// Record encodes w: room, list of ids. ErrTooLarge or ErrMalformed if ParseWant would refuse it.
func (w Want) Record() (Record, error) {
	return idsRecord(TypeWant, w.Room, w.Events, "a want")
}

// ParseWant decodes a TypeWant record. ErrMalformed, ErrTooLarge.
func ParseWant(data []byte) (Want, error) {
	room, ids, err := parseIDs(data, "a want")
	if err != nil {
		return Want{}, err
	}
	return Want{Room: room, Events: ids}, nil
}

// idsRecord writes what Want and Heads have in common: room, list of ids.
func idsRecord(t Type, room matrix.RoomID, ids []matrix.EventID, what string) (Record, error) {
	var w writer
	w.room(room)
	w.eventIDs(ids, MaxWant, "event ids")
	return w.record(t, what)
}

// parseIDs reads it.
func parseIDs(data []byte, what string) (matrix.RoomID, []matrix.EventID, error) {
	r := &reader{b: data}
	room := r.room()
	ids := r.eventIDs(MaxWant, "event ids")
	return room, ids, r.end(what)
}
