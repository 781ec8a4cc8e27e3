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
	Faults  int64             `json:"faults"`           // how often disk or key files failed since the start; the log says how
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
	for _, svc := range s.Services {
		t.Published = svc.Published // there is one
	}
	return t
}

func (m *running) status() (status, error) {
	u := m.store.Usage()
	free, err := cli.DiskFree(m.cfg.DataDir)
	if err != nil {
		return status{}, err
	}
	var tokens *store.TokenUsage
	if m.cfg.Deposit == "tokens" {
		t, err := m.store.Tokens()
		if err != nil {
			return status{}, err
		}
		tokens = &t
	}
	return status{
		Tokens: tokens,
		Free:   free, Full: free < int64(m.cfg.Reserve),
		Address: m.keys.Address().String(), Uptime: time.Since(m.started).Round(time.Second).String(), Tor: torStatus(m.tor.Status()),
		Boxes: u.Boxes, Bytes: u.Bytes, Quota: u.Quota, Faults: m.store.Faults(),
	}, nil
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
	fmt.Fprintf(w, "published %s\nboxes     %d\nused      %s of %s (%.0f %%)\n", published, s.Boxes, mib(s.Bytes), configs.Bytes(s.Quota), 100*float64(s.Bytes)/float64(max(s.Quota, 1)))
	if s.Tokens == nil {
		fmt.Fprintln(w, "deposits  open: whoever knows the address can write")
	} else {
		fmt.Fprintf(w, "deposits  with tokens; %d drawn for today of at most %d, by %d accounts\n", s.Tokens.Drawn, s.Tokens.PerDay, s.Tokens.Accounts)
	}
	if s.Full {
		fmt.Fprintf(w, "disk      full: %s are free, less than the reserve; no box is taken\n", mib(s.Free))
	}
	if s.Faults > 0 {
		fmt.Fprintf(w, "faults    %d: the disk or a key file failed; see the log\n", s.Faults)
	}
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
