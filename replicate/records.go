// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"

	"tarn/bundle"
	"tarn/matrix"
	"tarn/room"
)

// Between package room's values and package bundle's records. The room's version stays empty in an events record: who
// has the room knows it, who has not can not use the events.

func encodeEvents(id matrix.RoomID, raw [][]byte) (bundle.Record, error) {
	return bundle.Events{Room: id, Raw: raw}.Record()
}

func decodeEvents(data []byte) (matrix.RoomID, [][]byte, error) {
	e, err := bundle.ParseEvents(data)
	return e.Room, e.Raw, err
}

func encodeSnapshot(s *room.Snapshot) (bundle.Record, error) {
	return bundle.Snapshot{Room: s.Room, Version: s.Version, Event: s.Event, Heads: s.Heads, Events: s.Events, State: s.State,
		Certificates: s.Certificates}.Record()
}

func decodeSnapshot(data []byte) (*room.Snapshot, error) {
	s, err := bundle.ParseSnapshot(data)
	if err != nil {
		return nil, err
	}
	return &room.Snapshot{Room: s.Room, Version: s.Version, Event: s.Event, Heads: s.Heads, Events: s.Events, State: s.State,
		Certificates: s.Certificates}, nil
}

func decodeReceipts(data []byte) (matrix.RoomID, []room.Receipt, error) {
	b, err := bundle.ParseReceipts(data)
	if err != nil {
		return "", nil, err
	}
	out := make([]room.Receipt, 0, len(b.Receipts))
	for _, r := range b.Receipts {
		out = append(out, room.Receipt{User: r.User, Event: r.Event, Type: r.Type, Thread: r.Thread, Time: r.Time})
	}
	return b.Room, out, nil
}

// EncodeReceipts makes the record that package room queues for other nodes: the type byte, then the record's bytes
// (the Data of a store.ItemRecord). Private receipts are an error.
func EncodeReceipts(id matrix.RoomID, rs []room.Receipt) ([]byte, error) {
	b := bundle.Receipts{Room: id}
	for _, r := range rs {
		b.Receipts = append(b.Receipts, bundle.Receipt{User: r.User, Event: r.Event, Type: r.Type, Thread: r.Thread, Time: r.Time})
	}
	rec, err := b.Record()
	if err != nil {
		return nil, fmt.Errorf("encode receipts: %w", err)
	}
	return append([]byte{byte(rec.Type)}, rec.Data...), nil
}
