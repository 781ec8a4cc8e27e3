// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"crypto/rand"
	"errors"
	"net/http"
	"strings"

	"tarn/account"
	"tarn/matrix"
)

type registerRequest struct {
	Auth     *authDict       `json:"auth"`
	Username string          `json:"username"`
	Password string          `json:"password"`
	Device   matrix.DeviceID `json:"device_id"`
	Name     string          `json:"initial_device_display_name"`
	NoLogin  bool            `json:"inhibit_login"`
	Refresh  bool            `json:"refresh_token"`
}

// registerUser: POST /register. By a one-time token that the node's CLI printed; by m.login.dummy only where the
// configuration opens registration.
func (a *API) registerUser(c *call) (any, error) {
	switch c.query("kind") {
	case "", "user":
	case "guest":
		return nil, &Error{Status: http.StatusForbidden, Code: matrix.ErrcodeGuestAccessForbidden, Text: "there are no guests here"}
	default:
		return nil, invalid("kind must be user or guest")
	}
	var q registerRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Device != "" { // before the token is spent
		if err := account.CheckDeviceID(q.Device); err != nil {
			return nil, err
		}
	}
	// "The server must check the user name before the client goes through the stages": so that a token is not spent in vain.
	if q.Username != "" {
		if err := a.accounts.Available(q.Username); err != nil {
			return nil, err
		}
	}
	stages := []string{stageToken}
	if a.cfg.OpenRegistration {
		stages = append(stages, stageDummy)
	}
	if q.Auth == nil || q.Auth.Type == "" {
		session := ""
		if q.Auth != nil {
			session = q.Auth.Session
		}
		return nil, challenge(session, nil, stages...)
	}
	if err := a.throttle(c); err != nil {
		return nil, err
	}
	token := ""
	switch {
	case q.Auth.Type == stageToken:
		if token = q.Auth.Token; token == "" {
			return nil, challenge(q.Auth.Session, missing("token"), stages...)
		}
		// Register checks it again, in the transaction that uses it up.
		if err := a.accounts.CheckRegistrationToken(token); errors.Is(err, account.ErrBadInvitation) {
			return nil, challenge(q.Auth.Session, classify(err), stages...)
		} else if err != nil {
			return nil, err
		}
	case q.Auth.Type == stageDummy && a.cfg.OpenRegistration:
	default:
		return nil, challenge(q.Auth.Session, &Error{Code: matrix.ErrcodeUnrecognized, Text: "this stage is not offered"}, stages...)
	}
	if q.Password == "" {
		return nil, missing("password")
	}
	if q.Username == "" {
		q.Username = strings.ToLower(rand.Text()[:12])
	}
	who, err := a.accounts.Register(q.Username, q.Password, token)
	if errors.Is(err, account.ErrBadInvitation) {
		return nil, challenge(q.Auth.Session, classify(err), stages...)
	}
	if err != nil {
		return nil, err
	}
	if q.NoLogin {
		return map[string]any{"user_id": who, "home_server": a.cfg.Server}, nil
	}
	// A crash here leaves a user without a session, who logs in by password.
	s, err := a.accounts.NewSession(who, account.Login{Device: q.Device, Name: clip(q.Name), Refresh: q.Refresh, Remote: c.remote()})
	if err != nil {
		return nil, err
	}
	return a.sessionAnswer(s), nil
}

// throttle counts an attempt to register.
func (a *API) throttle(c *call) error {
	if a.cfg.NoRateLimit {
		return nil
	}
	if wait := a.register.take(c.remote()); wait > 0 {
		return account.Limited{RetryAfter: wait}
	}
	return nil
}

// registerAvailable: GET /register/available.
func (a *API) registerAvailable(c *call) (any, error) {
	name := c.query("username")
	if name == "" {
		return nil, missing("username")
	}
	if err := a.throttle(c); err != nil {
		return nil, err
	}
	if err := a.accounts.Available(name); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

// registrationTokenValid: GET /register/m.login.registration_token/validity.
func (a *API) registrationTokenValid(c *call) (any, error) {
	token := c.query("token")
	if token == "" {
		return nil, missing("token")
	}
	if err := a.throttle(c); err != nil {
		return nil, err
	}
	err := a.accounts.CheckRegistrationToken(token)
	if err != nil && !errors.Is(err, account.ErrBadInvitation) {
		return nil, err
	}
	return map[string]bool{"valid": err == nil}, nil
}
