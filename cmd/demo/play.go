// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// patience is how long a message may take, restarts of nodes included.
const patience = 3 * time.Minute

// line is one message of the play.
type line struct {
	by   int // 0 alice, 1 bob
	body string
	sent time.Time     // when the sender's node had acknowledged it
	took time.Duration // until the other's client had it
	note string
}

// play is the conversation.
type play struct {
	s       *stage
	players [3]*player // alice, bob, carol
	room    id.RoomID
	other   id.RoomID // with carol
	secret  []byte    // a file in it
	lines   []*line
	times   int // how many messages each way the delivery is measured with; 0: the whole play
	syncs   *errgroup.Group
	stop    context.CancelFunc
}

func newPlay(s *stage, times int) *play { return &play{s: s, times: times} }

// perform runs the acts in order.
func (p *play) perform(ctx context.Context) error {
	for i, name := range names {
		var err error
		if p.players[i], err = newPlayer(ctx, name, p.s.nodes[i]); err != nil {
			return err
		}
	}
	sctx, stop := context.WithCancel(ctx)
	p.stop = stop
	p.syncs, sctx = errgroup.WithContext(sctx)
	for _, pl := range p.players {
		p.syncs.Go(func() error { return pl.listen(sctx) })
	}
	if err := p.meet(sctx); err != nil {
		return err
	}
	for _, act := range p.acts() {
		if err := act(sctx); err != nil {
			return err
		}
	}
	return nil
}

// acts are what is played; with times, only how long that many messages take.
func (p *play) acts() []func(context.Context) error {
	if p.times > 0 {
		return []func(context.Context) error{p.delivery}
	}
	return []func(context.Context) error{p.talk, p.absence, p.killings, p.delivery, p.third, p.restored}
}

// meet makes the room and joins it.
func (p *play) meet(ctx context.Context) error {
	r, err := p.players[0].c.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", Name: "Sunday walk", Invite: []id.UserID{p.players[1].c.UserID}, IsDirect: true,
	})
	if err != nil {
		return fmt.Errorf("alice creates a room: %w", err)
	}
	p.room = r.RoomID
	p.s.say("alice made a room and invited bob")
	bob := p.players[1]
	if err := bob.until(ctx, "the invite", patience, func() bool { return bob.invites[p.room] }); err != nil {
		return err
	}
	if _, err := bob.c.JoinRoomByID(ctx, p.room); err != nil {
		return fmt.Errorf("bob joins: %w", err)
	}
	p.s.say("bob saw the invite and joined, from what came with it")
	return nil
}

// send says a line without waiting for the other side.
func (p *play) send(ctx context.Context, by int, note string) (*line, error) {
	l := &line{by: by, body: fmt.Sprintf("%s says line %d: the kettle is on", p.players[by].name, len(p.lines)+1), note: note}
	p.lines = append(p.lines, l)
	if err := p.players[by].say(ctx, p.room, l.body); err != nil {
		return nil, err
	}
	l.sent = time.Now()
	return l, nil
}

// arrived waits until the other side has heard the lines.
func (p *play) arrived(ctx context.Context, ls ...*line) error {
	for _, l := range ls {
		to := p.players[1-l.by]
		if err := to.until(ctx, fmt.Sprintf("%q", l.body), patience, func() bool {
			n, first := to.times(p.room, l.body)
			l.took = max(first.Sub(l.sent), 0)
			return n > 0
		}); err != nil {
			return err
		}
	}
	return nil
}

// talk is the ordinary case: turn by turn, then both at once.
func (p *play) talk(ctx context.Context) error {
	for i := range 12 {
		l, err := p.send(ctx, i%2, "")
		if err != nil {
			return err
		}
		if err := p.arrived(ctx, l); err != nil {
			return err
		}
		if i == 0 {
			_, first := p.players[1].times(p.room, l.body)
			p.s.say("first message delivered %.1f s after the demo began", first.Sub(p.s.start).Seconds())
		}
	}
	var ls []*line
	for i := range 10 {
		l, err := p.send(ctx, i%2, "both at once")
		if err != nil {
			return err
		}
		ls = append(ls, l)
	}
	return p.arrived(ctx, ls...)
}

// absence switches bob's node off while alice writes.
func (p *play) absence(ctx context.Context) error {
	bob := p.s.nodes[1]
	bob.stop()
	p.s.say("bob's node is off; alice goes on")
	var ls []*line
	for range 10 {
		l, err := p.send(ctx, 0, "bob's node was off")
		if err != nil {
			return err
		}
		ls = append(ls, l)
	}
	if err := p.deposited(ctx); err != nil {
		return err
	}
	if err := bob.start(); err != nil {
		return err
	}
	p.s.say("alice's boxes lie in the mailboxes; bob's node is on again")
	return p.arrived(ctx, ls...)
}

// deposited waits until everything that alice's node has to say is in boxes, and some frames more, in which it writes them.
func (p *play) deposited(ctx context.Context) error {
	return await(ctx, patience, "alice's node to seal what waits", func() (bool, error) {
		before, err := p.s.boxes(ctx)
		if err != nil {
			return false, err
		}
		pause(ctx, 3*time.Second)
		st, err := p.s.status(ctx, p.s.nodes[0])
		if err != nil {
			return false, err
		}
		after, err := p.s.boxes(ctx)
		return st.contact(p.s.nodes[1]).Unacked > 0 && after > before, err
	})
}

// killings kills each process once in mid-conversation and starts it again.
func (p *play) killings(ctx context.Context) error {
	for _, victim := range []*process{p.s.stores[0].process, p.s.couriers[0].process, p.s.nodes[0].process, p.s.nodes[1].process} {
		var ls []*line
		say := func(by int, when string) error {
			l, err := p.send(ctx, by, when+" kill -9 of "+victim.name)
			ls = append(ls, l)
			return err
		}
		for i := range 4 {
			if err := say(i%2, "before"); err != nil {
				return err
			}
		}
		victim.kill()
		p.s.say("kill -9 of %s", victim.name)
		for by := range 2 {
			if p.s.nodes[by].process == victim {
				continue // its client can send nothing now
			}
			if err := say(by, "during"); err != nil {
				return err
			}
		}
		if err := victim.start(); err != nil {
			return err
		}
		for i := range 2 {
			if err := say(i%2, "after"); err != nil {
				return err
			}
		}
		if err := p.arrived(ctx, ls...); err != nil {
			return err
		}
		p.s.say("all %d messages around it arrived", len(ls))
	}
	return nil
}

// verify prints the transcript and compares both clients' timelines with it.
func (p *play) verify(ctx context.Context) error {
	// Whoever sent last may not have seen its own message by /sync yet.
	for _, pl := range p.players[:2] {
		if err := pl.until(ctx, "its own last message", patience, func() bool { return p.complete(pl) }); err != nil {
			return err
		}
	}
	p.stop()
	if err := p.syncs.Wait(); err != nil {
		return err
	}
	p.print()
	if err := p.apart(); err != nil {
		return err
	}
	for _, pl := range p.players[:2] {
		paged, err := pl.history(ctx, p.room)
		if err != nil {
			return fmt.Errorf("%s pages back: %w", pl.name, err)
		}
		if err := p.compare(pl.name+" by /sync", pl.heard); err != nil {
			return err
		}
		if err := p.compare(pl.name+" by /messages", paged); err != nil {
			return err
		}
		p.s.say("%s's timeline holds all %d messages, each once, in order", pl.name, len(p.lines))
	}
	return p.search()
}

func (p *play) print() {
	fmt.Printf("\n%-6s %-46s %9s  %s\n", "from", "message", "delivery", "")
	var took []time.Duration
	for _, l := range p.lines {
		took = append(took, l.took)
		fmt.Printf("%-6s %-46s %7.2f s  %s\n", p.players[l.by].name, l.body, l.took.Seconds(), l.note)
	}
	slices.Sort(took)
	fmt.Printf("%d messages; delivery median %.2f s, 95 %% within %.2f s, longest %.2f s\n\n", len(took),
		took[len(took)/2].Seconds(), took[len(took)*95/100].Seconds(), took[len(took)-1].Seconds())
}

// compare wants every line exactly once, and each speaker's lines in the order they were said.
func (p *play) compare(where string, got []heard) error {
	for by, speaker := range p.players {
		var want, have []string
		for _, l := range p.lines {
			if l.by == by {
				want = append(want, l.body)
			}
		}
		for _, h := range got {
			if h.room == p.room && h.sender == speaker.c.UserID {
				have = append(have, h.body)
			}
		}
		if !slices.Equal(want, have) {
			return fmt.Errorf("%s: wanted from %s, once and in order:\n  %s\ngot:\n  %s", where, speaker.name,
				strings.Join(want, "\n  "), strings.Join(have, "\n  "))
		}
	}
	got = slices.DeleteFunc(slices.Clone(got), func(h heard) bool { return h.room != p.room })
	if len(got) != len(p.lines) {
		return fmt.Errorf("%s: %d messages, wanted %d", where, len(got), len(p.lines))
	}
	return nil
}
