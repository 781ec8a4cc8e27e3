// SPDX-License-Identifier: Apache-2.0

package account

import (
	"errors"

	"tarn/matrix"
	"tarn/store"
)

// markKeys notes at pos that user's keys changed, for viewer or (viewer "") for everybody. A user has one row for each
// viewer, the newest: so KeyChanges costs what changed, not what ever did.
func (a *Accounts) markKeys(txn store.Txn, pos store.Pos, user, viewer matrix.UserID) error {
	for { // before the commit: too high is harmless
		last := a.lastKeys.Load()
		if uint64(pos) <= last || a.lastKeys.CompareAndSwap(last, uint64(pos)) {
			break
		}
	}
	of := store.Key(tableKeyPosOf, user, viewer)
	old, err := getOr(txn, of)
	if err != nil {
		return err
	}
	if old != nil && posOf(old) != pos {
		if err := dropKeyPos(txn, posOf(old), user, viewer); err != nil {
			return err
		}
	}
	at := store.AppendUint64(nil, uint64(pos))
	return errors.Join(txn.Set(of, at), txn.Set(keyPosKey(pos, user, viewer), nil))
}

func keyPosKey(pos store.Pos, user, viewer matrix.UserID) []byte {
	return store.Key(tableKeyPos, pos, user, viewer)
}

func dropKeyPos(txn store.Txn, pos store.Pos, user, viewer matrix.UserID) error {
	return txn.Delete(keyPosKey(pos, user, viewer))
}

// openKeyChanges finds the newest change.
func (a *Accounts) openKeyChanges() error {
	return a.kv.View(func(r store.Reader) error {
		return r.ScanBack(store.Key(tableKeyPos), nil, func(k, _ []byte) (bool, error) {
			a.lastKeys.Store(store.ReadKey(k).Uint64())
			return false, nil
		})
	})
}

// KeyChange is a user whose public keys, or signatures on them, changed.
type KeyChange struct {
	User matrix.UserID
	// Own: the viewer's own doing (a signature on the user's key) that nobody else sees.
	Own bool
}

// KeyChanges lists whose keys changed after since and not after upTo, as viewer may know: the caller keeps those who share
// a room with viewer. What changed again after upTo is left to the next call.
func (a *Accounts) KeyChanges(viewer matrix.UserID, since, upTo store.Pos) (list []KeyChange, err error) {
	if upTo <= since || uint64(since) >= a.lastKeys.Load() {
		return nil, nil
	}
	err = a.kv.View(func(r store.Reader) error {
		return r.Scan(store.Key(tableKeyPos), store.Key(tableKeyPos, since+1), func(k, _ []byte) (bool, error) {
			kr := store.ReadKey(k)
			pos, user, to := store.Pos(kr.Uint64()), matrix.UserID(kr.String()), matrix.UserID(kr.String())
			if err := kr.Err(); err != nil {
				return false, err
			}
			if pos > upTo {
				return false, nil
			}
			if to == "" || to == viewer {
				list = append(list, KeyChange{User: user, Own: to != ""})
			}
			return true, nil
		})
	})
	return list, err
}
