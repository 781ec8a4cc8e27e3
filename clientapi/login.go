// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"net/http"
	"strings"

	"tarn/account"
	"tarn/matrix"
)

// loginFlows: GET /login.
func (a *API) loginFlows(*call) (any, error) {
	return map[string]any{"flows": []map[string]any{{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": true}}}, nil
}

// identifier names a user (C-S API, "Identifier types").
type identifier struct {
	Type string `json:"type"`
	User string `json:"user"`
}

type loginRequest struct {
	Type       string          `json:"type"`
	Identifier *identifier     `json:"identifier"`
	User       string          `json:"user"` // deprecated, but still sent
	Password   *string         `json:"password"`
	Token      string          `json:"token"` // of m.login.token
	Device     matrix.DeviceID `json:"device_id"`
	Name       string          `json:"initial_device_display_name"`
	Refresh    bool            `json:"refresh_token"`
}

// sessionAnswer is what POST /login, /register and /refresh give.
type sessionAnswer struct {
	User         matrix.UserID   `json:"user_id,omitzero"`
	Home         string          `json:"home_server,omitzero"` // deprecated; old libraries insist on it
	Device       matrix.DeviceID `json:"device_id,omitzero"`
	AccessToken  string          `json:"access_token"`
	RefreshToken string          `json:"refresh_token,omitzero"`
	ExpiresIn    int64           `json:"expires_in_ms,omitzero"`
	WellKnown    map[string]any  `json:"well_known,omitempty"`
}

func (a *API) sessionAnswer(s account.Session) sessionAnswer {
	out := sessionAnswer{User: s.User, Home: string(a.cfg.Server), Device: s.Device, AccessToken: s.AccessToken,
		RefreshToken: s.RefreshToken, ExpiresIn: s.ExpiresIn.Milliseconds()}
	if a.cfg.BaseURL != "" {
		out.WellKnown = a.discovery()
	}
	return out
}

// login: POST /login.
func (a *API) login(c *call) (any, error) {
	var q loginRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	var user matrix.UserID
	var err error
	switch q.Type {
	case "m.login.password":
		user, err = a.loginByPassword(c, &q)
	case "m.login.token":
		if q.Token == "" {
			return nil, missing("token")
		}
		user, err = a.accounts.UseLoginToken(q.Token)
	case "":
		return nil, missing("type")
	default:
		return nil, &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeUnknown, Text: "this login type is not offered"}
	}
	if err != nil {
		return nil, err
	}
	switch s, err := a.accounts.Standing(user); {
	case err != nil:
		return nil, err
	case s.Locked:
		return nil, errLocked()
	}
	s, err := a.accounts.NewSession(user, account.Login{Device: q.Device, Name: clip(q.Name), Refresh: q.Refresh, Remote: c.remote()})
	if err != nil {
		return nil, err
	}
	return a.sessionAnswer(s), nil
}

func (a *API) loginByPassword(c *call, q *loginRequest) (matrix.UserID, error) {
	if q.Password == nil {
		return "", missing("password")
	}
	user, err := a.identify(q.Identifier, q.User)
	if err != nil {
		return "", err
	}
	return user, a.accounts.CheckPassword(user, *q.Password, c.remote())
}

// loginToken: POST /v1/login/get_token: a token for another device of the user's, after the password.
func (a *API) loginToken(c *call) (any, error) {
	var q struct {
		Auth *authDict `json:"auth"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if err := a.provePassword(c, q.Auth); err != nil {
		return nil, err
	}
	token, err := a.accounts.NewLoginToken(c.who.User)
	return map[string]any{"login_token": token, "expires_in_ms": account.LoginTokenLife.Milliseconds()}, err
}

// identify makes a full user id of the forms that clients send: "alice" or "@alice:server", as identifier or as user.
func (a *API) identify(i *identifier, user string) (matrix.UserID, error) {
	if i != nil {
		switch i.Type {
		case "m.id.user":
			user = i.User
		case "m.id.thirdparty", "m.id.phone": // there are none here
			return "", account.ErrForbidden
		default:
			return "", &Error{Status: http.StatusBadRequest, Code: matrix.ErrcodeUnknown, Text: "this identifier type is not known"}
		}
	}
	if user == "" {
		return "", missing("identifier")
	}
	if !strings.HasPrefix(user, "@") {
		user = "@" + user + ":" + string(a.cfg.Server)
	}
	// Historical clients capitalise at will; ids of users here are lower case.
	id := matrix.UserID(strings.ToLower(user))
	if _, _, err := matrix.ParseUserID(id); err != nil || !a.local(id) {
		return "", account.ErrForbidden
	}
	return id, nil
}

// clip shortens a name that only people read.
func clip(s string) string {
	if len(s) <= account.MaxName {
		return s
	}
	return strings.ToValidUTF8(s[:account.MaxName], "")
}

// refresh: POST /refresh.
func (a *API) refresh(c *call) (any, error) {
	var q struct {
		Token string `json:"refresh_token"`
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Token == "" {
		return nil, missing("refresh_token")
	}
	s, err := a.accounts.Refresh(q.Token)
	if err != nil {
		return nil, err
	}
	return sessionAnswer{AccessToken: s.AccessToken, RefreshToken: s.RefreshToken, ExpiresIn: s.ExpiresIn.Milliseconds()}, nil
}

// logout: POST /logout. The device's waiting /sync finds its token gone when it wakes.
func (a *API) logout(c *call) (any, error) {
	if err := a.accounts.Logout(c.who.User, c.who.Device); err != nil {
		return nil, err
	}
	a.tellNeighbours(c.who.User)
	return empty{}, nil
}

// logoutAll: POST /logout/all.
func (a *API) logoutAll(c *call) (any, error) {
	if err := a.accounts.LogoutAll(c.who.User); err != nil {
		return nil, err
	}
	a.tellNeighbours(c.who.User)
	return empty{}, nil
}
