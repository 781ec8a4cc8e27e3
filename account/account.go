// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Errors of this package; clientapi gives them their errcodes.
var (
	ErrUserInUse     = errors.New("account: user name is taken")
	ErrBadUserName   = errors.New("account: user name has characters that are not allowed, or is too long")
	ErrForbidden     = errors.New("account: wrong user or password")
	ErrWeakPassword  = errors.New("account: password is too short")
	ErrUnknownToken  = errors.New("account: unknown access token")
	ErrSoftLogout    = errors.New("account: access token expired, refresh it")
	ErrLimited       = errors.New("account: too many attempts") // see Limited
	ErrBadInvitation = errors.New("account: registration token is wrong, used or expired")
	ErrNotFound      = errors.New("account: no such thing")
	ErrDeactivated   = errors.New("account: user is deactivated")
)

// Limited is ErrLimited with how long to wait.
type Limited struct{ RetryAfter time.Duration }

func (l Limited) Error() string        { return ErrLimited.Error() }
func (l Limited) Is(target error) bool { return target == ErrLimited }

// Options of a node's accounts.
type Options struct {
	Server      matrix.ServerName
	NoRateLimit bool          // for tests and benchmarks
	TokenLife   time.Duration // of access tokens of clients that can refresh; 0: one hour
}

// Accounts holds the node's users. Safe for concurrent use.
type Accounts struct{}

// Open reads no more than it must; kv and stream stay the caller's.
func Open(kv store.KV, stream *store.Stream, o Options) (*Accounts, error) { panic("unwritten") }

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
	Name    string          // initial_device_display_name
	Refresh bool            // the client can refresh
	Remote  string          // who asks (an address), for the rate limit
}

// Requester is who an access token belongs to.
type Requester struct {
	User   matrix.UserID
	Device matrix.DeviceID
}

// Device as GET /devices shows it.
type Device struct {
	ID       matrix.DeviceID
	Name     string
	LastSeen time.Time // to the day: it is a clock otherwise
}

// Profile of a user.
type Profile struct{ DisplayName, AvatarURL string }

// Data is one account data event.
type Data struct {
	Room    matrix.RoomID // "": global
	Type    string
	Content json.RawMessage
	Pos     store.Pos
}

// Users.

// Create makes a user. localpart as the spec's grammar for new users (lower case).
func (a *Accounts) Create(localpart, password string) (matrix.UserID, error) { panic("unwritten") }

// Available tells whether a user of that name could be made (ErrUserInUse, ErrBadUserName).
func (a *Accounts) Available(localpart string) error { panic("unwritten") }

// Exists tells whether the local user exists and is active.
func (a *Accounts) Exists(user matrix.UserID) (bool, error) { panic("unwritten") }

// Users lists the local users, sorted.
func (a *Accounts) Users() ([]matrix.UserID, error) { panic("unwritten") }

// CheckPassword (ErrForbidden, Limited); remote counts attempts.
func (a *Accounts) CheckPassword(user matrix.UserID, password, remote string) error {
	panic("unwritten")
}

// SetPassword replaces it; logoutOthers ends every session but keep's.
func (a *Accounts) SetPassword(user matrix.UserID, password string, logoutOthers bool, keep matrix.DeviceID) error {
	panic("unwritten")
}

// NewRegistrationToken makes a one-time token that lets one person register; 0 life: seven days.
func (a *Accounts) NewRegistrationToken(life time.Duration) (string, error) { panic("unwritten") }

// CheckRegistrationToken tells whether it would be taken (ErrBadInvitation).
func (a *Accounts) CheckRegistrationToken(token string) error { panic("unwritten") }

// Register makes a user and uses the token up, in one transaction. token "": open registration (the caller decided that it is).
func (a *Accounts) Register(localpart, password, token string) (matrix.UserID, error) {
	panic("unwritten")
}

// Sessions.

// NewSession logs a device in without a password (after Register, or after CheckPassword).
func (a *Accounts) NewSession(user matrix.UserID, l Login) (Session, error) { panic("unwritten") }

// Authenticate finds the token's owner: ErrUnknownToken, ErrSoftLogout.
func (a *Accounts) Authenticate(accessToken string) (Requester, error) { panic("unwritten") }

// Refresh gives a new pair; the old refresh token ends once the new access token is used (spec: POST /refresh).
func (a *Accounts) Refresh(refreshToken string) (Session, error) { panic("unwritten") }

// Logout ends the device's session and removes the device.
func (a *Accounts) Logout(user matrix.UserID, device matrix.DeviceID) error { panic("unwritten") }

// LogoutAll ends all of the user's sessions.
func (a *Accounts) LogoutAll(user matrix.UserID) error { panic("unwritten") }

// Devices lists the user's devices.
func (a *Accounts) Devices(user matrix.UserID) ([]Device, error) { panic("unwritten") }

// SetDeviceName renames; ErrNotFound.
func (a *Accounts) SetDeviceName(user matrix.UserID, device matrix.DeviceID, name string) error {
	panic("unwritten")
}

// Profile of a local user; ErrNotFound.
func (a *Accounts) Profile(user matrix.UserID) (Profile, error) { panic("unwritten") }

// SetProfile replaces it.
func (a *Accounts) SetProfile(user matrix.UserID, p Profile) error { panic("unwritten") }

// SetData stores global (room "") or room account data and wakes the user's /sync.
func (a *Accounts) SetData(user matrix.UserID, room matrix.RoomID, typ string, content json.RawMessage) error {
	panic("unwritten")
}

// Data reads one; ErrNotFound.
func (a *Accounts) Data(user matrix.UserID, room matrix.RoomID, typ string) (json.RawMessage, error) {
	panic("unwritten")
}

// DataSince lists the user's account data changed after since and not after upTo, each once, newest content.
func (a *Accounts) DataSince(user matrix.UserID, since, upTo store.Pos) ([]Data, error) {
	panic("unwritten")
}

// AddFilter stores a filter and gives its id (the same for equal content).
func (a *Accounts) AddFilter(user matrix.UserID, filter json.RawMessage) (string, error) {
	panic("unwritten")
}

// Filter reads one; ErrNotFound.
func (a *Accounts) Filter(user matrix.UserID, id string) (json.RawMessage, error) { panic("unwritten") }
