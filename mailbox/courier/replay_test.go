// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/layered"
)

// tornFile is a disk that writes a part, and may not cut it off again.
type tornFile struct {
	markFile
	fails *failing
}

type failing struct{ write, sync, cut bool }

var errDisk = errors.New("the disk fails")

func (f tornFile) Write(b []byte) (int, error) {
	if f.fails.write {
		n, _ := f.markFile.Write(b[:len(b)/2+1])
		return n, errDisk
	}
	return f.markFile.Write(b)
}

func (f tornFile) Sync() error {
	if f.fails.sync {
		return errDisk
	}
	return f.markFile.Sync()
}

func (f tornFile) Truncate(n int64) error {
	if f.fails.cut {
		return errDisk
	}
	return f.markFile.Truncate(n)
}

// Who hands over as many layers as he can has not the whole day's for it.
func TestADaysLayersAreNotTakenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := openReplays("", 800, nil)
		if err != nil {
			t.Fatal(err)
		}
		day, next := uint32(time.Now().Unix()/86400), uint64(0)
		for _, want := range []int{100, 275, 450, 625, 800, 800} {
			for ok := true; ok; {
				var id [layered.IDSize]byte
				next++
				binary.BigEndian.PutUint64(id[:], next)
				ok = r.mark(day, id, func(bool) {}) == nil
			}
			if n := len(r.days[day].seen); n != want {
				t.Errorf("%v after midnight %d layers were peeled, want %d", time.Now().UTC().Format("15:04"), n, want)
			}
			time.Sleep(6 * time.Hour)
		}
	})
}

// A mark that was acknowledged is known after a restart, whatever writes failed before it.
func TestATornWriteForgetsNoMark(t *testing.T) {
	const day = 7
	for name, fails := range map[string]failing{"a part is written": {write: true}, "nothing is synced": {sync: true}, "and cannot be cut off": {write: true, cut: true}} {
		t.Run(name, func(t *testing.T) {
			dir, now := t.TempDir(), &failing{}
			alive := func(uint32) bool { return true }
			start := func() *replays {
				r, err := openReplays(dir, 1000, alive)
				if err != nil {
					t.Fatal(err)
				}
				r.open = func(name string) (markFile, error) {
					f, err := openMarks(name)
					return tornFile{f, now}, err
				}
				return r
			}
			next := uint64(0)
			mark := func(r *replays) (id [layered.IDSize]byte, ok bool) {
				next++
				binary.BigEndian.PutUint64(id[:], next)
				done := make(chan bool, 1)
				if err := r.mark(day, id, func(ok bool) { done <- ok }); err != nil {
					return id, false
				}
				return id, <-done
			}
			r := start()
			var kept [][layered.IDSize]byte
			keep := func(want bool) {
				t.Helper()
				id, ok := mark(r)
				if ok != want {
					t.Errorf("a mark: %v, want %v", ok, want)
				}
				if ok {
					kept = append(kept, id)
				}
			}
			keep(true)
			*now = fails
			keep(false)
			*now = failing{}
			keep(!fails.cut) // what follows a part that is still there would not be found
			keep(!fails.cut)
			r.close()
			r = start()
			defer r.close()
			for i, id := range kept {
				if err := r.mark(day, id, func(bool) {}); !errors.Is(err, errReplay) {
					t.Errorf("mark %d is forgotten: %v", i, err)
				}
			}
			keep(true)
		})
	}
}
