// SPDX-License-Identifier: Apache-2.0

package account

import (
	"fmt"
	"time"
	"unicode/utf8"

	"tarn/matrix"
	"tarn/store"
)

// Device as GET /devices shows it.
type Device struct {
	ID       matrix.DeviceID
	Name     string
	LastSeen time.Time // to the day: it is a clock otherwise
}

// Devices lists the user's devices, sorted by id. A user without any, or of another node, has none.
func (a *Accounts) Devices(user matrix.UserID) ([]Device, error) {
	name, ok := a.local(user)
	if !ok {
		return nil, nil
	}
	var list []Device
	err := a.kv.View(func(r store.Reader) error {
		return r.Scan(store.Key(tableDevice, name), nil, func(k, _ []byte) (bool, error) {
			kr := store.ReadKey(k)
			_ = kr.String() // the user
			id := matrix.DeviceID(kr.String())
			if err := kr.Err(); err != nil {
				return false, err
			}
			d, err := load[deviceRow](r, k)
			list = append(list, Device{ID: id, Name: d.Name, LastSeen: time.Unix(d.Seen*24*60*60, 0).UTC()})
			return true, err
		})
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// SetDeviceName renames; ErrNotFound, ErrTooLarge beyond MaxName bytes.
func (a *Accounts) SetDeviceName(user matrix.UserID, device matrix.DeviceID, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	local, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	return a.kv.Update(func(txn store.Txn) error {
		key := store.Key(tableDevice, local, device)
		d, err := load[deviceRow](txn, key)
		if err != nil {
			return err
		}
		d.Name = name
		return save(txn, key, d)
	})
}

// CheckDeviceID: ErrBadDevice of an id that no session may have.
func CheckDeviceID(d matrix.DeviceID) error {
	if !goodDeviceID(d) || d == AllDevices {
		return ErrBadDevice
	}
	return nil
}

// goodDeviceID: what can stand in a path and a log line.
func goodDeviceID(d matrix.DeviceID) bool {
	if len(d) == 0 || len(d) > MaxDeviceID || !utf8.ValidString(string(d)) {
		return false
	}
	for _, c := range string(d) {
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

func checkName(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("%w: a name of %d bytes, at most %d", ErrTooLarge, len(name), MaxName)
	}
	return nil
}

// clipName shortens a name that a client made up, at a character's border: a login shall not fail for it.
func clipName(name string) string {
	if len(name) <= MaxName {
		return name
	}
	n := MaxName
	for n > 0 && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n]
}
