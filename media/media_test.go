// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"tarn/matrix"
	"tarn/store"
)

const (
	alice = matrix.UserID("@alice:x")
	bob   = matrix.UserID("@bob:x")
)

func open(t testing.TB, dir string, kv store.KV, o Options) *Store {
	t.Helper()
	s, err := Open(dir, kv, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fresh(t testing.TB, o Options) *Store {
	kv := store.OpenMemory()
	t.Cleanup(func() { kv.Close() })
	return open(t, t.TempDir(), kv, o)
}

func upload(t testing.TB, s *Store, text string) string {
	t.Helper()
	id, err := s.Upload(alice, strings.NewReader(text), int64(len(text)), Meta{Type: "text/plain", Name: "a.txt"})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func read(t testing.TB, s *Store, id string) string {
	t.Helper()
	f, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil || int64(len(b)) != f.Size {
		t.Fatal(len(b), f.Size, err)
	}
	return string(b)
}

// files counts what lies in a folder of the store, folders not counted.
func files(t testing.TB, s *Store, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(s.dir, dir), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEqualFilesLieOnTheDiskOnceAndCountOnce(t *testing.T) {
	s := fresh(t, Options{})
	a, b := upload(t, s, "same"), upload(t, s, "same")
	c := upload(t, s, "other")
	if a == b {
		t.Error("two uploads have one id")
	}
	for id, want := range map[string]string{a: "same", b: "same", c: "other"} {
		if got := read(t, s, id); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if n := files(t, s, "blobs"); n != 2 {
		t.Errorf("%d files", n)
	}
	if n := files(t, s, "tmp"); n != 0 {
		t.Errorf("%d files in tmp", n)
	}
	if n, err := s.Used(); n != 9 || err != nil {
		t.Error(n, err)
	}
}

func TestManyAtOnceUploadTheSameFile(t *testing.T) {
	s := fresh(t, Options{})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			text := fmt.Sprint("file ", i%4)
			id, err := s.Upload(alice, strings.NewReader(text), -1, Meta{})
			if err != nil {
				t.Error(err)
				return
			}
			if got := read(t, s, id); got != text {
				t.Errorf("%q", got)
			}
		})
	}
	wg.Wait()
	if n, err := s.Used(); n != 24 || err != nil {
		t.Error(n, err)
	}
}

func TestUploadsAreBoundedAndLeaveNothingWhenTheyFail(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name   string
		r      io.Reader
		length int64
		want   error
	}{
		{"announced too large", strings.NewReader(strings.Repeat("x", 11)), 11, ErrTooLarge},
		{"too large without a word", strings.NewReader(strings.Repeat("x", 11)), -1, ErrTooLarge},
		{"endless", iotest.DataErrReader(neverEnding{}), -1, ErrTooLarge},
		{"cut", strings.NewReader("abc"), 5, ErrCut},
		{"longer than announced", strings.NewReader("abcdef"), 5, ErrCut},
		{"broken off", io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), -1, broken},
		{"over the quota by its announcement", strings.NewReader("abcdefg"), 7, ErrQuota},
		{"over the quota by its bytes", strings.NewReader("abcdefg"), -1, ErrQuota},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := fresh(t, Options{MaxUpload: 10, Quota: 12})
			kept := upload(t, s, "123456")
			if _, err := s.Upload(alice, c.r, c.length, Meta{}); !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if n := files(t, s, "tmp") + files(t, s, "blobs"); n != 1 {
				t.Errorf("%d files are left", n)
			}
			if n, err := s.Used(); n != 6 || err != nil {
				t.Error(n, err)
			}
			if read(t, s, kept) != "123456" {
				t.Error("the file that was there is another")
			}
			upload(t, s, "123456") // the same costs nothing
		})
	}
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

func TestTheDisksReserveIsKept(t *testing.T) {
	s := fresh(t, Options{Reserve: 1 << 60})
	if _, err := s.Upload(alice, strings.NewReader("x"), -1, Meta{}); !errors.Is(err, store.ErrDiskFull) {
		t.Fatal(err)
	}
}

func TestPlacesAreFilledOnceByTheirOwnerInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fresh(t, Options{})
		place := func() string {
			id, expires, err := s.Create(alice)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(expires); left < 23*time.Hour {
				t.Fatalf("a place lives for %v", left)
			}
			return id
		}
		fill := func(u matrix.UserID, id string) error {
			return s.Fill(u, id, strings.NewReader("later"), 5, Meta{})
		}
		id := place()
		if _, err := s.Get(ended(), id); !errors.Is(err, ErrNotYet) {
			t.Error(err)
		}
		if err := fill(bob, id); !errors.Is(err, ErrNotOwner) {
			t.Error(err)
		}
		if err := fill(alice, id); err != nil {
			t.Error(err)
		}
		if err := fill(alice, id); !errors.Is(err, ErrFilled) {
			t.Error(err)
		}
		if read(t, s, id) != "later" {
			t.Error("other content")
		}
		for _, unknown := range []string{newID(), "", "x", "../../db", strings.Repeat("A", 1000)} {
			if err := fill(alice, unknown); !errors.Is(err, ErrNotFound) {
				t.Error(unknown, err)
			}
			if _, err := s.Get(t.Context(), unknown); !errors.Is(err, ErrNotFound) {
				t.Error(unknown, err)
			}
		}
		late := place()
		time.Sleep(pendingLife)
		if err := fill(alice, late); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err := s.Get(t.Context(), late); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		// The ended one makes room.
		for range maxPending {
			place()
		}
		if _, _, err := s.Create(alice); !errors.Is(err, ErrPending) {
			t.Error(err)
		}
		if _, _, err := s.Create(bob); err != nil {
			t.Error("one user's places are another's: ", err)
		}
		time.Sleep(pendingLife)
		place()
	})
}

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestADownloadWaitsForItsUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fresh(t, Options{})
		id, _, err := s.Create(alice)
		if err != nil {
			t.Fatal(err)
		}
		var got [8]error
		var wg sync.WaitGroup
		for i := range got {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i)*time.Second)
			defer cancel()
			wg.Go(func() {
				var f *File
				if f, got[i] = s.Get(ctx, id); f != nil {
					f.Close()
				}
			})
		}
		time.Sleep(4500 * time.Millisecond)
		if err := s.Fill(alice, id, strings.NewReader("x"), 1, Meta{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wg.Wait()
		for i, err := range got {
			if want := i < 4; errors.Is(err, ErrNotYet) != want || err != nil != want {
				t.Errorf("patience of %d s: %v", i+1, err)
			}
		}
		if len(s.waiting) != 0 {
			t.Error("somebody is still waited for")
		}
	})
}

// TestOpenClearsAwayWhatACrashLeft makes what kill -9 leaves at each step of take.
func TestOpenClearsAwayWhatACrashLeft(t *testing.T) {
	kv := store.OpenMemory()
	defer kv.Close()
	dir := t.TempDir()
	s := open(t, dir, kv, Options{})
	kept := upload(t, s, "kept")
	put := func(text string) (string, string) {
		tmp, hash, _, err := s.receive(strings.NewReader(text), -1)
		if err != nil {
			t.Fatal(err)
		}
		return tmp, hash
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp", "half"), []byte("hal"), 0o600); err != nil { // in step 1
		t.Fatal(err)
	}
	put("after step 1")
	tmp, hash := put("after step 2")
	if err := s.name(tmp, hash); err != nil {
		t.Fatal(err)
	}
	put("kept") // after step 3: counted, and tmp still there
	s = open(t, dir, kv, Options{})
	if n := files(t, s, "tmp"); n != 0 {
		t.Errorf("%d files in tmp", n)
	}
	if n := files(t, s, "blobs"); n != 1 {
		t.Errorf("%d files in blobs", n)
	}
	if read(t, s, kept) != "kept" {
		t.Error("what was uploaded is gone")
	}
	if read(t, s, upload(t, s, "after step 2")) != "after step 2" {
		t.Error("the upload after the crash failed")
	}
}

func TestNamesAndTypesAreCleaned(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a.txt", "a.txt"}, {"../../etc/passwd", "passwd"}, {`C:\x\y.exe`, "y.exe"}, {"a\r\nSet-Cookie: x", "aSet-Cookie: x"},
		{"\u202egnp.exe", "gnp.exe"}, {"\xff\xfea", "a"}, {"Grüße 🎉.png", "Grüße 🎉.png"}, {"", ""},
		{strings.Repeat("ü", 200) + ".png", strings.Repeat("ü", 125) + ".png"},
	} {
		if got := CleanName(c.in); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
	const plain = "application/octet-stream"
	for _, c := range []struct{ in, want string }{
		{"image/png", "image/png"}, {"text/plain; charset=utf-8", "text/plain; charset=utf-8"}, {"", plain}, {"png", plain},
		{"image/png\r\nX: y", plain}, {"a/b/c", plain}, {"IMAGE/PNG", "image/png"}, {strings.Repeat("a", 200) + "/b", plain},
	} {
		if got := CleanType(c.in); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func BenchmarkUpload8MiB(b *testing.B) {
	kv, err := store.OpenNode(b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer kv.Close()
	s := open(b, b.TempDir(), kv, Options{Quota: 1 << 50})
	data := make([]byte, 8<<20)
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		n++
		copy(data, fmt.Sprint(n))
		if _, err := s.Upload(alice, bytes.NewReader(data), int64(len(data)), Meta{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRawFile8MiB is the limit: write and sync.
func BenchmarkRawFile8MiB(b *testing.B) {
	dir, data := b.TempDir(), make([]byte, 8<<20)
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		n++
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(n)))
		if err == nil {
			_, err = f.Write(data)
		}
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

// base64 passes over line breaks; an id with some in it would be another name of the same file.
func TestAnIDWithLineBreaksIsNone(t *testing.T) {
	id := EncodeID([16]byte{1, 2, 3})
	if b, ok := DecodeID(id); !ok || b != [16]byte{1, 2, 3} {
		t.Fatal(b, ok)
	}
	for _, bad := range []string{id + "\n", id[:5] + "\r" + id[5:], id[:21] + "\n", ""} {
		if _, ok := DecodeID(bad); ok || validID(bad) {
			t.Errorf("%q is an id", bad)
		}
	}
}
