// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// Forms of tableOneTime.
const (
	oneTimeByAge  = byte(0)
	oneTimeByName = byte(1)
)

// addKeys stores keys that were checked, in one transaction with the counts.
func (a *Accounts) addKeys(txn store.Txn, pos store.Pos, name string, device matrix.DeviceID, c checkedKeys) (keyState, error) {
	stateKey := store.Key(tableKeyState, name, device)
	state, err := loadOr[keyState](txn, stateKey)
	if err != nil || len(c.oneTime)+len(c.fallback) == 0 {
		return state, err
	}
	if state.Counts == nil {
		state.Counts = map[string]int{}
	}
	total := 0
	for _, n := range state.Counts {
		total += n
	}
	for _, k := range c.oneTime {
		byName := store.Key(tableOneTime, name, device, oneTimeByName, k.algorithm, k.id)
		at, err := getOr(txn, byName)
		if err != nil {
			return state, err
		}
		if at != nil {
			old, err := txn.Get(oneTimeKey(name, device, k.algorithm, at, k.id))
			if err != nil {
				return state, fmt.Errorf("account: reading a one-time key: %w", err)
			}
			if !bytes.Equal(old, k.key) && !sameSigned(old, k.key) {
				return state, fmt.Errorf("%w: a one-time key", ErrKeysDiffer)
			}
			continue
		}
		if total++; total > MaxOneTimeKeys {
			return state, fmt.Errorf("%w: more than %d one-time keys", ErrTooLarge, MaxOneTimeKeys)
		}
		row := store.AppendUint64(nil, uint64(pos))
		if err := errors.Join(txn.Set(byName, row), txn.Set(oneTimeKey(name, device, k.algorithm, row, k.id), k.key)); err != nil {
			return state, err
		}
		state.Counts[k.algorithm]++
	}
	for _, k := range c.fallback {
		if state.Fallback == nil {
			state.Fallback = map[string]fallbackKey{}
		}
		full := k.algorithm + ":" + k.id
		if old, found := state.Fallback[k.algorithm]; found && old.Name == full && bytes.Equal(old.Key, k.key) {
			continue // the same again: it stays used if it was
		}
		state.Fallback[k.algorithm] = fallbackKey{Name: full, Key: k.key}
	}
	if len(state.Fallback) > MaxFallbacks {
		return state, fmt.Errorf("%w: more than %d fallback keys", ErrTooLarge, MaxFallbacks)
	}
	state.Pos = pos
	return state, save(txn, stateKey, state)
}

// oneTimeKey is a key's row, with the eight bytes of its position.
func oneTimeKey(name string, device matrix.DeviceID, algorithm string, pos []byte, id string) []byte {
	k := store.Key(tableOneTime, name, device, oneTimeByAge, algorithm)
	return store.AppendString(append(k, pos...), id)
}

// Claim asks for a key of a device, to begin a session with it.
type Claim struct {
	User      matrix.UserID
	Device    matrix.DeviceID
	Algorithm string
}

// ClaimedKey is a key that was given out.
type ClaimedKey struct {
	Claim
	Name string // algorithm:id
	Key  json.RawMessage
}

// ClaimKeys gives each claim a one-time key, oldest first, or else the device's fallback key, or else nothing. A one-time
// key is given once, also over a crash: it is deleted in the transaction that the answer waits for. Keys of other servers' devices
// are those that their nodes handed to this one.
func (a *Accounts) ClaimKeys(claims []Claim) ([]ClaimedKey, error) {
	var out []ClaimedKey
	_, err := a.stream.Write(func(txn store.Txn, pos store.Pos) (_ []string, err error) {
		out = nil
		topics := map[matrix.UserID]bool{}
		for _, c := range claims {
			if !goodDeviceID(c.Device) || len(c.Algorithm) > MaxKeyID {
				continue
			}
			var k *ClaimedKey
			name, ok := a.local(c.User)
			if ok {
				k, err = claim(txn, pos, name, c)
			} else {
				k, err = a.claimHanded(txn, c)
			}
			if err != nil {
				return nil, err
			}
			if k != nil {
				out = append(out, *k)
				topics[c.User] = ok
			}
		}
		var list []string
		for u, local := range topics {
			if local {
				list = append(list, string(u))
			}
		}
		return list, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func claim(txn store.Txn, pos store.Pos, name string, c Claim) (*ClaimedKey, error) {
	stateKey := store.Key(tableKeyState, name, c.Device)
	state, err := loadOr[keyState](txn, stateKey)
	if err != nil {
		return nil, err
	}
	out, err := claimOneTime(txn, name, &state, c)
	if err != nil {
		return nil, err
	}
	if out == nil {
		fallback, found := state.Fallback[c.Algorithm]
		if !found {
			return nil, nil
		}
		out = &ClaimedKey{Claim: c, Name: fallback.Name, Key: fallback.Key}
		if fallback.Used {
			return out, nil
		}
		fallback.Used = true
		state.Fallback[c.Algorithm] = fallback
	}
	state.Pos = pos
	return out, save(txn, stateKey, state)
}

// claimOneTime takes a device's oldest one-time key; nil: there is none. The caller saves the state.
func claimOneTime(txn store.Txn, name string, state *keyState, c Claim) (*ClaimedKey, error) {
	out := &ClaimedKey{Claim: c}
	prefix := store.Key(tableOneTime, name, c.Device, oneTimeByAge, c.Algorithm)
	var row []byte
	if err := txn.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		row, out.Key = bytes.Clone(k), bytes.Clone(v)
		return false, nil
	}); err != nil || row == nil {
		return nil, err
	}
	kr := store.ReadKey(append([]byte{0}, row[len(prefix):]...))
	_ = kr.Uint64() // the position
	id := kr.String()
	if err := kr.Err(); err != nil {
		return nil, err
	}
	if err := errors.Join(txn.Delete(row), txn.Delete(store.Key(tableOneTime, name, c.Device, oneTimeByName, c.Algorithm, id))); err != nil {
		return nil, err
	}
	out.Name = c.Algorithm + ":" + id
	state.Counts[c.Algorithm]--
	return out, nil
}

func posOf(row []byte) store.Pos {
	if len(row) != 8 {
		return 0
	}
	return store.Pos(binary.BigEndian.Uint64(row))
}
