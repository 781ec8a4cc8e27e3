// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// heard is one message as a client's /sync showed it.
type heard struct {
	room   id.RoomID
	sender id.UserID
	body   string
	event  id.EventID
	at     time.Time
}

// player is a person at an ordinary Matrix client, who does not give up when the homeserver is away.
type player struct {
	c    *mautrix.Client
	name string

	mu      sync.Mutex
	invites map[id.RoomID]bool
	banned  map[id.RoomID]bool
	read    map[id.UserID]id.EventID // the newest, in any room
	heard   []heard
	news    chan struct{} // closed and replaced at each change
}

func newPlayer(ctx context.Context, name string, n *homeserver) (*player, error) {
	c, err := mautrix.NewClient(n.url, "", "")
	if err != nil {
		return nil, err
	}
	c.DefaultHTTPRetries = 0
	p := &player{c: c, name: name, invites: map[id.RoomID]bool{}, banned: map[id.RoomID]bool{}, read: map[id.UserID]id.EventID{}, news: make(chan struct{})}
	_, err = c.Login(ctx, &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: n.user},
		Password: n.password, StoreCredentials: true, InitialDeviceDisplayName: "demo",
	})
	if err != nil {
		return nil, fmt.Errorf("%s logs in: %w", name, err)
	}
	return p, nil
}

// everything asks /sync for long timelines: by default a client would see the newest messages only, and page back.
const everything = `{"room":{"timeline":{"limit":1000}}}`

// listen syncs until ctx ends, over all absences of the node, always from the last token.
func (p *player) listen(ctx context.Context) error {
	since := ""
	for ctx.Err() == nil {
		r, err := p.c.FullSyncRequest(ctx, mautrix.ReqSync{Timeout: 10_000, Since: since, FilterID: everything})
		if err != nil {
			var he mautrix.HTTPError
			if errors.As(err, &he) && he.Response != nil && he.Response.StatusCode != http.StatusBadGateway {
				return fmt.Errorf("%s syncs: %w", p.name, err)
			}
			pause(ctx, 200*time.Millisecond) // the node is away: a client tries again
			continue
		}
		since = r.NextBatch
		p.take(r)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (p *player) take(r *mautrix.RespSync) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for room := range r.Rooms.Invite {
		p.invites[room] = true
	}
	for room, left := range r.Rooms.Leave {
		for _, e := range left.Timeline.Events {
			if e.Type.Type == event.StateMember.Type && e.GetStateKey() == string(p.c.UserID) {
				p.banned[room] = e.Content.Raw["membership"] == "ban"
			}
		}
	}
	for id, room := range r.Rooms.Join {
		for _, e := range room.Ephemeral.Events {
			p.hearReceipts(e)
		}
		for _, e := range room.Timeline.Events {
			if e.Type.Type != event.EventMessage.Type {
				continue
			}
			body, _ := e.Content.Raw["body"].(string)
			p.heard = append(p.heard, heard{id, e.Sender, body, e.ID, time.Now()})
		}
	}
	close(p.news)
	p.news = make(chan struct{})
}

func (p *player) hearReceipts(e *event.Event) {
	if e.Type.Type != event.EphemeralEventReceipt.Type {
		return
	}
	for ev, kinds := range e.Content.Raw {
		kinds, _ := kinds.(map[string]any)
		users, _ := kinds["m.read"].(map[string]any)
		for user := range users {
			p.read[id.UserID(user)] = id.EventID(ev)
		}
	}
}

// until waits for a condition on what was heard.
func (p *player) until(ctx context.Context, what string, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		p.mu.Lock()
		done, news := ok(), p.news
		p.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s waits for %s: %w", p.name, what, ctx.Err())
		case <-news:
		}
	}
}

// times counts how often a message was heard in a room, and when first.
func (p *player) times(room id.RoomID, body string) (n int, first time.Time) {
	for _, h := range p.heard {
		if h.room == room && h.body == body {
			if n++; n == 1 {
				first = h.at
			}
		}
	}
	return n, first
}

// say sends a message, again and again with the same transaction id until the node has acknowledged it.
func (p *player) say(ctx context.Context, room id.RoomID, body string) error {
	txn := p.c.TxnID()
	for {
		_, err := p.c.SendMessageEvent(ctx, room, event.EventMessage,
			&event.MessageEventContent{MsgType: event.MsgText, Body: body}, mautrix.ReqSendEvent{TransactionID: txn})
		if err == nil {
			return nil
		}
		var he mautrix.HTTPError
		if errors.As(err, &he) && he.RespError != nil {
			return fmt.Errorf("%s sends: %w", p.name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// history reads the whole room by /messages, oldest first.
func (p *player) history(ctx context.Context, room id.RoomID) ([]heard, error) {
	var out []heard
	from := ""
	for {
		r, err := p.c.Messages(ctx, room, from, "", mautrix.DirectionBackward, nil, 7) // small pages: borders are where events get lost
		if err != nil {
			return nil, err
		}
		for _, e := range r.Chunk {
			if e.Type.Type == event.EventMessage.Type {
				body, _ := e.Content.Raw["body"].(string)
				out = append([]heard{{room: room, sender: e.Sender, body: body, event: e.ID}}, out...)
			}
		}
		if r.End == "" || len(r.Chunk) == 0 {
			return out, nil
		}
		from = r.End
	}
}
