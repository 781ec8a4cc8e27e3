// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve runs a server in a short directory (unix socket paths are short) and returns its socket once it answers.
func serve(t *testing.T, methods map[string]Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, path, methods) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	for {
		if err := Call(ctx, path, "no such", nil, nil); errors.Is(err, ErrUnknownMethod) {
			return path
		} else if !errors.Is(err, ErrNotRunning) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func echo(_ context.Context, args json.RawMessage) (any, error) { return args, nil }

func TestCallReturnsTheResultOrTheMethodsError(t *testing.T) {
	path := serve(t, map[string]Handler{
		"echo": echo,
		"fail": func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no contact of that name") },
	})
	var got struct{ A int }
	if err := Call(t.Context(), path, "echo", map[string]int{"A": 7}, &got); err != nil || got.A != 7 {
		t.Fatalf("echo: %v %v", got, err)
	}
	var e *Error
	if err := Call(t.Context(), path, "fail", nil, nil); !errors.As(err, &e) || e.Text != "no contact of that name" {
		t.Fatalf("fail: %v", err)
	}
}

func TestSocketIsForItsOwnerOnly(t *testing.T) {
	path := serve(t, nil)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		t.Fatalf("mode %v", fi.Mode())
	}
}

func TestNobodyThereIsErrNotRunning(t *testing.T) {
	if err := Call(t.Context(), filepath.Join(t.TempDir(), "s"), "x", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Fatal(err)
	}
}

func TestSocketOfAKilledProcessIsReplaced(t *testing.T) {
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if err := Call(t.Context(), path, "x", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, path, map[string]Handler{"echo": echo}) }()
	for {
		err := Call(t.Context(), path, "echo", 1, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNotRunning) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOversizedRequestIsRefusedNotRead(t *testing.T) {
	path := serve(t, map[string]Handler{"echo": echo})
	if err := Call(t.Context(), path, "echo", strings.Repeat("x", maxRequest), nil); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write(bytes.Repeat([]byte("x"), maxRequest+1))
	var buf [200]byte
	n, _ := c.Read(buf[:])
	if !strings.Contains(string(buf[:n]), "too large") {
		t.Fatalf("answer %q", buf[:n])
	}
}

func TestTooLongAPathIsExplained(t *testing.T) {
	err := Serve(t.Context(), "/"+strings.Repeat("d", 120)+"/s", nil)
	if err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Fatal(err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"method":"status"}` + "\n"))
	f.Add([]byte(`{"method":"accept","args":{"link":"tarn:xx"}}` + "\n"))
	f.Add([]byte("\n"))
	f.Add([]byte(`{"method":1}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := readRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		if _, err := run(t.Context(), map[string]Handler{"status": echo}, req); err != nil && req.Method == "status" {
			if len(req.Args) == 0 || json.Valid(req.Args) {
				t.Fatalf("%q: %v", b, err)
			}
		}
	})
}
