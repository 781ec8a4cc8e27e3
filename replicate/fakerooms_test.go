// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
	"tarn/store/storetest"
)

// fakeRooms is a graph of events for each room: what is stored survives a restart of the engine.
type fakeRooms struct {
	self onionid.Name
	kv   func() store.KV

	mu       sync.Mutex
	events   map[matrix.RoomID]map[matrix.EventID][]byte
	order    []matrix.EventID // as they became part of a room
	waiting  map[matrix.EventID][]byte
	heads    map[matrix.RoomID][]matrix.EventID
	members  map[matrix.RoomID][]onionid.Name
	certs    map[onionid.Name]onionid.Certificate
	ingested map[matrix.EventID]int // deliveries
	receipts int
	sharers  func()                       // called by Sharers
	fail     error                        // of Ingest
	costs    func(from matrix.ServerName) // called by Ingest
	needCert bool

	without   []matrix.EventID // that nobody gave
	encrypted map[matrix.RoomID]bool
	peers     map[matrix.ServerName]room.Peer
	changed   uint64
}

func newFakeRooms(self onionid.Name) *fakeRooms {
	return &fakeRooms{self: self, events: map[matrix.RoomID]map[matrix.EventID][]byte{}, waiting: map[matrix.EventID][]byte{},
		heads: map[matrix.RoomID][]matrix.EventID{}, members: map[matrix.RoomID][]onionid.Name{},
		certs: map[onionid.Name]onionid.Certificate{}, ingested: map[matrix.EventID]int{}}
}

type fakeEvent struct {
	ID     matrix.EventID   `json:"event_id"`
	Room   matrix.RoomID    `json:"room_id"`
	Sender string           `json:"sender"`
	Prev   []matrix.EventID `json:"prev_events"`
	Body   string           `json:"body"`
}

// join makes a room known, with its members.
func (f *fakeRooms) join(id matrix.RoomID, members ...onionid.Name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.events[id] == nil {
		f.events[id] = map[matrix.EventID][]byte{}
	}
	f.members[id] = members
	f.changed++
}

// encrypt is join of an encrypted room.
func (f *fakeRooms) encrypt(id matrix.RoomID, members ...onionid.Name) {
	f.join(id, members...)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.encrypted == nil {
		f.encrypted = map[matrix.RoomID]bool{}
	}
	f.encrypted[id] = true
}

// send makes an event and queues it for every other member, in one Update, as package room does.
func (f *fakeRooms) send(t testing.TB, id matrix.RoomID, body string) matrix.EventID {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	ev := fakeEvent{Room: id, Sender: "@u:" + string(f.self), Prev: slices.Clone(f.heads[id]), Body: body}
	sum := sha256.Sum256([]byte(fmt.Sprint(ev)))
	ev.ID = matrix.EventID(fmt.Sprintf("$%x", sum[:16]))
	raw, err := json.Marshal(ev)
	if err != nil {
		t.Fatal(err)
	}
	err = f.kv().Update(func(txn store.Txn) error {
		for _, m := range f.members[id] {
			if m != f.self {
				if err := store.Enqueue(txn, string(m), store.ItemEvent, []byte(string(id)+"\x00"+string(ev.ID))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, storetest.ErrDied) {
			return ""
		}
		t.Fatal(err)
	}
	f.insert(ev, raw)
	return ev.ID
}

func (f *fakeRooms) insert(ev fakeEvent, raw []byte) {
	f.events[ev.Room][ev.ID] = raw
	f.order = append(f.order, ev.ID)
	f.heads[ev.Room] = append(slices.DeleteFunc(f.heads[ev.Room], func(h matrix.EventID) bool { return slices.Contains(ev.Prev, h) }), ev.ID)
}

func (f *fakeRooms) RawFor(server matrix.ServerName, id matrix.RoomID, ev matrix.EventID) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, ok := f.events[id][ev]
	if !ok || !slices.Contains(f.members[id], server) {
		return nil, room.ErrUnknownEvent
	}
	return raw, nil
}

func (f *fakeRooms) Lacks(id matrix.RoomID, ev matrix.EventID) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.events[id][ev]
	return !ok, nil
}

func (f *fakeRooms) Heads(id matrix.RoomID) ([]matrix.EventID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.heads[id]), nil
}

func (f *fakeRooms) Shared(server matrix.ServerName) (out []matrix.RoomID, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, ms := range f.members {
		if slices.Contains(ms, server) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Sharers: the nodes of the plays have no users with keys.
func (f *fakeRooms) Sharers(matrix.ServerName) ([]matrix.UserID, error) {
	f.mu.Lock()
	called := f.sharers
	f.mu.Unlock()
	if called != nil {
		called()
	}
	return nil, nil
}

func (f *fakeRooms) Memberships() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// The nodes of the plays do not pass on what others wrote (internal/e2e has nodes that do), and say whose events they get only of rooms that are encrypted.
func (f *fakeRooms) SetPeers(peers map[matrix.ServerName]room.Peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers = peers
}

func (f *fakeRooms) Fellows(server matrix.ServerName) (out []matrix.ServerName, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.members {
		if !slices.Contains(f.members[id], server) {
			continue
		}
		for _, m := range f.members[id] {
			if m != f.self && m != server && !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out, nil
}

func (f *fakeRooms) Strangers(all bool) (map[matrix.ServerName]*room.Stranger, map[matrix.RoomID]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out, lack, wanted := map[matrix.ServerName]*room.Stranger{}, map[matrix.RoomID]int{}, map[matrix.ServerName]bool{}
	for id, members := range f.members {
		contacts := slices.DeleteFunc(slices.Clone(members), func(s matrix.ServerName) bool { _, contact := f.peers[s]; return !contact })
		thin := !all && !f.encrypted[id]
		if thin && len(contacts) >= room.EnoughContacts || !slices.Contains(members, f.self) {
			continue
		}
		if thin {
			lack[id] = room.EnoughContacts - len(contacts)
		}
		for _, s := range members {
			if slices.Contains(contacts, s) || s == f.self {
				continue
			}
			if out[s] == nil {
				out[s] = &room.Stranger{}
			}
			if !thin {
				wanted[s] = true
			} else {
				out[s].Thin = append(out[s].Thin, id)
			}
			for _, c := range contacts {
				if f.peers[c].Sources[s] && !slices.Contains(out[s].By, c) {
					out[s].By = append(out[s].By, c)
				}
			}
		}
	}
	for s := range wanted {
		out[s].Thin = nil
	}
	return out, lack, nil
}

func (f *fakeRooms) Companions() (map[matrix.ServerName]bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[matrix.ServerName]bool{}
	for _, members := range f.members {
		for _, m := range members {
			out[m] = out[m] || slices.Contains(members, f.self)
		}
	}
	return out, nil
}

func (f *fakeRooms) Meet(encrypted bool, servers ...matrix.ServerName) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, members := range f.members {
		if (f.encrypted[id] || !encrypted) && slices.Contains(members, f.self) && !slices.ContainsFunc(servers, func(s onionid.Name) bool { return !slices.Contains(members, s) }) {
			return true, nil
		}
	}
	return false, nil
}

func (f *fakeRooms) Snapshot(id matrix.RoomID, ev matrix.EventID) (*room.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, ok := f.events[id][ev]
	if !ok {
		return nil, room.ErrUnknownEvent
	}
	return &room.Snapshot{Room: id, Version: "12", Event: ev, Heads: f.heads[id], Events: [][]byte{raw}}, nil
}

func (f *fakeRooms) Ingest(_ context.Context, from matrix.ServerName, id matrix.RoomID, events [][]byte) (room.Ingested, error) {
	f.mu.Lock()
	costs := f.costs
	f.mu.Unlock()
	if costs != nil {
		costs(from)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var out room.Ingested
	if f.fail != nil {
		return out, f.fail
	}
	if f.events[id] == nil {
		return out, room.ErrUnknownRoom
	}
	for _, raw := range events {
		var ev fakeEvent
		if json.Unmarshal(raw, &ev) != nil || ev.Room != id {
			out.Bad++
			continue
		}
		f.ingested[ev.ID]++
		author := signers(raw)
		if _, ok := f.certs[author[0]]; f.needCert && !ok {
			out.Unknown = append(out.Unknown, author[0])
			continue
		}
		if f.events[id][ev.ID] == nil {
			f.waiting[ev.ID] = raw
		}
	}
	for again := true; again; {
		again = false
		for ev, raw := range f.waiting {
			var e fakeEvent
			_ = json.Unmarshal(raw, &e)
			if !slices.ContainsFunc(e.Prev, func(p matrix.EventID) bool { return f.events[e.Room][p] == nil }) {
				f.insert(e, raw)
				delete(f.waiting, ev)
				out.Stored = append(out.Stored, ev)
				again = true
			}
		}
	}
	out.Missing = map[matrix.RoomID][]matrix.EventID{}
	for _, raw := range f.waiting {
		var e fakeEvent
		_ = json.Unmarshal(raw, &e)
		for _, p := range e.Prev {
			if f.events[e.Room][p] == nil && f.waiting[p] == nil {
				out.Missing[e.Room] = append(out.Missing[e.Room], p)
			}
		}
	}
	return out, nil
}

func (f *fakeRooms) IngestSnapshot(ctx context.Context, from matrix.ServerName, s *room.Snapshot) error {
	f.join(s.Room, from, f.self)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, raw := range s.Events {
		var ev fakeEvent
		if err := json.Unmarshal(raw, &ev); err != nil {
			return room.ErrBadEvent
		}
		f.ingested[ev.ID]++
		if f.events[s.Room][ev.ID] == nil {
			f.insert(ev, raw)
		}
	}
	return nil
}

// Nobody asks for rooms in the plays.
func (f *fakeRooms) TakeQuestion(matrix.ServerName, room.Ask) error { return nil }

func (f *fakeRooms) TakeAnswer(context.Context, matrix.ServerName, room.Answer) error { return nil }

func (f *fakeRooms) PackAnswer(matrix.ServerName, []byte) (room.Answer, error) {
	return room.Answer{}, nil
}

// Without only notes it: here what waits for the parents goes on waiting.
func (f *fakeRooms) Without(_ context.Context, _ matrix.RoomID, ids []matrix.EventID) (room.Ingested, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.without = append(f.without, ids...)
	return room.Ingested{}, nil
}

func (f *fakeRooms) Tend(time.Time, time.Duration) error { return nil }

func (f *fakeRooms) IngestReceipts(from matrix.ServerName, id matrix.RoomID, rs []room.Receipt) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.receipts += len(rs)
	return nil
}

func (f *fakeRooms) AddCertificate(c onionid.Certificate) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.certs[c.Server] = c
	return nil
}

func (f *fakeRooms) Certificate(s matrix.ServerName) (onionid.Certificate, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.certs[s]
	return c, ok, nil
}

// bodies are the texts of a room in the order of their insertion.
func (f *fakeRooms) bodies(id matrix.RoomID) (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range f.order {
		if raw, ok := f.events[id][ev]; ok {
			var e fakeEvent
			_ = json.Unmarshal(raw, &e)
			out = append(out, e.Body)
		}
	}
	return out
}
