// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const childDir = "TARN_STORE_CRASH_DIR" // tells a re-executed test binary to be the process that gets killed

const (
	crashWriters = 6
	crashBig     = 4000 // rows of a large update: more than one Badger transaction takes
)

// TestCrashChild is not a test: it writes and acknowledges on stdout until it is killed.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("only for TestKilledProcessLosesNothing")
	}
	shape := Rows
	if strings.HasSuffix(dir, "Blocks") {
		shape = Blocks
	}
	b, err := OpenBadger(dir, Options{Shape: shape})
	if err != nil {
		t.Fatal(err)
	}
	round := os.Getenv(childDir + "_ROUND")
	var out sync.Mutex
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%06d", round, w, i)
				big := w == 0 && i%4 == 3
				if err := b.Update(func(x Txn) error { return crashWrite(x, id, big) }); err != nil {
					t.Error(err)
					return
				}
				out.Lock()
				fmt.Printf("ack %s %v\n", id, big)
				out.Unlock()
			}
		})
	}
	wg.Wait()
}

// crashWrite writes two rows, small and large, that are to be there both or not at all; or very many.
func crashWrite(x Txn, id string, big bool) error {
	if big {
		for j := range crashBig {
			if err := x.Set(fmt.Appendf(nil, "big/%s/%05d", id, j), bytes.Repeat([]byte{7}, 150)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := x.Set([]byte("a/"+id), []byte(id)); err != nil {
		return err
	}
	return x.Set([]byte("b/"+id), bytes.Repeat([]byte(id), 500))
}

// TestKilledProcessLosesNothing: a process is killed with SIGKILL in the middle of its writing, several times over;
// each time everything that it had acknowledged is there, and nothing is there in part.
func TestKilledProcessLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("seconds of writing")
	}
	for name, shape := range map[string]Shape{"Rows": Rows, "Blocks": Blocks} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() + name
			t.Cleanup(func() { os.RemoveAll(dir) })
			acked := map[string]bool{}
			for round := range 3 {
				runAndKill(t, dir, round, acked)
				begin := time.Now()
				b, err := OpenBadger(dir, Options{Shape: shape})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("round %d: %d acknowledged in all, opened in %v", round, len(acked), time.Since(begin))
				checkCrash(t, b, acked)
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// runAndKill starts a child and kills it after some hundred acknowledgements, which it adds to acked.
func runAndKill(t *testing.T, dir string, round int, acked map[string]bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.v")
	cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s_ROUND=%d", childDir, round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, goal := 0, 80+round*61
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var id string
		var big bool
		if _, err := fmt.Sscanf(lines.Text(), "ack %s %t", &id, &big); err != nil {
			continue
		}
		acked[id] = big
		if n++; n == goal {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Wait()
	if n < goal {
		t.Fatalf("the child ended by itself after %d acknowledgements", n)
	}
}

func checkCrash(t *testing.T, b *Badger, acked map[string]bool) {
	t.Helper()
	lost := 0
	if err := b.View(func(r Reader) error {
		seen := map[string]int{} // id -> rows
		if err := r.Scan(nil, nil, func(k, v []byte) (bool, error) {
			part := strings.Split(string(k), "/")
			seen[part[1]]++
			switch part[0] {
			case "a":
				if string(v) != part[1] {
					t.Errorf("row %s is damaged", k)
				}
			case "b":
				if !bytes.Equal(v, bytes.Repeat([]byte(part[1]), 500)) {
					t.Errorf("row %s is damaged", k)
				}
			}
			return true, nil
		}); err != nil {
			return err
		}
		for id, big := range acked {
			if want := 2; !big && seen[id] != want || big && seen[id] != crashBig {
				lost++
			}
		}
		for id, n := range seen {
			if n != 2 && n != crashBig {
				t.Errorf("%d rows of transaction %s: it is there in part", n, id)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged transactions are lost", lost, len(acked))
	}
}

// TestKilledBetweenMakingAndSizingALogOpens: Badger makes a log file first and gives it its length then.
func TestKilledBetweenMakingAndSizingALogOpens(t *testing.T) {
	for _, shape := range []Shape{Rows, Blocks} {
		dir := t.TempDir()
		kv, err := OpenBadger(dir, Options{Shape: shape})
		if err != nil {
			t.Fatal(err)
		}
		key, value := []byte{0x77, 1}, bytes.Repeat([]byte("v"), 2000)
		if err := kv.Update(func(txn Txn) error { return txn.Set(key, value) }); err != nil {
			t.Fatal(err)
		}
		if err := kv.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"00099.mem", "000099.vlog"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if kv, err = OpenBadger(dir, Options{Shape: shape}); err != nil {
			t.Fatal(err)
		}
		if err := kv.View(func(r Reader) error {
			got, err := r.Get(key)
			if err == nil && !bytes.Equal(got, value) {
				t.Error("another value")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := kv.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
