// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
)

// newTestServer is a server that is not served: its answers are asked for directly.
func newTestServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	_, cfg.Onion, _ = ed25519.GenerateKey(rand.Reader)
	s, err := New(cfg)
	must(t, err)
	done := make(chan struct{})
	go func() { defer close(done); s.commitLoop() }()
	t.Cleanup(func() { close(s.deposits); <-done; closeAll(t, s) })
	return s
}
