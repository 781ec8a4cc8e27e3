// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a tor that we started.
type process struct {
	cmd  *exec.Cmd
	sock string // directory of its sockets
	said *lastWords
	done chan struct{} // closed when it has ended; err is then set
	err  error
}

// startProcess starts tor on a torrc in c.Dir, its network still disabled.
func startProcess(c *Config, sock string) (*process, error) {
	program := c.TorPath
	if program == "" {
		program = "tor"
	}
	path, err := findProgram(program)
	if err != nil {
		return nil, &trouble{ReasonTorMissing, "no tor program", err}
	}
	// A tor that died leaves its sockets: nobody may connect to those.
	os.Remove(filepath.Join(sock, "control"))
	os.Remove(filepath.Join(sock, "socks"))
	torrc, err := c.torrc(sock)
	if err != nil {
		return nil, err
	}
	rc, empty := filepath.Join(c.Dir, "torrc"), filepath.Join(c.Dir, "torrc-defaults")
	err = errors.Join(
		os.MkdirAll(filepath.Join(c.Dir, "tor"), 0o700),
		os.Chmod(filepath.Join(c.Dir, "tor"), 0o700),
		os.WriteFile(rc, []byte(torrc), 0o600),
		os.WriteFile(empty, nil, 0o600), // else the system's defaults would mix in
	)
	if err != nil {
		return nil, &trouble{ReasonDisk, "cannot write tor's configuration", err}
	}
	p := &process{sock: sock, said: &lastWords{log: c.Log}, done: make(chan struct{})}
	p.cmd = exec.Command(path, "-f", rc, "--defaults-torrc", empty, "--hush",
		"--__OwningControllerProcess", strconv.Itoa(os.Getpid())) // in case we are killed before TAKEOWNERSHIP
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.cmd.Dir = c.Dir
	p.cmd.WaitDelay = 2 * time.Second // a bridge's helper may outlive tor with our pipe
	p.cmd.SysProcAttr = childAttr()
	started := make(chan error)
	go func() {
		// To the kernel the parent is this thread, not the process: it must live as long as tor.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, &trouble{ReasonTorMissing, "tor does not start", err}
	}
	return p, nil
}

// connect waits for the control socket, without a limit (a tor that waits for the lock of a dying one takes 5 s, a
// loaded machine longer), unless tor or ctx ends. Once there is a socket, tor must let us in within 30 s.
func (p *process) connect(ctx context.Context) (*link, error) {
	var there time.Time
	for {
		l, err := openLink(dialUnix(filepath.Join(p.sock, "control")), "")
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			if there.IsZero() {
				there = time.Now()
			} else if time.Since(there) > commandTimeout {
				return nil, &trouble{ReasonControl, "tor does not let us in", err}
			}
		}
		select {
		case <-p.done:
			return nil, p.exited()
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// exited is the error of a tor that ended by itself.
func (p *process) exited() error {
	<-p.done
	return &trouble{ReasonTorExited, p.said.reason(), fmt.Errorf("tor exited: %w", errors.Join(p.err, errProcess))}
}

var errProcess = errors.New("the process has ended")

// stop ends tor: by a signal through l if there is one, and by force after 5 s.
func (p *process) stop(l *link) {
	if l != nil {
		l.cmd("SIGNAL HALT")
		l.close() // we own it: this ends it as well
	} else {
		p.cmd.Process.Signal(syscall.SIGINT) // a client ends at once
	}
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// lastWords keeps tor's last lines, to say why it ended, and passes each on to the log at Debug.
type lastWords struct {
	log *slog.Logger

	mu    sync.Mutex
	line  []byte   // unfinished
	lines []string // at most keptLines, each at most maxLine long
}

const (
	keptLines = 40
	maxLine   = 1024 // bytes
)

// Write implements io.Writer for exec.Cmd. It never fails.
func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rest := b; len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte("\n"))
		rest = after
		w.line = append(w.line, part[:min(len(part), maxLine-len(w.line))]...)
		if whole {
			line := string(w.line)
			w.line = w.line[:0]
			if len(w.lines) == keptLines {
				w.lines = w.lines[1:]
			}
			w.lines = append(w.lines, line)
			w.log.Debug("tor says", "line", line)
		}
	}
	return len(b), nil
}

// reason is tor's last warnings and errors, without their dates; or its last line.
func (w *lastWords) reason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for i := len(w.lines) - 1; i >= 0 && len(out) < 3; i-- {
		for _, level := range []string{"[err] ", "[warn] "} {
			_, text, ok := strings.Cut(w.lines[i], level)
			if ok && !strings.Contains(text, "running Tor as root") {
				out = append([]string{text}, out...)
			}
		}
	}
	if len(out) == 0 && len(w.lines) > 0 {
		out = w.lines[len(w.lines)-1:]
	}
	return strings.Join(out, " ")
}
