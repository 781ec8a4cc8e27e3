// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"tarn/account"
)

// check looks for everything.
func (p *play) check() {
	t := p.t
	// Messages: each once, forwards and backwards; what is there was asked for. And a transaction id is good for ever.
	want := map[string]bool{}
	for _, id := range p.said.done {
		want[id] = true
	}
	for _, dir := range []string{"b", "f"} {
		ids, err := p.carol.pages(p.room, dir, "", 50)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, id := range ids {
			got[id]++
		}
		for id := range want {
			if got[id] != 1 {
				t.Errorf("dir=%s: an acknowledged message is there %d times", dir, got[id])
			}
		}
		for _, id := range p.set.done {
			if got[id] != 1 {
				t.Errorf("dir=%s: an acknowledged state event is there %d times", dir, got[id])
			}
		}
	}
	if len(want) != len(p.said.done) {
		t.Errorf("%d event ids for %d messages", len(want), len(p.said.done))
	}
	p.asked()
	p.checkState()
	// /sync goes on from the token that bob had.
	for p.follow(context.Background(), 0) {
	}
	for id := range want {
		if p.seen[id] != 1 {
			t.Errorf("/sync gave an acknowledged message %d times", p.seen[id])
		}
	}
	p.checkMail()
	p.checkData()
	// The sliding sync's position is of another life. Nothing is to be made of it.
	if p.pos != "" {
		_, err := p.dave.slide(context.Background(), p.pos, p.room, 0)
		var no *answered
		if !errors.As(err, &no) || no.status != 400 || no.code != "M_UNKNOWN_POS" {
			t.Errorf("a position from before the kill: %v", err)
		}
		p.pos = ""
	}
	if !p.slide(context.Background()) {
		t.Error("no sliding sync")
	}
}

// asked sends some messages again under their transaction ids, and looks for messages that nobody asked for.
func (p *play) asked() {
	n := 0
	for name, id := range p.said.done {
		if !strings.Contains(name, fmt.Sprintf(".%d.", p.round)) {
			continue
		}
		if n++; n > 50 {
			break
		}
		c := []*client{p.alice, p.alice, p.bob, p.carol, p.dave, p.dave}[name[len("say")]-'0']
		if again, err := c.send(context.Background(), p.room, name, text(name)); err != nil || again != id {
			p.t.Errorf("the transaction id gave another event, or %v", err)
		}
	}
	bodies := map[string]int{}
	from := ""
	for {
		var page struct {
			Chunk []struct {
				Type    string `json:"type"`
				Content struct {
					Body string `json:"body"`
				} `json:"content"`
			} `json:"chunk"`
			End string `json:"end"`
		}
		p.alice.ask("GET", "/rooms/"+p.room+"/messages?dir=f&limit=500"+from, nil, &page)
		for _, e := range page.Chunk {
			if e.Type == "m.room.message" {
				bodies[e.Content.Body]++
			}
		}
		if page.End == "" {
			break
		}
		from = "&from=" + page.End
	}
	for body, n := range bodies {
		if n != 1 {
			p.t.Errorf("%d messages %q", n, body)
		}
	}
	if len(bodies) != len(p.said.done) {
		p.t.Errorf("%d messages, %d were sent", len(bodies), len(p.said.done))
	}
}

func (p *play) checkState() {
	var state []struct {
		event
		Key *string `json:"state_key"`
	}
	p.carol.ask("GET", "/rooms/"+p.room+"/state", nil, &state)
	slots := map[string]string{}
	topics := map[string]bool{}
	for name, id := range p.set.done {
		if strings.HasPrefix(name, "topic.") {
			topics[id] = true
		}
	}
	for _, e := range state {
		slots[e.Type+"/"+*e.Key] = e.ID
	}
	for name, id := range p.set.done {
		if strings.HasPrefix(name, "set.") && slots["org.tarn.test/"+name] != id {
			p.t.Errorf("the state has not what was acknowledged")
		}
	}
	var topic struct {
		Topic string `json:"topic"`
	}
	p.carol.ask("GET", "/rooms/"+p.room+"/state/m.room.topic", nil, &topic)
	if last := p.last(&p.set, "topic"); topic.Topic != last || !topics[slots["m.room.topic/"]] {
		p.t.Errorf("the topic is %q, the last that was set %q", topic.Topic, last)
	}
}

// last is the newest of a kind.
func (p *play) last(l *ledger, what string) string {
	for i := len(l.done); i >= 0; i-- {
		if name := fmt.Sprintf("%s.%d.%d", what, p.round, i); l.done[name] != "" {
			return name
		}
	}
	return ""
}

// checkMail reads the to-device events in two goes: of the first the answer is thrown away, as if it had been lost.
func (p *play) checkMail() {
	var s synced
	p.sink.ask("GET", "/sync?since="+p.mailSince, nil, &s)
	for {
		s = synced{}
		p.sink.ask("GET", "/sync?since="+p.mailSince, nil, &s)
		p.mailSince = s.Next
		if len(s.ToDevice.Events) == 0 {
			break
		}
		for _, e := range s.ToDevice.Events {
			var c struct{ N string }
			if err := json.Unmarshal(e.Content, &c); err != nil {
				p.t.Error(err)
			}
			p.mailSeen[c.N]++
		}
	}
	for name := range p.mail.done {
		if p.mailSeen[name] != 1 {
			p.t.Errorf("an acknowledged to-device event came %d times", p.mailSeen[name])
		}
	}
	if len(p.mailSeen) != len(p.mail.done) {
		p.t.Errorf("%d to-device events, %d were sent", len(p.mailSeen), len(p.mail.done))
	}
}

func (p *play) checkData() {
	t := p.t
	for name := range p.data.done {
		for _, path := range []string{"/account_data/org.tarn." + name, "/rooms/" + p.room + "/account_data/org.tarn." + name} {
			var d struct{ N string }
			if p.dave.ask("GET", "/user/"+p.dave.user+path, nil, &d); d.N != name {
				t.Errorf("an account datum is %q", d.N)
			}
		}
	}
	for _, id := range p.files.done {
		raw, err := p.bob.do(context.Background(), "GET", "/_matrix/client/v1/media/download/"+id, nil)
		if err != nil || !bytes.Equal(raw, p.contents[id]) {
			t.Errorf("an uploaded file: %d bytes, %v", len(raw), err)
		}
	}
	keys, sessions := 0, 0
	for name := range p.keys.done {
		if strings.HasPrefix(name, "key.") {
			keys++
			continue
		}
		sessions++
	}
	var counts struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	if p.keyed.ask("POST", "/keys/upload", "{}", &counts); counts.Counts["curve25519"] != keys-p.earlier {
		t.Errorf("%d one-time keys of %d", counts.Counts["curve25519"], keys-p.earlier)
	}
	if keys-p.earlier > account.MaxOneTimeKeys/2 { // a device may have no more of them
		p.keyed, p.earlier = p.carol.login(), keys
	}
	var backup struct {
		Sessions map[string]json.RawMessage `json:"sessions"`
	}
	p.carol.ask("GET", "/room_keys/keys/"+p.room+"?version="+p.backup, nil, &backup)
	if len(backup.Sessions) != sessions {
		t.Errorf("%d sessions of %d in the backup", len(backup.Sessions), sessions)
	}
	var joined struct {
		Rooms []string `json:"joined_rooms"`
	}
	p.bob.ask("GET", "/joined_rooms", nil, &joined)
	in := map[string]bool{}
	for _, r := range joined.Rooms {
		in[r] = true
	}
	for name, r := range p.rooms.done {
		var c struct {
			Name string `json:"name"`
		}
		if p.bob.ask("GET", "/rooms/"+r+"/state/m.room.name", nil, &c); c.Name != name || !in[r] {
			t.Errorf("an acknowledged room is not there")
		}
	}
	for name := range p.users.done {
		if strings.HasPrefix(name, fmt.Sprintf("user.%d.", p.round)) {
			(&client{n: p.n, user: name}).login()
		}
	}
}
