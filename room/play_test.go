// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
	"tarn/store"
)

// TestMain lowers the number of random plays: each is a small world. -rapid.checks=N asks for more.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		if err := flag.Set("rapid.checks", "25"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// tb is what a testing.TB and a rapid.T have in common.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Logf(string, ...any)
}

// player is a server in a test: rooms on a store of its own.
type player struct {
	t      tb
	s      dagtest.Server
	kv     store.KV
	stream *store.Stream
	*Rooms
	user matrix.UserID // a user of it

	older Older // counts when it is opened again
}

// play makes the server of a number on an empty store in memory.
func play(t tb, n int) *player { return playOn(t, n, store.OpenMemory()) }

func playOn(t tb, n int, kv store.KV) *player {
	t.Helper()
	p := &player{t: t, s: dagtest.NewServer(n), kv: kv}
	p.user = p.s.User(fmt.Sprintf("u%d", n)).ID
	p.open()
	return p
}

// open opens the rooms (again), as a new process would.
func (p *player) open() {
	p.t.Helper()
	var err error
	if p.stream, err = store.OpenStream(p.kv); err != nil {
		p.t.Fatal(err)
	}
	cert := onionid.Certify(p.s.Onion, p.s.Key.Public().(ed25519.PublicKey))
	p.Rooms, err = Open(p.kv, p.stream, Options{Signer: p.s.Signer, Certificate: cert, Older: p.older})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *player) at(localpart string) matrix.UserID { return p.s.User(localpart).ID }

func (p *player) create(c Create) matrix.RoomID {
	p.t.Helper()
	if c.Creator == "" {
		c.Creator = p.user
	}
	id, err := p.Create(context.Background(), c)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func (p *player) say(room matrix.RoomID, text string) matrix.EventID {
	p.t.Helper()
	return p.sayAs(p.user, room, text)
}

func (p *player) sayAs(u matrix.UserID, room matrix.RoomID, text string) matrix.EventID {
	p.t.Helper()
	id, err := p.Send(context.Background(), NewEvent{Room: room, Sender: u, Type: matrix.TypeMessage, Content: body(text)})
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func body(text string) json.RawMessage {
	return object(map[string]string{"msgtype": "m.text", "body": text})
}

func (p *player) set(room matrix.RoomID, typ, key string, content any) matrix.EventID {
	p.t.Helper()
	id, err := p.Send(context.Background(), NewEvent{Room: room, Sender: p.user, Type: typ, StateKey: &key, Content: object(content)})
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func (p *player) member(room matrix.RoomID, by, whom matrix.UserID, m string) matrix.EventID {
	p.t.Helper()
	id, err := p.SetMembership(context.Background(), room, by, whom, m, "", false)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

// mail is what waits in p's outbox for o; it is taken out.
func (p *player) mail(o *player) []store.Item {
	p.t.Helper()
	var items []store.Item
	err := p.kv.Update(func(txn store.Txn) error {
		var err error
		if items, err = store.Pending(txn, string(o.s.Server), 0, 100_000); err != nil {
			return err
		}
		for _, i := range items {
			if err := store.Dequeue(txn, string(o.s.Server), i.Seq); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return items
}

// post delivers what waits for o, and what o asks for then, until nothing is missing. It returns the kinds that went.
func (p *player) post(o *player) (kinds []byte) {
	p.t.Helper()
	for _, i := range p.mail(o) {
		kinds = append(kinds, i.Kind)
		p.hand(o, i)
	}
	return kinds
}

func split(data []byte) (matrix.RoomID, matrix.EventID) {
	i := slices.Index(data, 0)
	return matrix.RoomID(data[:i]), matrix.EventID(data[i+1:])
}

// hand delivers one item.
func (p *player) hand(o *player, i store.Item) {
	p.t.Helper()
	room, id := split(i.Data)
	if i.Kind == store.ItemInvite {
		s, err := p.Snapshot(room, id)
		if err != nil {
			p.t.Fatal(err)
		}
		if err := o.IngestSnapshot(context.Background(), p.s.Server, s); err != nil {
			p.t.Fatal(err)
		}
		return
	}
	p.give(o, room, id)
}

// give delivers events of a room, with the sender's certificate, and answers what is asked for then.
func (p *player) give(o *player, room matrix.RoomID, ids ...matrix.EventID) {
	p.t.Helper()
	o.meet(p)
	for round := 0; len(ids) > 0; round++ {
		if round > 200 {
			p.t.Fatal("asking without end")
		}
		var raws [][]byte
		for _, id := range ids {
			raw, err := p.RawFor(o.s.Server, room, id)
			if errors.Is(err, ErrUnknownEvent) {
				continue
			}
			if err != nil {
				p.t.Fatal(err)
			}
			raws = append(raws, raw)
		}
		in, err := o.Ingest(context.Background(), p.s.Server, room, raws)
		if err != nil {
			p.t.Fatal(err)
		}
		ids = in.Missing[room]
	}
}

// meet exchanges certificates.
func (p *player) meet(o *player) {
	p.t.Helper()
	if _, ok, err := p.Certificate(o.s.Server); ok && err == nil {
		return
	}
	for _, x := range []struct{ to, of *player }{{p, o}, {o, p}} {
		c, ok, err := x.of.Certificate(x.of.s.Server)
		if err != nil || !ok {
			p.t.Fatal("no certificate", err)
		}
		if err := x.to.AddCertificate(c); err != nil {
			p.t.Fatal(err)
		}
	}
}

// sync reads everything since.
func (p *player) sync(u matrix.UserID, since store.Pos) ([]Change, store.Pos) {
	p.t.Helper()
	return p.syncWith(u, since, SyncOptions{TimelineLimit: 100})
}

func (p *player) syncWith(u matrix.UserID, since store.Pos, o SyncOptions) ([]Change, store.Pos) {
	p.t.Helper()
	upTo := p.stream.Current()
	c, err := p.Sync(u, since, upTo, o)
	if err != nil {
		p.t.Fatal(err)
	}
	return c, upTo
}

// all pages backwards through the room, by pages of n.
func (p *player) all(u matrix.UserID, room matrix.RoomID, n int) []matrix.EventID {
	p.t.Helper()
	var out []matrix.EventID
	var from store.Pos
	for {
		page, err := p.Messages(u, room, from, true, n, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, e := range page.Events {
			out = append(out, e.ID())
		}
		if !page.More || page.Older {
			return out
		}
		from = page.End
	}
}

// bodies are the texts of messages, in the timeline's order.
func bodies(es []Entry) (out []string) {
	for _, e := range es {
		if e.Type() == matrix.TypeMessage {
			out = append(out, e.ContentString("body"))
		}
	}
	return out
}

func types(es []Entry) (out []string) {
	for _, e := range es {
		out = append(out, e.Type())
	}
	return out
}

// state is a room's current state and heads as a user of p sees it, for comparisons between servers.
func (p *player) current(room matrix.RoomID) (dag.State, []matrix.EventID) {
	p.t.Helper()
	var s dag.State
	err := p.read(room, func(q *reading) (err error) {
		s, err = q.state(q.row.current)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	heads, err := p.Heads(room)
	if err != nil {
		p.t.Fatal(err)
	}
	slices.Sort(heads)
	return s, heads
}

// same fails unless all players have the same state and heads of the room.
func same(t tb, room matrix.RoomID, players ...*player) {
	t.Helper()
	want, heads := players[0].current(room)
	for _, p := range players[1:] {
		s, h := p.current(room)
		if !s.Equal(want) {
			for k, v := range want {
				if s[k] != v {
					t.Logf("%v: %s, not %s", k, s[k], v)
					t.Logf("%s: %s", v, p.describe(room, v))
				}
			}
			t.Logf("heads %v not %v; wanted %v", h, heads, p.lacking(room))
			t.Fatalf("server %s has another state: %d entries, not %d", p.user, len(s), len(want))
		}
		if !slices.Equal(heads, h) {
			t.Fatalf("server %s has other heads: %v, not %v", p.user, h, heads)
		}
	}
}

// lacking lists what the room's waiting events wait for and the node does not have.
func (p *player) lacking(room matrix.RoomID) []matrix.EventID {
	p.t.Helper()
	var out []matrix.EventID
	err := p.read(room, func(q *reading) error {
		var last hash
		var ids []hash
		prefix := key(tabWaiting, q.n, 0)
		err := q.rd.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
			on := hash(k[len(prefix) : len(prefix)+len(hash{})])
			if on != last {
				ids, last = append(ids, on), on
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		for _, h := range ids {
			missing, err := q.lacks(h)
			if err != nil {
				return err
			}
			if missing {
				out = append(out, h.id())
			}
		}
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// describe says what a server knows of an event.
func (p *player) describe(room matrix.RoomID, id matrix.EventID) (out string) {
	_ = p.read(room, func(q *reading) error {
		e, err := q.byID(id)
		if e == nil {
			out = fmt.Sprint("not held ", err)
			return nil
		}
		out = fmt.Sprintf("%v, outlier %v, shown %v, depth %d, floor %d, past %d", e.status, e.outlier, e.shown, e.ev.Depth(), q.row.floorDepth, q.row.pastDepth)
		return nil
	})
	return out
}

func (p *player) now() time.Time { return time.UnixMilli(time.Now().UnixMilli()) }
