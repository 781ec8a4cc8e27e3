// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"tarn/configs"
	"tarn/internal/cli"
	"tarn/internal/control"
	"tarn/mailbox/courier"
	"tarn/mailbox/store"
	"tarn/onion"
)

// status is what a running mailbox says of itself: sums only.
type status struct {
	Address string            `json:"address"`
	Uptime  string            `json:"uptime"`
	Tor     torState          `json:"tor"`
	Boxes   int64             `json:"boxes"`
	Bytes   int64             `json:"bytes"`
	Quota   int64             `json:"quota"`
	Free    int64             `json:"disk_free"`        // bytes of the file system
	Full    bool              `json:"disk_full"`        // fewer than the reserve: no box is taken
	Tokens  *store.TokenUsage `json:"tokens,omitempty"` // nil: deposits are open
	Ponds   []pondState       `json:"ponds,omitempty"`
	Courier *courier.Status   `json:"courier,omitempty"` // nil: the role is off
	Family  string            `json:"family,omitempty"`
	Faults  int64             `json:"faults"` // how often disk or key files failed since the start; the log says how
}

// pondState is one of the mailbox's onions.
type pondState struct {
	Address   string            `json:"address"`
	Published bool              `json:"published"`
	Boxes     int64             `json:"boxes"`
	Bytes     int64             `json:"bytes"`
	Quota     int64             `json:"quota"`
	Tokens    *store.TokenUsage `json:"tokens,omitempty"` // nil: deposits are open
}

type torState struct {
	State     string `json:"state"`
	Percent   int    `json:"percent"`
	Summary   string `json:"summary"`
	Advice    string `json:"advice,omitempty"`
	Published bool   `json:"published"`
}

func torStatus(s onion.Status) torState {
	advice := s.Reason.Advice()
	if strings.Contains(s.Summary, advice) {
		advice = ""
	}
	t := torState{State: string(s.State), Percent: s.Percent, Summary: s.Summary, Advice: strings.TrimSpace(advice + " " + s.Warning)}
	t.Published = len(s.Services) > 0
	for _, svc := range s.Services {
		t.Published = t.Published && svc.Published
	}
	return t
}

func (m *running) status() (status, error) {
	free, err := cli.DiskFree(m.cfg.DataDir)
	if err != nil {
		return status{}, err
	}
	tor := m.tor.Status()
	st := status{
		Free: free, Full: m.cfg.Store && free < int64(m.cfg.Reserve), Family: m.cfg.Family,
		Address: m.ponds[0].keys.Address().String(), Uptime: time.Since(m.started).Round(time.Second).String(), Tor: torStatus(tor),
	}
	for _, p := range m.ponds {
		state := pondState{Address: p.keys.Address().String()}
		for _, svc := range tor.Services {
			state.Published = state.Published || svc.Published && svc.Name == p.keys.Address().Onion
		}
		if p.courier != nil {
			c := p.courier.Status()
			st.Courier = &c
		}
		if p.store == nil {
			continue
		}
		u := p.store.Usage()
		state.Boxes, state.Bytes, state.Quota = u.Boxes, u.Bytes, u.Quota
		if m.cfg.Deposit == "tokens" {
			t, err := p.store.Tokens()
			if err != nil {
				return status{}, err
			}
			state.Tokens = &t
			if st.Tokens == nil {
				st.Tokens = &store.TokenUsage{}
			}
			st.Tokens.Accounts += t.Accounts
			st.Tokens.Drawn += t.Drawn
			st.Tokens.PerDay += t.PerDay
		}
		st.Boxes, st.Bytes, st.Quota, st.Faults = st.Boxes+u.Boxes, st.Bytes+u.Bytes, st.Quota+u.Quota, st.Faults+p.store.Faults()
		st.Ponds = append(st.Ponds, state)
	}
	return st, nil
}

func cmdStatus(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "status")
	if err := f.NoWords(args); err != nil {
		return err
	}
	cfg, err := loadConfig(f.Config)
	if err != nil {
		return err
	}
	var s status
	if err := control.Call(ctx, filepath.Join(cfg.DataDir, socketName), "status", nil, &s); err != nil {
		return err
	}
	return f.Show(e, s, func(w io.Writer) { printStatus(w, s) })
}

func printStatus(w io.Writer, s status) {
	fmt.Fprintf(w, "address   %s\nrunning   %s\ntor       %s: %s\n", s.Address, s.Uptime, s.Tor.State, s.Tor.Summary)
	if s.Tor.Advice != "" {
		fmt.Fprintf(w, "          %s\n", s.Tor.Advice)
	}
	published := "not yet: others cannot reach it"
	if s.Tor.Published {
		published = "yes"
	}
	fmt.Fprintf(w, "published %s\n", published)
	if len(s.Ponds) > 0 {
		fmt.Fprintf(w, "boxes     %d\nused      %s\n", s.Boxes, used(s.Bytes, s.Quota))
	}
	if len(s.Ponds) > 1 {
		for i, p := range s.Ponds {
			fmt.Fprintf(w, "pond %-4d %s: %d boxes, %s\n", i+1, p.Address, p.Boxes, used(p.Bytes, p.Quota))
		}
	}
	if c := s.Courier; c != nil {
		fmt.Fprintf(w, "courier   %d sessions of at most %d; links to %d mailboxes\n", c.Sessions, c.MaxSessions, c.Links)
	}
	switch {
	case len(s.Ponds) == 0:
	case s.Tokens == nil:
		fmt.Fprintln(w, "deposits  open: whoever knows the address can write")
	default:
		fmt.Fprintf(w, "deposits  with tokens; %d drawn for today of at most %d, by %d accounts\n", s.Tokens.Drawn, s.Tokens.PerDay, s.Tokens.Accounts)
	}
	if s.Full {
		fmt.Fprintf(w, "disk      full: %s are free, less than the reserve; no box is taken\n", mib(s.Free))
	}
	if s.Faults > 0 {
		fmt.Fprintf(w, "faults    %d: the disk or a key file failed; see the log\n", s.Faults)
	}
}

func used(bytes, quota int64) string {
	return fmt.Sprintf("%s of %s (%.0f %%)", mib(bytes), configs.Bytes(quota), 100*float64(bytes)/float64(max(quota, 1)))
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
