// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// another makes the other room, of alice and bob, and invites lets carol in, who is a contact of bob's alone.
func (p *play) another(ctx context.Context) error {
	alice, bob := p.players[0], p.players[1]
	r, err := alice.c.CreateRoom(ctx, &mautrix.ReqCreateRoom{Preset: "private_chat", Name: thirdName, Invite: []id.UserID{bob.c.UserID}})
	if err != nil {
		return fmt.Errorf("alice creates another room: %w", err)
	}
	p.other = r.RoomID
	return p.enters(ctx, bob)
}

func (p *play) invites(ctx context.Context) error {
	bob, carol := p.players[1], p.players[2]
	if _, err := bob.c.InviteUser(ctx, p.other, &mautrix.ReqInviteUser{UserID: carol.c.UserID}); err != nil {
		return fmt.Errorf("bob invites carol: %w", err)
	}
	return p.enters(ctx, carol)
}

// third is the act with the third in the other room: bob's node passes on what she and alice say. It ends when alice bans her.
func (p *play) third(ctx context.Context) error {
	alice, bob, carol := p.players[0], p.players[1], p.players[2]
	took, err := p.tells(ctx, alice, "from alice to all", bob, carol)
	if err != nil {
		return err
	}
	back, err := p.tells(ctx, carol, "from carol to all", bob, alice)
	if err != nil {
		return err
	}
	p.s.say("carol, whom bob invited, and alice hear each other by bob's node, after %.1f s and %.1f s", took.Seconds(), back.Seconds())
	if err := p.file(ctx, bob, carol); err != nil {
		return err
	}

	node := p.s.nodes[1]
	node.kill()
	p.s.say("kill -9 of bob")
	if err := alice.say(ctx, p.other, "from alice while bob's node is off"); err != nil {
		return err
	}
	if err := node.start(); err != nil {
		return err
	}
	if took, err = p.tells(ctx, carol, "from carol after that", alice); err != nil {
		return err
	}
	if err := carol.hears(ctx, p.other, "from alice while bob's node is off"); err != nil {
		return err
	}
	p.s.say("it is on again, and passed on what was said: carol to alice in %.1f s", took.Seconds())

	if _, err := alice.c.BanUser(ctx, p.other, &mautrix.ReqBanUser{UserID: carol.c.UserID}); err != nil {
		return fmt.Errorf("alice bans carol: %w", err)
	}
	if err := carol.until(ctx, "her ban", patience, func() bool { return carol.banned[p.other] }); err != nil {
		return err
	}
	_, err = carol.c.SendMessageEvent(ctx, p.other, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgText, Body: "from carol, banned"})
	if he := (mautrix.HTTPError{}); !errors.As(err, &he) || he.Response == nil || he.Response.StatusCode != http.StatusForbidden {
		return fmt.Errorf("carol is banned, and what she says is answered with %v", err)
	}
	if _, err := p.tells(ctx, alice, afterBan, bob); err != nil {
		return err
	}
	p.s.say("alice banned carol: her client sees it, and her node sends nothing more")
	return nil
}

const (
	thirdName = "Three at the table"
	afterBan  = "from alice, when carol is banned"
)

// enters waits for an invite to the other room and joins.
func (p *play) enters(ctx context.Context, pl *player) error {
	if err := pl.until(ctx, "the invite", patience, func() bool { return pl.invites[p.other] }); err != nil {
		return err
	}
	if _, err := pl.c.JoinRoomByID(ctx, p.other); err != nil {
		return fmt.Errorf("%s joins: %w", pl.name, err)
	}
	return nil
}

// tells sends a text to the other room and waits until the last of some has heard it.
func (p *play) tells(ctx context.Context, from *player, text string, to ...*player) (time.Duration, error) {
	began := time.Now()
	if err := from.say(ctx, p.other, text); err != nil {
		return 0, err
	}
	for _, pl := range to {
		if err := pl.hears(ctx, p.other, text); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func (p *player) hears(ctx context.Context, room id.RoomID, text string) error {
	return p.until(ctx, fmt.Sprintf("%q", text), patience, func() bool { n, _ := p.times(room, text); return n > 0 })
}

// file sends one that does not compress, and fetches it at the other's node.
func (p *play) file(ctx context.Context, from, to *player) error {
	p.secret = make([]byte, 20_000)
	rand.Read(p.secret)
	up, err := from.c.UploadBytesWithName(ctx, p.secret, "application/octet-stream", "walk.gpx")
	if err != nil {
		return fmt.Errorf("%s uploads a file: %w", from.name, err)
	}
	began := time.Now()
	if _, err := from.c.SendMessageEvent(ctx, p.other, event.EventMessage, &event.MessageEventContent{
		MsgType: event.MsgFile, Body: "walk.gpx", URL: up.ContentURI.CUString(), Info: &event.FileInfo{Size: len(p.secret)},
	}); err != nil {
		return fmt.Errorf("%s sends a file: %w", from.name, err)
	}
	var got []byte
	err = await(ctx, patience, "the file at "+to.name+"'s", func() (bool, error) {
		var err error
		got, err = to.c.DownloadBytes(ctx, up.ContentURI)
		return err == nil, err // until then it is under way
	})
	if err == nil && !bytes.Equal(got, p.secret) {
		err = fmt.Errorf("%s has another file, of %d bytes", to.name, len(got))
	}
	if err == nil {
		p.s.say("a file of %d kB went from %s to %s in %.1f s", len(p.secret)/1000, from.name, to.name, time.Since(began).Seconds())
	}
	return err
}

// apart looks whether each heard in the other room what was for them, once, when all is over.
func (p *play) apart() error {
	for i, pl := range p.players {
		for _, text := range []string{"from alice to all", "from carol to all", "from alice while bob's node is off", "from carol after that", afterBan} {
			want := 1
			if i == 2 && text == afterBan {
				want = 0
			}
			if n, _ := pl.times(p.other, text); n != want {
				return fmt.Errorf("%s heard %q %d times, not %d", pl.name, text, n, want)
			}
		}
	}
	return nil
}
