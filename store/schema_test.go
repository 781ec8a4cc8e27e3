// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestNewDatabaseGetsTheVersion(t *testing.T) {
	kv := OpenMemory()
	for range 2 {
		if err := Upgrade(kv, 3, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNewerDatabaseIsRefusedUntouched(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	if err := Upgrade(b, Version+1, nil); err != nil {
		t.Fatal(err)
	}
	var before, after bytes.Buffer
	if err := Backup(b, &before); err != nil {
		t.Fatal(err)
	}
	b.Close()
	_, err := OpenNode(dir, Options{})
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), fmt.Sprintf("version %d", Version+1)) {
		t.Errorf("%v", err)
	}
	b = openTest(t, dir, Options{}) // it was closed and unlocked
	if err := Backup(b, &after); err != nil || !bytes.Equal(before.Bytes(), after.Bytes()) {
		t.Errorf("the refused database was changed, %v", err)
	}
}

func TestAnotherIdentityIsRefused(t *testing.T) {
	kv := OpenMemory()
	for range 2 {
		if err := Own(kv, "one.onion"); err != nil {
			t.Fatal(err)
		}
	}
	if err := Own(kv, "two.onion"); !errors.Is(err, ErrOwner) {
		t.Errorf("%v", err)
	}
	if err := Own(kv, "one.onion"); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func TestOpenNodeAgain(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		b, err := OpenNode(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMigrationsRunInOrderAndOnce(t *testing.T) {
	kv := OpenMemory()
	if err := Upgrade(kv, 1, nil); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	fail := true
	appendStep := func(s string) func(Txn) error {
		return func(x Txn) error {
			v, err := x.Get([]byte("steps"))
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			if err := x.Set([]byte("steps"), append(v, s...)); err != nil {
				return err
			}
			if s == "c" && fail {
				return boom
			}
			return nil
		}
	}
	steps := []Migration{{3, appendStep("c")}, {1, appendStep("a")}, {2, appendStep("b")}}
	if err := Upgrade(kv, 4, steps); !errors.Is(err, boom) {
		t.Fatalf("%v", err)
	}
	if got := getRow(t, kv, "steps"); got != "ab" {
		t.Errorf("after a failed step: %q", got)
	}
	fail = false
	for range 2 {
		if err := Upgrade(kv, 4, steps); err != nil {
			t.Fatal(err)
		}
	}
	if got := getRow(t, kv, "steps"); got != "abc" {
		t.Errorf("%q", got)
	}
	if err := Upgrade(kv, 6, steps); err == nil {
		t.Error("a missing step was passed over")
	}
}

func TestRowsWithoutAVersionAreRefused(t *testing.T) {
	kv := OpenMemory()
	if err := setRow(kv, "a", "1"); err != nil {
		t.Fatal(err)
	}
	if err := Upgrade(kv, 1, nil); err == nil {
		t.Error("accepted")
	}
}

// TestEveryVersionHasItsMigration: raising Version without a migration fails here.
func TestEveryVersionHasItsMigration(t *testing.T) {
	for v := uint64(1); v < Version; v++ {
		n := 0
		for _, m := range migrations {
			if m.From == v {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d migrations from version %d", n, v)
		}
	}
}

func TestBackupRestoresEveryRow(t *testing.T) {
	from := OpenMemory()
	for i := range 300 {
		if err := setRow(from, fmt.Sprint("k", i), strings.Repeat("v", i*300)); err != nil {
			t.Fatal(err)
		}
	}
	var b, again bytes.Buffer
	if err := Backup(from, &b); err != nil {
		t.Fatal(err)
	}
	to := openTest(t, t.TempDir(), Options{})
	if err := Restore(to, bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := Backup(to, &again); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the restored store differs, %v", err)
	}
	if err := Restore(to, bytes.NewReader(b.Bytes())); err == nil {
		t.Error("restored over existing rows")
	}
}

// What a restored node tells lies behind every position that was given since the backup, to clients that were there.
func TestPositionsGoOnBehindThoseGivenSinceTheBackup(t *testing.T) {
	kv := OpenMemory()
	stream := func(kv KV, n int) (last Pos) {
		t.Helper()
		s, err := OpenStream(kv)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			if last, err = s.Write(func(Txn, Pos) ([]string, error) { return nil, nil }); err != nil {
				t.Fatal(err)
			}
		}
		return last
	}
	stream(kv, 1)
	var b bytes.Buffer
	if err := Backup(kv, &b); err != nil {
		t.Fatal(err)
	}
	given := stream(kv, 3*leaseBlock)
	to := OpenMemory()
	if err := Restore(to, &b); err != nil {
		t.Fatal(err)
	}
	if first := stream(to, 1); first <= given {
		t.Errorf("position %d was given before: up to %d", first, given)
	}
}

func TestDamagedBackupIsRefused(t *testing.T) {
	from := OpenMemory()
	for i := range 20 {
		if err := setRow(from, fmt.Sprint("k", i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := Backup(from, &b); err != nil {
		t.Fatal(err)
	}
	for i := range b.Len() {
		bad := bytes.Clone(b.Bytes())
		bad[i] ^= 1
		if err := Restore(OpenMemory(), bytes.NewReader(bad)); err == nil {
			t.Errorf("a backup with a wrong bit in byte %d was restored", i)
		}
		if err := Restore(OpenMemory(), bytes.NewReader(b.Bytes()[:i])); !errors.Is(err, ErrBackup) {
			t.Errorf("a backup cut at %d: %v", i, err)
		}
	}
}

func FuzzRestore(f *testing.F) {
	kv := OpenMemory()
	if err := setRow(kv, "key", "value"); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := Backup(kv, &b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(backupMagic + "\x01\xff\xff\xff\x03k"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		to := OpenMemory()
		if Restore(to, bytes.NewReader(data)) != nil {
			return
		}
		var again bytes.Buffer
		if err := Backup(to, &again); err != nil {
			t.Fatal(err)
		}
	})
}
