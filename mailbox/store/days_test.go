// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarn/internal/durable"
	"tarn/mailbox"
	kv "tarn/store"
)

func newTestBox() Box {
	b := Box{Data: new([mailbox.BoxSize]byte)}
	rand.Read(b.ID[:])
	rand.Read(b.Data[:])
	return b
}

func newBoxes(n int) []Box {
	bs := make([]Box, n)
	for i := range bs {
		bs[i] = newTestBox()
	}
	return bs
}

func openTestDays(t testing.TB, dir string) *Days {
	t.Helper()
	d, err := OpenDays(DaysConfig{Dir: dir, Unit: time.Hour, Quota: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func putAll(t testing.TB, e Engine, bucket uint64, expires time.Time, boxes ...Box) {
	t.Helper()
	errs := make([]error, len(boxes))
	if err := errors.Join(append(errs, e.Put(bucket, expires, boxes, errs))...); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func closeAll(t testing.TB, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func holds(t testing.TB, e Engine, b Box) bool {
	t.Helper()
	var got [mailbox.BoxSize]byte
	found, err := e.Get(b.ID.Handle(), &got)
	if err != nil {
		t.Fatal(err)
	}
	return found && got == *b.Data
}

func TestBoxesAndCountsOutliveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "days")
	d := openTestDays(t, dir)
	old, young := newTestBox(), newTestBox()
	putAll(t, d, 7, noon, old)
	putAll(t, d, 9, noon.Add(3*time.Hour), young)
	u := d.Usage()
	closeAll(t, d)
	d = openTestDays(t, dir)
	defer closeAll(t, d)
	if !holds(t, d, old) || !holds(t, d, young) || d.Usage() != u {
		t.Errorf("%+v, was %+v", d.Usage(), u)
	}
	if last, ok, err := d.Last(); last != 9 || !ok || err != nil {
		t.Errorf("last %d, %v, %v", last, ok, err)
	}
	putAll(t, d, 9, noon.Add(3*time.Hour), young) // identical: still nil
	if err := d.Expire(noon.Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if holds(t, d, old) || !holds(t, d, young) || d.Usage().Boxes != 1 {
		t.Error("expiry after the restart")
	}
}

// Whoever takes the disk finds neither a box nor, once it has expired, the key to it.
func TestDiskHoldsNoBoxInClearAndNoKeyOfExpiredOnes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "days")
	d := openTestDays(t, dir)
	b := newTestBox()
	putAll(t, d, 7, noon, b)
	unit := unitOf(noon, time.Hour)
	key, err := os.ReadFile(d.day(unit).keyFile())
	if err != nil {
		t.Fatal(err)
	}
	find := func(what []byte) (found int) {
		err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			c, err := os.ReadFile(name)
			if bytes.Contains(c, what) {
				found++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	h := b.ID.Handle()
	if find(key) != 1 || find(h[:]) == 0 {
		t.Error("the search finds nothing: it is broken")
	}
	if n := find(b.Data[:64]) + find(b.ID[:]); n != 0 {
		t.Errorf("the box or its whole id lies in clear in %d files", n)
	}
	if err := d.Expire(noon.Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := find(key) + find(h[:]); n != 0 {
		t.Errorf("key or handle of an expired box in %d files", n)
	}
	closeAll(t, d)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Each step of expiry and creation is a place where the process may be killed.
func TestInterruptedExpiryIsFinishedAtStart(t *testing.T) {
	now := noon
	dayDir := func(d *Days) string { return d.day(unitOf(now, time.Hour)).dir }
	for name, interrupt := range map[string]func(t *testing.T, dir string) (gone bool){
		"the key is destroyed": func(t *testing.T, dir string) bool {
			must(t, os.Remove(dir+".key"))
			return true
		},
		"the key is overwritten, not removed, and the directory is renamed": func(t *testing.T, dir string) bool {
			must(t, os.WriteFile(dir+".key", make([]byte, 32), 0o600))
			must(t, os.Rename(dir, dir+deadSuffix))
			return true
		},
		"half of the directory is deleted": func(t *testing.T, dir string) bool {
			must(t, os.Remove(dir+".key"))
			must(t, os.Rename(dir, dir+deadSuffix))
			must(t, os.Remove(filepath.Join(dir+deadSuffix, "MANIFEST")))
			return true
		},
		"a key was half written": func(t *testing.T, dir string) bool {
			must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "99.key.tmp"), []byte("half"), 0o600))
			return false
		},
		"a key without a database": func(t *testing.T, dir string) bool {
			must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "99.key"), make([]byte, 32), 0o600))
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "days")
			d := openTestDays(t, dir)
			b := newTestBox()
			putAll(t, d, 7, now, b)
			closeAll(t, d)
			gone := interrupt(t, dayDir(d))
			d = openTestDays(t, dir)
			defer closeAll(t, d)
			if holds(t, d, b) == gone {
				t.Errorf("box there: %v", !gone)
			}
			entries, err := os.ReadDir(dir)
			must(t, err)
			for _, e := range entries {
				if strings.HasSuffix(e.Name(), deadSuffix) || strings.HasSuffix(e.Name(), ".tmp") {
					t.Errorf("%s is left", e.Name())
				}
			}
			fresh := newTestBox()
			putAll(t, d, 8, now, fresh)
			if !holds(t, d, fresh) {
				t.Error("of no use afterwards")
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsAnErrorNotAnotherBox(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "days")
	d := openTestDays(t, dir)
	b := newTestBox()
	putAll(t, d, 7, noon, b)
	y := d.live[0]
	closeAll(t, d)

	key, err := os.ReadFile(y.keyFile())
	must(t, err)
	must(t, os.WriteFile(y.keyFile(), key[:31], 0o600))
	if _, err := OpenDays(DaysConfig{Dir: dir, Unit: time.Hour, Quota: 1 << 40}); !errors.Is(err, errDayKey) {
		t.Errorf("a short key: %v", err)
	}
	key[0] ^= 1
	must(t, os.WriteFile(y.keyFile(), key, 0o600))
	d = openTestDays(t, dir)
	defer closeAll(t, d)
	var box [mailbox.BoxSize]byte
	if found, err := d.Get(b.ID.Handle(), &box); err == nil || found {
		t.Error("a box under a wrong key is no error")
	}
	errs := make([]error, 2)
	if err := d.Put(8, noon, []Box{b, newTestBox()}, errs); err != nil || !errors.Is(errs[0], mailbox.ErrExists) || errs[1] != nil {
		t.Errorf("a rewrite of a damaged box beside another: %v, %v", err, errs)
	}
}

// brokenKV fails its Updates with err while broken is set.
type brokenKV struct {
	kv.KV
	err *error
}

func (b brokenKV) Update(fn func(kv.Txn) error) error {
	if *b.err != nil {
		return *b.err
	}
	return b.KV.Update(fn)
}

func TestFullDiskIsFullAndABrokenOneIsAnError(t *testing.T) {
	var broken error
	d, err := OpenDays(DaysConfig{Dir: filepath.Join(t.TempDir(), "days"), Unit: time.Hour, Quota: 1 << 40,
		Open: func(string) (kv.KV, error) { return brokenKV{kv.OpenMemory(), &broken}, nil }})
	must(t, err)
	defer closeAll(t, d)
	first := newTestBox()
	putAll(t, d, 1, noon, first)
	errs := make([]error, 2)
	boxes := []Box{first, newTestBox()}
	for _, broken = range []error{kv.ErrDiskFull, &fs.PathError{Op: "write", Err: syscall.ENOSPC}} {
		if err := d.Put(1, noon, boxes, errs); err != nil || errs[0] != nil || !errors.Is(errs[1], mailbox.ErrFull) {
			t.Errorf("%v: %v, %v", broken, err, errs)
		}
	}
	broken = errors.New("broken")
	if err := d.Put(1, noon, boxes, errs); !errors.Is(err, broken) {
		t.Errorf("a broken disk: %v", err)
	}
	broken = nil
	putAll(t, d, 1, noon, boxes...)
	if d.Usage().Boxes != 2 || !holds(t, d, boxes[1]) {
		t.Errorf("after it recovered: %+v", d.Usage())
	}
}

func TestTwoProcessesOnOneDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "days")
	d := openTestDays(t, dir)
	defer closeAll(t, d)
	putAll(t, d, 1, noon, newTestBox())
	if _, err := OpenDays(DaysConfig{Dir: dir, Unit: time.Hour, Quota: 1 << 40}); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// slowClose is a database that takes its time to close.
type slowClose struct {
	kv.KV
	closing, leave chan struct{}
}

func (s slowClose) Close() error {
	close(s.closing)
	<-s.leave
	return s.KV.Close()
}

// Deposits do not wait while a day is deleted; one that falls into that very day, for the clock went back, is not acknowledged.
func TestDepositsGoOnWhileADayIsDeleted(t *testing.T) {
	slow := slowClose{closing: make(chan struct{}), leave: make(chan struct{})}
	n := 0
	d, err := OpenDays(DaysConfig{Dir: filepath.Join(t.TempDir(), "days"), Unit: time.Hour, Quota: 1 << 40, Open: func(dir string) (kv.KV, error) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if n++; n > 1 {
			return kv.OpenMemory(), nil
		}
		slow.KV = kv.OpenMemory()
		return slow, nil
	}})
	must(t, err)
	defer closeAll(t, d)
	old, young := newTestBox(), newTestBox()
	putAll(t, d, 1, noon, old)
	expired := make(chan error, 1)
	go func() { expired <- d.Expire(noon.Add(2 * time.Hour)) }()
	<-slow.closing
	putAll(t, d, 2, noon.Add(5*time.Hour), young)
	if err := d.Put(2, noon, []Box{newTestBox()}, make([]error, 1)); err == nil {
		t.Error("a box was kept under a key that is being destroyed")
	}
	if holds(t, d, old) || !holds(t, d, young) {
		t.Error("while the day is deleted: the old box is there, or the young one is not")
	}
	close(slow.leave)
	must(t, <-expired)
	again := newTestBox()
	putAll(t, d, 2, noon, again) // its unit can be made anew
	if !holds(t, d, again) {
		t.Error("of no use afterwards")
	}
}
