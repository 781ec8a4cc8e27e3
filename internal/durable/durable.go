// SPDX-License-Identifier: Apache-2.0

// Package durable writes files so that a crash leaves the old content or the new, never a mixture, and keeps two
// processes from one data directory.
//
// Problem: os.WriteFile may leave an empty or half-written file after a power loss, and two processes with one
// database destroy it. Invariants: when WriteFile returns nil, file and directory entry are on the disk; a lock
// ends with its process, however it ends; what Shred removed was overwritten before (on a file system that copies on
// write, or an SSD, old sectors may survive).
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrLocked: another process holds the directory.
var ErrLocked = errors.New("the directory is in use by another process")

// WriteFile replaces the file name by data: written beside it, synced, renamed over it, directory synced.
// A crash at any step leaves the old file or the new one (and perhaps a stray "*.tmp", overwritten next time).
func WriteFile(name string, data []byte, perm os.FileMode) error {
	tmp := name + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// SyncDir makes the directory's entries durable (file creation, rename and removal alone are not).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Shred overwrites a small file, syncs that, and removes the file, durably. A file that is not there is no error.
// A crash leaves the file whole, overwritten, or gone: the caller tries again.
func Shred(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, fi.Size()), 0)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(name))
}

// Lock holds dir for this process, by flock on dir/LOCK; ErrLocked if another process has it.
// The kernel lets go of it when the process ends, also after kill -9.
func Lock(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
		}
		return nil, err
	}
	return f.Close, nil
}
