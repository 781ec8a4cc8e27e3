// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// A contact could name a new thread in each receipt: rows without end, all of them in every first sync.
func TestReceiptsOfThreadsThatDoNotExistAreDropped(t *testing.T) {
	a, b, room := pair(t)
	root := a.say(room, "root of a thread")
	a.post(b)
	_, at := a.sync(a.user, 0)
	rs := []Receipt{{User: b.user, Event: root, Type: readPublic, Thread: string(root), Time: time.UnixMilli(1)}}
	for i := range 500 {
		rs = append(rs, Receipt{User: b.user, Event: root, Type: readPublic, Thread: fmt.Sprint("t", i), Time: time.UnixMilli(1)})
		rs = append(rs, Receipt{User: b.user, Event: root, Type: readPublic, Thread: fmt.Sprintf("$%043d", i), Time: time.UnixMilli(1)})
	}
	if err := a.IngestReceipts(b.s.Server, room, rs); err != nil {
		t.Fatal(err)
	}
	cs, _ := a.sync(a.user, at)
	if c := only(t, cs); len(c.Receipts) != 1 || c.Receipts[0].Thread != string(root) {
		t.Fatalf("%d receipts were taken, want the one of the thread that exists", len(c.Receipts))
	}
}

// A contact could invite to a room in each record: rooms without end, all of them in every first sync.
func TestInvitesOfOneServerAreBounded(t *testing.T) {
	a, b := play(t, 1), play(t, 2)
	taken := 0
	for range invitesFrom + 5 {
		room := a.create(Create{Invite: []matrix.UserID{b.user}})
		for _, i := range a.mail(b) {
			at, id := split(i.Data)
			if i.Kind != store.ItemInvite || at != room {
				continue
			}
			s, err := a.Snapshot(room, id)
			if err != nil {
				t.Fatal(err)
			}
			switch err := b.IngestSnapshot(context.Background(), a.s.Server, s); {
			case err == nil:
				taken++
			case !errors.Is(err, ErrForbidden):
				t.Fatal(err)
			}
		}
	}
	if taken != invitesFrom {
		t.Errorf("%d invites were taken, want %d", taken, invitesFrom)
	}
	// Another server's are none of its business.
	c := play(t, 3)
	room := c.create(Create{Invite: []matrix.UserID{b.user}})
	for _, i := range c.mail(b) {
		if at, id := split(i.Data); i.Kind == store.ItemInvite && at == room {
			s, err := c.Snapshot(room, id)
			if err != nil {
				t.Fatal(err)
			}
			b.take(c, s)
		}
	}
}

// parkedRows counts the rows of waiting events, their bytes, and the rows of what they wait for.
func (p *player) parkedRows(t *testing.T) (events, size, awaited int) {
	for k, v := range dump(t, p.kv) {
		switch k[0] {
		case tabPending:
			events, size = events+1, size+len(v)
		case tabWaiting:
			awaited++
		}
	}
	return events, size, awaited
}

// orphan is a message of p's that follows parents which nobody has.
func (p *player) orphan(room matrix.RoomID, n int, depth int64, text string) []byte {
	p.t.Helper()
	fakes := make([]matrix.EventID, matrix.MaxPrev)
	for i := range fakes {
		h := hash{7}
		binary.BigEndian.PutUint64(h[8:], uint64(n*len(fakes)+i))
		fakes[i] = h.id()
	}
	ev, err := matrix.Build("12", matrix.Proto{Room: room, Sender: p.user, Type: matrix.TypeMessage, Content: body(text), PrevEvents: fakes, Depth: depth, Time: time.UnixMilli(1)}, p.s.Signer)
	if err != nil {
		p.t.Fatal(err)
	}
	return ev.Raw()
}

// trio is a room of three servers.
func trio(t *testing.T) (a, b, c *player, room matrix.RoomID) {
	w := crowd(t, 3)
	return w.players[0], w.players[1], w.players[2], w.room
}

// goOn lets the honest two of a trio speak to each other, also in the wrong order, past whatever the third did to b.
func goOn(t *testing.T, a, b *player, room matrix.RoomID) {
	t.Helper()
	var raws [][]byte
	for i := range 10 {
		raws = append(raws, a.raw(room, a.say(room, fmt.Sprint("on ", i))))
	}
	slices.Reverse(raws)
	for _, raw := range raws[:9] {
		if in := b.ingest(a, room, raw); in.Bad != 0 || len(in.Missing[room]) == 0 {
			t.Fatalf("what lacks a parent: %+v", in)
		}
	}
	if in := b.ingest(a, room, raws[9]); len(in.Stored) != 10 {
		t.Errorf("%d of 10 messages of an honest member got in", len(in.Stored))
	}
	a.give(b, room, must(a.Heads(room))...)
	b.say(room, "back")
	b.give(a, room, must(b.Heads(room))...)
	same(t, room, a, b)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A member makes up parents by the million: events that wait for what never comes, at the top of the room and at its bottom.
func TestAFanOfFakeParentsIsBounded(t *testing.T) {
	a, b, c, room := trio(t)
	events := 2500
	if os.Getenv("TARN_FULL") != "" {
		events = 50_000 // times 20
	}
	var last time.Duration
	for i := 0; i < events; i += 50 {
		var raws [][]byte
		for j := range 50 {
			depth := int64(1)
			if j%2 == 0 {
				depth = matrix.MaxDepth
			}
			raws = append(raws, c.orphan(room, i+j, depth, "x"))
		}
		before := cpu()
		in := b.ingest(c, room, raws...)
		last = cpu() - before
		if len(in.Stored) > 0 || in.Bad > 0 || len(in.Missing[room]) > 50*maxAwaited {
			t.Fatalf("%d stored, %d bad, %d asked for", len(in.Stored), in.Bad, len(in.Missing[room]))
		}
	}
	n, size, awaited := b.parkedRows(t)
	t.Logf("%d events with %d parents that do not exist: %d wait, %d bytes, %d rows of what they wait for; the last fifty took %v", events, events*matrix.MaxPrev, n, size, awaited, last)
	if n > maxPendingPeer || awaited > maxPendingPeer*maxAwaited {
		t.Errorf("%d events wait, %d rows", n, awaited)
	}
	goOn(t, a, b, room)
}

// Events of 64 KiB that wait are bounded by their bytes; those that are allowed are kept as any, and not in memory.
func TestLargeEventsAreBoundedInMemory(t *testing.T) {
	a, b, c, room := trio(t)
	large := strings.Repeat("x", 64_000)
	for i := range maxPendingPeerSize/64_000 + 50 {
		b.ingest(c, room, c.orphan(room, i, 9, large))
	}
	n, size, _ := b.parkedRows(t)
	if size > maxPendingPeerSize*21/20 || size < maxPendingPeerSize*3/4 {
		t.Errorf("%d large events wait, %d bytes", n, size)
	}
	goOn(t, a, b, room)

	kv, _ := badger(t)
	d := playOn(t, 4, kv)
	d.meet(a)
	d.meet(b)
	d.meet(c)
	a.member(room, a.user, d.user, matrix.MemberInvite)
	a.post(d)
	d.member(room, d.user, d.user, matrix.MemberJoin)
	for _, p := range []*player{a, b, c} {
		p.give(d, room, must(p.Heads(room))...)
	}
	events := 100
	if os.Getenv("TARN_FULL") != "" {
		events = 3000
	}
	state, heads := d.current(room)
	before := heapNow()
	for i := range events {
		p := matrix.Proto{Room: room, Sender: c.user, Type: matrix.TypeMessage, Content: body(fmt.Sprint(i, large)), PrevEvents: heads, Depth: int64(1000 + i), Time: time.UnixMilli(1)}
		p.AuthEvents = dag.AuthEvents("12", state, p)
		ev, err := matrix.Build("12", p, c.s.Signer)
		if err != nil {
			t.Fatal(err)
		}
		if in := d.ingest(c, room, ev.Raw()); len(in.Stored) != 1 {
			t.Fatalf("event %d: %+v", i, in)
		}
		heads = []matrix.EventID{ev.ID()}
	}
	grown := heapNow() - before
	t.Logf("%d events of 64 KB: the heap grew by %.1f MiB", events, grown)
	if grown > 64 { // the caches, and what Badger holds until it is on the disk
		t.Errorf("the heap grew by %.0f MiB", grown)
	}
	a.give(d, room, must(a.Heads(room))...)
	d.say(room, "still here")
}

func heapNow() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// A member leans each event on the one before it, and then forks: what one event costs the others grows with the chain, so little that
// a box of such events is worked off long before the next one comes.
func TestADeepAuthChainCostsLittle(t *testing.T) {
	a, b, c, room := trio(t)
	depth := 1000
	if os.Getenv("TARN_FULL") != "" {
		depth = 5000
	}
	name := func(i string) json.RawMessage {
		return object(map[string]string{"membership": matrix.MemberJoin, "displayname": i})
	}
	var ids []matrix.EventID
	for i := range depth {
		ids = append(ids, c.set(room, matrix.TypeMember, string(c.user), map[string]string{"membership": matrix.MemberJoin, "displayname": fmt.Sprint(i)}))
	}
	for some := range slices.Chunk(ids, 100) {
		var raws [][]byte
		for _, id := range some {
			raws = append(raws, c.raw(room, id))
		}
		if in := b.ingest(c, room, raws...); len(in.Stored) != len(some) {
			t.Fatalf("%+v", in)
		}
	}
	b.open()
	state, _ := c.current(room)
	was := state.With(matrix.StateKey{Type: matrix.TypeMember, Key: string(c.user)}, ids[depth-2])
	before := cpu()
	const forks = 20
	for i := range forks {
		p := matrix.Proto{Room: room, Sender: c.user, Type: matrix.TypeMember, StateKey: new(string), Content: name(fmt.Sprint("fork ", i)), PrevEvents: []matrix.EventID{ids[depth-2]},
			Depth: 50, Time: time.UnixMilli(int64(i))}
		*p.StateKey = string(c.user)
		p.AuthEvents = dag.AuthEvents("12", was, p)
		ev, err := matrix.Build("12", p, c.s.Signer)
		if err != nil {
			t.Fatal(err)
		}
		if in := b.ingest(c, room, ev.Raw()); len(in.Stored) != 1 {
			t.Fatalf("fork %d: %+v", i, in)
		}
	}
	each := (cpu() - before) / forks
	t.Logf("a chain of %d: %v of CPU for each event beside its end", depth, each)
	if each > 200*time.Millisecond {
		t.Errorf("%v for an event", each)
	}
	a.give(b, room, must(a.Heads(room))...)
	b.say(room, "still here")
}
