// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is one of Tarn's programs, as a person would run it.
type process struct {
	name string
	args []string
	log  string // what it says
	bin  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// start runs it; its words are appended to its log.
func (p *process) start() error {
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(p.bin, p.args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is ours: we end them in order
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() { cmd.Wait(); close(done) }()
	return nil
}

// stop asks it to end, and waits.
func (p *process) stop() { p.end(syscall.SIGTERM) }

// kill ends it at once, as a power cut would (the machine's disk cache aside).
func (p *process) kill() { p.end(syscall.SIGKILL) }

func (p *process) end(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	p.cmd = nil
}

// stage is the machine with all that runs on it.
type stage struct {
	dir, bin string
	start    time.Time
	torrc    string // how to join the private Tor network
	all      []*process
	stores   []*hosted      // mailboxes that keep boxes
	couriers []*hosted      // mailboxes that carry requests to them
	nodes    [3]*homeserver // in the order of names
}

// hosted is a mailbox.
type hosted struct {
	*process
	line, config string // its address, as its operator would give it to others
}

// homeserver is one node and its one user.
type homeserver struct {
	*process
	user, password, url, address, config string
}

func (s *stage) say(format string, a ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, a...))
}

func (s *stage) spawn(name, program string, args ...string) (*process, error) {
	p := &process{name: name, bin: filepath.Join(s.bin, program), args: args, log: filepath.Join(s.dir, "logs", name+".log")}
	s.all = append(s.all, p)
	return p, p.start()
}

// command runs a short command and returns what it prints.
func (s *stage) command(ctx context.Context, program string, args ...string) (string, error) {
	return s.commandWith(ctx, "", program, args...)
}

// commandWith gives it words on its standard input.
func (s *stage) commandWith(ctx context.Context, in, program string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	c.Stdin = strings.NewReader(in)
	var out, words bytes.Buffer
	c.Stdout, c.Stderr = &out, &words
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, words.String())
	}
	return out.String(), nil
}

// await asks until ok says true, or the time is over.
func await(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		done, err := ok()
		if done {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, errors.Join(ctx.Err(), last))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// close ends everything, the network last.
func (s *stage) close() {
	for i := len(s.all) - 1; i >= 0; i-- {
		s.all[i].stop()
	}
}

// printLogs shows the end of every log, when something went wrong.
func (s *stage) printLogs() {
	for _, p := range s.all {
		b, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		if len(b) > 3000 {
			b = b[len(b)-3000:]
		}
		fmt.Fprintf(os.Stderr, "\n--- %s\n%s", p.log, b)
	}
}
