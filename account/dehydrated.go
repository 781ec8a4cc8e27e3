// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// A dehydrated device (MSC3814) has keys and an inbox and no session: others encrypt for it while the user is logged in nowhere, and the
// next device to log in opens it with the user's recovery key and takes what came.

// MaxDehydrated bounds the encrypted device, in bytes.
const MaxDehydrated = 64 << 10

type dehydratedRow struct {
	Device matrix.DeviceID `json:"device"`
	Data   json.RawMessage `json:"data"`
}

// Dehydrate makes the user's dehydrated device, in place of the one before, and publishes its keys. changed: others must
// know. ErrBadDevice: that id is a device with a session; and UploadKeys' errors.
//
// First the device, then its keys, each in a transaction: a crash between them leaves a device without keys, for which nobody
// encrypts, until the client, which got no answer, tries again.
func (a *Accounts) Dehydrate(user matrix.UserID, device matrix.DeviceID, name string, data json.RawMessage, up KeyUpload) (changed bool, err error) {
	if err := CheckDeviceID(device); err != nil {
		return false, err
	}
	if up.Device == nil {
		return false, fmt.Errorf("%w: a dehydrated device needs device_keys", ErrBadKeys)
	}
	if _, err := checkDeviceKeys(user, device, up.Device); err != nil { // before the old one goes
		return false, err
	}
	body, err := object(data, MaxDehydrated)
	if err != nil {
		return false, err
	}
	err = a.change(user, func(txn store.Txn, pos store.Pos) error {
		local, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		if err := a.dropDehydrated(txn, pos, local); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		key := store.Key(tableDevice, local, device)
		if _, err := load[deviceRow](txn, key); !errors.Is(err, ErrNotFound) {
			return errors.Join(ErrBadDevice, err)
		}
		if n, err := count(txn, store.Key(tableDevice, local), MaxDevices); err != nil || n >= MaxDevices {
			return errors.Join(ErrTooLarge, err)
		}
		if is, err := isCrossKey(txn, local, device); err != nil || is {
			return errors.Join(err, ErrNameTaken)
		}
		return errors.Join(save(txn, key, deviceRow{Name: clipName(name), Seen: today()}),
			save(txn, store.Key(tableDehydrated, local), dehydratedRow{device, body}))
	})
	if err != nil {
		return false, err
	}
	_, changed, err = a.UploadKeys(user, device, up)
	return changed, err
}

func (a *Accounts) dropDehydrated(txn store.Txn, pos store.Pos, name string) error {
	row, err := load[dehydratedRow](txn, store.Key(tableDehydrated, name))
	if err != nil {
		return err
	}
	return a.endSession(txn, pos, name, row.Device) // which forgets the row, too
}

// forgetDehydrated forgets the row of the dehydrated device if it is this one, which goes.
func forgetDehydrated(txn store.Txn, name string, device matrix.DeviceID) error {
	key := store.Key(tableDehydrated, name)
	row, err := loadOr[dehydratedRow](txn, key)
	if err != nil || row.Device != device {
		return err
	}
	return txn.Delete(key)
}

// Dehydrated gives the user's dehydrated device; ErrNotFound.
func (a *Accounts) Dehydrated(user matrix.UserID) (device matrix.DeviceID, data json.RawMessage, err error) {
	name, ok := a.local(user)
	if !ok {
		return "", nil, ErrNotFound
	}
	err = a.kv.View(func(r store.Reader) error {
		row, err := load[dehydratedRow](r, store.Key(tableDehydrated, name))
		device, data = row.Device, row.Data
		return err
	})
	return device, data, err
}

// DropDehydrated removes it with its keys and messages; ErrNotFound.
func (a *Accounts) DropDehydrated(user matrix.UserID) (device matrix.DeviceID, err error) {
	if device, _, err = a.Dehydrated(user); err != nil {
		return "", err
	}
	name, _ := a.local(user)
	return device, a.change(user, func(txn store.Txn, pos store.Pos) error { return a.dropDehydrated(txn, pos, name) })
}
