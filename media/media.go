// SPDX-License-Identifier: Apache-2.0

// Package media keeps the files that users upload: pictures, voices, attachments of encrypted rooms.
//
// Problem: files are large, come from anybody, are asked for by people who were only sent their name, and must be
// there after a crash once the upload was answered. A decoder that makes a thumbnail of a hostile file may need
// a thousand times the file's size.
//
// Invariants:
//   - An upload that was answered is on the disk, file and row (upload.go says what a crash at each step leaves).
//   - Equal files lie on the disk once. A file never changes after it has its name.
//   - No upload exceeds Options.MaxUpload, all files together never Options.Quota, and Options.Reserve stays free.
//   - Ids are 128 random bits: who was not told one cannot find a file, and ids tell neither time nor number.
//   - One picture is decoded at a time, and none that would need more than decodeMemory.
//
// Data: rows in tables 0x70..0x7f of the node's database (rows.go); beside it one directory:
//
//	blobs/ab/ab12…   a file, named by its SHA-256 in hexadecimal
//	thumbs/          thumbnails, made when asked for; may be deleted at any time
//	tmp/             uploads under way; emptied at Open
//
// Limits: nothing is ever deleted but by the operator (Delete), and what was not finished. Files are not encrypted at rest: those of encrypted rooms are
// ciphertext already, the others are as readable as the events in the database beside them (docs/THREATS.md).
//
// Files of other servers (remote.go), and ours that others ask for (going.go), are here as rows that say what is asked, what came, and
// what was given; package replicate carries it, at its own times. Nothing here reaches the network.
package media

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Errors of this package; clientapi gives them their errcodes.
var (
	// ErrNotFound: there is no such file, or its place was not filled in time.
	ErrNotFound = errors.New("media: no such file")
	// ErrTooLarge: the file exceeds Options.MaxUpload.
	ErrTooLarge = errors.New("media: the file is too large")
	// ErrQuota: all files together would exceed Options.Quota.
	ErrQuota = errors.New("media: the node's space for files is used up")
	// ErrFilled: the place has its file already.
	ErrFilled = errors.New("media: the file was uploaded already")
	// ErrNotOwner: the place was made by another user.
	ErrNotOwner = errors.New("media: the place belongs to another user")
	// ErrNotYet: the place was made and nothing was uploaded into it.
	ErrNotYet = errors.New("media: the file was not uploaded yet")
	// ErrPending: the user has maxPending places without a file.
	ErrPending = errors.New("media: too many places wait for their file")
	// ErrNoThumbnail: the file is no picture that can be decoded.
	ErrNoThumbnail = errors.New("media: no thumbnail can be made of this file")
	// ErrHuge: to decode the picture would take too much memory.
	ErrHuge = errors.New("media: the picture is too large")
	// ErrCut: the upload ended before its announced length.
	ErrCut = errors.New("media: the upload did not arrive whole")
	// ErrUnreached: a file of another server is not here, and that server cannot be asked.
	ErrUnreached = errors.New("media: the file's server cannot be asked")
	// ErrUnasked: a part or a description of a file that is not asked for, or not that part of it.
	ErrUnasked = errors.New("media: nothing that was asked for")
	errRow     = errors.New("media: a row is damaged")
	errHash    = errors.New("media: the file is not the one that was described")
)

// Defaults of Options, in bytes.
const (
	DefaultMaxUpload = 50 << 20
	DefaultQuota     = 10 << 30

	DefaultRemoteMax   = 8 << 20
	DefaultRemoteQuota = 1 << 30
)

const (
	pendingLife = 24 * time.Hour // of a place without a file (C-S API, POST /media/v1/create: "at least 24 hours")
	maxPending  = 100            // places without a file, a user
	maxName     = 255            // bytes of a file's name
	maxType     = 127            // bytes of a content type
)

// Options of the files. Zero values are the defaults.
type Options struct {
	MaxUpload int64 // bytes of a file
	Quota     int64 // bytes of all files; thumbnails not counted
	Reserve   int64 // bytes of the disk that stay free

	RemoteMax   int64 // bytes of a file that is taken from another server, or given to one; not more than MaxUpload
	RemoteQuota int64 // bytes of all files of one other server
}

// Store holds the files. Safe for concurrent use. It starts no goroutine and keeps no file open.
type Store struct {
	dir string
	kv  store.KV
	opt Options

	// hashes serialise what happens to one file's name and row; held while both are written.
	hashes [64]sync.Mutex
	// decoding has one place: who holds it decodes a picture.
	decoding chan struct{}

	mu      sync.Mutex               // guards waiting, for moments
	waiting map[string]chan struct{} // by id: closed when the place gets its file

	remote remote // files between servers
}

// Open makes the directory if it is not there, and clears away what a crash left half-done. kv stays the caller's.
func Open(dir string, kv store.KV, o Options) (*Store, error) {
	if o.MaxUpload <= 0 {
		o.MaxUpload = DefaultMaxUpload
	}
	if o.Quota <= 0 {
		o.Quota = DefaultQuota
	}
	if o.RemoteMax <= 0 {
		o.RemoteMax = DefaultRemoteMax
	}
	o.RemoteMax = min(o.RemoteMax, o.MaxUpload)
	if o.RemoteQuota <= 0 {
		o.RemoteQuota = DefaultRemoteQuota
	}
	s := &Store{dir: dir, kv: kv, opt: o, decoding: make(chan struct{}, 1), waiting: map[string]chan struct{}{}}
	for _, d := range []string{"blobs", "thumbs", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	if err := s.clear(); err != nil {
		return nil, err
	}
	return s, s.loadRemote()
}

// MaxUpload is the greatest file, in bytes.
func (s *Store) MaxUpload() int64 { return s.opt.MaxUpload }

// Used is how many bytes all files take.
func (s *Store) Used() (n int64, err error) {
	err = s.kv.View(func(r store.Reader) error {
		n, err = total(r)
		return err
	})
	return n, err
}

// Meta is what an uploader says of a file. Nothing of it is checked against the file.
type Meta struct {
	Type string // as in Content-Type; "": application/octet-stream
	Name string // may be ""
}

// File is an uploaded file, open for reading; the caller closes it.
type File struct {
	*os.File
	Meta
	Size int64
	Hash string // SHA-256, hexadecimal: what an ETag can be
}

// newID is a name that nobody can guess.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// validID says whether id can be one of ours; others are never looked up.
func validID(id string) bool {
	_, ok := DecodeID(id)
	return ok
}

// Create makes a place for a file that user will upload until expires (C-S API, POST /media/v1/create). Places that
// were never filled are forgotten here.
func (s *Store) Create(user matrix.UserID) (id string, expires time.Time, err error) {
	id, now := newID(), time.Now()
	expires = now.Add(pendingLife)
	err = s.kv.Update(func(txn store.Txn) error {
		n, err := expirePending(txn, user, now)
		if err != nil {
			return err
		}
		if n >= maxPending {
			return ErrPending
		}
		if err := txn.Set(pendingKey(user, id), store.AppendUint64(nil, uint64(expires.UnixMilli()))); err != nil {
			return err
		}
		return save(txn, id, row{User: user, Expires: expires.UnixMilli()})
	})
	return id, expires, err
}

// Get opens a file. If its place is empty yet, Get waits for the upload until ctx ends: ErrNotYet.
func (s *Store) Get(ctx context.Context, id string) (*File, error) {
	for {
		filled, forget := s.await(id) // before the look, so that no upload slips between
		f, err := s.get(id)
		if !errors.Is(err, ErrNotYet) {
			forget()
			return f, err
		}
		select {
		case <-filled:
		case <-ctx.Done():
			forget()
			return nil, ErrNotYet
		}
	}
}

func (s *Store) get(id string) (*File, error) {
	if !validID(id) {
		return nil, ErrNotFound
	}
	return s.open(id)
}

func (s *Store) open(id string) (*File, error) {
	m, err := s.row(id)
	if err != nil {
		return nil, err
	}
	if m.Hash == "" {
		if time.Now().UnixMilli() >= m.Expires {
			return nil, ErrNotFound
		}
		return nil, ErrNotYet
	}
	f, err := os.Open(s.blob(m.Hash))
	if errors.Is(err, fs.ErrNotExist) { // deleted while a backup was made, which was restored
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &File{File: f, Meta: Meta{m.Type, m.Name}, Size: m.Size, Hash: m.Hash}, nil
}

// row reads an id's, or that of another server's file; ErrNotFound.
func (s *Store) row(id string) (m row, err error) {
	if _, remote := parseRemote(id); !remote && !validID(id) {
		return m, ErrNotFound
	}
	err = s.kv.View(func(r store.Reader) error {
		m, err = load(r, id)
		return err
	})
	return m, err
}

// await gives a channel that closes when id gets its file. forget it if it is not waited for.
func (s *Store) await(id string) (filled <-chan struct{}, forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.waiting[id]
	if c != nil {
		return c, func() {} // whoever made it forgets it; late ones look again at the next upload or time out
	}
	c = make(chan struct{})
	s.waiting[id] = c
	return c, func() { s.wake(id, c) }
}

// wake lets all who wait for id look again.
func (s *Store) wake(id string, only chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.waiting[id]; c != nil && (only == nil || only == c) {
		delete(s.waiting, id)
		close(c)
	}
}

func (s *Store) blob(hash string) string { return filepath.Join(s.dir, "blobs", hash[:2], hash) }

// free says whether n more bytes fit beside the reserve.
func (s *Store) free(n int64) error {
	var f syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &f); err != nil {
		return err
	}
	if int64(f.Bavail)*f.Bsize < s.opt.Reserve+n {
		return store.ErrDiskFull
	}
	return nil
}
