// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/onion"
	"tarn/onion/tornet"
)

// envMain makes this test program be the command.
const envMain = "TARN_TORNET_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const patience = 3 * time.Minute

// start runs the command until it is ready, and returns the path it printed.
func start(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "--dir", dir)
	cmd.Env = append(os.Environ(), envMain+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	path, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		t.Fatalf("it says %q: %v", line, errors.Join(err, cmd.Wait()))
	}
	return cmd, path
}

// processes are the tors whose configuration lies in dir.
func processes(t *testing.T, dir string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range all {
		b, err := os.ReadFile(p) // errs for one that has just ended
		if err == nil && bytes.Contains(b, []byte(dir)) && bytes.Contains(b, []byte("--defaults-torrc")) {
			n++
		}
	}
	return n
}

func waitNone(t *testing.T, dir string) time.Duration {
	t.Helper()
	began := time.Now()
	for processes(t, dir) > 0 {
		if time.Since(began) > patience {
			t.Fatalf("%d processes are left", processes(t, dir))
		}
		time.Sleep(20 * time.Millisecond) // others' ends: nothing tells
	}
	return time.Since(began)
}

func TestCommandServesAClientAndEndsWithAllItsProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no private Tor network")
	}
	if _, err := exec.LookPath("/proc/self/cmdline"); errors.Is(err, os.ErrNotExist) {
		t.Skip("no /proc")
	}
	for _, p := range []string{"tor", "tor-gencert"} {
		if _, err := exec.LookPath(p); err != nil && os.Getenv("CI") != "true" {
			if _, err := os.Stat("/usr/sbin/" + p); err != nil {
				t.Skip(tornet.ErrMissing)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "a network")
	cmd, path := start(t, dir)
	if n := processes(t, dir); n != 5 {
		t.Errorf("%d processes, want 5", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tor := onion.New(onion.Config{Dir: t.TempDir(), TorrcFile: path})
	done := make(chan error, 1)
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() { done <- tor.Run(rctx) }()
	if err := tor.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := tornet.Start(ctx, tornet.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second network in the directory: %v", err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if n := processes(t, dir); n != 0 {
		t.Errorf("%d processes after the end", n)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", path, err)
	}

	// Again in the same directory, with the same keys; and killed.
	before, err := os.ReadFile(filepath.Join(dir, "keys", "da0", "identity"))
	if err != nil {
		t.Fatal(err)
	}
	cmd, path = start(t, dir)
	lines, err := onion.ReadTorrc(path)
	if err != nil || !strings.Contains(fmt.Sprint(lines), strings.Fields(string(before))[0]) {
		t.Errorf("the keys were not kept: %v, %v", lines, err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if b, err := os.ReadFile(filepath.Join(dir, "sockets")); err == nil { // which the next start here would remove
		t.Cleanup(func() { os.RemoveAll(strings.TrimSpace(string(b))) })
	}
	t.Logf("all processes ended %v after the command was killed", waitNone(t, dir))
}

func TestBadArguments(t *testing.T) {
	for _, args := range [][]string{{"extra"}, {"--relays", "2", "--dir", t.TempDir()}, {"--relays", "x"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
