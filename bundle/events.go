// SPDX-License-Identifier: Apache-2.0

package bundle

import "tarn/matrix"

// Events is a TypeEvents record: events of one room.
type Events struct {
	Room    matrix.RoomID
	Version matrix.RoomVersion
	Raw     [][]byte // canonical JSON as signed, 1 to 65,536 bytes each; parents before children where the sender can
}

// Record encodes e: room, version, list of events. ErrTooLarge or ErrMalformed if ParseEvents would refuse it.
func (e Events) Record() (Record, error) {
	var w writer
	w.room(e.Room)
	w.version(e.Version)
	w.byteStrings(e.Raw, maxEvents, maxEvent, "events")
	return w.record(TypeEvents, "events")
}

// ParseEvents decodes a TypeEvents record; Raw alias data. ErrMalformed, ErrTooLarge. The events themselves are not looked at.
func ParseEvents(data []byte) (Events, error) {
	r := &reader{b: data}
	e := Events{Room: r.room(), Version: r.version()}
	e.Raw = r.byteStrings(maxEvents, maxEvent, "events")
	if err := r.end("events"); err != nil {
		return Events{}, err
	}
	return e, nil
}
