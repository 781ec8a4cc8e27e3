// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"tarn/internal/durable"
)

// maxSocketDir is how long the name of a directory may be so that names of sockets in it still fit into the 107 bytes
// of a unix address: "/control", "/s" and a number.
const maxSocketDir = 107 - 16

// tempPrefix begins the names of socket directories outside of Config.Dir; only such ones are ever removed.
const tempPrefix = "tarn-tor-"

// sockets is the 0700 directory of tor's and the services' sockets. It lives while somebody holds it: Run, and each
// listener (which may be older than Run).
type sockets struct {
	home string // Config.Dir

	mu   sync.Mutex
	dir  string // "" while nobody holds it
	held int
	next int // number of the next service socket
}

// hold returns the directory, made if need be; release must follow.
func (s *sockets) hold() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		dir, err := makeSocketDir(s.home)
		if err != nil {
			return "", &trouble{ReasonDisk, "no directory for sockets", err}
		}
		s.dir = dir
	}
	s.held++
	return s.dir, nil
}

func (s *sockets) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held--; s.held == 0 {
		os.RemoveAll(s.dir)
		s.dir = ""
	}
}

// name is a fresh name for a service's socket in dir.
func (s *sockets) name(dir string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return filepath.Join(dir, fmt.Sprintf("s%d", s.next))
}

// makeSocketDir makes a fresh directory, so that a tor that is just ending cannot remove the sockets of the next one:
// in home when the name fits, else where names are short.
func makeSocketDir(home string) (string, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return "", err
	}
	if plainPath(home) && len(home)+len("/run-")+10 <= maxSocketDir {
		return os.MkdirTemp(home, "run-") // 0700
	}
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp"} {
		if base == "" || !plainPath(base) || len(base)+1+len(tempPrefix)+10 > maxSocketDir {
			continue
		}
		dir, err := os.MkdirTemp(base, tempPrefix)
		if err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%s is too long for unix sockets, and there is no short temporary directory", home)
}

// plainPath: absolute, and nothing in it that tor's configuration or control protocol would read otherwise.
func plainPath(p string) bool {
	if !filepath.IsAbs(p) {
		return false
	}
	for _, c := range []byte(p) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("/._-", c) >= 0) {
			return false
		}
	}
	return true
}

// sweep removes what processes that were killed left, and notes our own directory for the next sweep. The caller holds
// the lock of home: no other process is alive that could use them.
func sweepSockets(home, ours string) error {
	note := filepath.Join(home, "sockets")
	if b, err := os.ReadFile(note); err == nil {
		old := strings.TrimSpace(string(b))
		if old != ours && filepath.IsAbs(old) && strings.HasPrefix(filepath.Base(old), tempPrefix) {
			os.RemoveAll(old)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old, _ := filepath.Glob(filepath.Join(home, "run-*")) // errs only for a bad pattern; then nothing is swept
	for _, dir := range old {
		if dir != ours {
			os.RemoveAll(dir)
		}
	}
	return durable.WriteFile(note, []byte(ours+"\n"), 0o600)
}
