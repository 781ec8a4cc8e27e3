// SPDX-License-Identifier: Apache-2.0

// Package tornet runs a private Tor network on loopback: a directory authority and relays, for tests and the demo.
//
// Problem: onion services behave like nothing else (publication, isolation, dials that hang), so tests must meet the
// real thing; but the public Tor network is slow, not always there, and not ours to load with tests.
//
// What it does: [Start] runs 5 tor processes (1 authority, 4 relays) on 127.0.0.1 with unused ports and returns when
// clients can join, after some 8 to 12 s; ClientTorrc are the lines a client's torrc needs for it. Fewer than 4
// processes do not work: an onion service's circuits need 4 different relays. About 100 MB of memory in all, no CPU
// to speak of when idle.
//
// Invariants: nothing connects to anything outside of 127.0.0.0/8; the processes end with Close, or with the process
// that started them, however it ends.
//
// Data: Config.Dir/da0, /r0, … one directory a process, made anew at each start; Config.Dir/keys, the keys of all,
// reused for 300 days (making them takes 3 s); the control sockets lie in a short temporary directory.
//
// Not for anything but tests: everybody on this computer can read what runs here, and anonymity among 5 processes of
// one owner is none.
package tornet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"tarn/internal/durable"
)

// ErrMissing: tor or tor-gencert is not installed.
var ErrMissing = errors.New("tor and tor-gencert are needed (apt-get install -y --no-install-recommends tor)")

// Config says what network to run. The zero value but for Dir is right.
type Config struct {
	Dir         string       // all its files; created, 0700, locked against a second network
	Authorities int          // directory authorities; 0: 1
	Relays      int          // beside them; 0: 4. At least 4 processes in all
	TorPath     string       // "": found
	GencertPath string       // "": found
	KeyCache    string       // where keys are kept from start to start; "": Dir/keys
	Log         *slog.Logger // progress at Debug; nil: nothing
}

// Network is a running network.
type Network struct {
	cfg    Config
	unlock func() error
	sock   string   // directory of control sockets
	procs  []*relay // authorities first
	lines  []string // DirAuthority
	offset int64    // voting schedule, s
	log    *slog.Logger

	closing  sync.Once
	mourning sync.Once
	died     chan struct{} // closed by mourning
}

// relay is one tor process; an authority is one with a dirPort.
type relay struct {
	name    string
	dir     string
	orPort  int
	dirPort int    // authorities only
	id      string // fingerprint, 40 hex digits
	v3ident string // authorities only
	cmd     *exec.Cmd
	ctl     *ctl
	done    chan struct{}
	err     error // once done is closed
}

// votingInterval in s: must divide 1800, and so long that a test sees one vote only. The consensus is good for 10.
const votingInterval = 1800

// Start runs a network and returns when clients can join it; ctx's end before that stops it (allow 120 s on a busy
// machine). The steps and their order are measured, not guessed (facts/tor.md §1): a relay that starts before the
// authority listens, or a vote before all descriptors are there, costs half an hour of waiting for the next.
func Start(ctx context.Context, cfg Config) (*Network, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("private Tor network: %w", err)
	}
	unlock, err := durable.Lock(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("private Tor network: %w", err)
	}
	n := &Network{cfg: cfg, unlock: unlock, died: make(chan struct{}), log: cfg.Log}
	if err := n.start(ctx); err != nil {
		err = fmt.Errorf("private Tor network: %w", errors.Join(err, n.firstDeath()))
		n.Close()
		return nil, err
	}
	return n, nil
}

func (c *Config) fill() (err error) {
	if c.Authorities == 0 {
		c.Authorities = 1
	}
	if c.Relays == 0 {
		c.Relays = 4
	}
	if c.Authorities < 1 || c.Relays < 0 || c.Authorities+c.Relays < 4 || c.Authorities+c.Relays > 30 {
		return fmt.Errorf("private Tor network: %d authorities and %d relays: want 4 to 30 processes", c.Authorities, c.Relays)
	}
	if c.Dir == "" {
		return errors.New("private Tor network: no directory")
	}
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return err
	}
	if c.KeyCache == "" {
		c.KeyCache = filepath.Join(c.Dir, "keys")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, p := range []struct {
		path *string
		name string
	}{{&c.TorPath, "tor"}, {&c.GencertPath, "tor-gencert"}} {
		if *p.path == "" {
			if *p.path, err = find(p.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// find looks for a program in PATH and where Debian has it (outside of a user's PATH).
func find(name string) (string, error) {
	for _, p := range []string{name, "/usr/sbin/" + name, "/usr/bin/" + name, "/usr/local/bin/" + name, "/opt/homebrew/bin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: no %s", ErrMissing, name)
}

func (n *Network) start(ctx context.Context) error {
	began := time.Now()
	step := func(what string) { n.log.Debug("private Tor network", "step", what, "after", time.Since(began)) }
	if err := n.lay(); err != nil {
		return err
	}
	if err := n.makeKeys(ctx); err != nil {
		return err
	}
	step("keys")
	// Half an interval away: no authority votes before we say so.
	n.offset = (time.Now().Unix() + votingInterval/2) % votingInterval
	auths, relays := n.procs[:n.cfg.Authorities], n.procs[n.cfg.Authorities:]
	if err := n.spawnAll(auths); err != nil {
		return err
	}
	// Relays upload their descriptor once, 1 to 2 s after their start: the authorities must listen by then.
	if err := n.waitDirPorts(ctx); err != nil {
		return err
	}
	step("authorities")
	if err := n.spawnAll(relays); err != nil {
		return err
	}
	if err := n.waitDescriptors(ctx); err != nil {
		return err
	}
	step("descriptors")
	if err := n.vote(ctx); err != nil {
		return err
	}
	if err := n.waitConsensus(ctx); err != nil {
		return err
	}
	step("consensus")
	if err := n.spread(ctx); err != nil {
		return err
	}
	step("ready")
	return nil
}

// lay chooses names, directories and ports.
func (n *Network) lay() error {
	ports, err := freePorts(2*n.cfg.Authorities + n.cfg.Relays)
	if err != nil {
		return err
	}
	next := func() int { p := ports[0]; ports = ports[1:]; return p }
	for i := range n.cfg.Authorities + n.cfg.Relays {
		r := &relay{name: fmt.Sprintf("r%d", i-n.cfg.Authorities), orPort: next()}
		if i < n.cfg.Authorities {
			r.name, r.dirPort = fmt.Sprintf("da%d", i), next()
		}
		r.dir = filepath.Join(n.cfg.Dir, r.name)
		if err := errors.Join(os.RemoveAll(r.dir), os.MkdirAll(r.dir, 0o700)); err != nil {
			return err
		}
		n.procs = append(n.procs, r)
	}
	return n.makeSocketDir()
}

// socketPrefix begins the names of directories of control sockets.
const socketPrefix = "tarn-tornet-sockets-"

// makeSocketDir makes n.sock where names are short (those of unix sockets have at most 107 bytes), and removes that of
// an earlier network in n.cfg.Dir that was killed: we hold the lock.
func (n *Network) makeSocketDir() (err error) {
	note := filepath.Join(n.cfg.Dir, "sockets")
	if b, err := os.ReadFile(note); err == nil {
		if old := strings.TrimSpace(string(b)); filepath.IsAbs(old) && strings.HasPrefix(filepath.Base(old), socketPrefix) {
			os.RemoveAll(old)
		}
	}
	for _, base := range []string{os.TempDir(), "/tmp"} {
		if len(base) < 60 {
			if n.sock, err = os.MkdirTemp(base, socketPrefix); err != nil {
				return err
			}
			return os.WriteFile(note, []byte(n.sock+"\n"), 0o600)
		}
	}
	return errors.New("no temporary directory with a short name")
}

// freePorts are k unused loopback TCP ports: all are held until all are chosen, so they differ. Between here and
// tor's start another program can take one; then tor ends with "Address already in use", and the start fails.
func freePorts(k int) ([]int, error) {
	var out []int
	for range k {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

// ClientTorrc are the lines for the torrc of a client or an onion service of this network (onion.Config.Torrc).
func (n *Network) ClientTorrc() []string {
	return append([]string{
		"TestingTorNetwork 1",
		"PathsNeededToBuildCircuits 0.25",
		"ShutdownWaitLength 0",
		"Schedulers Vanilla", // else 16 ms a cell: KIST wakes every 10 ms
	}, n.lines...)
}

// WriteClientTorrc writes ClientTorrc into the file path (onion.Config.TorrcFile), whole or not at all.
func (n *Network) WriteClientTorrc(path string) error {
	text := "# A private Tor network on this computer, for tests: no anonymity. Ports change at each start.\n" +
		strings.Join(n.ClientTorrc(), "\n") + "\n"
	return durable.WriteFile(path, []byte(text), 0o644)
}

// Done is closed when a process has ended by itself; Err then says which.
func (n *Network) Done() <-chan struct{} { return n.died }

// Err is why Done was closed, nil before that.
func (n *Network) Err() error { return n.firstDeath() }

// firstDeath is an error with the last words of the first process that has ended.
func (n *Network) firstDeath() error {
	for _, r := range n.procs {
		if r.done == nil {
			continue
		}
		select {
		case <-r.done:
			log, _ := os.ReadFile(filepath.Join(r.dir, "tor.log"))
			if len(log) > 4096 {
				log = log[len(log)-4096:]
			}
			return fmt.Errorf("%s ended: %w\n%s", r.name, errors.Join(errors.New("not asked to"), r.err), log)
		default:
		}
	}
	return nil
}

// Close ends all processes and waits for that. The files stay.
func (n *Network) Close() error {
	var err error
	n.closing.Do(func() {
		for _, r := range n.procs {
			if r.ctl != nil {
				r.ctl.close()
			}
			if r.done != nil {
				r.cmd.Process.Signal(syscall.SIGKILL) // nothing of theirs is worth an orderly end
			}
		}
		for _, r := range n.procs {
			if r.done != nil {
				<-r.done
			}
		}
		if n.sock != "" {
			err = os.RemoveAll(n.sock)
		}
		err = errors.Join(err, n.unlock())
	})
	return err
}

// poll calls f every 50 ms until it returns true, ctx ends, or a process dies.
func (n *Network) poll(ctx context.Context, what string, f func() (bool, error)) error {
	for {
		ok, err := f()
		if ok {
			return nil
		}
		if n.firstDeath() != nil { // Start tells of it
			return fmt.Errorf("wait for %s", what)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (%v)", what, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
