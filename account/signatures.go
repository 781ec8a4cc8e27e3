// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"tarn/matrix"
	"tarn/store"
)

// signing is a key that may sign a target, and the object that it signs.
type signing struct {
	object json.RawMessage   // as it is stored
	keys   map[string]string // signing keys by name: public
}

// AddSignatures publishes signatures by signer: of its own devices (by its self-signing key), of its own master key (by a
// device), of another user's master key (by its user-signing key; nobody else sees those). objects are the signed objects by
// user and by device id or public key; each signature is checked against the object as it is stored here. The failures
// are by target: ErrNotFound (nothing of that name here), ErrBadSignature, ErrBadKeys, ErrTooLarge. What did not fail is stored.
func (a *Accounts) AddSignatures(signer matrix.UserID, objects map[matrix.UserID]map[string]json.RawMessage) (failed map[matrix.UserID]map[string]error, err error) {
	own, ok := a.local(signer)
	if !ok {
		return nil, ErrNotFound
	}
	_, err = a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		failed = map[matrix.UserID]map[string]error{}
		for target, list := range objects {
			for key, raw := range list {
				added, err := a.addSignature(txn, own, signer, target, key, raw)
				switch {
				case err == nil && !added:
				case err == nil && target == signer:
					err = a.markKeys(txn, pos, target, "")
				case err == nil:
					err = a.markKeys(txn, pos, target, signer)
				case isRefusal(err):
					if failed[target] == nil {
						failed[target] = map[string]error{}
					}
					failed[target][key] = err
					err = nil
				}
				if err != nil {
					return nil, err
				}
			}
		}
		return []string{string(signer)}, nil
	})
	a.generation.Add(1)
	return failed, err
}

// addSignature stores the signatures of one object; added: there was a new one.
func (a *Accounts) addSignature(txn store.Txn, own string, signer, target matrix.UserID, key string, raw json.RawMessage) (added bool, err error) {
	_, o, err := normal(raw)
	if err != nil {
		return false, err
	}
	if len(key) > MaxKeyID {
		return false, fmt.Errorf("%w: a key's name", ErrTooLarge)
	}
	s, err := a.findSigning(txn, own, signer, target, key)
	if err != nil {
		return false, err
	}
	good := map[string]string{} // by name; all are checked before one is stored
	for name, signature := range o.Signatures[signer] {
		keyName, ok := strings.CutPrefix(name, algorithmSigning+":")
		public, may := s.keys[keyName]
		if !ok || !may {
			continue // one that the object has of old, as its self-signature
		}
		signed, err := withSignature(s.object, signer, name, signature)
		if err != nil {
			return false, err
		}
		if err := checkSigned(signed, signer, keyName, public); err != nil {
			return false, err
		}
		good[name] = signature
	}
	if len(good) == 0 {
		return false, fmt.Errorf("%w: none by a key that may sign this", ErrBadSignature)
	}
	for name, signature := range good {
		row := store.Key(tableSignature, target, key, signer, name)
		old, err := getOr(txn, row)
		if err != nil {
			return false, err
		}
		if string(old) == signature {
			continue
		}
		if n, err := count(txn, store.Key(tableSignature, target, key), MaxSignatures); err != nil {
			return false, err
		} else if n >= MaxSignatures {
			return false, fmt.Errorf("%w: %d signatures on one key", ErrTooLarge, n)
		}
		if err := txn.Set(row, []byte(signature)); err != nil {
			return false, err
		}
		added = true
	}
	return added, nil
}

// findSigning finds a target and who may sign it.
func (a *Accounts) findSigning(r store.Reader, own string, signer, target matrix.UserID, key string) (s signing, err error) {
	cross := func(user, usage string) ([]byte, string, error) {
		raw, err := getOr(r, store.Key(tableCross, user, usage))
		public, _ := crossKey(raw)
		return raw, public, err
	}
	var master []byte
	var public string
	if name, ok := a.local(target); ok {
		master, public, err = cross(name, usageMaster)
	} else {
		var row remoteRow
		row, err = a.remoteRow(r, target)
		master = row.Master
		public, _ = crossKey(master)
	}
	if err != nil {
		return s, err
	}
	isMaster := public != "" && key == public
	switch {
	case target != signer && isMaster:
		_, by, err := cross(own, usageUser)
		return signing{master, map[string]string{by: by}}, err
	case target != signer:
		return s, ErrNotFound
	case isMaster:
		s = signing{master, map[string]string{}}
		err := r.Scan(store.Key(tableDeviceKeys, own), nil, func(k, v []byte) (bool, error) {
			kr := store.ReadKey(k)
			_ = kr.String() // the user
			device := matrix.DeviceID(kr.String())
			s.keys[string(device)] = deviceSigningKey(v, device)
			return true, kr.Err()
		})
		return s, err
	}
	device, err := getOr(r, store.Key(tableDeviceKeys, own, key))
	if err != nil {
		return s, err
	}
	if device == nil {
		return s, ErrNotFound
	}
	_, by, err := cross(own, usageSelf)
	return signing{device, map[string]string{by: by}}, err
}

// isRefusal says that an error is about one object, not about the database.
func isRefusal(err error) bool {
	for _, is := range []error{ErrNotFound, ErrBadSignature, ErrBadKeys, ErrTooLarge} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// withSignature adds one signature to an object.
func withSignature(object json.RawMessage, signer matrix.UserID, name, signature string) (json.RawMessage, error) {
	return mergeSignatures(object, map[matrix.UserID]map[string]string{signer: {name: signature}})
}

func mergeSignatures(object json.RawMessage, more map[matrix.UserID]map[string]string) (json.RawMessage, error) {
	if len(more) == 0 {
		return object, nil
	}
	var fields map[string]json.RawMessage
	all := map[matrix.UserID]map[string]string{}
	err := json.Unmarshal(object, &fields)
	if err == nil && fields["signatures"] != nil {
		err = json.Unmarshal(fields["signatures"], &all)
	}
	if err != nil || fields == nil || all == nil {
		return nil, fmt.Errorf("account: a stored key is damaged: %w", err)
	}
	for user, byKey := range more {
		if all[user] == nil {
			all[user] = map[string]string{}
		}
		for name, s := range byKey {
			all[user][name] = s
		}
	}
	if fields["signatures"], err = json.Marshal(all); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// withSignatures adds to a stored object of user the signatures that viewer may see: the user's own and the viewer's.
func (a *Accounts) withSignatures(r store.Reader, user matrix.UserID, key string, viewer matrix.UserID, object []byte) (json.RawMessage, error) {
	more := map[matrix.UserID]map[string]string{}
	signers := []matrix.UserID{user}
	if viewer != user {
		signers = append(signers, viewer)
	}
	for _, signer := range signers {
		prefix := store.Key(tableSignature, user, key, signer)
		if err := r.Scan(prefix, nil, func(k, v []byte) (bool, error) {
			kr := store.ReadKey(append([]byte{0}, k[len(prefix):]...))
			name := kr.String()
			if more[signer] == nil {
				more[signer] = map[string]string{}
			}
			more[signer][name] = string(v)
			return true, kr.Err()
		}); err != nil {
			return nil, err
		}
	}
	return mergeSignatures(append([]byte(nil), object...), more)
}
