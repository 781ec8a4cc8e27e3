// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json"
	"encoding/json/jsontext"
	"errors"
	"net/http"
	"slices"
	"strings"

	"tarn/account"
	"tarn/matrix"
	"tarn/store"
)

// maxKeyUsers bounds the users of one /keys/query or /keys/claim.
const maxKeyUsers = 10_000

// rawMap is a JSON object whose values are passed on as they are: encoding/json's kind, as account takes it.
type rawMap map[string]json.RawMessage

type keysUploadRequest struct {
	Device      json.RawMessage `json:"device_keys"`
	OneTime     rawMap          `json:"one_time_keys"`
	Fallback    rawMap          `json:"fallback_keys"`
	OldFallback rawMap          `json:"org.matrix.msc2732.fallback_keys"` // elder clients send both
}

// keysUpload: POST /keys/upload.
func (a *API) keysUpload(c *call) (any, error) {
	var q keysUploadRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	up := account.KeyUpload{Device: q.Device, OneTime: q.OneTime, Fallback: q.Fallback}
	if string(up.Device) == "null" {
		up.Device = nil
	}
	if up.Fallback == nil {
		up.Fallback = q.OldFallback
	}
	counts, changed, err := a.accounts.UploadKeys(c.who.User, c.who.Device, up)
	if err != nil {
		return nil, err
	}
	if changed {
		a.tellNeighbours(c.who.User)
	}
	return map[string]any{"one_time_key_counts": counts.OneTime}, nil
}

// tellNeighbours wakes those who share a room with user: what changed is in the database already, and their /sync finds it.
func (a *API) tellNeighbours(user matrix.UserID) {
	all, err := a.rooms.Neighbours(user)
	if err != nil {
		a.warn("could not wake other users for changed keys; they see them with their next event", err)
		return
	}
	topics := make([]string, 0, len(all))
	for _, u := range all {
		topics = append(topics, string(u))
	}
	if len(topics) > 0 {
		a.stream.Notify(topics...)
	}
}

type keysQueryAnswer struct {
	Devices     map[matrix.UserID]map[matrix.DeviceID]json.RawMessage `json:"device_keys"`
	Master      map[matrix.UserID]json.RawMessage                     `json:"master_keys"`
	SelfSigning map[matrix.UserID]json.RawMessage                     `json:"self_signing_keys"`
	UserSigning map[matrix.UserID]json.RawMessage                     `json:"user_signing_keys"`
	Failures    map[string]any                                        `json:"failures"` // servers of whose users nothing came yet
}

// keysQuery: POST /keys/query. Of users of other servers it answers what their nodes told this one, at once. A server that told nothing of any
// user of its own yet is among the failures: clients then ask again, and device_lists says when.
func (a *API) keysQuery(c *call) (any, error) {
	var q struct {
		Devices map[matrix.UserID][]matrix.DeviceID `json:"device_keys"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Devices == nil {
		return nil, missing("device_keys")
	}
	if len(q.Devices) > maxKeyUsers {
		return nil, invalid("more than %d users", maxKeyUsers)
	}
	out := keysQueryAnswer{
		map[matrix.UserID]map[matrix.DeviceID]json.RawMessage{}, map[matrix.UserID]json.RawMessage{},
		map[matrix.UserID]json.RawMessage{}, map[matrix.UserID]json.RawMessage{}, map[string]any{},
	}
	for user, devices := range q.Devices {
		if len(devices) == 0 {
			devices = nil // "an empty list: all devices"
		}
		k, err := a.accounts.Keys(user, c.who.User, devices)
		if err != nil {
			return nil, err
		}
		if len(k.Devices) == 0 {
			unknown, server, err := a.unknown(user)
			if err != nil {
				return nil, err
			}
			if server != "" {
				out.Failures[server] = empty{}
			}
			if unknown { // one who is known and has no devices (any more) is told as such: {}
				continue
			}
		}
		out.Devices[user] = k.Devices
		for id, name := range k.Names {
			if k.Devices[id] == nil {
				continue
			}
			if k.Devices[id], err = withDeviceName(k.Devices[id], name); err != nil {
				return nil, err
			}
		}
		for _, x := range []struct {
			raw json.RawMessage
			to  map[matrix.UserID]json.RawMessage
		}{{k.Master, out.Master}, {k.SelfSigning, out.SelfSigning}, {k.UserSigning, out.UserSigning}} {
			if x.raw != nil {
				x.to[user] = x.raw
			}
		}
	}
	return out, nil
}

// unknown says whether nothing is known of a user's devices, not even that there are none; and, of another server that never told any, its
// name: it counts as one that could not be reached.
func (a *API) unknown(user matrix.UserID) (unknown bool, server string, err error) {
	_, name, found := strings.Cut(string(user), ":")
	if !found {
		return true, "", nil
	}
	if a.local(user) {
		switch err := a.accounts.Available(user.Localpart()); { // who was deactivated is known still
		case errors.Is(err, account.ErrUserInUse):
			return false, "", nil
		case err == nil || errors.Is(err, account.ErrBadUserName):
			return true, "", nil
		default:
			return true, "", err
		}
	}
	known, err := a.accounts.KnowsServer(matrix.ServerName(name))
	if known || err != nil {
		return false, "", err
	}
	return true, name, nil
}

// withDeviceName puts the name into "unsigned" of device keys, which are stored without one.
func withDeviceName(keys json.RawMessage, name string) (json.RawMessage, error) {
	unsigned, err := json.Marshal(map[string]any{"device_display_name": name})
	if err != nil {
		return nil, err
	}
	head, found := strings.CutSuffix(string(keys), "}")
	if !found || len(head) < 2 {
		return nil, errors.New("stored device keys are damaged")
	}
	return json.RawMessage(head + `,"unsigned":` + string(unsigned) + "}"), nil
}

// keysClaim: POST /keys/claim. Keys of other servers' devices were handed to this node in advance.
func (a *API) keysClaim(c *call) (any, error) {
	var q struct {
		Keys map[matrix.UserID]map[matrix.DeviceID]string `json:"one_time_keys"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Keys == nil {
		return nil, missing("one_time_keys")
	}
	var claims []account.Claim
	for user, devices := range q.Keys {
		for device, algorithm := range devices {
			claims = append(claims, account.Claim{User: user, Device: device, Algorithm: algorithm})
		}
	}
	if len(claims) > maxKeyUsers {
		return nil, invalid("more than %d devices", maxKeyUsers)
	}
	got, err := a.accounts.ClaimKeys(claims)
	if err != nil {
		return nil, err
	}
	out, failures := map[matrix.UserID]map[matrix.DeviceID]rawMap{}, map[string]any{}
	for _, k := range got {
		if out[k.User] == nil {
			out[k.User] = map[matrix.DeviceID]rawMap{}
		}
		out[k.User][k.Device] = rawMap{k.Name: k.Key}
	}
	for user := range q.Keys {
		if out[user] != nil {
			continue
		}
		if _, server, err := a.unknown(user); err != nil {
			return nil, err
		} else if server != "" {
			failures[server] = empty{}
		}
	}
	return map[string]any{"one_time_keys": out, "failures": failures}, nil
}

// deviceLists is whose devices a client should ask for again, and whose it may forget.
type deviceLists struct {
	Changed []matrix.UserID `json:"changed"`
	Left    []matrix.UserID `json:"left"`
}

// deviceLists collects them for (since, upTo].
func (a *API) deviceLists(user matrix.UserID, since, upTo store.Pos) (deviceLists, error) {
	out := deviceLists{Changed: []matrix.UserID{}, Left: []matrix.UserID{}}
	came, left, err := a.rooms.Sharing(user, since, upTo)
	if err != nil {
		return out, err
	}
	changes, err := a.accounts.KeyChanges(user, since, upTo)
	if err != nil {
		return out, err
	}
	out.Changed = append(out.Changed, came...)
	out.Left = append(out.Left, left...)
	for _, ch := range changes {
		see := ch.Own || ch.User == user
		if !see {
			if see, err = a.rooms.Shares(user, ch.User); err != nil {
				return out, err
			}
		}
		if see {
			out.Changed = append(out.Changed, ch.User)
		}
	}
	slices.Sort(out.Changed)
	out.Changed = slices.Compact(out.Changed)
	return out, nil
}

// keysChanges: GET /keys/changes.
func (a *API) keysChanges(c *call) (any, error) {
	var places [2]store.Pos
	for i, name := range []string{"from", "to"} {
		s := c.query(name)
		if s == "" {
			return nil, missing(name)
		}
		p, err := parseToken(s)
		if err != nil {
			return nil, err
		}
		places[i] = min(p, a.stream.Current())
	}
	return a.deviceLists(c.who.User, places[0], places[1])
}

// deviceSigningUpload: POST /keys/device_signing/upload. The first keys, and the same again, need no password (spec v1.11).
func (a *API) deviceSigningUpload(c *call) (any, error) {
	var q struct {
		Auth        *authDict       `json:"auth"`
		Master      json.RawMessage `json:"master_key"`
		SelfSigning json.RawMessage `json:"self_signing_key"`
		UserSigning json.RawMessage `json:"user_signing_key"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	keys := account.CrossSigning{Master: q.Master, SelfSigning: q.SelfSigning, UserSigning: q.UserSigning}
	for _, k := range []*json.RawMessage{&keys.Master, &keys.SelfSigning, &keys.UserSigning} {
		if string(*k) == "null" {
			*k = nil
		}
	}
	if keys.Master == nil && keys.SelfSigning == nil && keys.UserSigning == nil {
		// Element asks this to learn which stages there are.
		if err := a.provePassword(c, q.Auth); err != nil {
			return nil, err
		}
		return nil, missing("master_key")
	}
	changed, err := a.accounts.SetCrossSigning(c.who.User, keys, false)
	if errors.Is(err, account.ErrKeysDiffer) {
		if err := a.provePassword(c, q.Auth); err != nil {
			return nil, err
		}
		changed, err = a.accounts.SetCrossSigning(c.who.User, keys, true)
	}
	if err != nil {
		return nil, err
	}
	if changed {
		a.tellNeighbours(c.who.User)
	}
	return empty{}, nil
}

// signaturesUpload: POST /keys/signatures/upload.
func (a *API) signaturesUpload(c *call) (any, error) {
	var q map[matrix.UserID]map[string]json.RawMessage
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	failed, err := a.accounts.AddSignatures(c.who.User, q)
	if err != nil {
		return nil, err
	}
	if q[c.who.User] != nil {
		a.tellNeighbours(c.who.User)
	}
	failures := map[matrix.UserID]map[string]any{}
	for user, byKey := range failed {
		failures[user] = map[string]any{}
		for key, err := range byKey {
			failures[user][key] = classify(err).body()
		}
	}
	return map[string]any{"failures": failures}, nil
}

// sendToDevice: PUT /sendToDevice/{eventType}/{txnId}.
func (a *API) sendToDevice(c *call) (any, error) {
	var q struct {
		Messages map[matrix.UserID]map[matrix.DeviceID]json.RawMessage `json:"messages"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Messages == nil {
		return nil, missing("messages")
	}
	return empty{}, a.accounts.SendToDevice(account.ToDevice{
		Sender: c.who.User, Device: c.who.Device, Txn: c.path("txn"), Type: c.path("type"), Contents: q.Messages,
	})
}

// Limits of the to-device events in one answer of /sync; the rest comes with the next.
const (
	maxToDevice      = 100
	maxToDeviceBytes = 1 << 20
)

// addEncryption puts in what end-to-end encryption needs: to-device events, the device's own key counts, whose devices changed.
func (a *API) addEncryption(c *call, q syncQuery, upTo store.Pos, out *syncAnswer) error {
	who := c.who
	events, last, more, err := a.accounts.Inbox(who.User, who.Device, q.inbox, upTo, maxToDevice, maxToDeviceBytes)
	if err != nil {
		return err
	}
	for _, e := range events {
		out.ToDevice.Events = append(out.ToDevice.Events, jsontext.Value(e))
	}
	if more {
		out.NextBatch = syncToken(upTo, last)
	}
	counts, err := a.accounts.KeyCounts(who.User, who.Device)
	if err != nil {
		return err
	}
	out.OneTime, out.Unused = counts.OneTime, counts.Unused
	out.newCounts = counts.Pos > q.since && counts.Pos <= upTo
	if q.initial {
		return nil // "only present on an incremental sync"
	}
	lists, err := a.deviceLists(who.User, q.since, upTo)
	if err != nil {
		return err
	}
	if len(lists.Changed)+len(lists.Left) > 0 {
		out.DeviceLists = &lists
	}
	return nil
}

// removeDevice: DELETE /devices/{deviceId}.
func (a *API) removeDevice(c *call) (any, error) {
	var q struct {
		Auth *authDict `json:"auth"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	return a.removeProven(c, q.Auth, []matrix.DeviceID{matrix.DeviceID(c.path("device"))})
}

// removeDevices: POST /delete_devices.
func (a *API) removeDevices(c *call) (any, error) {
	var q struct {
		Auth    *authDict         `json:"auth"`
		Devices []matrix.DeviceID `json:"devices"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Devices == nil {
		return nil, missing("devices")
	}
	if len(q.Devices) > account.MaxDevices {
		return nil, invalid("more than %d devices", account.MaxDevices)
	}
	return a.removeProven(c, q.Auth, q.Devices)
}

func (a *API) removeProven(c *call, auth *authDict, devices []matrix.DeviceID) (any, error) {
	if err := a.provePassword(c, auth); err != nil {
		return nil, err
	}
	if err := a.accounts.RemoveDevices(c.who.User, devices); err != nil {
		return nil, err
	}
	a.tellNeighbours(c.who.User)
	return empty{}, nil
}

// deactivate: POST /account/deactivate. The user leaves every room first: a name that nobody answers to must not go on
// being a member. No identity server is known, so nothing is bound there.
func (a *API) deactivate(c *call) (any, error) {
	var q struct {
		Auth *authDict `json:"auth"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if err := a.provePassword(c, q.Auth); err != nil {
		return nil, err
	}
	neighbours, err := a.rooms.Neighbours(c.who.User)
	if err != nil {
		return nil, err
	}
	joined, err := a.rooms.Joined(c.who.User)
	if err != nil {
		return nil, err
	}
	for _, r := range joined {
		if _, err := a.rooms.SetMembership(c.r.Context(), r, c.who.User, c.who.User, matrix.MemberLeave, "", false); err != nil {
			if e := classify(err); e.Status == http.StatusForbidden { // left it by another device meanwhile
				continue
			}
			return nil, err
		}
	}
	if err := a.accounts.Deactivate(c.who.User); err != nil {
		return nil, err
	}
	for _, u := range neighbours {
		a.stream.Notify(string(u))
	}
	return map[string]string{"id_server_unbind_result": "success"}, nil
}
