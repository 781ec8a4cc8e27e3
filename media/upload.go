// SPDX-License-Identifier: Apache-2.0

package media

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"tarn/internal/durable"
	"tarn/matrix"
	"tarn/store"
)

// Upload stores what r gives, length bytes of it (-1: it is not known), as a new file of user, and returns its id.
// ErrTooLarge, ErrQuota, ErrCut, store.ErrDiskFull; nothing is left of an upload that fails.
func (s *Store) Upload(user matrix.UserID, r io.Reader, length int64, m Meta) (id string, err error) {
	id = newID()
	return id, s.take(taking{user: user, id: id}, r, length, m)
}

// Fill is Upload into a place that Create made. ErrNotFound, ErrNotOwner, ErrFilled.
func (s *Store) Fill(user matrix.UserID, id string, r io.Reader, length int64, m Meta) error {
	if !validID(id) {
		return ErrNotFound
	}
	if err := s.kv.View(func(rd store.Reader) error { return mayFill(rd, user, id) }); err != nil {
		return err // before a single byte is read
	}
	if err := s.take(taking{user: user, id: id, place: true}, r, length, m); err != nil {
		return err
	}
	s.wake(id, nil)
	s.uploaded(id)
	return nil
}

func mayFill(r store.Reader, user matrix.UserID, id string) error {
	m, err := load(r, id)
	switch {
	case err != nil:
		return err
	case m.User != user:
		return ErrNotOwner
	case m.Hash != "":
		return ErrFilled
	case time.Now().UnixMilli() >= m.Expires:
		return ErrNotFound
	}
	return nil
}

// taking says for what take takes a file.
type taking struct {
	user  matrix.UserID
	id    string
	place bool              // that Create made
	from  matrix.ServerName // of another server's file
	hash  string            // what its SHA-256 must be, if it is known
}

// take is the one way in. What a crash leaves, step by step:
//
//  1. tmp/<random> is written and synced. A crash: Open deletes it.
//  2. It gets a second name, blobs/ab/<hash>, whose directory is synced. A crash: Open finds tmp/<random>, computes the hash
//     again, sees that no row counts the file, and deletes both names.
//  3. One transaction: the id's row, the blob's row, the total. Now it is uploaded: a crash loses nothing. The
//     client that got no answer uploads again, which costs a row.
//  4. tmp/<random> is deleted. A crash before: Open deletes that name; the blob's row protects the file.
//
// After a power loss on a file system that orders the names of two directories differently, step 2 may leave a file that no
// row counts: it costs space and is used by the next upload of the same file.
func (s *Store) take(t taking, r io.Reader, length int64, m Meta) error {
	if length > s.opt.MaxUpload {
		return ErrTooLarge
	}
	if used, err := s.Used(); err != nil {
		return err
	} else if used+max(length, 0) > s.opt.Quota {
		return ErrQuota
	}
	if err := s.free(max(length, 0)); err != nil {
		return err
	}
	tmp, hash, size, err := s.receive(r, length)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if t.hash != "" && t.hash != hash {
		return errHash
	}

	lock := s.lock(hash)
	lock.Lock()
	defer lock.Unlock()
	if err := s.name(tmp, hash); err != nil {
		return err
	}
	err = s.kv.Update(func(txn store.Txn) error {
		if t.place {
			if err := mayFill(txn, t.user, t.id); err != nil {
				return err
			}
			if err := txn.Delete(pendingKey(t.user, t.id)); err != nil {
				return err
			}
		}
		if t.from != "" {
			if err := s.cameFrom(txn, t, size); err != nil {
				return err
			}
		}
		known, err := hasBlob(txn, hash)
		if err != nil {
			return err
		}
		if !known {
			used, err := total(txn)
			if err != nil {
				return err
			}
			if used+size > s.opt.Quota {
				return ErrQuota
			}
			if err := errors.Join(txn.Set(store.Key(tableTotal), store.AppendUint64(nil, uint64(used+size))),
				txn.Set(blobKey(hash), store.AppendUint64(nil, uint64(size)))); err != nil {
				return err
			}
		}
		return save(txn, t.id, row{User: t.user, Hash: hash, Size: size, Type: CleanType(m.Type), Name: CleanName(m.Name)})
	})
	if err != nil {
		return errors.Join(err, s.dropUncounted(hash))
	}
	return nil
}

func (s *Store) lock(hash string) interface {
	Lock()
	Unlock()
} {
	return &s.hashes[(hash[0]^hash[1]<<3)%byte(len(s.hashes))]
}

// checkFree is after how many bytes of an upload the disk is looked at again.
const checkFree = 4 << 20

// receive writes r into a synced file in tmp/.
func (s *Store) receive(r io.Reader, length int64) (name, hash string, size int64, err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "tmp", newID()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", "", 0, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(f.Name())
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				err = store.ErrDiskFull
			}
		}
	}()
	sum := sha256.New()
	both := io.MultiWriter(f, sum)
	for {
		n, err := io.CopyN(both, r, min(checkFree, s.opt.MaxUpload+1-size))
		size += n
		if size > s.opt.MaxUpload {
			return "", "", 0, ErrTooLarge
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", "", 0, err
		}
		if err := s.free(0); err != nil {
			return "", "", 0, err
		}
	}
	if length >= 0 && size != length {
		return "", "", 0, ErrCut
	}
	return f.Name(), hex.EncodeToString(sum.Sum(nil)), size, f.Sync()
}

// name gives the file tmp its lasting name. One that has it already has the same content.
func (s *Store) name(tmp, hash string) error {
	to := s.blob(hash)
	dir := filepath.Dir(to)
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	if err := os.Link(tmp, to); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}

// dropUncounted deletes a file that no row counts. The caller holds its lock.
func (s *Store) dropUncounted(hash string) error {
	return s.kv.View(func(r store.Reader) error {
		known, err := hasBlob(r, hash)
		if err != nil || known {
			return err
		}
		if err := os.Remove(s.blob(hash)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// DropUncounted deletes the files in a folder of media that no row counts: a backup can hold such.
func DropUncounted(dir string, kv store.KV) error {
	s := &Store{dir: dir, kv: kv}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "*"))
	for _, b := range blobs {
		err = errors.Join(err, s.dropUncounted(filepath.Base(b)))
	}
	return err
}

// clear ends what a crash broke off: see take. It costs as much as there were uploads under way.
func (s *Store) clear() error {
	left, err := filepath.Glob(filepath.Join(s.dir, "tmp", "*"))
	if err != nil {
		return err
	}
	for _, name := range left {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		f.Close()
		if err == nil {
			err = s.dropUncounted(hex.EncodeToString(sum.Sum(nil)))
		}
		if err == nil {
			err = os.Remove(name)
		}
		if err != nil {
			return fmt.Errorf("media: clearing away an upload: %w", err)
		}
	}
	return nil
}

// CleanType is a content type that may stand in a header: well-formed, not too long; else application/octet-stream,
// the default of the C-S API.
func CleanType(t string) string {
	const plain = "application/octet-stream"
	if len(t) > maxType {
		return plain
	}
	base, params, err := mime.ParseMediaType(t)
	if err != nil || strings.Count(base, "/") != 1 {
		return plain
	}
	if t = mime.FormatMediaType(base, params); t == "" || len(t) > maxType {
		return plain
	}
	return t
}

// CleanName is a file name without folders, control and direction characters, at most 255 bytes of valid UTF-8.
func CleanName(name string) string {
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, name)
	if len(name) > maxName {
		// The end is what tells a file's kind.
		cut := len(name) - maxName
		for cut < len(name) && name[cut]&0xc0 == 0x80 {
			cut++
		}
		name = name[cut:]
	}
	return name
}
