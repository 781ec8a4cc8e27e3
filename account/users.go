// SPDX-License-Identifier: Apache-2.0

package account

import (
	"errors"

	"tarn/matrix"
	"tarn/store"
)

// Create makes a user. localpart as the spec's grammar for new users (lower case).
// ErrUserInUse, ErrBadUserName, ErrWeakPassword.
func (a *Accounts) Create(localpart, password string) (matrix.UserID, error) {
	return a.create(localpart, password, nil)
}

// create makes a user, and runs also (may be nil) in the same transaction. Nothing is hashed for a name or an
// invitation that would be refused.
func (a *Accounts) create(localpart, password string, also func(store.Txn) error) (matrix.UserID, error) {
	if err := a.Available(localpart); err != nil {
		return "", err
	}
	if err := checkPassword(password); err != nil {
		return "", err
	}
	user, err := matrix.NewUserID(localpart, a.opt.Server)
	if err != nil {
		return "", ErrBadUserName
	}
	hash := a.hasher.hash(password)
	err = a.kv.Update(func(txn store.Txn) error {
		if err := a.free(txn, localpart); err != nil {
			return err
		}
		if also != nil {
			if err := also(txn); err != nil {
				return err
			}
		}
		if err := save(txn, store.Key(tableUser, localpart), userRow{Password: hash}); err != nil {
			return err
		}
		return save(txn, store.Key(tableProfile, localpart), Profile{DisplayName: localpart})
	})
	if err != nil {
		return "", err
	}
	return user, nil
}

// Available tells whether a user of that name could be made (ErrUserInUse, ErrBadUserName).
func (a *Accounts) Available(localpart string) error {
	if _, err := matrix.NewUserID(localpart, a.opt.Server); err != nil {
		return ErrBadUserName
	}
	return a.kv.View(func(r store.Reader) error { return a.free(r, localpart) })
}

func (a *Accounts) free(r store.Reader, localpart string) error {
	if localpart == NoticesName {
		return ErrUserInUse
	}
	switch _, err := r.Get(store.Key(tableUser, localpart)); {
	case err == nil:
		return ErrUserInUse
	case errors.Is(err, store.ErrNotFound):
		return nil
	default:
		return err
	}
}

// active reads a local, active user: ErrNotFound, ErrDeactivated.
func (a *Accounts) active(r store.Reader, user matrix.UserID) (name string, row userRow, err error) {
	name, ok := a.local(user)
	if !ok {
		return "", row, ErrNotFound
	}
	if row, err = load[userRow](r, store.Key(tableUser, name)); err != nil {
		return "", row, err
	}
	if row.Deactivated {
		return "", row, ErrDeactivated
	}
	return name, row, nil
}

// Exists tells whether the local user exists and is active.
func (a *Accounts) Exists(user matrix.UserID) (bool, error) {
	err := a.kv.View(func(r store.Reader) error {
		_, _, err := a.active(r, user)
		return err
	})
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDeactivated) {
		return false, nil
	}
	return err == nil, err
}

// Users lists the local users that are active, sorted.
func (a *Accounts) Users() ([]matrix.UserID, error) {
	var users []matrix.UserID
	err := a.kv.View(func(r store.Reader) error {
		return r.Scan(store.Key(tableUser), nil, func(k, _ []byte) (bool, error) {
			kr := store.ReadKey(k)
			name := kr.String()
			if err := kr.Err(); err != nil {
				return false, err
			}
			row, err := load[userRow](r, k)
			if err == nil && !row.Deactivated {
				users = append(users, matrix.UserID("@"+name+":"+string(a.opt.Server)))
			}
			return true, err
		})
	})
	return users, err
}

// Deactivate ends the user's sessions and forgets the password, profile, account data, filters, keys and key backups.
// The name stays taken for ever. ErrNotFound; a second time is ErrDeactivated.
func (a *Accounts) Deactivate(user matrix.UserID) error {
	return a.change(user, func(txn store.Txn, pos store.Pos) error {
		name, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		if err := a.endSessions(txn, pos, name, ""); err != nil {
			return err
		}
		if err := a.markKeys(txn, pos, user, ""); err != nil {
			return err
		}
		for _, prefix := range [][]byte{store.Key(tableProfile, name), store.Key(tableData, name), store.Key(tableDataPos, name), store.Key(tableFilter, name),
			store.Key(tableCross, name), store.Key(tableSignature, user), store.Key(tableBackup, name), store.Key(tableBackupKey, name),
			store.Key(tableThread, threadByRoot, name), store.Key(tableThread, threadByAge, name)} {
			if err := drop(txn, prefix); err != nil {
				return err
			}
		}
		return save(txn, store.Key(tableUser, name), userRow{Deactivated: true})
	})
}

// CheckPassword checks a user's password (ErrForbidden, Limited). remote is who asks, an address: wrong attempts are
// counted for it. An unknown user takes the time of a wrong password.
func (a *Accounts) CheckPassword(user matrix.UserID, password, remote string) error {
	giveBack, err := a.limits.attempt(string(user), remote)
	if err != nil {
		return err
	}
	name, hash := "", ""
	err = a.kv.View(func(r store.Reader) error {
		n, row, err := a.active(r, user)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDeactivated) {
			return nil
		}
		name, hash = n, row.Password
		return err
	})
	if err != nil {
		return err
	}
	good, old := a.hasher.verify(hash, password)
	if !good {
		return ErrForbidden
	}
	giveBack()
	if old {
		// Made with other parameters: hash it anew while we know the password.
		return a.replacePassword(name, hash, a.hasher.hash(password))
	}
	return nil
}

// replacePassword writes the new hash of the same password, if the old is still there.
func (a *Accounts) replacePassword(name, old, hash string) error {
	return a.kv.Update(func(txn store.Txn) error {
		row, err := load[userRow](txn, store.Key(tableUser, name))
		if err != nil || row.Password != old {
			return err
		}
		row.Password = hash
		return save(txn, store.Key(tableUser, name), row)
	})
}

// SetPassword replaces it; logoutOthers ends every session but keep's. ErrWeakPassword, ErrNotFound, ErrDeactivated.
func (a *Accounts) SetPassword(user matrix.UserID, password string, logoutOthers bool, keep matrix.DeviceID) error {
	if err := checkPassword(password); err != nil {
		return err
	}
	if ok, err := a.Exists(user); err != nil {
		return err
	} else if !ok {
		return ErrNotFound
	}
	hash := a.hasher.hash(password)
	return a.change(user, func(txn store.Txn, pos store.Pos) error {
		name, row, err := a.active(txn, user)
		if err != nil {
			return err
		}
		row.Password = hash
		if err := save(txn, store.Key(tableUser, name), row); err != nil {
			return err
		}
		if !logoutOthers {
			return nil
		}
		return a.endSessions(txn, pos, name, keep)
	})
}
