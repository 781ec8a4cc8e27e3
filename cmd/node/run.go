// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"tarn/configs"
	"tarn/internal/cli"
	"tarn/internal/control"
	"tarn/internal/durable"
	"tarn/onion"
)

// banner is loud on purpose: whoever can reach the port can make accounts.
const banner = `
  *******************************************************************
  *  OPEN REGISTRATION IS ON: every program on this machine, and    *
  *  every web page open in a browser on it, can make an account.   *
  *  client.open_registration = false in node.toml ends that.       *
  *******************************************************************

`

// gcPercent lets the heap grow by half of what lives in it before garbage is collected, not by as much again: a node does little
// most of the time, and its memory is somebody's small machine's. A limit in bytes would not do: beyond it, in a large
// database, the collector would work all the time.
const gcPercent = 50

// cmdRun runs the node until a signal.
func cmdRun(ctx context.Context, e cli.Env, args []string) (err error) {
	f := program.Flags(e, "run")
	if err := f.NoWords(args); err != nil {
		return err
	}
	cfg, err := loadConfig(f.Config)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	n, err := openAlone(ctx, cfg, e.Err)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if cfg.Client.OpenRegistration {
		fmt.Fprint(e.Err, banner)
	}
	if cfg.Tor.Mode == "off" {
		fmt.Fprintln(e.Err, "Tor is off in the configuration: clients can talk to each other here, nothing leaves or arrives.")
	} else if len(cfg.Mailboxes) == 0 {
		fmt.Fprintln(e.Err, "No mailbox is configured: nothing can arrive from other nodes. `node mailbox add LINE` adds one.")
	}
	fmt.Fprintf(e.Err, "Clients connect to %s\n", cfg.Client.URL())
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if cfg.Tor.Mode != "off" {
		go n.sayTor(ctx, e)
	}
	return n.run(ctx)
}

// openAlone opens the node. Data that another process has, and does not serve, are a command's, or of a node that
// stops: that takes a moment.
func openAlone(ctx context.Context, cfg configs.Node, log io.Writer) (*node, error) {
	for end := time.Now().Add(patience); ; {
		n, err := openMade(cfg, log)
		if !errors.Is(err, durable.ErrLocked) || time.Now().After(end) {
			return n, err
		}
		if serr := control.Call(ctx, filepath.Join(cfg.DataDir, socketName), "status", nil, nil); !errors.Is(serr, control.ErrNotRunning) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// sayTor tells the person at the terminal how the connection to Tor comes along, a line a change.
func (n *node) sayTor(ctx context.Context, e cli.Env) {
	said := ""
	n.tor.Follow(ctx, func(st onion.Status) {
		s := torStatus(st)
		if line := strings.TrimSuffix(strings.TrimSuffix(s.Summary, ".")+". "+s.Advice, " "); line != said {
			fmt.Fprintln(e.Err, line)
			said = line
		}
	})
}
