// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"tarn/account"
	"tarn/matrix"
)

// whoami: GET /account/whoami.
func (a *API) whoami(c *call) (any, error) {
	return map[string]any{"user_id": c.who.User, "device_id": c.who.Device, "is_guest": false}, nil
}

// changePassword: POST /account/password.
func (a *API) changePassword(c *call) (any, error) {
	var q struct {
		Auth     *authDict `json:"auth"`
		Password string    `json:"new_password"`
		Logout   *bool     `json:"logout_devices"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if err := a.provePassword(c, q.Auth); err != nil {
		return nil, err
	}
	if q.Password == "" {
		return nil, missing("new_password")
	}
	// "logout_devices ... Defaults to true", "the client's own session is kept".
	logout := q.Logout == nil || *q.Logout
	if err := a.accounts.SetPassword(c.who.User, q.Password, logout, c.who.Device); err != nil {
		return nil, err
	}
	if logout {
		a.tellNeighbours(c.who.User)
	}
	return empty{}, nil
}

// deviceAnswer has null for what is not known: matrix-nio insists on all keys, and others know them so from Synapse.
type deviceAnswer struct {
	ID       matrix.DeviceID `json:"device_id"`
	Name     *string         `json:"display_name"`
	LastIP   *string         `json:"last_seen_ip"` // never kept
	LastSeen *int64          `json:"last_seen_ts"` // ms
}

func newDeviceAnswer(d account.Device) deviceAnswer {
	out := deviceAnswer{ID: d.ID}
	if d.Name != "" {
		out.Name = &d.Name
	}
	if !d.LastSeen.IsZero() {
		ms := d.LastSeen.UnixMilli()
		out.LastSeen = &ms
	}
	return out
}

// devices: GET /devices.
func (a *API) devices(c *call) (any, error) {
	all, err := a.accounts.Devices(c.who.User)
	if err != nil {
		return nil, err
	}
	out := make([]deviceAnswer, 0, len(all))
	for _, d := range all {
		out = append(out, newDeviceAnswer(d))
	}
	return map[string]any{"devices": out}, nil
}

// device: GET /devices/{deviceId}.
func (a *API) device(c *call) (any, error) {
	all, err := a.accounts.Devices(c.who.User)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if string(d.ID) == c.path("device") {
			return newDeviceAnswer(d), nil
		}
	}
	return nil, notFound("there is no such device")
}

// renameDevice: PUT /devices/{deviceId}.
func (a *API) renameDevice(c *call) (any, error) {
	var q struct {
		Name *string `json:"display_name"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Name == nil { // "If not given, the display name is unchanged."
		_, err := a.device(c)
		return empty{}, err
	}
	return empty{}, a.accounts.SetDeviceName(c.who.User, matrix.DeviceID(c.path("device")), clip(*q.Name))
}
