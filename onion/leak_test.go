// SPDX-License-Identifier: Apache-2.0

package onion_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/onion"
	"tarn/onion/tornet"
)

// refused are targets that somebody may configure, type or send; none may cause a packet.
func refused(good onionid.Name) []string {
	bad := []byte(good)
	bad[5] = 'a' + (bad[5]-'a'+1)%26
	return []string{
		"example.com:80", "localhost:80", "matrix.org:8448", "192.0.2.1:80", "[2001:db8::1]:443", "example.onion:80",
		"127.0.0.1:9", string(bad) + ":80", string(good) + ".example.com:80", string(good) + ":http", string(good),
		strings.TrimSuffix(string(good), ".onion") + ":80",
	}
}

// childDials tries everything that a process could do wrong, with tor down, up, and down again, and one right thing.
func childDials() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	name := onionid.FromKey(key.Public().(ed25519.PublicKey))
	tor := onion.New(onion.Config{Dir: os.Getenv("DIR"), TorrcFile: os.Getenv(tornet.EnvTorrc)})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	allRefused := func() error {
		for _, addr := range refused(name) {
			c, err := tor.Dial(ctx, addr, "x")
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, onion.ErrNotOnion) {
				return fmt.Errorf("dial %s: %v", addr, err)
			}
		}
		return nil
	}
	down := func() error {
		if _, err := tor.Dial(ctx, onion.Address(name, 80), "x"); !errors.Is(err, onion.ErrNotReady) {
			return fmt.Errorf("dial with tor down: %v", err)
		}
		return allRefused()
	}
	if err := down(); err != nil {
		return err
	}
	rctx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- tor.Run(rctx) }()
	if err := tor.WaitReady(ctx); err != nil {
		return err
	}
	if err := allRefused(); err != nil {
		return err
	}
	l, err := tor.Listen(ctx, key, 80)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	if err := tor.WaitPublished(ctx, name); err != nil {
		return err
	}
	var c net.Conn
	for {
		c, err = tor.Dial(ctx, onion.Address(name, 80), "x")
		if !errors.Is(err, onion.ErrDescNotFound) || ctx.Err() != nil {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err != nil || string(b) != "hello" {
		return fmt.Errorf("read %q, %v", b, err)
	}
	l.Close()
	stop()
	if err := <-ran; err != nil {
		return err
	}
	if err := down(); err != nil {
		return err
	}
	fmt.Println("ok")
	return nil
}

// childLeaks does what the test must notice, without a packet leaving this computer: connect of a datagram socket sends
// nothing, and the look-up asks a name server on loopback that is not there.
func childLeaks() error {
	if c, err := net.Dial("udp", "192.0.2.1:9"); err == nil { // RFC 5737: nobody's; without a route the attempt still shows
		c.Close()
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", "127.0.0.1:53")
	}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r.LookupHost(ctx, "leak.invalid")
	fmt.Println("ok")
	return nil
}

// traced runs a part of this program, and all it starts, under strace, and returns the calls that name a target.
func traced(t *testing.T, part string, env ...string) []string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		skip(t, "strace is needed (apt-get install -y strace)")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	wrap := []string{strace, "-f", "-qq", "-s", "200", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-e", "signal=none", "-o", trace}
	if out, err := exec.Command(strace, "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("strace is not permitted here: %v: %s", err, out))
	}
	cmd := child(t, part, wrap...)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Fatalf("%s under strace: %v: %s", part, err, out)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

var (
	reFamily = regexp.MustCompile(`sa_family=(AF_\w+)`)
	reInet4  = regexp.MustCompile(`sa_family=AF_INET, sin_port=htons\((\d+)\), sin_addr=inet_addr\("127\.\d+\.\d+\.\d+"\)`)
)

// leaks are the lines of a trace that reach for anything but this computer, or for a name server.
// inet counts the allowed internet sockets: those of tor to the private network, which the Go program never opens.
func leaks(trace []string) (bad []string, inet int) {
	for _, line := range trace {
		families := reFamily.FindAllStringSubmatch(line, -1)
		if len(families) == 0 {
			continue // data on a socket already connected
		}
		for _, f := range families {
			switch f[1] {
			case "AF_NETLINK", "AF_UNSPEC": // the kernel; no target
				continue
			case "AF_UNIX":
				if !strings.Contains(line, "nscd") && !strings.Contains(line, "resolve") {
					continue
				}
			case "AF_INET":
				if m := reInet4.FindStringSubmatch(line); m != nil && m[1] != "53" {
					inet++
					continue
				}
			}
			bad = append(bad, line)
			break
		}
	}
	return bad, inet
}

// DESIGN §3: only onion dials, and it dials only onions: no name is looked up, nothing but this computer is reached for
// (the private network's relays are on it), whatever is asked and whether tor is up or down. tor itself is watched too.
func TestNoOtherWayOut(t *testing.T) {
	torrc := writeTorrc(t, tornet.Shared(t))
	bad, _ := leaks(traced(t, "leaks"))
	if len(bad) < 2 {
		t.Fatalf("this test does not notice leaks: %q", bad)
	}
	bad, inet := leaks(traced(t, "dials", "DIR="+t.TempDir(), tornet.EnvTorrc+"="+torrc))
	for _, line := range bad {
		t.Errorf("a way out: %s", line)
	}
	if inet == 0 {
		t.Error("no connection to a relay seen: tor was not traced")
	}
}
