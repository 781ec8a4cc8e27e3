// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"tarn/matrix"
	"tarn/store"
)

// Limits of pushers.
const (
	MaxPushers   = 100 // a user
	MaxAppID     = 64  // characters (C-S API, POST /pushers/set)
	MaxPushKey   = 512 // bytes
	maxPusherRow = 16 << 10
)

// Pusher is where a client wants to be told of news. It is kept and given back, nothing is ever sent to it: what a push server is
// told tells it, and whoever runs it, when somebody is written to.
type Pusher struct {
	AppID   string
	Key     string
	Content json.RawMessage // the pusher as the client wrote it, an object
}

type pusherRow struct {
	Device  matrix.DeviceID `json:"device"` // that set it: it ends with its session
	Content json.RawMessage `json:"content"`
}

// SetPusher keeps a pusher of the user. alone: other users' pushers with the same app and key are forgotten.
func (a *Accounts) SetPusher(user matrix.UserID, device matrix.DeviceID, p Pusher, alone bool) error {
	if p.AppID == "" || utf8.RuneCountInString(p.AppID) > MaxAppID || p.Key == "" || len(p.Key) > MaxPushKey {
		return fmt.Errorf("%w: the app's id or the key of a pusher", ErrTooLarge)
	}
	body, err := object(p.Content, maxPusherRow)
	if err != nil {
		return err
	}
	return a.kv.Update(func(txn store.Txn) error {
		name, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		if alone {
			if err := dropOthersPushers(txn, name, p); err != nil {
				return err
			}
		}
		key := pusherKey(name, p.AppID, p.Key)
		if _, err := txn.Get(key); errors.Is(err, store.ErrNotFound) {
			n, err := count(txn, store.Key(tablePusher, byte(0), name), MaxPushers)
			if err != nil {
				return err
			}
			if n >= MaxPushers {
				return fmt.Errorf("%w: more than %d pushers", ErrTooLarge, MaxPushers)
			}
		} else if err != nil {
			return err
		}
		if err := txn.Set(store.Key(tablePusher, byte(1), p.AppID, p.Key, name), nil); err != nil {
			return err
		}
		return save(txn, key, pusherRow{device, body})
	})
}

func pusherKey(name, app, key string) []byte { return store.Key(tablePusher, byte(0), name, app, key) }

func dropPusher(txn store.Txn, name, app, key string) error {
	return errors.Join(txn.Delete(pusherKey(name, app, key)), txn.Delete(store.Key(tablePusher, byte(1), app, key, name)))
}

func dropOthersPushers(txn store.Txn, name string, p Pusher) error {
	return txn.Scan(store.Key(tablePusher, byte(1), p.AppID, p.Key), nil, func(k, _ []byte) (bool, error) {
		kr := store.ReadKey(k)
		_, app, key, owner := kr.Byte(), kr.String(), kr.String(), kr.String()
		if err := kr.Err(); err != nil || owner == name {
			return true, err
		}
		return true, dropPusher(txn, owner, app, key)
	})
}

// DeletePusher forgets one; none is as good.
func (a *Accounts) DeletePusher(user matrix.UserID, app, key string) error {
	name, ok := a.local(user)
	if !ok || utf8.RuneCountInString(app) > MaxAppID || len(key) > MaxPushKey {
		return nil
	}
	return a.kv.Update(func(txn store.Txn) error { return dropPusher(txn, name, app, key) })
}

// Pushers lists the user's.
func (a *Accounts) Pushers(user matrix.UserID) (out []Pusher, err error) {
	name, ok := a.local(user)
	if !ok {
		return nil, nil
	}
	err = a.kv.View(func(r store.Reader) error {
		return eachPusher(r, name, func(p Pusher, _ matrix.DeviceID) error {
			out = append(out, p)
			return nil
		})
	})
	return out, err
}

func eachPusher(r store.Reader, name string, fn func(Pusher, matrix.DeviceID) error) error {
	return r.Scan(store.Key(tablePusher, byte(0), name), nil, func(k, v []byte) (bool, error) {
		kr := store.ReadKey(k)
		_, _, app, key := kr.Byte(), kr.String(), kr.String(), kr.String()
		if err := kr.Err(); err != nil {
			return false, err
		}
		var row pusherRow
		if err := json.Unmarshal(v, &row); err != nil {
			return false, fmt.Errorf("account: reading a pusher: %w", err)
		}
		return true, fn(Pusher{app, key, row.Content}, row.Device)
	})
}

// endPushers forgets the pushers that a device set: its session has ended ("If the access token is invalidated, the pusher is
// deleted").
func endPushers(txn store.Txn, name string, device matrix.DeviceID) error {
	return eachPusher(txn, name, func(p Pusher, by matrix.DeviceID) error {
		if by != device {
			return nil
		}
		return dropPusher(txn, name, p.AppID, p.Key)
	})
}
