// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"mailbox": main}) }

// TestCommands runs the command lines in testdata/script, with the real program.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Unix sockets want short paths: the data directories lie in a short one.
			short, err := os.MkdirTemp("", "m")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(short) })
			e.Setenv("D", short)
			e.Setenv("HOME", short)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"awaitfile": awaitFile},
	})
}

// awaitFile waits until a file is there (or, negated, is not).
func awaitFile(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(args[0])
		if (err == nil) != neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s: %v", args[0], err)
		}
	}
}

// maxIdle is what an idle mailbox without tor may keep in memory.
const maxIdle = 40 << 20

// The limit is for the real program: a test binary holds more. It is built only when the go command is there.
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "mailbox")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command(bin, "init", "--dir", dir, "--tor", "off", "--deposit", "tokens").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(bin, "run", "--config", filepath.Join(dir, program.ConfigName))
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for end := began.Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, socketName)); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not start")
		}
	}
	start := time.Since(began)
	if err := exec.Command(bin, "status", "--config", filepath.Join(dir, program.ConfigName)).Run(); err != nil {
		t.Fatal(err)
	}
	rss := rss(t, cmd.Process.Pid)
	t.Logf("started in %v, %.1f MiB resident", start.Round(time.Millisecond), float64(rss)/(1<<20))
	if rss > maxIdle {
		t.Errorf("%.1f MiB resident, want at most %d", float64(rss)/(1<<20), maxIdle>>20)
	}
}

// rss is the resident memory of a process in bytes (Linux).
func rss(t *testing.T, pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
