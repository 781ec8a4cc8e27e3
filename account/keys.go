// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"tarn/matrix"
	"tarn/store"
)

// KeyUpload is what a device publishes of its keys (C-S API, POST /keys/upload). Names are "algorithm:key id".
type KeyUpload struct {
	Device   json.RawMessage            // identity keys, signed by themselves; nil: as they are
	OneTime  map[string]json.RawMessage // further one-time keys
	Fallback map[string]json.RawMessage // each replaces its algorithm's
}

// keyState is a device's row of counts, and its fallback keys.
type keyState struct {
	Pos      store.Pos              `json:"pos"` // of the last change of the counts
	Counts   map[string]int         `json:"counts,omitempty"`
	Fallback map[string]fallbackKey `json:"fallback,omitempty"` // by algorithm
}

type fallbackKey struct {
	Name string          `json:"name"` // algorithm:id
	Key  json.RawMessage `json:"key"`
	Used bool            `json:"used,omitempty"`
}

// KeyCounts is what /sync tells a device of its own keys.
type KeyCounts struct {
	OneTime map[string]int // by algorithm; signed_curve25519 always, so that a client sees a zero
	Unused  []string       // algorithms whose fallback key nobody has got yet
	Pos     store.Pos      // of the last change
}

func (s *keyState) counts() KeyCounts {
	c := KeyCounts{OneTime: map[string]int{algorithmOneTime: 0}, Unused: []string{}, Pos: s.Pos}
	maps.Copy(c.OneTime, s.Counts)
	for _, alg := range sorted(s.Fallback) {
		if !s.Fallback[alg].Used {
			c.Unused = append(c.Unused, alg)
		}
	}
	return c
}

// loadOr is load, or the zero row.
func loadOr[T any](r store.Reader, key []byte) (T, error) {
	row, err := load[T](r, key)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return row, err
}

// UploadKeys publishes a device's keys, all of them or (on an error) none. Everything is checked against the device's
// own signing key first. Other identity keys than before are taken (a client that lost its store has no choice), and
// then the old one-time keys go. It tells whether others must know: changed. Uploading the same again is no error.
// ErrBadKeys, ErrBadSignature, ErrKeysDiffer (another one-time key of that id), ErrTooLarge, ErrNotFound.
func (a *Accounts) UploadKeys(user matrix.UserID, device matrix.DeviceID, up KeyUpload) (counts KeyCounts, changed bool, err error) {
	name, ok := a.local(user)
	if !ok {
		return counts, false, ErrNotFound
	}
	if up.Device == nil && len(up.OneTime) == 0 && len(up.Fallback) == 0 {
		counts, err = a.KeyCounts(user, device)
		return counts, false, err
	}
	if len(up.OneTime) > MaxOneTimeKeys || len(up.Fallback) > MaxFallbacks {
		return counts, false, fmt.Errorf("%w: %d one-time keys, %d fallback keys", ErrTooLarge, len(up.OneTime), len(up.Fallback))
	}
	// Signatures are checked before the transaction, and the identity key again within it.
	var stored []byte
	if err := a.kv.View(func(r store.Reader) (err error) {
		stored, err = getOr(r, store.Key(tableDeviceKeys, name, device))
		return err
	}); err != nil {
		return counts, false, err
	}
	identity := json.RawMessage(stored)
	if up.Device != nil {
		if identity, err = checkDeviceKeys(user, device, up.Device); err != nil {
			return counts, false, err
		}
	}
	checked, err := checkUpload(user, device, identity, up)
	if err != nil {
		return counts, false, err
	}
	err = a.change(user, func(txn store.Txn, pos store.Pos) error {
		if _, err := txn.Get(store.Key(tableDevice, name, device)); errors.Is(err, store.ErrNotFound) {
			return ErrNotFound // logged out meanwhile: keys without a device would stay for ever
		} else if err != nil {
			return err
		}
		now, err := getOr(txn, store.Key(tableDeviceKeys, name, device))
		if err != nil {
			return err
		}
		if up.Device == nil && string(now) != string(stored) {
			return fmt.Errorf("%w: the identity keys changed meanwhile", ErrBadKeys)
		}
		if changed = string(now) != string(identity); changed {
			if err := a.replaceIdentity(txn, pos, name, device, now, identity); err != nil {
				return err
			}
		}
		state, err := a.addKeys(txn, pos, name, device, checked)
		counts = state.counts()
		return err
	})
	if err != nil {
		return KeyCounts{}, false, err
	}
	return counts, changed, nil
}

// replaceIdentity writes identity keys. One-time keys and signatures belong to the old key pair and go with it.
func (a *Accounts) replaceIdentity(txn store.Txn, pos store.Pos, name string, device matrix.DeviceID, old, now []byte) error {
	if len(old) > 0 && !sameKeys(old, now) {
		if err := a.dropKeys(txn, name, device); err != nil {
			return err
		}
	}
	if err := txn.Set(store.Key(tableDeviceKeys, name, device), now); err != nil {
		return err
	}
	return a.markKeys(txn, pos, a.userID(name), "")
}

// dropKeys removes all keys of a device and the signatures on them.
func (a *Accounts) dropKeys(txn store.Txn, name string, device matrix.DeviceID) error {
	return errors.Join(
		txn.Delete(store.Key(tableDeviceKeys, name, device)),
		txn.Delete(store.Key(tableKeyState, name, device)),
		drop(txn, store.Key(tableOneTime, name, device)),
		drop(txn, store.Key(tableSignature, a.userID(name), string(device))),
	)
}

// dropDevice removes what a device has beside its session: keys, messages, transaction ids.
func (a *Accounts) dropDevice(txn store.Txn, pos store.Pos, name string, device matrix.DeviceID) error {
	keys, err := getOr(txn, store.Key(tableDeviceKeys, name, device))
	if err != nil {
		return err
	}
	if keys != nil {
		if err := a.markKeys(txn, pos, a.userID(name), ""); err != nil {
			return err
		}
	}
	return errors.Join(
		a.dropKeys(txn, name, device),
		drop(txn, store.Key(tableInbox, name, device)),
		drop(txn, store.Key(tableInboxSize, name, device)),
		drop(txn, store.Key(tableInboxOf, name, device)),
		drop(txn, store.Key(tableToDeviceTxn, name, device)),
	)
}

// drop deletes the rows with a prefix.
func drop(txn store.Txn, prefix []byte) error {
	return txn.Scan(prefix, nil, func(k, _ []byte) (bool, error) { return true, txn.Delete(k) })
}

// getOr is Get, or nil.
func getOr(r store.Reader, key []byte) ([]byte, error) {
	v, err := r.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

// KeyCounts reads a device's counts.
func (a *Accounts) KeyCounts(user matrix.UserID, device matrix.DeviceID) (c KeyCounts, err error) {
	name, ok := a.local(user)
	if !ok {
		return c, ErrNotFound
	}
	err = a.kv.View(func(r store.Reader) error {
		state, err := loadOr[keyState](r, store.Key(tableKeyState, name, device))
		c = state.counts()
		return err
	})
	return c, err
}

// UserKeys are a user's public keys, as a viewer may see them.
type UserKeys struct {
	Devices     map[matrix.DeviceID]json.RawMessage
	Names       map[matrix.DeviceID]string // display names, of devices that have one
	Master      json.RawMessage            // nil: none
	SelfSigning json.RawMessage
	UserSigning json.RawMessage // only for the user
}

// Keys reads the keys of some devices of a user (nil: all), with the signatures that viewer may see: the user's own, and
// viewer's. Of a user of another server it is what that server's node told (SetPublished): no keys, and no error, if nothing.
func (a *Accounts) Keys(user, viewer matrix.UserID, devices []matrix.DeviceID) (UserKeys, error) {
	out := UserKeys{Devices: map[matrix.DeviceID]json.RawMessage{}, Names: map[matrix.DeviceID]string{}}
	name, ok := a.local(user)
	if !ok {
		return a.remoteKeys(user, viewer, devices)
	}
	err := a.kv.View(func(r store.Reader) error {
		add := func(device matrix.DeviceID, raw []byte) error {
			signed, err := a.withSignatures(r, user, string(device), viewer, raw)
			if err != nil {
				return err
			}
			out.Devices[device] = signed
			d, err := loadOr[deviceRow](r, store.Key(tableDevice, name, device))
			if d.Name != "" {
				out.Names[device] = d.Name
			}
			return err
		}
		if devices == nil {
			if err := r.Scan(store.Key(tableDeviceKeys, name), nil, func(k, v []byte) (bool, error) {
				kr := store.ReadKey(k)
				_ = kr.String() // the user
				device := matrix.DeviceID(kr.String())
				if err := kr.Err(); err != nil {
					return false, err
				}
				return true, add(device, v)
			}); err != nil {
				return err
			}
		}
		for _, device := range devices {
			if !goodDeviceID(device) {
				continue
			}
			raw, err := getOr(r, store.Key(tableDeviceKeys, name, device))
			if err == nil && raw != nil {
				err = add(device, raw)
			}
			if err != nil {
				return err
			}
		}
		for usage, to := range map[string]*json.RawMessage{usageMaster: &out.Master, usageSelf: &out.SelfSigning, usageUser: &out.UserSigning} {
			if usage == usageUser && viewer != user {
				continue
			}
			raw, err := getOr(r, store.Key(tableCross, name, usage))
			if err != nil || raw == nil {
				if err != nil {
					return err
				}
				continue
			}
			public, _ := crossKey(raw)
			if *to, err = a.withSignatures(r, user, public, viewer, raw); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}
