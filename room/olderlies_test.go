// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
)

// TestLiesAboutARoomsPast: what can not be true is thrown away whole, and who said it is named; what nobody could tell from the truth changes nothing but the past.
func TestLiesAboutARoomsPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := play(t, 1), curious(t, 2, Older{Ahead: 500, Most: 1000})
		room := a.create(Create{})
		other := a.create(Create{})
		for i := range 130 {
			if i == 20 || i == 60 {
				a.set(room, matrix.TypeTopic, "", map[string]any{"topic": fmt.Sprint(i)})
			}
			a.say(room, fmt.Sprint(i))
		}
		a.comes(room, b)
		before := b.all(b.user, room, 1000)
		asked := b.wonders(a)
		if len(asked) != 1 || asked[0].Kind != AskOlder {
			t.Fatalf("%+v", asked)
		}
		good, ok := a.tells(b, asked[0])
		if !ok || good.Older == nil || len(good.Older.Events) < 80 || len(good.Older.States) != 0 {
			t.Fatalf("%+v", good) // to the create event: no state is needed
		}
		short := asked[0]
		short.Most = 40
		part, ok := a.tells(b, short)
		if !ok || len(part.Older.Events) != 40 || len(part.Older.States) != 1 {
			t.Fatalf("%+v", part)
		}
		stranger := play(t, 3)
		mine := stranger.create(Create{})
		raw := func(p *player, room matrix.RoomID, id matrix.EventID) []byte {
			b, err := p.Raw(room, id)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		foreign := raw(a, other, a.say(other, "elsewhere"))
		strange := raw(stranger, mine, stranger.say(mine, "elsewhere"))
		message, err := matrix.Parse("12", part.Older.Events[5])
		if err != nil {
			t.Fatal(err)
		}
		for what, spoil := range map[string]func(*OlderPage){
			"no state":             func(o *OlderPage) { o.States = nil },
			"a state of nothing":   func(o *OlderPage) { o.States[0].Come = nil },
			"a state of a message": func(o *OlderPage) { o.States[0].Come = append(o.States[0].Come, message.ID()) },
			"a state unknown":      func(o *OlderPage) { o.States[0].Come = append(o.States[0].Come, "$"+matrix.EventID(mine[1:])) },
			"no create event": func(o *OlderPage) {
				o.States[0].Come = slices.DeleteFunc(o.States[0].Come, func(id matrix.EventID) bool { return id[1:] == matrix.EventID(room[1:]) })
			},
			"an event is left out": func(o *OlderPage) { o.Events = slices.Delete(o.Events, 20, 21) },
			"another room's event": func(o *OlderPage) { o.Events = append(o.Events, foreign) },
			"a stranger's event":   func(o *OlderPage) { o.Leaned = append(o.Leaned, strange) },
			"an event is no event": func(o *OlderPage) { o.Events[7] = []byte("{}") },
			"another's signature": func(o *OlderPage) {
				o.Events[7] = slices.Concat(o.Events[7][:len(o.Events[7])-10], []byte(`0`), o.Events[7][len(o.Events[7])-9:])
			},
			"a certificate is none": func(o *OlderPage) { o.Certificates = [][]byte{make([]byte, 129)} },
			"more than was asked":   func(o *OlderPage) { o.Events = slices.Repeat(o.Events, 6) },
			"nothing is leaned on":  func(o *OlderPage) { o.Leaned = nil },
			"a state is not allowed": func(o *OlderPage) {
				o.States[0].Come = append(o.States[0].Come, "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
			},
		} {
			bad := part
			o := *part.Older
			o.Events, o.Leaned, o.States = slices.Clone(o.Events), slices.Clone(o.Leaned), slices.Clone(o.States)
			o.States[0].Come = slices.Clone(o.States[0].Come)
			spoil(&o)
			bad.Older = &o
			if err := b.TakeAnswer(context.Background(), a.s.Server, bad); !errors.Is(err, ErrBadPast) {
				t.Errorf("%s: %v", what, err)
			}
			if got := b.all(b.user, room, 1000); !slices.Equal(got, before) {
				t.Errorf("%s: %d events are shown, not %d", what, len(got), len(before))
			}
		}
		same(t, room, a, b)
		// Nobody else is believed, nor is an answer to another question.
		for _, x := range []struct {
			from *player
			id   AskID
		}{{stranger, part.ID}, {a, AskID{7}}} {
			answer := part
			answer.ID = x.id
			if err := b.TakeAnswer(context.Background(), x.from.s.Server, answer); err != nil {
				t.Fatal(err)
			}
			if got := b.all(b.user, room, 1000); !slices.Equal(got, before) {
				t.Errorf("an answer that nobody asked for is taken")
			}
		}

		// What nobody can tell: the liar has signed a ban that never was in the room, and says that it held then. And it hides an event.
		s, _ := a.current(room)
		ban, err := a.build("12", matrix.Proto{Room: room, Sender: a.user, Type: matrix.TypeMember, StateKey: new(string(b.user)), Content: object(map[string]string{"membership": "ban"}),
			PrevEvents: message.PrevEvents(), AuthEvents: []matrix.EventID{s[matrix.StateKey{Type: matrix.TypePowerLevels}], s[matrix.StateKey{Type: matrix.TypeMember, Key: string(a.user)}]},
			Depth: message.Depth(), Time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		page := *part.Older
		page.States = []OlderState{{Event: page.States[0].Event, Come: append(slices.Clone(page.States[0].Come), ban.ID())}}
		page.Leaned = append(slices.Clone(page.Leaned), ban.Raw())
		page.Unshown = []matrix.EventID{message.ID()}
		part.Older = &page
		if err := b.TakeAnswer(context.Background(), a.s.Server, part); err != nil {
			t.Fatal(err)
		}
		if got := b.all(b.user, room, 1000); len(got) != len(before)+39 || slices.Contains(got, message.ID()) {
			t.Errorf("%d events are shown after %d", len(got), len(before))
		}
		same(t, room, a, b)
		if m, _ := b.Membership(b.user, room); m != matrix.MemberJoin {
			t.Errorf("b is %s", m)
		}
		b.say(room, "still here")
		b.post(a)
		same(t, room, a, b)

		// Who lied is not asked for a day, and then again: the rest comes.
		if n := b.fetches(a); n != 0 {
			t.Errorf("who lied was asked %d times more", n)
		}
		time.Sleep(25 * time.Hour)
		for range 20 {
			b.fetches(a)
		}
		if got := b.all(b.user, room, 1000); len(got) != len(a.all(a.user, room, 1000))-1 {
			t.Errorf("%d events are shown", len(got))
		}
	})
}

// TestThePastIsForMembers: who is not in the room, or was put out of it, is told nothing.
func TestThePastIsForMembers(t *testing.T) {
	a, b, c := play(t, 1), play(t, 2), play(t, 3)
	room := a.create(Create{})
	said := a.say(room, "hello")
	a.comes(room, b)
	a.meet(c)
	q := Ask{ID: AskID{1}, Kind: AskOlder, Room: room, Missing: []matrix.EventID{said}, Most: 10}
	if got, _ := a.tells(b, q); got.Older == nil || len(got.Older.Events) < 5 {
		t.Fatalf("a member is told %+v", got)
	}
	unknown := q
	unknown.Missing = []matrix.EventID{"$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}
	nowhere := q
	nowhere.Room = "!ACMESqjmQ0CRTPIKjYYGaCbyZlg3ENlZ5DHdbkCyFpI"
	a.member(room, a.user, c.user, matrix.MemberInvite)
	a.mail(c)
	for what, x := range map[string]struct {
		to *player
		q  Ask
	}{"who is invited": {c, q}, "what nobody knows": {b, unknown}, "no room": {b, nowhere}} {
		if got, ok := a.tells(x.to, x.q); !ok || got.Kind != AnswerNo {
			t.Errorf("%s: %+v", what, got)
		}
	}
	a.member(room, a.user, b.user, matrix.MemberBan)
	a.mail(b)
	if got, ok := a.tells(b, q); !ok || got.Kind != AnswerNo {
		t.Errorf("who was put out: %+v", got)
	}
}
