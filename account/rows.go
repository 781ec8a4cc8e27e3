// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// Tables. Users stand in keys by their localpart. Values are JSON unless a form is given.
const (
	tableUser    = store.TableAccount + iota // (user)                -> userRow
	tableDevice                              // (user, device)        -> deviceRow
	tableAccess                              // (SHA-256 of token)    -> tokenRow
	tableRefresh                             // (SHA-256 of token)    -> tokenRow
	tableInvite                              // (SHA-256 of token)    -> its end, Unix seconds, 8 bytes
	tableProfile                             // (user)                -> Profile
	tableData                                // (user, room, type)    -> position, 8 bytes; content
	tableDataPos                             // (user, position)      -> Key(0, room, type): the index of tableData
	tableFilter                              // (user, filter id)     -> the filter

	// End-to-end encryption: keys.go, onetime.go, crosssigning.go, signatures.go, keychanges.go. A "full user" is a
	// whole user id.
	tableDeviceKeys // (user, device)        -> the device's identity keys as it signed them
	tableOneTime    // (user, device, 0, algorithm, position, key id) -> the key: claimed in this order;
	//                 (user, device, 1, algorithm, key id)           -> its position, 8 bytes
	tableKeyState  // (user, device)        -> keyState: how many one-time keys there are, and the fallback keys
	tableCross     // (user, usage)         -> the cross-signing key
	tableSignature // (full user, key or device, full signer, signing key's id) -> a signature that was added later
	tableKeyPos    // (position, full user, full viewer) -> nothing: whose keys changed; viewer "": for all
	tableKeyPosOf  // (full user, full viewer) -> the position, 8 bytes, of the row in tableKeyPos
	tableBackup    // (user, version, a number) -> backupRow: of a deleted version, that it was
	tableBackupKey // (user, version, room, session) -> the session's data
	tableInbox     // (user, device, position) -> a to-device event, until the client has it
	tableInboxSize // (user, device)        -> how many rows tableInbox has, 8 bytes;
	//                  (user, device, server) -> how many of them came from that server
	tableToDeviceTxn // (user, device, 0, transaction id) -> the hour, 8 bytes;
	//                  (user, device, 1, hour, transaction id) -> nothing: which may be forgotten

	tablePusher // (0, user, app id, push key) -> pusherRow;
	//             (1, app id, push key, user) -> nothing: whose pushers have this key
	tableDehydrated // (user) -> dehydratedRow
	tableReport     // (a number) -> Report

	// What goes between nodes: published.go, handed.go, message.go.
	tableRemote      // (server, full user)   -> remoteRow: keys of another server's user
	tableHanded      // (full user, device, number) -> NamedKey: one-time keys that the user's node handed to this one
	tableHandedState // (full user, device)   -> handedState
	tableSent        // (server, user)        -> the number, 8 bytes, of the last to-device message of a local user to that server
	tableHeard       // (server, full user)   -> heardRow: which to-device messages of another server's user came
	tableInboxOf     // (user, device, server, position) -> nothing: rows of tableInbox that came from that server
	tableHandedUpTo  // (server)              -> a serial, 8 bytes: batches up to it are old, whatever tableHandedState says; server "": of all

	tableThread // (0, user, room, thread's root) -> threadRow;
	//             (1, user, position) -> Key(0, room, root): the index of it
)

type userRow struct {
	Password    string `json:"password,omitempty"` // PHC string; none: nobody can log in with one
	Deactivated bool   `json:"deactivated,omitempty"`
	Standing
}

// deviceRow: a device and its session. Token rows point here; a token counts only if it stands here too.
type deviceRow struct {
	Name    string `json:"name,omitempty"`
	Seen    int64  `json:"seen,omitempty"` // days since 1970
	Current pair   `json:"current"`
	// Previous is the pair that Current replaced, valid until one of Current's tokens is used: the answer that
	// carried Current may have been lost on its way.
	Previous *pair `json:"previous,omitempty"`
}

// pair is the hashes of an access token and a refresh token.
type pair struct {
	Access  []byte `json:"access"`
	Refresh []byte `json:"refresh,omitempty"` // none: the client cannot refresh
	Ends    int64  `json:"ends,omitempty"`    // of the access token, Unix milliseconds; 0: never
}

type tokenRow struct {
	User   string          `json:"user"`
	Device matrix.DeviceID `json:"device"`
}

func hashToken(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}

// load reads a JSON row; ErrNotFound if there is none.
func load[T any](r store.Reader, key []byte) (T, error) {
	var row T
	raw, err := r.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return row, ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal(raw, &row)
	}
	if err != nil {
		return row, fmt.Errorf("account: reading a row: %w", err)
	}
	return row, nil
}

// save writes a JSON row.
func save(txn store.Txn, key []byte, row any) error {
	raw, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("account: %w", err)
	}
	return txn.Set(key, raw)
}

// compact is JSON without its spaces, as a copy.
func compact(raw []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// count counts rows with the prefix, up to max.
func count(r store.Reader, prefix []byte, max int) (n int, err error) {
	err = r.Scan(prefix, nil, func(_, _ []byte) (bool, error) {
		n++
		return n < max, nil
	})
	return n, err
}
