// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json"
	"encoding/json/jsontext"

	"tarn/account"
	"tarn/matrix"
	"tarn/store"
)

// dehydratedPath of dehydrated devices (MSC3814): not in the spec yet.
const dehydratedPath = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

// putDehydrated: PUT /dehydrated_device.
func (a *API) putDehydrated(c *call) (any, error) {
	var q struct {
		Device  matrix.DeviceID `json:"device_id"`
		Data    jsontext.Value  `json:"device_data"`
		Name    string          `json:"initial_device_display_name"`
		Keys    json.RawMessage `json:"device_keys"`
		OneTime rawMap          `json:"one_time_keys"`
		Spare   rawMap          `json:"fallback_keys"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	for name, v := range map[string]bool{"device_id": q.Device == "", "device_data": q.Data == nil, "device_keys": q.Keys == nil} {
		if v {
			return nil, missing(name)
		}
	}
	var kind struct {
		Algorithm string `json:"algorithm"`
	}
	if err := decode(q.Data, &kind); err != nil {
		return nil, err
	}
	if kind.Algorithm == "" {
		return nil, missing("device_data.algorithm")
	}
	changed, err := a.accounts.Dehydrate(c.who.User, q.Device, clip(q.Name), json.RawMessage(q.Data),
		account.KeyUpload{Device: q.Keys, OneTime: q.OneTime, Fallback: q.Spare})
	if err != nil {
		return nil, err
	}
	if changed {
		a.tellNeighbours(c.who.User)
	}
	return map[string]any{"device_id": q.Device}, nil
}

// getDehydrated: GET of the same.
func (a *API) getDehydrated(c *call) (any, error) {
	id, data, err := a.accounts.Dehydrated(c.who.User)
	return map[string]any{"device_id": id, "device_data": data}, err
}

// deleteDehydrated: DELETE of the same.
func (a *API) deleteDehydrated(c *call) (any, error) {
	id, err := a.accounts.DropDehydrated(c.who.User)
	if err != nil {
		return nil, err
	}
	a.tellNeighbours(c.who.User)
	return map[string]any{"device_id": id}, nil
}

// dehydratedEvents: GET /dehydrated_device/{device}/events?from=, which ends without a next_batch, and POST with next_batch
// in the body, as the MSC had it first, which ends with no events: what came for it, in pieces. Nothing is forgotten by reading:
// rehydration may be broken off; the device goes with its events when the client makes another one.
func (a *API) dehydratedEvents(c *call) (any, error) {
	var q struct {
		Next string `json:"next_batch"`
	}
	if c.limit > 0 {
		if err := c.decode(&q); err != nil {
			return nil, err
		}
	}
	if s := c.query("from"); s != "" {
		q.Next = s
	}
	var since store.Pos
	if q.Next != "" {
		var err error
		if since, err = parseToken(q.Next); err != nil {
			return nil, err
		}
	}
	id, _, err := a.accounts.Dehydrated(c.who.User)
	if err != nil {
		return nil, err
	}
	if string(id) != c.path("device") {
		return nil, forbidden("that is not your dehydrated device")
	}
	upTo := max(a.stream.Current(), since)
	events, last, more, err := a.accounts.Inbox(c.who.User, id, since, upTo, maxToDevice, maxToDeviceBytes)
	if err != nil {
		return nil, err
	}
	if !more {
		last = upTo
	}
	out := map[string]any{"events": append([]json.RawMessage{}, events...)}
	if more || c.limit > 0 {
		out["next_batch"] = token(last)
	}
	return out, nil
}
