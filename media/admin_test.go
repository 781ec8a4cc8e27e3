// SPDX-License-Identifier: Apache-2.0

package media

import (
	"errors"
	"io"
	"testing"
)

func TestDeletedFilesAreGoneAndTheirSpaceIsFree(t *testing.T) {
	s := fresh(t, Options{})
	one, other, third := upload(t, s, "a file"), upload(t, s, "a file"), upload(t, s, "another")
	used, _ := s.Used()
	f, err := s.Get(t.Context(), one) // is being downloaded
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Delete(one); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), one); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted file: %v", err)
	}
	if err := s.Delete(one); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted again: %v", err)
	}
	if n, _ := s.Used(); n != used || read(t, s, other) != "a file" {
		t.Errorf("%d bytes of %d are used: another file has the same content", n, used)
	}
	if err := s.Delete(other); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.Used(); n != int64(len("another")) || files(t, s, "blobs") != 1 || files(t, s, "tmp") != 0 {
		t.Errorf("%d bytes are used, %d files lie there, %d in tmp", n, files(t, s, "blobs"), files(t, s, "tmp"))
	}
	if b, err := io.ReadAll(f); string(b) != "a file" || err != nil {
		t.Errorf("the download that was under way: %q %v", b, err)
	}
	if again := upload(t, s, "a file"); read(t, s, again) != "a file" { // as if it had never been there
		t.Error("it cannot be uploaded again")
	}
	all, err := s.List("")
	if err != nil || len(all) != 2 {
		t.Errorf("%v %v", all, err)
	}
	if mine, err := s.List("@stranger:x"); err != nil || len(mine) != 0 {
		t.Errorf("%v %v", mine, err)
	}
	if read(t, s, third) != "another" {
		t.Error("the third file")
	}
}

func TestDeletingAPlaceMakesRoomForAnother(t *testing.T) {
	s := fresh(t, Options{})
	var ids []string
	for range maxPending {
		id, _, err := s.Create(alice)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if _, _, err := s.Create(alice); !errors.Is(err, ErrPending) {
		t.Fatal(err)
	}
	if err := s.Delete(ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Create(alice); err != nil {
		t.Error(err)
	}
	if err := s.Delete("no id"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestDeletingAPictureTakesItsThumbnails(t *testing.T) {
	s := fresh(t, Options{})
	id := put(t, s, asPNG(t, flag(64, 64)))
	f, err := s.Thumbnail(t.Context(), file(t, s, id), 32, 32, true, false)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if files(t, s, "thumbs") != 1 {
		t.Fatal("no thumbnail was kept")
	}
	if err := s.Delete(id); err != nil || files(t, s, "thumbs") != 0 {
		t.Errorf("%d thumbnails are left: %v", files(t, s, "thumbs"), err)
	}
}
