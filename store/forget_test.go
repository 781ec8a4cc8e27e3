// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// everything is all bytes of all files in the directory, as a thief has them.
func everything(t *testing.T, dir string) (all []byte, keys int) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasSuffix(path, ".key") {
			keys++
		}
		b, err := os.ReadFile(path)
		all = append(all, b...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all, keys
}

func inTable(table byte, name string) string { return string(Key(table, name)) }

// What was deleted or written over in a table of contacts is not to be read in the files any more: it never stood there in
// the clear, and the key to it is gone. What was deleted elsewhere is still there: so the thief knows how to look.
func TestWhatWasForgottenIsNotInTheFiles(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	secret := func(i int) string { return fmt.Sprintf("chain key %d of a stream", i) + strings.Repeat("x", 3000) }
	for i := range 50 {
		if err := b.Update(func(x Txn) error {
			return errors.Join(x.Set([]byte(inTable(TableContact, "bob")), []byte(secret(i))),
				x.Set([]byte(inTable(TableContact+1, "big")), bytes.Repeat([]byte(secret(i)), 20)), // beyond the value log's threshold
				x.Set([]byte(inTable(TableRoom, "bob")), []byte("in the clear "+fmt.Sprint(i))))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Update(func(x Txn) error {
		return errors.Join(x.Delete([]byte(inTable(TableContact+1, "big"))), x.Delete([]byte(inTable(TableRoom, "bob"))))
	}); err != nil {
		t.Fatal(err)
	}
	before, keys := everything(t, dir)
	if keys != 1 {
		t.Fatalf("%d keys", keys)
	}
	old, err := os.ReadFile(b.vault.file(b.vault.newest))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // beside the running program; and after its end
		all, keys := everything(t, dir)
		if keys != 1 || bytes.Contains(all, old) {
			t.Errorf("%d keys, the old one among them: %v", keys, bytes.Contains(all, old))
		}
		if bytes.Contains(all, []byte("chain key")) || bytes.Contains(before, []byte("chain key")) {
			t.Error("a secret stands there in the clear")
		}
		if !bytes.Contains(before, []byte("in the clear 7")) || i == 0 && !bytes.Contains(all, []byte("in the clear 7")) {
			t.Error("this thief finds nothing that was deleted: he does not look well")
		}
		if i == 0 {
			if got := getRow(t, b, inTable(TableContact, "bob")); got != secret(49) {
				t.Errorf("what is not to be forgotten: %.30q", got)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	b = openTest(t, dir, Options{})
	if got := getRow(t, b, inTable(TableContact, "bob")) + getRow(t, b, inTable(TableContact+1, "big")); got != secret(49)+"-" {
		t.Errorf("after opening again: %.30q", got)
	}
}

// A thief who has an old copy of the tables, and today's key, reads nothing of what was deleted in between.
func TestOldTablesDoNotOpenWithANewKey(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	key := []byte(inTable(TableContact, "bob"))
	if err := setRow(b, string(key), "old"); err != nil {
		t.Fatal(err)
	}
	txn := b.db.NewTransactionAt(b.done, false)
	defer txn.Discard()
	get := func(k []byte) (v []byte) {
		item, err := txn.Get(k)
		if err == nil {
			v, err = item.ValueCopy(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	wrapped, sealed := get(nameKey(key)), get(userKey(key))
	if bytes.Contains(sealed, []byte("old")) {
		t.Fatal("not sealed")
	}
	if v, err := b.vault.open(txn, key, sealed); err != nil || string(v) != "old" {
		t.Fatalf("before it is forgotten: %q, %v", v, err)
	}
	if err := b.Update(func(x Txn) error { return x.Delete(key) }); err != nil {
		t.Fatal(err)
	}
	if err := b.Forget(); err != nil {
		t.Fatal(err)
	}
	b.Close()
	thief, err := openVault(filepath.Join(dir, "forget"))
	if err != nil {
		t.Fatal(err)
	}
	if k, _, err := thief.unwrap(key, wrapped); !errors.Is(err, errForgotten) {
		t.Errorf("he has the row's key %x", k)
	}
}

// A View that began before sees its state to the end, though the key to it is forgotten meanwhile.
func TestAViewSurvivesForgetting(t *testing.T) {
	b := openTest(t, t.TempDir(), Options{})
	key := inTable(TableContact, "bob")
	if err := setRow(b, key, "1"); err != nil {
		t.Fatal(err)
	}
	if err := b.View(func(r Reader) error {
		for i := range 3 {
			if err := setRow(b, key, fmt.Sprint(i+2)); err != nil {
				return err
			}
			if err := b.Forget(); err != nil {
				return err
			}
			if v, err := r.Get([]byte(key)); err != nil || string(v) != "1" {
				return fmt.Errorf("%q, %w", v, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	b.releaseKeys()
	if n := len(b.vault.keys); n != 1 {
		t.Errorf("%d keys are kept in memory", n)
	}
	if getRow(t, b, key) != "4" {
		t.Error("it is gone")
	}
}

// Forgetting beside writers and readers, with a directory as a crash leaves it after each step.
func TestForgettingLosesNothing(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	const rows = 1700 // more than one batch
	want := map[string]string{}
	if err := b.Update(func(x Txn) error {
		for i := range rows {
			k, v := inTable(TableContact+byte(i%3), fmt.Sprint(i)), fmt.Sprint("value ", i)
			if i < 300 { // long keys fill a transaction sooner
				k = inTable(TableContact+3, strings.Repeat("n", 3000)+fmt.Sprint(i))
			}
			want[k] = v
			if err := x.Set([]byte(k), []byte(v)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	for g := range 4 {
		all.Go(func() {
			for i := range 60 {
				k, v := inTable(TableContact, fmt.Sprint(g*100+i)), fmt.Sprint("new ", g, i)
				if err := setRow(b, k, v); err != nil {
					t.Error(err)
				}
				if got := getRow(t, b, k); got != v {
					t.Errorf("%q, not %q", got, v)
				}
				mu.Lock()
				want[k] = v
				mu.Unlock()
			}
		})
	}
	for range 4 {
		if err := b.Forget(); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	check := func(when string) {
		t.Helper()
		got := map[string]string{}
		if err := b.View(func(r Reader) error {
			return r.Scan(nil, nil, func(k, v []byte) (bool, error) { got[string(k)] = string(v); return true, nil })
		}); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("%s: %d rows, want %d, or others", when, len(got), len(want))
		}
	}
	check("beside writers")
	crash := func(when string) {
		t.Helper()
		b.vault.dirty.Store(false)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openTest(t, dir, Options{})
		check(when)
		if err := b.Forget(); err != nil {
			t.Fatal(err)
		}
		check(when + ", then forgetting")
		if keys, _ := filepath.Glob(filepath.Join(dir, "forget", "*.key")); len(keys) != 1 {
			t.Errorf("%s: %v", when, keys)
		}
	}
	if err := b.vault.renew(); err != nil {
		t.Fatal(err)
	}
	crash("after a new key")
	if err := b.vault.renew(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var from []byte
		p := &pending{done: make(chan outcome, 2)}
		p.work = func(ts uint64) (uint64, error) {
			ts, next, _, failed, err := b.rewrap(ts, from)
			from = next
			return ts, errors.Join(failed, err)
		}
		b.mu.Lock()
		b.queueLocked(p)
		b.mu.Unlock()
		if err := b.await(p); err != nil {
			t.Fatal(err)
		}
	}
	crash("when some rows are wrapped anew")
	if err := b.vault.renew(); err != nil {
		t.Fatal(err)
	}
	if err := b.forget(); err != nil { // all but
		t.Fatal(err)
	}
	if err := os.WriteFile(b.vault.file(b.vault.newest-1), make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.vault.file(b.vault.newest+1)+".tmp", []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	crash("in the middle of overwriting the old key")
}

// A database without its key says so.
func TestAMissingKeyIsAnError(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir, Options{})
	key := inTable(TableContact, "bob")
	if err := setRow(b, key, "1"); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := os.RemoveAll(filepath.Join(dir, "forget")); err != nil {
		t.Fatal(err)
	}
	b, err := OpenBadger(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = b.View(func(r Reader) error { _, err := r.Get([]byte(key)); return err })
	if !errors.Is(err, errForgotten) || !strings.Contains(err.Error(), "forget") {
		t.Errorf("%v", err)
	}
	b.Close()
}

// Rows go through sealing as they are, whatever they hold; and no value stands for another row.
func TestSealedRowsOpenToWhatTheyWere(t *testing.T) {
	b := openTest(t, t.TempDir(), Options{})
	rapid.Check(t, func(rt *rapid.T) {
		key := append([]byte{TableContact + rapid.Byte().Draw(rt, "table")%32}, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "key")...)
		value := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "value")
		row := b.entries(&row{key: key, value: value})
		if len(row) != 2 || len(value) > 8 && bytes.Contains(row[0].value, value) {
			rt.Fatal("not sealed")
		}
		k, _, err := b.vault.unwrap(key, row[1].value)
		if err != nil {
			rt.Fatal(err)
		}
		if _, _, err := b.vault.unwrap(append(slices.Clone(key), 1), row[1].value); err == nil {
			rt.Fatal("a key of another row")
		}
		if len(k) != 32 {
			rt.Fatal(len(k))
		}
	})
}
