// SPDX-License-Identifier: Apache-2.0

package onion_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tarn/internal/durable"
	"tarn/onion"
	"tarn/onion/oniontest"
	"tarn/onion/tornet"
)

// envChild makes this test program, run again, play a part (childParts) instead of testing.
const envChild = "TARN_ONION_TEST_CHILD"

func TestMain(m *testing.M) {
	if part := os.Getenv(envChild); part != "" {
		if err := childParts[part](); err != nil {
			fmt.Fprintln(os.Stderr, part+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(tornet.Main(m))
}

// patience is the limit for everything that takes seconds on an idle machine.
const patience = 90 * time.Second

// run starts t's Run, and ends it with the test.
func run(t *testing.T, tor *onion.Tor) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tor.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(patience):
				t.Error("Run does not return")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func waitReady(t *testing.T, tor *onion.Tor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tor.WaitReady(ctx); err != nil {
		t.Fatalf("%v; %+v", err, tor.Status())
	}
}

// waitStatus waits for a status that ok accepts.
func waitStatus(t *testing.T, tor *onion.Tor, what string, ok func(onion.Status) bool) onion.Status {
	t.Helper()
	limit := time.After(patience)
	for {
		changed := tor.Changed()
		s := tor.Status()
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("waiting for %s: %+v", what, s)
		}
	}
}

// newTor runs a managed tor on the private network.
func newTor(t *testing.T, torrc []string) (tor *onion.Tor, stop func()) {
	t.Helper()
	tor = onion.New(onion.Config{Dir: t.TempDir(), Torrc: torrc})
	return tor, run(t, tor)
}

func gone(t *testing.T, pid int) time.Duration {
	t.Helper()
	start := time.Now()
	for time.Since(start) < patience {
		if !alive(pid) {
			return time.Since(start)
		}
		time.Sleep(10 * time.Millisecond) // another process's end: nothing tells
	}
	t.Fatalf("process %d is still there after %v", pid, patience)
	return 0
}

// alive: there, and not a zombie that nobody has waited for (an orphan in a container without an init).
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !errors.Is(err, os.ErrNotExist)
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

func TestTorConforms(t *testing.T) {
	torrc := tornet.Shared(t)
	client, _ := newTor(t, torrc)
	server, _ := newTor(t, torrc)
	waitReady(t, client)
	waitReady(t, server)
	t.Run("all", func(t *testing.T) {
		for _, c := range oniontest.Conformance() {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				c.Run(t, client, server)
			})
		}
	})
	for _, tor := range []*onion.Tor{client, server} {
		s := tor.Status()
		if s.State != onion.StateReady || s.Percent != 100 || s.Version == "" || s.Restarts != 0 || s.Reason != "" {
			t.Errorf("status %+v", s)
		}
		if len(s.Services) != 0 {
			t.Errorf("services left: %+v", s.Services)
		}
	}
}

func TestTorDiesAndComesBackWithItsServices(t *testing.T) {
	torrc := tornet.Shared(t)
	tor, stop := newTor(t, torrc)
	key := oniontest.Key(t)
	l, err := tor.Listen(t.Context(), key, 80) // before tor is there
	if err != nil {
		t.Fatal(err)
	}
	oniontest.Serve(l, func(c net.Conn) { io.Copy(c, c) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tor.WaitPublished(ctx, oniontest.NameOf(key)); err != nil {
		t.Fatal(err)
	}
	c := oniontest.Dial(t, tor, l.Addr().String(), "x")
	pid, err := tor.TorPID()
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	waitStatus(t, tor, "the loss of tor", func(s onion.Status) bool { return s.State == onion.StateFailed && s.Reason == onion.ReasonTorExited })
	if _, err := tor.Dial(t.Context(), l.Addr().String(), "x"); !errors.Is(err, onion.ErrNotReady) {
		t.Errorf("dial without tor: %v, want ErrNotReady", err)
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection outlived its tor: %v", err)
	}
	c.Close()
	if s := tor.Status(); len(s.Services) != 1 || s.Services[0].Published {
		t.Errorf("services without tor: %+v", s.Services)
	}
	start := time.Now()
	if err := tor.WaitPublished(ctx, oniontest.NameOf(key)); err != nil {
		t.Fatal(err)
	}
	c = oniontest.Dial(t, tor, l.Addr().String(), "y")
	t.Logf("published and dialled %v after the loss", time.Since(start))
	c.Close()
	if s := tor.Status(); s.Restarts != 1 {
		t.Errorf("%d restarts, want 1", s.Restarts)
	}
	dir := tor.SocketDir()
	pid, err = tor.TorPID()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	stop()
	if alive(pid) {
		t.Error("tor lives on after Run")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of sockets is left: %v", err)
	}
	if s := tor.Status(); s.State != onion.StateOff {
		t.Errorf("state %q after Run", s.State)
	}
}

var reUser = regexp.MustCompile(`PURPOSE=HS_CLIENT_REND.* SOCKS_USERNAME="([^"]*)"`)

// Connections of different purposes share no circuit; of one purpose, they may.
func TestEachPurposeHasItsOwnCircuit(t *testing.T) {
	tor, _ := newTor(t, tornet.Shared(t))
	waitReady(t, tor)
	l := oniontest.Listen(t, tor, oniontest.Key(t), 80)
	oniontest.Serve(l, func(c net.Conn) { io.Copy(c, c) })
	for _, purpose := range []string{"put", "get", "digest", "put"} {
		defer oniontest.Dial(t, tor, l.Addr().String(), purpose).Close()
	}
	circuits, err := tor.Info("circuit-status")
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]int{}
	for line := range strings.Lines(circuits) {
		if m := reUser.FindStringSubmatch(line); m != nil {
			users[m[1]]++
		}
	}
	if len(users) != 3 {
		t.Errorf("circuits by user: %v, want those of 3 users\n%s", users, circuits)
	}
}

// Attached to a tor that somebody else runs: dial, serve, and leave it as it was.
func TestAttach(t *testing.T) {
	torrc := tornet.Shared(t)
	owner, _ := newTor(t, torrc)
	waitReady(t, owner)
	tor := onion.New(onion.Config{Mode: onion.Attach, ControlSocket: owner.ControlSocket()})
	stop := run(t, tor)
	waitReady(t, tor)
	key := oniontest.Key(t)
	l := oniontest.Listen(t, tor, key, 80)
	oniontest.Serve(l, func(c net.Conn) { c.Write([]byte("attached")) })
	c := oniontest.Dial(t, tor, l.Addr().String(), "x")
	c.SetDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(c); err != nil || string(b) != "attached" {
		t.Errorf("read %q, %v", b, err)
	}
	c.Close()
	stop()
	if s := owner.Status(); s.State != onion.StateReady {
		t.Errorf("the tor we attached to is now %+v", s)
	}
	// The name is free again: its service was withdrawn.
	oniontest.Listen(t, owner, key, 80)
}

func TestLongAndOddDirectory(t *testing.T) {
	torrc := tornet.Shared(t)
	dir := filepath.Join(t.TempDir(), `blank and # and "quotes" \ `+strings.Repeat("long", 25))
	tor := onion.New(onion.Config{Dir: dir, Torrc: torrc})
	stop := run(t, tor)
	waitReady(t, tor)
	sock := tor.SocketDir()
	fi, err := os.Stat(sock)
	if err != nil || fi.Mode().Perm() != 0o700 || strings.HasPrefix(sock, dir) {
		t.Errorf("sockets in %s: %v, %v", sock, fi, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "tor", "lock")); err != nil {
		t.Errorf("tor's data is elsewhere: %v", err)
	}
	second := onion.New(onion.Config{Dir: dir, Torrc: torrc})
	if err := second.Run(t.Context()); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("a second process on the directory: %v, want durable.ErrLocked", err)
	}
	if err := tor.Run(t.Context()); err == nil {
		t.Error("a second Run: no error")
	}
	stop()
	if _, err := os.Stat(sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of sockets is left: %v", err)
	}
}

// childParts are what this program does when run again.
var childParts = map[string]func() error{
	"owner": childOwner,
	"hung":  childHung,
	"dials": childDials,
	"leaks": childLeaks,
}

func child(t *testing.T, part string, wrap ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrap, self)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), envChild+"="+part)
	cmd.Stderr = os.Stderr
	return cmd
}

// childOwner runs a tor, tells its process id, and waits to be killed.
func childOwner() error {
	tor := onion.New(onion.Config{Dir: os.Getenv("DIR"), TorrcFile: os.Getenv(tornet.EnvTorrc)})
	go tor.Run(context.Background())
	for {
		changed := tor.Changed()
		if s := tor.Status(); s.Percent > 0 {
			pid, err := tor.TorPID()
			if err != nil {
				return err
			}
			fmt.Println(pid)
			select {}
		}
		<-changed
	}
}

// writeTorrc puts torrc lines into a file for a child.
func writeTorrc(t *testing.T, lines []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "client.torrc")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// childHung runs a "tor" that answers nothing and heeds no signal.
func childHung() error {
	tor := onion.New(onion.Config{Dir: os.Getenv("DIR"), TorPath: os.Getenv("PROGRAM")})
	return tor.Run(context.Background())
}

// tor 0.4.9.11 can hang in its own exit, and would then keep the lock of its directory.
func TestATorThatHangsIsKilledWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a parent-death signal")
	}
	dir := t.TempDir()
	program, pipe := filepath.Join(dir, "tor"), filepath.Join(dir, "pid")
	script := "#!/bin/sh\ntrap '' HUP INT TERM\necho $$ >\"" + pipe + "\"\nexec sleep 600\n"
	if err := errors.Join(os.WriteFile(program, []byte(script), 0o700), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "hung")
	cmd.Env = append(cmd.Env, "DIR="+filepath.Join(dir, "data"), "PROGRAM="+program)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(pipe) // waits for the writer
	pid, perr := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || perr != nil {
		t.Fatal(err, perr)
	}
	cmd.Process.Kill()
	cmd.Wait()
	t.Logf("it ended %v after its parent", gone(t, pid))
}

func TestTorEndsWhenItsParentIsKilled(t *testing.T) {
	torrc := writeTorrc(t, tornet.Shared(t))
	dir := t.TempDir()
	for i := range 2 { // the second on what the first left
		cmd := child(t, "owner")
		cmd.Env = append(cmd.Env, "DIR="+dir, tornet.EnvTorrc+"="+torrc)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatalf("child: %v", errors.Join(err, cmd.Wait()))
		}
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || !alive(pid) {
			t.Fatalf("tor's process id %q: %v", line, err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		if d := gone(t, pid); d > 20*time.Second {
			t.Errorf("tor ended %v after its parent", d)
		} else {
			t.Logf("start %d: tor ended %v after its parent", i+1, d)
		}
	}
	// What the killed ones left is gone with the next start.
	tor := onion.New(onion.Config{Dir: dir, TorrcFile: torrc})
	run(t, tor)
	waitReady(t, tor)
	left, err := filepath.Glob(filepath.Join(dir, "run-*"))
	if err != nil || len(left) != 1 {
		t.Errorf("directories of sockets: %v, %v; want the present one", left, err)
	}
}

// A fresh circuit each, as the direct transport to a mailbox does; over the private network, so only tor's own work.
func BenchmarkDialFreshCircuit(b *testing.B) {
	tor := onion.New(onion.Config{Dir: b.TempDir(), Torrc: tornet.Shared(b)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tor.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := tor.WaitReady(ctx); err != nil {
		b.Fatal(err)
	}
	l := oniontest.Listen(b, tor, oniontest.Key(b), 80)
	oniontest.Serve(l, func(c net.Conn) { io.Copy(c, c) })
	oniontest.Dial(b, tor, l.Addr().String(), "first").Close()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		oniontest.Dial(b, tor, l.Addr().String(), fmt.Sprint(i)).Close()
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)*95/100].Milliseconds()), "p95-ms")
}
