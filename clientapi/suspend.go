// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"net/http"
	"slices"

	"tarn/account"
	"tarn/matrix"
)

// A locked user can do nothing but log out; the session stays for when the operator unlocks it (C-S API, "Account locking"). A
// suspended one can read, leave, and set their keys in order (C-S API, "Account suspension").

// notLocked are the routes that a locked user has.
var notLocked = []string{"POST /logout", "POST /logout/all"}

// notSuspended are the routes that a suspended user has not: those that others would notice.
var notSuspended = []string{
	"POST /createRoom", "POST /join/{target}", "POST /rooms/{room}/join", "POST /knock/{target}", "POST /rooms/{room}/invite", "POST /rooms/{room}/kick",
	"POST /rooms/{room}/ban", "POST /rooms/{room}/unban", "POST /rooms/{room}/upgrade", "PUT /directory/room/{alias}",
	"PUT /directory/list/room/{room}", "PUT /rooms/{room}/send/{type}/{txn}", "PUT /rooms/{room}/state/{type}",
	"PUT /rooms/{room}/state/{type}/{$}", "PUT /rooms/{room}/state/{type}/{key}", "PUT /rooms/{room}/typing/{user}",
	"PUT /profile/{user}/{field}", "PUT /profile/{user}/displayname", "PUT /profile/{user}/avatar_url", "DELETE /profile/{user}/{field}",
	"POST /create", "POST /upload", "PUT /upload/{server}/{media}", "PUT /presence/{user}/status",
}

// standing refuses what a locked or suspended user may not do.
func standing(who account.Requester, r route) error {
	name := r.method + " " + r.path
	switch {
	case who.Locked && !slices.Contains(notLocked, name):
		return errLocked()
	case who.Suspended && slices.Contains(notSuspended, name):
		return errSuspended()
	}
	return nil
}

func errLocked() *Error {
	return &Error{Status: http.StatusUnauthorized, Code: matrix.ErrcodeUserLocked, Text: "the operator of this node locked this account",
		Extra: map[string]any{"soft_logout": true}}
}

func errSuspended() *Error {
	return &Error{Status: http.StatusForbidden, Code: matrix.ErrcodeUserSuspended, Text: "the operator of this node suspended this account: it can read and leave"}
}

// still checks that the session goes on, in what waits for long.
func (a *API) still(c *call) error {
	who, err := a.accounts.Authenticate(c.token)
	if err == nil && who.Locked {
		err = errLocked()
	}
	return err
}
