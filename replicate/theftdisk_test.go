// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/store"
)

// files is all that stands in a directory's files, in one piece.
func files(t *testing.T, dir string) (all []byte) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all = append(append(all, b...), 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// A thief does not read rows, he has the disk: with what databases leave in their files of everything that was ever written.
// What the streams' states held that are over, and the names of boxes that were read and acknowledged, is not there. (What
// the last state gives him is TestAThiefOfTheWholeStateReadsWhatTheSpecificationSays.)
func TestOldKeysAndTheNamesOfOldBoxesAreNotOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	var present []byte // what the streams' rows are in the end
	old := map[[32]byte]bool{}
	handles := map[mailbox.Handle]bool{}
	var names []string
	synctest.Test(t, func(t *testing.T) {
		kv, err := store.OpenBadger(dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, 1)
		a, b := w.node(1, fast()), w.node(2, fast())
		a.kv = kv
		a.start()
		b.start()
		w.contact(a, b)
		a.rooms.join(lounge, a.name(), b.name())
		b.rooms.join(lounge, a.name(), b.name())
		read := func() (raw []byte) {
			if err := kv.View(func(r store.Reader) error {
				return r.Scan([]byte{tableStreams}, nil, func(_, v []byte) (bool, error) { raw = append(raw, v...); return true, nil })
			}); err != nil {
				t.Fatal(err)
			}
			return raw
		}
		for i := range 40 {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			had := len(to.rooms.bodies(lounge))
			from.rooms.send(t, lounge, fmt.Sprint("m", i))
			w.has(to, lounge, had+1, 10*time.Minute)
			raw := read()
			for j := 0; j+32 <= len(raw); j++ {
				old[[32]byte(raw[j:])] = true
			}
			a.engine.mu.Lock()
			for _, d := range a.engine.depots {
				for h := range d.todo {
					handles[h] = true
				}
			}
			for h, r := range a.engine.expected {
				if r.contact != nil {
					handles[h] = true
				}
			}
			a.engine.mu.Unlock()
		}
		quiet(w, a, b, time.Hour)
		a.engine.mu.Lock()
		for h := range a.engine.expected {
			delete(handles, h) // of boxes to come
		}
		a.engine.mu.Unlock()
		present, names = read(), []string{string(b.name())}
		w.stopAll()
		if err := kv.Forget(); err != nil {
			t.Fatal(err)
		}
		for _, when := range []string{"an hour later", "after the end"} {
			disk := files(t, dir)
			for _, n := range names {
				if !bytes.Contains(disk, []byte(n)) {
					t.Fatal("this thief does not even find who the contact is")
				}
			}
			found, keys, gone := 0, 0, 0
			for i := 0; i+32 <= len(disk); i++ {
				w := [32]byte(disk[i:])
				if old[w] && bytes.Count(w[:], w[:1]) < 16 && !bytes.Contains(present, w[:]) { // (zeros, and what is so today)
					found++
				}
				if handles[mailbox.Handle(w[:8])] {
					keys++
				}
			}
			for w := range old {
				if !bytes.Contains(present, w[:]) {
					gone++
				}
			}
			t.Logf("%s: %d bytes; of %d windows of old states %d are there, and %d of %d handles", when, len(disk), gone, found, keys, len(handles))
			if found > 0 || keys > 0 || gone < 1000 || len(handles) < 20 {
				t.Error("what must be forgotten is still there, or too little was looked for")
			}
			if when == "an hour later" {
				if err := kv.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
