// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"time"

	"tarn/matrix"
)

// maxReceipts bounds the receipts of one record.
const maxReceipts = 1024

// maxMillis is the latest time that a record can carry: 2^53-1 ms, the greatest integer of canonical JSON.
const maxMillis = 1<<53 - 1

// Receipts is a TypeReceipts record: read markers of one room.
type Receipts struct {
	Room     matrix.RoomID
	Receipts []Receipt // at most 1,024
}

// Receipt is one user's read marker. Its fields are room.Receipt's.
type Receipt struct {
	User   matrix.UserID
	Event  matrix.EventID
	Type   string    // "m.read": 1 to 255 bytes; no private one may ever stand here
	Thread string    // "", "main" or an event id
	Time   time.Time // to the millisecond, from 1970 on
}

// Record encodes r: room, then of each receipt user, event, type, thread, milliseconds since 1970. ErrTooLarge or
// ErrMalformed if ParseReceipts would refuse it; ErrMalformed for m.read.private, which must not leave the node.
func (r Receipts) Record() (Record, error) {
	var w writer
	w.room(r.Room)
	w.number(uint64(len(r.Receipts)), maxReceipts, "receipts")
	for _, rc := range r.Receipts {
		w.id(string(rc.User), '@', "user id")
		w.id(string(rc.Event), '$', "event id")
		if !receiptType(rc.Type) {
			w.fail(ErrMalformed, "receipt type")
		}
		w.text(rc.Type, maxText, "receipt type")
		w.text(rc.Thread, maxID, "thread")
		w.number(uint64(rc.Time.UnixMilli()), maxMillis, "time")
	}
	return w.record(TypeReceipts, "receipts")
}

// ParseReceipts decodes a TypeReceipts record. ErrMalformed, ErrTooLarge.
func ParseReceipts(data []byte) (Receipts, error) {
	r := &reader{b: data}
	rs := Receipts{Room: r.room()}
	// Three ids or names of at least two characters, a thread and a time: at least 3+3+2+1+1 bytes.
	n := r.count(maxReceipts, 10, "receipts")
	if n > 0 {
		rs.Receipts = make([]Receipt, 0, n)
	}
	for range n {
		rc := Receipt{User: matrix.UserID(r.id('@', "user id")), Event: matrix.EventID(r.id('$', "event id"))}
		rc.Type = r.text(maxText, "receipt type")
		rc.Thread = r.text(maxID, "thread")
		rc.Time = time.UnixMilli(int64(r.number(maxMillis, "time")))
		if r.err == nil && !receiptType(rc.Type) {
			r.fail(ErrMalformed, "receipt type")
		}
		rs.Receipts = append(rs.Receipts, rc)
	}
	if err := r.end("receipts"); err != nil {
		return Receipts{}, err
	}
	return rs, nil
}

// receiptType tells whether receipts of that type go between nodes.
func receiptType(t string) bool { return t != "" && t != "m.read.private" }
