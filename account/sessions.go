// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Session is what a login gives.
type Session struct {
	User         matrix.UserID
	Device       matrix.DeviceID
	AccessToken  string
	RefreshToken string        // "" unless asked for
	ExpiresIn    time.Duration // 0: does not expire
}

// Login describes one login of a device.
type Login struct {
	Device  matrix.DeviceID // "": a new one is made
	Name    string          // initial_device_display_name; kept to MaxName bytes; not for a device that exists
	Refresh bool            // the client can refresh
	Remote  string          // who asks (an address), for the rate limit
}

// Requester is who an access token belongs to.
type Requester struct {
	User   matrix.UserID
	Device matrix.DeviceID
	Standing
}

// Tokens begin with a word that says what they are, for those who find one where it should not be.
const (
	accessPrefix  = "tarn_at_"
	refreshPrefix = "tarn_rt_"
	tokenBytes    = 32
)

func newToken(prefix string) string {
	var b [tokenBytes]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// newDeviceID: 10 capital letters, as clients show it to people.
func newDeviceID() matrix.DeviceID {
	return matrix.DeviceID(rand.Text()[:10])
}

// newPair makes tokens and their hashes; s gets the tokens.
func (a *Accounts) newPair(refresh bool, s *Session) pair {
	s.AccessToken = newToken(accessPrefix)
	p := pair{Access: hashToken(s.AccessToken)}
	if refresh {
		s.RefreshToken = newToken(refreshPrefix)
		s.ExpiresIn = a.opt.TokenLife
		p.Refresh = hashToken(s.RefreshToken)
		p.Ends = time.Now().Add(a.opt.TokenLife).UnixMilli()
	}
	return p
}

// index writes the rows by which p's tokens are found; drop removes them.
func (p *pair) index(txn store.Txn, t tokenRow) error {
	err := save(txn, store.Key(tableAccess, p.Access), t)
	if err == nil && p.Refresh != nil {
		err = save(txn, store.Key(tableRefresh, p.Refresh), t)
	}
	return err
}

func (p *pair) drop(txn store.Txn) error {
	if p == nil {
		return nil
	}
	err := txn.Delete(store.Key(tableAccess, p.Access))
	if err == nil && p.Refresh != nil {
		err = txn.Delete(store.Key(tableRefresh, p.Refresh))
	}
	return err
}

// NewSession logs a device in without a password (after Register, or after CheckPassword). A device that exists
// loses its old tokens. ErrNotFound, ErrDeactivated, ErrBadDevice, ErrTooLarge.
func (a *Accounts) NewSession(user matrix.UserID, l Login) (Session, error) {
	if l.Device == "" {
		l.Device = newDeviceID()
	}
	if err := CheckDeviceID(l.Device); err != nil {
		return Session{}, err
	}
	s := Session{User: user, Device: l.Device}
	fresh := a.newPair(l.Refresh, &s)
	err := a.kv.Update(func(txn store.Txn) error {
		name, _, err := a.active(txn, user)
		if err != nil {
			return err
		}
		key := store.Key(tableDevice, name, l.Device)
		d, err := load[deviceRow](txn, key)
		switch {
		case errors.Is(err, ErrNotFound):
			if n, err := count(txn, store.Key(tableDevice, name), MaxDevices); err != nil {
				return err
			} else if n >= MaxDevices {
				return fmt.Errorf("%w: %d devices", ErrTooLarge, n)
			}
			if is, err := isCrossKey(txn, name, l.Device); err != nil || is {
				return errors.Join(err, ErrNameTaken)
			}
			d = deviceRow{Name: clipName(l.Name)}
		case err != nil:
			return err
		default:
			if err := errors.Join(d.Current.drop(txn), d.Previous.drop(txn)); err != nil {
				return err
			}
		}
		d.Current, d.Previous, d.Seen = fresh, nil, today()
		if err := fresh.index(txn, tokenRow{name, l.Device}); err != nil {
			return err
		}
		return save(txn, key, d)
	})
	if err != nil {
		return Session{}, err
	}
	return s, nil
}

// Authenticate finds the token's owner: ErrUnknownToken, ErrSoftLogout. It writes only at the first use of a
// new pair, and once a day.
func (a *Accounts) Authenticate(accessToken string) (Requester, error) {
	hash := hashToken(accessToken)
	var t tokenRow
	var touch bool
	var user userRow
	err := a.kv.View(func(r store.Reader) (err error) {
		if t, _, touch, err = findAccess(r, hash); err == nil {
			user, err = load[userRow](r, store.Key(tableUser, t.User))
		}
		return err
	})
	if err == nil && touch {
		err = a.kv.Update(func(txn store.Txn) error {
			t, d, touch, err := findAccess(txn, hash) // again: it may have changed
			if err != nil || !touch {
				return err
			}
			if d.Previous != nil && bytes.Equal(hash, d.Current.Access) {
				if err := d.Previous.drop(txn); err != nil {
					return err
				}
				d.Previous = nil
			}
			d.Seen = today()
			return save(txn, store.Key(tableDevice, t.User, t.Device), d)
		})
	}
	if err != nil {
		return Requester{}, err
	}
	return Requester{a.userID(t.User), t.Device, user.Standing}, nil
}

// findAccess finds the session of an access token. touch: the device's row needs a new day, or the pair that this
// token's pair replaced must end.
func findAccess(r store.Reader, hash []byte) (t tokenRow, d deviceRow, touch bool, err error) {
	if t, err = load[tokenRow](r, store.Key(tableAccess, hash)); err == nil {
		d, err = load[deviceRow](r, store.Key(tableDevice, t.User, t.Device))
	}
	if errors.Is(err, ErrNotFound) {
		err = ErrUnknownToken
	}
	if err != nil {
		return t, d, false, err
	}
	p := &d.Current
	if !bytes.Equal(hash, p.Access) {
		if p = d.Previous; p == nil || !bytes.Equal(hash, p.Access) {
			return t, d, false, ErrUnknownToken
		}
	}
	if p.Ends != 0 && time.Now().UnixMilli() >= p.Ends {
		return t, d, false, ErrSoftLogout
	}
	return t, d, d.Seen != today() || p == &d.Current && d.Previous != nil, nil
}

// Refresh gives a new pair; the old pair ends once a token of the new one is used (spec: POST /refresh), so that an
// answer lost on its way can be asked for again. ErrUnknownToken, also for a refresh token that has ended.
func (a *Accounts) Refresh(refreshToken string) (Session, error) {
	hash := hashToken(refreshToken)
	var s Session
	fresh := a.newPair(true, &s)
	err := a.kv.Update(func(txn store.Txn) error {
		t, err := load[tokenRow](txn, store.Key(tableRefresh, hash))
		if err != nil {
			return err
		}
		key := store.Key(tableDevice, t.User, t.Device)
		d, err := load[deviceRow](txn, key)
		if err != nil {
			return err
		}
		switch {
		case bytes.Equal(hash, d.Current.Refresh):
			// The pair in use is replaced; the one before it, if it is still there, has ended.
			if err := d.Previous.drop(txn); err != nil {
				return err
			}
			old := d.Current
			d.Previous = &old
		case d.Previous != nil && bytes.Equal(hash, d.Previous.Refresh):
			// The client did not get the current pair, or cannot have kept it: it was never used.
			if err := d.Current.drop(txn); err != nil {
				return err
			}
		default:
			return ErrNotFound
		}
		d.Current = fresh
		if err := fresh.index(txn, t); err != nil {
			return err
		}
		s.User, s.Device = a.userID(t.User), t.Device
		return save(txn, key, d)
	})
	if errors.Is(err, ErrNotFound) {
		err = ErrUnknownToken
	}
	if err != nil {
		return Session{}, err
	}
	return s, nil
}

// Logout ends the device's session and removes the device with its keys and messages. ErrNotFound.
func (a *Accounts) Logout(user matrix.UserID, device matrix.DeviceID) error {
	name, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	return a.change(user, func(txn store.Txn, pos store.Pos) error { return a.endSession(txn, pos, name, device) })
}

// RemoveDevices is Logout of several at once. Those that do not exist are passed over.
func (a *Accounts) RemoveDevices(user matrix.UserID, devices []matrix.DeviceID) error {
	name, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	return a.change(user, func(txn store.Txn, pos store.Pos) error {
		for _, d := range devices {
			if err := a.endSession(txn, pos, name, d); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		return nil
	})
}

// change is a write with a place in the stream, which wakes the user's devices.
func (a *Accounts) change(user matrix.UserID, fn func(store.Txn, store.Pos) error) error {
	_, err := a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		return []string{string(user)}, fn(txn, pos)
	})
	a.generation.Add(1) // after the commit: who saw it before looks again
	return err
}

// LogoutAll ends all of the user's sessions and removes the devices.
func (a *Accounts) LogoutAll(user matrix.UserID) error {
	name, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	return a.change(user, func(txn store.Txn, pos store.Pos) error { return a.endSessions(txn, pos, name, "") })
}

func (a *Accounts) endSession(txn store.Txn, pos store.Pos, name string, device matrix.DeviceID) error {
	key := store.Key(tableDevice, name, device)
	d, err := load[deviceRow](txn, key)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Current.drop(txn), d.Previous.drop(txn)); err != nil {
		return err
	}
	if err := errors.Join(a.dropDevice(txn, pos, name, device), endPushers(txn, name, device), forgetDehydrated(txn, name, device)); err != nil {
		return err
	}
	return txn.Delete(key)
}

// endSessions ends all sessions but keep's.
func (a *Accounts) endSessions(txn store.Txn, pos store.Pos, name string, keep matrix.DeviceID) error {
	return txn.Scan(store.Key(tableDevice, name), nil, func(k, _ []byte) (bool, error) {
		kr := store.ReadKey(k)
		_ = kr.String() // the user
		device := matrix.DeviceID(kr.String())
		if err := kr.Err(); err != nil {
			return false, err
		}
		if keep != "" && device == keep {
			return true, nil
		}
		return true, a.endSession(txn, pos, name, device)
	})
}

func (a *Accounts) userID(name string) matrix.UserID {
	return matrix.UserID("@" + name + ":" + string(a.opt.Server))
}

// today in days since 1970, UTC.
func today() int64 { return time.Now().Unix() / (24 * 60 * 60) }
