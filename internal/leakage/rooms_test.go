// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// rooms is a node's room data: a room a contact, whose events are a chain of nothing. What people send is as large as an
// encrypted message is, and does not compress.
type rooms struct {
	self onionid.Name
	kv   store.KV
	read func(matrix.EventID) // an event that is new here

	mu     sync.Mutex
	events map[matrix.EventID][]byte
	in     map[matrix.RoomID][]matrix.EventID
	sent   int
}

func newRooms(self onionid.Name, kv store.KV, read func(matrix.EventID)) *rooms {
	return &rooms{self: self, kv: kv, read: read, events: map[matrix.EventID][]byte{}, in: map[matrix.RoomID][]matrix.EventID{}}
}

// roomOf is the room of two nodes: both know its name.
func roomOf(a, b onionid.Name) matrix.RoomID {
	return matrix.RoomID("!" + min(string(a), string(b))[:24] + max(string(a), string(b))[:24])
}

type event struct {
	ID     matrix.EventID `json:"event_id"`
	Room   matrix.RoomID  `json:"room_id"`
	Sender string         `json:"sender"`
	Body   string         `json:"body"`
}

// eventBytes is a message's ciphertext: an encrypted event of a short text is some 700 bytes.
const eventBytes = 500

// next is the name of the event that send makes next.
func (r *rooms) next() matrix.EventID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.name(r.sent + 1)
}

func (r *rooms) name(n int) matrix.EventID {
	return matrix.EventID(fmt.Sprintf("$%.20s-%d", r.self, n))
}

// send makes a message and queues it for the peer, in one Update, as package room does.
func (r *rooms) send(t testing.TB, peer onionid.Name) matrix.EventID {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	body := make([]byte, eventBytes)
	rand.Read(body)
	ev := event{ID: r.name(r.sent), Room: roomOf(r.self, peer), Sender: "@u:" + string(r.self),
		Body: base64.StdEncoding.EncodeToString(body)}
	raw, err := json.Marshal(ev)
	if err != nil {
		t.Error(err)
	}
	r.events[ev.ID] = raw
	r.in[ev.Room] = append(r.in[ev.Room], ev.ID)
	if err := r.kv.Update(func(txn store.Txn) error {
		return store.Enqueue(txn, string(peer), store.ItemEvent, []byte(string(ev.Room)+"\x00"+string(ev.ID)))
	}); err != nil {
		t.Error(err)
	}
	return ev.ID
}

func (r *rooms) RawFor(_ matrix.ServerName, _ matrix.RoomID, id matrix.EventID) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if raw, ok := r.events[id]; ok {
		return raw, nil
	}
	return nil, room.ErrUnknownEvent
}

func (r *rooms) Lacks(_ matrix.RoomID, id matrix.EventID) (bool, error) {
	_, err := r.RawFor("", "", id)
	return err != nil, nil
}

// Heads is the newest event.
func (r *rooms) Heads(id matrix.RoomID) ([]matrix.EventID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.in[id]); n > 0 {
		return r.in[id][n-1:], nil
	}
	return nil, nil
}

func (r *rooms) Shared(server matrix.ServerName) ([]matrix.RoomID, error) {
	return []matrix.RoomID{roomOf(r.self, onionid.Name(server))}, nil
}

// Sharers: nobody here has keys to tell of.
func (r *rooms) Sharers(matrix.ServerName) ([]matrix.UserID, error) { return nil, nil }

func (r *rooms) Memberships() uint64 { return 0 }

// The nodes of these worlds are all contacts.
func (r *rooms) SetPeers(map[matrix.ServerName]room.Peer) {}

func (r *rooms) Fellows(matrix.ServerName) ([]matrix.ServerName, error) { return nil, nil }

func (r *rooms) Strangers(bool) (map[matrix.ServerName]*room.Stranger, map[matrix.RoomID]int, error) {
	return nil, nil, nil
}

func (r *rooms) Companions() (map[matrix.ServerName]bool, error) { return nil, nil }

func (r *rooms) Meet(bool, ...matrix.ServerName) (bool, error) { return false, nil }

func (r *rooms) Snapshot(matrix.RoomID, matrix.EventID) (*room.Snapshot, error) {
	return nil, room.ErrUnknownRoom
}

func (r *rooms) Ingest(_ context.Context, _ matrix.ServerName, id matrix.RoomID, events [][]byte) (room.Ingested, error) {
	var out room.Ingested
	r.mu.Lock()
	for _, raw := range events {
		var ev event
		if json.Unmarshal(raw, &ev) != nil || !strings.HasPrefix(string(ev.ID), "$") || ev.Room != id {
			out.Bad++
			continue
		}
		if r.events[ev.ID] == nil {
			r.events[ev.ID] = raw
			r.in[id] = append(r.in[id], ev.ID)
			out.Stored = append(out.Stored, ev.ID)
		}
	}
	r.mu.Unlock()
	for _, ev := range out.Stored {
		r.read(ev)
	}
	return out, nil
}

func (r *rooms) IngestSnapshot(context.Context, matrix.ServerName, *room.Snapshot) error { return nil }

func (r *rooms) TakeQuestion(matrix.ServerName, room.Ask) error { return nil }

func (r *rooms) TakeAnswer(context.Context, matrix.ServerName, room.Answer) error { return nil }

func (r *rooms) PackAnswer(matrix.ServerName, []byte) (room.Answer, error) {
	return room.Answer{}, nil
}

func (r *rooms) Without(context.Context, matrix.RoomID, []matrix.EventID) (room.Ingested, error) {
	return room.Ingested{}, nil
}

func (r *rooms) Tend(time.Time, time.Duration) error { return nil }

func (r *rooms) IngestReceipts(matrix.ServerName, matrix.RoomID, []room.Receipt) error { return nil }

func (r *rooms) AddCertificate(onionid.Certificate) error { return nil }

func (r *rooms) Certificate(matrix.ServerName) (onionid.Certificate, bool, error) {
	return onionid.Certificate{}, false, nil
}
