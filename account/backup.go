// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"tarn/matrix"
	"tarn/store"
)

// Backup is a version of a user's key backup (C-S API, "Server-side key backups"). What is in it only the user's
// clients can read.
type Backup struct {
	Version   string
	Algorithm string
	AuthData  json.RawMessage
	BackupState
}

// BackupState changes with the sessions of a backup.
type BackupState struct {
	Count int    // of sessions
	ETag  string // another one after each change
}

// WrongBackup is ErrWrongBackup with the version that is current.
type WrongBackup struct{ Current string }

// Error is ErrWrongBackup's text.
func (w WrongBackup) Error() string { return ErrWrongBackup.Error() }

// Is makes errors.Is(err, ErrWrongBackup) true.
func (w WrongBackup) Is(target error) bool { return target == ErrWrongBackup }

type backupRow struct {
	Algorithm string          `json:"algorithm,omitempty"`
	AuthData  json.RawMessage `json:"auth_data,omitempty"`
	Count     int             `json:"count,omitempty"`
	ETag      uint64          `json:"etag,omitempty"`
	Deleted   bool            `json:"deleted,omitempty"` // the row stays, so that no version number comes again
}

func (b *backupRow) state() BackupState {
	return BackupState{Count: b.Count, ETag: strconv.FormatUint(b.ETag, 10)}
}

// parseVersion reads a version: a number, in its one form.
func parseVersion(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, ErrNotFound
	}
	return n, nil
}

// newest finds the newest version that was not deleted; ErrNotFound. last is the newest of all.
func newest(r store.Reader, name string) (version, last uint64, row backupRow, err error) {
	prefix := store.Key(tableBackup, name)
	found := false
	err = r.ScanBack(prefix, nil, func(k, v []byte) (bool, error) {
		kr := store.ReadKey(append([]byte{0}, k[len(prefix):]...))
		n := kr.Uint64()
		if err := kr.Err(); err != nil {
			return false, err
		}
		last = max(last, n)
		var b backupRow
		if err := json.Unmarshal(v, &b); err != nil {
			return false, fmt.Errorf("account: reading a row: %w", err)
		}
		if !b.Deleted {
			version, row, found = n, b, true
		}
		return b.Deleted, nil
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	return version, last, row, err
}

// backupVersion finds one that was not deleted ("": the newest).
func backupVersion(r store.Reader, name, version string) (uint64, backupRow, error) {
	if version == "" {
		n, _, row, err := newest(r, name)
		return n, row, err
	}
	n, err := parseVersion(version)
	if err != nil {
		return 0, backupRow{}, err
	}
	row, err := load[backupRow](r, store.Key(tableBackup, name, n))
	if err == nil && row.Deleted {
		err = ErrNotFound
	}
	return n, row, err
}

// CreateBackup begins a new version, which is from now on the current one. ErrTooLarge, ErrBadJSON, ErrNotFound.
func (a *Accounts) CreateBackup(user matrix.UserID, algorithm string, authData json.RawMessage) (version string, err error) {
	auth, err := object(authData, MaxKey)
	if err != nil {
		return "", err
	}
	if len(algorithm) > matrix.MaxID {
		return "", fmt.Errorf("%w: the algorithm's name", ErrTooLarge)
	}
	err = a.kv.Update(func(txn store.Txn) error {
		name, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		_, last, _, err := newest(txn, name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if last >= MaxBackups {
			return fmt.Errorf("%w: %d versions of the key backup", ErrTooLarge, last)
		}
		version = strconv.FormatUint(last+1, 10)
		return save(txn, store.Key(tableBackup, name, last+1), backupRow{Algorithm: algorithm, AuthData: auth})
	})
	return version, err
}

// Backup reads a version ("": the newest). ErrNotFound.
func (a *Accounts) Backup(user matrix.UserID, version string) (b Backup, err error) {
	name, ok := a.local(user)
	if !ok {
		return b, ErrNotFound
	}
	err = a.kv.View(func(r store.Reader) error {
		n, row, err := backupVersion(r, name, version)
		b = Backup{strconv.FormatUint(n, 10), row.Algorithm, row.AuthData, row.state()}
		return err
	})
	return b, err
}

// SetBackupAuth replaces a version's auth data. The algorithm must be the same: ErrBadKeys. ErrNotFound, ErrBadJSON, ErrTooLarge.
func (a *Accounts) SetBackupAuth(user matrix.UserID, version, algorithm string, authData json.RawMessage) error {
	name, ok := a.local(user)
	if !ok || version == "" {
		return ErrNotFound
	}
	auth, err := object(authData, MaxKey)
	if err != nil {
		return err
	}
	return a.kv.Update(func(txn store.Txn) error {
		n, row, err := backupVersion(txn, name, version)
		if err != nil {
			return err
		}
		if row.Algorithm != algorithm {
			return fmt.Errorf("%w: the backup's algorithm is another", ErrBadKeys)
		}
		row.AuthData = auth
		return save(txn, store.Key(tableBackup, name, n), row)
	})
}

// DeleteBackup forgets a version and its sessions; the version before it, if it is there, is current again. Again is no
// error (the client may not have got the answer). ErrNotFound: never was.
func (a *Accounts) DeleteBackup(user matrix.UserID, version string) error {
	name, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	n, err := parseVersion(version)
	if err != nil {
		return err
	}
	return a.kv.Update(func(txn store.Txn) error {
		row, err := load[backupRow](txn, store.Key(tableBackup, name, n))
		if err != nil || row.Deleted {
			return err
		}
		if err := drop(txn, store.Key(tableBackupKey, name, n)); err != nil {
			return err
		}
		return save(txn, store.Key(tableBackup, name, n), backupRow{Deleted: true})
	})
}

// BackedUp is a session in a backup, as a client gives and gets it.
type BackedUp struct {
	Room    matrix.RoomID
	Session string
	Data    json.RawMessage
}

// sessionRank is what decides which of two backups of one session is better.
type sessionRank struct {
	First     *int64           `json:"first_message_index"`
	Forwarded *int64           `json:"forwarded_count"`
	Verified  *bool            `json:"is_verified"`
	Data      *json.RawMessage `json:"session_data"`
}

// better: "1. is_verified true over false, 2. the lower first_message_index, 3. the lower forwarded_count" (C-S API).
func (s sessionRank) better(old sessionRank) bool {
	switch {
	case *s.Verified != *old.Verified:
		return *s.Verified
	case *s.First != *old.First:
		return *s.First < *old.First
	default:
		return *s.Forwarded < *old.Forwarded
	}
}

func readRank(raw []byte) (s sessionRank, err error) {
	if json.Unmarshal(raw, &s) != nil || s.First == nil || s.Forwarded == nil || s.Verified == nil || s.Data == nil || (*s.Data)[0] != '{' {
		return s, fmt.Errorf("%w: a backed-up session needs first_message_index, forwarded_count, is_verified and session_data (%w)", ErrBadJSON, ErrBadKeys)
	}
	if *s.First < 0 || *s.Forwarded < 0 {
		return s, fmt.Errorf("%w: a backed-up session with a number below 0", ErrBadKeys)
	}
	return s, nil
}

// PutBackup adds sessions to the current version; of one that is there already the better one stays. WrongBackup for
// another version; ErrNotFound if there is none. ErrBadKeys, ErrTooLarge.
func (a *Accounts) PutBackup(user matrix.UserID, version string, sessions []BackedUp) (BackupState, error) {
	name, ok := a.local(user)
	if !ok {
		return BackupState{}, ErrNotFound
	}
	ranks := make([]sessionRank, len(sessions))
	bodies := make([][]byte, len(sessions))
	for i, s := range sessions {
		if len(s.Room) > matrix.MaxID || len(s.Session) > matrix.MaxID || s.Room == "" || s.Session == "" {
			return BackupState{}, fmt.Errorf("%w: the name of a room or a session", ErrTooLarge)
		}
		var err error
		if bodies[i], err = object(s.Data, MaxSession); err != nil {
			return BackupState{}, err
		}
		if ranks[i], err = readRank(bodies[i]); err != nil {
			return BackupState{}, err
		}
	}
	return a.changeBackup(user, name, version, func(txn store.Txn, n uint64, row *backupRow) (changed bool, err error) {
		for i, s := range sessions {
			key := store.Key(tableBackupKey, name, n, s.Room, s.Session)
			old, err := getOr(txn, key)
			if err != nil {
				return false, err
			}
			if old != nil {
				if rank, err := readRank(old); err == nil && !ranks[i].better(rank) {
					continue
				}
			} else if row.Count++; row.Count > MaxBackup {
				return false, fmt.Errorf("%w: more than %d sessions in a key backup", ErrTooLarge, MaxBackup)
			}
			if err := txn.Set(key, bodies[i]); err != nil {
				return false, err
			}
			changed = true
		}
		return changed, nil
	})
}

// DropBackup deletes sessions of the current version: one, those of a room (session ""), or all (room ""). Errors as PutBackup's.
func (a *Accounts) DropBackup(user matrix.UserID, version string, room matrix.RoomID, session string) (BackupState, error) {
	name, ok := a.local(user)
	if !ok {
		return BackupState{}, ErrNotFound
	}
	var state BackupState
	err := a.kv.Update(func(txn store.Txn) error {
		n, row, err := backupVersion(txn, name, version)
		if err != nil {
			return err
		}
		changed := false
		if err := txn.Scan(backupPrefix(name, n, room, session), nil, func(k, _ []byte) (bool, error) {
			changed = true
			row.Count--
			return true, txn.Delete(k)
		}); err != nil {
			return err
		}
		state, err = saveBackup(txn, name, n, row, changed)
		return err
	})
	return state, err
}

// saveBackup writes a version's row if its sessions changed.
func saveBackup(txn store.Txn, name string, n uint64, row backupRow, changed bool) (BackupState, error) {
	if changed {
		row.ETag++
		if err := save(txn, store.Key(tableBackup, name, n), row); err != nil {
			return BackupState{}, err
		}
	}
	return row.state(), nil
}

func (a *Accounts) changeBackup(user matrix.UserID, name, version string, fn func(store.Txn, uint64, *backupRow) (bool, error)) (state BackupState, err error) {
	err = a.kv.Update(func(txn store.Txn) error {
		n, _, row, err := newest(txn, name)
		if err != nil {
			return err
		}
		if current := strconv.FormatUint(n, 10); version != current {
			return WrongBackup{Current: current}
		}
		changed, err := fn(txn, n, &row)
		if err != nil {
			return err
		}
		state, err = saveBackup(txn, name, n, row, changed)
		return err
	})
	return state, err
}

func backupPrefix(name string, n uint64, room matrix.RoomID, session string) []byte {
	switch {
	case room == "":
		return store.Key(tableBackupKey, name, n)
	case session == "":
		return store.Key(tableBackupKey, name, n, room)
	}
	return store.Key(tableBackupKey, name, n, room, session)
}

// BackedUp lists sessions of a version: one, those of a room (session ""), or all (room ""). ErrNotFound: no such version.
func (a *Accounts) BackedUp(user matrix.UserID, version string, room matrix.RoomID, session string) (list []BackedUp, err error) {
	name, ok := a.local(user)
	if !ok || version == "" {
		return nil, ErrNotFound
	}
	err = a.kv.View(func(r store.Reader) error {
		n, _, err := backupVersion(r, name, version)
		if err != nil {
			return err
		}
		prefix := store.Key(tableBackupKey, name, n)
		return r.Scan(backupPrefix(name, n, room, session), nil, func(k, v []byte) (bool, error) {
			kr := store.ReadKey(append([]byte{0}, k[len(prefix):]...))
			s := BackedUp{Room: matrix.RoomID(kr.String()), Session: kr.String(), Data: bytes.Clone(v)}
			list = append(list, s)
			return true, kr.Err()
		})
	})
	return list, err
}
