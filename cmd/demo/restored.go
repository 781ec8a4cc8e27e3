// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"
)

// restored is the act in which alice's node is lost, with all that it wrote, and made again from a backup that is older than what was said last. Its new
// keys, what bob said since and what she said herself come by themselves; her client that was there before goes on, and one that is new sees
// everything once.
func (p *play) restored(ctx context.Context) error {
	node, alice, bob := p.s.nodes[0], p.players[0], p.players[1]
	file := filepath.Join(p.s.dir, "alice.backup")
	out, err := p.s.command(ctx, "node", "backup", "--json", "--config", node.config, file)
	if err != nil {
		return err
	}
	var made struct{ Passphrase string }
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return fmt.Errorf("node backup: %w: %s", err, out)
	}
	var last []*line
	talk := func(note string, by ...int) error {
		last = nil
		for _, i := range by {
			l, err := p.send(ctx, i, note)
			if err != nil {
				return err
			}
			last = append(last, l)
		}
		return nil
	}
	if err := talk("after alice's backup", 0, 1, 0, 1); err != nil {
		return err
	}
	if err := p.arrived(ctx, last...); err != nil {
		return err
	}
	if err := p.reads(ctx, alice, bob, last[3]); err != nil {
		return err
	}
	node.kill()
	if err := os.RemoveAll(filepath.Dir(node.config)); err != nil {
		return err
	}
	p.s.say("alice's node is lost: kill -9, and its folder is gone")
	if err := talk("while alice's node was lost", 1); err != nil {
		return err
	}
	while := last
	if _, err := p.s.commandWith(ctx, made.Passphrase+"\n", "node", "restore", "--dir", filepath.Dir(node.config), file); err != nil {
		return err
	}
	began := time.Now()
	if err := node.start(); err != nil {
		return err
	}
	if err := p.rescued(ctx); err != nil {
		return err
	}
	p.s.say("restored from the backup; after %.1f s both nodes say that new keys are in use", time.Since(began).Seconds())

	// A client of alice's that begins anew shows what the node has.
	anew, err := newPlayer(ctx, alice.name, node)
	if err != nil {
		return err
	}
	p.players[0] = anew
	p.syncs.Go(func() error { return anew.listen(ctx) })
	if err := anew.until(ctx, "all that was said", patience, func() bool { return p.complete(anew) }); err != nil {
		return err
	}
	if err := p.arrived(ctx, while...); err != nil {
		return err
	}
	p.s.say("alice's node has again what bob and she said after the backup, %.1f s after its start", time.Since(began).Seconds())
	if err := talk("after the restore", 0, 1, 0, 1); err != nil {
		return err
	}
	if err := p.arrived(ctx, last...); err != nil {
		return err
	}
	for _, l := range append(while, last...) {
		if err := alice.hears(ctx, p.room, l.body); err != nil {
			return fmt.Errorf("the client that was there before the restore: %w", err)
		}
	}
	if err := p.reads(ctx, anew, bob, last[3]); err != nil {
		return err
	}
	p.s.say("both hear each other again, also alice's client of before; bob sees what she reads")
	return nil
}

// rescued waits until both nodes tell their owners that the recovery is over.
func (p *play) rescued(ctx context.Context) error {
	for i := range 2 {
		n, other := p.s.nodes[i], p.s.nodes[1-i]
		if err := await(ctx, patience, n.name+"'s node to say that new keys are in use", func() (bool, error) {
			st, err := p.s.status(ctx, n)
			if err != nil {
				return false, err
			}
			c := st.contact(other)
			return c.State == "active" && strings.Contains(c.Reason, "new keys are in use"), fmt.Errorf("%s: %s", c.State, c.Reason)
		}); err != nil {
			return err
		}
	}
	return nil
}

// complete tells whether a client has heard all that was said; its lock is held.
func (p *play) complete(pl *player) bool {
	for _, l := range p.lines {
		if n, _ := pl.times(p.room, l.body); n == 0 {
			return false
		}
	}
	return true
}

// reads says at one client that a message was read, and waits until the other's client shows it.
func (p *play) reads(ctx context.Context, reader, other *player, l *line) error {
	var ev id.EventID
	if err := reader.until(ctx, fmt.Sprintf("%q", l.body), patience, func() bool {
		for _, h := range reader.heard {
			if h.room == p.room && h.body == l.body {
				ev = h.event
			}
		}
		return ev != ""
	}); err != nil {
		return err
	}
	if err := reader.c.MarkRead(ctx, p.room, ev); err != nil {
		return fmt.Errorf("%s reads: %w", reader.name, err)
	}
	return other.until(ctx, "what "+reader.name+" reads", patience, func() bool { return other.read[reader.c.UserID] == ev })
}
