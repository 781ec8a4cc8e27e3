// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"tarn/account"
	"tarn/clientapi/sliding"
	"tarn/matrix"
	"tarn/media"
	"tarn/room"
	"tarn/store"
)

// Error is an answer that is not a 2xx (C-S API, "Standard error response").
type Error struct {
	Status     int // of HTTP
	Code       matrix.Errcode
	Text       string         // for a person
	Extra      map[string]any // further keys of the body
	RetryAfter time.Duration  // of 429
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Text) }

func invalid(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeInvalidParam, Text: fmt.Sprintf(format, args...)}
}

func missing(name string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeMissingParam, Text: "missing parameter: " + name}
}

func forbidden(text string) *Error {
	return &Error{Status: http.StatusForbidden, Code: matrix.ErrcodeForbidden, Text: text}
}

func notFound(text string) *Error {
	return &Error{Status: http.StatusNotFound, Code: matrix.ErrcodeNotFound, Text: text}
}

// classes is the one table from the packages' errors to what clients read; the first that fits counts.
// A room that is not known is answered like a room that the user is not in: its existence is not told.
var classes = []struct {
	is     error
	status int
	code   matrix.Errcode
	text   string // "": the error's own words
}{
	{account.ErrUserInUse, 400, matrix.ErrcodeUserInUse, "this user name is taken"},
	{account.ErrBadUserName, 400, matrix.ErrcodeInvalidUsername, "a user name may have only a-z, 0-9 and . _ = - / +"},
	{account.ErrForbidden, 403, matrix.ErrcodeForbidden, "wrong user name or password"},
	{account.ErrWeakPassword, 400, matrix.ErrcodeWeakPassword, "the password is too short"},
	{account.ErrUnknownToken, 401, matrix.ErrcodeUnknownToken, "the token is not known or has ended"},
	{account.ErrSoftLogout, 401, matrix.ErrcodeUnknownToken, "the access token expired: refresh it"},
	{account.ErrLimited, 429, matrix.ErrcodeLimitExceeded, "too many attempts: wait a little"},
	{account.ErrBadInvitation, 401, matrix.ErrcodeForbidden, "the registration token is wrong, used or expired"},
	{account.ErrDeactivated, 403, matrix.ErrcodeUserDeactivated, "this user is deactivated"},
	{account.ErrNotFound, 404, matrix.ErrcodeNotFound, "there is no such thing"},
	{account.ErrProfileTooLarge, 400, matrix.ErrcodeProfileTooLarge, "the profile is too large"},
	{account.ErrTooLarge, 413, matrix.ErrcodeTooLarge, ""},
	{account.ErrBadJSON, 400, matrix.ErrcodeBadJSON, ""},
	{account.ErrBadDevice, 400, matrix.ErrcodeInvalidParam, "the device id is too long, or has characters that it may not have"},
	{account.ErrBadSignature, 400, "M_INVALID_SIGNATURE", "a signature is missing or wrong"},
	{account.ErrKeysDiffer, 400, matrix.ErrcodeInvalidParam, "another key of that name is there already"},
	{account.ErrNoMaster, 400, matrix.ErrcodeMissingParam, "upload a master key first, or with it"},
	{account.ErrNameTaken, 403, matrix.ErrcodeForbidden, "a device and a cross-signing key may not have the same name"},
	{account.ErrBadKeys, 400, matrix.ErrcodeInvalidParam, ""},
	{account.ErrLongPassword, 400, matrix.ErrcodeInvalidParam, "the password is too long"},

	{room.ErrUnknownRoom, 403, matrix.ErrcodeForbidden, "you are not in this room"},
	{room.ErrUnderWay, 504, matrix.ErrcodeUnknown, "another node was asked; what comes of it will show by itself, usually within minutes"},
	{room.ErrNobodyToAsk, 404, matrix.ErrcodeNotFound, "none of this node's contacts can be asked for that"},
	{room.ErrRefused, 404, matrix.ErrcodeNotFound, "there is no such thing, or it is not for you to see"},
	{room.ErrTooMany, 429, matrix.ErrcodeLimitExceeded, "too much is being asked of other nodes: wait a little"},
	{room.ErrNotMember, 403, matrix.ErrcodeForbidden, "you are not in this room"},
	{room.ErrForbidden, 403, matrix.ErrcodeForbidden, ""},
	{room.ErrUnknownEvent, 404, matrix.ErrcodeNotFound, "there is no such event, or you may not see it"},
	{room.ErrNoState, 404, matrix.ErrcodeNotFound, "the room has no such state"},
	{room.ErrTooLarge, 413, matrix.ErrcodeTooLarge, "an event may have at most 65,536 bytes"},
	{room.ErrLargeRoom, 413, matrix.ErrcodeTooLarge, "the room has too many members on too many servers for an invite to a server that is not in it yet"},
	{room.ErrBadVersion, 400, matrix.ErrcodeUnsupportedRoomVersion, "this room version is not supported"},
	{room.ErrBadEvent, 400, matrix.ErrcodeBadJSON, ""},
	{room.ErrDuplicate, 400, matrix.ErrcodeDuplicateAnnotation, "you annotated this event so already"},
	{room.ErrNested, 400, matrix.ErrcodeUnknown, "a thread cannot begin at an event that itself relates to another"},
	{room.ErrAliasInUse, 400, matrix.ErrcodeRoomInUse, "this alias is taken"},

	{sliding.ErrUnknownPos, 400, matrix.ErrcodeUnknownPos, "this position is not known any more: begin anew, without one"},
	{sliding.ErrRequest, 400, matrix.ErrcodeInvalidParam, ""},

	{media.ErrNotFound, 404, matrix.ErrcodeNotFound, "there is no such file"},
	{media.ErrTooLarge, 413, matrix.ErrcodeTooLarge, "the file is larger than this server takes"},
	{media.ErrQuota, 403, matrix.ErrcodeForbidden, "this node's space for files is used up: its operator can give it more"},
	{media.ErrFilled, 409, matrix.ErrcodeCannotOverwriteMedia, "this file was uploaded already"},
	{media.ErrNotOwner, 403, matrix.ErrcodeForbidden, "this place belongs to another user"},
	{media.ErrNotYet, 504, matrix.ErrcodeNotYetUploaded, "the file was not uploaded yet: try again"},
	{media.ErrPending, 429, matrix.ErrcodeLimitExceeded, "too many uploads were announced and not made"},
	{media.ErrHuge, 413, matrix.ErrcodeTooLarge, "the picture is too large for a thumbnail"},
	{media.ErrNoThumbnail, 400, matrix.ErrcodeUnknown, "no thumbnail can be made of this file"},

	{store.ErrDiskFull, http.StatusInsufficientStorage, matrix.ErrcodeUnknown, "the node's disk is full"},
}

// classify makes an answer of any error.
func classify(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var m *matrix.Error
	if errors.As(err, &m) {
		return &Error{Status: http.StatusBadRequest, Code: m.Code, Text: m.Message}
	}
	for _, c := range classes {
		if !errors.Is(err, c.is) {
			continue
		}
		e := &Error{Status: c.status, Code: c.code, Text: c.text}
		if e.Text == "" {
			e.Text = err.Error()
		}
		switch {
		case c.code == matrix.ErrcodeUnknownToken: // C-S API, "Soft logout"
			e.Extra = map[string]any{"soft_logout": c.is == account.ErrSoftLogout}
		case c.status == http.StatusTooManyRequests:
			var l account.Limited
			if errors.As(err, &l) {
				e.RetryAfter = l.RetryAfter
			}
		}
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &Error{Status: http.StatusServiceUnavailable, Code: matrix.ErrcodeUnknown, Text: "the request was broken off: try again"}
	}
	return &Error{Status: http.StatusInternalServerError, Code: matrix.ErrcodeUnknown, Text: "internal server error"}
}

// body is e as JSON.
func (e *Error) body() map[string]any {
	b := map[string]any{}
	for k, v := range e.Extra {
		b[k] = v
	}
	if e.Code != "" {
		b["errcode"], b["error"] = e.Code, e.Text
	}
	if e.Status == http.StatusTooManyRequests {
		b["retry_after_ms"] = max(e.RetryAfter.Milliseconds(), 1)
	}
	return b
}

func writeError(w http.ResponseWriter, e *Error) {
	if e.Status == http.StatusTooManyRequests { // C-S API v1.10, "Rate limiting"
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(e.RetryAfter.Seconds())))))
	}
	writeJSON(w, e.Status, e.body())
}
