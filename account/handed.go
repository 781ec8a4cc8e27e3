// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// One-time keys between nodes. A /keys/claim can not ask another node and wait, so each node hands some of its devices' keys to
// each contact node in advance, and that node gives each of them to one of its clients.

const (
	lowKeys  = 3              // when no more than these are left of a device's, the next ones are asked for,
	askAgain = 24 * time.Hour // and once more if none came in that time

	// RestoreSlack is how far the clocks of two nodes may be apart when one of them was restored from a backup: batches of one-time keys with a
	// serial up to that long after the restore may have come before it.
	RestoreSlack = 2 * time.Hour
)

// HandOut takes up to n of a device's one-time keys, but not more than a quarter (rounded up) of what there is, and calls with
// in the transaction that takes them: what it writes there is there if, and only if, the keys are nobody else's. Without
// keys with is not called. The device sees in its counts that they are gone. ErrNotFound for users of other servers.
//
// A crash before the transaction is durable: nothing happened. After it: the keys are in the outbox of one node. So a key may be
// lost on its way, and is never given twice.
func (a *Accounts) HandOut(user matrix.UserID, device matrix.DeviceID, n int, with func(store.Txn, []NamedKey) error) error {
	name, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	some := false
	if err := a.kv.View(func(r store.Reader) error {
		state, err := loadOr[keyState](r, store.Key(tableKeyState, name, device))
		some = state.Counts[algorithmOneTime] > 0
		return err
	}); err != nil || !some {
		return err
	}
	_, err := a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		state, err := loadOr[keyState](txn, store.Key(tableKeyState, name, device))
		if err != nil {
			return nil, err
		}
		var keys []NamedKey
		for range min(n, (state.Counts[algorithmOneTime]+3)/4) {
			k, err := claimOneTime(txn, name, &state, Claim{User: user, Device: device, Algorithm: algorithmOneTime})
			if err != nil {
				return nil, err
			}
			if k == nil {
				break
			}
			keys = append(keys, NamedKey{k.Name, k.Key})
		}
		if len(keys) == 0 {
			return nil, nil
		}
		state.Pos = pos
		return []string{string(user)}, errors.Join(save(txn, store.Key(tableKeyState, name, device), state), with(txn, keys))
	})
	return err
}

// UsedFallback notes that another node gave a device's fallback key to somebody, so that the device makes a new one. One that is not the present
// one is passed over.
func (a *Accounts) UsedFallback(user matrix.UserID, device matrix.DeviceID, key string) error {
	name, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	_, err := a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		at := store.Key(tableKeyState, name, device)
		state, err := loadOr[keyState](txn, at)
		if err != nil {
			return nil, err
		}
		alg, _, _ := strings.Cut(key, ":")
		f, found := state.Fallback[alg]
		if !found || f.Name != key || f.Used {
			return nil, nil
		}
		f.Used = true
		state.Fallback[alg], state.Pos = f, pos
		return []string{string(user)}, save(txn, at, state)
	})
	return err
}

// handedState is a row of tableHandedState: what another node handed us of a device's keys.
type handedState struct {
	Batch    uint64 `json:"batch"`              // serial of the newest batch that came
	Next     uint64 `json:"next"`               // number of the next key in tableHanded
	Left     int    `json:"left"`               // keys in tableHanded
	Asked    int64  `json:"asked,omitempty"`    // when the batch after Batch was asked for, Unix milliseconds; 0: it was not
	Fallback string `json:"fallback,omitempty"` // of the fallback key that it was told we gave out
}

// KeyAsk asks a node for more of a device's keys: an item of the outbox, and a record.
type KeyAsk struct {
	User     matrix.UserID   `json:"user"`
	Device   matrix.DeviceID `json:"device"`
	Batch    uint64          `json:"batch"`              // the newest that came; 0: none
	Fallback string          `json:"fallback,omitempty"` // name of the fallback key that was given out; "": none was
}

// AddHanded keeps a batch of a device's one-time keys that its node handed to this one. A batch counts once: older ones,
// and the same again, are passed over. ErrSpeaker, ErrBadKeys, ErrBadSignature, ErrTooLarge; ErrNotFound: the device is not
// known yet.
func (a *Accounts) AddHanded(from matrix.ServerName, user matrix.UserID, device matrix.DeviceID, batch uint64, keys []NamedKey) error {
	if server, ok := a.remote(user); !ok || server != from {
		return fmt.Errorf("%w: keys", ErrSpeaker)
	}
	if len(keys) == 0 || len(keys) > maxRemoteKeys || batch == 0 {
		return fmt.Errorf("%w: %d one-time keys at a time", ErrBadKeys, len(keys))
	}
	_, err := a.stream.Write(func(txn store.Txn, _ store.Pos) ([]string, error) {
		row, err := a.remoteRow(txn, user)
		if err != nil {
			return nil, err
		}
		d, found := row.Devices[device]
		if !found {
			return nil, ErrNotFound
		}
		at := store.Key(tableHandedState, user, device)
		state, err := loadOr[handedState](txn, at)
		if err != nil {
			return nil, err
		}
		if last, err := lastBatch(txn, from, state); err != nil || batch <= last {
			return nil, err
		}
		if state.Left+len(keys) > maxRemoteKeys {
			return nil, fmt.Errorf("%w: one-time keys of one device", ErrTooLarge)
		}
		signing := deviceSigningKey(d.Keys, device)
		for _, k := range keys {
			checked, err := checkOneTime(user, device, signing, k.Name, k.Key)
			if err == nil && checked.algorithm != algorithmOneTime {
				err = fmt.Errorf("%w: one-time keys of this algorithm are not handed on", ErrBadKeys)
			}
			if err != nil {
				return nil, err
			}
			if err := save(txn, store.Key(tableHanded, user, device, state.Next), NamedKey{k.Name, checked.key}); err != nil {
				return nil, err
			}
			state.Next++
			state.Left++
		}
		state.Batch, state.Asked = batch, 0
		return nil, save(txn, at, state)
	})
	return err
}

// lastBatch is the newest batch of a device's keys that may have come: in doubt it is an old one.
func lastBatch(r store.Reader, server matrix.ServerName, state handedState) (uint64, error) {
	last := state.Batch
	for _, of := range []string{"", string(server)} {
		v, err := getOr(r, store.Key(tableHandedUpTo, of))
		if err != nil {
			return 0, err
		}
		last = max(last, uint64(posOf(v)))
	}
	return last, nil
}

// claimHanded gives a key of another server's device: the oldest that was handed to us, or else its fallback key. When few
// are left, or a fallback key went out, its node is told: by an item of the outbox, in the same transaction.
func (a *Accounts) claimHanded(txn store.Txn, c Claim) (*ClaimedKey, error) {
	server, ok := a.remote(c.User)
	if !ok {
		return nil, nil
	}
	row, err := a.remoteRow(txn, c.User)
	if err != nil {
		return nil, err
	}
	d, found := row.Devices[c.Device]
	if !found {
		return nil, nil
	}
	at := store.Key(tableHandedState, c.User, c.Device)
	state, err := loadOr[handedState](txn, at)
	if err != nil {
		return nil, err
	}
	before := state
	out := &ClaimedKey{Claim: c}
	if c.Algorithm == algorithmOneTime {
		var key []byte
		if err := txn.Scan(store.Key(tableHanded, c.User, c.Device), nil, func(k, v []byte) (bool, error) {
			var n NamedKey
			if err := json.Unmarshal(v, &n); err != nil {
				return false, fmt.Errorf("account: reading a one-time key: %w", err)
			}
			key, out.Name, out.Key = slices.Clone(k), n.Name, n.Key
			return false, nil
		}); err != nil {
			return nil, err
		}
		if key != nil {
			if err := txn.Delete(key); err != nil {
				return nil, err
			}
			state.Left--
		}
	}
	ask := KeyAsk{User: c.User, Device: c.Device}
	if ask.Batch, err = lastBatch(txn, server, state); err != nil {
		return nil, err
	}
	if out.Key == nil {
		i := slices.IndexFunc(d.Fallback, func(f NamedKey) bool { return strings.HasPrefix(f.Name, c.Algorithm+":") })
		if i >= 0 {
			out.Name, out.Key = d.Fallback[i].Name, d.Fallback[i].Key
			if state.Fallback != out.Name {
				state.Fallback, ask.Fallback = out.Name, out.Name
			}
		}
	}
	now := time.Now()
	since := now.Sub(time.UnixMilli(state.Asked)) // less than nothing if the clock was wrong then
	if a.isContact(server) && (state.Left <= lowKeys && (since >= askAgain || since < 0) || ask.Fallback != "") {
		state.Asked = now.UnixMilli()
		item, err := json.Marshal(ask)
		if err != nil {
			return nil, err
		}
		if err := store.Enqueue(txn, string(server), store.ItemAsk, item); err != nil {
			return nil, err
		}
	}
	if state != before {
		if err := save(txn, at, state); err != nil {
			return nil, err
		}
	}
	if out.Key == nil {
		return nil, nil
	}
	return out, nil
}

// dropRemoteKeys forgets what was handed to us of a device that is gone, or has another identity.
func dropRemoteKeys(txn store.Txn, user matrix.UserID, device matrix.DeviceID) error {
	at := store.Key(tableHandedState, user, device)
	state, err := loadOr[handedState](txn, at)
	if err != nil || state == (handedState{}) {
		return err
	}
	// The serial stays: a batch that comes twice, before and after, must not count anew.
	return errors.Join(drop(txn, store.Key(tableHanded, user, device)), save(txn, at, handedState{Batch: state.Batch, Next: state.Next}))
}

// ForgetOneTimeKeys forgets all one-time keys, of local devices and those that other nodes handed to this one: after a restore from a
// backup nobody knows which of them were given since. Clients see that there are none, and upload new ones. Batches that were made before the restore
// come again, from rows that are in the backup and from boxes that were not acknowledged in it, and their keys may have been given, too: so none
// with a serial up to RestoreSlack after restored is taken any more. One transaction: a crash before it is durable leaves all to be forgotten again.
func (a *Accounts) ForgetOneTimeKeys(restored time.Time) error {
	_, err := a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		topics := map[string]bool{}
		states := map[string]keyState{}
		if err := txn.Scan(store.Key(tableKeyState), nil, func(k, v []byte) (bool, error) {
			var s keyState
			if err := json.Unmarshal(v, &s); err != nil {
				return false, fmt.Errorf("account: reading a row: %w", err)
			}
			kr := store.ReadKey(k)
			topics[string(a.userID(kr.String()))] = true
			_ = kr.String() // the device
			s.Counts, s.Pos = nil, pos
			states[string(k)] = s
			return true, kr.Err()
		}); err != nil {
			return nil, err
		}
		for k, s := range states {
			if err := save(txn, []byte(k), s); err != nil {
				return nil, err
			}
		}
		return slices.Collect(maps.Keys(topics)), errors.Join(drop(txn, store.Key(tableOneTime)), drop(txn, store.Key(tableHanded)),
			drop(txn, store.Key(tableHandedState)), raiseHanded(txn, "", uint64(max(restored.Add(RestoreSlack).UnixMilli(), 0))))
	})
	return err
}

// raiseHanded makes batches up to a serial old ones, of one server's devices or ("") of all.
func raiseHanded(txn store.Txn, server string, upTo uint64) error {
	at := store.Key(tableHandedUpTo, server)
	old, err := getOr(txn, at)
	if err != nil || upTo <= uint64(posOf(old)) {
		return err
	}
	return txn.Set(at, store.AppendUint64(nil, upTo))
}

// ForgetServer forgets what the node of a server told of its users, when it is no contact any more: their keys, and those that it handed to this
// one. What stays is one row, with the newest batch that came: if the server is a contact again, what it sends again of before is not taken. The
// topics are woken. A transaction a user: a crash between leaves the others to the next call.
func (a *Accounts) ForgetServer(server matrix.ServerName, topics []string) error {
	var users []matrix.UserID
	if err := a.kv.View(func(r store.Reader) error {
		return r.Scan(store.Key(tableRemote, string(server)), nil, func(k, _ []byte) (bool, error) {
			kr := store.ReadKey(k)
			_ = kr.String() // the server
			users = append(users, matrix.UserID(kr.String()))
			return true, kr.Err()
		})
	}); err != nil {
		return err
	}
	for _, user := range users {
		if _, err := a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
			newest := uint64(0)
			if err := txn.Scan(store.Key(tableHandedState, user), nil, func(_, v []byte) (bool, error) {
				var s handedState
				err := json.Unmarshal(v, &s)
				newest = max(newest, s.Batch)
				return true, err
			}); err != nil {
				return nil, fmt.Errorf("account: reading a row: %w", err)
			}
			return topics, errors.Join(raiseHanded(txn, string(server), newest), a.markKeys(txn, pos, user, ""),
				drop(txn, store.Key(tableHandedState, user)), drop(txn, store.Key(tableHanded, user)), txn.Delete(remoteKey(server, user)))
		}); err != nil {
			return err
		}
	}
	return nil
}
