// SPDX-License-Identifier: Apache-2.0

package tornet

import (
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/cretz/bine/control"
)

// torrc is the configuration of one process. Each line is there for a reason found by leaving it out (facts/tor.md).
func (n *Network) torrc(r *relay) string {
	var b strings.Builder
	w := func(f string, a ...any) { fmt.Fprintf(&b, f+"\n", a...) }
	w("TestingTorNetwork 1")
	w("DataDirectory \"%s\"", strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(r.dir))
	w("Nickname %s", r.name)
	w("Address 127.0.0.1") // without it an authority exits at once
	w("ORPort 127.0.0.1:%d IPv4Only", r.orPort)
	w("SocksPort 0")
	w("ControlSocket %s", n.control(r))
	w("CookieAuthentication 1")
	w("CookieAuthFile %s", n.control(r)+".cookie")
	w("ExitRelay 0")
	w("ExitPolicy reject *:*")
	w("AssumeReachable 1") // without it relays never publish before there is a consensus
	w("ContactInfo none@localhost")
	w("PathsNeededToBuildCircuits 0.25")
	w("ShutdownWaitLength 0")
	w("NumCPUs 1")
	w("Log notice stdout")
	w("__OwningControllerProcess %d", os.Getpid())
	w("Schedulers Vanilla")
	if r.dirPort != 0 {
		w("AuthoritativeDirectory 1")
		w("V3AuthoritativeDirectory 1")
		w("DirPort 127.0.0.1:%d IPv4Only", r.dirPort)
		w("TestingV3AuthInitialVotingInterval %d", votingInterval)
		w("TestingV3AuthVotingStartOffset %d", n.offset)
		w("TestingV3AuthInitialVoteDelay 2")
		w("TestingV3AuthInitialDistDelay 2")
		w("V3AuthVotingInterval %d", votingInterval)
		w("V3AuthVoteDelay 2")
		w("V3AuthDistDelay 2")
		w("V3AuthNIntervalsValid 10")
		w("TestingDirAuthVoteGuard *")
		w("TestingDirAuthVoteHSDir *")
		w("AuthDirTestReachability 0")
	}
	for _, l := range n.lines {
		w("%s", l)
	}
	return b.String()
}

func (n *Network) control(r *relay) string { return filepath.Join(n.sock, r.name) }

// bandwidthState seeds a process's bandwidth history. A fresh relay advertises none; when the authority has measured
// 1 kB/s of itself and 0 of the others, every client hangs at 95 %.
func bandwidthState(now time.Time) string {
	var b strings.Builder
	ends := now.UTC().Format("2006-01-02 15:04:05")
	for _, d := range []string{"Read", "Write"} {
		fmt.Fprintf(&b, "BWHistory%sEnds %s\nBWHistory%sInterval 86400\nBWHistory%sValues 1000000000,1000000000\nBWHistory%sMaxima 10000000,10000000\n", d, ends, d, d, d)
	}
	return b.String()
}

func (n *Network) spawnAll(rs []*relay) error {
	for _, r := range rs {
		if err := n.spawn(r); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) spawn(r *relay) error {
	rc, empty := filepath.Join(r.dir, "torrc"), filepath.Join(r.dir, "empty")
	err := errors.Join(
		os.WriteFile(rc, []byte(n.torrc(r)), 0o600),
		os.WriteFile(empty, nil, 0o600),
		os.WriteFile(filepath.Join(r.dir, "state"), []byte(bandwidthState(time.Now())), 0o600),
	)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(r.dir, "tor.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	r.cmd = exec.Command(n.cfg.TorPath, "-f", rc, "--defaults-torrc", empty, "--hush")
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.Dir = r.dir
	r.cmd.SysProcAttr = childAttr()
	r.done = make(chan struct{})
	started := make(chan error)
	go func() {
		// To the kernel the parent is this thread, not the process: it must live as long as tor.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := r.cmd.Start()
		started <- err
		if err == nil {
			r.err = r.cmd.Wait()
			close(r.done)
			n.mourning.Do(func() { close(n.died) })
		}
	}()
	if err := <-started; err != nil {
		r.done = nil // there is nothing to end
		return fmt.Errorf("start %s: %w", r.name, err)
	}
	return nil
}

// ctl is a control connection that owns its tor: when it closes, tor ends.
type ctl struct {
	nc   net.Conn
	conn *control.Conn
}

// dialControl opens and keeps the control connection of r.
func (n *Network) dialControl(r *relay) (*ctl, error) {
	if r.ctl != nil {
		return r.ctl, nil
	}
	nc, err := net.Dial("unix", n.control(r))
	if err != nil {
		return nil, err
	}
	c := &ctl{nc, control.NewConn(textproto.NewConn(nc))}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	if err := errors.Join(c.conn.Authenticate(""), c.conn.TakeOwnership()); err != nil {
		nc.Close()
		return nil, fmt.Errorf("control %s: %w", r.name, err)
	}
	r.ctl = c
	return c, nil
}

// cmd sends a command and returns the reply's text.
func (c *ctl) cmd(line string) (string, error) {
	c.nc.SetDeadline(time.Now().Add(30 * time.Second))
	resp, err := c.conn.SendRequest("%s", line)
	if err != nil {
		return "", err
	}
	return strings.Join(resp.DataWithReply(), "\n"), nil
}

func (c *ctl) close() { c.nc.Close() }
