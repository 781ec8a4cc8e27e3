// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// banner is loud on purpose: whoever can reach the port can make accounts.
const banner = `
  *******************************************************************
  *  OPEN REGISTRATION IS ON: every program on this machine that    *
  *  reaches the client address can make an account on this node.   *
  *  client.open_registration = false in node.toml ends that.       *
  *******************************************************************

`

// cmdRun runs the node until a signal.
func cmdRun(ctx context.Context, e env, args []string) (err error) {
	f := newFlags(e, "run")
	if _, err := f.parse(args, 0, "no arguments"); err != nil {
		return err
	}
	cfg, err := loadConfig(f.config)
	if err != nil {
		return err
	}
	n, err := open(cfg, e.err)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if cfg.Client.OpenRegistration {
		fmt.Fprint(e.err, banner)
	}
	if cfg.Tor.Mode == "off" {
		fmt.Fprintln(e.err, "Tor is off in the configuration: clients can talk to each other here, nothing leaves or arrives.")
	} else if len(cfg.Mailboxes) == 0 {
		fmt.Fprintln(e.err, "No mailbox is configured: nothing can arrive from other nodes. `node mailbox add LINE` adds one.")
	}
	fmt.Fprintf(e.err, "Clients connect to %s\n", cfg.Client.URL())
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if cfg.Tor.Mode != "off" {
		go n.sayTor(ctx, e)
	}
	return n.run(ctx)
}

// sayTor tells the person at the terminal how the connection to Tor comes along, a line a change.
func (n *node) sayTor(ctx context.Context, e env) {
	said := ""
	for {
		changed := n.tor.Changed()
		s := torStatus(n.tor.Status())
		line := strings.TrimSuffix("Tor: "+s.Summary+" "+s.Advice, " ")
		if line != said {
			fmt.Fprintln(e.err, line)
			said = line
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
