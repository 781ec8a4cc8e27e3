// SPDX-License-Identifier: Apache-2.0

package tornet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tarn/onion"
)

// EnvTorrc names the environment variable that may hold the path of a client torrc (cmd/tornet writes one): then
// Shared uses that network, and starts none.
const EnvTorrc = "TARN_TORNET"

var shared struct {
	sync.Mutex
	net   *Network
	dir   string
	lines []string
	err   error
	tried bool
}

// Shared is the network of this test program, as torrc lines of a client: started at the first call, ended by [Main].
// Without tor the test is skipped, but fails in CI (environment CI=true); with -short it is skipped.
func Shared(t testing.TB) []string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no private Tor network")
	}
	shared.Lock()
	defer shared.Unlock()
	if !shared.tried {
		shared.tried = true
		shared.lines, shared.err = startShared()
	}
	if errors.Is(shared.err, ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.lines
}

// startShared: shared is locked.
func startShared() ([]string, error) {
	if path := os.Getenv(EnvTorrc); path != "" {
		return onion.ReadTorrc(path)
	}
	dir, err := os.MkdirTemp("", "tarn-tornet-shared-")
	if err != nil {
		return nil, err
	}
	shared.dir = dir
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = dir
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if shared.net, err = Start(ctx, Config{Dir: dir, KeyCache: filepath.Join(cache, "tarn-tornet-keys")}); err != nil {
		return nil, err
	}
	return shared.net.ClientTorrc(), nil
}

// Main runs the tests of a program that uses Shared, and ends the network after them:
//
//	func TestMain(m *testing.M) { os.Exit(tornet.Main(m)) }
//
// Without it the network ends too, when the test program does, but leaves files in the temporary directory.
func Main(m *testing.M) int {
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.net != nil {
		shared.net.Close()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	return code
}
