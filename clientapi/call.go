// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"

	"tarn/account"
	"tarn/matrix"
)

// call is one request on its way through a handler.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	limit int64
	who   account.Requester // zero without a token
	token string
	after func() // runs once the answer lies in the kernel's hands; may be nil
}

// endpoint is a route with its API: what the mux finds.
type endpoint struct {
	a *API
	route
}

// ServeHTTP checks the token, runs the handler and writes what it gave.
func (e endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m, ok := w.(*muxWriter); ok {
		w = m.ResponseWriter // the mux found us: its own texts need no catching
	}
	c := &call{w: w, r: r, limit: e.body}
	defer func() {
		if c.after != nil {
			c.after()
		}
	}()
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		// The stack names functions, not people; the panic's own words might.
		e.a.log.Error("a request handler panicked", "route", e.path, "kind", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
		e.a.log.Debug("the panic", "value", p)
		writeError(w, &Error{Status: http.StatusInternalServerError, Code: matrix.ErrcodeUnknown, Text: "internal server error"})
	}()
	err := e.a.authorise(c, e.auth)
	if err == nil {
		err = standing(c.who, e.route)
	}
	var answer any
	if err == nil {
		answer, err = e.handle(e.a, c)
	}
	// Also if the client seems to be gone: it may have closed its side only, and net/http would send it an empty 200.
	if err != nil {
		e.a.fail(c, e.path, err)
	} else if _, done := answer.(written); !done {
		writeJSON(w, http.StatusOK, answer)
	}
	if c.after != nil {
		// Whoever waits for this answer must not overtake it: push it out of net/http's buffer now.
		_ = http.NewResponseController(w).Flush()
	}
}

// authorise finds who asks (C-S API, "Using access tokens"): the Authorization header, or the query's access_token,
// deprecated, but all that nio and weechat send.
func (a *API) authorise(c *call, need auth) error {
	if need == anyone {
		return nil
	}
	scheme, token, found := strings.Cut(c.r.Header.Get("Authorization"), " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		token = c.query("access_token")
	}
	if token == "" {
		if need == perhaps {
			return nil
		}
		return &Error{Status: http.StatusUnauthorized, Code: matrix.ErrcodeMissingToken, Text: "an access token is needed"}
	}
	who, err := a.accounts.Authenticate(token)
	if err != nil {
		return err
	}
	c.who, c.token = who, token
	return nil
}

// self errs unless the path's {user} is who asks.
func (c *call) self() error {
	if c.path("user") != string(c.who.User) {
		return forbidden("that belongs to another user")
	}
	return nil
}

func (c *call) path(name string) string { return c.r.PathValue(name) }

func (c *call) query(name string) string { return c.r.URL.Query().Get(name) }

// queryInt reads a whole number, or fallback if it is not there.
func (c *call) queryInt(name string, fallback int64) (int64, error) {
	s := c.query(name)
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, invalid("query parameter %s is not a whole number", name)
	}
	return n, nil
}

// room reads the path's {room}.
func (c *call) room() (matrix.RoomID, error) { return roomID(c.path("room")) }

func roomID(s string) (matrix.RoomID, error) {
	if len(s) < 2 || len(s) > matrix.MaxID || s[0] != '!' {
		return "", invalid("not a room id")
	}
	return matrix.RoomID(s), nil
}

// event reads the path's {event}.
func (c *call) event() (matrix.EventID, error) { return eventID(c.path("event")) }

func eventID(s string) (matrix.EventID, error) {
	if len(s) < 2 || len(s) > matrix.MaxID || s[0] != '$' {
		return "", invalid("not an event id")
	}
	return matrix.EventID(s), nil
}

// roomEvent reads both.
func (c *call) roomEvent() (r matrix.RoomID, id matrix.EventID, err error) {
	if r, err = c.room(); err == nil {
		id, err = c.event()
	}
	return r, id, err
}

// userID checks an id that a client named as somebody's.
func userID(s string) (matrix.UserID, error) {
	if s == "" {
		return "", missing("user_id")
	}
	if _, _, err := matrix.ParseUserID(matrix.UserID(s)); err != nil {
		return "", invalid("%v", err)
	}
	return matrix.UserID(s), nil
}

// remote is the address that asks, without the port; "" over a unix socket.
func (c *call) remote() string {
	host, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// warn says that something beside a request went wrong. As in fail, only the root of the error is for every log.
func (a *API) warn(what string, err error) {
	a.log.Warn(what, "cause", rootCause(err))
	a.log.Debug(what, "err", err)
}

// fail answers err, and logs it if it is ours.
func (a *API) fail(c *call, route string, err error) {
	e := classify(err)
	if e.Status == http.StatusInternalServerError || e.Status == http.StatusInsufficientStorage {
		// The outer words of an error may name a room or a user; its root ("no space left on device") does not.
		a.log.Error("a request failed", "route", route, "cause", rootCause(err))
		a.log.Debug("a request failed", "route", route, "err", err)
	}
	writeError(c.w, e)
}

func rootCause(err error) string {
	for {
		next := errors.Unwrap(err)
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			if all := many.Unwrap(); len(all) > 0 {
				next = all[len(all)-1]
			}
		}
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
