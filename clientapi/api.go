// SPDX-License-Identifier: Apache-2.0

// Package clientapi answers ordinary Matrix clients: the Client-Server API over HTTP.
//
// Problem: Element, gomuks, nio and the rest know one language, and each of them trips over other small deviations
// from it (facts: r0 paths, tokens in the query, errors without CORS headers, text where JSON is due). This package
// speaks that language from what the node holds (room, account) and never from the network: a privacy property that
// the layers test enforces.
//
// Invariants:
//   - Every answer, errors and unknown paths included, is JSON with CORS headers (C-S API, "Web Browser Clients").
//   - What is not there answers 404 M_UNRECOGNIZED; nothing pretends.
//   - A body is never read beyond its route's limit, a request never outlives its client.
//   - PUT /send is answered before the /sync of the same device shows the event.
//   - A waiting /sync costs a goroutine and no CPU: it is woken by store.Stream, nothing polls.
//
// Where things are: routes.go is the one table of endpoints; a file a spec module beside it; errors.go is the one table
// from errors to statuses and errcodes. The package keeps nothing on disk, and in memory only who is there, the sends under way,
// the connections of sliding sync (package sliding) and the counters of rate limits. /sync tokens are stream positions, so they survive restarts.
//
// LIMITS: pushers are kept and nothing is sent to them; with lazy_load_members
// a /sync gives a sender's member event again with each timeline that needs it (a superset); sliding sync has no thread subscriptions.
//
// docs/client-api.md lists the endpoints; table_test.go makes it.
package clientapi

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/http"
	"sync"

	"tarn/account"
	"tarn/clientapi/sliding"
	"tarn/matrix"
	"tarn/media"
	"tarn/push"
	"tarn/room"
	"tarn/store"
)

// Waiter is what /sync needs of the node's stream (store.Stream's contract): Current is a position with nothing
// uncommitted below it; Wait returns once a change of topic (a user id) has a position > after, or with ctx's error.
type Waiter interface {
	Current() store.Pos
	Wait(ctx context.Context, topic string, after store.Pos) (store.Pos, error)
	// Notify wakes topics for what is in the database already.
	Notify(topics ...string) store.Pos
}

var _ Waiter = (*store.Stream)(nil)

// Config of the API.
type Config struct {
	Rooms    *room.Rooms
	Accounts *account.Accounts
	Stream   Waiter
	Media    *media.Store
	// Reaches tells whether files of another server can be asked for, some time: whether it is a contact. nil: of none.
	Reaches func(matrix.ServerName) bool
	Server  matrix.ServerName // of the local users
	// BaseURL is what /.well-known/matrix/client and a login tell clients ("http://127.0.0.1:8008"); "": they are told nothing.
	BaseURL string
	// OpenRegistration lets anybody who reaches the listener register. The caller made sure that this is loopback.
	OpenRegistration bool
	// OpenMedia lets whoever knows a file's name (128 random bits) have it from the old paths without a token, as matrix-nio before
	// 0.25 and others need. The caller made sure that this is loopback.
	OpenMedia bool
	// NoRateLimit switches off the limit of registrations (account has its own switch for logins).
	NoRateLimit bool
	Log         *slog.Logger // nil: slog.Default()
}

// API is the http.Handler. It starts no goroutine.
type API struct {
	cfg      Config
	rooms    *room.Rooms
	accounts *account.Accounts
	stream   Waiter
	log      *slog.Logger
	mux      *http.ServeMux
	sending  sending
	conns    sliding.Conns
	presence presence
	texts    push.Texts
	register limiter // registrations, by remote address

	// edits serialise a user's read-modify-write requests (tags, profile fields): held for one request's database work.
	edits [64]sync.Mutex
	seed  maphash.Seed
	// telling is held for one notice, before a user's edits: those may be any of the 64.
	telling sync.Mutex
}

// New builds the handler of c.
func New(c Config) *API {
	a := &API{cfg: c, rooms: c.Rooms, accounts: c.Accounts, stream: c.Stream, log: c.Log, seed: maphash.MakeSeed()}
	if a.log == nil {
		a.log = slog.Default()
	}
	a.mux = a.routes()
	a.rooms.AfterArrival(a.arrived)
	return a
}

// edit locks the user's read-modify-write requests.
func (a *API) edit(user matrix.UserID) (unlock func()) {
	m := &a.edits[maphash.String(a.seed, string(user))%uint64(len(a.edits))]
	m.Lock()
	return m.Unlock
}

// local says whether a user id names this node's server.
func (a *API) local(user matrix.UserID) bool {
	return user.Homeserver() == string(a.cfg.Server)
}
