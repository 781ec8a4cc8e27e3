// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestWriteFileReplacesWholeAndLeavesNothingBeside(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	for _, text := range []string{"a longer first text", "short", ""} {
		if err := WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil || string(got) != text {
			t.Fatalf("%q %v", got, err)
		}
	}
	if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", fi.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Fatalf("%v %v", entries, err)
	}
}

func TestAFailedWriteLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	if err := WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name+".tmp", 0o700); err != nil { // the place to write beside is taken
		t.Fatal(err)
	}
	if err := WriteFile(name, []byte("new"), 0o600); err == nil {
		t.Fatal("no error")
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "old" {
		t.Fatalf("%q %v", got, err)
	}
}

const childDir = "TARN_DURABLE_CHILD" // tells a re-executed test binary to hold the lock of this directory

func TestLockEndsWithItsProcessAlsoWhenKilled(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		if _, err := Lock(dir); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("locked\n")
		select {} // until killed
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run", t.Name())
	child.Env = append(os.Environ(), childDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	var line [7]byte
	if _, err := out.Read(line[:]); err != nil || string(line[:]) != "locked\n" {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("a second process: %v", err)
	}
	child.Process.Kill()
	child.Wait()
	unlock, err := Lock(dir)
	if err != nil {
		t.Fatalf("after the first was killed: %v", err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("twice in one process: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if unlock, err = Lock(dir); err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestShredOverwritesAndRemoves(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte("secret secret secret secret 1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name) // keeps the removed file in reach
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Shred(name); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, _ := f.Read(got)
	if n != 32 || !bytes.Equal(got[:n], make([]byte, 32)) {
		t.Errorf("the file still had %q", got[:n])
	}
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	if err := Shred(name); err != nil { // not there: fine
		t.Error(err)
	}
}
