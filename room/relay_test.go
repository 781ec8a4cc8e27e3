// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store/storetest"
)

// checks runs a property n times, or 2000 times in `make full`.
func checks(t *testing.T, n int, prop func(*rapid.T)) {
	t.Helper()
	asked := flag.Lookup("rapid.checks").Value.String()
	if os.Getenv("TARN_FULL") != "" {
		n = 2000
	} else if asked != "25" { // TestMain's
		fmt.Sscan(asked, &n)
	}
	if err := flag.Set("rapid.checks", fmt.Sprint(n)); err != nil {
		t.Fatal(err)
	}
	defer flag.Set("rapid.checks", asked)
	rapid.Check(t, prop)
}

// drawLinks draws who is whose contact: a connected graph of n nodes.
func drawLinks(t *rapid.T, n int) (shape string, links [][]bool) {
	links = make([][]bool, n)
	for i := range links {
		links[i] = make([]bool, n)
	}
	link := func(i, j int) { links[i][j], links[j][i] = i != j, i != j }
	shape = rapid.SampledFrom([]string{"line", "star", "ring", "tree", "clique", "any"}).Draw(t, "shape")
	for i := 1; i < n; i++ {
		switch shape {
		case "line", "ring":
			link(i, i-1)
		case "star":
			link(i, 0)
		case "clique":
			for j := range i {
				link(i, j)
			}
		default:
			link(i, rapid.IntRange(0, i-1).Draw(t, "link"))
		}
	}
	switch shape {
	case "ring":
		link(0, n-1)
	case "any":
		for range rapid.IntRange(0, n*n/3).Draw(t, "more links") {
			link(rapid.IntRange(0, n-1).Draw(t, "from"), rapid.IntRange(0, n-1).Draw(t, "to"))
		}
	}
	return shape, links
}

// gather makes players that know each other.
func (w *world) gather(n int) {
	for i := range n {
		w.players = append(w.players, play(w.t, i+1))
	}
	for _, p := range w.players {
		for _, o := range w.players {
			if p != o {
				p.meet(o)
			}
		}
	}
}

// event reads what a server has.
func (p *player) event(room matrix.RoomID, id matrix.EventID) *matrix.Event {
	p.t.Helper()
	raw, err := p.Raw(room, id)
	if err != nil {
		p.t.Fatal(err)
	}
	v, err := p.Version(room)
	if err != nil {
		p.t.Fatal(err)
	}
	ev, err := matrix.Parse(v, raw)
	if err != nil {
		p.t.Fatal(err)
	}
	return ev
}

// linked is a world whose players are contacts as links says, and all in one room.
func linked(t tb, links [][]bool, v matrix.RoomVersion) *world {
	w := &world{t: t, links: links, said: map[[2]int]map[matrix.ServerName]bool{}}
	w.gather(len(links))
	w.peers()
	a := w.players[0]
	w.room = a.create(Create{Creator: a.user, Version: v, PowerLevels: []byte(`{"events_default":0,"state_default":0,"ban":50,"kick":50}`)})
	in := []int{0} // everybody is invited by a contact
	for k := 0; k < len(in); k++ {
		for j := range links {
			if links[in[k]][j] && !slices.Contains(in, j) {
				p, o := w.players[in[k]], w.players[j]
				p.member(w.room, p.user, o.user, matrix.MemberInvite)
				w.flow()
				o.member(w.room, o.user, o.user, matrix.MemberJoin)
				w.flow()
				in = append(in, j)
			}
		}
	}
	if len(in) != len(links) {
		t.Fatal("the graph is not connected")
	}
	return w
}

// peers tells each player who its contacts are, and what they said.
func (w *world) peers() {
	for i, p := range w.players {
		m := map[matrix.ServerName]Peer{}
		for j, o := range w.players {
			if w.links[i][j] {
				said, ok := w.said[[2]int{j, i}]
				m[o.s.Server] = Peer{Sources: said, Said: ok}
			}
		}
		p.SetPeers(m)
	}
}

// tell lets one player say to a contact whose events it gets from themselves, as package replicate does.
func (w *world) tell(from, to int) {
	p, o := w.players[from], w.players[to]
	fellows, err := p.Fellows(o.s.Server)
	if err != nil {
		w.t.Fatal(err)
	}
	said := map[matrix.ServerName]bool{}
	for j, x := range w.players {
		if w.links[from][j] && slices.Contains(fellows, x.s.Server) {
			said[x.s.Server] = true
		}
	}
	w.said[[2]int{from, to}] = said
	w.peers()
}

func (w *world) tellAll() {
	for i := range w.links {
		for j := range w.links {
			if w.links[i][j] {
				w.tell(i, j)
			}
		}
	}
}

// flow delivers everything, what is passed on too, until nothing is under way.
func (w *world) flow() {
	for w.collect(); len(w.under) > 0; w.collect() {
		all := w.under
		w.under = nil
		for _, l := range all {
			w.deliver(l)
		}
	}
}

// reach delivers everything in an order that is drawn, and counts how often the event was handed over.
func (w *world) reach(t *rapid.T, id matrix.EventID) (copies int) {
	for w.collect(); len(w.under) > 0; w.collect() {
		k := rapid.IntRange(0, len(w.under)-1).Draw(t, "letter")
		l := w.under[k]
		w.under = slices.Delete(w.under, k, k+1)
		if _, ev := split(l.item.Data); ev == id {
			copies++
		}
		w.deliver(l)
	}
	return copies
}

// A message reaches every server over whatever contacts there are, without any summaries, and costs the copies that relay.go says.
func TestAnEventIsPassedOnToThoseThatLackIt(t *testing.T) {
	checks(t, 25, func(rt *rapid.T) {
		n := rapid.IntRange(3, 9).Draw(rt, "servers") // up to maxDirect others
		shape, links := drawLinks(rt, n)
		w := linked(rt, links, matrix.DefaultVersion)
		w.tellAll()
		edges := 0
		for i := range links {
			for j := range i {
				if links[i][j] {
					edges++
				}
			}
		}
		author := w.players[rapid.IntRange(0, n-1).Draw(rt, "author")]
		id := author.say(w.room, "x")
		copies := w.reach(rt, id)
		for _, p := range w.players {
			if _, err := p.Status(w.room, id); err != nil {
				rt.Fatalf("%s: a server of %d did not get it: %v", shape, n, err)
			}
		}
		most := 2*edges - (n - 1)
		switch shape {
		case "line", "star", "tree", "clique":
			most = n - 1
		case "ring":
			most = n + 1
		}
		if copies < n-1 || copies > most {
			rt.Fatalf("%s of %d with %d pairs: %d copies of an event, at most %d are due", shape, n, edges, copies, most)
		}
		same(rt, w.room, w.players...)
	})
}

// Whatever the graph of contacts, the post and the disks do: everybody comes to the same room.
func TestServersThatAreNotAllContactsConverge(t *testing.T) {
	checks(t, 12, func(rt *rapid.T) {
		n := rapid.IntRange(3, 12).Draw(rt, "servers")
		_, links := drawLinks(rt, n)
		w := linked(rt, links, rapid.SampledFrom([]matrix.RoomVersion{"11", "12"}).Draw(rt, "version"))
		w.lossy, w.mortal = rapid.Bool().Draw(rt, "lossy"), true
		if rapid.Bool().Draw(rt, "told") {
			w.tellAll()
		}
		for i := range rapid.IntRange(5, 30).Draw(rt, "steps") {
			if rapid.IntRange(0, 4).Draw(rt, "say") == 0 {
				from, to := rapid.IntRange(0, n-1).Draw(rt, "from"), rapid.IntRange(0, n-1).Draw(rt, "to")
				if links[from][to] {
					w.tell(from, to) // also what is no longer so later
				}
			}
			w.act(rt, i)
		}
		w.meetAgain()
		same(rt, w.room, w.players...)
		for _, p := range w.players {
			p.judge(w.room)
			ids := p.all(p.user, w.room, 7)
			k := len(ids)
			slices.Sort(ids)
			if len(slices.Compact(ids)) != k {
				rt.Fatal("an event twice in a timeline")
			}
		}
	})
}

// In a room of many servers each gets some copies, and who hears of the room from one server only gets every event.
func TestManyServersAreGivenEventsByLot(t *testing.T) {
	const n = 16
	for _, shape := range []string{"star", "clique"} {
		links := make([][]bool, n)
		for i := range links {
			links[i] = make([]bool, n)
			for j := range links[i] {
				links[i][j] = i != j && (shape == "clique" || i == 0 || j == 0)
			}
		}
		w := linked(t, links, matrix.DefaultVersion)
		w.tellAll()
		const events = 20
		copies, reached := 0, 0
		for i := range events {
			id := w.players[i%n].say(w.room, fmt.Sprint(i))
			for w.collect(); len(w.under) > 0; w.collect() {
				l := w.under[0]
				w.under = w.under[1:]
				copies++
				l.from.hand(l.to, l.item) // who lacks what it leans on asks for it
			}
			for _, p := range w.players {
				if _, err := p.Status(w.room, id); err == nil {
					reached++
				}
			}
		}
		t.Logf("%s of %d: %.1f copies an event, %.1f %% of the servers reached without heads", shape, n, float64(copies)/events, 100*float64(reached)/(events*n))
		switch {
		case shape == "star" && (copies != events*(n-1) || reached != events*n):
			t.Fatalf("%d copies, %d reached", copies, reached)
		case shape == "clique" && (copies > events*(fanOut*n+2) || reached < events*n*8/10):
			t.Fatalf("%d copies, %d reached", copies, reached)
		}
		w.heal()
		same(t, w.room, w.players...)
	}
}

// What an event's taker would pass on is there if, and only if, the event is.
func TestWhatIsTakenIsPassedOnWhateverIsKilled(t *testing.T) {
	for _, after := range []bool{false, true} {
		for left := range 3 {
			w := linked(t, [][]bool{{false, true, false}, {true, false, true}, {false, true, false}}, matrix.DefaultVersion)
			a, b, c := w.players[0], w.players[1], w.players[2]
			var raws [][]byte
			var ids []matrix.EventID
			for i := range 2 * planEvents { // several transactions
				ids = append(ids, a.say(w.room, fmt.Sprint(i)))
				raw, err := a.Raw(w.room, ids[i])
				if err != nil {
					t.Fatal(err)
				}
				raws = append(raws, raw)
			}
			kv := b.kv
			b.kv = &storetest.Mortal{KV: kv, Left: left, After: after}
			b.open()
			w.peers()
			_, err := b.Ingest(context.Background(), a.s.Server, w.room, raws)
			if err != nil && !errors.Is(err, storetest.ErrDied) {
				t.Fatal(err)
			}
			b.kv = kv
			b.open()
			w.peers()
			here := 0
			for _, id := range ids {
				if _, err := b.Status(w.room, id); err == nil {
					here++
				}
			}
			if n := len(b.mail(c)); n != here {
				t.Fatalf("%d events were taken, %d are to be passed on", here, n)
			}
		}
	}
}

// A relay that shows what another wrote redacted is found out by the first who gives it whole; and so is everybody behind.
func TestWhatWasPassedOnRedactedIsPassedOnWholeLater(t *testing.T) {
	w := linked(t, [][]bool{{false, true, false}, {true, false, true}, {false, true, false}}, matrix.DefaultVersion)
	a, b, c := w.players[0], w.players[1], w.players[2]
	id := a.say(w.room, "the words")
	ev := a.event(w.room, id)
	raw := ev.Raw()
	if _, err := b.Ingest(context.Background(), a.s.Server, w.room, [][]byte{ev.Redact().Raw()}); err != nil {
		t.Fatal(err)
	}
	b.post(c)
	if got, err := c.Raw(w.room, id); err != nil || string(got) == string(raw) {
		t.Fatal("not the redacted form", err)
	}
	w.flow()
	if got, err := c.Raw(w.room, id); err != nil || string(got) != string(raw) {
		t.Fatal("the whole event did not come after it", err)
	}
}

// Who came by an event without its content, for the giver did not know better, asks the others for it: of what users here may read.
func TestTornEventIsAskedForElsewhere(t *testing.T) {
	w := linked(t, [][]bool{{false, true, true}, {true, false, true}, {true, true, false}}, matrix.DefaultVersion)
	a, b, c := w.players[0], w.players[1], w.players[2]
	early := a.say(w.room, "before all")
	w.tellAll()
	w.flow()
	id := a.say(w.room, "the words")
	ev := a.event(w.room, id)
	raw := ev.Raw()
	lacks := func(id matrix.EventID, want bool) {
		t.Helper()
		if got, err := c.Lacks(w.room, id); err != nil || got != want {
			t.Fatalf("lacks %v, %v", got, err)
		}
	}
	lacks(id, true)
	in := c.ingest(b, w.room, ev.Redact().Raw())
	if len(in.Stored) != 1 || len(in.Torn) != 1 || in.Torn[0].Event != id || !slices.Equal(in.Torn[0].Ask, []matrix.ServerName{a.s.Server}) {
		t.Fatalf("%+v", in)
	}
	lacks(id, true)
	if in = c.ingest(a, w.room, raw); len(in.Torn) != 0 {
		t.Fatalf("%+v", in)
	}
	lacks(id, false)
	lacks(early, false)
}

// A liar shows two branches to two servers that both hear from it: they are joined by the summaries of honest ones.
func TestTwoBranchesShownToTwoServers(t *testing.T) {
	w := linked(t, [][]bool{{false, true, true}, {true, false, true}, {true, true, false}}, matrix.DefaultVersion)
	w.tellAll()
	a, b, c := w.players[0], w.players[1], w.players[2]
	twin := playOn(t, 1, a.kv) // the same server, that sent something else
	one := a.say(w.room, "to b")
	l := a.mail(b)
	a.mail(c)
	raw, err := a.Raw(w.room, one)
	if err != nil || len(l) != 1 {
		t.Fatal(err, l)
	}
	heads := append([]matrix.EventID(nil), one)
	other := fork(t, twin, w.room, one, "to c")
	for _, x := range []struct {
		to  *player
		raw []byte
	}{{b, raw}, {c, other.Raw()}} {
		if _, err := x.to.Ingest(context.Background(), a.s.Server, w.room, [][]byte{x.raw}); err != nil {
			t.Fatal(err)
		}
	}
	w.flow()
	if _, err := c.Status(w.room, one); err == nil {
		t.Fatal("c said that it gets a's events itself, and was given one by b")
	}
	b.give(c, w.room, heads...)
	c.give(b, w.room, other.ID())
	same(t, w.room, b, c)
}

// fork builds an event of the player's user with the parents of another one.
func fork(t *testing.T, p *player, room matrix.RoomID, beside matrix.EventID, text string) *matrix.Event {
	t.Helper()
	var out *matrix.Event
	err := p.read(room, func(q *reading) error {
		e, err := q.byID(beside)
		if err != nil {
			return err
		}
		out, err = p.build(q.row.version, matrix.Proto{Room: room, Sender: p.user, Type: matrix.TypeMessage, Content: body(text),
			PrevEvents: e.ev.PrevEvents(), AuthEvents: e.ev.AuthEvents(), Depth: e.ev.Depth(), Time: p.now()})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// An event that goes to many contacts is no news for rooms that they are not in: nothing is queued for them.
func TestNothingIsPassedOnToWhoIsNotInTheRoom(t *testing.T) {
	w := linked(t, [][]bool{{false, true}, {true, false}}, matrix.DefaultVersion)
	a, b, stranger := w.players[0], w.players[1], play(t, 9)
	b.meet(stranger)
	b.SetPeers(map[matrix.ServerName]Peer{a.s.Server: {}, stranger.s.Server: {}})
	a.say(w.room, "x")
	w.flow()
	if l := b.mail(stranger); len(l) != 0 {
		t.Fatalf("%d items for who is not in the room", len(l))
	}
}

// A contact is told of servers in rooms that it is in, and of no others (docs/THREATS.md, "Rooms with more than two nodes").
func TestFellowsAreOfSharedRoomsAlone(t *testing.T) {
	w := linked(t, [][]bool{{false, true, true, true}, {true, false, false, false}, {true, false, false, false}, {true, false, false, false}}, matrix.DefaultVersion)
	a, b, c, d := w.players[0], w.players[1], w.players[2], w.players[3]
	d.member(w.room, d.user, d.user, matrix.MemberLeave)
	w.flow()
	other := a.create(Create{Creator: a.user, Invite: []matrix.UserID{d.user}})
	a.post(d)
	for _, x := range []struct {
		of   *player
		want []matrix.ServerName
	}{{b, []matrix.ServerName{c.s.Server}}, {c, []matrix.ServerName{b.s.Server}}, {d, nil}} {
		if got, err := a.Fellows(x.of.s.Server); err != nil || !slices.Equal(got, x.want) {
			t.Errorf("%v, %v, not %v", got, err, x.want)
		}
	}
	d.member(other, d.user, d.user, matrix.MemberJoin)
	d.post(a)
	if got, err := a.Fellows(d.s.Server); err != nil || len(got) != 0 {
		t.Errorf("%v, %v, though no other server is in that room", got, err)
	}
}
