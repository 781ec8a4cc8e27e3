// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"tarn/configs"
	"tarn/internal/cli"
	"tarn/internal/control"
	"tarn/internal/durable"
	"tarn/replicate"
)

type profileResult struct {
	Name  string  `json:"name"`
	Used  bool    `json:"used"`
	Delay string  `json:"expected_delay"` // with couriers
	MB    float64 `json:"mb_a_day"`
}

// cmdProfile shows the profiles, or changes the configuration's, and a running node's with it.
func cmdProfile(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "profile")
	words, err := f.WordsBetween(args, 0, 1, "at most one profile's name")
	if err != nil {
		return err
	}
	if len(words) > 0 {
		p, err := setProfile(f.Config, words[0])
		if err != nil {
			return err
		}
		cfg, err := loadConfig(f.Config)
		if err != nil {
			return err
		}
		err = control.Call(ctx, socketPath(cfg), "profile", p, nil)
		switch {
		case errors.Is(err, control.ErrNotRunning):
			fmt.Fprintln(e.Err, "Written into the configuration.")
		case err != nil:
			return fmt.Errorf("it is written into the configuration, but the running node does not take it up: %w", err)
		default:
			fmt.Fprintln(e.Err, "Written into the configuration; the running node uses it from its next frame on.")
		}
	}
	cfg, err := loadConfig(f.Config)
	if err != nil {
		return err
	}
	out, err := profiles(cfg.Profile)
	if err != nil {
		return err
	}
	return f.Show(e, out, func(w io.Writer) { printProfiles(w, out) })
}

// profiles are the named ones, and the one in use if it is none of them.
func profiles(used configs.Profile) ([]profileResult, error) {
	all := replicate.Profiles()
	if used.Name == "custom" {
		p, err := schedule(used)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	var out []profileResult
	for _, p := range all {
		out = append(out, profileResult{Name: p.Name, Used: p.Name == used.Name, Delay: round(p.ExpectedDelay(replicate.Couriers, 1, 10*time.Second)),
			MB: float64(p.BytesPerDay(replicate.Couriers)) / 1e6})
	}
	return out, nil
}

func printProfiles(w io.Writer, ps []profileResult) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PROFILE\tDELAY\tMB A DAY\t")
	for _, p := range ps {
		mark := ""
		if p.Used {
			mark = "in use"
		}
		fmt.Fprintf(tw, "%s\t%s\t%.0f\t%s\n", p.Name, p.Delay, p.MB, mark)
	}
	tw.Flush()
}

// useProfile changes the running node's schedule.
func (n *node) useProfile(_ context.Context, p configs.Profile) (struct{}, error) {
	s, err := schedule(p)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, n.engine.SetProfile(s)
}

// setProfile writes another profile's name into the configuration file, leaving the rest as it is: but values that
// would not count under that name are put in comments. What results is checked before anything is written.
func setProfile(file, name string) (configs.Profile, error) {
	if _, err := loadConfig(file); err != nil {
		return configs.Profile{}, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return configs.Profile{}, err
	}
	text := withProfile(string(b), name)
	cfg := configs.DefaultNode()
	if err := configs.Parse(file, text, &cfg); err != nil {
		return configs.Profile{}, err
	}
	return cfg.Profile, durable.WriteFile(file, []byte(text), 0o600)
}

// withProfile is the configuration's text with another profile.
func withProfile(text, name string) string {
	lines := strings.Split(text, "\n")
	table, section, done := "", -1, false
	for i, l := range lines {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") && !strings.Contains(l, "=") {
			if table = strings.Trim(l, "[] "); table == "profile" {
				section = i
			}
			continue
		}
		key, _, ok := strings.Cut(l, "=")
		if key = strings.TrimSpace(key); table != "profile" || !ok || strings.HasPrefix(l, "#") {
			continue
		}
		if key == "name" {
			lines[i], done = fmt.Sprintf("name = %q", name), true
		} else if name != "custom" {
			lines[i] = "# " + lines[i]
		}
	}
	switch {
	case done:
	case section >= 0:
		lines = append(lines[:section+1], append([]string{fmt.Sprintf("name = %q", name)}, lines[section+1:]...)...)
	default:
		lines = append(lines, "[profile]", fmt.Sprintf("name = %q", name), "")
	}
	return strings.Join(lines, "\n")
}
