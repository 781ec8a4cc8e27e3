// SPDX-License-Identifier: Apache-2.0

package media

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Tables. A hash is a SHA-256 in hexadecimal.
const (
	tableMedia   = store.TableMedia + iota // (id)       -> row, JSON
	tableBlob                              // (hash)     -> the file's bytes, 8 bytes: the file counts and is whole
	tablePending                           // (user, id) -> when the place ends, Unix milliseconds, 8 bytes
	tableTotal                             // ()         -> bytes of all blobs, 8 bytes
	tableServer                            // (server)   -> bytes of that server's files here, 8 bytes: equal ones count each time
	tableComing                            // (server, name) -> comingRow, JSON: a file of another server that is asked for; name as in Remote.key
	tablePart                              // (server, name, number) -> bytes of it, until it is whole
	tableGoing                             // (server, name) -> goingRow, JSON: a file of ours that another server asks for
)

// row is a file's, or its place's. A file of another server is under "server/id", its thumbnail under "server/id/thumbnail".
type row struct {
	User    matrix.UserID `json:"user,omitempty"` // "" of another server's file
	Hash    string        `json:"hash,omitempty"` // none: a place without a file
	Size    int64         `json:"size,omitempty"`
	Type    string        `json:"type,omitempty"`
	Name    string        `json:"name,omitempty"`
	Expires int64         `json:"expires,omitempty"` // of a place, Unix milliseconds
}

func mediaKey(id string) []byte  { return store.Key(tableMedia, id) }
func blobKey(hash string) []byte { return store.Key(tableBlob, hash) }
func pendingKey(user matrix.UserID, id string) []byte {
	return store.Key(tablePending, string(user), id)
}

func load(r store.Reader, id string) (m row, err error) {
	raw, err := r.Get(mediaKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return m, ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err == nil && m.Hash != "" && len(m.Hash) != 64 {
		err = errRow
	}
	return m, err
}

func save(txn store.Txn, id string, m row) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("media: %w", err)
	}
	return txn.Set(mediaKey(id), raw)
}

func number(v []byte) (int64, error) {
	if len(v) != 8 {
		return 0, errRow
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

func total(r store.Reader) (int64, error) { return sum(r, store.Key(tableTotal)) }

// serverTotal is how much of a server's files is here.
func serverTotal(r store.Reader, server matrix.ServerName) (int64, error) {
	return sum(r, store.Key(tableServer, string(server)))
}

func sum(r store.Reader, key []byte) (int64, error) {
	v, err := r.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return number(v)
}

// hasBlob says whether a file counts already.
func hasBlob(r store.Reader, hash string) (bool, error) {
	_, err := r.Get(blobKey(hash))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// expirePending forgets the user's places that ended, and counts the others.
func expirePending(txn store.Txn, user matrix.UserID, now time.Time) (n int, err error) {
	prefix := store.Key(tablePending, string(user))
	err = txn.Scan(prefix, nil, func(k, v []byte) (bool, error) {
		at, err := number(v)
		if err != nil {
			return false, err
		}
		if at > now.UnixMilli() {
			n++
			return true, nil
		}
		key := store.ReadKey(k)
		_, id := key.String(), key.String()
		if err := key.Err(); err != nil {
			return false, err
		}
		return true, errors.Join(txn.Delete(mediaKey(id)), txn.Delete(pendingKey(user, id)))
	})
	return n, err
}
