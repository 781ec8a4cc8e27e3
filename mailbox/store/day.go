// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/crypto/chacha20poly1305"

	"tarn/internal/durable"
	"tarn/mailbox"
	kv "tarn/store"
)

// The rows of a day's database.
const (
	rowBox    = 'b' // handle 8 -> nonce 24, XChaCha20-Poly1305 (key of the day, associated data the handle) of: rest of the id 8, box 8208
	rowDigest = 'd' // bucket 8, handle 8 -> nothing
	rowCount  = 'n' // -> number of boxes, 8
)

const (
	restSize   = mailbox.IDSize - mailbox.HandleSize
	plainSize  = restSize + mailbox.BoxSize
	storedSize = chacha20poly1305.NonceSizeX + plainSize + chacha20poly1305.Overhead // 8,256
)

// day is the database of one expiry unit.
type day struct {
	unit  uint64
	dir   string // the key lies beside it, in dir + ".key"
	db    kv.KV
	aead  cipher.AEAD
	boxes int64 // changed by the one writer only
}

func (y *day) keyFile() string { return y.dir + ".key" }

// readKey reads the day's key; fs.ErrNotExist if there is none.
func (y *day) readKey() error {
	b, err := os.ReadFile(y.keyFile())
	if err != nil {
		return err
	}
	if len(b) != chacha20poly1305.KeySize {
		return fmt.Errorf("%w: %s has %d bytes, want %d", errDayKey, y.keyFile(), len(b), chacha20poly1305.KeySize)
	}
	y.aead, err = chacha20poly1305.NewX(b)
	return err
}

// create makes key and database, in this order: no box is ever on the disk without a key to destroy. Killed between
// the two, the key is used by the next create.
func (y *day) create(open func(string) (kv.KV, error)) error {
	err := y.readKey()
	if errors.Is(err, os.ErrNotExist) {
		key := make([]byte, chacha20poly1305.KeySize)
		rand.Read(key)
		if err = writeKey(y.keyFile(), key); err == nil {
			err = y.readKey()
		}
	}
	if err != nil {
		return err
	}
	if err := y.open(open); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(y.dir))
}

func (y *day) open(open func(string) (kv.KV, error)) error {
	db, err := open(y.dir)
	if err != nil {
		return err
	}
	err = db.View(func(r kv.Reader) error {
		y.boxes, err = count(r)
		return err
	})
	if err != nil {
		db.Close()
		return err
	}
	y.db = db
	return nil
}

func count(r kv.Reader) (int64, error) {
	v, err := r.Get([]byte{rowCount})
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err != nil || len(v) != 8 {
		return 0, errors.Join(err, errors.New("a row has an impossible size"))
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}

func boxKey(h mailbox.Handle) []byte { return append([]byte{rowBox}, h[:]...) }

func digestKey(bucket uint64, h mailbox.Handle) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{rowDigest}, bucket), h[:]...)
}

// put writes boxes[i] for the i of fresh, whose handles are not in any database, in one transaction.
func (y *day) put(bucket uint64, boxes []Box, fresh []int) error {
	err := y.db.Update(func(x kv.Txn) error {
		for _, i := range fresh {
			h := boxes[i].ID.Handle()
			if err := x.Set(boxKey(h), y.sealBox(boxes[i])); err != nil {
				return err
			}
			if err := x.Set(digestKey(bucket, h), nil); err != nil {
				return err
			}
		}
		return x.Set([]byte{rowCount}, binary.BigEndian.AppendUint64(nil, uint64(y.boxes+int64(len(fresh)))))
	})
	if err == nil {
		y.boxes += int64(len(fresh))
	}
	return err
}

func (y *day) sealBox(b Box) []byte {
	h := b.ID.Handle()
	v := make([]byte, chacha20poly1305.NonceSizeX+plainSize, storedSize)
	nonce, plain := v[:chacha20poly1305.NonceSizeX], v[chacha20poly1305.NonceSizeX:]
	rand.Read(nonce)
	copy(plain, b.ID[mailbox.HandleSize:])
	copy(plain[restSize:], b.Data[:])
	return y.aead.Seal(nonce, nonce, plain, h[:])
}

// openBox decrypts what get returned.
func (y *day) openBox(h mailbox.Handle, v []byte, box *[mailbox.BoxSize]byte) (id mailbox.BoxID, err error) {
	if len(v) != storedSize {
		return id, errors.New("a stored box has an impossible size")
	}
	plain, err := y.aead.Open(v[chacha20poly1305.NonceSizeX:chacha20poly1305.NonceSizeX], v[:chacha20poly1305.NonceSizeX], v[chacha20poly1305.NonceSizeX:], h[:])
	if err != nil {
		return id, errors.New("a stored box is damaged")
	}
	copy(id[:], h[:])
	copy(id[mailbox.HandleSize:], plain)
	copy(box[:], plain[restSize:])
	return id, nil
}

// get is the stored form of a box, or nil.
func (y *day) get(h mailbox.Handle) (v []byte, err error) {
	err = y.db.View(func(r kv.Reader) error {
		v, err = r.Get(boxKey(h))
		return err
	})
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

// compare calls fn for each of the boxes whose handle is in this database.
func (y *day) compare(boxes []Box, fn func(i int, identical bool)) error {
	return y.db.View(func(r kv.Reader) error {
		var box [mailbox.BoxSize]byte
		for i, b := range boxes {
			h := b.ID.Handle()
			v, err := r.Get(boxKey(h))
			if errors.Is(err, kv.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			// A damaged box counts as another one: its sender seals anew under another id, and nobody else's deposit fails.
			id, err := y.openBox(h, v, &box)
			fn(i, err == nil && sameBox(id, &box, b))
		}
		return nil
	})
}

func (y *day) handles(from, to uint64, fn func(mailbox.Handle) bool) (more bool, err error) {
	more = true
	err = y.db.View(func(r kv.Reader) error {
		return r.Scan([]byte{rowDigest}, digestKey(from, mailbox.Handle{}), func(k, _ []byte) (bool, error) {
			if len(k) != 1+8+mailbox.HandleSize {
				return false, errors.New("a row has an impossible size")
			}
			if binary.BigEndian.Uint64(k[1:]) >= to {
				return false, nil
			}
			more = fn(mailbox.Handle(k[9:]))
			return more, nil
		})
	})
	return more, err
}

// last is the newest bucket that the day has a box of.
func (y *day) last() (bucket uint64, ok bool, err error) {
	err = y.db.View(func(r kv.Reader) error {
		return r.ScanBack([]byte{rowDigest}, nil, func(k, _ []byte) (bool, error) {
			bucket, ok = binary.BigEndian.Uint64(k[1:]), true
			return false, nil
		})
	})
	return bucket, ok, err
}

func (y *day) close() error {
	if y.db == nil {
		return nil
	}
	db := y.db
	y.db = nil
	return db.Close()
}

// destroy closes the database and forgets it. Killed after a step, the next start goes on:
//
//  1. The key is destroyed: from here on the boxes are unreadable. (Start: a directory without a key is buried.)
//  2. The directory is renamed to *.dead. (Start: it is removed.)
//  3. It is removed.
func (y *day) destroy() error {
	err := y.close() // even when closing fails (a full disk), what is there must go
	if err2 := durable.Shred(y.keyFile()); err2 != nil {
		return fmt.Errorf("destroy the key of expired boxes: %w", errors.Join(err, err2))
	}
	return y.bury()
}

// bury deletes the directory; nothing is done if it is not there.
func (y *day) bury() error {
	dead := y.dir + deadSuffix
	if err := os.RemoveAll(dead); err != nil { // of an earlier unit of the same number (a clock that went back)
		return err
	}
	if err := os.Rename(y.dir, dead); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(y.dir)); err != nil {
		return err
	}
	return os.RemoveAll(dead)
}

// decoyOpen opens a box of nobody with a key of nobody, which is the work of a look-up that finds something.
func decoyOpen() {
	var v [storedSize]byte
	if aead, err := chacha20poly1305.NewX(v[:chacha20poly1305.KeySize]); err == nil {
		aead.Open(nil, v[:chacha20poly1305.NonceSizeX], v[chacha20poly1305.NonceSizeX:], nil) //nolint:errcheck // it fails, after the same work
	}
}

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
