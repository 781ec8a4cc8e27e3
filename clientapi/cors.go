// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"net/http"
	"strings"

	"tarn/matrix"
)

// ServeHTTP puts the CORS headers on everything, answers preflights, and gives the rest to the table.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Also for bodies that nobody wants: net/http reads them before it sends the answer.
		_ = http.NewResponseController(w).SetReadDeadline(patience(bodyTimeout, min(r.ContentLength, largeBody)))
	}
	h := w.Header() // C-S API, "Web Browser Clients"
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	// ServeMux would answer "//" and ".." with a redirect to another path: not in this API.
	if p := r.URL.EscapedPath(); strings.Contains(p, "//") || strings.Contains(p, "/.") && dotted(p) {
		unrecognized(w, http.StatusNotFound)
		return
	}
	m := &muxWriter{ResponseWriter: w}
	a.mux.ServeHTTP(m, r)
	if m.status != 0 {
		unrecognized(w, m.status)
	}
}

func dotted(path string) bool {
	for s := range strings.SplitSeq(path, "/") {
		if s == "." || s == ".." {
			return true
		}
	}
	return false
}

// muxWriter catches the texts that ServeMux answers by itself (404, 405, redirects). An endpoint takes it off first.
type muxWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader keeps the status for the JSON answer: a redirect is a path that we do not have.
func (m *muxWriter) WriteHeader(status int) {
	if status != http.StatusMethodNotAllowed {
		status = http.StatusNotFound
	}
	m.status = status
}

func (m *muxWriter) Write(b []byte) (int, error) { return len(b), nil }

func (m *muxWriter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// unrecognized is the answer to unknown paths (404) and methods (405) (C-S API, "Common error codes").
func unrecognized(w http.ResponseWriter, status int) {
	w.Header().Del("Location")
	writeError(w, &Error{Status: status, Code: matrix.ErrcodeUnrecognized, Text: "unrecognized request"})
}
