// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// CrossSigning are a user's keys of keys (C-S API, "Cross-signing"); nil: as it is.
type CrossSigning struct{ Master, SelfSigning, UserSigning json.RawMessage }

// SetCrossSigning publishes cross-signing keys. The first, and the same once more, need no proof; others are ErrKeysDiffer
// unless the caller has proven that it is the user (spec v1.11: user-interactive authentication). A new master key ends
// the keys that the old one signed. It tells whether others must know.
// ErrBadKeys, ErrBadSignature, ErrKeysDiffer, ErrNoMaster, ErrNameTaken, ErrTooLarge, ErrNotFound.
func (a *Accounts) SetCrossSigning(user matrix.UserID, up CrossSigning, proven bool) (changed bool, err error) {
	type checkedKey struct {
		usage, public string
		raw           json.RawMessage
	}
	var keys []checkedKey
	for _, k := range []checkedKey{{usage: usageMaster, raw: up.Master}, {usage: usageSelf, raw: up.SelfSigning}, {usage: usageUser, raw: up.UserSigning}} {
		if k.raw == nil {
			continue
		}
		if k.raw, k.public, err = checkCross(user, k.usage, k.raw); err != nil {
			return false, fmt.Errorf("%w (%s)", err, k.usage)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return false, fmt.Errorf("%w: no cross-signing key is given", ErrBadKeys)
	}
	err = a.change(user, func(txn store.Txn, pos store.Pos) error {
		changed = false
		name, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		oldMaster, err := getOr(txn, store.Key(tableCross, name, usageMaster))
		if err != nil {
			return err
		}
		master, _ := crossKey(oldMaster)
		before := master
		for _, k := range keys {
			old, err := getOr(txn, store.Key(tableCross, name, k.usage))
			if err != nil {
				return err
			}
			if k.usage == usageMaster {
				master = k.public
			} else if master == "" {
				return ErrNoMaster
			} else if err := checkSigned(k.raw, user, master, master); err != nil {
				return fmt.Errorf("%w: of the master key on the %s key", err, k.usage)
			}
			if old != nil && sameSigned(old, k.raw) {
				continue
			}
			changed = true
			if device, err := getOr(txn, store.Key(tableDevice, name, k.public)); err != nil || device != nil {
				return errors.Join(err, ErrNameTaken)
			}
			if oldPublic, ok := crossKey(old); ok && oldPublic != k.public {
				if err := drop(txn, store.Key(tableSignature, user, oldPublic)); err != nil {
					return err
				}
			}
			if err := txn.Set(store.Key(tableCross, name, k.usage), k.raw); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		if before != "" && !proven {
			return fmt.Errorf("%w: cross-signing", ErrKeysDiffer)
		}
		if before != "" && before != master {
			// What the old master key signed is nobody's any more, unless it came anew just now.
			for usage, given := range map[string]json.RawMessage{usageSelf: up.SelfSigning, usageUser: up.UserSigning} {
				if given == nil {
					if err := txn.Delete(store.Key(tableCross, name, usage)); err != nil {
						return err
					}
				}
			}
		}
		return a.markKeys(txn, pos, user, "")
	})
	return changed && err == nil, err
}

// isCrossKey says whether one of the user's cross-signing keys has this name: signatures name devices and those keys alike, so a device
// of that name would pass for the key (C-S API, "Cross-signing": servers MUST not allow it).
func isCrossKey(r store.Reader, name string, device matrix.DeviceID) (is bool, err error) {
	err = r.Scan(store.Key(tableCross, name), nil, func(_, v []byte) (bool, error) {
		public, _ := crossKey(v)
		is = public == string(device)
		return !is, nil
	})
	return is, err
}
