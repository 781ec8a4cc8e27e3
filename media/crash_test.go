// SPDX-License-Identifier: Apache-2.0

package media

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tarn/store"
)

const childDir = "TARN_MEDIA_CHILD" // tells a re-executed test binary to upload into this directory until it is killed

// TestKilledWhileUploadingLosesNothing kills a process in the middle of uploads and deletions, some of them of equal files: what was
// acknowledged is there, whole, or gone, and nothing else is on the disk.
func TestKilledWhileUploadingLosesNothing(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		uploadUntilKilled(t, dir)
	}
	dir := t.TempDir()
	acked := map[string]string{} // id → what is in it; "": it was deleted
	for round := range 3 {
		child := exec.Command(os.Args[0], "-test.run", t.Name())
		child.Env = append(os.Environ(), childDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			id, text, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				t.Fatalf("the child: %s", lines.Text())
			}
			switch text {
			case "deleting": // and now it may be gone
				delete(acked, id)
			case "deleted":
				acked[id] = ""
			default:
				acked[id] = text
			}
			if n == 20+10*round {
				child.Process.Kill() // what is in the pipe still was acknowledged, and is read
			}
		}
		child.Wait()
	}
	kv, err := store.OpenNode(filepath.Join(dir, "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	s := open(t, dir, kv, Options{})
	gone := 0
	for id, text := range acked {
		if text == "" {
			gone++
			if _, err := s.Get(t.Context(), id); !errors.Is(err, ErrNotFound) {
				t.Errorf("a deleted file: %v", err)
			}
		} else if got := read(t, s, id); got != content(text) {
			t.Fatalf("the file %s has %d bytes", text, len(got))
		}
	}
	var counted, used int64
	err = kv.View(func(r store.Reader) error {
		return r.Scan([]byte{tableBlob}, nil, func(_, v []byte) (bool, error) {
			n, err := number(v)
			counted, used = counted+1, used+n
			return true, err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := files(t, s, "blobs"); int64(n) != counted {
		t.Errorf("%d files lie there, %d count", n, counted)
	}
	if n, err := s.Used(); n != used || err != nil {
		t.Errorf("%d bytes are counted, %d are there: %v", n, used, err)
	}
	t.Logf("%d uploads and %d deletions acknowledged, %d files", len(acked), gone, counted)
	if gone == 0 {
		t.Error("no deletion was acknowledged")
	}
}

// content is a file of some size that its name tells.
func content(name string) string { return strings.Repeat(name+"\n", 1000) }

func uploadUntilKilled(t *testing.T, dir string) {
	kv, err := store.OpenNode(filepath.Join(dir, "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, kv, Options{})
	for worker := range 4 {
		go func() {
			for i := 0; ; i++ {
				text := fmt.Sprintf("%d-%d-%d", os.Getpid(), worker%3, i) // two workers upload equal files
				id, err := s.Upload(alice, strings.NewReader(content(text)), -1, Meta{})
				if err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				fmt.Println(id + " " + text)
				if i%3 != 0 {
					continue
				}
				fmt.Println(id + " deleting")
				if err := s.Delete(id); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				fmt.Println(id + " deleted")
			}
		}()
	}
	select {}
}
