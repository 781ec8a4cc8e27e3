// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// Limits of a profile's further fields (C-S API, "Profiles").
const (
	MaxField   = 255      // bytes of a field's name
	MaxProfile = 64 << 10 // of all
)

// ErrProfileTooLarge: the whole profile would exceed MaxProfile.
var ErrProfileTooLarge = errors.New("account: the profile is too large")

// Profile of a user. A new user's display name is the localpart.
type Profile struct {
	DisplayName string `json:"displayname,omitempty"` // at most MaxName bytes
	AvatarURL   string `json:"avatar_url,omitempty"`  // at most MaxAvatarURL bytes

	Fields map[string]json.RawMessage `json:"fields,omitempty"` // what else there is: m.tz, …
}

// Profile of a local user; ErrNotFound.
func (a *Accounts) Profile(user matrix.UserID) (p Profile, err error) {
	name, ok := a.local(user)
	if !ok {
		return p, ErrNotFound
	}
	if name == NoticesName {
		return noticesProfile, nil
	}
	err = a.kv.View(func(r store.Reader) (err error) {
		p, err = load[Profile](r, store.Key(tableProfile, name))
		return err
	})
	return p, err
}

// ChangeProfile lets change edit the profile, in one transaction, so that two requests for its two parts do not undo
// each other. change may run more than once.
func (a *Accounts) ChangeProfile(user matrix.UserID, change func(*Profile)) error {
	return a.kv.Update(func(txn store.Txn) error {
		name, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		p, err := load[Profile](txn, store.Key(tableProfile, name))
		if err != nil {
			return err
		}
		change(&p)
		if err := checkName(p.DisplayName); err != nil {
			return err
		}
		if len(p.AvatarURL) > MaxAvatarURL {
			return fmt.Errorf("%w: an avatar URL of %d bytes, at most %d", ErrTooLarge, len(p.AvatarURL), MaxAvatarURL)
		}
		size := len(p.DisplayName) + len(p.AvatarURL)
		for k, v := range p.Fields {
			size += len(k) + len(v) + 4
		}
		if size > MaxProfile {
			return ErrProfileTooLarge
		}
		return save(txn, store.Key(tableProfile, name), p)
	})
}
