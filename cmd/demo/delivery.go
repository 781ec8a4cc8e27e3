// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// quick is the schedule in which delivery is measured.
var quick = map[string]string{"frame": "100ms", "mix": "50ms", "lag": "350ms", "push": "250ms", "ack_delay": "400ms", "rewrite": "8s"}

// The most that delivery may take with it on a machine that does other things besides; twice that over a third node. docs/operating.md has what it
// takes on a quiet one.
const (
	quickMedian = 4 * time.Second
	quickMost   = 12 * time.Second // 95 % of them
)

// hurry gives all nodes the quick schedule, as an operator would: in the configuration, and without a restart.
func (s *stage) hurry(ctx context.Context) error {
	for _, n := range s.nodes {
		b, err := os.ReadFile(n.config)
		if err != nil {
			return err
		}
		for key, value := range quick {
			line := regexp.MustCompile(`(?m)^` + key + ` = .*$`)
			if len(line.FindAll(b, -1)) != 1 {
				return fmt.Errorf("%s has no line of %s", n.config, key)
			}
			b = line.ReplaceAll(b, fmt.Appendf(nil, "%s = %q", key, value))
		}
		if err := os.WriteFile(n.config, b, 0o600); err != nil {
			return err
		}
		if _, err := s.command(ctx, "node", "profile", "--config", n.config, "custom"); err != nil {
			return err
		}
	}
	for _, n := range s.nodes {
		if err := s.ready(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// delivery measures how long a message takes, from PUT /send to the other's /sync, with a frame each 100 ms: alice and bob write to each other, then
// carol to alice, who hears of her by bob's node. It leaves all three in the other room.
func (p *play) delivery(ctx context.Context) error {
	alice, bob, carol, times := p.players[0], p.players[1], p.players[2], cmp.Or(p.times, 20)
	if err := p.s.hurry(ctx); err != nil {
		return err
	}
	if err := p.another(ctx); err != nil {
		return err
	}
	both, bctx := errgroup.WithContext(ctx)
	both.Go(func() error { return p.measure(bctx, alice, bob, times, quickMedian, quickMost) })
	both.Go(func() error { return p.measure(bctx, bob, alice, times, quickMedian, quickMost) })
	if err := both.Wait(); err != nil {
		return err
	}
	if err := p.invites(ctx); err != nil {
		return err
	}
	return p.measure(ctx, carol, alice, (times+1)/2, 2*quickMedian, 2*quickMost)
}

// measure sends one message after the other's arrival.
func (p *play) measure(ctx context.Context, from, to *player, times int, median, most time.Duration) error {
	var took []time.Duration
	for i := range 2 + times { // the first two wake both ends
		d, err := p.tells(ctx, from, fmt.Sprintf("quickly from %s to %s, %d", from.name, to.name, i), to)
		if err != nil {
			return err
		}
		if i >= 2 {
			took = append(took, d)
		}
	}
	slices.Sort(took)
	half, nearly := took[len(took)/2], took[len(took)*95/100]
	p.s.say("with a frame each 100 ms, %d messages from %s to %s: median %.2f s, 95 %% within %.2f s, longest %.2f s",
		len(took), from.name, to.name, half.Seconds(), nearly.Seconds(), took[len(took)-1].Seconds())
	if half > median || nearly > most {
		return fmt.Errorf("the messages from %s to %s took longer than %v, or 95 %% of them longer than %v: %v", from.name, to.name, median, most, took)
	}
	return nil
}
