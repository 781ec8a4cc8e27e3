// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"tarn/account"
	"tarn/matrix"
)

// backupAnswer is a version of the key backup.
type backupAnswer struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int             `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`
}

type backupRequest struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   *string         `json:"version"`
}

func (c *call) backupRequest() (q backupRequest, err error) {
	if err := c.decode(&q); err != nil {
		return q, err
	}
	if q.Algorithm == "" {
		return q, missing("algorithm")
	}
	if q.AuthData == nil {
		return q, missing("auth_data")
	}
	return q, nil
}

// createBackup: POST /room_keys/version.
func (a *API) createBackup(c *call) (any, error) {
	q, err := c.backupRequest()
	if err != nil {
		return nil, err
	}
	v, err := a.accounts.CreateBackup(c.who.User, q.Algorithm, q.AuthData)
	return map[string]string{"version": v}, err
}

// backupVersion: GET /room_keys/version[/{version}]. Without a backup 404 M_NOT_FOUND, which clients take for "none".
func (a *API) backupVersion(c *call) (any, error) {
	b, err := a.accounts.Backup(c.who.User, c.path("version"))
	if err != nil {
		return nil, noBackup(err)
	}
	return backupAnswer{b.Algorithm, b.AuthData, b.Count, b.ETag, b.Version}, nil
}

// setBackupVersion: PUT /room_keys/version/{version}.
func (a *API) setBackupVersion(c *call) (any, error) {
	q, err := c.backupRequest()
	if err != nil {
		return nil, err
	}
	if q.Version != nil && *q.Version != c.path("version") {
		return nil, invalid("version in the body is another than in the path")
	}
	return empty{}, noBackup(a.accounts.SetBackupAuth(c.who.User, c.path("version"), q.Algorithm, q.AuthData))
}

// deleteBackupVersion: DELETE /room_keys/version/{version}.
func (a *API) deleteBackupVersion(c *call) (any, error) {
	return empty{}, noBackup(a.accounts.DeleteBackup(c.who.User, c.path("version")))
}

func noBackup(err error) error {
	if errors.Is(err, account.ErrNotFound) {
		return notFound("there is no such key backup")
	}
	return err
}

// roomSessions are the sessions of a room as clients send and get them.
type roomSessions struct {
	Sessions map[string]json.RawMessage `json:"sessions"`
}

// putBackup: PUT /room_keys/keys[/{roomId}[/{sessionId}]].
func (a *API) putBackup(c *call) (any, error) {
	version := c.query("version")
	if version == "" {
		return nil, missing("version")
	}
	var list []account.BackedUp
	r, session := matrix.RoomID(c.path("room")), c.path("session")
	add := func(room matrix.RoomID, in roomSessions) error {
		if in.Sessions == nil {
			return missing("sessions")
		}
		for id, data := range in.Sessions {
			list = append(list, account.BackedUp{Room: room, Session: id, Data: data})
		}
		return nil
	}
	switch {
	case session != "":
		data, err := c.object()
		if err != nil {
			return nil, err
		}
		list = append(list, account.BackedUp{Room: r, Session: session, Data: json.RawMessage(data)})
	case r != "":
		var q roomSessions
		if err := c.decode(&q); err != nil {
			return nil, err
		}
		if err := add(r, q); err != nil {
			return nil, err
		}
	default:
		var q struct {
			Rooms map[matrix.RoomID]roomSessions `json:"rooms"`
		}
		if err := c.decode(&q); err != nil {
			return nil, err
		}
		if q.Rooms == nil {
			return nil, missing("rooms")
		}
		for room, in := range q.Rooms {
			if err := add(room, in); err != nil {
				return nil, err
			}
		}
	}
	return backupState(a.accounts.PutBackup(c.who.User, version, list))
}

// deleteBackup: DELETE of the same.
func (a *API) deleteBackup(c *call) (any, error) {
	version := c.query("version")
	if version == "" {
		return nil, missing("version")
	}
	return backupState(a.accounts.DropBackup(c.who.User, version, matrix.RoomID(c.path("room")), c.path("session")))
}

func backupState(s account.BackupState, err error) (any, error) {
	var wrong account.WrongBackup
	if errors.As(err, &wrong) {
		return nil, &Error{Status: http.StatusForbidden, Code: matrix.ErrcodeWrongRoomKeysVersion,
			Text: "this is not the current version of the key backup", Extra: map[string]any{"current_version": wrong.Current}}
	}
	if err != nil {
		return nil, noBackup(err)
	}
	return map[string]any{"count": s.Count, "etag": s.ETag}, nil
}

// getBackup: GET of the same.
func (a *API) getBackup(c *call) (any, error) {
	version := c.query("version")
	if version == "" {
		return nil, missing("version")
	}
	r, session := matrix.RoomID(c.path("room")), c.path("session")
	list, err := a.accounts.BackedUp(c.who.User, version, r, session)
	if err != nil {
		return nil, noBackup(err)
	}
	rooms := map[matrix.RoomID]roomSessions{}
	for _, s := range list {
		if rooms[s.Room].Sessions == nil {
			rooms[s.Room] = roomSessions{map[string]json.RawMessage{}}
		}
		rooms[s.Room].Sessions[s.Session] = s.Data
	}
	switch {
	case session != "":
		if len(list) == 0 {
			return nil, notFound("this session is not in the key backup")
		}
		return list[0].Data, nil
	case r != "":
		if len(list) == 0 {
			return roomSessions{map[string]json.RawMessage{}}, nil
		}
		return rooms[r], nil
	}
	return map[string]any{"rooms": rooms}, nil
}
