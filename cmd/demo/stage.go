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

	"golang.org/x/sync/errgroup"
)

// The demo's schedule: quick enough to watch.
var schedule = []string{"--profile", "custom", "--frame", "1s", "--mix", "200ms", "--lag", "1500ms", "--push", "500ms",
	"--digests", "2", "--cover-put", "0.3", "--ack-delay", "1s", "--rewrite", "8s"}

// build starts the network, the mailboxes and the nodes, and introduces the nodes.
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
	s.say("starting two mailboxes that keep boxes, and two that carry requests to them")
	for i := range 2 {
		store, err := s.buildMailbox(ctx, fmt.Sprintf("mailbox-store-%d", i+1), "--courier=false", "--digest-bucket", "250ms")
		if err != nil {
			return err
		}
		courier, err := s.buildMailbox(ctx, fmt.Sprintf("mailbox-courier-%d", i+1), "--store=false", "--max-frames", "20")
		if err != nil {
			return err
		}
		s.stores, s.couriers = append(s.stores, store), append(s.couriers, courier)
	}
	for i, name := range names {
		if err := s.buildNode(ctx, i, name); err != nil {
			return err
		}
	}
	for _, n := range s.nodes {
		if err := s.ready(ctx, n); err != nil {
			return err
		}
	}
	// Alice and carol are no contacts of each other.
	var both errgroup.Group
	for i := range 2 {
		both.Go(func() error { return s.introduce(ctx, i, i+1) })
	}
	return both.Wait()
}

// names are the users', and their nodes'.
var names = []string{"alice", "bob", "carol"}

// file waits for a file that another program writes when it is ready.
func (s *stage) file(ctx context.Context, name string, limit time.Duration) error {
	return await(ctx, limit, name, func() (bool, error) {
		_, err := os.Stat(name)
		return err == nil, err
	})
}

// buildMailbox starts one mailbox: each is of an operator of its own.
func (s *stage) buildMailbox(ctx context.Context, name string, args ...string) (*hosted, error) {
	m := &hosted{config: filepath.Join(s.dir, name, "mailbox.toml")}
	args = append([]string{"init", "--dir", filepath.Dir(m.config), "--torrc", s.torrc, "--family", name}, args...)
	if _, err := s.command(ctx, "mailbox", args...); err != nil {
		return nil, err
	}
	line, err := s.command(ctx, "mailbox", "address", "--config", m.config, "--no-qr")
	if err != nil {
		return nil, err
	}
	m.line = strings.TrimSpace(line)
	m.process, err = s.spawn(name, "mailbox", "run", "--config", m.config)
	return m, err
}

func (s *stage) buildNode(ctx context.Context, i int, name string) (err error) {
	port, err := freePort()
	if err != nil {
		return err
	}
	n := &homeserver{config: filepath.Join(s.dir, name, "node.toml")}
	args := append([]string{"init", "--json", "--dir", filepath.Dir(n.config), "--user", name,
		"--listen", fmt.Sprintf("127.0.0.1:%d", port), "--torrc", s.torrc}, schedule...)
	for i := range s.stores {
		args = append(args, "--mailbox", s.stores[i].line, "--courier", s.couriers[i].line)
	}
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
	Mode      string
	Mailboxes []struct {
		LastGood time.Time `json:"last_good"`
		Problem  string
	}
	Couriers []struct {
		Connected bool
		Problem   string
	}
	Contacts []contact
}

type contact struct {
	Server, State, Reason, Check string
	Unacked                      int
}

// contact is what is known of another node; nothing if it is none yet.
func (s status) contact(n *homeserver) contact {
	for _, c := range s.Contacts {
		if c.Server == n.address {
			return c
		}
	}
	return contact{Reason: "no contact yet"}
}

func (s *stage) status(ctx context.Context, n *homeserver) (st status, err error) {
	out, err := s.command(ctx, "node", "status", "--json", "--config", n.config)
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(out), &st)
}

// boxes is how many boxes the mailboxes keep.
func (s *stage) boxes(ctx context.Context) (sum int, err error) {
	for _, m := range s.stores {
		out, err := s.command(ctx, "mailbox", "status", "--json", "--config", m.config)
		if err != nil {
			return 0, err
		}
		var st struct{ Boxes int }
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return 0, err
		}
		sum += st.Boxes
	}
	return sum, nil
}

// ready waits until the node has sessions with both couriers and has spoken through them with the mailboxes.
func (s *stage) ready(ctx context.Context, n *homeserver) error {
	return await(ctx, 3*time.Minute, n.name+"'s node to reach the mailboxes", func() (bool, error) {
		st, err := s.status(ctx, n)
		if err != nil {
			return false, err
		}
		good := 0
		for _, m := range st.Mailboxes {
			if !m.LastGood.IsZero() {
				good++
			}
		}
		for _, c := range st.Couriers {
			if c.Connected {
				good++
			}
		}
		if good < len(s.stores)+len(s.couriers) {
			return false, fmt.Errorf("tor %s (%s), mode %s, mailboxes %+v, couriers %+v", st.Tor.State, st.Tor.Summary, st.Mode, st.Mailboxes, st.Couriers)
		}
		return true, nil
	})
}

// introduce makes two nodes contacts, as their owners would.
func (s *stage) introduce(ctx context.Context, inviter, other int) error {
	out, err := s.command(ctx, "node", "invite", "--no-qr", "--config", s.nodes[inviter].config)
	if err != nil {
		return err
	}
	link := strings.TrimSpace(out)
	s.say("%s's node made a link of %d bytes, %s's node accepts it", names[inviter], len(link), names[other])
	if _, err := s.command(ctx, "node", "accept", "--config", s.nodes[other].config, link); err != nil {
		return err
	}
	var checks [2]string
	for i, pair := range [2][2]*homeserver{{s.nodes[inviter], s.nodes[other]}, {s.nodes[other], s.nodes[inviter]}} {
		if err := await(ctx, 3*time.Minute, "the nodes to become contacts", func() (bool, error) {
			st, err := s.status(ctx, pair[0])
			if err != nil {
				return false, err
			}
			c := st.contact(pair[1])
			checks[i] = c.Check
			return c.State == "active" && c.Check != "", errors.New(c.State + ": " + c.Reason)
		}); err != nil {
			return err
		}
	}
	if checks[0] != checks[1] {
		return fmt.Errorf("the check numbers differ: %q, %q", checks[0], checks[1])
	}
	s.say("%s's and %s's nodes are contacts; both show the check number %s", names[inviter], names[other], checks[0])
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
