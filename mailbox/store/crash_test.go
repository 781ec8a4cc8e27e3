// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20"

	"tarn/mailbox"
	"tarn/mailbox/store"
)

// derivedBox is the content that goes with an id, so that the parent knows what the child wrote.
func derivedBox(id mailbox.BoxID) *[mailbox.BoxSize]byte {
	box := new([mailbox.BoxSize]byte)
	key := sha256.Sum256(id[:])
	c, err := chacha20.NewUnauthenticatedCipher(key[:], make([]byte, chacha20.NonceSize))
	if err != nil {
		panic(err)
	}
	c.XORKeyStream(box[:], box[:])
	return box
}

func crashConfig(dir string) store.Config {
	seed := sha256.Sum256([]byte("crash"))
	// The unit is short, so that databases are made and destroyed all the while; boxes live longer than the test.
	return store.Config{Dir: dir, Onion: ed25519.NewKeyFromSeed(seed[:]), TTL: time.Hour, ExpiryUnit: time.Second, Bucket: 50 * time.Millisecond}
}

// TestCrashChild is the process that is killed: it stores boxes from many clients and prints each id that was acknowledged.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("TARN_CRASH_DIR")
	if dir == "" {
		t.Skip("not a test: the child of TestKilledStoreLosesNoAcknowledgedBox")
	}
	pipe, _ := newStore(t, crashConfig(dir), -1)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c := mailbox.NewClient(pipe.addr, pipe)
			if _, err := c.Descriptor(context.Background()); err != nil {
				fmt.Println("error", err)
				return
			}
			for {
				id, _ := randomBox()
				if err := c.Put(context.Background(), id, derivedBox(id), nil); err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("ack", hex.EncodeToString(id[:])) // one write a line: whole lines reach the pipe
			}
		})
	}
	wg.Wait()
}

func TestKilledStoreLosesNoAcknowledgedBox(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	dir := t.TempDir()
	acked := map[mailbox.BoxID]bool{}
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.v")
		cmd.Env = append(os.Environ(), "TARN_CRASH_DIR="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var n atomic.Int64
		go func() { // killed in the middle of the load, not at a line
			for n.Load() < 200 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Duration(300+137*round) * time.Millisecond)
			cmd.Process.Kill()
		}()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var what, text string
			fmt.Sscan(lines.Text(), &what, &text)
			switch what {
			case "error":
				t.Error(lines.Text())
				n.Store(1 << 40)
			case "ack":
				b, err := hex.DecodeString(text)
				if err == nil && len(b) == mailbox.IDSize {
					acked[mailbox.BoxID(b)] = true
					n.Add(1)
				}
			}
		}
		cmd.Wait()
		t.Logf("round %d: %d acknowledged so far", round, len(acked))
	}
	began := time.Now()
	pipe, stop := newStore(t, crashConfig(dir), -1)
	t.Logf("reopened in %v", time.Since(began).Round(time.Millisecond))
	c := mailbox.NewClient(pipe.addr, pipe)
	_, err := c.Descriptor(t.Context())
	must(t, err)
	lost := 0
	for id := range acked {
		got, err := c.Get(t.Context(), id.Handle())
		must(t, err)
		if *got != *derivedBox(id) {
			lost++
		}
	}
	if lost > 0 || len(acked) < 600 {
		t.Errorf("%d of %d acknowledged boxes are lost", lost, len(acked))
	}
	must(t, stop())
}
