// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/v2"
	"time"

	"tarn/matrix"
	"tarn/room"
)

// Kinds of marks (C-S API, "Receipts" and "Fully read markers").
const (
	markRead    = "m.read"
	markPrivate = "m.read.private"
	markFully   = "m.fully_read"
)

// receipt: POST /rooms/{roomId}/receipt/{receiptType}/{eventId}.
func (a *API) receipt(c *call) (any, error) {
	r, id, err := c.roomEvent()
	if err != nil {
		return nil, err
	}
	var q struct {
		Thread *string `json:"thread_id"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	thread := ""
	if q.Thread != nil {
		switch thread = *q.Thread; {
		case thread == "":
			return nil, invalid("thread_id must not be empty")
		case len(thread) > matrix.MaxID:
			return nil, invalid("thread_id is too long")
		}
	}
	switch kind := c.path("type"); kind {
	case markRead, markPrivate, markFully:
		if kind == markFully && thread != "" {
			return nil, invalid("m.fully_read has no thread_id")
		}
		if err := a.mustBeJoined(c, r); err != nil {
			return nil, err
		}
		return empty{}, a.mark(c, r, kind, id, thread)
	default:
		return nil, invalid("receipt type is not known")
	}
}

// readMarkers: POST /rooms/{roomId}/read_markers.
func (a *API) readMarkers(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	var q map[string]any
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if err := a.mustBeJoined(c, r); err != nil {
		return nil, err
	}
	for _, kind := range []string{markFully, markRead, markPrivate} {
		v, found := q[kind]
		if !found || v == nil {
			continue
		}
		s, ok := v.(string)
		if !ok {
			return nil, badJSON(kind + " must be an event id")
		}
		id, err := eventID(s)
		if err != nil {
			return nil, err
		}
		if err := a.mark(c, r, kind, id, ""); err != nil {
			return nil, err
		}
	}
	return empty{}, nil
}

// mark stores one mark. The fully-read one is the user's own room account data.
func (a *API) mark(c *call, r matrix.RoomID, kind string, id matrix.EventID, thread string) error {
	if kind == markFully {
		raw, err := json.Marshal(map[string]any{"event_id": id})
		if err != nil {
			return err
		}
		return a.accounts.SetData(c.who.User, r, markFully, raw)
	}
	return a.rooms.SetReceipt(r, room.Receipt{User: c.who.User, Event: id, Type: kind, Thread: thread, Time: time.Now()})
}
