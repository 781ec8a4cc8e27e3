// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package load

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	jsonv2 "encoding/json/v2"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// What rooms cost between nodes: no HTTP, no mailbox; package room on Badger, as a node has it, beside what must be done at least.

// cost is what something took.
type cost struct {
	cpu, wall time.Duration
	peak      float64 // MiB in use beyond those of before, at most, as the collector found it
	taken     float64 // MiB of memory asked for, all told
}

// spend measures fn.
func spend(fn func()) (c cost) {
	const live, taken = "/gc/heap/live:bytes", "/gc/heap/allocs:bytes"
	read := func(name string) float64 {
		s := []metrics.Sample{{Name: name}}
		metrics.Read(s)
		return float64(s[0].Value.Uint64()) / (1 << 20)
	}
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			panic(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	runtime.GC()
	var watching sync.WaitGroup
	done := make(chan struct{})
	before, asked := read(live), read(taken)
	watching.Go(func() {
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			c.peak = max(c.peak, read(live)-before)
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	})
	cpu, wall := used(), time.Now()
	fn()
	c.cpu, c.wall = used()-cpu, time.Since(wall)
	runtime.GC()
	close(done)
	watching.Wait()
	c.taken = read(taken) - asked
	return c
}

// home is a node's rooms.
type home struct {
	*room.Rooms
	dagtest.Server
	user matrix.UserID
}

func newHome(t testing.TB, n int, kv store.KV) *home {
	t.Helper()
	s := dagtest.NewServer(n)
	stream, err := store.OpenStream(kv)
	if err != nil {
		t.Fatal(err)
	}
	rooms, err := room.Open(kv, stream, room.Options{Signer: s.Signer, Certificate: certify(s)})
	if err != nil {
		t.Fatal(err)
	}
	return &home{Rooms: rooms, Server: s, user: s.User("u").ID}
}

func certify(s dagtest.Server) onionid.Certificate {
	return onionid.Certify(s.Onion, s.Key.Public().(ed25519.PublicKey))
}

// must is a value that there is.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var ctx = context.Background()

// take gives events to a home as a contact would, some forty at a time.
func (h *home) take(from matrix.ServerName, room matrix.RoomID, raws ...[]byte) (stored int) {
	for some := range slices.Chunk(raws, 40) {
		in := must(h.Ingest(ctx, from, room, some))
		if in.Bad > 0 || len(in.Unknown) > 0 {
			panic(fmt.Sprintf("refused: %+v", in))
		}
		stored += len(in.Stored)
	}
	return stored
}

// raw is an event's bytes.
func (h *home) raw(room matrix.RoomID, id matrix.EventID) []byte { return must(h.Raw(room, id)) }

// enter makes a home a member of a room by an invite with a snapshot; raws are the two events.
func (h *home) enter(at matrix.RoomID, by *home) (raws [][]byte) {
	invite := must(by.SetMembership(ctx, at, by.user, h.user, matrix.MemberInvite, "", false))
	if err := h.IngestSnapshot(ctx, by.Server.Server, must(by.Snapshot(at, invite))); err != nil {
		panic(err)
	}
	join := h.raw(at, must(h.SetMembership(ctx, at, h.user, h.user, matrix.MemberJoin, "", false)))
	if err := by.AddCertificate(certify(h.Server)); err != nil {
		panic(err)
	}
	by.take(h.Server.Server, at, join)
	return [][]byte{by.raw(at, invite), join}
}

// crowded is a public room of the home's with a user of each of n other servers in it, who joined by themselves.
func (h *home) crowded(n int) matrix.RoomID {
	at := must(h.Create(ctx, room.Create{Creator: h.user, Preset: "public_chat"}))
	state := dag.State{}
	for _, ev := range must(h.State(h.user, at)) {
		k, _ := ev.Slot()
		state[k] = ev.ID()
	}
	heads := must(h.Heads(at))
	for i := range n {
		s := dagtest.NewServer(1000 + i)
		u := s.User(fmt.Sprintf("member%d", i)).ID
		if err := h.AddCertificate(certify(s)); err != nil {
			panic(err)
		}
		p := matrix.Proto{Room: at, Sender: u, Type: matrix.TypeMember, StateKey: dagtest.Key(string(u)), PrevEvents: heads, Depth: int64(100 + i), Time: time.Now(),
			Content: json.RawMessage(fmt.Sprintf(`{"displayname":"Member %d","membership":"join"}`, i))}
		p.AuthEvents = dag.AuthEvents("12", state, p)
		ev := must(matrix.Build("12", p, s.Signer))
		h.take(s.Server, at, ev.Raw())
		heads = []matrix.EventID{ev.ID()}
	}
	return at
}

// rows are those of the table: what is measured, ours, and what it stands beside.
type rows [][3]string

func (r *rows) put(what, ours, beside string) { *r = append(*r, [3]string{what, ours, beside}) }

func rate(n int, d time.Duration) string { return number(float64(n)/d.Seconds()) + " /s" }

// least is the cheapest of some goes: the machine is shared, and others only make things worse.
func least(goes int, fn func() cost) cost {
	best := fn()
	for range goes - 1 {
		if c := fn(); c.cpu < best.cpu {
			best = c
		}
	}
	return best
}

// importing measures a long room that comes from a peer.
func (r *rows) importing(t *testing.T, goes, events int) (raws [][]byte, at matrix.RoomID) {
	a := newHome(t, 1, store.OpenMemory())
	at = must(a.Create(ctx, room.Create{Creator: a.user}))
	var homes []*home
	for i := range 2 * goes {
		kv := store.OpenMemory()
		if i%2 == 1 {
			kv = must(store.OpenBadger(filepath.Join(t.TempDir(), "db"), store.Options{}))
			t.Cleanup(func() { kv.Close() })
		}
		h := newHome(t, 2+i, kv)
		entered := h.enter(at, a)
		for _, o := range homes {
			if err := o.AddCertificate(certify(h.Server)); err != nil {
				t.Fatal(err)
			}
			o.take(a.Server.Server, at, entered...)
		}
		homes = append(homes, h)
	}
	for i := range events {
		raws = append(raws, a.raw(at, must(a.Send(ctx, room.NewEvent{Room: at, Sender: a.user, Type: matrix.TypeMessage,
			Content: json.RawMessage(fmt.Sprintf(`{"body":"forty characters of a message, no %06d","msgtype":"m.text"}`, i))}))))
	}
	alone := least(goes, func() cost { return spend(func() { verifyAll(t, raws, a.Server) }) })
	signatures := least(goes, func() cost {
		public, signed := a.Key.Public().(ed25519.PublicKey), ed25519.Sign(a.Key, raws[0])
		return spend(func() {
			for range raws {
				if !ed25519.Verify(public, raws[0], signed) {
					t.Fatal("a signature")
				}
			}
		})
	})
	i := -2
	take := func() cost {
		i += 2
		c := spend(func() {
			if n := homes[i].take(a.Server.Server, at, raws...); n != events {
				t.Fatalf("%d events were stored", n)
			}
		})
		if !slices.Equal(must(homes[i].Heads(at)), must(a.Heads(at))) {
			t.Fatal("other heads")
		}
		return c
	}
	memory := least(goes, take)
	i = -1
	disk := least(goes, take)
	n := number(float64(events))
	r.put("a room of "+n+" events from a peer, on Badger: events a second and core", rate(events, disk.cpu),
		rate(events, alone.cpu)+" to parse, verify and authorise alone (the Matrix library); "+rate(events, signatures.cpu)+" signatures")
	r.put("the same: in all; memory at most", ms3(disk.wall)+"; "+number(disk.peak)+" MiB", "")
	r.put("the same, with a store in memory: events a second and core", rate(events, memory.cpu), "")
	return raws, at
}

func ms3(d time.Duration) string { return number(float64(d)/float64(time.Millisecond)) + " ms" }

// verifyAll is what the Matrix library must do at least for each event of a line of them.
func verifyAll(t *testing.T, raws [][]byte, by dagtest.Server) {
	key := func(string, id.KeyID, time.Time) (id.SigningKey, time.Time, error) {
		return id.SigningKey(base64.RawStdEncoding.EncodeToString(by.Key.Public().(ed25519.PublicKey))), time.UnixMilli(matrix.MaxDepth), nil
	}
	// By its own auth events: they are the same for all.
	b := must(dagtest.NewBranch("12", by.User("u"), nil))
	b.Must(by.User("u"), matrix.TypePowerLevels, dagtest.Key(""), `{"users":{}}`)
	held := map[id.EventID]*pdu.PDU{}
	for _, ev := range *b.Ord {
		held[ev.ID()] = ev.PDU()
	}
	given := []*pdu.PDU{(*b.Ord)[1].PDU(), (*b.Ord)[2].PDU()}
	get := func(ids []id.EventID) ([]*pdu.PDU, error) { return []*pdu.PDU{(*b.Ord)[0].PDU()}, nil }
	for _, raw := range raws {
		p := new(pdu.PDU)
		if err := jsonv2.Unmarshal(raw, p); err != nil {
			t.Fatal(err)
		}
		if !p.VerifyContentHash() {
			t.Fatal("hash")
		}
		if _, err := p.GetEventID("12"); err != nil {
			t.Fatal(err)
		}
		if err := p.VerifySignature("12", p.Sender.Homeserver(), key); err != nil {
			t.Fatal(err)
		}
		if err := eventauth.Authorize("12", p, given, get, key); err != nil {
			t.Fatal(err)
		}
	}
}

// joining measures a room of many servers that is joined by a snapshot.
func (r *rows) joining(t *testing.T, goes, members int) {
	a := newHome(t, 1, store.OpenMemory())
	at := a.crowded(members)
	n := 1
	var record bundle.Record
	made := cost{cpu: time.Hour}
	join := least(goes, func() cost {
		n++
		kv := must(store.OpenBadger(filepath.Join(t.TempDir(), "db"), store.Options{}))
		defer kv.Close()
		h := newHome(t, n, kv)
		invite := must(a.SetMembership(ctx, at, a.user, h.user, matrix.MemberInvite, "", false))
		var s *room.Snapshot
		c := spend(func() {
			s = must(a.Snapshot(at, invite))
			record = must(bundle.Snapshot{Room: s.Room, Version: s.Version, Event: s.Event, Heads: s.Heads, Events: s.Events, State: s.State, Certificates: s.Certificates}.Record())
		})
		if c.cpu < made.cpu {
			made = c
		}
		return spend(func() {
			if err := h.IngestSnapshot(ctx, a.Server.Server, s); err != nil {
				t.Fatal(err)
			}
			must(h.SetMembership(ctx, at, h.user, h.user, matrix.MemberJoin, "", false))
			if got := len(must(h.Members(h.user, at, 0))); got < members {
				t.Fatalf("%d members", got)
			}
		})
	})
	m := number(float64(members))
	r.put("joining a room of "+m+" members of as many servers, on Badger: CPU; in all", ms3(join.cpu)+"; "+ms3(join.wall), ms3(time.Duration(members)*2*60*time.Microsecond)+" for two signatures a member, at 60 µs")
	r.put("the same: memory at most; asked for", number(join.peak)+" MiB; "+number(join.taken)+" MiB", "")
	r.put("its snapshot: made in CPU; bytes of a record; boxes", ms3(made.cpu)+"; "+number(float64(len(record.Data)))+"; "+number(float64(boxes(t, record))),
		number(bundle.MaxRecord)+" bytes at most; "+number(float64(len(record.Data))/mailbox.BoxSize)+" boxes uncompressed")
}

// boxes is how many a record takes, alone in them.
func boxes(t *testing.T, rec bundle.Record) (n int) {
	p, empty := bundle.NewPacker(bundle.Head{}), true
	for _, f := range must(bundle.Split(rec, [16]byte{1})) {
		if !p.AddFragment(f) {
			n++
			if p = bundle.NewPacker(bundle.Head{}); !p.AddFragment(f) {
				t.Fatal("a fragment fits no box")
			}
		}
		empty = false
	}
	if !empty {
		n++
	}
	return n
}

// resolving measures state resolution: n conflicted events on two branches.
func (r *rows) resolving(t *testing.T, goes, n int) {
	s := []dagtest.Server{dagtest.NewServer(1), dagtest.NewServer(2), dagtest.NewServer(3)}
	alice, bob := s[0].User("alice"), s[1].User("bob")
	for _, x := range []struct {
		what string
		act  func(a, b *dagtest.Branch, u dagtest.User)
	}{
		{"members' names", func(a, b *dagtest.Branch, u dagtest.User) {
			a.Must(u, matrix.TypeMember, dagtest.Key(string(u.ID)), `{"membership":"join","displayname":"a"}`)
			b.Must(u, matrix.TypeMember, dagtest.Key(string(u.ID)), `{"membership":"join","displayname":"b"}`)
		}},
		{"bans and kicks", func(a, b *dagtest.Branch, u dagtest.User) {
			must(a.Member(alice, u, matrix.MemberBan))
			must(b.Member(bob, u, matrix.MemberLeave))
		}},
	} {
		var worst time.Duration
		best := least(goes, func() cost {
			root := must(dagtest.NewBranch("12", alice, nil))
			root.Must(alice, matrix.TypePowerLevels, dagtest.Key(""), map[string]any{"users": map[matrix.UserID]int{bob.ID: 100}})
			root.Must(alice, matrix.TypeJoinRules, dagtest.Key(""), `{"join_rule":"public"}`)
			root.Join(bob)
			root = root.Unchecked()
			users := make([]dagtest.User, n/2)
			for i := range users {
				users[i] = s[i%3].User(fmt.Sprint("u", i))
				root.Join(users[i])
			}
			side := root.Fork()
			for _, u := range users {
				x.act(root, side, u)
			}
			for _, ev := range *root.Ord {
				ev.Compact() // as read from the disk
			}
			c := spend(func() { must(dag.Resolve(root.View, "12", []dag.State{root.Room.Current, side.Room.Current})) })
			worst = max(worst, c.cpu)
			return c
		})
		r.put(fmt.Sprintf("resolving %s conflicted %s (version 12): CPU; memory asked for", number(float64(n)), x.what), ms3(best.cpu)+"; "+number(best.taken)+" MiB", ms3(worst)+" at worst")
	}
}

// boxing measures what goes on the wire.
func (r *rows) boxing(t *testing.T, at matrix.RoomID, raws [][]byte) {
	encrypted := func(int) []byte {
		noise := make([]byte, 330)
		rand.Read(noise)
		key := make([]byte, 32)
		rand.Read(key)
		s := dagtest.NewServer(1)
		p := matrix.Proto{Room: at, Sender: s.User("u").ID, Type: matrix.TypeEncrypted, Time: time.Now(), Depth: 10, PrevEvents: []matrix.EventID{eventID()}, AuthEvents: []matrix.EventID{eventID(), eventID(), eventID()},
			Content: json.RawMessage(fmt.Sprintf(`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":%q,"device_id":"ABCDEFGHIJ","sender_key":%q,"session_id":%q}`,
				base64.RawStdEncoding.EncodeToString(noise), base64.RawStdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key)))}
		return must(matrix.Build("12", p, s.Signer)).Raw()
	}
	for _, x := range []struct {
		what string
		next func(i int) []byte
	}{{"messages of 40 characters", func(i int) []byte { return raws[i] }}, {"encrypted messages", encrypted}} {
		var some [][]byte
		size := 0
		for n := 1; ; n++ {
			ev := x.next(n)
			p := bundle.NewPacker(bundle.Head{})
			if !p.Add(must(bundle.Events{Room: at, Version: "12", Raw: append(some, ev)}.Record())) {
				break
			}
			some, size = append(some, ev), size+len(ev)
		}
		n := float64(len(some))
		r.put(x.what+": events in a full box; bytes of box an event", number(n)+"; "+number(mailbox.BoxSize/n), number(float64(size)/n)+" bytes as they are signed")
	}
	r.put("a message alone: boxes; bytes of box", number(1)+"; "+number(mailbox.BoxSize), "every box has that size, full or not")
	large := must(bundle.Events{Room: at, Version: "12", Raw: [][]byte{append(append([]byte(`{"x":"`), []byte(noise(65_000))...), `"}`...)}}.Record())
	r.put("the largest event (64 KiB of noise): boxes", number(float64(boxes(t, large))), number(65_536.0/mailbox.BoxSize)+" boxes uncompressed")
}

func noise(n int) string {
	b := make([]byte, n*3/4)
	rand.Read(b)
	return base64.RawStdEncoding.EncodeToString(b)
}

func eventID() matrix.EventID {
	b := make([]byte, 32)
	rand.Read(b)
	return matrix.EventID("$" + base64.RawURLEncoding.EncodeToString(b))
}

// The marks of the second table.
const (
	betweenBegins = "<!-- figures of rooms: made by `make figures`, do not edit -->\n"
	betweenEnds   = "<!-- end of the figures of rooms -->\n"
)

// TestFiguresOfRooms is the other half of `make figures`: what rooms cost between nodes. Without the variable it is run small, so that it goes on working.
func TestFiguresOfRooms(t *testing.T) {
	repo := os.Getenv("TARN_FIGURES")
	goes, events, members, conflicted := 3, 10_000, []int{1000, 1900}, []int{1000, 10_000}
	if repo == "" {
		goes, events, members, conflicted = 1, 100, []int{10}, []int{20}
	}
	var r rows
	raws, at := r.importing(t, goes, events)
	for _, n := range members {
		r.joining(t, goes, n)
	}
	for _, n := range conflicted {
		r.resolving(t, goes, n)
	}
	r.boxing(t, at, raws)
	text := fmt.Sprintf("%s, %s; the cheapest of %d goes.\n\n| | ours | beside |\n|---|--:|---|\n", time.Now().UTC().Format(time.DateOnly), machine(), goes)
	for _, row := range r {
		text += "| " + strings.Join(row[:], " | ") + " |\n"
	}
	if repo == "" {
		return
	}
	fmt.Println(text)
	file := filepath.Join(repo, "docs", "operating.md")
	before, rest, ok1 := strings.Cut(string(must(os.ReadFile(file))), betweenBegins)
	_, after, ok2 := strings.Cut(rest, betweenEnds)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no marks for the figures of rooms", file)
	}
	if err := os.WriteFile(file, []byte(before+betweenBegins+text+betweenEnds+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
