// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// filterID is the beginning of a filter's hash: 16 characters, none of which a path or a query must escape.
func filterID(filter []byte) string {
	h := sha256.Sum256(filter)
	return base64.RawURLEncoding.EncodeToString(h[:12])
}

// AddFilter stores a filter and gives its id (the same for equal content). ErrNotFound (no such user), ErrBadJSON,
// ErrTooLarge also beyond MaxFilters.
func (a *Accounts) AddFilter(user matrix.UserID, filter json.RawMessage) (string, error) {
	body, err := object(filter, MaxFilter)
	if err != nil {
		return "", err
	}
	id := filterID(body)
	if _, err := a.Filter(user, id); !errors.Is(err, ErrNotFound) {
		return id, err // clients send the same filter at every start
	}
	err = a.kv.Update(func(txn store.Txn) error {
		name, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		if n, err := count(txn, store.Key(tableFilter, name), MaxFilters); err != nil {
			return err
		} else if n >= MaxFilters {
			return fmt.Errorf("%w: %d filters", ErrTooLarge, n)
		}
		return txn.Set(store.Key(tableFilter, name, id), body)
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// Filter reads one; ErrNotFound.
func (a *Accounts) Filter(user matrix.UserID, id string) (filter json.RawMessage, err error) {
	name, ok := a.local(user)
	if !ok || len(id) > matrix.MaxID {
		return nil, ErrNotFound
	}
	err = a.kv.View(func(r store.Reader) error {
		filter, err = r.Get(store.Key(tableFilter, name, id))
		if errors.Is(err, store.ErrNotFound) {
			return ErrNotFound
		}
		return err
	})
	return filter, err
}
