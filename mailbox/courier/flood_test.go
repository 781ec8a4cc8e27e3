// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/courier"
	"tarn/mailbox/mailboxtest"
)

// socket is a network of one socket of this machine.
type socket string

func (s socket) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", string(s))
}

// TestStrangersProcess is not a test but the attackers of the next one, in a process that has less of the processor than
// who is attacked: hellos of garbage, which must be opened to see that, as many as are answered.
func TestStrangersProcess(t *testing.T) {
	path := os.Getenv("TARN_STRANGERS")
	if path == "" {
		t.Skip("it attacks in TestFramesUnderAFloodOfHellos")
	}
	must(t, syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10))
	header, err := hex.DecodeString(os.Getenv("TARN_HEADER"))
	must(t, err)
	up := make([]byte, mailbox.UpSize)
	rand.Read(up)
	copy(up, header)
	var all sync.WaitGroup
	for range 600 { // more than there are places
		all.Go(func() {
			down := make([]byte, mailbox.DownSize)
			for {
				c, err := socket(path).Dial(t.Context(), "", "")
				if err != nil {
					return // it is over
				}
				if _, err := c.Write(up); err == nil {
					io.ReadFull(c, down) //nolint:errcheck // the next one, whatever came
				}
				c.Close()
			}
		})
	}
	all.Wait()
}

// In real time, on one processor: what a node in a session waits for a frame down beyond its lag, alone, and while a crowd
// says hello as fast as it is answered.
func TestFramesUnderAFloodOfHellos(t *testing.T) {
	if os.Getenv("TARN_FULL") == "" {
		t.Skip("it measures, and takes the whole machine: make full")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	st := mailboxtest.New(t)
	d, raw, err := st.Client().Fetch(t.Context())
	must(t, err)
	path := filepath.Join(t.TempDir(), "courier")
	var hellos atomic.Int64
	co := mailboxtest.New(t, mailboxtest.WithoutStore(), mailboxtest.Unwatched(),
		mailboxtest.WithNetwork(func(ed25519.PrivateKey, int) (net.Listener, error) {
			ln, err := net.Listen("unix", path)
			return counted{ln, &hellos}, err
		}, socket(path)),
		mailboxtest.WithCourier(&echo{raw}, func(c *courier.Config) { c.Rate, c.Burst = 1e9, 1e9 }))
	conn, up := rawSession(t, socket(path), co)
	defer conn.Close()
	onion, err := d.Onion.Key()
	must(t, err)
	f := mailbox.UpFrame{
		Put: mailbox.SubRequest{Target: [32]byte(onion), Box: make([]byte, mailbox.SealedPutSize)},
		Get: mailbox.SubRequest{Target: [32]byte(onion), Box: make([]byte, mailbox.SealedGetSize)},
	}
	measure := func() (p50, p95 time.Duration) {
		var took []time.Duration
		down := make([]byte, mailbox.DownFrameSize)
		for range 300 {
			b, err := up.AppendUpFrame(nil, &f)
			must(t, err)
			began := time.Now()
			_, err = conn.Write(b)
			must(t, err)
			_, err = io.ReadFull(conn, down)
			must(t, err)
			took = append(took, time.Since(began))
			time.Sleep(20 * time.Millisecond)
		}
		slices.Sort(took)
		return took[len(took)/2], took[len(took)*95/100]
	}
	p50, p95 := measure()
	t.Logf("alone: half of the frames down come within %v, 95 %% within %v", p50, p95)

	var header [mailbox.UpSize]byte
	mailbox.LinkRequest(&header)
	header[1] = byte(mailbox.KindSession)
	epoch := mailbox.Epoch(time.Now())
	header[4], header[5], header[6], header[7] = byte(epoch>>24), byte(epoch>>16), byte(epoch>>8), byte(epoch)
	crowd := exec.Command(os.Args[0], "-test.run", "^TestStrangersProcess$")
	crowd.Env = append(os.Environ(), "TARN_STRANGERS="+path, "TARN_HEADER="+hex.EncodeToString(header[:mailbox.HeaderSize]))
	must(t, crowd.Start())
	defer func() { crowd.Process.Kill(); crowd.Wait() }()
	for hellos.Load() < 1000 {
		time.Sleep(10 * time.Millisecond)
	}
	before, began := hellos.Load(), time.Now()
	p50, p95 = measure()
	rate := float64(hellos.Load()-before) / time.Since(began).Seconds()
	t.Logf("while %.0f hellos a second come: half within %v, 95 %% within %v", rate, p50, p95)
	if rate < 100 {
		t.Error("no flood")
	}
	if p95 > time.Second { // a message takes ten frames' time and more: 65 s at balanced
		t.Errorf("95 %% of the frames come within %v", p95)
	}
}

// counted counts connections.
type counted struct {
	net.Listener
	n *atomic.Int64
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	c.n.Add(1)
	return conn, err
}
