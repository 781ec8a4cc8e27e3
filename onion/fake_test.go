// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeTor is a control port that says what a test wants: what the private network never does (a wrong clock, no route).
type fakeTor struct {
	path    string
	version string
	phase   string            // the answer to status/bootstrap-phase
	replies map[string]string // to a command's first word; "" drops the connection

	mu     sync.Mutex
	events net.Conn    // the connection that subscribed
	got    chan string // each command
}

func newFakeTor(t *testing.T) *fakeTor {
	f := &fakeTor{
		path:    filepath.Join(shortDir(t), "control"),
		version: "0.4.9.11",
		phase:   `NOTICE BOOTSTRAP PROGRESS=0 TAG=starting SUMMARY="Starting"`,
		replies: map[string]string{},
		got:     make(chan string, 100),
	}
	l, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	}()
	return f
}

func shortDir(t *testing.T) string {
	dir, err := makeSocketDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (f *fakeTor) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewScanner(c)
	for in.Scan() {
		line := in.Text()
		word, _, _ := strings.Cut(line, " ")
		reply, ok := f.replies[word]
		if !ok {
			reply = "250 OK"
			switch {
			case word == "PROTOCOLINFO":
				reply = "250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor=\"0.4.9.11\"\r\n250 OK"
			case line == "GETINFO version":
				reply = "250-version=" + f.version + "\r\n250 OK"
			case line == "GETINFO net/listeners/socks":
				reply = "250-net/listeners/socks=\"unix:/nowhere\"\r\n250 OK"
			case line == "GETINFO status/bootstrap-phase":
				reply = "250-status/bootstrap-phase=" + f.phase + "\r\n250 OK"
			}
		}
		if word == "SETEVENTS" {
			f.mu.Lock()
			f.events = c
			f.mu.Unlock()
		}
		select {
		case f.got <- line:
		default:
		}
		if reply == "" {
			return
		}
		io.WriteString(c, reply+"\r\n")
	}
}

// say sends an event line.
func (f *fakeTor) say(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	io.WriteString(f.events, "650 "+line+"\r\n")
}

// attached runs a Tor on f until the test ends, and waits until f has been asked for its phase.
func (f *fakeTor) attached(t *testing.T, bridges ...string) *Tor {
	t.Helper()
	tor := New(Config{Mode: Attach, ControlSocket: f.path})
	tor.cfg.Bridges = bridges // which attach mode does not have: only for the reason's sake
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tor.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return tor
}

func (f *fakeTor) wait(t *testing.T, prefix string) string {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case line := <-f.got:
			if strings.HasPrefix(line, prefix) {
				return line
			}
		case <-limit:
			t.Fatalf("no command %q came", prefix)
		}
	}
}

func waitFor(t *testing.T, tor *Tor, what string, ok func(Status) bool) Status {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		changed := tor.Changed()
		s := tor.Status()
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("waiting for %s: %+v", what, s)
		}
	}
}

func TestStatusSaysWhatIsInTheWay(t *testing.T) {
	const conn = `PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay"`
	for _, c := range []struct {
		name    string
		bridges []string
		say     string
		want    Reason
		detail  string
	}{
		{"clock behind", nil, `STATUS_GENERAL WARN CLOCK_SKEW SKEW=-7200 MIN_SKEW=-7200 SOURCE=NETWORKSTATUS:1.2.3.4:80`, ReasonClock, "2h0m0s behind"},
		{"clock ahead", nil, `STATUS_CLIENT WARN CLOCK_SKEW SKEW=86400 SOURCE=CONSENSUS`, ReasonClock, "24h0m0s ahead"},
		{"no route", nil, `STATUS_CLIENT WARN BOOTSTRAP ` + conn + ` WARNING="No route to host" REASON=NOROUTE COUNT=5 RECOMMENDATION=warn HOSTID="x" HOSTADDR="1.2.3.4:9001"`, ReasonNoRoute, "No route to host"},
		{"firewall", nil, `STATUS_CLIENT WARN BOOTSTRAP ` + conn + ` WARNING="Connection timed out" REASON=TIMEOUT COUNT=9`, ReasonNoRoute, "timed out"},
		{"bridge down", []string{"x"}, `STATUS_CLIENT WARN BOOTSTRAP ` + conn + ` WARNING="Connection refused" REASON=CONNECTREFUSED`, ReasonBridges, "refused"},
		{"helper missing", nil, `STATUS_CLIENT ERR BOOTSTRAP ` + conn + ` WARNING="x" REASON=PT_MISSING`, ReasonBridges, "x"},
		{"directories", nil, `STATUS_GENERAL ERR DIR_ALL_UNREACHABLE`, ReasonNoRoute, "directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeTor(t)
			tor := f.attached(t, c.bridges...)
			f.wait(t, "GETINFO status/bootstrap-phase")
			f.say(c.say)
			s := waitFor(t, tor, "the reason", func(s Status) bool { return s.Reason != ReasonNone })
			if s.Reason != c.want || !strings.Contains(s.Detail, c.detail) || s.State != StateBootstrapping {
				t.Errorf("got %+v, want reason %q, detail with %q", s, c.want, c.detail)
			}
			if strings.Contains(s.Detail, "1.2.3.4") {
				t.Errorf("the detail names a relay: %q", s.Detail)
			}
			if s.Reason.Advice() == "" || !strings.Contains(s.Summary, s.Reason.Advice()) {
				t.Errorf("summary %q lacks the advice", s.Summary)
			}
			f.say(`STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`)
			s = waitFor(t, tor, "ready", func(s Status) bool { return s.State == StateReady })
			if s.Reason != ReasonNone || s.Summary != "Connected to Tor" {
				t.Errorf("once ready: %+v", s)
			}
			f.say(`STATUS_CLIENT NOTICE CIRCUIT_NOT_ESTABLISHED REASON=DIR_ALL_UNREACHABLE`)
			waitFor(t, tor, "the loss of the network", func(s Status) bool { return s.State == StateReady && s.Reason == ReasonNoRoute })
			f.say(`STATUS_CLIENT NOTICE CIRCUIT_ESTABLISHED`)
			waitFor(t, tor, "its return", func(s Status) bool { return s.Reason == ReasonNone })
		})
	}
}

func TestStatusTellsTheProgress(t *testing.T) {
	f := newFakeTor(t)
	tor := f.attached(t)
	f.wait(t, "GETINFO status/bootstrap-phase")
	f.say(`STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=45 TAG=requesting_descriptors SUMMARY="Asking for relay descriptors"`)
	s := waitFor(t, tor, "45 %", func(s Status) bool { return s.Percent == 45 })
	if s.Summary != "Connecting to Tor (45 %): asking for the list of relays" || s.Tag != "requesting_descriptors" {
		t.Errorf("%+v", s)
	}
	for _, nonsense := range []string{"STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=banana", "STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=-3",
		"STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=101", "STATUS_CLIENT", "HS_DESC", "HS_DESC UPLOADED", "STATUS_GENERAL WARN CLOCK_SKEW SKEW=x", "X Y=\"z"} {
		f.say(nonsense)
	}
	f.say(`STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=50 TAG=loading_descriptors SUMMARY="x"`)
	if s := waitFor(t, tor, "50 %", func(s Status) bool { return s.Percent != 45 }); s.Percent != 50 || s.Reason != ReasonNone {
		t.Errorf("nonsense moved the status: %+v", s)
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		version, warning string
		reason           Reason
	}{
		{"0.4.7.16", "", ReasonTorOld},
		{"0.3.5.14-dev", "", ReasonTorOld},
		{"0.4.8.10 (git-abc)", "security holes", ReasonNone},
		{"0.4.9.10", "security holes", ReasonNone},
		{"0.4.9.11", "", ReasonNone},
		{"0.5.0.1-alpha (git-0123)", "", ReasonNone},
		{"nonsense", "", ReasonControl},
	} {
		t.Run(c.version, func(t *testing.T) {
			t.Parallel()
			f := newFakeTor(t)
			f.version = c.version
			tor := f.attached(t)
			s := waitFor(t, tor, "an end of the start", func(s Status) bool { return s.State == StateFailed || s.State == StateBootstrapping })
			if s.Reason != c.reason || (s.State == StateFailed) != (c.reason != ReasonNone) {
				t.Errorf("%+v, want reason %q", s, c.reason)
			}
			if (c.warning == "") != (s.Warning == "") || !strings.Contains(s.Warning, c.warning) {
				t.Errorf("warning %q, want %q", s.Warning, c.warning)
			}
		})
	}
}

func TestControlPortThatRefusesIsAState(t *testing.T) {
	for name, replies := range map[string]map[string]string{
		"authentication": {"AUTHENTICATE": "515 Authentication failed"},
		"hangs up":       {"PROTOCOLINFO": ""},
		"garbage":        {"PROTOCOLINFO": "\x00\xff"},
		"no events":      {"SETEVENTS": "552 Unrecognized event"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeTor(t)
			f.replies = replies
			tor := f.attached(t)
			s := waitFor(t, tor, "the failure", func(s Status) bool { return s.State == StateFailed })
			if s.Reason != ReasonControl || s.Detail == "" {
				t.Errorf("%+v", s)
			}
			waitFor(t, tor, "another try", func(s Status) bool { return s.Restarts > 0 })
		})
	}
}

// The service's commands, the count of descriptors, a refusal and its retry, another port, the end.
func TestPublishedMeansAllDirectoriesAnswered(t *testing.T) {
	f := newFakeTor(t)
	f.phase = `NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"`
	tor := f.attached(t)
	var seed [SeedSize]byte
	key := KeyFromSeed(seed)
	l, err := tor.Listen(t.Context(), key, 80, ProofOfWork(5, 50))
	if err != nil {
		t.Fatal(err)
	}
	cmd := f.wait(t, "ADD_ONION ")
	if !strings.Contains(cmd, " Flags=DiscardPK PoWDefensesEnabled=1 PoWQueueRate=5 PoWQueueBurst=50 Port=80,127.0.0.1:") {
		t.Errorf("command %q", cmd)
	}
	name, _, err := ParseAddress(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSuffix(string(name), ".onion")
	published := func() bool { return tor.Status().Services[0].Published }
	mark := 0
	handled := func() { // events are handled in order: once this one shows, so are those before
		mark++
		f.say(fmt.Sprintf("STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=100 TAG=mark%d", mark))
		waitFor(t, tor, "an event", func(s Status) bool { return s.Tag == fmt.Sprint("mark", mark) })
	}
	f.say("HS_DESC UPLOADED " + id + " UNKNOWN dir") // of an earlier version: no UPLOAD came
	for range 3 {
		f.say("HS_DESC UPLOAD " + id + " UNKNOWN dir")
	}
	f.say("HS_DESC UPLOADED " + id + " UNKNOWN dir")
	f.say("HS_DESC FAILED " + id + " UNKNOWN dir REASON=UNEXPECTED")
	f.say("HS_DESC REQUESTED " + id + " UNKNOWN dir")
	handled()
	if published() {
		t.Error("published with two answers of three")
	}
	if d := tor.Status().Services[0].Detail; !strings.Contains(d, "UNEXPECTED") {
		t.Errorf("detail %q", d)
	}
	f.say("HS_DESC UPLOADED " + id + " UNKNOWN dir")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := tor.WaitPublished(ctx, name); err != nil {
		t.Fatal(err)
	}
	l2, err := tor.Listen(t.Context(), key, 81, ProofOfWork(5, 50))
	if err != nil {
		t.Fatal(err)
	}
	f.wait(t, "DEL_ONION "+id)
	if cmd := f.wait(t, "ADD_ONION "); !strings.Contains(cmd, "Port=80,") || !strings.Contains(cmd, "Port=81,") {
		t.Errorf("command %q lacks a port", cmd)
	}
	if published() {
		t.Error("still published after a change")
	}
	l.Close()
	f.wait(t, "ADD_ONION ")
	l2.Close()
	f.wait(t, "DEL_ONION "+id)
}

func TestARefusedServiceIsTriedAgain(t *testing.T) {
	f := newFakeTor(t)
	f.replies["ADD_ONION"] = "550 Onion address collision"
	tor := f.attached(t)
	l, err := tor.Listen(t.Context(), KeyFromSeed([SeedSize]byte{1}), 80)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f.wait(t, "ADD_ONION ")
	waitFor(t, tor, "the refusal", func(s Status) bool {
		return len(s.Services) == 1 && strings.Contains(s.Services[0].Detail, "collision")
	})
	f.wait(t, "ADD_ONION ")
}

// The same name closed and opened before tor was told of either: it must not keep the old, dead target.
func TestReopenedAtOnceGetsItsNewTarget(t *testing.T) {
	f := newFakeTor(t)
	tor := f.attached(t)
	key := KeyFromSeed([SeedSize]byte{2})
	l, err := tor.Listen(t.Context(), key, 80)
	if err != nil {
		t.Fatal(err)
	}
	first := f.wait(t, "ADD_ONION ")
	// What Close and Listen do, without a chance for the publisher to look in between.
	tor.mu.Lock()
	delete(tor.services, l.(*listener).name)
	tor.mu.Unlock()
	second := &listener{t: tor, name: l.(*listener).name, port: 80}
	if err := tor.addPort(second, key, ListenConfig{}, "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	tor.kick()
	f.wait(t, "DEL_ONION ")
	if cmd := f.wait(t, "ADD_ONION "); cmd == first || !strings.HasSuffix(cmd, "Port=80,127.0.0.1:1") {
		t.Errorf("command %q", cmd)
	}
	l.(*listener).Listener.Close()
}

func TestManyCommandsAtOnce(t *testing.T) {
	f := newFakeTor(t)
	l, err := openLink(dialUnix(f.path), "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 50 {
				if v, err := l.getInfo("version"); v != "0.4.9.11" || err != nil {
					t.Errorf("version %q, %v", v, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if _, err := l.cmd("GETINFO version\r\nSIGNAL HALT"); err == nil {
		t.Error("a command with a line break was sent")
	}
}
