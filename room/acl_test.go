// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// The five sentences of the specification, and what their servers are compared with.
func TestServerACL(t *testing.T) {
	name := matrix.ServerName(strings.Repeat("a", 56) + ".onion")
	for _, c := range []struct {
		content string
		server  matrix.ServerName
		want    bool
	}{
		{`{"allow":["*"]}`, name, true},
		{`{"allow":["*"],"deny":["aaaa*.onion"]}`, name, false},
		{`{"allow":["*"],"deny":["AAAA*"]}`, name, false},
		{`{"allow":["*"],"deny":["aaaa"]}`, name, true},
		{`{"allow":["*"],"deny":["?aaa*?.oni?n"]}`, name, false},
		{`{"allow":["*.onion"]}`, name, true},
		{`{"allow":["*.example"]}`, name, false},
		{`{"allow":[]}`, name, false},
		{`{}`, name, false},
		{`{"allow":"*"}`, name, false},
		{`{"allow":[1,null,"*"],"deny":{}}`, name, true},
		{`{"allow":["*"],"deny":[]}`, "10.0.0.1", true},
		{`{"allow":["*"],"allow_ip_literals":false}`, "10.0.0.1", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "10.0.0.1:8448", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "[2001:db8::1]:80", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, "[2001:db8::1]", false},
		{`{"allow":["*"],"allow_ip_literals":false}`, name, true},
		{`{"allow":["*"],"allow_ip_literals":true}`, "10.0.0.1", true},
		{`{"allow":["evil.example"]}`, "evil.example:8448", true},
		{`{"allow":["*"],"deny":["evil.example"]}`, "evil.example:8448", false},
	} {
		a := readACL([]byte(c.content))
		for range 2 { // the second is remembered
			if got := a.allows(c.server); got != c.want {
				t.Errorf("%s of %s: %v", c.content, c.server, got)
			}
		}
	}
	// No pattern costs more than its length times the name's.
	began := time.Now()
	readACL(object(map[string]any{"allow": []string{strings.Repeat("*a", 20_000) + "b"}})).allows(name)
	if took := time.Since(began); took > time.Second {
		t.Errorf("a pattern took %v", took)
	}
}

// TestADeniedServerIsOutOfTheRoom: of three servers one is denied. What it writes the others do not show, nor pass on, whoever brings it; it is given nothing and answered
// nothing; the two stay of one mind, also about what one of them had taken before it heard of the ACL.
func TestADeniedServerIsOutOfTheRoom(t *testing.T) {
	a, b, c := play(t, 1), play(t, 2), play(t, 3)
	room := a.create(Create{Public: true, Invite: []matrix.UserID{b.user, c.user}})
	a.post(b)
	a.post(c)
	b.meet(c)
	c.meet(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	joined := c.member(room, c.user, c.user, matrix.MemberJoin)
	c.post(a)
	a.post(b)
	a.post(c)
	c.give(b, room, joined) // it did not know of b
	same(t, room, a, b)
	same(t, room, a, c)
	old := a.say(room, "before")
	a.post(b)
	a.mail(c)

	a.set(room, matrix.TypeServerACL, "", map[string]any{"allow": []string{"*"}, "deny": []string{string(c.s.Server)}})
	early := c.say(room, "beside the ACL")
	c.give(b, room, early) // b has not heard of the ACL
	a.post(b)
	for _, i := range a.mail(c) {
		if i.Kind != store.ItemEvent {
			continue
		}
		if _, id := split(i.Data); id != old {
			if _, err := a.RawFor(c.s.Server, room, id); !errors.Is(err, ErrUnknownEvent) {
				t.Errorf("a denied server is given an event: %v", err)
			}
		}
	}
	late := c.say(room, "after the ACL")
	raws := func(ids ...matrix.EventID) (out [][]byte) {
		for _, id := range ids {
			raw, err := c.Raw(room, id)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, raw)
		}
		return out
	}
	got, err := a.Ingest(context.Background(), c.s.Server, room, raws(early, late))
	if err != nil || got.Bad != 2 || len(got.Stored) != 0 {
		t.Errorf("a denied server's delivery: %+v, %v", got, err)
	}
	if err := a.IngestReceipts(c.s.Server, room, []Receipt{{User: c.user, Event: old, Type: readPublic, Time: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	cs, _ := a.sync(a.user, 0)
	if c := only(t, cs); len(c.Receipts) != 0 {
		t.Errorf("a denied server's receipt: %+v", c.Receipts)
	}
	// Another brings it: it is in the graph, and shown to nobody.
	if _, err := a.Ingest(context.Background(), b.s.Server, room, raws(early)); err != nil {
		t.Fatal(err)
	}
	if s, err := a.Status(room, early); err != nil || s != dag.SoftFailed {
		t.Errorf("a denied server's event is %v, %v", s, err)
	}
	if a.shows(room, "beside the ACL") || !b.shows(room, "beside the ACL") {
		t.Error("a shows what a denied server wrote, or b does not what it had before")
	}
	// B's next words lean on it; all goes on.
	b.say(room, "on top")
	b.post(a)
	a.say(room, "more")
	a.post(b)
	same(t, room, a, b)
	for _, x := range []*player{a, b} {
		if !x.shows(room, "on top") || !x.shows(room, "more") || x.shows(room, "after the ACL") {
			t.Errorf("%s does not show what it should", x.user)
		}
	}
	// Nothing goes to c, nor is it answered.
	if n := len(a.mail(c)) + len(b.mail(c)); n != 0 {
		t.Errorf("%d items wait for the denied server", n)
	}
	if shared, err := a.Shared(c.s.Server); err != nil || len(shared) != 0 {
		t.Errorf("summaries for a denied server: %v, %v", shared, err)
	}
	for _, kind := range []byte{AskJoin, AskKnock, AskSummary} {
		if got, ok := c.asks(a, Ask{Kind: kind, Room: room, User: c.at("other")}); !ok || got.Kind != AnswerNo {
			t.Errorf("question %d of a denied server: %+v", kind, got)
		}
	}
	if _, err := a.Snapshot(room, a.member(room, a.user, c.at("dave"), matrix.MemberInvite)); !errors.Is(err, ErrUnknownEvent) {
		t.Errorf("an invite to a denied server: %v", err)
	}
	// And it may come back.
	a.set(room, matrix.TypeServerACL, "", map[string]any{"allow": []string{"*"}})
	a.post(b)
	a.post(c)
	c.say(room, "back")
	c.post(a)
	if !a.shows(room, "back") {
		t.Error("who is denied no more is not heard")
	}
}

// shows tells whether a user reads a text in a room.
func (p *player) shows(room matrix.RoomID, text string) bool {
	p.t.Helper()
	page, err := p.Messages(p.user, room, 0, true, 100, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, s := range bodies(page.Events) {
		if s == text {
			return true
		}
	}
	return false
}
