// SPDX-License-Identifier: Apache-2.0

// Package account keeps the people of a node: users, their devices and tokens, profiles, account data, filters.
//
// Problem: the database of a homeserver may be stolen, or its login page be attacked, and neither may hand over
// the accounts; while a family that mistypes its passwords must not be locked out of its own machine.
//
// Invariants:
//   - Passwords are kept as argon2id, tokens as SHA-256 only: the database holds nothing to log in with.
//   - Wrong user and wrong password have the same answer in the same time.
//   - What a method returned nil for is on the disk (store.KV).
//   - A device has one session: at most the token pair in use, and its predecessor until the new one is used.
//   - A one-time key is given to one asker, here or at another node, whatever is killed when; a to-device message comes once.
//   - Another node speaks for users of its own server alone, and what it says is checked as an upload is.
//   - At most two password hashes are computed at once (19 MiB each), whatever is asked.
//
// Data: the tables 0x30..0x4f of the node's database, described in rows.go.
//
// Limits: attempts at passwords are counted in memory, so a restart forgets them. Times in the database are
// of days (last seen) or what a token needs (its end).
package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Errors of this package; clientapi gives them their errcodes.
var (
	// ErrUserInUse: a user of that name exists, or did once.
	ErrUserInUse = errors.New("account: user name is taken")
	// ErrBadUserName: a new user's name must obey the spec's grammar and length (appendices, "User Identifiers").
	ErrBadUserName = errors.New("account: user name has characters that are not allowed, or is too long")
	// ErrForbidden: no such user, or another password; which of the two is not told.
	ErrForbidden = errors.New("account: wrong user or password")
	// ErrWeakPassword: shorter than MinPassword bytes.
	ErrWeakPassword = errors.New("account: password is too short")
	// ErrUnknownToken: the token was never given, or its session has ended.
	ErrUnknownToken = errors.New("account: unknown access token")
	// ErrSoftLogout: the token has expired, its session has not.
	ErrSoftLogout = errors.New("account: access token expired, refresh it")
	// ErrLimited: too many wrong passwords; see Limited.
	ErrLimited = errors.New("account: too many attempts")
	// ErrBadInvitation: the registration token is not good.
	ErrBadInvitation = errors.New("account: registration token is wrong, used or expired")
	// ErrNotFound: there is no such user, device, datum or filter.
	ErrNotFound = errors.New("account: no such thing")
	// ErrDeactivated: the user was deactivated.
	ErrDeactivated = errors.New("account: user is deactivated")
	// ErrTooLarge: a name, datum or filter exceeds its limit, or there are too many of them.
	ErrTooLarge = errors.New("account: too large")
	// ErrBadJSON: account data, a filter, a key or a backed-up session is no JSON object, or not of the right fields.
	ErrBadJSON = errors.New("account: not the JSON object that is needed")
	// ErrBadDevice: a device id is too long, or has control characters.
	ErrBadDevice = errors.New("account: bad device id")
	// ErrBadKeys: keys, or what is signed, have not the shape that the spec asks for.
	ErrBadKeys = errors.New("account: bad keys")
	// ErrBadSignature: a signature is missing or wrong.
	ErrBadSignature = errors.New("account: bad signature")
	// ErrNoMaster: a key that a master key must sign came, and there is no master key.
	ErrNoMaster = errors.New("account: there is no master key")
	// ErrNameTaken: a device and a cross-signing key of one user would have the same name.
	ErrNameTaken = errors.New("account: a device and a cross-signing key may not have the same name")
	// ErrKeysDiffer: another key of that name, or other cross-signing keys, are there already.
	ErrKeysDiffer = errors.New("account: another key of that name is there already")
	// ErrSpeaker: a node spoke for a user of another server.
	ErrSpeaker = errors.New("account: told by a node that does not speak for that user")
	// ErrWrongBackup: see WrongBackup.
	ErrWrongBackup = errors.New("account: not the current version of the key backup")
)

// Limits, in bytes unless they say otherwise. They bound what one user can make a node keep.
const (
	MinPassword    = 8
	MaxPassword    = 512
	MaxDeviceID    = 255
	MaxName        = 256       // of a display name, of a user or device
	MaxAvatarURL   = 1024      //
	MaxData        = 512 << 10 // of one account datum
	MaxFilter      = 64 << 10  //
	MaxFilters     = 1000      // filters a user
	MaxDevices     = 1000      // devices a user
	maxInvitations = 1000      // registration tokens at a time
	MaxKey         = 16 << 10  // of one signed key, with its signatures
	MaxKeyID       = 255       // of a key's id, an algorithm's name
	MaxOneTimeKeys = 1000      // keys of one device at a time; clients keep 50 to 100
	MaxFallbacks   = 8         // algorithms with a fallback key
	MaxSignatures  = 1000      // of others, on one key
	MaxToDevice    = 64 << 10  // of one to-device event
	MaxInbox       = 10_000    // to-device events that wait for one device; the oldest make room
	MaxSession     = 64 << 10  // of one session in a key backup
	MaxBackup      = 200_000   // sessions in one key backup
	MaxBackups     = 1000      // versions, the deleted ones too
)

// Limited is ErrLimited with how long to wait.
type Limited struct{ RetryAfter time.Duration }

// Error is ErrLimited's text.
func (l Limited) Error() string { return ErrLimited.Error() }

// Is makes errors.Is(err, ErrLimited) true.
func (l Limited) Is(target error) bool { return target == ErrLimited }

// Options of a node's accounts.
type Options struct {
	Server      matrix.ServerName
	NoRateLimit bool          // for tests and benchmarks
	TokenLife   time.Duration // of access tokens of clients that can refresh; 0: one hour
}

// Accounts holds the node's users. Safe for concurrent use.
type Accounts struct {
	kv     store.KV
	stream *store.Stream
	opt    Options
	limits *limiter // nil: none
	hasher hasher
	// lastKeys is at least the newest position in tableKeyPos: a /sync from there on need not look.
	lastKeys   atomic.Uint64
	generation atomic.Uint64                              // see KeyGeneration
	contacts   atomic.Pointer[map[matrix.ServerName]bool] // nil: not told yet

	loginsMu sync.Mutex            // guards logins, for moments
	logins   map[string]loginToken // by hash
}

// Open reads no more than it must; kv and stream stay the caller's.
func Open(kv store.KV, stream *store.Stream, o Options) (*Accounts, error) {
	if _, _, err := matrix.ParseUserID(matrix.UserID("@a:" + o.Server)); err != nil {
		return nil, fmt.Errorf("account: the server's name: %w", err)
	}
	if o.TokenLife < 0 {
		return nil, errors.New("account: negative life of tokens")
	}
	if o.TokenLife == 0 {
		o.TokenLife = time.Hour
	}
	a := &Accounts{kv: kv, stream: stream, opt: o, hasher: newHasher()}
	if !o.NoRateLimit {
		a.limits = newLimiter()
	}
	return a, a.openKeyChanges()
}

// local gives the localpart of a user of this node; ok=false: of another, or no user id.
func (a *Accounts) local(user matrix.UserID) (name string, ok bool) {
	name, server, err := matrix.ParseUserID(user)
	return name, err == nil && server == a.opt.Server && name != ""
}

// object compacts a JSON object of at most max bytes.
func object(raw json.RawMessage, max int) ([]byte, error) {
	if len(raw) > max {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(raw), max)
	}
	out, err := compact(raw)
	if err != nil || len(out) < 2 || out[0] != '{' {
		return nil, ErrBadJSON
	}
	return out, nil
}
