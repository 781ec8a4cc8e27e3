// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"crypto/rand"
	"net/http"

	"tarn/matrix"
)

// Stages of user-interactive authentication that are offered (C-S API, "User-Interactive Authentication API").
const (
	stagePassword = "m.login.password"
	stageToken    = "m.login.registration_token"
	stageDummy    = "m.login.dummy"
)

// authDict is the "auth" of a request.
type authDict struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Token      string      `json:"token"` // of stageToken
	Identifier *identifier `json:"identifier"`
	User       string      `json:"user"`
	Password   string      `json:"password"`
}

// challenge is the 401 that names the flows. Each flow here has one stage, done by the request that carries it:
// so a session has no state, and nothing is kept for those who never come back.
// failed: what was wrong with the stage that was tried; nil at first.
func challenge(session string, failed *Error, stages ...string) *Error {
	if session == "" || len(session) > 64 {
		session = rand.Text()
	}
	flows := make([]map[string][]string, 0, len(stages))
	for _, s := range stages {
		flows = append(flows, map[string][]string{"stages": {s}})
	}
	e := &Error{Status: http.StatusUnauthorized, Extra: map[string]any{
		"session": session, "flows": flows, "params": map[string]any{}, "completed": []string{},
	}}
	if failed != nil {
		e.Code, e.Text = failed.Code, failed.Text
	}
	return e
}

// provePassword is the user-interactive authentication of a logged-in user.
func (a *API) provePassword(c *call, auth *authDict) error {
	if auth == nil || auth.Type == "" {
		session := ""
		if auth != nil {
			session = auth.Session
		}
		return challenge(session, nil, stagePassword)
	}
	refuse := func(e *Error) error { return challenge(auth.Session, e, stagePassword) }
	if auth.Type != stagePassword {
		return refuse(&Error{Code: matrix.ErrcodeUnrecognized, Text: "this stage is not offered"})
	}
	if auth.Identifier != nil || auth.User != "" {
		if user, err := a.identify(auth.Identifier, auth.User); err != nil || user != c.who.User {
			return refuse(&Error{Code: matrix.ErrcodeForbidden, Text: "that is another user"})
		}
	}
	err := a.accounts.CheckPassword(c.who.User, auth.Password, c.remote())
	if err == nil {
		return nil
	}
	if e := classify(err); e.Code == matrix.ErrcodeForbidden {
		return refuse(e)
	}
	return err
}
