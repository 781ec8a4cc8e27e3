// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The demo's schedule: quick enough to watch. Each frame is three circuits of the private network.
var schedule = []string{"--profile", "custom", "--frame", "1s", "--digests", "2", "--cover-put", "0.3", "--ack-delay", "1s", "--rewrite", "8s"}

// build starts the network, the mailbox and the nodes, and introduces the nodes.
func (s *stage) build(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(s.dir, "logs"), 0o700); err != nil {
		return err
	}
	s.say("starting a private Tor network on loopback")
	tordir := filepath.Join(s.dir, "tornet")
	if _, err := s.spawn("tornet", "tornet", "--dir", tordir); err != nil {
		return err
	}
	s.torrc = filepath.Join(tordir, "client.torrc")
	if err := s.file(ctx, s.torrc, 3*time.Minute); err != nil {
		return err
	}
	if err := s.buildMailbox(ctx); err != nil {
		return err
	}
	for i, name := range []string{"alice", "bob"} {
		if err := s.buildNode(ctx, i, name); err != nil {
			return err
		}
	}
	for _, n := range s.nodes {
		if err := s.ready(ctx, n); err != nil {
			return err
		}
	}
	return s.introduce(ctx)
}

// file waits for a file that another program writes when it is ready.
func (s *stage) file(ctx context.Context, name string, limit time.Duration) error {
	return await(ctx, limit, name, func() (bool, error) {
		_, err := os.Stat(name)
		return err == nil, err
	})
}

func (s *stage) buildMailbox(ctx context.Context) (err error) {
	s.say("starting the mailbox")
	config := filepath.Join(s.dir, "mailbox", "mailbox.toml")
	if _, err := s.command(ctx, "mailbox", "init", "--dir", filepath.Dir(config), "--torrc", s.torrc, "--digest-bucket", "500ms"); err != nil {
		return err
	}
	if s.line, err = s.command(ctx, "mailbox", "address", "--config", config, "--no-qr"); err != nil {
		return err
	}
	s.line = strings.TrimSpace(s.line)
	s.mailboxConfig = config
	s.mailbox, err = s.spawn("mailbox", "mailbox", "run", "--config", config)
	return err
}

func (s *stage) buildNode(ctx context.Context, i int, name string) (err error) {
	port, err := freePort()
	if err != nil {
		return err
	}
	n := &homeserver{config: filepath.Join(s.dir, name, "node.toml")}
	args := append([]string{"init", "--json", "--dir", filepath.Dir(n.config), "--user", name, "--mailbox", s.line,
		"--listen", fmt.Sprintf("127.0.0.1:%d", port), "--torrc", s.torrc}, schedule...)
	out, err := s.command(ctx, "node", args...)
	if err != nil {
		return err
	}
	var res struct {
		Address string `json:"address"`
		URL     string `json:"client_url"`
		User    struct{ User, Password string }
	}
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		return fmt.Errorf("node init: %w: %s", err, out)
	}
	n.address, n.url, n.user, n.password = res.Address, res.URL, res.User.User, res.User.Password
	s.nodes[i] = n
	s.say("starting %s's node, client URL %s", name, n.url)
	n.process, err = s.spawn(name, "node", "run", "--config", n.config)
	return err
}

// freePort finds a port of loopback that nobody uses now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

type status struct {
	Tor       struct{ State, Summary string }
	Mailboxes []struct {
		LastGood time.Time `json:"last_good"`
		Problem  string
	}
	Contacts []struct {
		State, Reason, Check string
		Unacked              int
	}
}

func (s *stage) status(ctx context.Context, n *homeserver) (st status, err error) {
	out, err := s.command(ctx, "node", "status", "--json", "--config", n.config)
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(out), &st)
}

// mailboxBoxes is how many boxes the mailbox keeps.
func (s *stage) mailboxBoxes(ctx context.Context) (int, error) {
	out, err := s.command(ctx, "mailbox", "status", "--json", "--config", s.mailboxConfig)
	if err != nil {
		return 0, err
	}
	var st struct{ Boxes int }
	return st.Boxes, json.Unmarshal([]byte(out), &st)
}

// ready waits until the node has spoken with the mailbox.
func (s *stage) ready(ctx context.Context, n *homeserver) error {
	return await(ctx, 3*time.Minute, n.name+"'s node to reach the mailbox", func() (bool, error) {
		st, err := s.status(ctx, n)
		if err != nil || len(st.Mailboxes) == 0 {
			return false, err
		}
		if st.Mailboxes[0].LastGood.IsZero() {
			return false, fmt.Errorf("tor %s (%s), mailbox: %s", st.Tor.State, st.Tor.Summary, st.Mailboxes[0].Problem)
		}
		return true, nil
	})
}

// introduce makes the two nodes contacts, as their owners would.
func (s *stage) introduce(ctx context.Context) error {
	out, err := s.command(ctx, "node", "invite", "--no-qr", "--config", s.nodes[0].config)
	if err != nil {
		return err
	}
	link := strings.TrimSpace(out)
	s.say("alice's node made a link of %d bytes, bob's node accepts it", len(link))
	if _, err := s.command(ctx, "node", "accept", "--config", s.nodes[1].config, link); err != nil {
		return err
	}
	var checks [2]string
	for i, n := range s.nodes {
		if err := await(ctx, 3*time.Minute, "the nodes to become contacts", func() (bool, error) {
			st, err := s.status(ctx, n)
			if err != nil || len(st.Contacts) != 1 {
				return false, err
			}
			c := st.Contacts[0]
			checks[i] = c.Check
			return c.State == "active" && c.Check != "", errors.New(c.State + ": " + c.Reason)
		}); err != nil {
			return err
		}
	}
	if checks[0] != checks[1] {
		return fmt.Errorf("the check numbers differ: %q, %q", checks[0], checks[1])
	}
	s.say("the nodes are contacts; both show the check number %s", checks[0])
	return nil
}

// invitePerson says how to log in.
func (s *stage) invitePerson() {
	fmt.Println("\nEverything stays up until Ctrl-C. Log in with any Matrix client (homeserver URL, user, password):")
	for _, n := range s.nodes {
		fmt.Printf("  %s  %s  %s\n", n.url, n.user, n.password)
	}
	fmt.Printf("Status: %s status --config %s\n", filepath.Join(s.bin, "node"), s.nodes[0].config)
}
