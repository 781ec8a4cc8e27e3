// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"tarn/internal/cli"

	"tarn/onion"
	"tarn/replicate"
)

type nodeStatus struct {
	Address   string          `json:"address"`
	ClientURL string          `json:"client_url"`
	Uptime    string          `json:"uptime"`
	Tor       torState        `json:"tor"`
	Profile   string          `json:"profile"`
	Delay     string          `json:"expected_delay"`
	MBADay    float64         `json:"mb_a_day"`
	Mailboxes []mailboxStatus `json:"mailboxes"`
	Contacts  []contactStatus `json:"contacts"`
	DiskFree  int64           `json:"disk_free"` // bytes
	DiskFull  bool            `json:"disk_full"` // too few: nothing is written
}

type torState struct {
	State   string `json:"state"`
	Percent int    `json:"percent"`
	Summary string `json:"summary"`
	Advice  string `json:"advice,omitempty"`
}

type mailboxStatus struct {
	Address  string    `json:"address"`
	Own      bool      `json:"own"`
	LastGood time.Time `json:"last_good,omitzero"`
	Problem  string    `json:"problem,omitempty"`
}

type contactStatus struct {
	ID        string    `json:"id,omitempty"`     // of a link, for `node forget`
	Server    string    `json:"server,omitempty"` // not known yet while an invitation waits
	State     string    `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Check     string    `json:"check,omitempty"` // both sides see the same number
	LastHeard time.Time `json:"last_heard,omitzero"`
	Waiting   int       `json:"waiting"` // items in the outbox
	Unacked   int       `json:"unacked"` // boxes written, not acknowledged yet
	Delay     string    `json:"expected_delay,omitempty"`
}

func torStatus(s onion.Status) torState {
	advice := s.Reason.Advice()
	if strings.Contains(s.Summary, advice) {
		advice = ""
	}
	advice = strings.TrimSpace(advice + " " + s.Warning)
	return torState{State: string(s.State), Percent: s.Percent, Summary: s.Summary, Advice: advice}
}

func newContactStatus(c replicate.ContactStatus) contactStatus {
	return contactStatus{
		ID: c.ID, Server: string(c.Name), State: string(c.State), Reason: c.Reason, Check: c.Number, LastHeard: c.LastHeard,
		Waiting: c.Waiting, Unacked: c.Unacked, Delay: round(c.ExpectedDelay),
	}
}

func round(d time.Duration) string {
	if d >= 10*time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func (n *node) contacts() ([]contactStatus, error) {
	cs, err := n.engine.Contacts()
	out := make([]contactStatus, len(cs))
	for i, c := range cs {
		out[i] = newContactStatus(c)
	}
	return out, err
}

func (n *node) status() (nodeStatus, error) {
	p, stores := n.profile, n.engine.Stores()
	bucket := time.Duration(0)
	for _, m := range stores {
		bucket = max(bucket, m.Bucket)
	}
	if bucket == 0 {
		bucket = 10 * time.Second // no mailbox told yet: the usual one
	}
	s := nodeStatus{
		Address: string(n.id.name), ClientURL: n.cfg.Client.URL(), Uptime: time.Since(n.started).Round(time.Second).String(),
		Tor: torStatus(n.tor.Status()), Profile: p.Name, Delay: round(p.ExpectedDelay(replicate.Direct, 1, bucket)), MBADay: float64(p.BytesPerDay(replicate.Direct)) / 1e6,
		Mailboxes: []mailboxStatus{},
	}
	for _, m := range stores {
		s.Mailboxes = append(s.Mailboxes, mailboxStatus{Address: m.Address.String(), Own: m.Own, LastGood: m.LastSuccess, Problem: m.Problem})
	}
	var err error
	if s.DiskFree, err = cli.DiskFree(n.cfg.DataDir); err != nil {
		return s, err
	}
	s.DiskFull = s.DiskFree < diskReserve
	s.Contacts, err = n.contacts()
	return s, err
}

func cmdStatus(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "status")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var s nodeStatus
	if err := call(ctx, f.Config, "status", false, nil, &s); err != nil {
		return err
	}
	return f.Show(e, s, func(w io.Writer) { printStatus(w, s) })
}

func printStatus(w io.Writer, s nodeStatus) {
	fmt.Fprintf(w, "address   %s\nclients   %s\nrunning   %s\n", s.Address, s.ClientURL, s.Uptime)
	fmt.Fprintf(w, "tor       %s: %s\n", s.Tor.State, s.Tor.Summary)
	if s.Tor.Advice != "" {
		fmt.Fprintf(w, "          %s\n", s.Tor.Advice)
	}
	fmt.Fprintf(w, "profile   %s: a message takes about %s, traffic %.0f MB a day\n", s.Profile, s.Delay, s.MBADay)
	if s.DiskFull {
		fmt.Fprintf(w, "disk      full: %d MiB are free, %d are needed; until then nothing is kept, sent or received\n", s.DiskFree>>20, diskReserve>>20)
	}
	for _, m := range s.Mailboxes {
		state := "not reached yet"
		if !m.LastGood.IsZero() {
			state = "reached " + ago(m.LastGood)
		}
		if m.Problem != "" {
			state += "; " + m.Problem
		}
		fmt.Fprintf(w, "mailbox   %s\n          %s\n", m.Address, state)
	}
	printContacts(w, s.Contacts)
}

func printContacts(w io.Writer, cs []contactStatus) {
	if len(cs) == 0 {
		fmt.Fprintln(w, "contacts  none: `node invite` makes a link")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CONTACT\tSTATE\tCHECK\tHEARD\tWAITING\tUNACKNOWLEDGED\tDELAY")
	for _, c := range cs {
		name, state, heard := c.Server, c.State, "never"
		if name == "" {
			name = "link " + c.ID
		}
		if c.Reason != "" {
			state += ": " + c.Reason
		}
		if !c.LastHeard.IsZero() {
			heard = ago(c.LastHeard)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", name, state, c.Check, heard, c.Waiting, c.Unacked, c.Delay)
	}
	tw.Flush()
}

func ago(t time.Time) string { return time.Since(t).Round(time.Second).String() + " ago" }
