// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// Settings of the HTTP server. No read or write timeout of the whole: it would cut long polls. Instead: headers, body
// (bodyTimeout) and answer (writeTimeout) each have their own.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 3 * time.Minute  // of kept-alive connections; longer than the usual 30 s polls of clients that pause
	maxHeaderBytes = 32 << 10         // a long token and a browser's cookies fit
	maxConnections = 4096             // a thousand devices with a few connections each; bounds memory
	drainTimeout   = 10 * time.Second // for requests under way when the node stops
)

// drainKey finds in a request's context the context of Serve: when it ends, waiting /syncs answer at once.
type drainKey struct{}

// Serve answers clients on l until ctx ends; then it lets running requests finish (waiting /syncs are answered at once,
// empty) for up to ten seconds. It closes l. It may run on several listeners at a time. nil after a graceful end.
func (a *API) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return context.WithValue(context.Background(), drainKey{}, ctx) },
		ErrorLog:          log.New(debugWriter{a.log}, "", 0), // addresses of clients: not above Debug
	}
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		err := s.Shutdown(end)
		if err != nil {
			err = errors.Join(err, s.Close())
		}
		ended <- err
	})
	err := s.Serve(netutil.LimitListener(l, maxConnections))
	if stop() { // ctx lives: the listener failed
		return errors.Join(err, s.Close())
	}
	return <-ended
}

// drain is a context that ends with the request or when the server stops.
func (c *call) drain() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.r.Context())
	server, ok := ctx.Value(drainKey{}).(context.Context)
	if !ok {
		return ctx, cancel
	}
	stop := context.AfterFunc(server, cancel)
	return ctx, func() { stop(); cancel() }
}

type debugWriter struct{ log *slog.Logger }

func (d debugWriter) Write(b []byte) (int, error) {
	d.log.Debug("http server", "msg", string(b))
	return len(b), nil
}
