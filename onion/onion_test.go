// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSeedIsMadeOnceAndNeverReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed")
	a, err := LoadOrCreateSeed(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 || fi.Size() != SeedSize {
		t.Errorf("%v, %v", fi, err)
	}
	b, err := LoadOrCreateSeed(path)
	if err != nil || a != b {
		t.Errorf("a second load differs: %v", err)
	}
	if !KeyFromSeed(a).Equal(KeyFromSeed(b)) || !bytes.Equal(KeyFromSeed(a).Seed(), a[:]) {
		t.Error("the key is not the seed's")
	}
	os.Chmod(path, 0o640)
	if _, err := LoadOrCreateSeed(path); !errors.Is(err, ErrSeed) {
		t.Errorf("readable by others: %v", err)
	}
	os.Chmod(path, 0o600)
	for _, content := range [][]byte{nil, a[:31], append(a[:], 0)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateSeed(path); !errors.Is(err, ErrSeed) {
			t.Errorf("%d bytes: %v, want ErrSeed", len(content), err)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, content) {
			t.Error("a damaged seed was overwritten")
		}
	}
	if _, err := LoadOrCreateSeed(filepath.Join(t.TempDir(), "no", "seed")); err == nil {
		t.Error("no directory: no error")
	}
}

func TestImpossibleConfigs(t *testing.T) {
	for name, c := range map[string]Config{
		"no directory":           {},
		"unknown mode":           {Mode: "magic", Dir: "x"},
		"line break in torrc":    {Dir: "x", Torrc: []string{"A 1\nSocksPort 9050"}},
		"line break in bridge":   {Dir: "x", Bridges: []string{"1.2.3.4:5\r\nX"}},
		"attach to nothing":      {Mode: Attach},
		"attach to two":          {Mode: Attach, ControlSocket: "/x", ControlAddr: "127.0.0.1:9051"},
		"control elsewhere":      {Mode: Attach, ControlAddr: "192.0.2.1:9051"},
		"control by name":        {Mode: Attach, ControlAddr: "localhost:9051"},
		"SOCKS elsewhere":        {Mode: Attach, ControlSocket: "/x", SocksAddr: "192.0.2.1:9050"},
		"SOCKS by name":          {Mode: Attach, ControlSocket: "/x", SocksAddr: "localhost:9050"},
		"SOCKS at relative path": {Mode: Attach, ControlSocket: "/x", SocksAddr: "unix:socks"},
		"torrc of another's tor": {Mode: Attach, ControlSocket: "/x", TorrcFile: "/y"},
	} {
		tor := New(c)
		if err := tor.Run(t.Context()); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: Run: %v, want ErrConfig", name, err)
		}
		if _, err := tor.Listen(t.Context(), KeyFromSeed([SeedSize]byte{}), 80); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: Listen: %v, want ErrConfig", name, err)
		}
	}
}

func TestOff(t *testing.T) {
	tor := New(Config{Mode: Off})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tor.Run(ctx) }()
	addr := goodAddress(80)
	if _, err := tor.Dial(ctx, addr, "x"); !errors.Is(err, ErrOff) || !errors.Is(err, ErrNotReady) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := tor.Dial(ctx, "example.com:80", "x"); !errors.Is(err, ErrNotOnion) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := tor.Listen(ctx, KeyFromSeed([SeedSize]byte{}), 80); !errors.Is(err, ErrOff) {
		t.Errorf("Listen: %v", err)
	}
	if err := tor.WaitReady(ctx); !errors.Is(err, ErrOff) {
		t.Errorf("WaitReady: %v", err)
	}
	if s := tor.Status(); s.State != StateOff || s.Summary != "Tor is switched off" {
		t.Errorf("%+v", s)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func goodAddress(port int) string {
	l := listener{port: port}
	l.name, _, _ = ParseAddress("2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion:1")
	return l.Addr().String()
}

// managed runs a managed Tor with c until the test ends.
func managed(t *testing.T, c Config) *Tor {
	tor := New(c)
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

func TestNoTorProgramIsAState(t *testing.T) {
	tor := managed(t, Config{Dir: t.TempDir(), TorPath: "/nowhere/tor"})
	s := waitFor(t, tor, "the failure", func(s Status) bool { return s.State == StateFailed })
	if s.Reason != ReasonTorMissing || !strings.Contains(s.Summary, "Install tor") {
		t.Errorf("%+v", s)
	}
	waitFor(t, tor, "another try", func(s Status) bool { return s.Restarts > 0 })
}

func TestTorsLastWordsAreTold(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "tor")
	script := "#!/bin/sh\necho 'Nov 22 10:00:00.000 [notice] Tor 0.4.9.11 running'\necho 'Nov 22 10:00:00.000 [warn] Failed to parse: Unknown option Foo.'\n" +
		"echo 'Nov 22 10:00:00.000 [err] Reading config failed--see warnings above.'\nexit 1\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	tor := New(Config{Dir: filepath.Join(dir, "data"), TorPath: program, Log: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tor.Run(ctx) }()
	s := waitFor(t, tor, "the failure", func(s Status) bool { return s.State == StateFailed })
	if s.Reason != ReasonTorExited || s.Detail != "Failed to parse: Unknown option Foo. Reading config failed--see warnings above." {
		t.Errorf("%+v", s)
	}
	cancel()
	<-done
	if !strings.Contains(log.String(), "tor-exited") || strings.Contains(log.String(), "Foo") {
		t.Errorf("log at Info: %s", &log)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "data", "run-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestBridgeHelperMissingIsAState(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	program := filepath.Join(t.TempDir(), "tor")
	os.WriteFile(program, []byte("#!/bin/sh\nexit 1\n"), 0o700)
	if _, err := findProgram("webtunnel-client"); err == nil {
		t.Skip("it is installed here")
	}
	if _, err := findProgram("lyrebird"); err == nil {
		t.Skip("it is installed here")
	}
	tor := managed(t, Config{Dir: t.TempDir(), TorPath: program, Bridges: []string{"webtunnel 192.0.2.3:1 AAAA url=https://example.com/x"}})
	s := waitFor(t, tor, "the failure", func(s Status) bool { return s.State == StateFailed })
	if s.Reason != ReasonBridges || !strings.Contains(s.Detail, "webtunnel-client") {
		t.Errorf("%+v", s)
	}
}

func TestTorrcIsThatOfAClient(t *testing.T) {
	c := Config{Dir: t.TempDir(), Torrc: []string{"Extra 1"}, Bridges: []string{"192.0.2.3:443 AAAA"}}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	c.TorrcFile = filepath.Join(c.Dir, "more")
	os.WriteFile(c.TorrcFile, []byte("# comment\n\n  More 2  \n"), 0o600)
	torrc, err := c.torrc("/s")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ClientOnly 1", "SocksPort unix:/s/socks OnionTrafficOnly ExtendedErrors", "ControlPort 0", "DisableNetwork 1",
		"UseBridges 1", "Bridge 192.0.2.3:443 AAAA", "Extra 1", "More 2"} {
		if !strings.Contains("\n"+torrc, "\n"+want+"\n") {
			t.Errorf("torrc lacks %q", want)
		}
	}
	for _, bad := range []string{"TestingTorNetwork", "SafeLogging", "comment", "127.0.0.1"} {
		if strings.Contains(torrc, bad) {
			t.Errorf("torrc contains %q", bad)
		}
	}
	c.TorrcFile = filepath.Join(c.Dir, "none")
	if _, err := c.torrc("/s"); err == nil {
		t.Error("a missing torrc file: no error")
	}
}

func TestIsolationUsers(t *testing.T) {
	a, b := New(Config{Dir: "a"}), New(Config{Dir: "a"})
	same := a.socksUser("x")
	if a.socksUser("x") != same || a.socksUser("y") == same || b.socksUser("x") == same {
		t.Error("users do not follow isolation strings and processes")
	}
	if u := a.socksUser("alice"); strings.Contains(u, "alice") || len(u) != 32 {
		t.Errorf("user %q", u)
	}
}

func TestSocketDirectories(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	for _, home := range []string{t.TempDir(), long, filepath.Join(t.TempDir(), "with blank")} {
		s := sockets{home: home}
		dir, err := s.hold()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.hold(); again != dir || err != nil {
			t.Errorf("held twice: %q and %q, %v", dir, again, err)
		}
		name := s.name(dir)
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatalf("%d bytes: %v", len(name), err)
		}
		l.Close()
		s.release()
		if _, err := os.Stat(dir); err != nil {
			t.Error("gone while held")
		}
		s.release()
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %v", err)
		}
	}
}

func TestSweepRemovesOnlyOurOwn(t *testing.T) {
	home, foreign := t.TempDir(), t.TempDir()
	stale, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(home, "sockets")
	ours := filepath.Join(home, "run-ours")
	old := filepath.Join(home, "run-old")
	os.Mkdir(ours, 0o700)
	os.Mkdir(old, 0o700)
	for _, noted := range []string{stale, foreign, "relative", ""} {
		os.WriteFile(note, []byte(noted), 0o600)
		if err := sweepSockets(home, ours); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]bool{stale: false, old: false, foreign: true, ours: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", dir, err, want)
		}
	}
	if b, _ := os.ReadFile(note); string(b) != ours+"\n" {
		t.Errorf("note %q", b)
	}
}

func TestLastWordsAreBounded(t *testing.T) {
	w := lastWords{log: slog.New(slog.DiscardHandler)}
	chunk := []byte(strings.Repeat("x", 10_000))
	for range 1000 {
		w.Write(chunk)
	}
	for i := range 1000 {
		fmt.Fprintf(&w, "\n[warn] line %d", i)
	}
	if len(w.lines) > keptLines || len(w.line) > maxLine || !strings.HasSuffix(w.reason(), "line 998") {
		t.Errorf("%d lines, %d bytes, %q", len(w.lines), len(w.line), w.reason())
	}
}

// playSocks runs the client against a server that reads requests and answers with b.
func playSocks(t testing.TB, b []byte) error {
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		defer server.Close()
		go io.Copy(io.Discard, server)
		server.Write(b)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return socksConnectTo(ctx, client, strings.Repeat("a", 56)+".onion", 80, "user")
}

func TestSocksErrorsAreTold(t *testing.T) {
	ok := []byte{5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	if err := playSocks(t, ok); err != nil {
		t.Fatal(err)
	}
	for code, want := range map[byte]error{0xF0: ErrDescNotFound, 0xF1: ErrBadOnion, 0xF2: ErrIntroFailed, 0xF3: ErrRendFailed, 0xF4: ErrNeedAuth,
		0xF5: ErrNeedAuth, 0xF6: ErrBadOnion, 0xF7: ErrIntroFailed, 1: ErrRefused, 5: ErrRefused, 4: ErrUnreachable, 6: ErrUnreachable, 99: ErrUnreachable} {
		if err := playSocks(t, []byte{5, 2, 1, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0}); !errors.Is(err, want) {
			t.Errorf("code %02X: %v, want %v", code, err, want)
		}
	}
	for i := range ok {
		if err := playSocks(t, ok[:i]); err == nil {
			t.Errorf("reply cut at %d: no error", i)
		}
	}
}

func TestSocksEndsWithItsContext(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go io.Copy(io.Discard, server) // never answers
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := socksConnectTo(ctx, client, "x.onion", 80, "user"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func FuzzSocksReply(f *testing.F) {
	f.Add([]byte{5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{5, 2, 1, 0, 5, 0, 0, 3, 1, 'x', 0, 0})
	f.Add([]byte{5, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		err := playSocks(t, b)
		if err == nil && (len(b) < 10 || b[0] != 5 || b[1] != 2 || b[5] != 0) {
			t.Errorf("%x is no success", b)
		}
	})
}

func TestSplitEvent(t *testing.T) {
	for line, want := range map[string]event{
		`STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay"`: {"STATUS_CLIENT", []string{"NOTICE", "BOOTSTRAP"}, map[string]string{"PROGRESS": "5", "TAG": "conn", "SUMMARY": "Connecting to a relay"}},
		`X A="a \"b\" \\ c" B= C="" d`: {"X", []string{"d"}, map[string]string{"A": `a "b" \ c`, "B": "", "C": ""}},
		`X A="open`:                    {"X", nil, map[string]string{"A": "open"}},
		`X A="open\`:                   {"X", nil, map[string]string{"A": `open\`}},
		`X =v ="v" A==b`:               {"X", []string{"=v", `="v"`}, map[string]string{"A": "=b"}},
		`  X   y  `:                    {"X", []string{"y"}, map[string]string{}},
		``:                             {"", nil, map[string]string{}},
	} {
		if got := splitEvent(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
}

func TestSplitEventRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[A-Za-z0-9_$~:.,-]{1,12}`)
		want := event{name: word.Draw(t, "name"), kv: map[string]string{}}
		line := want.name
		for range rapid.IntRange(0, 10).Draw(t, "fields") {
			k := word.Draw(t, "word")
			if rapid.Bool().Draw(t, "plain") {
				want.args = append(want.args, k)
				line += " " + k
				continue
			}
			v := rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "value")
			want.kv[k] = v
			line += " " + k + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
		}
		if got := splitEvent(line); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %+v, want %+v", line, got, want)
		}
	})
}

func FuzzSplitEvent(f *testing.F) {
	f.Add(`STATUS_CLIENT WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="a b" WARNING="c \"d" REASON=NOROUTE`)
	f.Add(`HS_DESC UPLOADED abc UNKNOWN $AAAA~r0 x`)
	f.Add(`X A="\`)
	f.Fuzz(func(t *testing.T, s string) {
		e := splitEvent(s)
		if n := len(e.args) + len(e.kv); n > maxEventFields {
			t.Errorf("%d fields", n)
		}
		for _, a := range e.args {
			if a == "" || strings.ContainsAny(a, " \t\r\n") {
				t.Errorf("argument %q of %q", a, s)
			}
		}
		tor := New(Config{Mode: Off}) // whatever comes, the status stays in its bounds
		tor.onEvent(e)
		if st := tor.Status(); st.Percent < 0 || st.Percent > 100 {
			t.Errorf("%d %%", st.Percent)
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	f.Add(goodAddress(80))
	f.Add(goodAddress(65535))
	f.Add("example.com:80")
	f.Add("127.0.0.1:80")
	f.Add(strings.ToUpper(goodAddress(80)))
	f.Fuzz(func(t *testing.T, s string) {
		name, port, err := ParseAddress(s)
		if err != nil {
			if !errors.Is(err, ErrNotOnion) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if Address(name, port) != s { // one target, one spelling
			t.Errorf("%q became %q", s, Address(name, port))
		}
		if key, err := name.Key(); err != nil || len(key) != 32 {
			t.Errorf("%q has no key: %v", s, err)
		}
	})
}

func FuzzVersion(f *testing.F) {
	f.Add("0.4.9.11")
	f.Add("0.4.8.10-alpha-dev (git-abc)")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseVersion(s)
		if err != nil {
			return
		}
		if w, err := parseVersion(v.String()); err != nil || w != v || v.less(w) {
			t.Errorf("%q: %v, %v", s, v, w)
		}
	})
}
