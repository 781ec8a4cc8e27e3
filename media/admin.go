// SPDX-License-Identifier: Apache-2.0

package media

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"tarn/matrix"
	"tarn/store"
)

// Entry is a file as its operator sees it.
type Entry struct {
	ID   string        `json:"id"`   // of another server's file: server/id
	User matrix.UserID `json:"user"` // who uploaded it; "" of another server's
	Type string        `json:"type,omitempty"`
	Name string        `json:"name,omitempty"`
	Size int64         `json:"size"` // bytes
}

// each reads all files, in the order of their ids, which tells nothing. Only the operator's commands do this.
func each(r store.Reader, f func(id string, m row) error) error {
	return r.Scan(store.Key(tableMedia), nil, func(k, v []byte) (bool, error) {
		kr := store.ReadKey(k)
		id := kr.String()
		if err := kr.Err(); err != nil {
			return false, err
		}
		var m row
		if err := json.Unmarshal(v, &m); err != nil {
			return false, errRow
		}
		return true, f(id, m)
	})
}

// List gives the files of user, or of all users ("").
func (s *Store) List(user matrix.UserID) (out []Entry, err error) {
	err = s.kv.View(func(r store.Reader) error {
		out = nil
		return each(r, func(id string, m row) error {
			if m.Hash != "" && (user == "" || m.User == user) {
				out = append(out, Entry{ID: id, User: m.User, Type: m.Type, Name: m.Name, Size: m.Size})
			}
			return nil
		})
	})
	return out, err
}

// Delete forgets a file, or a place without one, for good; its bytes go if no other file has the same. ErrNotFound.
// What is being downloaded meanwhile goes on.
//
// What a crash leaves, step by step:
//
//  1. The file gets a name in tmp/. A crash: Open finds it there, sees that a row counts it, and takes that name away.
//  2. One transaction: the id's row, and if it was the last the blob's row and the total. Now it is deleted. A crash: Open finds
//     the name in tmp/, sees that no row counts the file, and deletes it.
//  3. The file and its thumbnails. A crash amid the thumbnails leaves some: they can be asked for by nobody.
func (s *Store) Delete(id string) error {
	m, err := s.row(id)
	if err != nil {
		return err
	}
	if m.Hash == "" {
		return s.kv.Update(func(txn store.Txn) error {
			if m, err = load(txn, id); err != nil {
				return err
			}
			if m.Hash != "" {
				return ErrFilled // just now: ask again
			}
			return errors.Join(txn.Delete(mediaKey(id)), txn.Delete(pendingKey(m.User, id)))
		})
	}
	lock := s.lock(m.Hash)
	lock.Lock()
	defer lock.Unlock()
	tmp := filepath.Join(s.dir, "tmp", newID())
	if err := os.Link(s.blob(m.Hash), tmp); errors.Is(err, fs.ErrNotExist) {
		tmp = "" // as for get: only the row is left
	} else if err != nil {
		return err
	}
	last := false
	err = s.kv.Update(func(txn store.Txn) error {
		if _, err := load(txn, id); err != nil { // deleted by another meanwhile
			return err
		}
		others := 0
		if err := each(txn, func(other string, o row) error {
			if o.Hash == m.Hash && other != id {
				others++
			}
			return nil
		}); err != nil {
			return err
		}
		if r, ok := parseRemote(id); ok {
			if err := s.wentOf(txn, r.Server, m.Size); err != nil {
				return err
			}
		}
		if err := txn.Delete(mediaKey(id)); err != nil || others > 0 {
			return err
		}
		last = true
		used, err := total(txn)
		if err != nil {
			return err
		}
		return errors.Join(txn.Delete(blobKey(m.Hash)), txn.Set(store.Key(tableTotal), store.AppendUint64(nil, uint64(max(used-m.Size, 0)))))
	})
	if err == nil && last {
		err = s.dropUncounted(m.Hash)
		thumbs, gerr := filepath.Glob(filepath.Join(s.dir, "thumbs", m.Hash+"-*"))
		err = errors.Join(err, gerr)
		for _, t := range thumbs {
			err = errors.Join(err, os.Remove(t))
		}
	}
	if tmp != "" {
		err = errors.Join(err, os.Remove(tmp))
	}
	return err
}
