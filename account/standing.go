// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/rand"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Standing is what the node's operator says of a user. clientapi says what it means.
type Standing struct {
	Locked    bool `json:"locked,omitempty"`    // can do nothing but log out
	Suspended bool `json:"suspended,omitempty"` // can read and leave
}

// SetStanding replaces it and wakes the user's devices. ErrNotFound, ErrDeactivated.
func (a *Accounts) SetStanding(user matrix.UserID, s Standing) error {
	return a.change(user, func(txn store.Txn, _ store.Pos) error {
		name, row, err := a.active(txn, user)
		if err != nil {
			return err
		}
		row.Standing = s
		return save(txn, store.Key(tableUser, name), row)
	})
}

// Standing of a local user; ErrNotFound.
func (a *Accounts) Standing(user matrix.UserID) (s Standing, err error) {
	err = a.kv.View(func(r store.Reader) error {
		_, row, err := a.active(r, user)
		s = row.Standing
		return err
	})
	return s, err
}

// Login tokens let a device hand its user over to another one (C-S API, POST /login/get_token). They are in memory: a restart ends
// them, two minutes before their time at most.
const (
	LoginTokenLife = 2 * time.Minute
	maxLoginTokens = 1000 // at a time, bounds memory
)

type loginToken struct {
	user matrix.UserID
	ends time.Time
}

// NewLoginToken makes a token with which one device can log in as user. ErrTooLarge: too many are waiting.
func (a *Accounts) NewLoginToken(user matrix.UserID) (string, error) {
	token, now := rand.Text(), time.Now()
	a.loginsMu.Lock()
	defer a.loginsMu.Unlock()
	for k, t := range a.logins {
		if !now.Before(t.ends) {
			delete(a.logins, k)
		}
	}
	if len(a.logins) >= maxLoginTokens {
		return "", ErrTooLarge
	}
	if a.logins == nil {
		a.logins = map[string]loginToken{}
	}
	a.logins[string(hashToken(token))] = loginToken{user, now.Add(LoginTokenLife)}
	return token, nil
}

// UseLoginToken tells whose it is, once. ErrForbidden. Tokens have 128 bits: nobody guesses one, so attempts are not counted.
func (a *Accounts) UseLoginToken(token string) (matrix.UserID, error) {
	key := string(hashToken(token))
	a.loginsMu.Lock()
	defer a.loginsMu.Unlock()
	t, ok := a.logins[key]
	delete(a.logins, key)
	if !ok || !time.Now().Before(t.ends) {
		return "", ErrForbidden
	}
	return t.user, nil
}
