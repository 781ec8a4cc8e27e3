// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// Data is one account data event.
type Data struct {
	Room    matrix.RoomID // "": global
	Type    string
	Content json.RawMessage
	Pos     store.Pos
}

var errDataRow = errors.New("account: a row of account data is damaged")

// SetData stores global (room "") or room account data and wakes the user's /sync.
// ErrNotFound (no such user), ErrDeactivated, ErrBadJSON, ErrTooLarge.
func (a *Accounts) SetData(user matrix.UserID, room matrix.RoomID, typ string, content json.RawMessage) error {
	if typ == "" || len(typ) > matrix.MaxID || len(room) > matrix.MaxID {
		return fmt.Errorf("%w: the type or room of account data", ErrTooLarge)
	}
	body, err := object(content, MaxData)
	if err != nil {
		return err
	}
	_, err = a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		name, _, err := a.active(txn, user)
		if err != nil {
			return nil, err
		}
		key := store.Key(tableData, name, room, typ)
		switch old, err := txn.Get(key); {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			// The index has one row a datum, its newest: so DataSince gives each once.
			at, _, err := splitData(old)
			if err != nil {
				return nil, err
			}
			if err := txn.Delete(store.Key(tableDataPos, name, at)); err != nil {
				return nil, err
			}
		}
		if err := txn.Set(key, append(store.AppendUint64(make([]byte, 0, 8+len(body)), uint64(pos)), body...)); err != nil {
			return nil, err
		}
		if err := txn.Set(store.Key(tableDataPos, name, pos), store.Key(0, room, typ)); err != nil {
			return nil, err
		}
		return []string{string(user)}, nil
	})
	return err
}

func splitData(row []byte) (store.Pos, json.RawMessage, error) {
	if len(row) < 8 {
		return 0, nil, errDataRow
	}
	return store.Pos(binary.BigEndian.Uint64(row)), json.RawMessage(row[8:]), nil
}

// Data reads one; ErrNotFound.
func (a *Accounts) Data(user matrix.UserID, room matrix.RoomID, typ string) (content json.RawMessage, err error) {
	name, ok := a.local(user)
	if !ok {
		return nil, ErrNotFound
	}
	if len(typ) > matrix.MaxID || len(room) > matrix.MaxID {
		return nil, ErrNotFound
	}
	err = a.kv.View(func(r store.Reader) error {
		row, err := r.Get(store.Key(tableData, name, room, typ))
		if errors.Is(err, store.ErrNotFound) {
			return ErrNotFound
		}
		if err == nil {
			_, content, err = splitData(row)
		}
		return err
	})
	return content, err
}

// DataSince lists the user's account data changed after since and not after upTo, each once, newest content, in
// the order of the changes. What changed again after upTo is left to the next call.
func (a *Accounts) DataSince(user matrix.UserID, since, upTo store.Pos) (list []Data, err error) {
	name, ok := a.local(user)
	if !ok || upTo <= since {
		return nil, nil
	}
	prefix := store.Key(tableDataPos, name)
	err = a.kv.View(func(r store.Reader) error {
		return r.Scan(prefix, store.Key(tableDataPos, name, since+1), func(k, v []byte) (bool, error) {
			if len(k) != len(prefix)+8 {
				return false, errDataRow
			}
			pos := store.Pos(binary.BigEndian.Uint64(k[len(prefix):]))
			if pos > upTo {
				return false, nil
			}
			kr := store.ReadKey(v)
			room, typ := kr.String(), kr.String()
			if err := kr.Err(); err != nil {
				return false, err
			}
			row, err := r.Get(store.Key(tableData, name, room, typ))
			if err != nil {
				return false, fmt.Errorf("%w: %w", errDataRow, err)
			}
			at, content, err := splitData(row)
			if err == nil && at != pos {
				err = errDataRow
			}
			list = append(list, Data{Room: matrix.RoomID(room), Type: typ, Content: content, Pos: pos})
			return true, err
		})
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
