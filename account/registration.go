// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"tarn/matrix"
	"tarn/store"
)

const invitationLife = 7 * 24 * time.Hour

// NewRegistrationToken makes a one-time token that lets one person register; 0 life: seven days. The token is
// 26 letters and digits (128 bits); the database has only its hash, so it is shown once.
func (a *Accounts) NewRegistrationToken(life time.Duration) (string, error) {
	if life < 0 {
		return "", errors.New("account: negative life of a registration token")
	}
	if life == 0 {
		life = invitationLife
	}
	token := rand.Text()
	now := time.Now()
	err := a.kv.Update(func(txn store.Txn) error {
		// Expired ones are swept here: nothing else makes the table grow.
		n := 0
		if err := txn.Scan(store.Key(tableInvite), nil, func(k, v []byte) (bool, error) {
			if ended(v, now) {
				return true, txn.Delete(k)
			}
			n++
			return true, nil
		}); err != nil {
			return err
		}
		if n >= maxInvitations {
			return fmt.Errorf("%w: %d registration tokens are waiting to be used", ErrTooLarge, n)
		}
		ends := store.AppendUint64(nil, uint64(now.Add(life).Unix()))
		return txn.Set(store.Key(tableInvite, hashToken(token)), ends)
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

func ended(row []byte, now time.Time) bool {
	return len(row) != 8 || now.Unix() >= int64(binary.BigEndian.Uint64(row))
}

// CheckRegistrationToken tells whether it would be taken (ErrBadInvitation).
func (a *Accounts) CheckRegistrationToken(token string) error {
	return a.kv.View(func(r store.Reader) error { return checkInvitation(r, token) })
}

func checkInvitation(r store.Reader, token string) error {
	row, err := r.Get(store.Key(tableInvite, hashToken(token)))
	if errors.Is(err, store.ErrNotFound) || err == nil && ended(row, time.Now()) {
		return ErrBadInvitation
	}
	return err
}

// Register makes a user and uses the token up, in one transaction: of two who hold one token, one succeeds.
// token "": open registration (the caller decided that it is). Errors as Create's, and ErrBadInvitation.
func (a *Accounts) Register(localpart, password, token string) (matrix.UserID, error) {
	if token == "" {
		return a.create(localpart, password, nil)
	}
	if err := a.CheckRegistrationToken(token); err != nil {
		return "", err
	}
	return a.create(localpart, password, func(txn store.Txn) error {
		if err := checkInvitation(txn, token); err != nil {
			return err
		}
		return txn.Delete(store.Key(tableInvite, hashToken(token)))
	})
}
