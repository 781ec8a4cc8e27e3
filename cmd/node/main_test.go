// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"tarn/store"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"node": main}) }

// TestCommands runs the command lines in testdata/script, with the real program.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Unix sockets want short paths: the data directories lie in a short one.
			short, err := os.MkdirTemp("", "n")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(short) })
			e.Setenv("D", short)
			e.Setenv("HOME", short)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"awaitfile":  awaitFile,
			"newerstore": newerStore,
		},
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

// newerStore makes the database of a node directory look as if a newer program had written it.
func newerStore(ts *testscript.TestScript, _ bool, args []string) {
	kv, err := store.OpenBadger(filepath.Join(args[0], "db"), store.Options{})
	ts.Check(err)
	ts.Check(store.Upgrade(kv, store.Version+1, []store.Migration{{From: store.Version, Run: func(store.Txn) error { return nil }}}))
	ts.Check(kv.Close())
}
