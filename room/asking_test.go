// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// asks takes a question to a player and gives what it answers; ok: anything.
func (p *player) asks(o *player, q Ask) (a Answer, ok bool) {
	p.t.Helper()
	if err := o.TakeQuestion(p.s.Server, q); err != nil {
		p.t.Fatal(err)
	}
	for _, i := range o.mail(p) {
		if i.Kind != store.ItemAnswer {
			continue
		}
		var err error
		if a, err = o.PackAnswer(p.s.Server, i.Data); err != nil {
			p.t.Fatal(err)
		}
		ok = true
	}
	return a, ok
}

// questions are those that wait for a player.
func (p *player) questions(o *player) (out []Ask) {
	p.t.Helper()
	for _, i := range p.mail(o) {
		if i.Kind == store.ItemQuestion {
			var q Ask
			if err := json.Unmarshal(i.Data, &q); err != nil {
				p.t.Fatal(err)
			}
			out = append(out, q)
		} else {
			p.hand(o, i)
		}
	}
	return out
}

// begins seeks without waiting.
func (p *player) begins(k Seek) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Seek(ctx, k); !errors.Is(err, ErrUnderWay) {
		p.t.Fatal(err)
	}
}

// converses carries questions and answers between two players until there are no more.
func (p *player) converses(o *player) {
	p.t.Helper()
	for more := true; more; {
		more = false
		for _, q := range p.questions(o) {
			more = true
			if a, ok := p.asks(o, q); ok {
				if err := p.TakeAnswer(context.Background(), o.s.Server, a); err != nil {
					p.t.Fatal(err)
				}
			}
		}
	}
}

func TestWhatOneMayNotKnowIsAnsweredLikeNothing(t *testing.T) {
	a, b := play(t, 1), play(t, 2)
	vip := a.create(Create{})
	secret := a.create(Create{Name: "secret", Alias: "secret"})
	restricted := a.create(Create{InitialState: []StateEvent{{matrix.TypeJoinRules, "", object(map[string]any{"join_rule": "restricted",
		"allow": []any{map[string]any{"type": "m.room_membership", "room_id": vip}}})}}})
	banned := a.create(Create{Public: true})
	a.member(banned, a.user, b.user, matrix.MemberBan)
	a.mail(b)
	if err := a.Publish(a.user, secret, true); err != nil {
		t.Fatal(err)
	}
	id := AskID{1}
	for what, q := range map[string]Ask{
		"nothing":                    {Kind: AskJoin, Room: "!ACMESqjmQ0CRTPIKjYYGaCbyZlg3ENlZ5DHdbkCyFpI", User: b.user},
		"join":                       {Kind: AskJoin, Room: secret, User: b.user},
		"knock":                      {Kind: AskKnock, Room: secret, User: b.user},
		"leave":                      {Kind: AskLeave, Room: secret, User: b.user},
		"join of a restricted one":   {Kind: AskJoin, Room: restricted, User: b.user},
		"join of one that is banned": {Kind: AskJoin, Room: banned, User: b.user},
		"join of somebody else":      {Kind: AskJoin, Room: banned, User: a.at("carol")},
		"alias":                      {Kind: AskAlias, Text: "#secret:" + string(a.s.Server)},
		"no alias":                   {Kind: AskAlias, Text: "#none:" + string(a.s.Server)},
		"summary":                    {Kind: AskSummary, Room: secret},
		"send":                       {Kind: AskSend, Room: secret, Event: []byte("{}")},
		"send to nothing":            {Kind: AskSend, Room: "!x", Event: []byte("{}")},
		"list of nonsense":           {Kind: AskList, Text: "x"},
		"nonsense":                   {Kind: 99},
	} {
		q.ID = id
		got, ok := b.asks(a, q)
		if !ok && what == "nonsense" {
			continue
		}
		if !ok || string(object(got)) != string(object(Answer{ID: id})) {
			t.Errorf("%s: %s", what, object(got))
		}
	}
	// Published to all, it stands in the directory, which names it on purpose.
	if got, ok := b.asks(a, Ask{ID: id, Kind: AskList, Text: `{"limit":10}`}); !ok || !strings.Contains(string(got.Data), string(secret)) {
		t.Errorf("%s", got.Data)
	}
}

func TestAskingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := play(t, 1), play(t, 2)
		room := a.create(Create{Public: true})
		answers, snapshots := 0, 0
		ask := func(kind byte) {
			got, ok := b.asks(a, Ask{Kind: kind, Room: room, User: b.user})
			if ok {
				answers++
			}
			if got.Kind == AnswerSnapshot {
				snapshots++
			}
		}
		for range 30 {
			ask(AskJoin)
		}
		if snapshots != maxGiven {
			t.Errorf("%d snapshots were given", snapshots)
		}
		for range 1000 {
			ask(AskKnock)
		}
		if want := maxQuestions - 30 + maxGiven; answers != want {
			t.Errorf("%d questions were answered, not %d", answers, want)
		}
		answers = 0
		time.Sleep(10 * time.Minute)
		for range 1000 {
			ask(AskKnock)
		}
		if answers != 10 {
			t.Errorf("%d questions were answered after ten minutes", answers)
		}
		// And what one asks for oneself.
		for i := range maxSeeking {
			b.begins(Seek{User: b.user, Membership: matrix.MemberJoin, Room: matrix.RoomID(fmt.Sprintf("!%d:%s", i, a.s.Server))})
		}
		if _, err := b.Seek(context.Background(), Seek{User: b.user, Membership: matrix.MemberJoin, Room: matrix.RoomID("!x:" + string(a.s.Server))}); !errors.Is(err, ErrTooMany) {
			t.Error(err)
		}
		for range 2000 {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, err := b.SummaryOf(ctx, b.user, matrix.RoomID(fmt.Sprintf("!s%d", answers)), []matrix.ServerName{a.s.Server})
			if answers++; err == nil {
				t.Fatal("an answer without a question")
			}
		}
		n := 0
		for _, q := range b.questions(a) {
			if q.Kind == AskSummary {
				n++
			}
		}
		if n > maxLookups {
			t.Errorf("%d questions for summaries wait", n)
		}
		// After a day all is given up.
		if err := b.Tend(time.Now().Add(25*time.Hour), time.Minute); err != nil || len(b.seeking) != 0 {
			t.Errorf("%d are still sought, %v", len(b.seeking), err)
		}
	})
}

// TestAHostileResidentIsPassedOver: one answers with a snapshot that does not hold, the next with a good one; answers that nobody asked for are nothing.
func TestAHostileResidentIsPassedOver(t *testing.T) {
	a, b, eve := play(t, 1), play(t, 2), play(t, 3)
	room := a.create(Create{Public: true, Name: "Square"})
	a.say(room, "hello")
	b.begins(Seek{User: b.user, Membership: matrix.MemberJoin, Room: room, Via: []matrix.ServerName{eve.s.Server, a.s.Server}})
	asked := b.questions(eve)
	if len(asked) != 1 || len(b.questions(a)) != 0 {
		t.Fatalf("%+v", asked)
	}
	good, ok := b.asks(a, asked[0])
	if !ok || good.Kind != AnswerSnapshot {
		t.Fatalf("%+v", good)
	}
	other := play(t, 4)
	for _, x := range []struct {
		from *player
		a    Answer
	}{{a, good}, {other, good}, {eve, Answer{ID: AskID{9}, Kind: AnswerSnapshot, Snapshot: good.Snapshot}}} {
		if err := b.TakeAnswer(context.Background(), x.from.s.Server, x.a); err != nil {
			t.Fatal(err)
		}
	}
	if m, _ := b.Membership(b.user, room); m != "" {
		t.Fatalf("an answer that nobody asked for was taken: %s", m)
	}
	// Eve is not in the room: her copy of the snapshot is not believed. Then the next is asked.
	if err := b.TakeAnswer(context.Background(), eve.s.Server, good); err != nil {
		t.Fatal(err)
	}
	if m, _ := b.Membership(b.user, room); m != "" {
		t.Fatal("eve's was believed")
	}
	for _, spoil := range []func(*Snapshot){
		func(s *Snapshot) { s.Heads = nil },
		func(s *Snapshot) { s.Heads = []matrix.EventID{"$" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} },
		func(s *Snapshot) { // without the create event
			s.State = slices.DeleteFunc(s.State, func(id matrix.EventID) bool { return id[1:] == matrix.EventID(room[1:]) })
		},
		func(s *Snapshot) { s.Events = s.Events[1:] },
		func(s *Snapshot) { s.Room = "!another" },
		func(s *Snapshot) { s.Version = "99" },
		func(s *Snapshot) { s.Certificates = nil },
	} {
		c := play(t, 5)
		c.begins(Seek{User: c.user, Membership: matrix.MemberJoin, Room: room, Via: []matrix.ServerName{a.s.Server}})
		q := c.questions(a)[0]
		got, _ := c.asks(a, q)
		if got.Snapshot == nil {
			t.Fatal("no snapshot")
		}
		s := *got.Snapshot
		s.Heads, s.State, s.Events = slices.Clone(s.Heads), slices.Clone(s.State), slices.Clone(s.Events)
		spoil(&s)
		got.Snapshot = &s
		if err := c.TakeAnswer(context.Background(), a.s.Server, got); err != nil {
			t.Fatal(err)
		}
		if m, _ := c.Membership(c.user, room); m != "" || len(c.seeking) != 0 {
			t.Errorf("a spoilt snapshot was taken: %q", m)
		}
	}
	b.converses(a)
	if m, _ := b.Membership(b.user, room); m != matrix.MemberJoin {
		t.Fatalf("%q", m)
	}
	b.post(a)
	same(t, room, a, b)
	b.judge(room)
}

// TestARoomWithForksAndSecretsIsJoined: several heads, some of which the newcomer may not see; what was said since the answer is handed over.
func TestARoomWithForksAndSecretsIsJoined(t *testing.T) {
	for _, vis := range []string{visShared, visJoined} {
		a, b, c := play(t, 1), play(t, 2), play(t, 3)
		room := a.create(Create{Public: true, InitialState: []StateEvent{{matrix.TypeHistoryVisibility, "", object(map[string]string{"history_visibility": vis})}}})
		a.member(room, a.user, c.user, matrix.MemberInvite)
		a.post(c)
		c.member(room, c.user, c.user, matrix.MemberJoin)
		c.post(a)
		for i := range 3 { // forks
			a.say(room, fmt.Sprint("a", i))
			c.say(room, fmt.Sprint("c", i))
		}
		c.post(a)
		b.begins(Seek{User: b.user, Membership: matrix.MemberJoin, Room: room, Via: []matrix.ServerName{a.s.Server}})
		q := b.questions(a)[0]
		got, _ := b.asks(a, q)
		a.say(room, "meanwhile")
		a.post(c)
		if err := b.TakeAnswer(context.Background(), a.s.Server, got); err != nil {
			t.Fatal(err)
		}
		if m, _ := b.Membership(b.user, room); m != matrix.MemberJoin {
			t.Fatalf("%s: %q", vis, m)
		}
		page, err := b.Messages(b.user, room, 0, false, 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		if texts := bodies(page.Events); (len(texts) == 6) != (vis == visShared) || vis == visJoined && len(texts) != 0 {
			t.Errorf("%s: %q", vis, texts)
		}
		b.post(a)
		b.post(c)
		a.post(b)
		a.say(room, "after")
		a.post(b)
		a.post(c)
		same(t, room, a, b)
		same(t, room, a, c)
		b.judge(room)
	}
}

// TestAskingSurvivesACrashAtAnyWrite: the asking node dies at each of its writes in turn, in it or at its end; started anew, it is given the same answers again, and comes in, or its
// knock is seen, once.
func TestAskingSurvivesACrashAtAnyWrite(t *testing.T) {
	knock := []StateEvent{{matrix.TypeJoinRules, "", object(map[string]string{"join_rule": "knock"})}}
	for _, k := range []struct {
		membership string
		create     Create
	}{{matrix.MemberJoin, Create{Public: true}}, {matrix.MemberKnock, Create{InitialState: knock}}} {
		for _, atEnd := range []bool{false, true} {
			crashes := 0
			for n := 0; ; n++ {
				a := play(t, 1)
				room := a.create(k.create)
				a.say(room, "hello")
				inner := store.OpenMemory()
				f := &frail{KV: inner, left: -1, atEnd: atEnd}
				b := playOn(t, 2, f)
				a.meet(b)
				b.kv, f.left = inner, n
				crashed := false
				survive := func(try func() error) {
					for range 3 {
						err := try()
						if err == nil {
							return
						}
						if !errors.Is(err, errDisk) || crashed {
							t.Fatalf("%s, write %d: %v", k.membership, n, err)
						}
						crashed, f.left, f.failed = true, -1, false
						b.kv = f
						b.open()
						b.kv = inner
					}
				}
				survive(func() error {
					ctx, cancel := context.WithCancel(context.Background())
					cancel()
					_, err := b.Seek(ctx, Seek{User: b.user, Membership: k.membership, Room: room, Via: []matrix.ServerName{a.s.Server}})
					if errors.Is(err, ErrUnderWay) {
						err = nil
					}
					return err
				})
				for more := true; more; {
					more = false
					for _, q := range b.questions(a) {
						more = true
						if got, ok := b.asks(a, q); ok {
							survive(func() error { return b.TakeAnswer(context.Background(), a.s.Server, got) })
						}
					}
				}
				for who, p := range map[string]*player{"the asker": b, "the resident": a} {
					if m, err := p.Membership(b.user, room); err != nil || m != k.membership {
						t.Fatalf("%s, write %d: %s has %q, %v", k.membership, n, who, m, err)
					}
				}
				if len(b.seeking) != 0 {
					t.Fatalf("%s, write %d: it is still sought", k.membership, n)
				}
				if !crashed {
					break
				}
				crashes++
			}
			t.Logf("%s: %d crashes", k.membership, crashes)
		}
	}
}

// Who is slow to say no is not asked again: when all have said it, late or not, the user hears so.
func TestALateNoCounts(t *testing.T) {
	a, b, c := play(t, 1), play(t, 2), play(t, 3)
	c.begins(Seek{User: c.user, Membership: matrix.MemberJoin, Room: "!ACMESqjmQ0CRTPIKjYYGaCbyZlg3ENlZ5DHdbkCyFpI", Via: []matrix.ServerName{a.s.Server, b.s.Server}})
	first := c.questions(a)
	for i := range 2 { // the first Tend starts the clock
		if err := c.Tend(time.Now().Add(time.Duration(i)*2*time.Minute), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	second := c.questions(b)
	if len(first) != 1 || len(second) != 1 || len(c.seeking) != 1 {
		t.Fatalf("asked %d, %d; %d stand", len(first), len(second), len(c.seeking))
	}
	waits := c.seeking[0]
	for _, of := range []struct {
		o *player
		q Ask
	}{{b, second[0]}, {b, second[0]}, {a, first[0]}} {
		select {
		case <-waits.done:
			t.Fatal("one who was asked has not answered")
		default:
		}
		if err := c.TakeAnswer(t.Context(), of.o.s.Server, Answer{ID: of.q.ID}); err != nil {
			t.Fatal(err)
		}
	}
	<-waits.done
	if !errors.Is(waits.err, ErrRefused) {
		t.Fatal(waits.err)
	}
}
