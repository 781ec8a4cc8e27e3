// SPDX-License-Identifier: Apache-2.0

package tornet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarn/internal/durable"
)

// The network itself runs in cmd/tornet's test, and under the tests of package onion.

func TestImpossibleNetworks(t *testing.T) {
	for name, c := range map[string]Config{
		"no directory":          {},
		"three processes":       {Dir: t.TempDir(), Relays: 2},
		"too many":              {Dir: t.TempDir(), Relays: 100},
		"negative":              {Dir: t.TempDir(), Authorities: -1, Relays: 9},
		"a directory is a file": {Dir: os.Args[0]},
	} {
		if n, err := Start(t.Context(), c); err == nil {
			n.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMissingProgramsAreTold(t *testing.T) {
	if _, err := find("no-such-tor"); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("%v", err)
	}
}

func TestADirectoryHasOneNetwork(t *testing.T) {
	dir := t.TempDir()
	unlock, err := durable.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if n, err := Start(t.Context(), Config{Dir: dir, TorPath: "/bin/true", GencertPath: "/bin/true"}); !errors.Is(err, durable.ErrLocked) {
		if err == nil {
			n.Close()
		}
		t.Errorf("%v, want durable.ErrLocked", err)
	}
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	if n, err := Start(t.Context(), Config{Dir: dir, TorPath: "/bin/false", GencertPath: "/bin/false"}); err == nil {
		n.Close()
		t.Fatal("no error")
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "tarn-tornet-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	unlock, err := durable.Lock(dir)
	if err != nil {
		t.Fatalf("the lock is left: %v", err)
	}
	unlock()
}

// cached puts an authority's keys with identity into a cache and reports whether they are used.
func cached(t *testing.T, identity string, age time.Duration) bool {
	t.Helper()
	cache, dir := t.TempDir(), t.TempDir()
	keys := filepath.Join(cache, "da0", "keys")
	if err := errors.Join(os.MkdirAll(keys, 0o755), os.WriteFile(filepath.Join(keys, "secret"), []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "da0", "identity")
	then := time.Now().Add(-age)
	if err := errors.Join(os.WriteFile(path, []byte(identity), 0o600), os.Chtimes(path, then, then)); err != nil {
		t.Fatal(err)
	}
	n := &Network{cfg: Config{KeyCache: cache}}
	r := &relay{name: "da0", dir: dir, dirPort: 1}
	ok := n.loadKeys(r)
	fi, err := os.Stat(filepath.Join(dir, "keys", "secret"))
	if ok != (err == nil) || ok && fi.Mode().Perm() != 0o600 {
		t.Errorf("used: %v, but the copy: %v, %v", ok, fi, err)
	}
	return ok
}

func TestKeyCacheIsUsedWhileItIsGood(t *testing.T) {
	id := strings.Repeat("A", 40)
	if !cached(t, id+" "+id+"\n", time.Hour) {
		t.Error("good keys are not used")
	}
	if cached(t, id+" "+id+"\n", 301*24*time.Hour) {
		t.Error("keys whose certificate is about to end are used")
	}
	for _, identity := range []string{"", id, id + " x", "x " + id} {
		if cached(t, identity, time.Hour) {
			t.Errorf("identity %q is used", identity)
		}
	}
}

func TestPortsDiffer(t *testing.T) {
	ports, err := freePorts(20)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if p == 0 || seen[p] {
			t.Errorf("port %d", p)
		}
		seen[p] = true
	}
}
