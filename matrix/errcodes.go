// SPDX-License-Identifier: Apache-2.0

package matrix

// Errcode is what a Matrix client reads of an error (C-S API, "Standard error response"). clientapi maps errors to them
// and to HTTP statuses; no other package does.
type Errcode string

// The errcodes that Tarn uses (C-S API, "Common error codes" and "Other error codes").
const (
	ErrcodeForbidden              Errcode = "M_FORBIDDEN"
	ErrcodeUnknownToken           Errcode = "M_UNKNOWN_TOKEN"
	ErrcodeMissingToken           Errcode = "M_MISSING_TOKEN"
	ErrcodeUserLocked             Errcode = "M_USER_LOCKED"
	ErrcodeUserSuspended          Errcode = "M_USER_SUSPENDED"
	ErrcodeUserDeactivated        Errcode = "M_USER_DEACTIVATED"
	ErrcodeBadJSON                Errcode = "M_BAD_JSON"
	ErrcodeNotJSON                Errcode = "M_NOT_JSON"
	ErrcodeNotFound               Errcode = "M_NOT_FOUND"
	ErrcodeLimitExceeded          Errcode = "M_LIMIT_EXCEEDED"
	ErrcodeUnrecognized           Errcode = "M_UNRECOGNIZED"
	ErrcodeUnknown                Errcode = "M_UNKNOWN"
	ErrcodeUserInUse              Errcode = "M_USER_IN_USE"
	ErrcodeInvalidUsername        Errcode = "M_INVALID_USERNAME"
	ErrcodeRoomInUse              Errcode = "M_ROOM_IN_USE"
	ErrcodeUnsupportedRoomVersion Errcode = "M_UNSUPPORTED_ROOM_VERSION"
	ErrcodeGuestAccessForbidden   Errcode = "M_GUEST_ACCESS_FORBIDDEN"
	ErrcodeMissingParam           Errcode = "M_MISSING_PARAM"
	ErrcodeInvalidParam           Errcode = "M_INVALID_PARAM"
	ErrcodeTooLarge               Errcode = "M_TOO_LARGE"
	ErrcodeCannotLeaveNoticeRoom  Errcode = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
	ErrcodeWeakPassword           Errcode = "M_WEAK_PASSWORD"
	ErrcodeBadAlias               Errcode = "M_BAD_ALIAS"
	ErrcodeUnknownPos             Errcode = "M_UNKNOWN_POS"
	ErrcodeWrongRoomKeysVersion   Errcode = "M_WRONG_ROOM_KEYS_VERSION"
	ErrcodeNotYetUploaded         Errcode = "M_NOT_YET_UPLOADED"
	ErrcodeCannotOverwriteMedia   Errcode = "M_CANNOT_OVERWRITE_MEDIA"
	ErrcodeDuplicateAnnotation    Errcode = "M_DUPLICATE_ANNOTATION"
	ErrcodeInviteBlocked          Errcode = "M_INVITE_BLOCKED"
	ErrcodeThreepidDenied         Errcode = "M_THREEPID_DENIED"
	ErrcodeProfileTooLarge        Errcode = "M_PROFILE_TOO_LARGE"
	ErrcodeKeyTooLarge            Errcode = "M_KEY_TOO_LARGE"
)

// Error is an error that a client is to see in these words. Message names what a person can do; it holds no secret.
type Error struct {
	Code    Errcode
	Message string
	Err     error // the cause, for errors.Is; may be nil; not shown
}

// Error is the code and the message.
func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }
